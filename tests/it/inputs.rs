//! Locks given in place of an environment file: pixi's, conda-lock's, `@EXPLICIT` lists and
//! imgbuild's own.

use std::{fmt::Write as _, fs};

use rattler_conda_types::PackageRecord;
use rattler_lock::LockFile;

use crate::{
    mini::{Mini, base, env, names, read, sha256},
    plan::wheel,
    support::{Channel, Output, Project, channel, env_file},
};

const HELLO: &str = "hello-demo-1.0-0.tar.bz2";
const NOARCH: &str = "generic-demo-1.0-0.tar.bz2";

/// One package of a lock, as the generators below write it.
struct Locked {
    url: String,
    record: PackageRecord,
}

impl Locked {
    fn sha256(&self) -> String {
        hex::encode(self.record.sha256.unwrap())
    }

    fn md5(&self) -> String {
        hex::encode(self.record.md5.unwrap())
    }
}

/// The packages of the lock that a project has.
fn locked(project: &Project) -> Vec<Locked> {
    let lock = LockFile::from_path(&project.path("env.lock.yml")).unwrap();
    let environment = lock.default_environment().unwrap();
    let platform = environment.platforms().next().unwrap();
    let records = environment.conda_repodata_records(platform).unwrap();
    let records = records.unwrap().into_iter();
    records
        .map(|record| Locked {
            url: record.url.to_string(),
            record: record.package_record,
        })
        .collect()
}

/// A conda-lock file, version 1, with a package of another platform and one of another category.
fn conda_lock(packages: &[Locked]) -> String {
    let mut text = "version: 1\nmetadata:\n  content_hash:\n    linux-64: abc\n  channels:\n  \
         - url: conda-forge\n    used_env_vars: []\n  platforms: [linux-64, osx-64]\n  \
         sources: [environment.yml]\npackage:\n"
        .to_owned();
    let others = "- name: other\n  version: '1'\n  manager: conda\n  platform: PLATFORM\n  \
         dependencies: {}\n  url: https://h/PLATFORM/other-1-0.conda\n  hash:\n    \
         md5: 00000000000000000000000000000000\n  category: CATEGORY\n  optional: false\n";
    for (platform, category) in [("osx-64", "main"), ("linux-64", "dev")] {
        text += &others
            .replace("PLATFORM", platform)
            .replace("CATEGORY", category);
    }
    for package in packages {
        let record = &package.record;
        let _ = write!(
            text,
            "- name: {}\n  version: '{}'\n  manager: conda\n  platform: linux-64\n  dependencies:",
            record.name.as_normalized(),
            record.version
        );
        match record.depends.is_empty() {
            true => text.push_str(" {}\n"),
            false => text.push('\n'),
        }
        for spec in &record.depends {
            let (name, spec) = spec.split_once(' ').unwrap_or((spec, ""));
            let _ = writeln!(text, "    {name}: '{spec}'");
        }
        let _ = write!(
            text,
            "  url: {}\n  hash:\n    md5: {}\n    sha256: {}\n  category: main\n  optional: false\n",
            package.url,
            package.md5(),
            package.sha256()
        );
    }
    text
}

fn explicit(packages: &[Locked], hash: impl Fn(&Locked) -> String) -> String {
    let mut text = "# This file may be used to create an environment\n# platform: linux-64\n\
         @EXPLICIT\n\n"
        .to_owned();
    for package in packages {
        let _ = writeln!(text, "{}#{}", package.url, hash(package));
    }
    text
}

/// pixi's lock of version 6 is version 7 without a list of platforms.
fn pixi_6(own: &str) -> String {
    // Version 6 has neither imgbuild's comments nor a list of platforms.
    let (_, environments) = own.split_once("\nenvironments:\n").unwrap();
    format!("version: 6\nenvironments:\n{environments}")
}

/// pixi's locks of versions 4 and 5, where a package says all that its URL says.
fn pixi_5(packages: &[Locked], version: u32) -> String {
    let mut text = format!(
        "version: {version}\nenvironments:\n  default:\n    channels:\n    - url: https://h/c/\n    \
         packages:\n      linux-64:\n"
    );
    for package in packages {
        let _ = writeln!(text, "      - conda: {}", package.url);
    }
    text += "packages:\n";
    for package in packages {
        let record = &package.record;
        let _ = write!(
            text,
            "- kind: conda\n  name: {}\n  version: '{}'\n  build: '{}'\n  build_number: {}\n  \
             subdir: {}\n  url: {}\n  sha256: {}\n  md5: {}\n  depends: {:?}\n  size: {}\n",
            record.name.as_normalized(),
            record.version,
            record.build,
            record.build_number,
            record.subdir,
            package.url,
            package.sha256(),
            package.md5(),
            record.depends,
            record.size.unwrap()
        );
        if let Some(timestamp) = &record.timestamp {
            let _ = writeln!(text, "  timestamp: {}", timestamp.timestamp_millis());
        }
    }
    text
}

