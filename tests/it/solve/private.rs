//! Private channels: every way to sign in works for the index and for packages, and no secret is
//! in anything that is printed, kept or built.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tempfile::TempDir;

use crate::{
    mini::{Mini, env_of, names},
    support::{Channel, Output, Project},
};

const HELLO: &str = "hello-demo-1.0-0.tar.bz2";
const GENERIC: &str = "generic-demo-1.0-0.tar.bz2";
const TOKEN: &str = "tk-5ecret-70ken";
const USER: &str = "me";
const PASSWORD: &str = "p5ecret-w0rd";
/// `me:p5ecret-w0rd`, as a header has it.
const BASIC: &str = "bWU6cDVlY3JldC13MHJk";

/// A folder with one channel, `team`.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mini = Mini::of(&[HELLO, GENERIC]);
    for subdir in ["linux-64", "noarch"] {
        let to = dir.path().join("team").join(subdir);
        fs::create_dir_all(&to).unwrap();
        for name in names(&mini.path().join(subdir)) {
            fs::copy(mini.path().join(subdir).join(&name), to.join(&name)).unwrap();
        }
    }
    dir
}

/// A way to sign in: the server's flags, the channel's name in env.yml, and files of the home;
/// `@` stands for the server's host and port.
struct Way {
    what: &'static str,
    server: [&'static str; 2],
    channel: String,
    files: Vec<(&'static str, String)>,
}

fn ways() -> Vec<Way> {
    let (token, login) = (["--token", TOKEN], ["--auth", "me:p5ecret-w0rd"]);
    let way = |what, server, channel: String, files: &[(&'static str, String)]| Way {
        what,
        server,
        channel,
        files: files.to_vec(),
    };
    let netrc = format!("machine 127.0.0.1 login {USER} password {PASSWORD}\n");
    let basic = format!(
        r#"{{"127.0.0.1": {{"BasicHTTP": {{"username": "{USER}", "password": "{PASSWORD}"}}}}}}"#
    );
    let conda_token = format!(r#"{{"127.0.0.1": {{"CondaToken": "{TOKEN}"}}}}"#);
    let alias = format!("channel_alias: http://@/t/{TOKEN}/\n");
    let custom = format!("custom_channels: {{team: 'http://{USER}:{PASSWORD}@@'}}\n");
    let plain = || "http://@/team".to_owned();
    vec![
        way(
            "a token in the URL",
            token,
            format!("http://@/t/{TOKEN}/team"),
            &[],
        ),
        way(
            "a login in the URL",
            login,
            format!("http://{USER}:{PASSWORD}@@/team"),
            &[],
        ),
        way(".netrc", login, plain(), &[(".netrc", netrc)]),
        way(
            "a login in the auth file",
            login,
            plain(),
            &[("auth.json", basic)],
        ),
        way(
            "a token in the auth file",
            token,
            plain(),
            &[("auth.json", conda_token)],
        ),
        way(
            "condarc's channel_alias",
            token,
            "team".into(),
            &[(".condarc", alias)],
        ),
        way(
            "condarc's custom_channels",
            login,
            "team".into(),
            &[(".condarc", custom)],
        ),
    ]
}

/// A text with the server's host and port for the last `@` before a slash or a quote.
fn at(text: &str, server: &Channel) -> String {
    let host = server.url.strip_prefix("http://").unwrap();
    text.replace("@@", &format!("@{host}"))
        .replace("//@", &format!("//{host}"))
}

impl Way {
    fn project(&self, server: &Channel) -> Project {
        let channel = at(&self.channel, server);
        let project = Project::new(&env_of(&[&channel], &["hello-demo", "generic-demo"]));
        for (name, text) in &self.files {
            fs::write(project.home().join(name), at(text, server)).unwrap();
        }
        match self.files.iter().any(|(name, _)| *name == "auth.json") {
            true => {
                let file = project.home().join("auth.json");
                project.with_env("RATTLER_AUTH_FILE", file)
            }
            false => project,
        }
    }
}

/// Fails if a secret is in an output, or in a file but for the ones that brought it.
#[track_caller]
fn nothing_is_told(what: &str, project: &Project, outputs: &[Output]) {
    let secrets = [TOKEN, PASSWORD, BASIC];
    let clean = |place: &str, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        for secret in secrets {
            assert!(!text.contains(secret), "{what}: a secret is in {place}");
        }
    };
    for output in outputs {
        clean("stdout", output.stdout.as_bytes());
        clean(&output.stderr, output.stderr.as_bytes());
    }
    let given = ["env.yml", ".netrc", "auth.json", ".condarc"];
    let mut seen = 0;
    for file in [project.dir.path(), project.home()]
        .iter()
        .flat_map(|dir| files(dir))
    {
        let name = file.file_name().unwrap().to_str().unwrap();
        clean("a file's name", file.to_str().unwrap().as_bytes());
        if given.contains(&name) {
            continue;
        }
        let mut unpacked = Vec::new();
        // What is no gzip gives nothing here.
        let _ = MultiGzDecoder::new(File::open(&file).unwrap()).read_to_end(&mut unpacked);
        clean(&file.display().to_string(), &fs::read(&file).unwrap());
        clean(&file.display().to_string(), &unpacked);
        seen += 1;
    }
    assert!(seen > 3, "{what}: only {seen} files to look into");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn every_way_to_sign_in_works_and_tells_nothing() {
    let folder = folder();
    for way in ways() {
        let server = Channel::serve_with(folder.path(), &way.server);
        let project = way.project(&server);
        let build = [
            "build",
            "env.yml",
            "--base",
            "scratch",
            "-o",
            "type=oci,dest=out",
        ];
        let first = project.ok(&build);
        let text = fs::read_to_string(project.path("env.lock.yml")).unwrap();
        let url = format!("{}/team/linux-64/{HELLO}", server.url);
        assert!(text.contains(&url), "{}: no {url} in\n{text}", way.what);

        // The lock has no secret, and the packages are fetched once more all the same.
        fs::remove_dir_all(&project.cache).unwrap();
        let again = project.ok(&build);
        assert!(!again.stderr.contains("Renewing"), "{}", again.stderr);
        assert_eq!(again.digest(), first.digest(), "{}", way.what);

        // So they are for whoever has the lock alone, where the login is not in env.yml.
        if !way.files.is_empty() {
            fs::remove_dir_all(&project.cache).unwrap();
            project.ok(&["build", "env.lock.yml", "--base", "scratch"]);
        }

        drop(server);
        let gone = project.imgbuild(&["lock", "env.yml"]);
        gone.expect(3);
        nothing_is_told(way.what, &project, &[first, again, gone]);
    }
}

/// What cannot be fetched is named by its URL, and every try by the error of the one before.
#[test]
fn failed_downloads_tell_nothing() {
    let (folder, way) = (folder(), ways().remove(0));
    let server = Channel::serve_with(folder.path(), &way.server);
    let project = way.project(&server);
    let build = ["build", "env.yml", "--base", "scratch"];
    let lock = project.ok(&["lock", "env.yml", "--base", "scratch"]);
    fs::remove_dir_all(folder.path().join("team/linux-64")).unwrap();
    let missing = project.imgbuild(&build);
    missing.expect(3);
    drop(server);
    let gone = project.imgbuild(&build);
    gone.expect(3);
    assert!(gone.stderr.contains("/t/*"), "{}", gone.stderr);
    nothing_is_told("failed downloads", &project, &[lock, missing, gone]);
}

#[test]
fn who_has_no_login_is_told_how_to_give_one() {
    let folder = folder();
    for server in [["--token", TOKEN], ["--auth", "me:p5ecret-w0rd"]] {
        let server = Channel::serve_with(folder.path(), &server);
        let project = Project::new(&env_of(&[&format!("{}/team", server.url)], &["hello-demo"]));
        let out = project.imgbuild(&["lock", "env.yml"]);
        out.expect(3);
        let place = format!("at: {}/team/", server.url);
        assert!(out.stderr.contains(&place), "{}", out.stderr);
        assert!(out.stderr.contains("~/.netrc"), "{}", out.stderr);
    }
}

/// The server sends whoever asks for a package elsewhere, as large channels do.
#[test]
fn another_host_is_told_nothing() {
    let folder = folder();
    for way in ways() {
        let log = folder.path().join("other.log");
        let other = Channel::serve_with(folder.path(), &["--log", log.to_str().unwrap()]);
        let flags = [&way.server[..], &["--packages-at", &other.url]].concat();
        let server = Channel::serve_with(folder.path(), &flags);
        let project = way.project(&server);
        project.ok(&["build", "env.yml", "--base", "scratch"]);
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().count(), 2, "{}: {text}", way.what);
        for line in text.lines() {
            assert!(
                line.starts_with("GET /team/") && line.ends_with(" 200 - - -"),
                "{}: {line}",
                way.what
            );
        }
        fs::remove_file(log).unwrap();
    }
}

#[test]
fn files_of_logins_are_not_quoted() {
    let project = Project::new(&env_of(&["http://127.0.0.1:9/team"], &["hello-demo"]));
    let file = project.home().join("auth.json");
    let project = project.with_env("RATTLER_AUTH_FILE", &file);
    for text in [
        format!(r#"{{"127.0.0.1": "{TOKEN}"}}"#),
        format!(r#"{{"127.0.0.1": {{"{TOKEN}": 1}}}}"#),
        format!("\n  {TOKEN}"),
    ] {
        fs::write(&file, text).unwrap();
        let out = project.imgbuild(&["lock", "env.yml"]);
        out.expect(3);
        assert!(out.stderr.contains("auth.json:"), "{}", out.stderr);
        assert!(!out.stderr.contains(TOKEN), "{}", out.stderr);
    }
    fs::write(&file, "{}").unwrap();
    fs::write(
        project.home().join(".netrc"),
        format!("machine {PASSWORD} odd {TOKEN}\n"),
    )
    .unwrap();
    let out = project.imgbuild(&["lock", "env.yml"]);
    assert!(
        out.stderr.contains(".netrc cannot be read"),
        "{}",
        out.stderr
    );
    assert!(
        !out.stderr.contains(TOKEN) && !out.stderr.contains(PASSWORD),
        "{}",
        out.stderr
    );
}

/// Specs are written into the image's history.
#[test]
fn a_spec_may_hold_no_credential() {
    for channel in [
        format!("https://h/t/{TOKEN}/team"),
        format!("https://{USER}:{PASSWORD}@h/team"),
    ] {
        let text = format!("channels: [team]\ndependencies:\n  - '{channel}::hello-demo'\n");
        let out = Project::new(&text).imgbuild(&["lock", "env.yml"]);
        out.expect(2);
        assert!(
            out.stderr.contains("a login is not supported"),
            "{}",
            out.stderr
        );
        assert!(
            !out.stderr.contains(TOKEN) && !out.stderr.contains(PASSWORD),
            "{}",
            out.stderr
        );
    }
}
