//! A folder with an environment file, and the built program run in it.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use tempfile::TempDir;

use super::{Image, channel, image::read_all, temp_dir};

/// A folder with an `env.yml`, and a home and a cache of its own.
pub struct Project {
    /// The project's folder.
    pub dir: TempDir,
    /// The cache, `IMGBUILD_CACHE_DIR`.
    pub cache: PathBuf,
    /// Holds the home and the cache.
    home: TempDir,
    variables: Vec<(OsString, OsString)>,
    /// The image that was built last, until somebody asks for it.
    checked: Mutex<Option<Image>>,
}

/// What a run of the program gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit status; 128 + N when signal N ended it.
    pub status: i32,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Project {
    /// Writes `env.yml`, with the test channel's address for `@CHANNEL@`, and an `imgbuild.yaml`
    /// that names the fixture base.
    pub fn new(env_yaml: &str) -> Self {
        let home = temp_dir();
        let project = Self {
            dir: temp_dir(),
            cache: home.path().join("cache"),
            home,
            variables: Vec::new(),
            checked: Mutex::new(None),
        };
        project.write_env(env_yaml);
        // A lock names its base image, and no test can reach the registry of the default one.
        if let Some(base) = std::env::var_os("IMGBUILD_TEST_BASE") {
            let base = format!("base: oci:{}\n", base.to_string_lossy());
            project.write("imgbuild.yaml", &base);
        }
        project
    }

    /// Writes `env.yml` anew.
    pub fn write_env(&self, env_yaml: &str) {
        // Fixtures are only needed by those who name them.
        let text = match env_yaml.contains("@CHANNEL@") {
            true => env_yaml.replace("@CHANNEL@", channel()),
            false => env_yaml.to_owned(),
        };
        self.write("env.yml", &text);
    }

    /// Writes a file of the project and the folders above it.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A path in the project.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The home folder that the program sees.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Sets an environment variable for the program, such as TZ, LANG or DOCKER_HOST.
    pub fn with_env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.into(), value.as_ref().into()));
        self
    }

    /// A command that sees nothing of the tests' own environment and runs in the project.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.home())
            .env("IMGBUILD_CACHE_DIR", &self.cache)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path());
        for xdg in ["CACHE", "CONFIG", "DATA", "STATE"] {
            command.env(format!("XDG_{xdg}_HOME"), self.home().join(xdg));
        }
        command
    }

    /// Runs the program in the project.
    pub fn imgbuild(&self, args: &[&str]) -> Output {
        self.output(self.command(env!("CARGO_BIN_EXE_imgbuild")).args(args))
    }

    /// Runs the program, which must succeed.
    pub fn ok(&self, args: &[&str]) -> Output {
        let output = self.imgbuild(args);
        output.expect(0);
        output
    }

    /// Runs the program through another one, such as `taskset -c 0`; it must succeed.
    pub fn ok_through(&self, wrapper: &[&str], args: &[&str]) -> Output {
        let mut command = self.command(wrapper[0]);
        command.args(&wrapper[1..]);
        command.arg(env!("CARGO_BIN_EXE_imgbuild")).args(args);
        let output = self.output(&mut command);
        output.expect(0);
        output
    }

    /// Runs any command to its end. An image that it built is checked there and then.
    pub fn output(&self, command: &mut Command) -> Output {
        let output = Output::of(command);
        // A probe's report may follow, and the status may be the probe's.
        let digest = output.stdout.lines().next();
        let digest = digest.filter(|line| builds(command) && line.starts_with("sha256:"));
        if let Some(digest) = digest {
            *self.checked.lock().unwrap() = self.read(command, digest).pop();
        }
        output
    }

    /// Reads an image, or those of an index, out of the cache that a command had.
    fn read(&self, command: &Command, digest: &str) -> Vec<Image> {
        let mut set = command.get_envs();
        let cache = set.find_map(|(name, value)| (name == "IMGBUILD_CACHE_DIR").then_some(value?));
        let cache = cache.map_or(self.cache.as_path(), Path::new);
        read_all(&cache.join("blobs/sha256"), digest)
    }

    /// Builds `env.yml` and reads the image back out of the cache, checking every rule of
    /// images on the way.
    pub fn build(&self, args: &[&str]) -> Image {
        let output = self.ok(&[&["build", "env.yml"], args].concat());
        self.image(&output)
    }

    /// The image that a build printed, read out of the cache.
    pub fn image(&self, output: &Output) -> Image {
        let checked = self.checked.lock().unwrap().take();
        let checked = checked.filter(|image| image.digest == output.digest());
        checked.unwrap_or_else(|| Image::read(&self.cache.join("blobs/sha256"), output.digest()))
    }
}

/// Whether a command is `imgbuild build`, and not one that only plans.
fn builds(command: &Command) -> bool {
    let program = OsStr::new(env!("CARGO_BIN_EXE_imgbuild"));
    let words: Vec<&OsStr> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .collect();
    let ours = words.iter().position(|word| *word == program);
    let has = |word: &str| words.iter().skip(ours.unwrap_or(0)).any(|w| *w == word);
    ours.is_some() && has("build") && !has("--dry-run") && !has("--help")
}

impl Output {
    /// Runs any command to its end.
    pub fn of(command: &mut Command) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let output = command
            .output()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let status = output.status;
        Self {
            status: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap()),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Fails the test unless the status is this one.
    #[track_caller]
    pub fn expect(&self, status: i32) {
        assert_eq!(
            self.status, status,
            "stdout:\n{}\nstderr:\n{}",
            self.stdout, self.stderr
        );
    }

    /// The digest that a build printed: its whole stdout.
    #[track_caller]
    pub fn digest(&self) -> &str {
        let digest = self.stdout.trim_end();
        assert!(
            digest.starts_with("sha256:") && digest.len() == 71,
            "no digest: {digest:?}"
        );
        digest
    }
}
