//! Running `uv`.
//!
//! Of uv's own settings only those count that say *where* packages are and how to reach them:
//! what is chosen must come from the environment file, so that two people get the same lock.

use std::{
    ffi::OsStr,
    io::{self, Write},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use crate::error::{Error, Result};

/// The oldest uv whose answers are understood; 0.7 has `pip compile --format pylock.toml` with
/// the names that were kept.
const OLDEST: (u32, u32) = (0, 7);

/// uv's variables (uv docs, "Environment variables") that it is given.
const KEPT: [&str; 21] = [
    "UV_CACHE_DIR",
    "UV_CONCURRENT_DOWNLOADS",
    "UV_CREDENTIALS_DIR",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_HTTP_CONNECT_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_HTTP_TIMEOUT",
    "UV_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_INDEX_URL",
    "UV_INSECURE_HOST",
    "UV_KEYRING_PROVIDER",
    "UV_LOCK_TIMEOUT",
    "UV_NATIVE_TLS",
    "UV_NO_CACHE",
    "UV_OFFLINE",
    "UV_REQUEST_TIMEOUT",
    "UV_SSL_CERT_FILE",
    "UV_SYSTEM_CERTS",
];

/// Those that name the main index.
const MAIN_INDEX: [&str; 2] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL"];
/// Those that add indexes.
const MORE_INDEXES: [&str; 2] = ["UV_INDEX", "UV_EXTRA_INDEX_URL"];

/// A uv that can be used.
pub struct Uv {
    /// Its version, as it says it.
    pub version: String,
}

impl Uv {
    /// The `uv` on PATH.
    ///
    /// # Errors
    /// When there is none, it does not start, or it is too old.
    pub fn find() -> Result<Self> {
        let output = Command::new("uv")
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => {
                    get_uv("pip packages are resolved by uv, and there is no uv on PATH".into())
                }
                _ => Error::environment("uv does not start").why(e),
            })?;
        let said = String::from_utf8_lossy(&output.stdout);
        let version = said.split_whitespace().nth(1).unwrap_or_default();
        let mut parts = version.split('.').map(str::parse);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            return Err(get_uv("the uv on PATH does not say its version".into()));
        };
        if (major, minor) < OLDEST {
            let (major, minor) = OLDEST;
            return Err(get_uv(format!(
                "uv {version} is too old: pip packages are resolved by uv {major}.{minor} or newer"
            )));
        }
        Ok(Self {
            version: version.to_owned(),
        })
    }

    /// Runs it in a folder with what stands on its stdin, which may hold secrets: those are never
    /// arguments, which every user of the machine can read.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(
        &self,
        arguments: &[&OsStr],
        stdin: String,
        folder: &Path,
        indexes: OwnIndexes,
    ) -> Result<Output> {
        let mut command = Command::new("uv");
        command
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            if !given(&name.to_string_lossy(), indexes) {
                command.env_remove(name);
            }
        }
        let failed = |e: io::Error| Error::environment("uv does not run").why(e);
        let mut child = command.spawn().map_err(failed)?;
        let writer = child.stdin.take().map(|mut pipe| {
            // Of its own: uv may write before it has read all. A uv that ended says why itself.
            thread::spawn(move || drop(pipe.write_all(stdin.as_bytes())))
        });
        let output = child.wait_with_output().map_err(failed)?;
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        Ok(output)
    }
}

/// Which of the user's own indexes an environment file leaves in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnIndexes {
    /// The file names none.
    All,
    /// The file names the main one.
    More,
    /// The file wants none (`--no-index`).
    None,
}

/// Whether uv gets a variable of imgbuild's environment.
fn given(name: &str, indexes: OwnIndexes) -> bool {
    if !name.starts_with("UV_") {
        // An activated environment is the builder's, not the image's.
        return name != "VIRTUAL_ENV" && name != "CONDA_PREFIX";
    }
    let overruled = match indexes {
        OwnIndexes::All => false,
        OwnIndexes::More => MAIN_INDEX.contains(&name),
        OwnIndexes::None => MAIN_INDEX.contains(&name) || MORE_INDEXES.contains(&name),
    };
    KEPT.contains(&name) && !overruled
}

fn get_uv(what: String) -> Error {
    Error::environment(what).hint(
        "install it: pip install uv, conda install -c conda-forge uv, or \
         https://docs.astral.sh/uv/getting-started/installation/",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_uv_gets_to_know() {
        let all = |name| given(name, OwnIndexes::All);
        assert!(all("PATH") && all("HTTPS_PROXY") && all("UV_INDEX_URL") && all("UV_CACHE_DIR"));
        assert!(!all("UV_PRERELEASE") && !all("UV_OVERRIDE") && !all("UV_TORCH_BACKEND"));
        assert!(!all("VIRTUAL_ENV"));
        assert!(!given("UV_DEFAULT_INDEX", OwnIndexes::More));
        assert!(given("UV_EXTRA_INDEX_URL", OwnIndexes::More));
        assert!(!given("UV_EXTRA_INDEX_URL", OwnIndexes::None));
        assert!(given("UV_FIND_LINKS", OwnIndexes::None));
    }
}
