//! From a `pip:` section to exact wheels, by `uv`.
//!
//! uv is told of the image's Python by a stand-in for an interpreter, and of conda's packages by
//! stand-in wheels that constraints point at; it answers with a `pylock.toml` (PEP 751), of which
//! the best wheel of each package is taken.

mod failure;
mod installed;
pub mod pylock;
pub mod tags;
pub mod target;
mod uv;

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use pep508_rs::{MarkerEnvironment, PackageName};
use rattler_conda_types::RepoDataRecord;
use reqwest_middleware::ClientWithMiddleware;
use tempfile::TempDir;
use tokio::runtime::Handle;
use url::Url;

use super::LockedWheel;
use crate::{
    digest::{Digest, Hashing},
    error::{Error, Exit, Result},
    machine::Machine,
    report::Reporter,
    spec::PipSection,
    store::Store,
};
use failure::{Context, check_lines, warnings};
use installed::{Installed, installed, stub};
use pylock::{Candidate, Choice};
use tags::Ranking;
use target::Target;
use uv::{OwnIndexes, Uv};

/// What to resolve, and what that takes.
#[derive(Clone, Copy)]
pub struct PipRequest<'a> {
    /// The lines; never empty.
    pub section: &'a PipSection,
    /// The conda packages of the environment, Python among them.
    pub packages: &'a [RepoDataRecord],
    /// The glibc of the image, such as `2.36`.
    pub glibc: &'a str,
    /// What the image runs on.
    pub machine: Machine,
    /// Wheels uploaded later do not count.
    pub exclude_newer: Option<jiff::Timestamp>,
    /// Whether only what is cached may be used.
    pub offline: bool,
    /// Wheels that are kept where the lines allow it.
    pub keep: &'a [LockedWheel],
    /// Packages that are not kept; names that are none of pip's do not matter.
    pub update: &'a [String],
    /// The cache.
    pub store: &'a Store,
    /// The channels' HTTP client.
    pub client: &'a ClientWithMiddleware,
    /// Where downloads run.
    pub runtime: &'a Handle,
    /// Progress.
    pub reporter: &'a Reporter,
}

/// Finds the wheels that the lines need beside the conda packages, by name.
///
/// # Errors
/// When there is no Python or no uv, an index cannot be read, no set of wheels meets the lines,
/// or a line asks for what conda has in another version.
pub fn resolve(request: PipRequest<'_>) -> Result<Vec<LockedWheel>> {
    let target = Target::of(request.packages, request.glibc, request.machine)?;
    let uv = Uv::find()?;
    warn_of_pip_settings(&request);
    let installed = installed(&request)?;
    let context = Context {
        section: request.section,
        target: &target,
        installed: &installed,
        uv: &uv.version,
    };
    check_lines(&context)?;
    request.reporter.step(format!(
        "Resolving pip packages for {} with uv {}",
        target.words(),
        uv.version
    ));
    let (answer, folder) = Run {
        request: &request,
        context: &context,
        uv: &uv,
    }
    .compile()?;
    let ranking = Ranking::of(&target);
    let choices = pylock::parse(&answer, &folder, &ranking, |name| {
        installed.contains_key(name)
    })
    .map_err(|why| {
        Error::environment(format!(
            "uv {} gives an answer that is not understood",
            uv.version
        ))
        .why(why)
    })?;
    choices
        .into_iter()
        .map(|choice| wheel(choice, &request, &target))
        .collect()
}

/// The values of environment markers for the Python among these packages, if there is one.
pub fn markers(packages: &[RepoDataRecord], machine: Machine) -> Option<MarkerEnvironment> {
    // No marker asks for the glibc.
    Target::of(packages, "2.17", machine)
        .and_then(|target| target.markers())
        .ok()
}

/// pip's own settings name indexes too, which uv does not read: better said than wondered about.
fn warn_of_pip_settings(request: &PipRequest<'_>) {
    for (theirs, ours) in [
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
        ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
        ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
    ] {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if set(theirs) && !set(ours) && !request.section.sources.no_index {
            request.reporter.warn(format!(
                "{theirs} is set, but uv resolves the pip packages, and does not read it: set \
                 {ours}, or write the option in the pip section"
            ));
        }
    }
}

/// One run of uv.
struct Run<'a> {
    request: &'a PipRequest<'a>,
    context: &'a Context<'a>,
    uv: &'a Uv,
}

