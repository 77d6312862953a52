//! Helpers (a private stand-in; replaced at merge).
use std::{
    fs,
    io::BufRead,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};
use tempfile::TempDir;

pub fn fixture(name: &str) -> PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run `make test`"))
        .into()
}

pub fn channel() -> &'static str {
    static CHANNEL: OnceLock<Channel> = OnceLock::new();
    &CHANNEL
        .get_or_init(|| Channel::serve(&fixture("IMGBUILD_TEST_CHANNEL_DIR")))
        .url
}

pub struct Channel {
    pub url: String,
    child: Child,
}

impl Channel {
    pub fn serve(dir: &Path) -> Self {
        let mut child = Command::new("python3")
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/support/serve.py"
            ))
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        std::io::BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut url)
            .unwrap();
        Self {
            url: url.trim().into(),
            child,
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Project {
    pub dir: TempDir,
    pub cache: PathBuf,
}

#[derive(Debug)]
pub struct Output {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    pub fn new(env_yaml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = match env_yaml.contains("@CHANNEL@") {
            true => env_yaml.replace("@CHANNEL@", channel()),
            false => env_yaml.to_owned(),
        };
        fs::write(dir.path().join("env.yml"), text).unwrap();
        let cache = dir.path().join(".cache");
        Self { dir, cache }
    }

    pub fn imgbuild(&self, args: &[&str]) -> Output {
        let out = Command::new(env!("CARGO_BIN_EXE_imgbuild"))
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path().join(".home"))
            .env("IMGBUILD_CACHE_DIR", &self.cache)
            .output()
            .unwrap();
        Output {
            status: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8(out.stdout).unwrap(),
            stderr: String::from_utf8(out.stderr).unwrap(),
        }
    }

    pub fn ok(&self, args: &[&str]) -> Output {
        let out = self.imgbuild(args);
        assert_eq!(out.status, 0, "{args:?}: {}", out.stderr);
        out
    }
}

pub fn env_file(name: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/envs");
    fs::read_to_string(format!("{root}/{name}.yml")).unwrap()
}
