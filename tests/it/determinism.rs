//! Same input, same digest: on any machine, any day, by any user; and a change changes no more
//! than it must.

use std::{
    fs::{self, File, Permissions},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, SystemTime},
};

use crate::support::{Image, Output, Project, env_file, fixture, hash_file, run};

const BUILD: [&str; 6] = ["build", "env.yml", "--base", "scratch", "--code", "code"];

/// A project with the crafted packages and some code, with a cache of its own.
fn project() -> Project {
    let project = Project::new(&env_file("crafted"));
    project.write("code/train.py", "print('training')\n");
    project.write("code/lib/util.py", "X = 1\n");
    project
}

/// The digest that all variants must have.
fn reference() -> &'static str {
    static REFERENCE: OnceLock<String> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let project = project();
        let image = project.image(&project.ok(&BUILD));
        // Warm, with the lock that is there now.
        let again = project.ok(&BUILD);
        assert_eq!(again.digest(), image.digest);
        assert!(again.stderr.contains("Reusing"), "{}", again.stderr);
        assert!(!again.stderr.contains("Built"), "{}", again.stderr);
        image.digest
    })
}

#[track_caller]
fn same(output: &Output) {
    output.expect(0);
    assert_eq!(output.digest(), reference());
}

#[test]
fn neither_time_zone_nor_language_matters() {
    let project = project()
        .with_env("TZ", "Asia/Kathmandu")
        .with_env("LANG", "tr_TR.UTF-8")
        .with_env("LC_ALL", "tr_TR.UTF-8");
    same(&project.ok(&BUILD));
}

#[test]
fn neither_umask_nor_thread_count_matters() {
    let project = project();
    let masked = ["sh", "-c", "umask 077; exec taskset -c 0 \"$@\"", "sh"];
    same(&project.ok_through(&masked, &BUILD));
    let image = Image::read(&project.cache.join("blobs/sha256"), reference());
    assert_eq!(image.digest, reference());
}

#[test]
fn neither_place_nor_folder_name_matters() {
    let project = project();
    let away = project.home().join("somewhere else");
    run(Command::new("cp")
        .arg("-r")
        .arg(project.dir.path())
        .arg(&away));
    let mut command = project.command(env!("CARGO_BIN_EXE_imgbuild"));
    command
        .current_dir("/")
        .arg("build")
        .arg(away.join("env.yml"));
    command
        .args(["--base", "scratch", "--code"])
        .arg(away.join("code"));
    let output = project.output(&mut command);
    same(&output);
}

#[test]
fn a_lock_gives_what_the_solver_gave() {
    let project = project();
    project.ok(&["lock", "env.yml", "--base", "scratch"]);
    let lock = fs::read(project.path("env.lock.yml")).unwrap();
    let output = project.ok(&BUILD);
    same(&output);
    assert_eq!(fs::read(project.path("env.lock.yml")).unwrap(), lock);
}