/// pixi's locks of versions 2 and 3, in conda-lock's shape.
fn pixi_3(packages: &[Locked], version: u32) -> String {
    let text = conda_lock(packages).replacen("version: 1", &format!("version: {version}"), 1);
    let mut lists = String::new();
    let mut in_depends = false;
    for line in text.lines() {
        if !line.starts_with("    ") {
            in_depends = line == "  dependencies:";
        }
        match (in_depends, line.trim().split_once(": ")) {
            (true, Some((name, spec))) if line.starts_with("    ") => {
                let _ = writeln!(lists, "  - {name} {}", spec.trim_matches('\''));
            }
            _ => {
                let line = line.replace("dependencies: {}", "dependencies: []");
                let _ = writeln!(lists, "{line}");
            }
        }
    }
    // These versions have no categories: without the one of another category.
    let dev = lists.find("- name: other\n  version: '1'\n  manager: conda\n  platform: linux-64");
    let end = dev.unwrap() + lists[dev.unwrap()..].find("optional: false\n").unwrap();
    lists.replace_range(dev.unwrap()..end + "optional: false\n".len(), "");
    lists
}

fn build(project: &Project, file: &str) -> Output {
    project.ok(&["build", file, "--base", &base()])
}

/// A folder with a lock of an environment that has every kind of package.
fn crafted() -> Project {
    let project = Project::new(&env_file("crafted"));
    project.ok(&["lock", "env.yml"]);
    project
}

/// The environment is one, whatever lock says so: image, plan and what else is known of it.
#[test]
fn every_lock_of_an_environment_gives_the_same_image() {
    let project = crafted();
    let packages = locked(&project);
    assert!(packages.iter().any(|p| p.record.subdir == "noarch"));
    let own = read(&project, "env.lock.yml");
    project.write("pixi.lock", &pixi_6(&own));
    project.write("pixi-5.lock", &pixi_5(&packages, 5));
    project.write("conda-lock.yml", &conda_lock(&packages));
    project.write(
        "explicit.txt",
        &explicit(&packages, |p| format!("sha256:{}", p.sha256())),
    );
    let first = build(&project, "env.lock.yml");
    for file in ["pixi.lock", "pixi-5.lock", "conda-lock.yml", "explicit.txt"] {
        let out = build(&project, file);
        assert_eq!(out.digest(), first.digest(), "{file}: {}", out.stderr);
        assert!(!project.path(file).with_extension("lock.yml").exists());
    }
    // In an empty cache, from the thinnest of all.
    let other = Project::new("");
    other.write("list", &explicit(&packages, |p| p.md5()));
    let out = build(&other, "list");
    assert!(
        out.stderr.contains("reading their archives"),
        "{}",
        out.stderr
    );
    assert_eq!(out.digest(), first.digest());
    let here = ["env.yml", "imgbuild.yaml", "list"];
    assert_eq!(names(&other.path(".")), here);
}

/// The other versions that pixi wrote are read as well.
#[test]
fn every_version_of_pixis_lock_is_read() {
    let mini = Mini::of(&[HELLO, NOARCH]);
    let project = Project::new(&env(&mini.url(), &["hello-demo", "generic-demo"]));
    project.ok(&["lock", "env.yml"]);
    let packages = locked(&project);
    let first = build(&project, "env.lock.yml");
    for version in 2..=6 {
        let text = match version {
            2 | 3 => pixi_3(&packages, version),
            4 | 5 => pixi_5(&packages, version),
            _ => pixi_6(&read(&project, "env.lock.yml")),
        };
        assert!(text.contains(&format!("version: {version}\n")), "{text}");
        project.write("pixi.lock", &text);
        let out = build(&project, "pixi.lock");
        assert_eq!(out.digest(), first.digest(), "{version}: {}", out.stderr);
    }
}