impl Run<'_> {
    /// uv's answer, and the folder that its paths start at.
    fn compile(&self) -> Result<(String, PathBuf)> {
        let folder = private_folder(self.request.store)?;
        let constraints = folder.path().join("constraints.txt");
        let limits = self.constraints()?;
        write_private(&constraints, &limits)?;
        // What is there before, uv takes as the versions to keep.
        let answer = folder.path().join("pylock.toml");
        write_private(&answer, &pylock::preferences(self.request.keep))?;
        let python = self.interpreter()?;
        let mut arguments: Vec<&OsStr> = [
            "pip",
            "compile",
            "-",
            "--format",
            "pylock.toml",
            "--no-header",
            "--only-binary",
            ":all:",
            "--no-config",
            "--no-python-downloads",
            "--color",
            "never",
            "--no-progress",
        ]
        .map(OsStr::new)
        .into();
        arguments.extend([OsStr::new("--python"), python.as_os_str()]);
        // uv warns of an empty file.
        if !limits.trim().is_empty() {
            arguments.extend([OsStr::new("--constraints"), constraints.as_os_str()]);
        }
        arguments.extend([OsStr::new("--output-file"), answer.as_os_str()]);
        let cache = self.request.store.pip_dir().join("uv");
        if std::env::var_os("UV_CACHE_DIR").is_none() {
            arguments.extend([OsStr::new("--cache-dir"), cache.as_os_str()]);
        }
        let options = self.options();
        arguments.extend(options.iter().map(OsStr::new));
        let output = self
            .uv
            .run(&arguments, self.lines()?, folder.path(), self.own_indexes())?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(self.context.error(&stderr));
        }
        self.warn(&stderr);
        let text = fs::read_to_string(&answer)
            .map_err(|e| Error::io("read uv's answer in", &answer, e))?;
        Ok((text, folder.path().to_owned()))
    }

    fn options(&self) -> Vec<String> {
        let request = self.request;
        let mut options = Vec::new();
        if request.section.sources.prereleases {
            options.extend(["--prerelease".to_owned(), "allow".to_owned()]);
        }
        if let Some(date) = request.exclude_newer {
            options.extend(["--exclude-newer".to_owned(), date.to_string()]);
        }
        if request.offline {
            options.push("--offline".to_owned());
        }
        // A conda package's name need not be one of pip's.
        for name in request
            .update
            .iter()
            .filter_map(|n| n.parse::<PackageName>().ok())
        {
            options.extend(["--upgrade-package".to_owned(), name.to_string()]);
        }
        options
    }

    fn own_indexes(&self) -> OwnIndexes {
        let sources = &self.request.section.sources;
        match (sources.no_index, &sources.index_url) {
            (true, _) => OwnIndexes::None,
            (_, Some(_)) => OwnIndexes::More,
            _ => OwnIndexes::All,
        }
    }

    /// The requirements file that uv reads.
    fn lines(&self) -> Result<String> {
        let sources = &self.request.section.sources;
        let mut text = String::new();
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        if let Some(url) = &sources.index_url {
            line(&format!("--index-url {url}"));
        }
        for url in &sources.extra_index_urls {
            line(&format!("--extra-index-url {url}"));
        }
        for place in &sources.find_links {
            // As a URL, a path needs no quotes.
            let url = match place.contains("://") {
                true => place.clone(),
                false => file_url(Path::new(place))?.to_string(),
            };
            line(&format!("--find-links {url}"));
        }
        if sources.no_index {
            line("--no-index");
        }
        for requirement in &self.request.section.requirements {
            line(&requirement.pep508);
        }
        Ok(text)
    }

    /// The section's constraints, and conda's packages in the form that no index can offer
    /// another file for: as URLs.
    fn constraints(&self) -> Result<String> {
        let mut text = String::new();
        for line in &self.request.section.constraints {
            // Two URLs for one package would be an error even where nobody needs it.
            if line.url().is_none() || !self.context.installed.contains_key(line.name()) {
                text.push_str(&line.pep508);
                text.push('\n');
            }
        }
        for (name, Installed { version, .. }) in self.context.installed {
            let (file, bytes) = stub(name, version)?;
            let path = self.request.store.put_pip_file(&file, &bytes, 0o644)?;
            text.push_str(&format!("{name} @ {}\n", file_url(&path)?));
        }
        Ok(text)
    }

    /// The stand-in for the image's Python. Its path says its content: uv remembers interpreters
    /// by path.
    fn interpreter(&self) -> Result<PathBuf> {
        let script = self.context.target.interpreter()?;
        let name = format!("python-{}", Digest::of(script.as_bytes()).hex());
        self.request
            .store
            .put_pip_file(&name, script.as_bytes(), 0o755)
    }

    fn warn(&self, stderr: &str) {
        let stderr = self.request.section.redacted(stderr);
        for warning in warnings(&stderr) {
            let text = self
                .context
                .missing_extra(warning)
                .unwrap_or_else(|| format!("uv: {warning}"));
            self.request.reporter.warn(text);
        }
    }
}