#[test]
fn the_codes_times_and_permissions_do_not_matter() {
    let project = project();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for path in ["code/train.py", "code/lib/util.py"] {
        let path = project.path(path);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    fs::set_permissions(project.path("code/lib"), Permissions::from_mode(0o700)).unwrap();
    same(&project.ok(&BUILD));
}

#[test]
fn the_user_does_not_matter() {
    if run(Command::new("id").arg("-u")).trim() != "0" {
        // Then all other tests ran as an ordinary user, and root cannot be had.
        eprintln!("not root: every other test shows this");
        return;
    }
    // Below /tmp: an ordinary user may not look into the folders of root's checkout.
    let dir = tempfile::tempdir().unwrap();
    let project = project();
    let at = |name: &str| dir.path().join(name);
    // By another process, so that it can be run.
    run(Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_imgbuild"))
        .arg(at("imgbuild")));
    run(Command::new("cp")
        .arg("-r")
        .arg(project.dir.path())
        .arg(at("project")));
    fs::create_dir(at("home")).unwrap();
    run(Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(dir.path()));
    let mut command = project.command("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(at("imgbuild"))
        .args(BUILD)
        .env("HOME", at("home"))
        .env("IMGBUILD_CACHE_DIR", at("home").join("cache"))
        .env_remove("XDG_CACHE_HOME")
        .current_dir(at("project"));
    let output = project.output(&mut command);
    same(&output);
}

#[test]
fn where_the_base_lies_does_not_matter() {
    let project = project();
    let here = fixture("IMGBUILD_TEST_BASE");
    run(Command::new("cp")
        .arg("-r")
        .arg(&here)
        .arg(project.path("copy")));
    let there = project.path("moved.tar");
    run(Command::new("skopeo")
        .args(["copy", "-q", "--preserve-digests"])
        .arg(format!("oci:{}", here.display()))
        .arg(format!("oci-archive:{}", there.display())));
    let absolute = format!("oci:{}", here.display());
    let archive = format!("oci-archive:{}", there.display());
    let digests = [absolute.as_str(), "oci:copy", &archive].map(|base| {
        let output = project.ok(&["build", "env.yml", "--base", base]);
        output.digest().to_owned()
    });
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
}

#[test]
fn a_killed_build_leaves_nothing_behind() {
    let project = project();
    let mut interrupted = 0;
    for delay in [10, 30, 60, 100, 150, 220, 300, 400, 550, 700, 900, 1200] {
        let mut command = project.command(env!("CARGO_BIN_EXE_imgbuild"));
        command
            .args(BUILD)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        interrupted += usize::from(child.wait().unwrap().signal() == Some(9));
    }
    assert!(interrupted >= 3, "the builds ended before they were killed");
    let output = project.ok(&BUILD);
    same(&output);
    assert_eq!(project.image(&output).digest, reference());
    same(&project.ok(&BUILD));

    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(project.cache.join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    };
    assert_eq!(names("tmp"), [""; 0]);
    for folder in ["blobs/sha256", "packages"] {
        for name in names(folder) {
            assert_eq!(
                hash_file(&project.cache.join(folder).join(&name)).0,
                name,
                "{folder}"
            );
        }
    }
    let left = fs::read_dir(project.dir.path()).unwrap();
    let mut left: Vec<_> = left
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["code", "env.lock.yml", "env.yml", "imgbuild.yaml"]);
}

#[test]
fn a_change_of_code_changes_one_layer() {
    let project = project();
    let before = project.image(&project.ok(&BUILD));
    project.write("code/train.py", "print('training more')\n");
    let output = project.ok(&BUILD);
    let after = project.image(&output);
    assert_eq!(after.titles_not_in(&before), ["User code in /workspace"]);
    assert_eq!(after.layers.len(), before.layers.len());
    assert!(!output.stderr.contains("Fetching"), "{}", output.stderr);
}

#[test]
fn a_new_version_changes_its_layer() {
    let project = project();
    let before = project.image(&project.ok(&BUILD));
    project.write_env(&env_file("crafted").replace("hello-demo=1.0", "hello-demo=1.1"));
    let after = project.image(&project.ok(&BUILD));
    assert_eq!(after.layers.len(), before.layers.len());
    let hello = after.ours().find(|layer| {
        layer
            .entries
            .iter()
            .any(|path| path.ends_with("bin/hello-demo"))
    });
    let state = "Environment state: conda history, activation";
    assert_eq!(
        after.titles_not_in(&before),
        [hello.unwrap().title.as_str(), state]
    );
    assert_eq!(
        after.rootfs.text("/opt/conda/share/hello-demo/version.txt"),
        "1.1\n"
    );

    // On another machine, with nothing cached, it is the same image.
    let elsewhere = self::project();
    elsewhere.write_env(&env_file("crafted").replace("hello-demo=1.0", "hello-demo=1.1"));
    assert_eq!(elsewhere.ok(&BUILD).digest(), after.digest);
    assert!(Path::new(&project.cache).exists());
}
