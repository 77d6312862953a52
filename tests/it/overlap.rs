//! Layers are made while other packages are still coming, and are the same as without that.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use crate::{
    faulty::{Fault, Faulty, wait_for_files},
    mini::{Mini, base, command, env, names, tzdata},
    support::{Output, Project, fixture, run},
};

const HELLO: &str = "hello-demo-1.0-0.tar.bz2";
const GENERIC: &str = "generic-demo-1.0-0.tar.bz2";
const CLOBBER_A: &str = "clobber-a-1.0-0.conda";
const CLOBBER_B: &str = "clobber-b-1.0-0.tar.bz2";

/// A cache whose folders a server looks into.
#[derive(Clone, Default)]
struct Watched(Arc<OnceLock<PathBuf>>);

impl Watched {
    fn wait_for(&self, folder: &str, count: usize) {
        let cache = self.0.get().expect("the project is not known yet");
        wait_for_files(&cache.join(folder), count);
    }
}

/// A rule for packages alone. It may wait; a wait in vain ends the connection, and a second is
/// asked for.
fn for_packages(
    watched: &Watched,
    rule: impl Fn(&Watched, &str, usize) -> Fault + Send + Sync + 'static,
) -> impl Fn(&str, usize) -> Fault + Send + Sync + 'static {
    let cache = watched.clone();
    move |path, nth| {
        let file = path.rsplit('/').next().unwrap_or_default();
        match path.ends_with(".conda") || path.ends_with(".tar.bz2") {
            true => rule(&cache, file, nth),
            false => Fault::Fine,
        }
    }
}

/// A locked project of these packages, and a server that does with the n-th download of one what
/// the rule says.
fn project(
    mini: Mini,
    specs: &[&str],
    rule: impl Fn(&Watched, &str, usize) -> Fault + Send + Sync + 'static,
) -> (Faulty, Project) {
    let watched = Watched::default();
    let server = Faulty::serve_mini(mini, for_packages(&watched, rule));
    let project = Project::new(&env(&server.url, specs));
    watched.0.set(project.cache.clone()).unwrap();
    project.ok(&["lock", "env.yml"]);
    (server, project)
}

/// Three packages; at first tzdata does not come before the layers of the other two are made.
fn three(at_last: impl Fn() -> Fault + Send + Sync + 'static) -> (Faulty, Project) {
    let mini = Mini::of(&[HELLO, GENERIC, tzdata()]);
    let specs = ["hello-demo", "generic-demo", "tzdata"];
    project(mini, &specs, move |cache, file, nth| {
        if file != tzdata() || nth > 0 {
            return Fault::Fine;
        }
        cache.wait_for("layers", 2);
        at_last()
    })
}

fn build(project: &Project) -> Output {
    project.ok(&["build", "env.yml"])
}

/// The same project built in another cache with every package there from the start.
fn built_at_once(project: &Project) -> Output {
    let elsewhere = Project::new("");
    for file in ["env.yml", "env.lock.yml", "imgbuild.yaml"] {
        fs::copy(project.path(file), elsewhere.path(file)).unwrap();
    }
    fs::create_dir(&elsewhere.cache).unwrap();
    for folder in ["packages", "facts"] {
        let from = project.cache.join(folder);
        if from.exists() {
            let mut copy = std::process::Command::new("cp");
            run(copy.arg("-r").arg(from).arg(&elsewhere.cache));
        }
    }
    let output = build(&elsewhere);
    assert!(!output.stderr.contains("Fetching"), "{}", output.stderr);
    output
}

fn remove_files(dir: &Path) {
    for name in names(dir) {
        fs::remove_file(dir.join(name)).unwrap();
    }
}

fn count(output: &Output, words: &str) -> usize {
    output.stderr.matches(words).count()
}

#[test]
fn layers_are_made_while_packages_come() {
    let (server, project) = three(|| Fault::Fine);
    let output = build(&project);
    assert_eq!(server.gets(tzdata()).len(), 1, "{}", output.stderr);
    assert_eq!(count(&output, "Built "), 3, "{}", output.stderr);
    assert_eq!(count(&output, "Reusing"), 0, "{}", output.stderr);
    assert_eq!(built_at_once(&project).digest(), output.digest());
}

