//! What names, paths and sizes may look like; every reason is a sentence for an error's `why`.

use oci_spec::distribution::ParseError;
use rattler_solve::ChannelPriority;

/// The longest prefix; conda's placeholders leave 255 characters in binary files at most.
const MAX_PREFIX: usize = 200;
/// Folders that the base image or the container runtime owns.
const SYSTEM: &[&str] = &[
    "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/proc",
    "/root", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var",
];
/// Of those, the ones where nothing may lie below either: mounts of the runtime, and links to
/// `/usr` in today's distributions, which a layer's folder of that name would replace.
const SEALED: &[&str] = &[
    "/bin", "/dev", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys",
];

type Check<T = ()> = Result<T, String>;

/// An environment's name, which becomes a folder's.
pub fn env_name(name: &str) -> Check {
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+'));
    if name.is_empty() || name.len() > 100 {
        return Err("it must have 1 to 100 characters".into());
    }
    if name.starts_with(['.', '-']) {
        return Err("it starts with a dot or a dash".into());
    }
    match name.find(odd) {
        Some(at) => Err(format!(
            "it holds {:?}; letters, digits, '.', '_', '-' and '+' are allowed",
            &name[at..].chars().next().unwrap_or(' ')
        )),
        None => Ok(()),
    }
}

/// An environment variable and its value.
pub fn variable(name: &str, value: &str) -> Check {
    let odd = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || name.contains(odd) {
        return Err("a name has letters, digits and '_', and starts with no digit".into());
    }
    if value.contains('\0') {
        return Err("the value holds a NUL character".into());
    }
    Ok(())
}

