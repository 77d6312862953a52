//! The channels of a lock: folders, those that a package names, and those with a login.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{GENERIC, HELLO, HELLO_NEWER, NAMES, NAMES_NEWER, files, lock_text};
use crate::{
    mini::{Mini, env, env_of, read},
    support::{Channel, Project, run, source},
};

#[test]
fn a_project_moves_with_its_channel() {
    let mini = Mini::of(&[HELLO, GENERIC]);
    let project = Project::new(&env("./my-channel", &["hello-demo", "generic-demo"]));
    let copy = |to: &Path| {
        run(Command::new("cp").arg("-a").arg(mini.path()).arg(to));
    };
    copy(&project.path("my-channel"));
    project.ok(&["build", "env.yml"]);
    let text = lock_text(&project);
    let folder = project.dir.path().display().to_string();
    assert!(!text.contains(&folder), "{text}");
    assert!(
        text.contains("- conda: ./my-channel/linux-64/hello-demo"),
        "{text}"
    );

    let moved = Project::new(&read(&project, "env.yml"));
    copy(&moved.path("my-channel"));
    moved.write("env.lock.yml", &text);
    moved.ok(&["build", "env.yml", "--locked"]);
    moved.ok(&["lock", "env.yml"]);
    assert_eq!(lock_text(&moved), text);

    // A folder outside of the project: what moved is said.
    let outside = Project::new(&env("../elsewhere", &["hello-demo"]));
    outside.write("env.lock.yml", &text);
    let out = outside.imgbuild(&["lock", "env.yml", "--locked"]);
    out.expect(2);
    assert!(
        out.stderr.contains("the channels changed (env.yml:3:5)"),
        "{}",
        out.stderr
    );
}

#[test]
fn a_channel_before_a_package_is_searched_for_it() {
    let (first, second) = (
        Mini::of(&[HELLO_NEWER, NAMES_NEWER]),
        Mini::of(&[HELLO, NAMES]),
    );
    let (one, two) = (Channel::serve(first.path()), Channel::serve(second.path()));
    let named = format!("{}::hello-demo", two.url);
    let project = Project::new(&env(&one.url, &[&named, "names-demo"]));
    project.ok(&["lock", "env.yml"]);
    assert_eq!(files(&project), [HELLO, NAMES_NEWER]);
    assert!(lock_text(&project).contains(&format!("- conda: {}/linux-64/{HELLO}", two.url)));
    project.ok(&["build", "env.yml", "--locked"]);
    // It may be listed as well, and the same package of another channel is not the same.
    project.write_env(&env_of(&[&one.url, &two.url], &[&named, "names-demo"]));
    project.ok(&["build", "env.yml", "--locked"]);
    project.write_env(&env_of(
        &[&one.url, &two.url],
        &["hello-demo", "names-demo"],
    ));
    project.ok(&["lock", "env.yml", "--update-all"]);
    project.write_env(&env_of(&[&one.url, &two.url], &[&named, "names-demo"]));
    let out = project.imgbuild(&["lock", "env.yml", "--locked"]);
    out.expect(2);
    assert!(
        out.stderr.contains("::hello-demo' (env.yml:6:5)"),
        "{}",
        out.stderr
    );
}

/// A channel that asks for a login.
struct Private {
    port: String,
    server: Child,
}

