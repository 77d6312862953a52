//! Reading the names of images: `[domain/]path[:tag][@digest]`, as `github.com/distribution/reference`
//! has them, with Docker's defaults filled in.
//!
//! The reader of oci-spec compiles a regular expression first, a large one because its tags are of
//! all Unicode; that takes 60 ms of CPU, longer than a whole build after a change of code.

use oci_spec::distribution::{ParseError, Reference};

const HUB: &str = "docker.io";
/// The hub's name of old.
const HUB_INDEX: &str = "index.docker.io";
const LONGEST_REPOSITORY: usize = 255;
const LONGEST_TAG: usize = 128;
const SHORTEST_DIGEST: usize = 32;

/// Reads a reference: `debian` is `docker.io/library/debian:latest`.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<Reference, ParseError> {
    if text.is_empty() {
        return Err(ParseError::NameEmpty);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before a slash is a registry's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if !(is_name(name) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest)) {
        return Err(ParseError::ReferenceInvalidFormat);
    }
    let (registry, repository) = located(name);
    if repository.len() > LONGEST_REPOSITORY {
        return Err(ParseError::NameTooLong);
    }
    digest.map_or(Ok(()), known)?;
    let tag = tag.map(str::to_owned);
    Ok(match (tag, digest.map(str::to_owned)) {
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(registry, repository, tag, digest)
        }
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest),
        (tag, None) => {
            let tag = tag.unwrap_or_else(|| "latest".to_owned());
            Reference::with_tag(registry, repository, tag)
        }
    })
}

fn is_name(name: &str) -> bool {
    let with_domain = |(domain, path)| is_domain(domain) && is_path(path);
    is_path(name) || name.split_once('/').is_some_and(with_domain)
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = domain.split_once(':').unwrap_or((domain, "0"));
    let is_label = |label: &str| {
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        is_filled(label, inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    host.split('.').all(is_label) && is_filled(port, |c| c.is_ascii_digit())
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_component)
}

/// Letters and digits, and between them a point, one or two underscores, or hyphens.
fn is_component(component: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_joint =
        |joint: &str| matches!(joint, "." | "_" | "__") || joint.bytes().all(|c| c == b'-');
    component.starts_with(is_plain)
        && component.ends_with(is_plain)
        && component.split(is_plain).all(is_joint)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|c| is_word(c) || matches!(c, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|c| c.is_ascii_alphanumeric())
    };
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.split(['-', '_', '+', '.']).all(is_part)
            && hex.len() >= SHORTEST_DIGEST
            && is_filled(hex, |c| c.is_ascii_hexdigit())
    })
}

fn is_filled(text: &str, with: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(with)
}

/// Refuses a digest of another algorithm or length than those of the OCI image-spec.
fn known(digest: &str) -> Result<(), ParseError> {
    let (algorithm, hex) = digest.split_once(':').unwrap_or_default();
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(ParseError::DigestUnsupported),
    };
    match hex.len() == length {
        true => Ok(()),
        false => Err(ParseError::DigestInvalidLength),
    }
}

/// Registry and repository; what begins with no registry is the hub's.
fn located(name: &str) -> (String, String) {
    let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let (registry, repository) = match name.split_once('/') {
        Some((HUB_INDEX, rest)) => (HUB, rest),
        Some((registry, rest)) if is_registry(registry) => (registry, rest),
        _ => (HUB, name),
    };
    let official = registry == HUB && !repository.contains('/');
    let folder = if official { "library/" } else { "" };
    (registry.to_owned(), format!("{folder}{repository}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(text: &str) {
        assert_eq!(parse(text), text.parse::<Reference>(), "{text}");
    }

    #[test]
    fn references_are_read_as_oci_spec_reads_them() {
        let (mut shorter, mut read) = (vec![String::new()], 0);
        for _ in 0..5 {
            let longer = |start: &String| {
                "a0A.-_:/"
                    .chars()
                    .map(|c| format!("{start}{c}"))
                    .collect::<Vec<_>>()
            };
            shorter = shorter.iter().flat_map(longer).collect();
            shorter.iter().for_each(|text| same(text));
            read += shorter.iter().filter(|text| parse(text).is_ok()).count();
        }
        assert!(read > 1000, "{read}");
        let names = [
            "",
            "debian",
            "Debian",
            "a/b",
            "A/b",
            "a/B",
            "localhost/a",
            "localhost:1/a",
            "docker.io/a",
            "index.docker.io/a",
            "index.docker.io/a/b",
            "r.example.org:5000/team/train",
            "r.example.org:/a",
            "r-.example.org/a",
            "a__b",
            "a___b",
            "a--b",
            "a._b",
            "a-",
            "a b",
            "a\n",
            "é",
        ];
        let long = [
            ("a/".repeat(127) + "a"),
            ("a/".repeat(128) + "a"),
            "a".repeat(256),
        ];
        let tags = [
            "",
            ":",
            ":v1",
            ":_a.b-c",
            ":-a",
            ":v1:v2",
            ":v/1",
            &format!(":{}", "t".repeat(128)),
            &format!(":{}", "t".repeat(129)),
        ]
        .map(str::to_owned);
        let hex = |algorithm: &str, length: usize| format!("@{algorithm}:{}", "f".repeat(length));
        let digests = [
            String::new(),
            "@".into(),
            "@sha256".into(),
            hex("sha256", 64),
            hex("sha256", 63),
            hex("sha256", 31),
            hex("sha384", 96),
            hex("sha512", 128),
            hex("sha512", 64),
            hex("md5", 32),
            hex("a+b.c", 40),
            hex("a+", 64),
            hex("1a", 64),
            hex("sha256", 64).replace('f', "g"),
            hex("sha256", 64).replace('f', "F"),
            hex("sha256", 64) + &hex("sha256", 64),
        ];
        for name in names.into_iter().chain(long.iter().map(String::as_str)) {
            for tag in &tags {
                digests
                    .iter()
                    .for_each(|digest| same(&format!("{name}{tag}{digest}")));
            }
        }
    }

    #[test]
    fn tags_are_of_ascii_as_the_distribution_spec_has_them() {
        assert_eq!(parse("a:é"), Err(ParseError::ReferenceInvalidFormat));
    }
}
