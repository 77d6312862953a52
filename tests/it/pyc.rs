//! Compiled Python files: made once, the same everywhere, used by Python, and nothing is run.

mod form;
mod wheel;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

use crate::{
    mini::names,
    support::{Image, Project, channel, env_file, run, source, temp_dir, write_program},
};

const SITE: &str = "/opt/conda/lib/python3.11/site-packages";
const SCRATCH: [&str; 4] = ["build", "env.yml", "--base", "scratch"];

/// The channel that pyc_channel.py makes, and the file that appears when a package is run.
fn odd_channel() -> &'static (PathBuf, PathBuf) {
    static CHANNEL: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    CHANNEL.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pyc-channel");
        let marker = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pyc-marker");
        let _ = fs::remove_file(&marker);
        let script = source("tests/support/pyc_channel.py");
        run(Command::new("python3").arg(script).arg(&dir).arg(&marker));
        (dir, marker)
    })
}

/// These packages with the real Python.
fn project(packages: &str) -> Project {
    let (odd, _) = odd_channel();
    let real = channel();
    Project::new(&format!(
        "channels: ['{real}', 'file://{}']\ndependencies: [python=3.11, {packages}]\n",
        odd.display()
    ))
}

/// These packages with a Python that does not run.
fn broken(packages: &str) -> Project {
    let (odd, _) = odd_channel();
    Project::new(&format!(
        "channels: ['file://{}']\ndependencies: [python, {packages}]\n",
        odd.display()
    ))
}

fn record(image: &Image, package: &str) -> Value {
    let path = format!("/opt/conda/conda-meta/{package}-1.0-0.json");
    serde_json::from_str(image.rootfs.text(path)).unwrap()
}

/// The compiled files that a record lists.
fn listed(image: &Image, package: &str) -> Vec<String> {
    let record = record(image, package);
    let paths = record["paths_data"]["paths"].as_array().unwrap().clone();
    let compiled = paths.iter().filter(|path| path["path_type"] == "pyc_file");
    let name = |path: &Value| path["_path"].as_str().unwrap().to_owned();
    compiled.map(name).collect()
}

/// The image's layers on a disk: Python runs there as it does in a container.
fn unpack(image: &Image) -> tempfile::TempDir {
    let root = temp_dir();
    for layer in &image.layers {
        let mut tar = Command::new("tar");
        tar.arg("-xC").arg(root.path()).stdin(Stdio::piped());
        let mut tar = tar.spawn().unwrap();
        io::copy(&mut layer.tar(), &mut tar.stdin.take().unwrap()).unwrap();
        assert!(tar.wait().unwrap().success(), "{}", layer.title);
    }
    root
}

fn python(root: &Path) -> Command {
    let mut command = Command::new(root.join("opt/conda/bin/python3.11"));
    command.env_clear().current_dir("/");
    command
}

#[test]
fn python_uses_what_was_compiled() {
    let project = Project::new(&env_file("small"));
    let image = project.build(&["--base", "scratch"]);
    let root = unpack(&image);
    let site = root.path().join(&SITE[1..]);
    let check = source("tests/support/pyc_check.py");
    let count = run(python(root.path())
        .arg(check)
        .arg("tree")
        .arg(&site)
        .arg(SITE));
    let count: usize = count.trim().parse().unwrap();
    assert!(count > 500, "{count} files were compiled");

    let modules = "import requests, jinja2, urllib3, pip, tqdm";
    let mut verbose = python(root.path());
    let output = project.output(verbose.args(["-v", "-B", "-c", modules]));
    let log = &output.stderr;
    for module in ["requests/api", "jinja2/environment", "tqdm/std"] {
        let (folder, name) = module.split_once('/').unwrap();
        let pyc = format!("{folder}/__pycache__/{name}.cpython-311.pyc matches ");
        assert!(log.contains(&pyc), "{pyc} is not in:\n{log}");
    }
    assert!(!log.contains("wrote"), "{log}");
    // The source's time says nothing: an unchecked .pyc has no time.
    let api = site.join("requests/api.py");
    let file = fs::File::options().write(true).open(&api).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    let again = project.output(python(root.path()).args(["-v", "-B", "-c", modules]));
    assert!(again.stderr.contains("api.cpython-311.pyc matches "));
}

