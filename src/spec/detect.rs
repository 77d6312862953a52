//! What kind of environment file a text is: an environment to solve, or a lock to use as it is.

use crate::spec::yaml::Limits;

/// How large a lock may be. 16 MiB is forty times the lock of an 885-package environment, and
/// what a parser holds in memory is about fifteen times the text.
pub const LOCK_LIMITS: Limits = Limits {
    bytes: 16 << 20,
    nodes: 2_000_000,
};

/// What kind of environment file a text is, told by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// A conda environment file.
    EnvYaml,
    /// A pixi lock, which imgbuild's own lock is too.
    PixiLock,
    /// A conda-lock lock.
    CondaLock,
    /// An `@EXPLICIT` list of URLs.
    Explicit,
}

/// A lock given in place of an environment file.
#[derive(Clone, Debug)]
pub struct LockInput {
    /// Its format.
    pub kind: InputKind,
    /// The whole text.
    pub text: String,
    /// Which part of it is meant.
    pub choice: LockChoice,
}

/// Which of a lock's environments is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockChoice {
    /// A pixi lock's environment; `default` when not chosen.
    pub environment: Option<String>,
    /// A conda-lock file's categories besides `main`.
    pub categories: Vec<String>,
}

/// Tells what kind of environment file a text is, without parsing it.
pub fn detect(text: &str) -> InputKind {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.lines().any(|line| line.trim() == "@EXPLICIT") {
        return InputKind::Explicit;
    }
    if !has_key(text, "version") {
        return InputKind::EnvYaml;
    }
    match (has_key(text, "environments"), has_key(text, "package")) {
        (true, _) => InputKind::PixiLock,
        (false, true) => InputKind::CondaLock,
        (false, false) => InputKind::EnvYaml,
    }
}

/// Whether a line begins with that key, bare or quoted.
fn has_key(text: &str, key: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start_matches(['"', '\'']);
        line.strip_prefix(key).is_some_and(|rest| {
            let rest = rest.trim_start_matches(['"', '\'']);
            rest.trim_start().starts_with(':')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_the_kind() {
        for (text, kind) in [
            (
                "version: 1\nmetadata: {}\npackage:\n- name: x\n",
                InputKind::CondaLock,
            ),
            (
                "\u{feff}version: 1\nmetadata: {}\npackage: []\n",
                InputKind::CondaLock,
            ),
            (
                "version: 6\nenvironments:\n  default: {}\npackages: []\n",
                InputKind::PixiLock,
            ),
            ("\"version\": 5\n'environments' : {}\n", InputKind::PixiLock),
            (
                "# platform: linux-64\n@EXPLICIT \r\nhttps://x/y.conda\n",
                InputKind::Explicit,
            ),
            ("# not @EXPLICIT\nname: x\n", InputKind::EnvYaml),
            ("name: version\n", InputKind::EnvYaml),
            ("  version: 1\n  package: []\n", InputKind::EnvYaml),
            ("version: 1\npackages: []\n", InputKind::EnvYaml),
            ("", InputKind::EnvYaml),
        ] {
            assert_eq!(detect(text), kind, "{text}");
        }
    }
}
