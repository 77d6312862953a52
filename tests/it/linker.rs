//! Linking, against rattler's own installer: the same lock, put on a disk by it and into an
//! image by imgbuild, must give the same prefix but for the differences named here.

mod compare;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use imgbuild::lock::{self, LockedEnv};
use rattler::{
    install::{Installer, InstallerError, LinkOptions},
    package_cache::PackageCache,
};
use rattler_conda_types::{PackageName, Subdir};
use serde_json::Value;

use compare::{Both, Clobbered, Known, differences, is_record};

use crate::support::{Kind, Node, Project, env_file, fixture, hash_file, temp_dir};

const EMPTY_FOLDER: &str = "channels: ['@CHANNEL@']\ndependencies: [empty-dir-demo]\n";

#[test]
fn crafted_packages_link_as_on_a_disk() {
    let seen = compare_env(&env_file("crafted"), "/opt/conda");
    use Known::*;
    assert_eq!(
        seen,
        BTreeSet::from([
            CacheTag,
            History,
            Wrapper,
            ClobberLoser,
            PatchedHardLink,
            WrittenTime,
            Compiled,
            HostPaths
        ]),
        "a known difference is gone, or belongs to another test"
    );
}

#[test]
fn ordinary_packages_link_as_on_a_disk() {
    use Known::*;
    let ordinary = BTreeSet::from([CacheTag, History, Wrapper, WrittenTime, Compiled, HostPaths]);
    assert_eq!(compare_env(&env_file("small"), "/opt/conda"), ordinary);
    assert_eq!(compare_env(&env_file("py39"), "/srv/env"), ordinary);
    let rest = compare_env(&rest(), "/srv/a/long/way/down/to/the/environment");
    assert_eq!(rest, &ordinary | &BTreeSet::from([PatchedHardLink]));
}

#[test]
fn a_whole_torch_links_as_on_a_disk() {
    use Known::*;
    let seen = compare_env(&torch(), "/opt/conda");
    let ordinary = BTreeSet::from([CacheTag, History, Wrapper, WrittenTime, Compiled, HostPaths]);
    assert_eq!(seen, ordinary);
}

/// The one package that rattler's installer cannot link: conda makes its folder.
#[test]
fn an_empty_folder_is_made() {
    let project = Project::new(EMPTY_FOLDER);
    let image = project.build(&["--base", "scratch"]);
    let made = image.rootfs.node("/opt/conda/share/empty-dir-demo/empty");
    assert_eq!((&made.kind, made.mode), (&Kind::Directory, 0o755));
    let record = "/opt/conda/conda-meta/empty-dir-demo-1.0-0.json";
    let record: Value = serde_json::from_str(image.rootfs.text(record)).unwrap();
    let paths = record["paths_data"]["paths"].as_array().unwrap();
    let kinds = paths
        .iter()
        .map(|path| (path["_path"].as_str(), path["path_type"].as_str()));
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [
            (Some("share/empty-dir-demo/empty"), Some("directory")),
            (Some("share/empty-dir-demo/file.txt"), Some("hardlink"))
        ]
    );
    let lock = read_lock(&project);
    let refused = install(&lock.env, "/opt/conda", &temp_dir());
    assert!(
        refused.is_err(),
        "rattler links empty folders now: compare this package too"
    );
}

#[test]
fn an_environment_over_miniconda_links_as_on_a_disk() {
    let project = Project::new(&env_file("crafted"));
    project.write(
        "imgbuild.yaml",
        "base: scratch\nminiconda: {packages: [python=3.9, pip]}\n",
    );
    let image = project.build(&[]);
    let lock = read_lock(&project);
    let env = both(
        &image.rootfs.below("/opt/conda/envs/crafted"),
        &lock.env,
        "/opt/conda/envs/crafted",
    );
    let seen = differences(&env);
    assert!(seen.contains(&Known::Wrapper) && seen.contains(&Known::ClobberLoser));
    let mut base = image.rootfs.below("/opt/conda");
    base.retain(|path, _| !path.starts_with("envs"));
    let base = both(&base, lock.miniconda.as_ref().unwrap(), "/opt/conda");
    assert!(base.image.contains_key(Path::new("bin/python3.9")));
    assert!(!differences(&base).contains(&Known::Wrapper));
}

