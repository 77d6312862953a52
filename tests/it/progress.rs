//! What is told on the way: lines for people, bars on a terminal, events for programs.

use std::{
    collections::BTreeMap,
    fs,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    faulty::{Fault, Faulty},
    mini::{command, env, layout_manifest},
    support::{Output, Project, channel, fixture},
};

fn registry() -> String {
    fixture("IMGBUILD_TEST_REGISTRY").display().to_string()
}

fn repository() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("progress/{}-{number}", std::process::id())
}

fn project() -> Project {
    let project = Project::new(&env(channel(), &["hello-demo=1.0"]));
    project.write("code/train.py", "print(1)\n");
    project
}

/// The events of a run: every line of its stderr is one, and they are framed by the first and last.
fn events(out: &Output) -> Vec<Value> {
    let parse =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON: {e}: {line}"));
    let events: Vec<Value> = out.stderr.lines().map(parse).collect();
    for event in &events {
        let time = event["time"].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{event}");
    }
    let kinds: Vec<&str> = events
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert_eq!(kinds[0], "start");
    assert_eq!(events[0]["version"], 1);
    assert_eq!(kinds.last(), Some(&"end"));
    assert_eq!(events.last().unwrap()["exit"], out.status);
    let frames = kinds.iter().filter(|kind| ["start", "end"].contains(kind));
    assert_eq!(frames.count(), 2, "{kinds:?}");
    events
}

/// The last event of each activity of a step, by digest, with its size.
fn ends(events: &[Value], step: &str) -> BTreeMap<String, (u64, String)> {
    let mut open: BTreeMap<u64, Value> = BTreeMap::new();
    for event in events
        .iter()
        .filter(|e| e["event"] == "progress" && e["step"] == step)
    {
        let id = event["id"].as_u64().unwrap();
        if let Some(before) = open.insert(id, event.clone()) {
            assert!(
                before["current"].as_u64() <= event["current"].as_u64(),
                "{event}"
            );
        }
    }
    let with_digest = open.values().filter(|event| !event["digest"].is_null());
    with_digest
        .map(|event| {
            let (current, total) = (event["current"].as_u64().unwrap(), &event["total"]);
            assert_eq!(Some(current), total.as_u64(), "{event}");
            let text = |field: &str| event[field].as_str().unwrap().to_owned();
            (text("digest"), (current, text("state")))
        })
        .collect()
}

#[test]
fn every_line_is_an_event_and_every_blob_comes_to_its_total() {
    let (registry, project) = (registry(), project());
    let name = format!("{registry}/{}:1", repository());
    let build = ["build", "env.yml", "--code", "code", "-t", &name, "--push"];
    let args = [
        &build[..],
        &["--progress", "json", "-o", "type=oci,dest=out"],
    ]
    .concat();
    let first = project.ok(&args);
    first.digest();
    let (_, manifest) = layout_manifest(&project.path("out"));
    let layers = manifest["layers"].as_array().unwrap();
    let blobs: BTreeMap<String, u64> = layers
        .iter()
        .chain([&manifest["config"]])
        .map(|blob| {
            let digest = blob["digest"].as_str().unwrap().to_owned();
            (digest, blob["size"].as_u64().unwrap())
        })
        .collect();
    let states = |events: &[Value], step: &str| -> BTreeMap<String, String> {
        let ends = ends(events, step);
        for (digest, (size, _)) in &ends {
            assert_eq!(blobs.get(digest), Some(size), "{digest}");
        }
        ends.into_iter()
            .map(|(digest, (_, state))| (digest, state))
            .collect()
    };
    let events_of_first = events(&first);
    let pushed = states(&events_of_first, "push");
    assert_eq!(pushed.len(), blobs.len());
    assert!(pushed.values().all(|state| state == "done"), "{pushed:?}");
    assert!(!states(&events_of_first, "base").is_empty());
    let built = states(&events_of_first, "build");
    assert!(
        built.len() > 1 && built.values().all(|state| state == "done"),
        "{built:?}"
    );
    let fetched = ends(&events_of_first, "fetch");
    let lock = fs::read_to_string(project.path("env.lock.yml")).unwrap();
    assert!(!fetched.is_empty());
    for digest in fetched.keys() {
        assert!(lock.contains(&digest["sha256:".len()..]), "{digest}");
    }

    let again = project.ok(&args);
    assert_eq!(again.stdout, first.stdout);
    let exists = states(&events(&again), "push");
    assert_eq!(exists.len(), blobs.len());
    assert!(exists.values().all(|state| state == "exists"), "{exists:?}");
}

#[test]
fn what_fails_is_events_too() {
    let project = project();
    let fails = |args: &[&str], status: i32| {
        let out = project.imgbuild(&[args, &["--progress=json"]].concat());
        out.expect(status);
        let events = events(&out);
        let error = events[events.len() - 2].clone();
        assert_eq!(error["event"], "error", "{error}");
        assert_eq!(error["exit"], status);
        error
    };
    let build = ["build", "env.yml", "--base", "scratch"];
    let nowhere = fails(
        &[&build[..], &["-t", "127.0.0.1:1/a", "--push"]].concat(),
        3,
    );
    assert_eq!(nowhere["message"], "cannot push to 127.0.0.1:1/a:latest");
    assert!(
        nowhere["hint"]
            .as_str()
            .unwrap()
            .contains("nothing listens"),
        "{nowhere}"
    );
    assert!(!nowhere["why"].as_array().unwrap().is_empty());
    let flag = fails(&["build", "env.yml", "--no-such-flag"], 2);
    assert!(
        flag["message"].as_str().unwrap().contains("--no-such-flag"),
        "{flag}"
    );
    project.write_env("dependencies: [python, numpy\n");
    let wrong = fails(&["lock", "env.yml"], 2);
    assert!(
        wrong["at"].as_str().unwrap().starts_with("env.yml:"),
        "{wrong}"
    );
}

