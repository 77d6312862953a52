//! Other packages than the earlier image has: which of them are asked for.

use std::{collections::BTreeSet, env, fs};

use serde_json::Value;

use super::{SPECS, World, built, check, made};
use crate::{
    faulty::{Fault, Faulty},
    mini,
    support::{Output, Project, fixture},
};

/// The names of the packages that a server was asked for.
pub(super) fn asked(server: &Faulty) -> BTreeSet<String> {
    let files = [".conda", ".tar.bz2", ".whl"].map(|kind| server.gets(kind));
    let files = files.concat();
    let names = files.iter().map(|path| {
        let file = path.rsplit('/').next().unwrap();
        match file.ends_with(".whl") {
            true => file.split('-').next().unwrap(),
            false => file.rsplitn(3, '-').last().unwrap(),
        }
    });
    names.map(str::to_owned).collect()
}

/// The packages of each layer, as `name version`.
type Plan = BTreeSet<BTreeSet<String>>;

fn plan(project: &Project) -> Plan {
    let args = ["build", "env.yml", "--dry-run", "--format", "json"];
    let plan: Value = serde_json::from_str(&project.ok(&args).stdout).unwrap();
    let layers = plan["layers"].as_array().unwrap().iter().map(|layer| {
        let packages = layer["packages"].as_array().unwrap().iter();
        let said = |package: &Value, what: &str| package[what].as_str().unwrap().to_owned();
        let named = packages.map(|one| said(one, "name") + " " + &said(one, "version"));
        named.collect()
    });
    layers.collect()
}

/// The names of the packages in layers that were not planned before, or that these are in.
fn to_be_made(before: &Plan, now: &Plan, these: &[&str]) -> BTreeSet<String> {
    let name = |package: &String| package.split(' ').next().unwrap().to_owned();
    let has = |layer: &&BTreeSet<String>| {
        let mut names = layer.iter().map(name);
        !before.contains(*layer) || names.any(|name| these.contains(&&*name))
    };
    now.iter().filter(has).flatten().map(name).collect()
}

/// An environment with the wheels of these files, which that server has.
fn with_wheels(world: &World, wheels: &Faulty, files: &[&str]) -> String {
    let env = mini::env(&world.channel.url, &["python=3.11", "hello-demo"]);
    let wheel = |file: &&str| {
        let name = file.split('-').next().unwrap();
        format!("    - {name} @ {}/{file}\n", wheels.url)
    };
    let files: String = files.iter().map(wheel).collect();
    format!("{env}  - pip:\n{files}")
}

/// Locks other packages. Gives the plan before, and the plan now.
fn changed(project: &Project, env: &str) -> (Plan, Plan) {
    let before = plan(project);
    project.write_env(env);
    project.ok(&["lock", "env.yml"]);
    (before, plan(project))
}

/// Builds other packages, locked by now, on a fresh machine; one without the earlier image must
/// make the same image. What the first was asked for is told by the servers.
fn rebuilt<T>(
    world: &World,
    first: &Project,
    name: &str,
    told: impl FnOnce() -> T,
) -> (Project, Output, T) {
    let second = world.machine(first);
    let args = ["-t", name, "--push", "--locked", "--no-compile"];
    let output = built(&second, &args);
    let told = told();
    check(&second, name, output.digest());
    let third = world.machine(first);
    let alone = [&args[..], &["--cache-from", ""]].concat();
    assert_eq!(built(&third, &alone).digest(), output.digest());
    (second, output, told)
}

#[test]
fn of_many_packages_the_changed_one_is_asked_for() {
    let world = World::new();
    let (first, name) = (world.project(&SPECS), world.name());
    built(&first, &["-t", &name, "--push", "--no-compile"]);
    let newer = SPECS.map(|spec| spec.replace("hello-demo=1.0", "hello-demo=1.1"));
    let newer = newer.each_ref().map(String::as_str);
    let (before, now) = changed(&first, &mini::env(&world.channel.url, &newer));
    let told = || (asked(&world.channel), world.blobs().1);
    let (_, output, (asked, sent)) = rebuilt(&world, &first, &name, told);
    assert_eq!(made(&output), 1, "{}", output.stderr);
    assert!(asked.contains("hello-demo"));
    // The package's layer, the state's and the config.
    assert_eq!(sent, 3, "{:?}", world.registry.log());
    assert_eq!(asked, to_be_made(&before, &now, &[]));
    let told = format!("bring, from {name}\n");
    assert!(output.stderr.contains(&told), "{}", output.stderr);
}

#[test]
fn a_package_whose_file_another_takes_is_asked_for_too() {
    let world = World::new();
    let specs = ["python=3.11", "clobber-b", "hello-demo=1.0"];
    let (first, name) = (world.project(&specs), world.name());
    built(&first, &["-t", &name, "--push", "--no-compile"]);
    let told = || asked(&world.channel);
    let both = [&specs[..], &["clobber-a"]].concat();
    let (before, now) = changed(&first, &mini::env(&world.channel.url, &both));
    let (_, output, asked) = rebuilt(&world, &first, &name, told);
    let words = "clobber-a and clobber-b both ship";
    assert!(output.stderr.contains(words), "{}", output.stderr);
    assert_eq!(
        asked,
        to_be_made(&before, &now, &["clobber-a", "clobber-b"])
    );

    // That image tells of both. The one that lost a file has it again.
    let (before, now) = changed(&first, &mini::env(&world.channel.url, &specs));
    let (_, output, asked) = rebuilt(&world, &first, &name, told);
    assert!(!output.stderr.contains("both ship"), "{}", output.stderr);
    assert_eq!(asked, to_be_made(&before, &now, &["clobber-b"]));
}

#[test]
fn of_many_wheels_the_new_one_is_asked_for() {
    const IDNA: &str = "idna-3.20-py3-none-any.whl";
    const CERTIFI: &str = "certifi-2026.10.19.post1-py3-none-any.whl";
    const CLICK: &str = "click-8.5.1-py3-none-any.whl";
    let world = World::new();
    let wheels = Faulty::serve(&fixture("IMGBUILD_TEST_WHEELS"), |_, _| Fault::Fine);
    let uv = fs::canonicalize(fixture("IMGBUILD_TEST_UV")).unwrap();
    let path = env::var("PATH").unwrap();
    let path = format!("{}:{path}", uv.parent().unwrap().display());
    let first = world.project(&[]).with_env("PATH", &path);
    let name = world.name();
    first.write_env(&with_wheels(&world, &wheels, &[IDNA, CERTIFI]));
    built(&first, &["-t", &name, "--push", "--no-compile"]);

    let (before, now) = changed(&first, &with_wheels(&world, &wheels, &[IDNA, CLICK]));
    wheels.clear();
    let told = || {
        asked(&wheels)
            .union(&asked(&world.channel))
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    let (_, _, asked) = rebuilt(&world, &first, &name, told);
    assert_eq!(asked, to_be_made(&before, &now, &[]));
}