#[test]
fn what_does_not_compile_is_named_and_left_out() {
    let project = project("pyc-odd");
    let output = project.ok(&SCRATCH);
    let image = project.image(&output);
    let pyc = |name: &str| {
        let path = format!("lib/python3.11/site-packages/odd/__pycache__/{name}.cpython-311.pyc");
        (format!("/opt/conda/{path}"), path)
    };
    let compiled = ["__init__", "empty", "latin", "warns"].map(|name| pyc(name).1);
    assert_eq!(listed(&image, "pyc-odd"), compiled);
    for path in &compiled {
        let node = image.rootfs.node(format!("/opt/conda/{path}"));
        assert_eq!((node.mode, node.mtime), (0o644, 1_500_000_000));
    }
    assert_eq!(image.rootfs.text(pyc("shipped").0), "as shipped");
    let all: Vec<&PathBuf> = image.rootfs.nodes.keys().collect();
    let of_package = |path: &&&PathBuf| {
        let path = path.to_string_lossy();
        path.ends_with(".pyc") && (path.contains("odd") || path.contains("example"))
    };
    assert_eq!(all.iter().filter(of_package).count(), compiled.len() + 1);
    let warning = "warning: pyc-odd: 4 of its Python files do not compile and get no .pyc: \
                   lib/python3.11/site-packages/odd/bad.py (SyntaxError: invalid syntax (line 1)), ";
    assert!(output.stderr.contains(warning), "{}", output.stderr);
    assert!(output.stderr.contains(" and 1 more\n"), "{}", output.stderr);
}

#[test]
fn nothing_of_a_package_is_run() {
    let (_, marker) = odd_channel();
    let project = project("pyc-hostile, pyc-odd");
    let output = project.ok(&SCRATCH);
    assert!(!marker.exists());
    let image = project.image(&output);
    assert_eq!(listed(&image, "pyc-hostile").len(), 11);
    // The file would appear if it were.
    let root = unpack(&image);
    run(python(root.path()).args(["-c", "import hostile"]));
    assert!(marker.exists());
    fs::remove_file(marker).unwrap();
}

#[test]
fn compiling_can_be_turned_off() {
    let project = project("pyc-plain");
    let with = project.ok(&SCRATCH);
    assert_eq!(listed(&project.image(&with), "pyc-plain").len(), 1);
    let flag = project.ok(&[&SCRATCH[..], &["--no-compile"]].concat());
    assert_eq!(listed(&project.image(&flag), "pyc-plain"), [""; 0]);
    assert_ne!(with.digest(), flag.digest());
    project.write("imgbuild.yaml", "compile: false\n");
    assert_eq!(project.ok(&SCRATCH).digest(), flag.digest());
    project.write("imgbuild.yaml", "compile: true\n");
    assert_eq!(project.ok(&SCRATCH).digest(), with.digest());
    project.write("imgbuild.yaml", "compile: maybe\n");
    let wrong = project.imgbuild(&SCRATCH);
    wrong.expect(2);
    assert!(
        wrong.stderr.contains("imgbuild.yaml:1:10"),
        "{}",
        wrong.stderr
    );
}

