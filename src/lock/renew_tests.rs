use rattler_conda_types::{MatchSpec, ParseStrictness};

use super::*;

fn record(channel: &str, name: &str, version: &str, depends: &[&str]) -> RepoDataRecord {
    let file = format!("{name}-{version}-0.conda");
    let depends: Vec<String> = depends.iter().map(|d| d.to_string()).collect();
    serde_json::from_value(serde_json::json!({
        "name": name, "version": version, "build": "0", "build_number": 0, "depends": depends,
        "subdir": "linux-64", "fn": file, "channel": channel,
        "url": format!("{channel}linux-64/{file}"),
    }))
    .unwrap()
}

const CHANNEL: &str = "https://host/c/";

/// a -> b -> c, and d alone.
fn lock() -> Lock {
    let packages = vec![
        record(CHANNEL, "a", "1.0", &["b >=1"]),
        record(CHANNEL, "b", "1.0", &["c"]),
        record(CHANNEL, "c", "1.0", &[]),
        record(CHANNEL, "d", "1.0", &[]),
    ];
    Lock {
        env: LockedEnv::new(vec![CHANNEL.into()], packages),
        ..Lock::default()
    }
}

fn spec(text: &str, line: usize) -> WantedSpec {
    let spec = MatchSpec::from_str(text, ParseStrictness::Lenient).unwrap();
    let channel = spec.channel.iter();
    WantedSpec {
        from: channel
            .map(|channel| channel.base_url.to_string())
            .collect(),
        spec,
        text: text.into(),
        place: Place { line, column: 5 },
    }
}

fn channel(url: &str) -> WantedChannel {
    WantedChannel {
        url: url.into(),
        place: Place { line: 2, column: 5 },
    }
}

#[derive(Default)]
struct Asked {
    channels: Vec<WantedChannel>,
    specs: Vec<WantedSpec>,
    miniconda: Option<Vec<WantedSpec>>,
    pip: PipSection,
    conditions: Conditions,
}

fn asked(specs: &[&str]) -> Asked {
    let specs = specs.iter().zip(4..).map(|(text, line)| spec(text, line));
    Asked {
        channels: vec![channel(CHANNEL)],
        specs: specs.collect(),
        ..Asked::default()
    }
}

impl Asked {
    fn reasons(&self, lock: &Lock) -> Vec<String> {
        let wanted = Wanted {
            channels: &self.channels,
            specs: &self.specs,
            miniconda: self.miniconda.as_deref(),
            pip: &self.pip,
            conditions: &self.conditions,
            machine: crate::machine::Machine::Amd64,
        };
        let unmet = unmet(lock, &wanted);
        unmet.iter().map(|reason| reason.in_file("e.yml")).collect()
    }
}

#[test]
fn every_unmet_line_is_named() {
    assert_eq!(asked(&["a", "d=1.0"]).reasons(&lock()), [""; 0]);
    assert_eq!(
        asked(&["a>1", "d", "e", "d=2"]).reasons(&lock()),
        [
            "no locked package meets 'a>1' (e.yml:4:5)",
            "no locked package meets 'e' (e.yml:6:5)",
            "no locked package meets 'd=2' (e.yml:7:5)",
        ]
    );
    // Not b and c, which go with a.
    assert_eq!(
        asked(&["d"]).reasons(&lock()),
        ["a is locked, but nothing asks for it any more"]
    );
}

#[test]
fn a_circle_that_nothing_needs_is_named() {
    let packages = vec![
        record(CHANNEL, "a", "1", &["b"]),
        record(CHANNEL, "b", "1", &["a"]),
        record(CHANNEL, "d", "1", &[]),
    ];
    let lock = Lock {
        env: LockedEnv::new(vec![CHANNEL.into()], packages),
        ..Lock::default()
    };
    assert_eq!(asked(&["d"]).reasons(&lock).len(), 2);
}

