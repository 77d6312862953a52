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
    /// The names of conda packages that it needs; wheels name none.
    needs: Vec<String>,
}

fn conda(made: &Made) -> RepoDataRecord {
    let name = PackageName::from_str(&made.name).unwrap();
    let version = VersionWithSource::from_str(&made.version.to_string()).unwrap();
    let mut package = PackageRecord::new(name, version, BuildString::from_str("0").unwrap());
    let file = format!("{}-{}-0.conda", made.name, made.version);
    package.sha256 = Some((*Digest::of(file.as_bytes()).bytes()).into());
    package.size = Some(made.size);
    package.depends = made.needs.clone();
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

/// How an environment is planned.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// It has the image to itself.
    Alone,
    /// Over a Miniconda base.
    OverMiniconda,
    /// It is that base.
    Miniconda,
}

#[derive(Clone, Copy, Debug)]
struct How {
    role: Role,
    /// How many layers there may be.
    layers: usize,
}

const ALONE: How = How {
    role: Role::Alone,
    layers: 40,
};

fn planned(env: &LockedEnv, how: How) -> LayerPlan {
    let (items, budget) = (items(env, &Default::default()), Budget::of(how.layers));
    match how.role {
        Role::Alone => plan(&items, false, &budget),
        Role::OverMiniconda => plan(&items, true, &budget),
        Role::Miniconda => plan_miniconda(&items, &budget),
    }
}

/// The packages of each layer by id, in the order of the image.
fn groups(env: &LockedEnv, how: How) -> Vec<Vec<String>> {
    let id = |member: &Member| member.of(env).unwrap().id();
    let layers = planned(env, how).layers.into_iter();
    layers
        .map(|layer| layer.packages.iter().map(id).collect())
        .collect()
}

/// The keys in the order of the image.
fn keys(env: &LockedEnv, how: How) -> Vec<Digest> {
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
    let layers = planned(env, how).layers.into_iter();
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
    keys
}

/// How many keys of `after` are not in `before`.
fn new(before: &[Digest], after: &[Digest]) -> usize {
    let before: BTreeSet<&Digest> = before.iter().collect();
    after.iter().filter(|key| !before.contains(key)).count()
}

/// Environments of conda packages and wheels, some of the same name, in every tier, that need
/// each other.
fn environments() -> impl Strategy<Value = Vec<Made>> {
    let name = prop_oneof![
        "[a-z]{2,6}",
        "(cuda|nvidia)-[a-z]{1,4}",
        Just("python".to_owned()),
        Just("torch".to_owned()),
        Just("pytorch".to_owned()),
    ];
    let needs = proptest::collection::vec(any::<prop::sample::Index>(), 0..3);
    let package = (0_u64..(4 << 20), needs);
    let packages = proptest::collection::btree_map((any::<bool>(), name), package, 1..120);
    packages.prop_map(|map| {
        let names = map.keys().filter(|(wheel, _)| !wheel);
        let names: Vec<String> = names.map(|(_, name)| name.clone()).collect();
        let need = |index: &prop::sample::Index| names.get(index.index(names.len().max(1)));
        let made = |((wheel, name), (size, needs)): (_, (u64, Vec<_>))| Made {
            wheel,
            name,
            size,
            version: 1,
            needs: match wheel {
                true => Vec::new(),
                false => needs.iter().filter_map(need).cloned().collect(),
            },
        };
        map.into_iter().map(made).collect()
    })
}

/// All roles, from the smallest budget to more than any image has.
fn hows() -> impl Strategy<Value = How> {
    let role = prop_oneof![
        Just(Role::Alone),
        Just(Role::OverMiniconda),
        Just(Role::Miniconda)
    ];
    let layers = prop_oneof![Just(Budget::MIN), Just(58), Just(116), Budget::MIN..=125];
    (role, layers).prop_map(|(role, layers)| How { role, layers })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_package_is_in_one_layer_within_budget(made in environments(), how in hows()) {
        let env = locked(&made);
        let plan = planned(&env, how);
        prop_assert!(plan.layers.len() <= how.layers);
        prop_assert!(plan.layers.iter().all(|layer| !layer.packages.is_empty()));
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
        }),
        how in hows()
    ) {
        let titles = |made: &[Made]| -> Vec<String> {
            planned(&locked(made), how).layers.into_iter().map(|layer| layer.title).collect()
        };
        prop_assert_eq!(keys(&locked(&made), how), keys(&locked(&shuffled), how));
        prop_assert_eq!(titles(&made), titles(&shuffled));
    }

    /// The layers keep their places too, so that nothing above is sent again by stores that
    /// look layers up by chain.
    #[test]
    fn a_new_version_changes_exactly_one_key(
        made in environments(), which in any::<prop::sample::Index>(), how in hows()
    ) {
        let before = keys(&locked(&made), how);
        let mut bumped = made;
        let index = which.index(bumped.len());
        bumped[index].version = 2;
        let after = keys(&locked(&bumped), how);
        prop_assert_eq!(before.len(), after.len());
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after);
        prop_assert_eq!(changed.count(), 1);
    }

    /// A version of another size may take another place among the largest of its tier: then, and
    /// only then, it costs what a new package costs.
    #[test]
    fn a_new_version_of_another_size_changes_one_key_or_three_at_most(
        made in environments(), which in any::<prop::sample::Index>(),
        size in 0_u64..(4 << 20), how in hows()
    ) {
        let (env, index) = (locked(&made), which.index(made.len()));
        let mut bumped = made;
        bumped[index].version = 2;
        bumped[index].size = size;
        let bumped = locked(&bumped);
        let sorted = |env| groups(env, how).into_iter().collect::<BTreeSet<_>>();
        let most = if sorted(&env) == sorted(&bumped) { 1 } else { 3 };
        let changed = new(&keys(&env, how), &keys(&bumped, how));
        prop_assert!((1..=most).contains(&changed), "{} layers of {}", changed, most);
    }

    /// One that brings no other package into another tier: a second PyTorch would.
    #[test]
    fn a_new_package_changes_three_keys_at_most(
        made in environments(), wheel in any::<bool>(), size in 0_u64..(4 << 20), how in hows()
    ) {
        let before = keys(&locked(&made), how);
        let mut more = made;
        let needs = more.iter().find(|made| !made.wheel).map(|made| made.name.clone());
        more.push(Made {
            wheel,
            name: "new-package".into(),
            size,
            version: 1,
            needs: needs.filter(|_| !wheel).into_iter().collect(),
        });
        let more = locked(&more);
        let after = keys(&more, how);
        prop_assert!((1..=3).contains(&new(&before, &after)), "{} layers", new(&before, &after));
        // Taking it away again is the same the other way round.
        prop_assert!(new(&after, &before) <= 3);
    }
}

#[test]
fn torch_of_pip_stands_with_cuda_and_the_rest_above_conda() {
    let made = |wheel, name: &str| Made {
        wheel,
        name: name.into(),
        size: 10,
        version: 1,
        needs: Vec::new(),
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
    for layer in planned(&env, ALONE).layers {
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
        needs: Vec::new(),
    };
    let key = |change: &dyn Fn(&mut RepoDataRecord)| {
        let mut record = conda(&made);
        change(&mut record);
        keys(&LockedEnv::new(Vec::new(), vec![record]), ALONE)
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
