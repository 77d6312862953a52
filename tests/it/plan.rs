//! `build --dry-run`, wheels among the layers, and that a lock's wording does not reach the image.

mod why;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    num::NonZeroUsize,
    path::Path,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use imgbuild::{
    base::{BaseImage, BaseSource, Ground, tree::BaseTree},
    build::{self, Order, Tools},
    cache_from::CacheFrom,
    digest::Digest,
    error::Exit,
    layer::Compressors,
    lock::{self, LockedWheel},
    package::Decoders,
    report::Reporter,
    spec::{ImageSpec, Overrides},
    store::Store,
};
use rattler_conda_types::Subdir;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    mini::{self, Mini},
    support::{Channel, Image, Project, env_file},
};

const PACKAGES: [&str; 3] = [
    "hello-demo-1.0-0.tar.bz2",
    "generic-demo-1.0-0.tar.bz2",
    "names-demo-1.1-0.conda",
];

/// A project over a channel of three small packages.
fn small(channel: &str) -> Project {
    let names = ["hello-demo", "generic-demo", "names-demo"];
    let project = Project::new(&mini::env(channel, &names));
    project.write("code/train.py", "print('training')\n");
    project
}

const DRY: [&str; 5] = ["build", "env.yml", "--dry-run", "--code", "code"];

fn dry(project: &Project, args: &[&str]) -> Value {
    let output = project.ok(&[&DRY, args, &["--format", "json"]].concat());
    serde_json::from_str(&output.stdout).unwrap()
}

