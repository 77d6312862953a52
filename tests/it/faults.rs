//! Servers that misbehave, and programs that are stopped halfway.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Command},
};

use crate::{
    faulty::{Fault, Faulty, wait_for_files},
    mini::{Mini, base, command, env, names, tzdata},
    support::{Output, Project},
};

const HELLO: &str = "hello-demo-1.0-0.tar.bz2";
const MANY: [&str; 6] = [
    HELLO,
    "links-demo-1.0-0.tar.bz2",
    "modes-demo-1.0-0.tar.bz2",
    "activate-demo-1.0-0.conda",
    "post-link-demo-1.0-0.conda",
    "generic-demo-1.0-0.tar.bz2",
];

/// What to do with the n-th download.
type Rule = fn(usize) -> Fault;

fn is_package(path: &str) -> bool {
    path.ends_with(".conda") || path.ends_with(".tar.bz2")
}

/// A channel with one package, whose downloads go wrong as the rule says.
fn one(rule: impl Fn(usize) -> Fault + Send + Sync + 'static) -> (Faulty, Project) {
    let mini = Mini::of(&[HELLO]);
    let server = Faulty::serve_mini(mini, move |path, nth| match is_package(path) {
        true => rule(nth),
        false => Fault::Fine,
    });
    let project = Project::new(&env(&server.url, &["hello-demo"]));
    (server, project)
}

fn build(project: &Project) -> Output {
    project.imgbuild(&["build", "env.yml", "--base", &base()])
}

fn kept(project: &Project) -> [Vec<String>; 2] {
    ["packages", "tmp"].map(|folder| names(&project.cache.join(folder)))
}

#[test]
fn passing_faults_are_retried() {
    let cases: [(&str, Rule); 5] = [
        ("500", |nth| {
            if nth < 2 {
                Fault::Status(500, "")
            } else {
                Fault::Fine
            }
        }),
        ("429", |nth| {
            if nth < 1 {
                Fault::Status(429, "Retry-After: 1\r\n")
            } else {
                Fault::Fine
            }
        }),
        (
            "cut",
            |nth| if nth < 1 { Fault::Cut(90) } else { Fault::Fine },
        ),
        ("cut at once", |nth| {
            if nth < 1 { Fault::Cut(0) } else { Fault::Fine }
        }),
        ("slow", |_| Fault::Slow),
    ];
    for (name, rule) in cases {
        let (server, project) = one(rule);
        let out = build(&project);
        assert_eq!(out.status, 0, "{name}: {}", out.stderr);
        let gets = server.gets(HELLO).len();
        let expected = (0..).take_while(|nth| !matches!(rule(*nth), Fault::Fine | Fault::Slow));
        assert_eq!(gets, expected.count() + 1, "{name}");
        let told = out.stderr.contains("trying again");
        assert_eq!(told, gets > 1, "{name}: {}", out.stderr);
        assert_eq!(kept(&project)[1], [""; 0], "{name}");
    }
}

#[test]
fn lasting_faults_are_told() {
    let cases: [(Fault, usize, &str); 5] = [
        (Fault::Cut(90), 4, "tried 4 times"),
        (Fault::Status(503, ""), 4, "503"),
        (Fault::Status(403, ""), 1, "403"),
        (Fault::Status(404, ""), 1, "404"),
        (Fault::Garbage, 1, "not what its hash says"),
    ];
    std::thread::scope(|scope| {
        for (fault, tries, words) in cases {
            scope.spawn(move || {
                let (server, project) = one(move |_| fault.clone());
                let out = build(&project);
                assert_eq!(out.status, 3, "{words}: {}", out.stderr);
                assert!(out.stderr.contains(words), "{words}: {}", out.stderr);
                assert!(
                    out.stderr
                        .contains(&format!("{}/linux-64/{HELLO}", server.url))
                );
                assert_eq!(server.gets(HELLO).len(), tries, "{words}");
                assert_eq!(kept(&project), [[""; 0]; 2], "{words}");
            });
        }
    });
}

#[test]
fn redirects_are_followed() {
    let mini = Mini::of(&[HELLO]);
    let real = Faulty::serve(mini.path(), |_, _| Fault::Fine);
    let to = real.url.clone();
    let moved = Faulty::serve(mini.path(), move |path, _| match is_package(path) {
        true => Fault::Redirect(to.clone()),
        false => Fault::Fine,
    });
    let project = Project::new(&env(&moved.url, &["hello-demo"]));
    let out = build(&project);
    assert_eq!(out.status, 0, "{}", out.stderr);
    assert_eq!(real.gets(HELLO).len(), 1);
}