#[test]
fn channels_count_in_order() {
    let mut asked = asked(&["a", "d"]);
    asked.channels.insert(0, channel("https://host/new/"));
    assert_eq!(asked.reasons(&lock()), ["the channels changed (e.yml:2:5)"]);
    asked.channels.clear();
    let reasons = asked.reasons(&lock());
    assert_eq!(reasons, ["the channels changed: the lock has more of them"]);
}

#[test]
fn a_spec_with_a_channel_wants_that_channel() {
    let named = |url: &str| {
        let mut asked = asked(&["a", "d"]);
        asked.specs[1] = spec(&format!("{url}::d"), 5);
        asked.reasons(&lock())
    };
    assert_eq!(named("https://host/c"), [""; 0]);
    assert_eq!(named("https://host/other").len(), 1);
    assert_eq!(named("https://host").len(), 1);
}

#[test]
fn miniconda_on_and_off() {
    let mut on = asked(&["a", "d"]);
    on.miniconda = Some(vec![spec("a", 0)]);
    assert_eq!(on.reasons(&lock()), ["it has no Miniconda base"]);
    let below = Lock {
        miniconda: Some(LockedEnv::new(
            vec![CHANNEL.into()],
            vec![record(CHANNEL, "python", "3.12", &[])],
        )),
        ..lock()
    };
    assert_eq!(
        on.reasons(&below),
        [
            "no locked package meets 'a'",
            "python is locked, but nothing asks for it any more"
        ]
    );
    assert_eq!(asked(&["a", "d"]).reasons(&below).len(), 1);
}

#[test]
fn what_it_was_solved_under_counts() {
    let with = |packages: &[&str]| Conditions {
        virtual_packages: packages.iter().map(|p| p.to_string()).collect(),
        ..Conditions::default()
    };
    let locked = Lock {
        conditions: with(&["__cuda=12.9=0", "__linux=4.18=0"]),
        ..lock()
    };
    let reasons = |conditions: Conditions| {
        let asked = Asked {
            conditions,
            ..asked(&["a", "d"])
        };
        asked.reasons(&locked)
    };
    assert_eq!(
        reasons(with(&["__cuda=13.2=0", "__linux=4.18=0"])),
        ["it was solved for __cuda=12.9, and the image is for __cuda=13.2 now"]
    );
    assert_eq!(
        reasons(with(&["__linux=4.18=0"])),
        ["it was solved for __cuda=12.9, and the image is for machines without __cuda now"]
    );
    let dated = Conditions {
        exclude_newer: Some("2024-01-01T00:00:00Z".parse().unwrap()),
        channel_priority: rattler_solve::ChannelPriority::Flexible,
        ..locked.conditions.clone()
    };
    assert_eq!(
        reasons(dated),
        [
            "the channel priority changed",
            "it was solved with packages of any date, and packages up to 2024-01-01T00:00:00Z are \
             asked for now"
        ]
    );
}

#[test]
fn the_base_is_held_against_what_is_found() {
    let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
    let locked = LockedBase {
        reference: "oci".into(),
        digest: one,
    };
    let reason = |locked, reference, found| unmet_base(locked, reference, found).map(|r| r.what);
    assert_eq!(reason(None, None, None), None);
    assert_eq!(reason(Some(&locked), Some("oci"), None), None);
    assert_eq!(reason(Some(&locked), Some("oci"), Some(&one)), None);
    for (reference, found, words) in [
        (Some("oci"), Some(&two), "changed from"),
        (Some("debian:12"), None, "and not debian:12"),
        (None, None, "it locks the base image oci"),
    ] {
        let reason = reason(Some(&locked), reference, found).unwrap();
        assert!(reason.contains(words), "{reason}");
    }
    assert!(reason(None, Some("oci"), Some(&one)).is_some());
}

/// The line that stands in a requirements file.
const INCLUDED: usize = 12;

fn pip(lines: &[&str]) -> PipSection {
    let requirement = |(text, line): (&&str, usize)| PipRequirement {
        text: text.to_string(),
        file: "e.yml".into(),
        line,
        column: 7,
        included: line == INCLUDED,
        pep508: text.to_string(),
        parsed: text.parse().unwrap(),
        hashes: Vec::new(),
    };
    PipSection {
        requirements: lines.iter().zip(9..).map(requirement).collect(),
        ..PipSection::default()
    }
}