/// What an archive says is learnt once; then neither it nor its channel is needed.
#[test]
fn a_thin_lock_asks_the_network_once() {
    let mini = Mini::of(&[HELLO, NOARCH]);
    let served = Channel::serve(mini.path());
    let project = Project::new(&env(&served.url, &["hello-demo", "generic-demo"]));
    project.ok(&["lock", "env.yml"]);
    let packages = locked(&project);
    project.write("list.txt", &explicit(&packages, Locked::md5));
    project.write("conda-lock.yml", &conda_lock(&packages));
    let first = build(&project, "list.txt");
    assert!(first.stderr.contains("of 2 packages"), "{}", first.stderr);
    drop(served);
    for sha256 in names(&project.cache.join("packages")) {
        fs::remove_file(project.cache.join("packages").join(sha256)).unwrap();
    }
    for file in ["list.txt", "conda-lock.yml"] {
        let again = build(&project, file);
        assert!(
            !again.stderr.contains("archives"),
            "{file}: {}",
            again.stderr
        );
        assert_eq!(again.digest(), first.digest(), "{file}");
    }
    let other = Project::new("");
    other.write("list.txt", &explicit(&packages, Locked::md5));
    let out = other.imgbuild(&["build", "list.txt", "--base", &base()]);
    out.expect(3);
    assert!(
        out.stderr.contains("cannot be downloaded"),
        "{}",
        out.stderr
    );
}

#[test]
fn an_md5_is_verified_like_any_hash() {
    let mini = Mini::of(&[HELLO]);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    project.ok(&["lock", "env.yml"]);
    project.write("list.txt", &explicit(&locked(&project), Locked::md5));
    let bytes = fs::read(mini.file(HELLO)).unwrap();
    fs::write(mini.file(HELLO), [&bytes[..], b"more"].concat()).unwrap();
    let out = project.imgbuild(&["build", "list.txt", "--base", &base()]);
    out.expect(3);
    assert!(
        out.stderr.contains("not what its hash says"),
        "{}",
        out.stderr
    );
    assert!(out.stderr.contains("expected md5:"), "{}", out.stderr);
    for folder in ["packages", "aliases/md5", "facts", "tmp"] {
        assert_eq!(names(&project.cache.join(folder)), [""; 0], "{folder}");
    }
}

/// The archive has the last word on which package it is.
#[test]
fn an_archive_is_of_the_package_that_its_name_says() {
    let mini = Mini::of(&[HELLO]);
    let path = mini.file(HELLO);
    let renamed = path.with_file_name("hello-demo-2.0-0.tar.bz2");
    fs::rename(&path, &renamed).unwrap();
    let sum = sha256(&fs::read(&renamed).unwrap());
    let project = Project::new("");
    let list = format!("@EXPLICIT\nfile://{}#sha256:{sum}\n", renamed.display());
    project.write("list.txt", &list);
    let out = project.imgbuild(&["build", "list.txt", "--base", &base()]);
    out.expect(3);
    assert!(
        out.stderr.contains("it says that it is hello-demo-1.0-0"),
        "{}",
        out.stderr
    );
}

/// Another tool's lock becomes imgbuild's own, whole; its own is none to be made.
#[test]
fn another_tools_lock_is_made_imgbuilds_own() {
    let mini = Mini::of(&[HELLO, NOARCH]);
    let project = Project::new(&env(&mini.url(), &["hello-demo", "generic-demo"]));
    project.ok(&["lock", "env.yml"]);
    project.write("conda-lock.yml", &conda_lock(&locked(&project)));
    let out = project.ok(&["lock", "conda-lock.yml"]);
    assert_eq!(out.stdout, "conda-lock.lock.yml\n");
    let first = build(&project, "conda-lock.yml");
    // All that a build needs is in it.
    fs::remove_dir_all(&project.cache).unwrap();
    let out = build(&project, "conda-lock.lock.yml");
    assert!(!out.stderr.contains("archives"), "{}", out.stderr);
    assert_eq!(out.digest(), first.digest());
    let out = project.imgbuild(&["lock", "env.lock.yml"]);
    out.expect(2);
    assert!(
        out.stderr.contains("there is nothing to lock"),
        "{}",
        out.stderr
    );
}

/// What stands beside a lock goes on to count; what is no property of it is refused.
#[test]
fn settings_go_with_a_lock() {
    let mini = Mini::of(&[HELLO]);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    project.ok(&["lock", "env.yml"]);
    project.write("imgbuild.yaml", "env:\n  FROM_SETTINGS: '1'\n");
    let image = project.image(&build(&project, "env.lock.yml"));
    let variables = image.config["config"]["Env"].as_array().unwrap();
    assert!(
        variables.iter().any(|v| v == "FROM_SETTINGS=1"),
        "{variables:?}"
    );
    for (flags, words) in [
        (&["--miniconda"][..], "has no Miniconda base"),
        (&["--category", "dev"], "only a conda-lock file does"),
        (&["--environment", "cuda"], "no environment 'cuda'"),
        (&["--environment", ".."], "--environment '..' is not usable"),
    ] {
        let out =
            project.imgbuild(&[&["build", "env.lock.yml", "--base", "scratch"], flags].concat());
        out.expect(2);
        assert!(out.stderr.contains(words), "{flags:?}: {}", out.stderr);
    }
    let out = project.imgbuild(&["build", "env.yml", "--environment", "x"]);
    out.expect(2);
    assert!(
        out.stderr.contains("only a pixi lock does"),
        "{}",
        out.stderr
    );
}