#[test]
fn indexes_that_go_wrong() {
    let mini = Mini::of(&[HELLO]);
    let is_index = |path: &str| path.ends_with("linux-64/repodata.json");
    let cases: [(Fault, i32, &str); 6] = [
        (Fault::Gzip, 0, ""),
        (Fault::Slow, 0, ""),
        (Fault::Bytes(b"<html>Sign in</html>"), 3, "repodata.json"),
        (Fault::Bytes(b"{\"packages\": {\"x\": 7}}"), 3, ""),
        (Fault::Status(403, ""), 3, "403"),
        (Fault::Cut(50), 3, ""),
    ];
    for (fault, status, words) in cases {
        let what = format!("{fault:?}");
        let server = Faulty::serve(mini.path(), move |path, _| match is_index(path) {
            true => fault.clone(),
            false => Fault::Fine,
        });
        let project = Project::new(&env(&server.url, &["hello-demo"]));
        let out = project.imgbuild(&["lock", "env.yml"]);
        assert_eq!(out.status, status, "{what}: {}", out.stderr);
        assert!(out.stderr.contains(words), "{what}: {}", out.stderr);
        // A bad answer is not kept as the channel's index.
        if status != 0 {
            let good = Faulty::serve(mini.path(), |_, _| Fault::Fine);
            project.write_env(&env(&good.url, &["hello-demo"]));
            project.ok(&["lock", "env.yml"]);
        }
    }
    // Servers that are busy for a moment.
    let server = Faulty::serve(mini.path(), move |path, nth| {
        match is_index(path) && nth < 2 {
            true => Fault::Status(500, ""),
            false => Fault::Fine,
        }
    });
    let project = Project::new(&env(&server.url, &["hello-demo"]));
    project.ok(&["lock", "env.yml"]);
}

#[test]
fn several_packages_come_at_once() {
    let mini = Mini::of(&MANY);
    let server = Faulty::serve(mini.path(), |path, _| match is_package(path) {
        true => Fault::Meet(4),
        false => Fault::Fine,
    });
    let specs = MANY.map(|file| file.split("-1.0").next().unwrap());
    let project = Project::new(&env(&server.url, &specs));
    let out = build(&project);
    assert_eq!(out.status, 0, "{}", out.stderr);
    assert!(server.met() >= 4, "{} at once", server.met());
    assert_eq!(kept(&project)[0].len(), MANY.len());
}

/// A project that is locked, and a server that hangs at the first download of one package.
fn hanging() -> (Faulty, Project) {
    let mini = Mini::of(&[HELLO, "generic-demo-1.0-0.tar.bz2", tzdata()]);
    let server = Faulty::serve_mini(mini, |path, nth| {
        match path.ends_with(tzdata()) && nth == 0 {
            true => Fault::Stall(50),
            false => Fault::Fine,
        }
    });
    let specs = ["hello-demo", "generic-demo", "tzdata"];
    let project = Project::new(&env(&server.url, &specs));
    project.ok(&["lock", "env.yml"]);
    (server, project)
}

/// Starts a build and waits until it hangs with all but one package there.
fn start(server: &Faulty, project: &Project) -> Child {
    let args = [
        "build",
        "env.yml",
        "--base",
        &base(),
        "-o",
        "type=oci,dest=out",
    ];
    let child = command(project, &args).spawn().unwrap();
    server.wait_stalled(1);
    wait_for_files(&project.cache.join("packages"), 2);
    child
}

/// Runs the same build again: it asks for the missing package only, and leaves nothing behind.
fn finish(server: &Faulty, project: &Project) {
    let before = server.gets("").len();
    let args = [
        "build",
        "env.yml",
        "--base",
        &base(),
        "-o",
        "type=oci,dest=out",
    ];
    let out = project.output(&mut command(project, &args));
    assert_eq!(out.status, 0, "{}", out.stderr);
    assert_eq!(server.gets("")[before..], [format!("/noarch/{}", tzdata())]);
    assert_eq!(kept(project)[1], [""; 0]);
}

#[test]
fn a_killed_build_goes_on_where_it_was() {
    let (server, project) = hanging();
    let mut child = start(&server, &project);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(kept(&project)[1], [""; 0], "it was not killed halfway");
    finish(&server, &project);
}

#[test]
fn ctrl_c_ends_a_build() {
    for signal in ["-INT", "-TERM"] {
        let (server, project) = hanging();
        let child = start(&server, &project);
        let pid = child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(
            (out.status.code(), out.status.signal()),
            (Some(130), None),
            "{said}"
        );
        assert!(said.ends_with("error: stopped\n"), "{said}");
        assert!(!project.path("out").exists());
        finish(&server, &project);
    }
}
