use super::*;
use crate::lock::LockedBase;

fn record(channel: &str) -> RepoDataRecord {
    let value = serde_json::json!({
        "name": "a", "version": "1.0", "build": "0", "build_number": 0, "depends": [],
        "subdir": "linux-64", "sha256": "0".repeat(64), "fn": "a-1.0-0.conda", "channel": channel,
        "arch": "x86_64", "platform": "linux", "url": format!("{channel}linux-64/a-1.0-0.conda"), "size": 5,
    });
    serde_json::from_value(value).unwrap()
}

fn wheel(name: &str, url: &str) -> LockedWheel {
    LockedWheel {
        name: name.into(),
        version: "2.0.1+cu118".into(),
        url: url.parse().unwrap(),
        sha256: Digest::of(name.as_bytes()),
        size: None,
    }
}

fn lock(channel: &str, wheels: &str) -> Lock {
    let env = LockedEnv::new(vec![channel.into()], vec![record(channel)]).with_wheels(vec![
        wheel(
            "torch",
            "https://host/whl/torch-2.0.1%2Bcu118-cp311-cp311-linux_x86_64.whl",
        ),
        wheel(
            "mine",
            &format!("{wheels}mine-2.0.1+cu118-py3-none-any.whl"),
        ),
    ]);
    Lock {
        env,
        miniconda: None,
        base: Some(LockedBase {
            reference: "debian:12".into(),
            digest: Digest::of(b"base"),
        }),
        conditions: Conditions {
            virtual_packages: vec!["__cuda=11.8=0".into(), "__glibc=2.36=0".into()],
            channel_priority: rattler_solve::ChannelPriority::Flexible,
            exclude_newer: Some("2024-01-01T00:00:00Z".parse().unwrap()),
            pip: Some(PipConditions {
                names: vec!["mine".into(), "torch".into()],
                indexes: vec!["https://host/simple".into()],
                find_links: vec!["/wheels".into(), "https://host/whl".into()],
                prereleases: true,
            }),
        },
    }
}

fn alone(lock: &Lock, dir: &Path) -> String {
    render(&Locks::from([(Machine::Amd64, lock.clone())]), dir).unwrap()
}

#[test]
fn one_file_holds_several_platforms() {
    let dir = Path::new("/proj");
    let amd64 = lock("https://host/c/", "file:///else/");
    let mut arm64 = amd64.clone();
    arm64.base = None;
    arm64.conditions.virtual_packages = vec!["__glibc=2.40=0".into()];
    arm64.conditions.pip = None;
    arm64.conditions.exclude_newer = None;
    arm64.env = LockedEnv::new(amd64.env.channels.clone(), amd64.env.packages().to_vec());
    let mut locks = Locks::from([(Machine::Amd64, amd64), (Machine::Arm64, arm64)]);
    // What is undecided without pip packages must be what it is by default.
    assert!(render(&locks, dir).is_err());
    let pip = locks
        .get_mut(&Machine::Amd64)
        .unwrap()
        .conditions
        .pip
        .as_mut();
    pip.unwrap().prereleases = false;
    let text = render(&locks, dir).unwrap();
    let again = parse_all(&text, "f", dir).unwrap();
    assert_eq!(render(&again, dir).unwrap(), text);
    for (machine, lock) in &locks {
        let read = parse(&text, "f", dir, machine.subdir()).unwrap();
        assert_eq!(read.base, lock.base, "{machine}");
        assert_eq!(read.conditions, lock.conditions, "{machine}");
        assert_eq!(read.env.packages(), lock.env.packages(), "{machine}");
        assert_eq!(read.env.wheels(), lock.env.wheels(), "{machine}");
    }
    let other = &mut locks.get_mut(&Machine::Arm64).unwrap().env.channels;
    other.push("https://host/d/".into());
    let error = render(&locks, dir).unwrap_err().to_string();
    assert!(error.contains("one list of channels"), "{error}");
}

#[test]
fn reads_what_it_wrote() {
    let dir = Path::new("/proj");
    let one = lock("https://host/c/", "file:///else/");
    let text = alone(&one, dir);
    let again = parse(&text, "f", dir, Subdir::Linux64).unwrap();
    assert_eq!(again.base, one.base);
    assert_eq!(again.conditions, one.conditions);
    assert_eq!(again.env.channels, one.env.channels);
    assert_eq!(again.env.wheels(), one.env.wheels());
    assert_eq!(again.env.packages(), one.env.packages());
    assert_eq!(alone(&again, dir), text);
}

#[test]
fn files_inside_the_folder_move_with_it() {
    let (here, there) = (Path::new("/proj"), Path::new("/moved/here"));
    let one = lock("file:///proj/my%20channel/", "file:///proj/wheels/");
    let text = alone(&one, here);
    assert!(!text.contains("/proj"), "{text}");
    let moved = parse(&text, "f", there, Subdir::Linux64).unwrap();
    let two = lock(
        "file:///moved/here/my%20channel/",
        "file:///moved/here/wheels/",
    );
    assert_eq!(moved.env.channels, two.env.channels);
    assert_eq!(moved.env.packages(), two.env.packages());
    assert_eq!(moved.env.wheels(), two.env.wheels());
    assert_eq!(alone(&moved, there), text);
}