#[test]
fn what_a_survey_knows_is_made_while_packages_come() {
    let (server, project) = three(|| Fault::Fine);
    let digest = build(&project).digest().to_owned();
    let layers = project.cache.join("layers");
    let record = layers.join(&names(&layers)[0]);
    // Packages that the cache lost come back for the layers that it lost, and for no others.
    remove_files(&project.cache.join("packages"));
    fs::remove_file(record).unwrap();
    server.clear();
    let output = build(&project);
    assert_eq!(output.digest(), digest);
    assert_eq!(server.gets("").len(), 1, "{:?}", server.log());
    assert!(
        output.stderr.contains("Reusing 2 of 3"),
        "{}",
        output.stderr
    );

    remove_files(&project.cache.join("packages"));
    remove_files(&layers);
    server.clear();
    // The server counts anew, and holds tzdata back again.
    let output = build(&project);
    assert_eq!(output.digest(), digest);
    assert_eq!(server.gets(tzdata()).len(), 1, "{}", output.stderr);
}

#[test]
fn packages_that_did_not_change_are_not_opened_again() {
    let newer = "hello-demo-1.1-0.conda";
    let mini = Mini::of(&[HELLO, newer, GENERIC, tzdata()]);
    let specs = ["hello-demo", "generic-demo", "tzdata"];
    let (server, project) = project(mini, &["hello-demo=1.0", specs[1], specs[2]], |_, _, _| {
        Fault::Fine
    });
    build(&project);
    // To be opened they would have to come again.
    remove_files(&project.cache.join("packages"));
    server.clear();
    project
        .write_env(&env(&server.url, &["hello-demo=1.0", specs[1], specs[2]]).replace("=1.0", ""));
    project.ok(&["lock", "env.yml", "--update-all"]);
    let output = build(&project);
    let asked: Vec<String> = server
        .gets(".conda")
        .into_iter()
        .chain(server.gets(".bz2"))
        .collect();
    assert!(
        matches!(&asked[..], [one] if one.ends_with(newer)),
        "{asked:?}\n{}",
        output.stderr
    );
    for folder in ["surveys", "layers"] {
        remove_files(&project.cache.join(folder));
    }
    assert_eq!(build(&project).digest(), output.digest());
}

#[test]
fn neither_the_order_of_arrival_nor_threads_matter() {
    let files = [
        HELLO,
        GENERIC,
        CLOBBER_A,
        CLOBBER_B,
        "links-demo-1.0-0.tar.bz2",
        "activate-demo-1.0-0.conda",
    ];
    let specs = files.map(|file| file.split("-1.0").next().unwrap());
    let mini = Mini::of(&files);
    // Each round has another order; a package comes when those before it are there.
    let (server, project) = project(mini, &specs, move |cache, file, nth| {
        let place = files.iter().position(|one| *one == file).unwrap();
        let before = match nth {
            0 => place,
            1 => files.len() - 1 - place,
            _ => (place + nth) % files.len(),
        };
        cache.wait_for("packages", before);
        Fault::Fine
    });
    let wrappers: [&[&str]; 4] = [&["env"], &["env"], &["env"], &["taskset", "-c", "0"]];
    let mut digests = BTreeSet::new();
    for wrapper in wrappers {
        for folder in ["packages", "layers", "surveys"] {
            remove_files(&project.cache.join(folder));
        }
        let output = project.ok_through(wrapper, &["build", "env.yml"]);
        digests.insert(output.digest().to_owned());
    }
    assert_eq!(server.gets(HELLO).len(), wrappers.len());
    digests.insert(built_at_once(&project).digest().to_owned());
    assert_eq!(digests.len(), 1, "{digests:?}");
}

