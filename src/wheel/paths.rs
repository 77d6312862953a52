//! Where the files of a wheel go: the schemes of `*.data`, and names that are not trusted.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use rattler::install::PythonInfo;
use rattler_conda_types::package::EntryPoint;

use super::{WheelError, zip::Member};

/// Files of `*.dist-info` that are the installer's to write, and signatures of a `RECORD` that is
/// written anew ("Recording installed projects"; a wheel's own are dropped). A `REQUESTED` would
/// say what the layer's other packages asked for, and `direct_url.json` would repeat a URL that
/// may hold a password: neither is written.
const INSTALLERS: [&str; 6] = [
    "INSTALLER",
    "RECORD",
    "RECORD.jws",
    "RECORD.p7s",
    "REQUESTED",
    "direct_url.json",
];

/// What a wheel puts under a prefix.
pub(super) struct Plan<'a> {
    /// Its own files, in archive order.
    pub files: Vec<Placed<'a>>,
    /// The commands to generate, by target.
    pub launchers: BTreeMap<PathBuf, EntryPoint>,
    /// The folder of `INSTALLER` and `RECORD`.
    pub dist_info: PathBuf,
}

/// A file of a wheel and its place.
pub(super) struct Placed<'a> {
    /// The file in the archive.
    pub member: &'a Member,
    /// Its path in the prefix.
    pub target: PathBuf,
    /// Whether it is a script whose first line may name Python.
    pub script: bool,
}

/// What a plan is made from.
pub(super) struct Source<'a> {
    /// The project's normalised name.
    pub project: &'a str,
    /// `NAME-VERSION`, as in the wheel's `NAME-VERSION.dist-info`.
    pub stem: &'a str,
    /// The wheel's files.
    pub members: &'a [Member],
    /// The commands that it asks for.
    pub commands: &'a [EntryPoint],
}

impl<'a> Plan<'a> {
    /// Places every file. A generated command replaces a file of the same path, as in pip.
    pub fn new(source: &Source<'a>, python: &PythonInfo) -> Result<Self, WheelError> {
        let commands = versioned(source.commands, python).into_iter();
        let launchers: BTreeMap<PathBuf, EntryPoint> = commands
            .map(|entry| (python.bin_dir.join(&entry.command), entry))
            .collect();
        let mut files = Vec::with_capacity(source.members.len());
        for member in source.members {
            let Some(placed) = place(source, member, python)? else {
                continue;
            };
            let replaced = placed.script && wraps(&placed.target, &launchers);
            if !replaced && !launchers.contains_key(&placed.target) {
                files.push(placed);
            }
        }
        let dist_info = format!("{}.dist-info", source.stem);
        let plan = Self {
            files,
            launchers,
            dist_info: python.site_packages_path.join(dist_info),
        };
        plan.check()?;
        Ok(plan)
    }

    /// Every path that is written.
    pub fn targets(&self) -> impl Iterator<Item = PathBuf> {
        let files = self.files.iter().map(|placed| placed.target.clone());
        let generated = ["INSTALLER", "RECORD"].map(|name| self.dist_info.join(name));
        files.chain(self.launchers.keys().cloned()).chain(generated)
    }

    fn check(&self) -> Result<(), WheelError> {
        let mut seen = BTreeSet::new();
        for target in self.targets() {
            let plain = |component| matches!(component, Component::Normal(_));
            if !target.components().all(plain) {
                return Err(WheelError(format!(
                    "{} leaves the prefix",
                    target.display()
                )));
            }
            if target.starts_with("conda-meta") {
                return Err(WheelError(format!(
                    "{} is conda's to write",
                    target.display()
                )));
            }
            let shown = target.display().to_string();
            if !seen.insert(target) {
                return Err(WheelError(format!("two of its files become {shown}")));
            }
        }
        let mut ancestors = seen.iter().flat_map(|target| target.ancestors().skip(1));
        match ancestors.find(|ancestor| seen.contains(*ancestor)) {
            Some(path) => Err(WheelError(format!(
                "{} becomes a file and a folder",
                path.display()
            ))),
            None => Ok(()),
        }
    }
}

