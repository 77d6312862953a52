//! Properties of comparisons: nothing where nothing is different, one mirrors the other, and what
//! is said to be different is all that is.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;

fn id(area: Area, manager: Manager, name: &str) -> PackageId {
    PackageId {
        area,
        manager,
        name: name.into(),
    }
}

fn package(version: u8, build: u8, content: u8) -> Package {
    Package {
        version: version.to_string(),
        build: Some(build.to_string()),
        channel: Some("https://host/c/".into()),
        sha256: Some(Digest::of(&[version, build, content])),
        size: Some(u64::from(content)),
    }
}

fn packages() -> impl Strategy<Value = Packages> {
    let area = prop_oneof![Just(Area::Environment), Just(Area::Miniconda)];
    let manager = prop_oneof![Just(Manager::Conda), Just(Manager::Pip)];
    let id = (area, manager, "[a-d]").prop_map(|(area, manager, name)| id(area, manager, &name));
    let package = (0_u8..3, 0_u8..2, 0_u8..2).prop_map(|(v, b, c)| package(v, b, c));
    proptest::collection::btree_map(id, package, 0..10)
}

fn layers() -> impl Strategy<Value = Vec<Layer>> {
    // The blob of content 0 and 1 are compressed in two ways.
    let layer = (0_u8..6, 0_u8..2).prop_map(|(content, codec)| {
        let codec = if content < 2 { codec } else { 0 };
        Layer {
            title: format!("layer {content}"),
            bytes: u64::from(content) + 1,
            digest: Some(Digest::of(&[content, codec, 1])),
            diff_id: Some(crate::digest::DiffId(Digest::of(&[content]))),
            key: None,
            contents: None,
        }
    });
    proptest::collection::vec(layer, 0..8)
}

fn facts() -> impl Strategy<Value = BTreeMap<Topic, BTreeMap<String, String>>> {
    let topic = prop_oneof![Just(Topic::Base), Just(Topic::Config)];
    let facts = proptest::collection::btree_map("[a-c]", "[0-2]", 0..4);
    proptest::collection::btree_map(topic, facts, 0..3)
}

fn subjects() -> impl Strategy<Value = Subject> {
    let kind = prop_oneof![Just(Kind::Image), Just(Kind::Lock), Just(Kind::Plan)];
    (kind, facts(), packages(), layers()).prop_map(|(kind, facts, packages, layers)| Subject {
        name: "x".into(),
        kind,
        facts,
        packages,
        layers,
    })
}

/// The right side's packages, made of the left's and of what is said to be different.
fn applied(left: &Packages, changes: &[PackageChange]) -> Packages {
    let mut packages = left.clone();
    for PackageChange { id, to, .. } in changes {
        match to {
            Some(to) => packages.insert(id.clone(), to.clone()),
            None => packages.remove(id),
        };
    }
    packages
}

proptest! {
    #[test]
    fn a_thing_is_what_it_is(subject in subjects()) {
        let diff = Diff::of(&subject, &subject);
        prop_assert!(diff.same, "{}", diff);
        prop_assert_eq!(diff.totals, DiffTotals::default());
    }

    #[test]
    fn the_other_way_round_is_the_mirror(left in subjects(), right in subjects()) {
        let (there, back) = (Diff::of(&left, &right), Diff::of(&right, &left));
        prop_assert_eq!(there.same, back.same);
        prop_assert_eq!(there.totals.added, back.totals.removed);
        prop_assert_eq!(there.totals.changed, back.totals.changed);
        let turned: Vec<PackageChange> = back.packages.into_iter().map(|change| PackageChange {
            change: match change.change {
                Change::Added => Change::Removed,
                Change::Removed => Change::Added,
                other => other,
            },
            from: change.to,
            to: change.from,
            ..change
        }).collect();
        prop_assert_eq!(there.packages, turned);
        let turned: Vec<FactChange> = back.facts.into_iter().map(|change| FactChange {
            from: change.to,
            to: change.from,
            ..change
        }).collect();
        prop_assert_eq!(there.facts, turned);
        prop_assert_eq!(there.layers.is_some(), back.layers.is_some());
        if let (Some(there), Some(back)) = (there.layers, back.layers) {
            let counts = |layers: &LayerChanges| (layers.common, layers.repacked.len());
            prop_assert_eq!(counts(&there), counts(&back));
            prop_assert_eq!(sorted(there.added), sorted(back.removed));
            prop_assert_eq!(sorted(there.removed), sorted(back.added));
        }
    }

    #[test]
    fn what_is_said_makes_the_right_of_the_left(left in packages(), right in packages()) {
        prop_assert_eq!(applied(&left, &changes(&left, &right)), right);
    }

    #[test]
    fn every_layer_is_counted_once(left in layers(), right in layers()) {
        let side = |layers: &[Layer]| Subject {
            name: "x".into(),
            kind: Kind::Image,
            facts: BTreeMap::new(),
            packages: Packages::new(),
            layers: layers.to_vec(),
        };
        let found = Diff::of(&side(&left), &side(&right)).layers.unwrap();
        let both = found.common + found.repacked.len();
        prop_assert_eq!(both + found.removed.len(), left.len());
        prop_assert_eq!(both + found.added.len(), right.len());
        // A digest of one list is never in the other.
        for layer in &found.added {
            prop_assert!(found.removed.iter().all(|other| other.digest != layer.digest));
        }
    }
}

