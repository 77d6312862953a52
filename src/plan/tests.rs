//! Properties of whole plans: which keys an edit of an environment changes.

use std::{collections::BTreeSet, str::FromStr};

use proptest::prelude::*;
use rattler_conda_types::{
    PackageName, PackageRecord, RepoDataRecord, Subdir, VersionWithSource,
    package::{BuildString, DistArchiveIdentifier},
};

use super::*;
use crate::{
    digest::Digest,
    lock::{LockedEnv, LockedWheel},
    package::{Prefix, Survey, wheel_id},
};

/// A package of a made-up environment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    wheel: bool,
    name: String,
    size: u64,
    version: u32,
}

fn conda(made: &Made) -> RepoDataRecord {
    let name = PackageName::from_str(&made.name).unwrap();
    let version = VersionWithSource::from_str(&made.version.to_string()).unwrap();
    let mut package = PackageRecord::new(name, version, BuildString::from_str("0").unwrap());
    let file = format!("{}-{}-0.conda", made.name, made.version);
    package.sha256 = Some((*Digest::of(file.as_bytes()).bytes()).into());
    package.size = Some(made.size);
    RepoDataRecord {
        package_record: package,
        identifier: DistArchiveIdentifier::try_from_filename(&file).unwrap(),
        url: format!("https://host/channel/linux-64/{file}")
            .parse()
            .unwrap(),
        channel: None,
    }
}

fn wheel(made: &Made) -> LockedWheel {
    let file = format!("{}-{}-py3-none-any.whl", made.name, made.version);
    LockedWheel {
        name: made.name.clone(),
        version: made.version.to_string(),
        url: format!("https://host/{file}").parse().unwrap(),
        sha256: Digest::of(file.as_bytes()),
        size: Some(made.size),
    }
}

fn locked(made: &[Made]) -> LockedEnv {
    let (wheels, packages): (Vec<&Made>, Vec<&Made>) = made.iter().partition(|made| made.wheel);
    LockedEnv::new(Vec::new(), packages.into_iter().map(conda).collect())
        .with_wheels(wheels.into_iter().map(wheel).collect())
}

const LAYERS: usize = 40;

fn planned(env: &LockedEnv) -> LayerPlan {
    plan(&items(env, &Default::default()), false, &Budget::of(LAYERS))
}

fn keys(env: &LockedEnv) -> BTreeSet<Digest> {
    let prefix = Prefix {
        path: "/opt/conda".into(),
        root: "opt/conda".into(),
        python: None,
        platform: Subdir::Linux64,
    };
    let input = KeyInput {
        format: "test",
        prefix: &prefix,
        base_folders: &Default::default(),
        survey: &Survey::default(),
        compile: None,
    };
    let layers = planned(env).layers.into_iter();
    let keys: Vec<Digest> = layers
        .map(|layer| {
            let packages: Vec<Locked<'_>> = layer
                .packages
                .iter()
                .map(|member| member.of(env).unwrap())
                .collect();
            layer_key(&input, &packages).unwrap()
        })
        .collect();
    let distinct: BTreeSet<Digest> = keys.iter().copied().collect();
    assert_eq!(distinct.len(), keys.len(), "two layers with one key");
    distinct
}

