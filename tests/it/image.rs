//! Whole images: what the flags and imgbuild.yaml set, the base under them, and every output.
//! The rules that hold for each image are in `support::Image`, which reads all of them.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{
    Image, Kind, Project, Rootfs, env_file, fixture, hash_file, run, validate_layout,
};

/// No Python, so it builds at once.
const HELLO: &str = "name: hello\nchannels: ['@CHANNEL@']\ndependencies: [hello-demo=1.0]\n";

fn base() -> String {
    format!("oci:{}", fixture("IMGBUILD_TEST_BASE").display())
}

fn project_with_code() -> Project {
    let project = Project::new(HELLO);
    project.write("code/train.py", "print('training')\n");
    project
}

#[test]
fn flags_and_imgbuild_yaml_set_the_same() {
    let project = project_with_code();
    let by_flags = project.build(&[
        "--base",
        &base(),
        "--code",
        "code:/srv/app",
        "--user",
        "1000:100",
        "--workdir",
        "/data",
        "-e",
        "MODE=train",
        "-e",
        "LANG=de_DE.UTF-8",
        "--entrypoint",
        "python -u",
        "--cmd",
        "train.py '--name=a b'",
        "--label",
        "team=vision",
        "--prefix",
        "/srv/env",
        "--annotation",
        "org.opencontainers.image.source=https://example.org/repo",
    ]);
    let set = &by_flags.config["config"];
    assert_eq!(set["User"], "1000:100");
    assert_eq!(set["WorkingDir"], "/data");
    assert_eq!(set["Entrypoint"], json!(["python", "-u"]));
    assert_eq!(set["Cmd"], json!(["train.py", "--name=a b"]));
    assert_eq!(
        set["Env"],
        json!([
            "PATH=/srv/env/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=de_DE.UTF-8",
            "CONDA_DEFAULT_ENV=base",
            "CONDA_PREFIX=/srv/env",
            "MODE=train",
        ])
    );
    assert_eq!(
        set["Labels"],
        json!({
            "dev.imgbuild.prefix": "/srv/env",
            "org.example.base": "debian-12",
            "team": "vision",
        })
    );
    let annotations = &by_flags.manifest["annotations"];
    assert_eq!(
        annotations["org.opencontainers.image.source"],
        "https://example.org/repo"
    );
    assert_eq!(
        by_flags.rootfs.text("/srv/app/train.py"),
        "print('training')\n"
    );

    let by_file = project_with_code();
    by_file.write(
        "imgbuild.yaml",
        &format!(
            "base: {}\ncode: {{path: code, dest: /srv/app}}\nuser: 1000:100\nworkdir: /data\n\
             env: {{MODE: train, LANG: de_DE.UTF-8}}\nentrypoint: [python, -u]\n\
             cmd: train.py '--name=a b'\nlabels: {{team: vision}}\nprefix: /srv/env\n\
             annotations: {{org.opencontainers.image.source: 'https://example.org/repo'}}\n",
            base()
        ),
    );
    assert_eq!(by_file.build(&[]).digest, by_flags.digest);
    // Flags win over the file.
    let both = by_file.build(&["--user", "nobody", "-e", "MODE=eval"]);
    assert_eq!(both.config["config"]["User"], "nobody");
    assert!(list(&both.config["config"]["Env"]).contains(&json!("MODE=eval")));
}

#[test]
fn the_base_image_is_kept() {
    let base_image = Image::of_layout(&fixture("IMGBUILD_TEST_BASE"));
    let project = Project::new(&env_file("crafted"));
    let image = project.build(&["--base", &base()]);
    let count = base_image.layers.len();
    for (kept, original) in image.layers.iter().zip(&base_image.layers) {
        assert_eq!(kept.digest, original.digest);
        assert!(!kept.ours);
    }
    assert!(image.layers[count..].iter().all(|layer| layer.ours));
    let histories = [&image, &base_image].map(|image| list(&image.config["history"]));
    assert_eq!(histories[0][..histories[1].len()], histories[1][..]);
    assert_eq!(
        image.config["config"]["Cmd"],
        base_image.config["config"]["Cmd"]
    );
    assert_eq!(
        image.config["config"]["Entrypoint"],
        json!(["/opt/conda/bin/imgbuild-entrypoint"])
    );
    let annotations = &image.manifest["annotations"];
    assert_eq!(
        annotations["org.opencontainers.image.base.digest"],
        base_image.digest
    );
    // No layer changes anything of the base: not even the attributes of its folders.
    for (path, node) in &base_image.rootfs.nodes {
        assert_eq!(image.rootfs.node(path), node, "{}", path.display());
    }
}