/// The tests above reach every package of the channel but the one that cannot be installed.
#[test]
fn every_package_of_the_channel_is_compared() {
    let mut compared = BTreeSet::new();
    for env in [
        env_file("crafted"),
        env_file("small"),
        env_file("py39"),
        rest(),
        torch(),
        EMPTY_FOLDER.to_owned(),
    ] {
        let project = project(&env);
        project.ok(&["lock", "env.yml"]);
        let files = read_lock(&project);
        let files = files
            .env
            .packages()
            .iter()
            .map(|r| r.identifier.to_file_name());
        compared.extend(files);
    }
    let channel = fixture("IMGBUILD_TEST_CHANNEL_DIR");
    let folders = ["linux-64", "noarch"].map(|subdir| fs::read_dir(channel.join(subdir)).unwrap());
    let files = folders.into_iter().flatten();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let missed: Vec<String> = files
        .filter(|file| file.ends_with(".conda") || file.ends_with(".tar.bz2"))
        .filter(|file| !compared.contains(file) && !file.starts_with("unsatisfiable-demo"))
        .collect();
    assert!(missed.is_empty(), "no test links {missed:?}");
}

/// What the other environments leave out.
fn rest() -> String {
    env_file("crafted")
        .replace("hello-demo=1.0", "hello-demo=1.1")
        .replace("- names-demo", "- names-demo=1.0")
        .replace("- variant-demo", "- variant-demo=1.0=cpu_0")
        .replace("  - clobber-b\n", "")
        .replace("  - post-link-demo\n", "  - wheel\n  - click\n")
}

fn torch() -> String {
    env_file("torch") + "  - torchvision\n  - variant-demo\n  - requests\n"
}

fn project(env: &str) -> Project {
    Project::new(env).with_env("CONDA_OVERRIDE_CUDA", "13.2")
}

/// Builds and installs one environment and returns the kinds of difference.
fn compare_env(env: &str, prefix: &str) -> BTreeSet<Known> {
    let project = project(env);
    let image = project.build(&["--base", "scratch", "--prefix", prefix]);
    let lock = read_lock(&project);
    let both = both(&image.rootfs.below(prefix), &lock.env, prefix);
    differences(&both)
}

fn read_lock(project: &Project) -> lock::Lock {
    let text = fs::read_to_string(project.path("env.lock.yml")).unwrap();
    lock::parse(&text, "env.lock.yml", project.dir.path(), Subdir::Linux64).unwrap()
}

/// Installs the packages below `home` as if into `prefix`.
fn install(
    locked: &LockedEnv,
    prefix: &str,
    home: &tempfile::TempDir,
) -> Result<Clobbered, InstallerError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let installer = Installer::new()
        .with_package_cache(PackageCache::new(home.path().join("pkgs")))
        .with_download_client(lock::http_client(&lock::ClientOptions::default()).unwrap())
        .with_target_platform(Subdir::Linux64)
        .with_alternative_target_prefix(prefix)
        .with_installed_packages(Vec::new())
        .with_link_options(LinkOptions {
            allow_symbolic_links: Some(true),
            allow_hard_links: Some(true),
            allow_ref_links: Some(false),
        });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let records = locked.packages().to_vec();
    let result = runtime.block_on(installer.install(home.path().join("prefix"), records))?;
    let name = |name: &PackageName| name.as_normalized().to_owned();
    let clobbered = result.clobbered_paths.into_iter().map(|(path, found)| {
        let losers = found.other_packages.iter().map(name).collect();
        (path, (name(&found.package), losers))
    });
    Ok(clobbered.collect())
}

/// Installs the packages and reads both prefixes.
fn both(image: &BTreeMap<PathBuf, Node>, locked: &LockedEnv, prefix: &str) -> Both {
    let home = temp_dir();
    let clobbered = install(locked, prefix, &home).unwrap();
    let dir = home.path().join("prefix");
    let mut installed = BTreeMap::new();
    walk(&dir, Path::new(""), &mut installed);
    let names: Vec<&PathBuf> = installed.keys().filter(|path| is_record(path)).collect();
    assert_eq!(names.len(), locked.packages().len());
    let records = names.into_iter().map(|name| {
        let Kind::File {
            content: Some(ours),
            ..
        } = &image[name].kind
        else {
            panic!("{} is no file", name.display());
        };
        let theirs = fs::read(dir.join(name)).unwrap();
        let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
        (parse(ours), parse(&theirs))
    });
    Both {
        image: image.clone(),
        records: records.collect(),
        installed,
        clobbered,
    }
}

fn walk(root: &Path, folder: &Path, into: &mut BTreeMap<PathBuf, Node>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        let real = root.join(&path);
        let meta = fs::symlink_metadata(&real).unwrap();
        let kind = if meta.is_dir() {
            walk(root, &path, into);
            Kind::Directory
        } else if meta.is_symlink() {
            Kind::Symlink(fs::read_link(&real).unwrap())
        } else {
            Kind::File {
                sha256: hash_file(&real).0,
                content: None,
                inode: meta.ino() as usize,
            }
        };
        let node = Node {
            kind,
            mode: meta.mode() & 0o7777,
            uid: 0,
            gid: 0,
            mtime: meta.mtime() as u64,
        };
        into.insert(path, node);
    }
}