fn states(plan: &Value) -> BTreeSet<(&str, &str)> {
    let layers = plan["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| {
            (
                layer["tier"].as_str().unwrap(),
                layer["state"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_plan_needs_neither_network_nor_packages() {
    let mini = Mini::of(&PACKAGES);
    let served = Channel::serve(mini.path());
    let project = small(&served.url);
    project.ok(&["lock", "env.yml"]);
    drop(served);
    let plan = dry(&project, &["--base", "scratch"]);
    assert_eq!(
        states(&plan),
        BTreeSet::from([
            ("other", "to-build"),
            ("state", "to-build"),
            ("code", "to-build")
        ])
    );
    let size: u64 = PACKAGES
        .iter()
        .map(|file| mini.file(file).metadata().unwrap().len())
        .sum();
    let totals = &plan["totals"];
    assert_eq!(totals["download_bytes"], size);
    assert_eq!(
        (&totals["packages"], &totals["download_packages"]),
        (&3.into(), &3.into())
    );
    assert_eq!(totals["packages_of_unknown_size"], 0);
    assert!(
        plan["notes"][0]
            .as_str()
            .unwrap()
            .contains("is unknown until generic-demo, hello-demo and names-demo are here")
    );
    for folder in ["packages", "layers", "images"] {
        assert_eq!(
            mini::names(&project.cache.join(folder)),
            [""; 0],
            "{folder}"
        );
    }
    let text = project.ok(&[&DRY[..], &["--base", "scratch"]].concat());
    insta::assert_snapshot!(text.stdout);
    assert_eq!(text.stderr, "");
}

#[test]
fn a_plan_tells_what_the_build_then_does() {
    let project = Project::new(&env_file("crafted"));
    project.write("code/train.py", "print('training')\n");
    let base = mini::base();
    let build = ["build", "env.yml", "--code", "code", "--base", &base];
    let before = dry(&project, &["--base", &base]);
    let image = project.image(&project.ok(&build));
    let after = dry(&project, &["--base", &base]);
    let titles = |plan: &Value| -> Vec<String> {
        let layers = plan["layers"].as_array().unwrap().iter();
        layers
            .map(|layer| layer["title"].as_str().unwrap().to_owned())
            .collect()
    };
    let ours: Vec<String> = image.ours().map(|layer| layer.title.clone()).collect();
    for plan in [&before, &after] {
        assert_eq!(titles(plan), ours);
        assert_eq!(plan["totals"]["layers"], image.layers.len());
        assert_eq!(plan["base"]["known"], true);
    }
    assert_eq!(
        states(&after),
        BTreeSet::from([
            ("miniconda", "stored"),
            ("other", "stored"),
            ("state", "to-build"),
            ("code", "stored")
        ])
    );
    assert_eq!(after["totals"]["download_packages"], 0);

    // With the packages here and another prefix, what must be built is known.
    let moved = dry(&project, &["--base", &base, "--prefix", "/srv/env"]);
    assert!(states(&moved).contains(&("other", "to-build")));
    assert_eq!(moved["totals"]["download_packages"], 0);
    assert_eq!(moved["notes"], serde_json::json!([]));
}

#[test]
fn a_base_that_is_not_here_is_assumed() {
    let mini = Mini::of(&PACKAGES);
    let project = small(&mini.url());
    project.ok(&["build", "env.yml", "--base", "scratch"]);
    let plan = dry(&project, &["--base", "registry.invalid/base:1"]);
    assert_eq!(plan["base"]["known"], false);
    assert_eq!(
        states(&plan),
        BTreeSet::from([
            ("other", "expected"),
            ("state", "to-build"),
            ("code", "unknown")
        ])
    );
    let note = plan["notes"][0].as_str().unwrap();
    assert!(
        note.contains("registry.invalid/base:1 is not on this machine"),
        "{note}"
    );
}

/// Locks of other tools leave out what archives say themselves.
#[test]
fn a_lock_that_says_less_gives_the_same_image() {
    const LEFT_OUT: [&str; 8] = [
        "  md5:",
        "  size:",
        "  license:",
        "  license_family:",
        "  timestamp:",
        "  constrains:",
        "  build_number:",
        "  track_features:",
    ];
    let project = Project::new(&env_file("small"));
    let full = project.build(&["--base", "scratch"]);
    let lock = mini::read(&project, "env.lock.yml");
    let mut listed = false;
    let mut thin = String::new();
    for line in lock.lines() {
        // The items of a list stand where its key does.
        let item = listed && line.starts_with("  - ");
        listed = item || LEFT_OUT.iter().any(|key| line.starts_with(key));
        if !listed {
            thin.push_str(line);
            thin.push('\n');
        }
    }
    assert!(
        thin.len() < lock.len() * 9 / 10,
        "nothing was left out:\n{lock}"
    );
    let other = Project::new(&env_file("small"));
    other.write("env.lock.yml", &thin);
    let image: Image = other.build(&["--base", "scratch"]);
    assert_eq!(mini::read(&other, "env.lock.yml"), thin);
    assert_eq!(image.digest, full.digest);
}

/// A wheel of these files and nothing else, in a folder.
pub fn wheel(dir: &Path, name: &str, version: &str, files: &[(&str, &str)]) -> LockedWheel {
    let info = format!("{name}-{version}.dist-info");
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    let format = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let mut all: Vec<(String, String)> = files
        .iter()
        .map(|(path, text)| (path.to_string(), text.to_string()))
        .collect();
    all.push((format!("{info}/METADATA"), metadata));
    all.push((format!("{info}/WHEEL"), format.into()));
    let row = |(path, text): &(String, String)| {
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(text));
        format!("{path},sha256={hash},{}\n", text.len())
    };
    let rows: String = all.iter().map(row).collect();
    all.push((format!("{info}/RECORD"), format!("{rows}{info}/RECORD,,\n")));
    let path = dir.join(format!("{name}-{version}-py3-none-any.whl"));
    let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    let options = options.last_modified_time(zip::DateTime::default());
    for (path, text) in all {
        zip.start_file(path, options).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap();
    let bytes = fs::read(&path).unwrap();
    LockedWheel {
        name: name.into(),
        version: version.into(),
        url: url::Url::from_file_path(&path).unwrap(),
        sha256: Digest::of(&bytes),
        size: None,
    }
}

/// Builds what the project's env.yml and these wheels give.
fn build_with(
    project: &Project,
    wheels: Vec<LockedWheel>,
    flags: Overrides,
) -> imgbuild::error::Result<Image> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    project.ok(&["lock", "env.yml"]);
    let text = mini::read(project, "env.lock.yml");
    let mut lock = lock::parse(&text, "env.lock.yml", project.dir.path(), Subdir::Linux64)?;
    lock.env = lock.env.with_wheels(wheels);
    let base = Some(BaseSource::Scratch);
    let spec = ImageSpec::resolve(&project.path("env.yml"), Overrides { base, ..flags })?.remove(0);
    let store = Store::open(&project.cache)?;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tools = Tools {
        store: &store,
        reporter: &Reporter::stderr(true),
        client: &lock::http_client(&lock::ClientOptions::default())?,
        runtime: runtime.handle(),
        compressors: &Compressors::new(NonZeroUsize::MIN, spec.compression),
        decoders: Decoders::new(2),
        threads: 2,
        cache_from: &CacheFrom::default(),
        natives: &[],
        made: &|_| {},
        next: &|_| {},
        order: Order::LargestFirst,
    };
    let ground = Ground {
        image: BaseImage::scratch(),
        tree: BaseTree::default(),
    };
    let image = build::build(&spec, &lock, &ground, &tools)?;
    let blobs = project.cache.join("blobs/sha256");
    Ok(Image::read(&blobs, &image.digest.to_string()))
}

const SITE: &str = "/opt/conda/lib/python3.11/site-packages";

fn python() -> Project {
    Project::new("channels: ['@CHANNEL@']\ndependencies: [python=3.11, click]\n")
}

#[test]
fn wheels_stand_above_conda_packages_in_a_tier_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let one = wheel(
        dir.path(),
        "one",
        "1.0",
        &[("one.py", "X = 1\n"), ("ns/__init__.py", "")],
    );
    let two = wheel(
        dir.path(),
        "two",
        "1.0",
        &[("two.py", "X = 2\n"), ("ns/__init__.py", "")],
    );
    let torch = wheel(dir.path(), "torch", "2.9", &[("torch/__init__.py", "")]);
    let project = python();
    let wheels = vec![two.clone(), torch.clone(), one.clone()];
    let image = build_with(&project, wheels, Overrides::default()).unwrap();
    let titles: Vec<&str> = image.ours().map(|layer| layer.title.as_str()).collect();
    let position = |title: &str| titles.iter().position(|t| t.starts_with(title)).unwrap();
    assert!(titles.contains(&"CUDA + PyTorch: torch 2.9"), "{titles:?}");
    assert!(position("Miniconda base") < position("CUDA + PyTorch"));
    assert!(position("Conda packages: click") < position("pip packages"));
    assert!(position("pip packages") < position("Environment state"));
    let names = [
        "one.py",
        "two.py",
        "ns/__init__.py",
        "one-1.0.dist-info/INSTALLER",
    ];
    for name in names {
        image.rootfs.node(format!("{SITE}/{name}"));
    }

    // Neither the lock's order nor what is in the cache matters.
    let other = python();
    let wheels = vec![one, two.clone(), torch.clone()];
    let again = build_with(&other, wheels, Overrides::default()).unwrap();
    assert_eq!(again.digest, image.digest);

    // A new version changes its layer alone: neither history nor any record names wheels.
    let one = wheel(
        dir.path(),
        "one",
        "1.1",
        &[("one.py", "X = 3\n"), ("ns/__init__.py", "")],
    );
    let newer = build_with(&other, vec![one, two, torch], Overrides::default()).unwrap();
    let changed = newer.titles_not_in(&image);
    assert!(
        changed.len() == 1 && changed[0].starts_with("pip packages"),
        "{changed:?}"
    );
}

#[test]
fn a_wheel_overwrites_a_conda_package_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let files = [("click/__init__.py", "VERSION = 'from pip'\n")];
    let click = wheel(dir.path(), "click", "99.0", &files);
    let project = python();
    let refused = build_with(&project, vec![click.clone()], Overrides::default());
    let error = refused.err().unwrap();
    insta::assert_snapshot!(error.to_string());
    assert_eq!(error.exit(), Exit::Input);
    assert_eq!(mini::names(&project.cache.join("layers")), [""; 0]);

    project.write("imgbuild.yaml", "base: scratch\npip_overwrites: true\n");
    let image = build_with(&project, vec![click], Overrides::default()).unwrap();
    let init = image.rootfs.text(format!("{SITE}/click/__init__.py"));
    assert_eq!(init, files[0].1);
    // Nothing of conda's version is left beside it, and its record says so.
    let site = image.rootfs.below(SITE);
    let click: Vec<String> = site
        .keys()
        .map(|path| path.display().to_string())
        .filter(|path| path.starts_with("click"))
        .collect();
    let info = "click-99.0.dist-info";
    let left = ["INSTALLER", "METADATA", "RECORD", "WHEEL"].map(|name| format!("{info}/{name}"));
    let module = [
        "click",
        "click/__init__.py",
        "click/__pycache__",
        "click/__pycache__/__init__.cpython-311.pyc",
        info,
    ];
    assert_eq!(click, [&module.map(String::from)[..], &left].concat());
    let record = "/opt/conda/conda-meta/click-8.5.1-pyhd8ed1ab_0.json";
    let record: Value = serde_json::from_str(image.rootfs.text(record)).unwrap();
    assert_eq!(record["files"], serde_json::json!([]));
}
