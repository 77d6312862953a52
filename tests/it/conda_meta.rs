//! What conda tools read in the container: `conda-meta`, and that it tells of the lock alone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{Image, Kind, Project, channel, env_file, fixture, run, source, temp_dir};

/// An image with a Miniconda base and an environment over it.
fn miniconda() -> (Project, Image) {
    let project = Project::new(&env_file("crafted"));
    project.write(
        "imgbuild.yaml",
        "base: scratch\nminiconda: {packages: [python=3.9, pip]}\n",
    );
    let image = project.build(&[]);
    (project, image)
}

/// py-rattler's reading of a prefix of the image and of the lock.
fn second_opinion(project: &Project, image: &Image, prefix: &str, environment: &str) -> Value {
    let dir = temp_dir();
    fs::create_dir(dir.path().join("conda-meta")).unwrap();
    for path in image.rootfs.below(prefix).keys() {
        if path.parent() == Some(Path::new("conda-meta")) {
            let text = image.rootfs.text(Path::new(prefix).join(path));
            fs::write(dir.path().join(path), text).unwrap();
        }
    }
    let printed = run(Command::new(fixture("IMGBUILD_TEST_PYTHON"))
        .arg(source("tests/support/read_prefix.py"))
        .args([dir.path(), &project.path("env.lock.yml")])
        .arg(environment));
    serde_json::from_str(&printed).unwrap()
}

#[test]
fn another_reader_lists_exactly_the_lock() {
    let (project, image) = miniconda();
    for (prefix, environment, least) in [
        ("/opt/conda", "miniconda", 10),
        ("/opt/conda/envs/crafted", "default", 25),
    ] {
        let read = second_opinion(&project, &image, prefix, environment);
        let installed = read["installed"].as_array().unwrap();
        assert!(installed.len() >= least, "only {}", installed.len());
        assert_eq!(read["installed"], read["locked"]);
        for package in installed {
            assert_eq!(
                package["channel"].as_str().unwrap().trim_end_matches('/'),
                channel()
            );
        }
    }
}

#[test]
fn every_file_has_one_owner_and_its_recorded_hash() {
    let (_, image) = miniconda();
    let prefix = Path::new("/opt/conda/envs/crafted");
    let nodes = image.rootfs.below(prefix);
    let mut owned: BTreeSet<PathBuf> = BTreeSet::new();
    for path in nodes
        .keys()
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
    {
        if path.parent() != Some(Path::new("conda-meta")) {
            continue;
        }
        owned.insert(path.clone());
        let record: Value = serde_json::from_str(image.rootfs.text(prefix.join(path))).unwrap();
        for listed in record["paths_data"]["paths"].as_array().unwrap() {
            let path = PathBuf::from(listed["_path"].as_str().unwrap());
            let node = &nodes[&path];
            // conda gives compiled files no hash.
            let hashed = listed["path_type"] != "pyc_file";
            if let (Kind::File { sha256, .. }, true) = (&node.kind, hashed) {
                let hash = listed.get("sha256_in_prefix").unwrap_or(&listed["sha256"]);
                assert_eq!(hash, sha256, "{}", path.display());
            }
            assert!(owned.insert(path), "{listed} has two owners");
        }
    }
    owned.extend(["conda-meta/history", "bin/imgbuild-entrypoint"].map(PathBuf::from));
    let files = nodes
        .iter()
        .filter(|(_, node)| node.kind != Kind::Directory);
    let files: BTreeSet<PathBuf> = files.map(|(path, _)| path.clone()).collect();
    assert_eq!(files, owned);
}

#[test]
fn the_history_is_condas() {
    let env = "channels: ['@CHANNEL@']\ndependencies: [\"hello-demo>=1.0,<1.1\", generic-demo]\n";
    let project = Project::new(env);
    let image = project.build(&["--base", "scratch"]);
    let channel = channel();
    let expected = format!(
        "==> 2023-11-14 22:13:20 <==\n\
         # cmd: imgbuild build\n\
         +{channel}/linux-64::hello-demo-1.0-0\n\
         +{channel}/noarch::generic-demo-1.0-0\n\
         # update specs: ['hello-demo>=1.0,<1.1', 'generic-demo']\n"
    );
    assert_eq!(image.rootfs.text("/opt/conda/conda-meta/history"), expected);
    // conda reads the specs as Python would.
    let specs = expected.lines().last().unwrap().split_once(": ").unwrap().1;
    let script = "import ast, sys; print(*ast.literal_eval(sys.argv[1]), sep=';', end='')";
    let read = run(Command::new("python3").args(["-c", script, specs]));
    assert_eq!(read, "hello-demo>=1.0,<1.1;generic-demo");
}

#[test]
fn nothing_of_the_host_is_in_the_image() {
    const HOST: &str = "imgbuild-test-host-5c1d";
    const USER: &str = "imgbuild-test-user-93be";
    let project = Project::new(&env_file("crafted"))
        .with_env("USER", USER)
        .with_env("LOGNAME", USER)
        .with_env("HOSTNAME", HOST);
    project.write("code/main.py", "print('hello')\n");
    let base = fixture("IMGBUILD_TEST_BASE");
    let rename = format!("hostname {HOST} && exec \"$@\"");
    let root = run(Command::new("id").arg("-u")).trim() == "0";
    let own = if root { "--uts" } else { "--map-root-user" };
    let output = project.ok_through(
        &["unshare", "--uts", own, "sh", "-c", &rename, "sh"],
        &[
            "build",
            "env.yml",
            "--code",
            "code",
            "--base",
            &format!("oci:{}", base.display()),
        ],
    );
    let image = project.image(&output);
    let needles = [
        HOST,
        USER,
        env!("CARGO_TARGET_TMPDIR"),
        base.to_str().unwrap(),
    ];
    for needle in needles {
        for document in [&image.config, &image.manifest] {
            assert!(
                !document.to_string().contains(needle),
                "{needle} in {document}"
            );
        }
        for layer in image.ours() {
            assert!(
                !layer.contains(needle.as_bytes()),
                "{needle} in '{}'",
                layer.title
            );
        }
    }
    // The search finds what is there.
    assert!(
        image
            .ours()
            .any(|layer| layer.contains(channel().as_bytes()))
    );
}