#[test]
fn titles_say_what_is_in_a_layer() {
    let project = Project::new(&env_file("crafted"));
    project.write("code/a.txt", "a\n");
    let image = project.build(&["--base", "scratch", "--code", "code"]);
    let titles: Vec<&str> = image.ours().map(|layer| layer.title.as_str()).collect();
    assert!(titles[0].contains("python 3.11.2"), "{titles:?}");
    let end = &titles[titles.len() - 2..];
    assert_eq!(
        end,
        [
            "Environment state: conda history, activation",
            "User code in /workspace"
        ]
    );
    let keyed = list(&image.manifest["layers"]).iter().filter(|layer| {
        let key = layer["annotations"]["dev.imgbuild.layer-key"].as_str();
        key.is_some_and(|key| key.starts_with("sha256:"))
    });
    assert_eq!(
        keyed.count(),
        titles.len() - 1,
        "all but the state's have a key"
    );
}

#[test]
fn layers_stay_within_their_budget() {
    let project = Project::new(&env_file("crafted"));
    let wide = project.build(&["--base", "scratch"]);
    let narrow = project.build(&["--base", "scratch", "--max-layers", "6"]);
    assert!(narrow.layers.len() <= 6 && wide.layers.len() > 6);
    let files = |image: &Image| image.rootfs.nodes.keys().cloned().collect::<Vec<_>>();
    assert_eq!(files(&wide), files(&narrow));
    let refused = project.imgbuild(&["build", "env.yml", "--base", "scratch", "--max-layers", "5"]);
    refused.expect(2);
    assert!(
        refused.stderr.contains("--max-layers"),
        "{}",
        refused.stderr
    );
}

#[test]
fn user_code_is_normalised() {
    let project = Project::new(HELLO);
    let files = [
        ("main.py", 0o600),
        ("run.sh", 0o700),
        ("shared.sh", 0o777),
        ("pkg/__init__.py", 0o444),
        ("pkg/__pycache__/x.pyc", 0o644),
        ("logs/a.log", 0o644),
        ("logs/keep.log", 0o644),
        (".git/HEAD", 0o644),
    ];
    for (path, mode) in files {
        project.write(&format!("code/{path}"), path);
        let path = project.path("code").join(path);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    project.write(
        "code/.dockerignore",
        "# not these\n**/__pycache__\n.git\n*.log\nlogs/*\n!logs/keep.log\n",
    );
    fs::create_dir(project.path("code/data")).unwrap();
    fs::set_permissions(project.path("code/data"), Permissions::from_mode(0o700)).unwrap();
    symlink("../main.py", project.path("code/pkg/up.py")).unwrap();
    if run(Command::new("id").arg("-u")).trim() == "0" {
        std::os::unix::fs::chown(project.path("code/main.py"), Some(1234), Some(1234)).unwrap();
    }
    let image = project.build(&["--base", "scratch", "--code", "code:/srv/app"]);
    let made: BTreeMap<String, String> = image
        .rootfs
        .below("srv/app")
        .into_iter()
        .map(|(path, node)| {
            assert_eq!((node.uid, node.gid, node.mtime), (0, 0, 315_532_800));
            let what = match node.kind {
                Kind::Directory => format!("folder {:o}", node.mode),
                Kind::Symlink(target) => format!("-> {}", target.display()),
                _ => format!("file {:o}", node.mode),
            };
            (path.display().to_string(), what)
        })
        .collect();
    let expected = [
        (".dockerignore", "file 644"),
        ("data", "folder 755"),
        ("logs", "folder 755"),
        ("logs/keep.log", "file 644"),
        ("main.py", "file 644"),
        ("pkg", "folder 755"),
        ("pkg/__init__.py", "file 644"),
        ("pkg/up.py", "-> ../main.py"),
        ("run.sh", "file 755"),
        ("shared.sh", "file 755"),
    ];
    let expected: BTreeMap<String, String> = expected
        .map(|(path, what)| (path.into(), what.into()))
        .into();
    assert_eq!(made, expected);
}

#[test]
fn links_out_of_the_code_are_refused() {
    for target in ["/etc/passwd", "../env.yml", "sub/../../env.yml"] {
        let project = project_with_code();
        fs::create_dir(project.path("code/sub")).unwrap();
        symlink(target, project.path("code/way-out")).unwrap();
        let out = project.path("out");
        let output = format!("type=oci,dest={}", out.display());
        let refused = project.imgbuild(&[
            "build", "env.yml", "--base", "scratch", "--code", "code", "-o", &output,
        ]);
        refused.expect(2);
        assert!(refused.stderr.contains("way-out"), "{}", refused.stderr);
        assert!(!out.exists() && refused.stdout.is_empty());
    }
}

#[test]
fn every_output_holds_the_same_image() {
    let project = project_with_code();
    let image = project.build(&[
        "--base",
        &base(),
        "--code",
        "code",
        "-t",
        "train:dev",
        "-o",
        "type=oci,dest=out",
        "-o",
        "type=oci-archive,dest=oci.tar",
        "-o",
        "type=docker-archive,dest=docker.tar",
    ]);
    let layout = Image::of_layout(&project.path("out"));
    assert_eq!(layout.digest, image.digest);
    let rootfs = Rootfs::of_layout(&project.path("out"));
    assert_eq!(rootfs.nodes, image.rootfs.nodes);

    let blobs = fs::read_dir(project.path("out/blobs/sha256")).unwrap();
    let blobs = blobs.map(|blob| blob.unwrap().file_name().into_string().unwrap());
    let mut documents: BTreeMap<String, String> = blobs
        .map(|name| (format!("blobs/sha256/{name}"), name))
        .collect();
    for name in ["oci-layout", "index.json"] {
        documents.insert(name.into(), hash_file(&project.path("out").join(name)).0);
    }
    assert_eq!(archived(&project.path("oci.tar")), documents);
    holds_plain_layers(&project, &image);

    for (transport, file) in [
        ("oci", "out"),
        ("oci-archive", "oci.tar"),
        ("docker-archive", "docker.tar"),
    ] {
        let place = format!("{transport}:{}", project.path(file).display());
        let config = run(Command::new("skopeo").args(["inspect", "--config", &place]));
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["rootfs"], image.config["rootfs"], "{transport}");
        assert_eq!(config["config"]["Env"], image.config["config"]["Env"]);
        let seen = run(Command::new("skopeo").args(["inspect", &place]));
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(list(&seen["Layers"]).len(), image.layers.len());
        if transport != "docker-archive" {
            assert_eq!(seen["Digest"], image.digest, "{transport}");
        }
    }
}

