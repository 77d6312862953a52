//! Installing wheels: against uv's installer, which must give the same files but for the
//! differences named here, and evil wheels, which are refused for the right reason.

mod compare;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use imgbuild::{
    digest::Digest,
    error::Result,
    lock::LockedWheel,
    package::{Entry, EntryKind, EntrySink, Prefix},
    wheel::{WheelArchive, link},
};
use rattler::install::PythonInfo;
use rattler_conda_types::{Subdir, Version};

use compare::{Known, Venv};

use crate::support::{fixture, run, source, temp_dir, write_program};

/// A file as it was taken by the sink.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Taken {
    mode: u32,
    mtime: u64,
    content: Vec<u8>,
}

/// Keeps everything, by path in the prefix and in the order it came.
#[derive(Default)]
struct Kept {
    files: BTreeMap<PathBuf, Taken>,
    order: Vec<PathBuf>,
}

impl EntrySink for Kept {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let path = String::from_utf8(entry.path.clone()).unwrap();
        let path = PathBuf::from(path.strip_prefix("root/").unwrap());
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        assert_eq!(entry.kind, EntryKind::File(bytes.len() as u64), "{path:?}");
        assert_eq!(entry.owner, (0, 0));
        let taken = Taken {
            mode: entry.mode,
            mtime: entry.mtime,
            content: bytes,
        };
        self.order.push(path.clone());
        assert!(self.files.insert(path, taken).is_none(), "it came twice");
        Ok(())
    }
}

fn prefix(path: &str) -> Prefix {
    let version: Version = "3.11.2".parse().unwrap();
    Prefix {
        path: path.to_owned(),
        root: "root".to_owned(),
        python: Some(PythonInfo::from_version(&version, None, Subdir::Linux64).unwrap()),
        platform: Subdir::Linux64,
    }
}

/// A wheel file as a lock would name it.
fn locked(file: &Path) -> LockedWheel {
    let name = file.file_name().unwrap().to_str().unwrap();
    let mut parts = name.split('-');
    LockedWheel {
        name: parts.next().unwrap().replace(['_', '.'], "-"),
        version: parts.next().unwrap().to_owned(),
        url: format!("https://host/{name}").parse().unwrap(),
        sha256: Digest::of(b"checked when it was fetched"),
        size: None,
    }
}

fn install(file: &Path, prefix: &Prefix) -> Result<Kept> {
    let archive = WheelArchive::open(file, &locked(file))?;
    let mut kept = Kept::default();
    link(&archive, prefix, &BTreeSet::new(), &mut kept)?;
    let info = archive.info(prefix)?;
    assert!(kept.files.keys().eq(&info.targets), "targets of {file:?}");
    Ok(kept)
}

/// The folder that make_wheels.py filled.
fn made() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wheels");
        let _ = fs::remove_dir_all(&dir);
        let script = source("tests/support/make_wheels.py");
        run(Command::new("python3").arg(script).arg(&dir));
        dir
    })
}

fn good(name: &str) -> PathBuf {
    made().join(format!("good/{name}-1.0-py3-none-any.whl"))
}

/// The wheels of this project that the fixtures were made from.
fn real(project: &str) -> PathBuf {
    let dir = fixture("IMGBUILD_TEST_WHEELS");
    let files = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path());
    let named = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.starts_with(&format!("{project}-")) && !name.contains("-cp39-")
    };
    let mut files: Vec<PathBuf> = files.filter(named).collect();
    files.sort();
    let newest = files.pop();
    newest.unwrap_or_else(|| panic!("no wheel of {project} in {}", dir.display()))
}

#[test]
fn real_wheels_install_as_with_uv() {
    let mut seen = BTreeSet::new();
    for project in [
        "requests",
        "pyyaml",
        "setuptools",
        "tqdm",
        "markupsafe",
        "pip",
        "numpy",
        "pillow",
        "sympy",
    ] {
        seen.extend(Venv::new().compare(&real(project)));
    }
    let known = [Known::Installers, Known::Launcher];
    assert_eq!(seen, BTreeSet::from(known), "a known difference is gone");
}