fn wheel(name: &str, version: &str) -> LockedWheel {
    LockedWheel {
        name: name.into(),
        version: version.into(),
        url: format!("https://host/w/{name}-{version}-py3-none-any.whl")
            .parse()
            .unwrap(),
        sha256: Digest::of(b"w"),
        size: None,
    }
}

#[test]
fn pip_requirements_are_held_against_wheels() {
    let mut locked = lock();
    let wheels = vec![wheel("torch", "2.0.1+cu118"), wheel("my-app", "1.0")];
    locked.env = locked.env.with_wheels(wheels);
    locked.conditions.pip = pip_conditions(&pip(&["torch==2.0.1", "My.App[b,a]>=0.9", "numpy"]));
    let reasons = |lines: &[&str]| {
        let asked = Asked {
            pip: pip(lines),
            ..asked(&["a", "d"])
        };
        asked.reasons(&locked)
    };
    let url = "my-app[a,b] @ https://host/w/my-app-1.0-py3-none-any.whl#sha256=00";
    for lines in [
        ["torch==2.0.1", "my_app[a,b]", "numpy"],
        ["torch==2.0.1+cu118", "MY-APP[b,a]~=1.0", "numpy<1"],
        ["numpy", url, "torch"],
    ] {
        assert_eq!(reasons(&lines), [""; 0], "{lines:?}");
    }
    for (lines, reason) in [
        (
            ["torch==2.1", "my-app[a,b]", "numpy"],
            "no locked wheel meets 'torch==2.1' (e.yml:9:7)",
        ),
        (
            ["torch", "my-app[a]", "numpy"],
            "no locked wheel meets 'my-app[a]' (e.yml:10:7)",
        ),
        (
            ["torch", "my-app[a,b]", "scipy"],
            "no locked wheel meets 'scipy' (e.yml:11:7)",
        ),
        (
            ["torch==2.0.1+cu121", "my-app[a,b]", "numpy"],
            "no locked wheel meets 'torch==2.0.1+cu121' (e.yml:9:7)",
        ),
    ] {
        assert_eq!(reasons(&lines)[0], reason);
    }
    let mut limited = pip(&["torch", "my-app[a,b]", "numpy"]);
    limited.constraints = pip(&["torch<2", "other>7"]).requirements;
    limited.requirements[1].hashes = vec![Digest::of(b"another wheel")];
    let asked_for = Asked {
        pip: limited,
        ..asked(&["a", "d"])
    };
    assert_eq!(
        asked_for.reasons(&locked),
        [
            "no locked wheel meets 'my-app[a,b]' (e.yml:10:7)",
            "no locked wheel meets 'torch<2' (e.yml:9:7)"
        ]
    );
    let included = reasons(&["torch", "my-app[a,b]", "numpy", "scipy"]);
    assert_eq!(included, ["no locked wheel meets 'scipy' (e.yml:12:7)"]);
    assert_eq!(
        reasons(&[]),
        [
            "my-app[a,b] is locked for pip, but nothing asks for it any more",
            "numpy is locked for pip, but nothing asks for it any more",
            "torch is locked for pip, but nothing asks for it any more",
        ]
    );
    let mut other = pip(&["torch", "my-app[a,b]", "numpy"]);
    other.sources.prereleases = true;
    let asked = Asked {
        pip: other,
        ..asked(&["a", "d"])
    };
    assert_eq!(
        asked.reasons(&locked),
        ["the pip indexes or their options changed"]
    );
}

#[test]
fn keeps_what_is_still_searched_and_not_to_move() {
    let mut lock = lock();
    let mut packages = lock.env.packages().to_vec();
    packages.push(record("https://host/cc/", "e", "1", &[]));
    lock.env = LockedEnv::new(vec![], packages);
    let kept = keep(&lock.env, &[channel(CHANNEL)], &["b".into()]);
    let mut names: Vec<_> = kept
        .iter()
        .map(|r| r.package_record.name.as_normalized())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "c", "d"]);
}
