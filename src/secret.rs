//! Credentials in URLs: where they stand, and texts that show none.
//!
//! conda reads `https://user:password@host/channel` and `https://host/t/TOKEN/channel`
//! (conda docs, "Using the .condarc conda configuration file", channel_alias).

use url::Url;

/// Stands in a path before a token.
const TOKEN: &str = "/t/";

/// The URL less its user and password.
pub fn without_credentials(url: &Url) -> Url {
    let mut url = url.clone();
    // These fail for URLs that cannot have credentials, such as `file:`.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// The path without its first `/t/TOKEN`; nothing when there is none.
pub(crate) fn without_token(path: &str) -> Option<String> {
    let (start, end) = token(path)?;
    Some(format!("{}{}", &path[..start - TOKEN.len()], &path[end..]))
}

/// Where the first token of a path starts and ends.
fn token(path: &str) -> Option<(usize, usize)> {
    let start = path.find(TOKEN)? + TOKEN.len();
    let rest = path.get(start..)?;
    let length = rest
        .find(|c: char| c == '/' || c.is_whitespace() || "?#'\"()<>,".contains(c))
        .unwrap_or(rest.len());
    (length > 0).then_some((start, start + length))
}

/// A text for people, with stars for the user, the password and the token of every URL in it: as
/// many as characters, so that places in a line stay.
pub fn mask(text: &str) -> String {
    let mut parts = text.split("//");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    let mut is_file = masked.ends_with("file:");
    for part in parts {
        masked.push_str("//");
        match is_file {
            true => masked.push_str(part),
            false => push_masked(&mut masked, part),
        }
        is_file = part.ends_with("file:");
    }
    masked
}

/// Masks what follows a `//`, up to the next one.
fn push_masked(masked: &mut String, part: &str) {
    let stars = |secret: &str| secret.chars().map(|_| '*').collect::<String>();
    let end = part
        .find(|c: char| c.is_whitespace() || "'\"<>`".contains(c))
        .unwrap_or(part.len());
    let (url, rest) = part.split_at(end);
    let path = url.find(['/', '?', '#']).unwrap_or(url.len());
    // A password may hold what should have been encoded: a wrong guess hides too much rather than
    // too little.
    let login = url[..path]
        .rfind('@')
        .or_else(|| stray_at(url))
        .unwrap_or(0);
    let (login, url) = url.split_at(login);
    masked.push_str(&stars(login));
    match token(url) {
        Some((start, stop)) => {
            masked.push_str(&url[..start]);
            masked.push_str(&stars(&url[start..stop]));
            masked.push_str(&url[stop..]);
        }
        None => masked.push_str(url),
    }
    masked.push_str(rest);
}

/// An '@' behind a slash that a password holds: `user:pass/word@host`.
fn stray_at(url: &str) -> Option<usize> {
    let colon = url.find(':')?;
    let port = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let slash = url.find('/').unwrap_or(url.len());
    (colon < slash && !port(&url[colon + 1..]))
        .then(|| url.rfind('@'))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_show_no_secret() {
        let cases = [
            ("nothing", "nothing"),
            ("at https://u:s3cret@h/x: no", "at https://********@h/x: no"),
            ("(https://s3cret@h)", "(https://******@h)"),
            (
                "'https://h/a/t/s3cret/c' and https://h/t/s3cret",
                "'https://h/a/t/******/c' and https://h/t/******",
            ),
            ("https://u:s3/cret@h/x", "https://*********@h/x"),
            ("https://h:80/a@b", "https://h:80/a@b"),
            ("file:///home/t/x/y", "file:///home/t/x/y"),
            (
                "https://u:s3cret@h/t/s3cret/x?y",
                "https://********@h/t/******/x?y",
            ),
            ("- https://u:p@h/c # x@y", "- https://***@h/c # x@y"),
            ("'//é@h' //a@", "'//*@h' //*@"),
            ("// /t/", "// /t/"),
        ];
        for (text, masked) in cases {
            assert_eq!(mask(text), masked);
            assert_eq!(mask(&mask(text)), masked, "masking twice changes nothing");
        }
    }
}