/// What the zip and `RECORD` rules would refuse of real wheels, torch and CUDA's among them: nothing.
#[test]
fn every_real_wheel_is_accepted() {
    let files = fs::read_dir(fixture("IMGBUILD_TEST_WHEELS")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let wheels = files.filter(|file| file.extension().is_some_and(|e| e == "whl"));
    let mut accepted = 0;
    for file in wheels {
        let archive = WheelArchive::open(&file, &locked(&file)).unwrap();
        let info = archive.info(&prefix("/opt/conda")).unwrap();
        assert!(info.built_at > 1_400_000_000, "{file:?}");
        accepted += 1;
    }
    assert!(accepted > 0);
}

#[test]
fn crafted_wheels_install_as_with_uv() {
    use Known::*;
    let seen = |name: &str| Venv::new().compare(&good(name));
    for plain in ["times", "timeless", "zip64", "zip64_end", "streamed"] {
        assert_eq!(seen(plain), BTreeSet::from([Installers]), "{plain}");
    }
    let kinds = [
        Installers,
        Launcher,
        Interpreter,
        VenvHeaders,
        Signature,
        DirectUrl,
        ReplacedScript,
        Size,
    ];
    assert_eq!(seen("kinds"), BTreeSet::from(kinds));
}

#[test]
fn scripts_and_headers_have_their_places() {
    let kept = install(&good("kinds"), &prefix("/opt/conda")).unwrap();
    let text = |path: &str| String::from_utf8(kept.files[Path::new(path)].content.clone()).unwrap();
    let shebang = "#!/opt/conda/bin/python3.11\n";
    assert_eq!(text("bin/kinds-gui"), format!("{shebang}print('gui')\n"));
    assert_eq!(text("bin/kinds-bare"), shebang);
    assert!(text("bin/kinds-command").contains("from kinds.cli import main"));
    assert!(text("bin/kinds-dotted").contains("sys.exit(Group.run())"));
    assert!(text("include/python3.11/kinds/kinds.h").contains("KINDS"));
    assert!(text("share/man/man1/kinds.1").contains("kinds"));
    let site = "lib/python3.11/site-packages";
    assert_eq!(
        text(&format!("{site}/kinds-1.0.dist-info/INSTALLER")),
        "imgbuild\n"
    );
    let record = text(&format!("{site}/kinds-1.0.dist-info/RECORD"));
    let listed: Vec<&str> = record
        .lines()
        .filter(|line| line.starts_with("../"))
        .collect();
    assert!(
        listed
            .iter()
            .any(|line| line.starts_with("../../../bin/kinds-gui,sha256="))
    );
    assert!(record.contains("\nkinds-1.0.dist-info/RECORD,,\n") && !record.contains("secret"));
    let last = kept.order.last().unwrap();
    assert!(
        last.ends_with("RECORD"),
        "what is streamed is recorded last"
    );
    let lines: Vec<&str> = record
        .lines()
        .filter(|line| !line.starts_with('"'))
        .collect();
    assert!(lines.is_sorted() && lines.len() + 1 == kept.files.len());
}

/// The kernel takes a first line of 127 bytes without blanks; a shell goes further.
#[test]
fn scripts_run_from_any_prefix() {
    let dir = temp_dir();
    let long = dir.path().join("p".repeat(130));
    for path in [
        dir.path().join("short"),
        dir.path().join("with blank"),
        long,
    ] {
        let kept = install(&good("kinds"), &prefix(path.to_str().unwrap())).unwrap();
        fs::create_dir_all(path.join("bin")).unwrap();
        symlink(fixture("IMGBUILD_TEST_PYTHON"), path.join("bin/python3.11")).unwrap();
        let site = path.join("lib/python3.11/site-packages");
        for (name, file) in &kept.files {
            let target = path.join(name);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            match file.mode {
                0o755 => write_program(&target, &file.content),
                _ => fs::write(&target, &file.content).unwrap(),
            }
        }
        let ran = |name: &str| {
            let mut command = Command::new(path.join("bin").join(name));
            run(command.args(["a b", "$c"]).env("PYTHONPATH", &site))
        };
        assert_eq!(ran("kinds-script"), "script ['a b', '$c']\n");
        assert_eq!(ran("kinds-command"), "command ['a b', '$c']\n");
        assert_eq!(ran("kinds-gui"), "gui\n");
        assert_eq!(ran("kinds-shell"), "shell\n");
    }
}

#[test]
fn pip_is_there_in_the_versions_of_its_python() {
    let kept = install(&good("pipper"), &prefix("/p")).unwrap();
    let commands: Vec<&str> = kept
        .files
        .keys()
        .filter_map(|path| path.strip_prefix("bin").ok()?.to_str())
        .collect();
    assert_eq!(commands, ["pip", "pip-audit", "pip3", "pip3.11"]);
}

#[test]
fn times_are_the_archives_where_they_can_be() {
    const EPOCH: u64 = 315_532_800;
    let kept = install(&good("times"), &prefix("/p")).unwrap();
    let site = "lib/python3.11/site-packages";
    let time = |path: &str| kept.files[&Path::new(site).join(path)].mtime;
    assert_eq!(time("times/leap.py"), 1_709_251_198);
    assert_eq!(time("times/first.py"), EPOCH + 86_400);
    for unlikely in ["dos.py", "zoned.py", "late.py", "__init__.py"] {
        assert_eq!(time(&format!("times/{unlikely}")), EPOCH, "{unlikely}");
    }
    // 2024-05-06 07:08:10, the time of its other files.
    assert_eq!(time("times-1.0.dist-info/RECORD"), 1_714_979_290);
    let archive = WheelArchive::open(&good("times"), &locked(&good("times"))).unwrap();
    assert_eq!(archive.info(&prefix("/p")).unwrap().built_at, 1_714_979_290);
    let none = install(&good("timeless"), &prefix("/p")).unwrap();
    assert!(none.files.values().all(|file| file.mtime == EPOCH));
    let archive = WheelArchive::open(&good("timeless"), &locked(&good("timeless"))).unwrap();
    assert_eq!(archive.info(&prefix("/p")).unwrap().built_at, 0);
}

/// What each evil wheel is refused for.
const EVIL: &[(&str, &str)] = &[
    ("before", "whole zip with nothing before or behind it"),
    ("behind", "whole zip with nothing before or behind it"),
    ("two_zips", "whole zip with nothing before or behind it"),
    ("comment", "whole zip with nothing before or behind it"),
    ("cut", "whole zip with nothing before or behind it"),
    ("no_zip", "whole zip with nothing before or behind it"),
    ("empty", "whole zip with nothing before or behind it"),
    ("saturated", "whole zip with nothing before or behind it"),
    ("twice", "has a name twice"),
    ("count", "not as many as it says"),
    ("slack", "central directory is damaged"),
    ("local_name", "header inconsistency"),
    ("local_size", "header inconsistency"),
    ("local_crc", "header inconsistency"),
    ("local_method", "header inconsistency"),
    ("local_only", "header inconsistency"),
    ("between", "bytes that belong to no file"),
    ("streamed_size", "other sizes behind its data"),
    ("streamed_crc", "other sizes behind its data"),
    ("encrypted", "encrypted"),
    ("bzip2", "neither stored nor deflated"),
    ("other_name", "header inconsistency"),
    ("not_utf8", "not ASCII and not marked as UTF-8"),
    (
        "symlink",
        "a.py is neither a file nor a folder (mode 120777)",
    ),
    ("device", "a.py is neither a file nor a folder"),
    ("full_folder", "the folder a/ has content"),
    ("file_folder", "a is a file and a folder"),
    ("file_and_folder", "a is a file and a folder"),
    (
        "longer",
        "longer/__init__.py: File is larger than its declared",
    ),
    ("shorter", "shorter/__init__.py: "),
    ("wrong_hash", "a.py: it is not what RECORD says"),
    ("wrong_script", "scripts/a: it is not what RECORD says"),
    ("damaged", "a.py: "),
    (
        "long_line",
        "the first line of long_line-1.0.data/scripts/a is too long",
    ),
    ("absolute", "\"/etc/passwd\" is not a plain relative path"),
    (
        "upwards",
        "\"../../../etc/passwd\" is not a plain relative path",
    ),
    ("dotted", "\"./a.py\" is not a plain relative path"),
    ("doubled", "\"a//b.py\" is not a plain relative path"),
    ("backslash", "is not a plain relative path"),
    ("drive", "\"C:/a.py\" is not a plain relative path"),
    ("nul", "is not a plain relative path"),
    ("newline", "is not a plain relative path"),
    ("data_upwards", "is not a plain relative path"),
    ("md5", "is not a sha256, sha384 or sha512"),
    ("sha1", "is not a sha256, sha384 or sha512"),
    ("sha224", "is not a sha256, sha384 or sha512"),
    ("unlisted", "its RECORD does not list a.py"),
    (
        "missing",
        "its RECORD lists a.py, which the archive does not hold",
    ),
    ("no_hash", "its RECORD has no hash of a.py"),
    ("wrong_size", "a.py has 0 bytes, its RECORD says otherwise"),
    ("padded", "not URL-safe base64"),
    ("cut_hash", "not URL-safe base64"),
    ("no_number", "the size '-0' is not a number"),
    ("two_fields", "its RECORD"),
    ("contradiction", "its RECORD contradicts itself on a.py"),
    ("version_2", "its Wheel-Version is '2.0'"),
    ("no_wheel", "it has no WHEEL"),
    ("no_metadata", "it has no METADATA"),
    (
        "other_project",
        "its METADATA is of torch 1.0, not of other-project 1.0",
    ),
    ("other_version", "its METADATA is of other_version 1.1"),
    ("other_folder", "its folder is torch-1.0.dist-info"),
    ("two_folders", "two .dist-info folders"),
    ("command_upwards", "the command '../../a = a:b'"),
    ("command_code", "the command 'a = os:system('id')'"),
    ("command_list", "its entry_points.txt cannot be read"),
    ("other_data", "the data folder of another wheel"),
    (
        "no_scheme",
        "no_scheme-1.0.data/stdlib/os.py has no place to go to",
    ),
    (
        "only_scheme",
        "only_scheme-1.0.data/scripts has no place to go to",
    ),
    (
        "same_place",
        "two of its files become lib/python3.11/site-packages/a.py",
    ),
    ("installers", "two of its files become"),
    (
        "place_folder",
        "site-packages/a becomes a file and a folder",
    ),
    ("conda_meta", "conda-meta/history is conda's to write"),
];

#[test]
fn evil_wheels_are_refused_for_what_they_are() {
    let mut wrong = Vec::new();
    for (name, why) in EVIL {
        let file = made().join(format!("evil/{name}-1.0-py3-none-any.whl"));
        let said = match install(&file, &prefix("/opt/conda")) {
            Ok(_) => "it was installed".to_owned(),
            Err(e) => e.to_string(),
        };
        let named = said.contains(&format!("at: wheel {name}-1.0-py3-none-any.whl"));
        if !named || !said.contains(why) || why.is_empty() {
            wrong.push(format!("{name}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_evil_wheel_is_tried() {
    let tried = EVIL
        .iter()
        .map(|(name, _)| format!("{name}-1.0-py3-none-any.whl"));
    let made = fs::read_dir(made().join("evil")).unwrap();
    let made = made.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(tried.collect::<BTreeSet<_>>(), made.collect());
}

#[test]
fn a_wheel_is_what_the_lock_says() {
    let file = good("kinds");
    let refused = |change: &dyn Fn(&mut LockedWheel)| {
        let mut wheel = locked(&file);
        change(&mut wheel);
        WheelArchive::open(&file, &wheel).unwrap_err().to_string()
    };
    let other = refused(&|wheel| wheel.name = "torch".into());
    assert!(other.contains("the file is called kinds-1.0-py3-none-any.whl, not of torch 1.0"));
    let newer = refused(&|wheel| wheel.version = "1.1".into());
    assert!(newer.contains("not of kinds 1.1"));
    let renamed = refused(&|wheel| {
        wheel.name = "torch".into();
        wheel.url = "https://host/torch-1.0-py3-none-any.whl".parse().unwrap();
    });
    assert!(renamed.contains("its folder is kinds-1.0.dist-info"));
}