/// An absolute path without `.`, `..`, `//` or control characters; a trailing slash is dropped.
pub fn absolute(path: &str) -> Check<String> {
    if !path.starts_with('/') {
        return Err("it is not absolute".into());
    }
    if path.chars().any(char::is_control) {
        return Err("it holds a control character".into());
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    if path
        .split('/')
        .skip(1)
        .any(|part| matches!(part, "" | "." | ".."))
    {
        return Err("it holds '.', '..' or '//'".into());
    }
    Ok(if path.is_empty() { "/" } else { path }.to_owned())
}

/// A folder of the image that imgbuild fills.
pub fn own_folder(path: &str) -> Check<String> {
    let path = absolute(path)?;
    if path == "/" || SYSTEM.contains(&path.as_str()) {
        return Err("that folder belongs to the system".into());
    }
    let below = |top: &&str| {
        path.strip_prefix(*top)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    if let Some(top) = SEALED.iter().find(|top| below(top)) {
        return Err(format!("nothing of an image can be kept below {top}"));
    }
    Ok(path)
}

/// An environment's prefix: a folder of plain characters, since it ends up in shebang lines.
pub fn prefix(path: &str) -> Check<String> {
    let path = own_folder(path)?;
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "/._-+".contains(c));
    if let Some(c) = path.chars().find(|c| odd(*c)) {
        return Err(format!(
            "it holds {c:?}; letters, digits, '.', '_', '-' and '+' are allowed"
        ));
    }
    if path.len() > MAX_PREFIX {
        return Err(format!("it is longer than {MAX_PREFIX} characters"));
    }
    Ok(path)
}

/// `name|uid[:group|gid]`, as an image config has it.
pub fn user(user: &str) -> Check {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    for part in [Some(name), group].into_iter().flatten() {
        if !is_account(part) {
            return Err("it must be NAME, UID, NAME:GROUP or UID:GID".into());
        }
    }
    Ok(())
}

fn is_account(name: &str) -> bool {
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return name.parse::<u32>().is_ok_and(|id| id <= i32::MAX as u32);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    name.len() <= 32 && !name.starts_with(['-', '.']) && name.chars().all(plain)
}

/// A label's or an annotation's key.
pub fn label(key: &str) -> Check {
    if key.is_empty() || key.len() > 255 {
        return Err("a key has 1 to 255 characters".into());
    }
    if key
        .chars()
        .any(|c| c.is_control() || c.is_whitespace() || c == '=')
    {
        return Err("a key holds no blanks and no '='".into());
    }
    Ok(())
}

/// A name for the built image; one without a tag gets `:latest`.
pub fn tag(text: &str) -> Check<String> {
    if text.contains('@') {
        return Err("a digest cannot be chosen".into());
    }
    reference(text)?;
    let name = text.rsplit('/').next().unwrap_or(text);
    Ok(match name.contains(':') {
        true => text.to_owned(),
        false => format!("{text}:latest"),
    })
}

/// An image to pull from a registry.
pub fn reference(text: &str) -> Check {
    crate::reference::parse(text).map(drop).map_err(|error| match error {
        ParseError::NameContainsUppercase | ParseError::ReferenceInvalidFormat => {
            "it is no image name such as train:dev or registry.example.org/team/train:dev; names are in lower case".into()
        }
        other => other.to_string(),
    })
}

/// A CUDA version, as `__cuda` has it: `12.9`.
pub fn cuda(text: &str) -> Check<String> {
    let parts: Vec<&str> = text.split('.').collect();
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if (1..=3).contains(&parts.len()) && parts.iter().all(number) {
        Ok(text.to_owned())
    } else {
        Err("it is no CUDA version such as 12.9".into())
    }
}

/// How channels compete (conda docs, `channel_priority`).
pub fn priority(text: &str) -> Check<ChannelPriority> {
    match text {
        "strict" => Ok(ChannelPriority::Strict),
        "flexible" => Ok(ChannelPriority::Flexible),
        "disabled" => Ok(ChannelPriority::Disabled),
        _ => Err("it is none of strict, flexible and disabled".into()),
    }
}

/// A size in bytes from `67108864`, `64m`, `8g`, `8GB` or `8GiB`; units are powers of 1024, as
/// in `docker run --shm-size`.
pub fn size(text: &str) -> Check<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(lower.len());
    let shift = match lower[digits..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err("it is no size such as 64m or 8g".into()),
    };
    lower[..digits]
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .filter(|n| *n > 0)
        .ok_or_else(|| "it is no size such as 64m or 8g".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for good in [
            "/opt/conda",
            "/opt/conda/",
            "/opt/conda/envs/a-1.2",
            "/usr/local/env",
            "/env",
        ] {
            assert!(prefix(good).is_ok(), "{good}");
        }
        assert_eq!(prefix("/opt/conda/").unwrap(), "/opt/conda");
        let long = format!("/{}", "a".repeat(200));
        for bad in [
            "",
            "/",
            "//",
            "opt",
            "/opt/../etc",
            "/opt//x",
            "/a b",
            "/a\n",
            "/a:b",
            "/usr",
            "/lib/x",
            "/é",
            &long,
        ] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn users() {
        for good in ["root", "1000", "1000:1000", "app:app", "www-data", "_x"] {
            assert!(user(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ":",
            "a:",
            ":1",
            "a b",
            "1:2:3",
            "99999999999",
            "-a",
            "a\n",
        ] {
            assert!(user(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags() {
        assert_eq!(tag("train").unwrap(), "train:latest");
        assert_eq!(tag("host:5000/a/b").unwrap(), "host:5000/a/b:latest");
        assert_eq!(tag("host:5000/a/b:1").unwrap(), "host:5000/a/b:1");
        for bad in ["", "Train:dev", "a:", "a b", "a@sha256:00", ":x", "a:b:c"] {
            assert!(tag(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_names_variables() {
        assert_eq!(size("8g").unwrap(), 8 << 30);
        assert_eq!(size("64 MiB").unwrap(), 64 << 20);
        assert_eq!(size("67108864").unwrap(), 64 << 20);
        for bad in ["", "g", "0", "-1", "1.5g", "1t", "99999999999g"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "-a", "é"] {
            assert!(env_name(bad).is_err(), "{bad}");
        }
        assert!(env_name("pytorch-1.12-cu113").is_ok());
        assert!(variable("A_1", "x=\n").is_ok());
        assert!(variable("A-1", "x").is_err() && variable("A", "\0").is_err());
        assert!(label("org.opencontainers.image.title").is_ok() && label("a b").is_err());
    }
}