/// Environments of conda packages and wheels, some of the same name, in every tier.
fn environments() -> impl Strategy<Value = Vec<Made>> {
    let name = prop_oneof![
        "[a-z]{2,6}",
        "(cuda|nvidia)-[a-z]{1,4}",
        Just("python".to_owned()),
        Just("torch".to_owned()),
    ];
    let packages = proptest::collection::btree_map((any::<bool>(), name), 0_u64..(4 << 20), 1..120);
    packages.prop_map(|map| {
        let made = |((wheel, name), size)| Made {
            wheel,
            name,
            size,
            version: 1,
        };
        map.into_iter().map(made).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_package_is_in_one_layer_within_budget(made in environments()) {
        let env = locked(&made);
        let plan = planned(&env);
        prop_assert!(plan.layers.len() <= LAYERS);
        let members: Vec<Member> = plan.layers.iter().flat_map(|l| l.packages.clone()).collect();
        let distinct: BTreeSet<Member> = members.iter().copied().collect();
        prop_assert_eq!((members.len(), distinct.len()), (made.len(), made.len()));
        let tiers: Vec<Tier> = plan.layers.iter().map(|layer| layer.tier).collect();
        prop_assert!(tiers.is_sorted());
    }

    #[test]
    fn a_locks_order_does_not_matter(
        (made, shuffled) in environments().prop_flat_map(|made| {
            (Just(made.clone()), Just(made).prop_shuffle())
        })
    ) {
        let titles = |made: &[Made]| -> Vec<String> {
            planned(&locked(made)).layers.into_iter().map(|layer| layer.title).collect()
        };
        prop_assert_eq!(keys(&locked(&made)), keys(&locked(&shuffled)));
        prop_assert_eq!(titles(&made), titles(&shuffled));
    }

    #[test]
    fn a_new_version_changes_one_layer(made in environments(), which in any::<prop::sample::Index>()) {
        let before = keys(&locked(&made));
        let mut bumped = made;
        let index = which.index(bumped.len());
        bumped[index].version = 2;
        let after = keys(&locked(&bumped));
        prop_assert_eq!(after.difference(&before).count(), 1);
        prop_assert_eq!(before.len(), after.len());
    }

    #[test]
    fn a_new_package_changes_three_layers_at_most(
        made in environments(), wheel in any::<bool>(), size in 0_u64..(4 << 20)
    ) {
        let before = keys(&locked(&made));
        let mut more = made;
        more.push(Made { wheel, name: "new-package".into(), size, version: 1 });
        let after = keys(&locked(&more));
        let new = after.difference(&before).count();
        prop_assert!((1..=3).contains(&new), "{} layers", new);
    }
}

#[test]
fn torch_of_pip_stands_with_cuda_and_the_rest_above_conda() {
    let made = |wheel, name: &str| Made {
        wheel,
        name: name.into(),
        size: 10,
        version: 1,
    };
    let env = locked(&[
        made(false, "python"),
        made(false, "numpy"),
        made(true, "torch"),
        made(true, "nvidia-cudnn-cu13"),
        made(true, "numpy"),
        made(true, "einops"),
    ]);
    let mut tiers: Vec<(Tier, String)> = Vec::new();
    for layer in planned(&env).layers {
        for member in layer.packages {
            tiers.push((layer.tier, member.of(&env).unwrap().id()));
        }
    }
    tiers.sort();
    let expected = [
        (Tier::Miniconda, "python".to_owned()),
        (Tier::Cuda, wheel_id("nvidia-cudnn-cu13")),
        (Tier::Cuda, wheel_id("torch")),
        (Tier::Other, "numpy".to_owned()),
        (Tier::Pip, wheel_id("einops")),
        (Tier::Pip, wheel_id("numpy")),
    ];
    assert_eq!(tiers, expected);
}

#[test]
fn keys_depend_on_archives_and_urls_and_not_on_a_locks_words() {
    let made = Made {
        wheel: false,
        name: "a".into(),
        size: 5,
        version: 1,
    };
    let key = |change: &dyn Fn(&mut RepoDataRecord)| {
        let mut record = conda(&made);
        change(&mut record);
        keys(&LockedEnv::new(Vec::new(), vec![record]))
    };
    let plain = key(&|_| {});
    let thin = key(&|record| {
        record.package_record.license = Some("MIT".into());
        record.package_record.size = None;
        record.package_record.constrains.push("b <2".into());
        record.channel = Some("channel".into());
        record.url.set_username("user").unwrap();
        record.url.set_password(Some("pw")).unwrap();
    });
    assert_eq!(plain, thin);
    let elsewhere =
        key(&|record| record.url = "https://other/c/linux-64/a-1-0.conda".parse().unwrap());
    let hash = key(&|record| record.package_record.sha256 = Some([1; 32].into()));
    let md5 = key(&|record| record.package_record.md5 = Some([1; 16].into()));
    for other in [elsewhere, hash, md5] {
        assert_ne!(plain, other);
    }
}