/// Tokens and passwords of a list go nowhere.
#[test]
fn secrets_of_a_lock_are_not_kept() {
    let mini = Mini::of(&[HELLO]);
    let served = Channel::serve(mini.path());
    let project = Project::new(&env(&served.url, &["hello-demo"]));
    project.ok(&["lock", "env.yml"]);
    let list = explicit(&locked(&project), Locked::sha256);
    let secret = list
        .replace("http://", "http://me:geheim@")
        .replace("/linux-64/", "/t/tk-geheim/linux-64/");
    assert_ne!(list, secret);
    project.write("list.txt", &secret);
    let out = project.ok(&["lock", "list.txt"]);
    assert!(out.stderr.contains("credentials"), "{}", out.stderr);
    let image = build(&project, "list.txt");
    assert_eq!(image.digest(), build(&project, "list.lock.yml").digest());
    for text in [&out.stderr, &image.stderr, &read(&project, "list.lock.yml")] {
        assert!(!text.contains("geheim"), "{text}");
    }
    let found = std::process::Command::new("grep")
        .args(["-rl", "geheim"])
        .arg(&project.cache)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

/// A wheel is a wheel in every lock that may have some, and goes into the image.
#[test]
fn wheels_of_locks_go_into_the_image() {
    let project = Project::new(&env(channel(), &["python=3.11"]));
    project.ok(&["lock", "env.yml"]);
    let files = [("tiny/__init__.py", "x = 1\n")];
    let wheel = wheel(project.dir.path(), "tiny", "1.0", &files);
    let (url, sum) = (&wheel.url, wheel.sha256.hex());
    let packages = locked(&project);
    let pip = format!(
        "- name: Tiny\n  version: '1.0'\n  manager: pip\n  platform: linux-64\n  dependencies: {{}}\n  \
         url: {url}\n  hash: {{sha256: {sum}}}\n  category: main\n"
    );
    let lists = "      linux-64:\n";
    let pixi = pixi_6(&read(&project, "env.lock.yml")).replace(
        "\npackages:\n",
        "\n      - pypi: ./tiny-1.0-py3-none-any.whl\npackages:\n",
    ) + &format!(
        "- pypi: ./tiny-1.0-py3-none-any.whl\n  name: tiny\n  version: '1.0'\n  sha256: {sum}\n"
    );
    assert!(pixi.contains(lists), "{pixi}");
    let list = explicit(&packages, Locked::sha256) + &format!("# pip tiny @ {url}#sha256={sum}\n");
    let without = build(&project, "env.lock.yml");
    project.write("pixi.lock", &pixi);
    project.write("conda-lock.yml", &(conda_lock(&packages) + &pip));
    project.write("list.txt", &list);
    let first = build(&project, "pixi.lock");
    assert_ne!(first.digest(), without.digest());
    for file in ["conda-lock.yml", "list.txt"] {
        let out = build(&project, file);
        assert_eq!(out.digest(), first.digest(), "{file}: {}", out.stderr);
    }
    let image = project.image(&first);
    let installed = "opt/conda/lib/python3.11/site-packages/tiny/__init__.py";
    assert_eq!(image.rootfs.text(installed), "x = 1\n");
}

/// A lock of a real one's size is planned from what it says alone.
#[test]
fn a_lock_of_885_packages_is_planned_without_a_network() {
    let mut text = "version: 1\nmetadata:\n  channels: []\npackage:\n".to_owned();
    for n in 0..885 {
        let _ = write!(
            text,
            "- {{name: p{n}, version: '1.{n}', manager: conda, platform: linux-64, category: main,\n   \
             dependencies: {{p{}: '>=1', p{}: '', __glibc: ''}},\n   \
             url: 'file:///nowhere/linux-64/p{n}-1.{n}-0.conda', hash: {{sha256: {}}}}}\n",
            n / 2 + 1000 * usize::from(n < 4),
            n / 3 + 2000 * usize::from(n < 4),
            sha256(n.to_string().as_bytes())
        );
    }
    let project = Project::new("");
    project.write("conda-lock.yml", &text);
    let out = project.ok(&["build", "conda-lock.yml", "--base", "scratch", "--dry-run"]);
    assert!(out.stdout.contains("885 packages"), "{}", out.stdout);
    assert_eq!(names(&project.cache.join("packages")), [""; 0]);
    project.write("large.yml", &format!("{text}# {}", "x".repeat(17 << 20)));
    let out = project.imgbuild(&["build", "large.yml", "--base", "scratch"]);
    out.expect(2);
    assert!(out.stderr.contains("too large"), "{}", out.stderr);
}