/// The wheel of a choice, its hash known.
fn wheel(choice: Choice, request: &PipRequest<'_>, target: &Target) -> Result<LockedWheel> {
    let name = &choice.name;
    if choice.wheels.is_empty() {
        return Err(
            Error::input(format!("{name} has no wheel for {}", target.words()))
                .hint("take it from conda, or build its wheel once and add --find-links"),
        );
    }
    let pinned = pinned(request.section, name)?;
    for candidate in choice.wheels {
        let sha256 = hash(&candidate)?;
        if pinned.is_empty() || pinned.contains(&sha256) {
            let version = version(&choice.version, &candidate.url);
            return Ok(LockedWheel {
                version: version.ok_or_else(|| {
                    Error::input(format!(
                        "the file name of {name}'s wheel is none of a wheel"
                    ))
                    .at(&candidate.url)
                })?,
                name: choice.name,
                url: candidate.url,
                sha256,
                size: candidate.size,
            });
        }
    }
    let line = request
        .section
        .requirements
        .iter()
        .find(|l| l.name() == name);
    let error = Error::input(format!(
        "no wheel of {name} has a hash that its line allows"
    ))
    .why(format!(
        "the wheels that fit {} have others",
        target.words()
    ))
    .hint("add the wheel's sha256 to the line (pip hash FILE), or remove the hashes");
    Err(match line {
        Some(line) => error.at(line.place()),
        None => error,
    })
}

/// The hashes that the section allows a package.
fn pinned(section: &PipSection, name: &str) -> Result<Vec<Digest>> {
    let lines = section.requirements.iter().chain(&section.constraints);
    let hashes: Vec<Digest> = lines
        .filter(|line| line.name() == name)
        .flat_map(|line| line.hashes.iter().copied())
        .collect();
    if hashes.is_empty() && section.require_hashes {
        return Err(Error::input(format!(
            "{name} has no hash, and --require-hashes asks for one"
        ))
        .hint(format!(
            "add a line '{name}==VERSION --hash=sha256:...', or remove the option"
        )));
    }
    Ok(hashes)
}

fn version(said: &Option<String>, url: &Url) -> Option<String> {
    let name = super::wheel::file_name(url);
    said.clone()
        .or_else(|| name.split('-').nth(1).map(str::to_owned))
}

fn hash(candidate: &Candidate) -> Result<Digest> {
    if let Some(sha256) = candidate.sha256 {
        return Ok(sha256);
    }
    let Ok(path) = candidate.url.to_file_path() else {
        return Err(Error::environment("an index does not say a wheel's sha256")
            .at(&candidate.url)
            .hint("uv 0.12 or newer reads the file to find it: pip install -U uv"));
    };
    let failed = |e: io::Error| Error::io("read", &path, e);
    let mut file = fs::File::open(&path).map_err(failed)?;
    let mut hashing = Hashing::new(io::sink());
    io::copy(&mut file, &mut hashing).map_err(failed)?;
    let (_, digest, _) = hashing.finish();
    Ok(digest)
}

fn file_url(path: &Path) -> Result<Url> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
    Url::from_file_path(&absolute)
        .map_err(|()| Error::new(Exit::Internal, "a path makes no URL").at(absolute.display()))
}

/// A folder that nobody else reads, removed when it is dropped, or by the next run.
fn private_folder(store: &Store) -> Result<TempDir> {
    let dir = store.tmp_dir();
    tempfile::Builder::new()
        .prefix(&format!("{}-", std::process::id()))
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(&dir)
        .map_err(|e| Error::io("write in", &dir, e))
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| Error::io("write", path, e))
}