/// docker.tar is for Docker 20.10, which reads no zstd: our layers are tars there, and what the
/// archive says of itself fits.
fn holds_plain_layers(project: &Project, image: &Image) {
    let docker = archived(&project.path("docker.tar"));
    let blobs = docker.iter().filter_map(|(name, hash)| {
        let name = name.strip_prefix("blobs/sha256/")?;
        assert_eq!(name, hash, "a blob is not what its name says");
        Some(name)
    });
    let dir = project.path("docker");
    fs::create_dir(&dir).unwrap();
    run(Command::new("tar").arg("-xf").args([
        project.path("docker.tar"),
        "-C".into(),
        dir.clone(),
    ]));
    let document = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(dir.join(path)).unwrap()).unwrap()
    };
    let blob = |digest: &Value| format!("blobs/sha256/{}", &digest.as_str().unwrap()[7..]);
    let index = document("index.json");
    let manifest = document(&blob(&index["manifests"][0]["digest"]));
    assert_eq!(manifest["config"], image.manifest["config"]);
    let listed = &document("manifest.json")[0];
    assert_eq!(listed["Config"], blob(&manifest["config"]["digest"]));
    let diff_ids = list(&image.config["rootfs"]["diff_ids"]);
    let layers = list(&manifest["layers"])
        .iter()
        .zip(list(&listed["Layers"]));
    for (place, (layer, path)) in layers.enumerate() {
        assert_eq!(*path, blob(&layer["digest"]));
        let file = dir.join(path.as_str().unwrap());
        assert_eq!(layer["size"], fs::metadata(file).unwrap().len());
        if image.layers[place].ours {
            assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar");
            assert_eq!(layer["digest"], diff_ids[place]);
        } else {
            assert_eq!(*layer, image.manifest["layers"][place]);
        }
    }
    assert_eq!(list(&manifest["layers"]).len(), diff_ids.len());
    // The layers, the manifest and the config, and nothing else.
    assert_eq!(blobs.count(), diff_ids.len() + 2);
}

/// The files of an archive and their hashes.
fn archived(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            std::io::copy(&mut entry, &mut bytes).unwrap();
            let hash = imgbuild::digest::Digest::of(&bytes).hex();
            assert!(files.insert(name, hash).is_none());
        }
    }
    files
}

#[test]
fn a_layout_keeps_its_other_images() {
    let project = Project::new(HELLO);
    let build = |tag: &str| {
        let image = project.build(&["--base", "scratch", "-t", tag, "-o", "type=oci,dest=out"]);
        let images = validate_layout(&project.path("out"));
        (image.digest, images.len())
    };
    let names = || -> BTreeMap<String, String> {
        let index: Value =
            serde_json::from_slice(&fs::read(project.path("out/index.json")).unwrap()).unwrap();
        let entries = list(&index["manifests"]).iter().map(|descriptor| {
            let name = &descriptor["annotations"]["org.opencontainers.image.ref.name"];
            let name = name.as_str().unwrap_or("").rsplit('/').next().unwrap();
            (
                name.to_owned(),
                descriptor["digest"].as_str().unwrap().to_owned(),
            )
        });
        entries.collect()
    };
    let (first, _) = build("first:1");
    project.write_env(&HELLO.replace("1.0", "1.1"));
    let (second, count) = build("second:1");
    assert_ne!(first, second);
    assert_eq!(count, 2);
    let both = BTreeMap::from([
        ("first:1".into(), first),
        ("second:1".into(), second.clone()),
    ]);
    assert_eq!(names(), both);
    // The name moves to the new image; the image it was stays without one, or goes.
    let (third, _) = build("first:1");
    assert_eq!(third, second);
    assert_eq!(names()["first:1"], third);
    assert_eq!(
        names()["second:1"],
        second,
        "another name of the same image was dropped"
    );
}

fn list(value: &Value) -> &Vec<Value> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"))
}