#[test]
fn an_attempt_that_breaks_off_is_told_from_one_that_is_whole() {
    let (registry, project) = (registry(), project());
    let cuts = AtomicUsize::new(0);
    let proxy = Faulty::faulty_proxy(&registry, move |request| {
        let blob = request.starts_with("PUT ") && request.contains("/blobs/");
        match blob && cuts.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Fault::Cut(50),
            false => Fault::Fine,
        }
    });
    let name = format!("{}/{}:1", proxy.address(), repository());
    let build = [
        "build",
        "env.yml",
        "-t",
        &name,
        "--push",
        "--progress",
        "json",
    ];
    let out = project.ok(&build);
    let events = events(&out);
    let pushes = events.iter().filter(|e| e["step"] == "push");
    let mut attempts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for event in pushes.filter(|e| e["state"] != "running") {
        let [digest, state] = ["digest", "state"].map(|field| event[field].as_str().unwrap());
        attempts.entry(digest).or_default().push(state);
    }
    let twice: Vec<_> = attempts
        .values()
        .filter(|states| states.len() > 2)
        .collect();
    assert_eq!(twice.len(), 1, "{attempts:?}");
    for states in attempts.values() {
        assert_eq!(states.last(), Some(&"done"), "{attempts:?}");
    }
}

#[test]
fn plain_lines_name_each_blob_that_goes_over_the_network() {
    let (registry, project) = (registry(), project());
    let name = format!("{registry}/{}:1", repository());
    let base = ["build", "env.yml", "--base", "scratch", "--code", "code"];
    let plain = ["-t", &name, "--push", "--progress", "plain"];
    let out = project.ok(&[&base[..], &plain].concat());
    // Blobs are sent at once: the order is theirs.
    let (mut blobs, others): (Vec<&str>, Vec<&str>) = out
        .stderr
        .lines()
        .partition(|line| line.starts_with("  push "));
    blobs.sort_unstable();
    let filters = vec![
        (r"sha256:[0-9a-f]{64}", "sha256:[HASH]"),
        (r"push [0-9a-f]{12}", "push [HASH]"),
        (r"127\.0\.0\.1:\d+/progress/[\d-]+", "[REPOSITORY]"),
        (r"\d+(\.\d+)? k?B", "[SIZE]"),
    ];
    insta::with_settings!({filters => filters, omit_expression => true}, {
        insta::assert_snapshot!("plain", format!("{}\n\n{}", others.join("\n"), blobs.join("\n")));
    });
    let quiet = project.ok(&[&base[..], &["--progress", "quiet"]].concat());
    assert_eq!(quiet.stderr, "");
}

#[test]
fn a_terminal_shows_a_bar_for_each_blob() {
    let (registry, project) = (registry(), project());
    let build = ["build", "env.yml", "--base", "scratch", "-t", "bars:1"];
    project.ok(&build);
    let hang = |request: &str| match request.starts_with("PUT ") && request.contains("/blobs/") {
        true => Fault::Stall(50),
        false => Fault::Fine,
    };
    let proxy = Faulty::faulty_proxy(&registry, hang);
    let name = format!("{}/{}:1", proxy.address(), repository());
    let line = format!("{} push bars:1 {name}", env!("CARGO_BIN_EXE_imgbuild"));
    let screen = project.path("screen");
    // What is on the screen once all of that is.
    let shown = |settings: &[(&str, &str)], all: &[&str]| {
        // What the run before left is not this one's.
        let _ = fs::remove_file(&screen);
        let mut script = project.command("script");
        script
            .args(["-qefc", &line])
            .arg(&screen)
            .envs(settings.iter().copied());
        let quiet = script.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = quiet.spawn().unwrap();
        let mut text = String::new();
        let is_there = |text: &str| all.iter().all(|part| text.contains(part));
        for _ in 0..600 {
            text = String::from_utf8_lossy(&fs::read(&screen).unwrap_or_default()).into_owned();
            if is_there(&text) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_there(&text), "{text:?}");
        text
    };
    shown(&[("TERM", "xterm")], &["\x1b", "  push ", "Pushing "]);
    // What a CI keeps is read as text.
    let ci = shown(&[("TERM", "xterm"), ("CI", "true")], &["Pushing "]);
    assert!(!ci.contains('\x1b'), "{ci:?}");
    let mut forced = command(&project, &["push", "bars:1", &name, "--progress", "tty"]);
    let refused = project.output(&mut forced);
    refused.expect(2);
    assert!(
        refused.stderr.contains("needs a terminal"),
        "{}",
        refused.stderr
    );
    let both = project.imgbuild(&["push", "bars:1", "--quiet", "--progress", "plain"]);
    both.expect(2);
    assert!(
        both.stderr.contains("cannot be used with"),
        "{}",
        both.stderr
    );
}

#[test]
fn events_show_no_secret() {
    let project = Project::new(&env("http://someone:s3cret@127.0.0.1:1/t/s3cret/c", &["x"]));
    let out = project.imgbuild(&["lock", "env.yml", "--progress", "json"]);
    out.expect(3);
    assert!(!out.stderr.contains("s3cret"), "{}", out.stderr);
    let shown =
        |event: &Value| event["event"] == "error" && event.to_string().contains("127.0.0.1:1");
    assert!(events(&out).iter().any(shown), "{}", out.stderr);
}