#[test]
fn a_layer_that_loses_files_to_a_later_package_is_made_again() {
    let mini = Mini::of(&[HELLO, CLOBBER_A, CLOBBER_B]);
    let specs = ["hello-demo", "clobber-a", "clobber-b"];
    // hello-demo shares a layer with clobber-a.
    let (server, project) = project(mini, &specs, |cache, file, nth| {
        if file == CLOBBER_A && nth == 0 {
            cache.wait_for("layers", 1);
        }
        Fault::Fine
    });
    let output = build(&project);
    assert_eq!(server.gets(CLOBBER_A).len(), 1, "{}", output.stderr);
    let in_vain = "Made in vain: 1 of 2 layers";
    assert_eq!(count(&output, in_vain), 1, "{}", output.stderr);
    assert_eq!(count(&output, "Built "), 3, "{}", output.stderr);
    assert_eq!(names(&project.cache.join("layers")).len(), 3);
    assert_eq!(built_at_once(&project).digest(), output.digest());
    let who = project.image(&output).rootfs;
    let who = who.text("/opt/conda/share/clobber/who.txt");
    assert_eq!(who, "from clobber-a\n");
}

#[test]
fn a_package_comes_once_for_two_prefixes_and_for_compiling() {
    let watched = Watched::default();
    // What is to be compiled is there before the Python that compiles it.
    let rule = |cache: &Watched, file: &str, _| {
        if file.starts_with("python-3") {
            cache.wait_for("layers", 4);
        }
        Fault::Fine
    };
    let channel = fixture("IMGBUILD_TEST_CHANNEL_DIR");
    let server = Faulty::serve(&channel, for_packages(&watched, rule));
    let project = Project::new(&env(&server.url, &["python=3.11", "click"]));
    let settings = format!(
        "base: {}\nminiconda: {{packages: [python=3.9, pip]}}\n",
        base()
    );
    project.write("imgbuild.yaml", &settings);
    watched.0.set(project.cache.clone()).unwrap();
    project.ok(&["lock", "env.yml"]);
    server.clear();
    let output = project.ok(&["build", "env.yml"]);
    let asked = server.gets("");
    let once: BTreeSet<&String> = asked.iter().collect();
    assert_eq!(once.len(), asked.len(), "{asked:?}");
    assert!(
        asked.iter().any(|path| path.contains("/click-")),
        "{asked:?}"
    );
    assert_eq!(built_at_once(&project).digest(), output.digest());
}

#[test]
fn a_file_that_another_package_wins_ends_no_build() {
    // The second one's program cannot be linked, but it loses it to the first one.
    let mini = Mini::of(&[HELLO]);
    mini.add_with_placeholder("tool-a", &"/placeholder".repeat(10));
    mini.add_with_placeholder("tool-b", "/x");
    let specs = ["hello-demo", "tool-a", "tool-b"];
    let (_server, project) = project(mini, &specs, |cache, file, _| {
        match file {
            HELLO => cache.wait_for("packages", 1),
            "tool-a-1.0-0.tar.bz2" => cache.wait_for("layers", 1),
            _ => {}
        }
        Fault::Fine
    });
    let output = build(&project);
    assert_eq!(built_at_once(&project).digest(), output.digest());
}

#[test]
fn a_late_failure_keeps_what_was_made() {
    let (server, project) = three(|| Fault::Status(403, ""));
    let output = project.imgbuild(&["build", "env.yml"]);
    output.expect(3);
    assert_eq!(count(&output, "error:"), 1, "{}", output.stderr);
    assert_eq!(count(&output, "403"), 1, "{}", output.stderr);
    assert!(output.stderr.contains(tzdata()), "{}", output.stderr);
    assert_eq!(names(&project.cache.join("tmp")), [""; 0]);
    goes_on(&server, &project);
}

#[test]
fn a_killed_build_keeps_what_was_made() {
    let (server, project) = three(|| Fault::Stall(50));
    let mut child = command(&project, &["build", "env.yml"]).spawn().unwrap();
    server.wait_stalled(1);
    child.kill().unwrap();
    child.wait().unwrap();
    goes_on(&server, &project);
}

/// The next build asks for what is missing, and makes what is missing.
fn goes_on(server: &Faulty, project: &Project) {
    assert_eq!(names(&project.cache.join("layers")).len(), 2);
    let before = server.gets("").len();
    let output = build(project);
    assert_eq!(server.gets("")[before..], [format!("/noarch/{}", tzdata())]);
    assert!(
        output.stderr.contains("Reusing 2 of 3"),
        "{}",
        output.stderr
    );
    assert_eq!(count(&output, "Built "), 1, "{}", output.stderr);
    assert_eq!(names(&project.cache.join("tmp")), [""; 0]);
    assert_eq!(built_at_once(project).digest(), output.digest());
}