/// By what they are; which of several of one blob is left over does not matter.
fn sorted(layers: Vec<Layer>) -> Vec<String> {
    let mut titles: Vec<String> = layers.into_iter().map(|layer| layer.title).collect();
    titles.sort();
    titles
}

#[test]
fn the_first_thing_that_differs_is_named() {
    let before = package(1, 0, 0);
    let with = |change: &dyn Fn(&mut Package)| {
        let mut after = before.clone();
        change(&mut after);
        (before.change(&after), before.pair(&after))
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(with(&|_| ()).0, None);
    assert_eq!(
        with(&|p| p.version = "2".into()),
        (Some(Change::Version), pair("1", "2"))
    );
    assert_eq!(
        with(&|p| p.build = Some("1".into())),
        (Some(Change::Build), pair("1 0", "1 1"))
    );
    assert_eq!(
        with(&|p| p.channel = Some("https://host/d/".into())),
        (
            Some(Change::Channel),
            pair("1 0 from https://host/c/", "1 0 from https://host/d/")
        )
    );
    let (change, (from, to)) = with(&|p| p.sha256 = Some(Digest::of(b"other")));
    assert_eq!(change, Some(Change::Archive));
    assert!(
        from != to && from.starts_with("1 0 (sha256:"),
        "{from} {to}"
    );
    // What one side does not say is not different.
    assert_eq!(with(&|p| p.build = None).0, None);
    assert_eq!(with(&|p| p.sha256 = None).0, None);
}

/// A layer of these packages (name, version) in the environment.
fn recipe(title: &str, packages: &[(&str, u8)]) -> LayerRecipe {
    LayerRecipe {
        key: Some(Digest::of(format!("{title} {packages:?}").as_bytes())),
        area: Area::Environment,
        title: title.into(),
        format: "layer-2".into(),
        compression: "gzip:1".into(),
        path: "/opt/conda".into(),
        folders: Some(("opt/conda".into(), Digest::of(b"folders"))),
        python: Some(PythonRecipe {
            version: "3.10".into(),
            compile: None,
        }),
        packages: packages
            .iter()
            .map(|(name, version)| LayerPackage {
                id: id(Area::Environment, Manager::Conda, name),
                package: package(*version, 0, 0),
                rest: Some(Digest::of(b"rest")),
            })
            .collect(),
        code: None,
    }
}

fn said(old: &[LayerRecipe], new: &[LayerRecipe], index: usize) -> Vec<String> {
    let recipe = |layers: &[LayerRecipe]| Recipe {
        layers: layers.to_vec(),
    };
    let found = reasons(&recipe(old), &recipe(new), index);
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn packages_are_the_reasons() {
    let old = [
        recipe("one", &[("a", 1), ("b", 1)]),
        recipe("two", &[("c", 1), ("d", 1)]),
    ];
    let new = [
        recipe("one", &[("a", 2), ("b", 1), ("c", 1)]),
        recipe("two", &[("d", 1), ("e", 1)]),
    ];
    assert_eq!(said(&old, &new, 0), ["a 1 -> 2", "c was in 'two'"]);
    assert_eq!(said(&old, &new, 1), ["c is now in 'one'", "added e 1 0"]);
    let less = [old[0].clone(), recipe("two", &[("d", 1)])];
    assert_eq!(said(&old, &less, 1), ["removed c 1 0"]);
    let strange = [recipe("three", &[("x", 1)])];
    assert_eq!(said(&old, &strange, 0), ["added x 1 0"]);
    let old = Recipe { layers: old.into() };
    let strange = Recipe {
        layers: strange.into(),
    };
    assert_eq!(gone(&old, &strange), ["one", "two"]);
    assert_eq!(gone(&old, &old), [""; 0]);
}

/// A change of a layer.
type Changed<'a> = &'a dyn Fn(&mut LayerRecipe);

#[test]
fn all_that_a_key_covers_is_a_reason() {
    let old = recipe("one", &[("a", 1)]);
    let with = |change: Changed<'_>| {
        let mut new = old.clone();
        new.key = Some(Digest::of(b"other"));
        change(&mut new);
        said(std::slice::from_ref(&old), &[new], 0)
    };
    let cases: [(Changed<'_>, &str); 9] = [
        (
            &|r| r.compression = "zstd:1".into(),
            "compression changed: gzip:1 -> zstd:1",
        ),
        (
            &|r| r.format = "layer-3".into(),
            "layer format changed: layer-2 -> layer-3",
        ),
        (
            &|r| r.path = "/srv/env".into(),
            "prefix changed: /opt/conda -> /srv/env",
        ),
        (
            &|r| r.folders = Some(("opt/conda".into(), Digest::of(b"others"))),
            "base folders changed",
        ),
        (
            &|r| r.python.as_mut().unwrap().version = "3.11".into(),
            "Python 3.10 -> 3.11",
        ),
        (
            &|r| r.python.as_mut().unwrap().compile = Some(Digest::of(b"3.10.2")),
            "compiled Python files changed",
        ),
        (
            &|r| r.packages[0].rest = Some(Digest::of(b"lost")),
            "a: another URL, or other packages ship its files",
        ),
        (&|_| (), "imgbuild's settings changed"),
        (
            &|r| r.key = Some(Digest::of(b"one [(\"a\", 1)]")),
            "nothing changed, but the cache does not have it any more",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(with(change), [expected]);
    }
    // What is not known yet is no reason.
    let unknown = with(&|r| {
        r.key = None;
        r.folders = None;
        r.python = None;
        r.packages[0].rest = None;
    });
    assert_eq!(unknown, [""; 0]);
    let mut elsewhere = old.clone();
    elsewhere.area = Area::Miniconda;
    elsewhere.packages[0].id.area = Area::Miniconda;
    assert_eq!(said(&[old], &[elsewhere], 0), ["first build"]);
}

fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn an_images_packages_are_those_of_its_records() {
    let record = |name: &str, version: &str| {
        serde_json::json!({"name": name, "version": version, "build": "0",
            "url": format!("https://host/c/noarch/{name}-{version}-0.conda"),
            "files": [format!("lib/python3.11/site-packages/{name}-{version}.dist-info/METADATA")]})
        .to_string()
    };
    let site = "opt/conda/lib/python3.11/site-packages";
    let lower = tar_of(&[
        ("opt/conda/conda-meta/a-1-0.json", &record("a", "1")),
        ("opt/conda/conda-meta/b-1-0.json", &record("b", "1")),
        ("opt/conda/conda-meta/history", "no record"),
        ("opt/conda/conda-meta/broken.json", "{"),
        (&format!("{site}/a-1.dist-info/METADATA"), ""),
        (
            &format!("{site}/Wheel_One-2.0RC1+cu.dist-info/METADATA"),
            "",
        ),
        (&format!("{site}/gone-1.dist-info/METADATA"), ""),
        ("usr/lib/python3/dist-packages/x-1.dist-info/METADATA", ""),
    ]);
    let upper = tar_of(&[
        ("opt/conda/conda-meta/.wh.a-1-0.json", ""),
        ("opt/conda/conda-meta/a-2-0.json", &record("a", "2")),
        (&format!("{site}/.wh.gone-1.dist-info"), ""),
    ]);
    let contents = [lower, upper].map(|tar| LayerContents::read(&tar[..]).unwrap());
    let config = serde_json::json!({"config": {"Labels": {"dev.imgbuild.prefix": "/opt/conda"}}});
    let image = of_image(ImageSide {
        name: "x",
        config: &config,
        base: None,
        layers: Vec::new(),
        contents: &contents,
    });
    let found: Vec<String> = image
        .packages
        .iter()
        .map(|(id, package)| format!("{id} {package}"))
        .collect();
    assert_eq!(found, ["a 2 0", "b 1 0", "wheel-one (pip) 2.0rc1+cu"]);
    let a = id(Area::Environment, Manager::Conda, "a");
    let channel = image.packages[&a].channel.as_deref();
    assert_eq!(channel, Some("https://host/c/"));
}
