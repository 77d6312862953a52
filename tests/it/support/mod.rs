//! What the tests share: fixtures, a served channel, projects, and images read back.

mod attested;
mod documents;
mod image;
mod program;
mod project;
mod proxy;
mod rootfs;

use std::{
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

pub use attested::statements;
pub use image::{Codec, Image, Layer, Sha, hash_file, read_all, validate_layout};
pub use program::write_program;
pub use project::{Output, Project};
pub use proxy::{Proxy, Tricks};
pub use rootfs::{Kind, Node, Rootfs};

/// A path or an address that `make test` prepared.
pub fn fixture(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(value) if !value.is_empty() => value.into(),
        _ => panic!("{name} is not set: run `make test`"),
    }
}

/// An environment file of tests/support/envs; it still says @CHANNEL@.
pub fn env_file(name: &str) -> String {
    let path = source(&format!("tests/support/envs/{name}.yml"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file of the repository.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A folder for temporary files on the disk of the build, which is large enough for an image.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A folder served over HTTP on the loopback address until this is dropped.
pub struct Channel {
    /// The address.
    pub url: String,
    server: Child,
}

impl Channel {
    /// Starts tests/support/serve.py on a free port.
    pub fn serve(dir: &Path) -> Self {
        Self::serve_with(dir, &[])
    }

    /// The same with more options of serve.py.
    pub fn serve_with(dir: &Path, options: &[&str]) -> Self {
        // The server of all tests is never dropped; it ends with this process, which holds stdin.
        let mut server = Command::new("python3")
            .arg(source("tests/support/serve.py"))
            .arg(dir)
            .arg("--while-stdin")
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(server.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let url = line.trim().to_owned();
        assert!(url.starts_with("http://127.0.0.1:"), "serve.py said {url}");
        Self { url, server }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The address of the test channel; one server for all tests.
pub fn channel() -> &'static str {
    static CHANNEL: OnceLock<Channel> = OnceLock::new();
    let served = CHANNEL.get_or_init(|| Channel::serve(&fixture("IMGBUILD_TEST_CHANNEL_DIR")));
    &served.url
}

/// The tar in a layer, whatever it is compressed with.
pub fn decoded<'a>(mut layer: impl Read + 'a) -> Box<dyn Read + 'a> {
    let mut magic = Vec::new();
    layer.by_ref().take(4).read_to_end(&mut magic).unwrap();
    let whole = io::Cursor::new(magic.clone()).chain(layer);
    match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole).unwrap()),
        _ => Box::new(whole),
    }
}

/// Runs a program that must succeed; returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