impl Private {
    fn serve(dir: &Path, login: &str) -> Self {
        let mut server = Command::new("python3")
            .arg(source("tests/support/serve.py"))
            .arg(dir)
            .args(["--while-stdin", "--auth", login])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line.trim().rsplit(':').next().unwrap().to_owned();
        Self { port, server }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Every text file below a folder that holds a word.
fn holding(dir: &Path, word: &str) -> String {
    let out = Command::new("grep")
        .args(["-rl", word])
        .arg(dir)
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn a_login_in_a_url_stays_out_of_everything() {
    const SECRET: &str = "s3cretT0ken";
    let mini = Mini::of(&[HELLO, NAMES]);
    let private = Private::serve(mini.path(), &format!("me:{SECRET}"));
    let channel = format!("http://${{CH_USER}}:$CH_TOKEN@127.0.0.1:{}", private.port);
    let text = env(&channel, &["hello-demo"]);

    let project = Project::new(&text);
    let out = project.imgbuild(&["lock", "env.yml"]);
    out.expect(2);
    assert!(out.stderr.contains("CH_USER is not set"), "{}", out.stderr);
    assert!(out.stderr.contains("env.yml:3:5"), "{}", out.stderr);

    let project = Project::new(&text)
        .with_env("CH_USER", "me")
        .with_env("CH_TOKEN", SECRET);
    let out = project.ok(&["build", "env.yml", "-o", "type=oci,dest=out"]);
    assert!(!out.stderr.contains(SECRET), "{}", out.stderr);
    let lock = lock_text(&project);
    assert!(
        lock.contains(&format!("url: http://127.0.0.1:{}/", private.port)),
        "{lock}"
    );
    assert_eq!(holding(project.dir.path(), SECRET), "");
    assert_eq!(holding(project.home(), SECRET), "");
    // A cold cache needs the login for the packages alone.
    fs::remove_dir_all(&project.cache).unwrap();
    project.ok(&["build", "env.yml", "--locked"]);

    // Written out, and wrong: no word of it in the error.
    let wrong = format!("http://me:not{SECRET}@127.0.0.1:{}", private.port);
    project.write_env(&env(&wrong, &["hello-demo", "names-demo"]));
    fs::remove_dir_all(&project.cache).unwrap();
    let out = project.imgbuild(&["lock", "env.yml"]);
    out.expect(3);
    assert!(out.stderr.contains("401"), "{}", out.stderr);
    assert!(!out.stderr.contains(SECRET), "{}", out.stderr);
    project.write_env(&env(&wrong, &["hello-demo ==="]));
    let out = project.imgbuild(&["lock", "env.yml"]);
    out.expect(2);
    assert!(!out.stderr.contains(SECRET), "{}", out.stderr);
}

#[test]
fn a_token_in_a_path_stays_out_of_everything() {
    const TOKEN: &str = "tk-0123456789";
    let mini = Mini::of(&[HELLO]);
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("t").join(TOKEN)).unwrap();
    run(Command::new("cp")
        .arg("-a")
        .arg(mini.path())
        .arg(root.path().join("t").join(TOKEN).join("chan")));
    let served = Channel::serve(root.path());
    let project = Project::new(&env(
        &format!("{}/t/${{TOKEN}}/chan", served.url),
        &["hello-demo"],
    ))
    .with_env("TOKEN", TOKEN);
    let out = project.ok(&["build", "env.yml"]);
    assert!(!out.stderr.contains(TOKEN), "{}", out.stderr);
    assert!(lock_text(&project).contains(&format!("{}/chan/linux-64/{HELLO}", served.url)));
    assert_eq!(holding(project.dir.path(), TOKEN), "");
    assert_eq!(holding(project.home(), TOKEN), "");
    // Gone: the error names the place without the token.
    fs::remove_dir_all(&project.cache).unwrap();
    fs::remove_file(
        root.path()
            .join("t")
            .join(TOKEN)
            .join("chan/linux-64")
            .join(HELLO),
    )
    .unwrap();
    let out = project.imgbuild(&["build", "env.yml"]);
    out.expect(3);
    assert!(out.stderr.contains("404"), "{}", out.stderr);
    assert!(!out.stderr.contains(TOKEN), "{}", out.stderr);
    fs::remove_dir_all(root.path().join("t").join(TOKEN)).unwrap();
    let out = project.imgbuild(&["lock", "env.yml"]);
    out.expect(3);
    assert!(!out.stderr.contains(TOKEN), "{}", out.stderr);
}