#[test]
fn a_package_is_compiled_once() {
    let project = project("pyc-plain, pyc-odd");
    let first = project.ok(&SCRATCH);
    let kept = names(&project.cache.join("pyc"));
    assert_eq!(kept.len(), 2);
    let forget = |folders: &[&str]| {
        for folder in folders {
            fs::remove_dir_all(project.cache.join(folder)).unwrap();
        }
    };
    // Without a Python, and none can be unpacked: nothing is compiled again.
    forget(&["layers", "blobs", "pythons"]);
    let again = project.ok(&SCRATCH);
    assert_eq!(again.digest(), first.digest());
    assert_eq!(names(&project.cache.join("pythons")), [""; 0]);
    assert!(
        again.stderr.contains("pyc-odd: 4 of its"),
        "{}",
        again.stderr
    );

    // Damaged files and a damaged Python are made anew.
    for name in &kept {
        fs::write(project.cache.join("pyc").join(name), "damaged").unwrap();
    }
    forget(&["layers", "blobs"]);
    assert_eq!(project.ok(&SCRATCH).digest(), first.digest());
    let unpacked = names(&project.cache.join("pythons")).remove(0);
    let unpacked = project.cache.join("pythons").join(unpacked);
    fs::write(unpacked.join("lib/python3.11/encodings/__init__.py"), "").unwrap();
    fs::remove_dir_all(unpacked.join("lib/python3.11/encodings/__pycache__")).unwrap();
    forget(&["layers", "blobs", "pyc"]);
    assert_eq!(project.ok(&SCRATCH).digest(), first.digest());

    // Nor do threads matter, or what other packages were compiled before.
    let other = self::project("pyc-plain, pyc-odd");
    let one = other.ok_through(&["taskset", "-c", "0"], &SCRATCH);
    assert_eq!(one.digest(), first.digest());
}

#[test]
fn any_python_of_that_version_will_do() {
    // The bytes of the environment's own.
    let own = project("pyc-plain, pyc-odd");
    let own_image = own.image(&own.ok(&SCRATCH));
    let real = names(&own.cache.join("pythons")).remove(0);
    let real = own.cache.join("pythons").join(real).join("bin/python3.11");

    let path = temp_dir();
    let put = |name: &str, script: String| write_program(&path.path().join(name), script);
    let only = |path: &Path| broken("pyc-plain, pyc-odd").with_env("PATH", path);
    let none = only(path.path()).imgbuild(&SCRATCH);
    none.expect(3);
    for text in [
        "there is no Python 3.11.2 to compile .pyc files with",
        "the environment's own does not run: it ended with exit status: 7",
        "--no-compile",
    ] {
        assert!(none.stderr.contains(text), "{text}:\n{}", none.stderr);
    }
    only(path.path()).ok(&[&SCRATCH[..], &["--no-compile"]].concat());

    // One of another version is passed over, then the right one is found.
    let about = r"cpython\n3.11.99\ncpython-311\n";
    put(
        "python3.11",
        format!("#!/bin/sh\nprintf '\\000\\000\\000\\000\\034{about}'\n"),
    );
    only(path.path()).imgbuild(&SCRATCH).expect(3);
    put(
        "python3",
        format!("#!/bin/sh\nexec {} \"$@\"\n", real.display()),
    );
    let project = only(path.path());
    let image = project.image(&project.ok(&SCRATCH));
    for package in ["pyc-plain", "pyc-odd"] {
        assert_eq!(listed(&image, package), listed(&own_image, package));
        for file in listed(&image, package) {
            let node = |image: &Image| image.rootfs.node(format!("/opt/conda/{file}")).clone();
            let mut ours = node(&image);
            let theirs = node(&own_image);
            if let (
                crate::support::Kind::File { inode, .. },
                crate::support::Kind::File { inode: other, .. },
            ) = (&mut ours.kind, &theirs.kind)
            {
                *inode = *other;
            }
            assert_eq!(ours, theirs, "{file}");
        }
    }
}

#[test]
fn a_shared_source_has_one_owner_and_so_has_its_pyc() {
    let project = project("pyc-share-b");
    let image = project.build(&["--base", "scratch"]);
    let shared = "lib/python3.11/site-packages/__pycache__/shared.cpython-311.pyc";
    assert_eq!(listed(&image, "pyc-share-b"), [shared]);
    let only_a = "lib/python3.11/site-packages/__pycache__/only_a.cpython-311.pyc";
    assert_eq!(listed(&image, "pyc-share-a"), [only_a]);
    let native = record(&image, "pyc-a-native");
    assert_eq!(native["files"], serde_json::json!([]));
    let root = unpack(&image);
    let who = run(python(root.path()).args(["-c", "import shared; print(shared.WHO)"]));
    assert_eq!(who, "b\n");
}
