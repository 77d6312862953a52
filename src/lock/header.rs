//! What imgbuild keeps in a lock beyond `rattler_lock`'s format: comment lines at its head.
//!
//! ```text
//! # imgbuild: base debian:bookworm-slim@sha256:...
//! # imgbuild: exclude-newer 2026-03-31T23:59:59.999Z
//! # imgbuild: pip numpy torch
//! ```
//!
//! In a lock of several platforms each line says of which one it is, for an index has another image
//! for each: `# imgbuild: linux-aarch64 base debian:bookworm-slim@sha256:...`.

use rattler_conda_types::Subdir;

use super::{Conditions, LockedBase, Locks, conditions::PipConditions};
use crate::machine::Machine;

const MARK: &str = "# imgbuild: ";
const GENERATED: &str = "# Written by imgbuild; `imgbuild lock` renews it.\n";

/// Whether a text is imgbuild's own lock, as opposed to another tool's.
pub fn is_own(text: &str) -> bool {
    text.starts_with(GENERATED)
}

/// The head of the locks' text.
pub(super) fn render(locks: &Locks) -> String {
    let mut text = GENERATED.to_owned();
    for (machine, lock) in locks {
        let of = match locks.len() {
            1 => String::new(),
            _ => format!("{} ", machine.subdir()),
        };
        let mut line = |key: &str, value: &str| {
            text.push_str(&format!("{MARK}{of}{key} {value}\n"));
        };
        if let Some(base) = &lock.base {
            line("base", &format!("{}@{}", base.reference, base.digest));
        }
        if let Some(time) = lock.conditions.exclude_newer {
            line("exclude-newer", &time.to_string());
        }
        if let Some(pip) = &lock.conditions.pip {
            line("pip", &pip.names.join(" "));
        }
    }
    text
}

/// Reads what the head of a lock's text says of a platform; one of another tool has none.
///
/// # Errors
/// The line that says what is not known here, in words.
pub(super) fn parse(
    text: &str,
    platform: Subdir,
) -> Result<(Option<LockedBase>, Conditions), String> {
    let mut base = None;
    let mut conditions = Conditions::default();
    for line in text.lines().take_while(|line| line.starts_with('#')) {
        let Some(said) = line.strip_prefix(MARK) else {
            continue;
        };
        let (of, said) = of_platform(said);
        if of.is_some_and(|machine| machine.subdir() != platform) {
            continue;
        }
        let (key, value) = said.split_once(' ').unwrap_or((said, ""));
        let read = match key {
            "base" => read_base(value).map(|read| base = Some(read)),
            "exclude-newer" => value
                .parse()
                .ok()
                .map(|time| conditions.exclude_newer = Some(time)),
            "pip" => {
                let names = value.split(' ').map(Into::into).collect();
                conditions.pip = Some(PipConditions {
                    names,
                    ..PipConditions::default()
                });
                Some(())
            }
            _ => None,
        };
        read.ok_or_else(|| format!("it says: {}", crate::spec::source::quoted(line)))?;
    }
    Ok((base, conditions))
}

/// Which platform a line is of, where it says so, and the rest of it.
fn of_platform(said: &str) -> (Option<Machine>, &str) {
    let named = said.split_once(' ').and_then(|(name, rest)| {
        let mut all = Machine::ALL.into_iter();
        let machine = all.find(|machine| machine.subdir().as_str() == name)?;
        Some((Some(machine), rest))
    });
    named.unwrap_or((None, said))
}

fn read_base(text: &str) -> Option<LockedBase> {
    let (reference, digest) = text.rsplit_once('@')?;
    let known = !reference.is_empty() && digest.starts_with("sha256:");
    known.then_some(LockedBase {
        reference: reference.into(),
        digest: digest.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{digest::Digest, lock::Lock};

    #[test]
    fn reads_what_it_wrote() {
        for reference in ["debian:12", "h:5000/a/b@sha256:00", "oci"] {
            let lock = Lock {
                base: Some(LockedBase {
                    reference: reference.into(),
                    digest: Digest::of(b"x"),
                }),
                conditions: Conditions {
                    exclude_newer: Some("2024-02-29T23:59:59.999Z".parse().unwrap()),
                    pip: Some(PipConditions {
                        names: vec!["numpy".into(), "torch[opt]".into()],
                        ..PipConditions::default()
                    }),
                    ..Conditions::default()
                },
                ..Lock::default()
            };
            let other = Lock {
                base: Some(LockedBase {
                    reference: reference.into(),
                    digest: Digest::of(b"y"),
                }),
                ..Lock::default()
            };
            for locks in [
                Locks::from([(Machine::Amd64, lock.clone())]),
                Locks::from([(Machine::Amd64, lock), (Machine::Arm64, other)]),
            ] {
                let text = render(&locks) + "version: 7\n# imgbuild: nonsense\n";
                for (machine, lock) in locks {
                    let (base, conditions) = parse(&text, machine.subdir()).unwrap();
                    assert_eq!((base, conditions), (lock.base, lock.conditions));
                }
            }
        }
        let read = |text: &str| parse(text, Subdir::Linux64).unwrap();
        let empty = Locks::from([(Machine::Amd64, Lock::default())]);
        assert_eq!(read(&render(&empty)), (None, Conditions::default()));
        assert_eq!(read("version: 6\n"), (None, Conditions::default()));
    }

    #[test]
    fn what_it_does_not_know_is_not_passed_over() {
        for bad in [
            "base debian:12",
            "base debian:12@sha256:12",
            "base @sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "exclude-newer soon",
            "platform linux-64",
            "linux-64",
            "linux-64 platform",
            "",
        ] {
            assert!(
                parse(&format!("# x\n# imgbuild: {bad}\n"), Subdir::Linux64).is_err(),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(# imgbuild: |base|pip|exclude-newer| |@|sha256:|\n|#|é|0){0,20}") {
            let _ = parse(&text, Subdir::Linux64);
        }
    }
}
