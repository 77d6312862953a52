use std::collections::BTreeMap;

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any},
    prop_assert_eq, prop_oneof, proptest,
    sample::Index,
};

use super::*;
use crate::package::{
    survey::{projects, survey},
    wheel_id,
};

/// Paths that meet: in one folder and in site-packages; where they may clash, also in one's folder
/// and another's file.
fn path(mut number: u32, may_clash: bool) -> PathBuf {
    const FOLDERS: [&str; 6] = [
        "lib",
        "x",
        "site-packages",
        "Num_Py-1.dist-info",
        "bin",
        "f",
    ];
    const NAMES: [&str; 6] = ["g", "h", ".a-post-link.sh", "b-2.egg-info", "f", "x"];
    let mut next = |below: usize| {
        let digit = number as usize % below;
        number /= below as u32;
        digit
    };
    if next(20) == 0 {
        return "etc/conda/activate.d/a.sh".into();
    }
    let clash = usize::from(may_clash && next(4) == 0);
    let depth = next(4);
    let folders: PathBuf = (0..depth).map(|_| FOLDERS[next(5 + clash)]).collect();
    folders.join(NAMES[next(5 + clash)])
}

/// What a package of any name brings. Those of the earlier set fit together.
fn brought(may_clash: bool) -> impl Strategy<Value = Brought> {
    let target = move |number: u32| Target {
        path: path(number / 10, may_clash),
        folder: number.is_multiple_of(10),
        sha256: (number % 10 > 2).then(|| Digest::of(&[number as u8 % 2])),
    };
    let numbers = (
        1..1000_u64,
        vec(any::<u32>(), 0..12),
        vec(any::<u32>(), 0..3),
    );
    numbers.prop_map(move |(number, targets, compiled)| {
        let targets = targets.into_iter().map(target).collect();
        let compiled = compiled.into_iter().map(|one| path(one, may_clash));
        (number, targets, compiled.collect())
    })
}

type Brought = (u64, Vec<Target>, Vec<PathBuf>);

fn contents(id: &str, (number, targets, compiled): &Brought) -> Contents {
    let wheel = id.contains(':');
    Contents {
        id: id.to_owned(),
        place: named(id),
        projects: match wheel {
            true => BTreeMap::new(),
            false => projects(targets),
        },
        targets: targets.clone(),
        compiled: compiled.clone(),
        claims: None,
        size: *number,
        md5: (!wheel).then(|| number.to_string()),
        built_at: *number,
        for_python: wheel,
    }
}

fn ids() -> Vec<String> {
    let wheels = ["num-py", "b"].map(wheel_id);
    let conda = ["a", "b", "c", "d", "e"].map(str::to_owned);
    conda.into_iter().chain(wheels).collect()
}

/// A survey as builds keep it, by the packages' ids.
fn whole(packages: &[Contents]) -> Option<(Survey, BTreeMap<String, Outline>)> {
    let survey = survey(packages).ok()?;
    let ids = packages.iter().map(|package| package.id.clone());
    Some((survey, ids.zip(outlines(packages)).collect()))
}

/// What became of a package: nothing, another of its name, or it is gone.
fn fate() -> impl Strategy<Value = Option<Option<Brought>>> {
    prop_oneof![
        5 => Just(None),
        2 => brought(true).prop_map(|new| Some(Some(new))),
        1 => Just(Some(None)),
    ]
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(600))]

    /// What is told of packages and what others say themselves make the same survey and the same
    /// outlines as all packages do, in any order.
    #[test]
    fn a_survey_with_outlines_is_the_survey_of_all(
        old in vec(proptest::option::weighted(0.8, brought(false)), 7),
        fates in vec(fate(), 7),
        first in any::<Index>(),
    ) {
        let ids = ids();
        let named: Vec<(&String, &Brought)> = ids
            .iter()
            .zip(&old)
            .filter_map(|(id, old)| Some((id, old.as_ref()?)))
            .collect();
        let before: Vec<Contents> = named.iter().map(|(id, old)| contents(id, old)).collect();
        let (survey, outlines) = whole(&before).unwrap();

        let mut all = Vec::new();
        let mut mixed = Vec::new();
        for ((id, old), fate) in ids.iter().zip(&old).zip(&fates) {
            match (fate, old) {
                (Some(None), _) | (None, None) => {}
                (Some(Some(new)), _) => {
                    all.push(contents(id, new));
                    mixed.push(contents(id, new));
                }
                (None, Some(old)) => {
                    all.push(contents(id, old));
                    mixed.push(outlines[id].contents(id.clone(), &survey).unwrap());
                }
            }
        }
        // conda's packages come in another order now.
        let conda = all.iter().filter(|one| !one.id.contains(':')).count();
        if conda > 0 {
            all[..conda].rotate_left(first.index(conda));
            mixed[..conda].rotate_left(first.index(conda));
        }
        for at in touched(&mixed) {
            mixed[at] = all[at].clone();
        }
        let text = |found: Option<_>| found.map(|found| serde_json::to_string(&found).unwrap());
        prop_assert_eq!(text(whole(&mixed)), text(whole(&all)));
    }
}