/// The commands for this Python: `pip` comes as `pip3` and `pip3.11` too, whatever versions were
/// written into its wheel. pip and uv both do this, for this one command.
fn versioned(commands: &[EntryPoint], python: &PythonInfo) -> Vec<EntryPoint> {
    let Some(pip) = commands.iter().find(|entry| entry.command == "pip") else {
        return commands.to_vec();
    };
    let (major, minor) = python.short_version;
    let names = [
        "pip".to_owned(),
        format!("pip{major}"),
        format!("pip{major}.{minor}"),
    ];
    let made = names.map(|command| EntryPoint {
        command,
        ..pip.clone()
    });
    let version = |name: &str| name.chars().all(|c| c.is_ascii_digit() || c == '.');
    let others = commands
        .iter()
        .filter(|entry| !entry.command.strip_prefix("pip").is_some_and(version));
    others.cloned().chain(made).collect()
}

/// Whether a script is what setuptools wrote for a command that is generated here: pip leaves
/// those out.
fn wraps(target: &Path, launchers: &BTreeMap<PathBuf, EntryPoint>) -> bool {
    let Some(path) = target.to_str() else {
        return false;
    };
    [".exe", "-script.py", ".pya"]
        .iter()
        .filter_map(|suffix| path.strip_suffix(suffix))
        .any(|name| launchers.contains_key(Path::new(name)))
}

/// The place of one file; none for those that the installer writes itself.
fn place<'a>(
    source: &Source<'_>,
    member: &'a Member,
    python: &PythonInfo,
) -> Result<Option<Placed<'a>>, WheelError> {
    let (top, rest) = member.name.split_once('/').unwrap_or((&member.name, ""));
    let stem = source.stem;
    if top.strip_suffix(".dist-info") == Some(stem) && INSTALLERS.contains(&rest) {
        return Ok(None);
    }
    let library = &python.site_packages_path;
    let (target, script) = match top.strip_suffix(".data") {
        None => (library.join(&member.name), false),
        Some(data) if data == stem => {
            let (scheme, path) = rest.split_once('/').unwrap_or((rest, ""));
            (
                scheme_folder(scheme, source, python)
                    .filter(|_| !path.is_empty())
                    .ok_or_else(|| WheelError(format!("{} has no place to go to", member.name)))?
                    .join(path),
                scheme == "scripts",
            )
        }
        Some(_) => {
            return Err(WheelError(format!(
                "{} is in the data folder of another wheel: {stem}.data is this one's",
                member.name
            )));
        }
    };
    Ok(Some(Placed {
        member,
        target,
        script,
    }))
}

/// The folder of a `*.data` scheme, as sysconfig has it for a conda Python: `purelib` and
/// `platlib` are one, so that `Root-Is-Purelib` decides nothing.
fn scheme_folder(scheme: &str, source: &Source<'_>, python: &PythonInfo) -> Option<PathBuf> {
    let (major, minor) = python.short_version;
    match scheme {
        "purelib" | "platlib" => Some(python.site_packages_path.clone()),
        "scripts" => Some(python.bin_dir.clone()),
        "data" => Some(PathBuf::new()),
        "headers" => {
            let folder = format!("include/python{major}.{minor}");
            Some(Path::new(&folder).join(source.project))
        }
        _ => None,
    }
}

/// A path from `folder` to `target`, both in the prefix, as `RECORD` has it.
pub(super) fn relative(target: &Path, folder: &Path) -> String {
    let shared = target
        .components()
        .zip(folder.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = folder.components().skip(shared).map(|_| "..".into());
    let down = target.components().skip(shared);
    let down = down.map(|part| part.as_os_str().to_string_lossy().into_owned());
    up.chain(down).collect::<Vec<String>>().join("/")
}

/// Refuses names that are not the same plain relative path for every reader.
pub(super) fn check_name(name: &str) -> Result<(), WheelError> {
    let drive = name.as_bytes().get(1) == Some(&b':');
    let odd = |c: char| c == '\\' || c.is_control();
    let dots = |part: &str| matches!(part, "" | "." | "..");
    if drive || name.contains(odd) || name.split('/').any(dots) {
        return Err(WheelError(format!(
            "the name {name:?} is not a plain relative path"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_relative_paths() {
        for good in ["a", "a/b.py", ".hidden", "a/..b", "ä/b", "a/c:d", "a b"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "", "/a", "a//b", "a/", "./a", "a/.", "..", "a/../b", "C:a", "C:/a", "a\\b", "a\0",
            "a\nb", "a/\u{7f}",
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn records_name_paths_from_site_packages() {
        let site = Path::new("lib/python3.11/site-packages");
        let from = |target: &str| relative(Path::new(target), site);
        assert_eq!(from("lib/python3.11/site-packages/a/b.py"), "a/b.py");
        assert_eq!(from("bin/x"), "../../../bin/x");
        assert_eq!(from("lib/python3.11/x"), "../x");
    }
}