/// A package of files.
fn files(id: &str, paths: &[&str]) -> Contents {
    let target = |path: &&str| Target {
        path: path.into(),
        folder: false,
        sha256: None,
    };
    contents(id, &(1, paths.iter().map(target).collect(), Vec::new()))
}

#[test]
fn names_of_one_hash_open_a_package_in_vain() {
    let mut seen = BTreeMap::new();
    let names = (0..).map(|n| format!("{n}.so"));
    let twins = names.filter_map(|name| {
        let before = seen.insert(hashed(OsStr::new(&name)), name.clone());
        before.map(|before| (before, name))
    });
    let (one, other) = twins.take(1).next().unwrap();
    let (one, other) = (format!("lib/{one}"), format!("lib/{other}"));
    let before = [files("a", &[&one]), files("b", &["lib/b", "bin/b"])];
    let (survey, outlines) = whole(&before).unwrap();
    let told = outlines["a"].contents("a".into(), &survey).unwrap();
    let new = files("b", &[&other]);
    assert_eq!(touched(&[told.clone(), new.clone()]), [0]);
    assert_eq!(touched(&[told, files("b", &["lib/b"])]), [0; 0]);
    // Both have a claim of that hash, and neither loses a file.
    let both = [before[0].clone(), new];
    let (survey, outlines) = whole(&both).unwrap();
    assert_eq!(outlines["a"].claims, outlines["b"].claims);
    assert!(survey.exclusions.is_empty());
}

#[test]
fn a_package_is_opened_where_another_touches_what_it_claims() {
    let site = "lib/python3.11/site-packages";
    let torch: Vec<String> = (0..2000)
        .map(|n| format!("{site}/torch/{}/{n}.py", n % 50))
        .collect();
    let mut torch: Vec<&str> = torch.iter().map(String::as_str).collect();
    torch.extend(["bin/torchrun", "lib/libc10.so"]);
    let numpy = [
        &*format!("{site}/numpy/core.py"),
        "bin/f2py",
        "lib/libnp.so",
    ];
    let before = [files("torch", &torch), files("numpy", &numpy)];
    let (survey, outlines) = whole(&before).unwrap();
    let told = outlines["torch"].contents("torch".into(), &survey);
    let told = told.unwrap();
    assert_eq!(told.targets, []);
    let json = serde_json::to_string(&outlines["torch"]).unwrap();
    assert!(json.len() < 120, "{json}");
    assert_eq!(
        serde_json::from_str::<Outline>(&json).unwrap(),
        outlines["torch"]
    );

    for (path, is_touched) in [
        ("bin/f2py3", false),
        ("bin/torchrun", true),
        ("bin/torchrun/x", true),
        ("bin", true),
        ("lib/python3.11", true),
        (&format!("{site}/torchvision/x.py"), false),
        (&format!("{site}/torch/new.py"), true),
        (&format!("{site}/torch"), true),
        ("lib/libc10.so.1", false),
        ("share/x", false),
    ] {
        let packages = [told.clone(), files("numpy", &[path])];
        let expected: &[usize] = if is_touched { &[0] } else { &[] };
        assert_eq!(touched(&packages), expected, "{path}");
    }
}

#[test]
fn damaged_claims_are_refused() {
    for names in ["AAA", "AAAAA", "AA==", "!!!!"] {
        let json = format!(r#"{{"built_at":0,"claims":{{"lib":"{names}"}}}}"#);
        assert!(serde_json::from_str::<Outline>(&json).is_err(), "{names}");
    }
}
