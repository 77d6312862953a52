//! Credentials in URLs: taken out of every URL before it is kept, sent only to where they belong,
//! and masked in whatever is said.
//!
//! conda reads `https://user:password@host/channel` and `https://host/t/TOKEN/channel`
//! (conda docs, "Using the .condarc conda configuration file", channel_alias).

use std::{borrow::Cow, collections::HashMap};

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use rattler_networking::mirror_middleware::Mirror;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest_middleware::RequestBuilder;
use url::Url;

/// What is shown in place of a secret.
const MASK: &str = "***";
/// Stands in a path before a token.
const TOKEN: &str = "/t/";

/// A URL prefix that is asked for with a credential.
#[derive(Clone, PartialEq, Eq)]
struct Credential {
    /// The prefix without its secret; ends with a slash.
    prefix: String,
    /// The same with its token in the path, when there is one.
    token: Option<Url>,
    /// `Authorization: Basic ...`, when there are a user and a password.
    basic: Option<HeaderValue>,
}

/// The credentials that URLs of the user's files carried, by URL prefix. Has no `Debug`, so that
/// no log can print it.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The longest prefix first.
    known: Vec<Credential>,
}

impl Credentials {
    /// Takes the secret out of a URL and keeps it for every URL below.
    pub fn take(&mut self, url: &Url) -> Url {
        let mut clean = url.clone();
        // Only fails for URLs that cannot have a user.
        let _ = clean.set_username("");
        let _ = clean.set_password(None);
        let token = without_token(url.path()).map(|path| {
            let mut signed = clean.clone();
            signed.set_path(&with_slash(url.path()));
            clean.set_path(&path);
            signed
        });
        let basic = basic(url);
        if token.is_some() || basic.is_some() {
            self.add(Credential {
                prefix: with_slash(clean.as_str()),
                token,
                basic,
            });
        }
        clean
    }

    fn add(&mut self, credential: Credential) {
        // The nearest file speaks first, as with channels.
        if self.known.iter().any(|c| c.prefix == credential.prefix) {
            return;
        }
        self.known.push(credential);
        self.known.sort_by_key(|c| usize::MAX - c.prefix.len());
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Where URLs are really asked for: the ones with a token, by the ones without. Redirects are
    /// followed below this, so what another host is asked for carries none.
    pub(super) fn tokens(&self) -> HashMap<Url, Vec<Mirror>> {
        let signed = |credential: &Credential| {
            let prefix = Url::parse(&credential.prefix).ok()?;
            Some((prefix, vec![mirror(credential.token.clone()?)]))
        };
        self.known.iter().filter_map(signed).collect()
    }

    /// Signs a request with the login of the longest prefix that its URL is below. reqwest takes
    /// it away again where a redirect leads to another host.
    pub(super) fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        let built = request.try_clone().and_then(|copy| copy.build().ok());
        match built.and_then(|copy| self.login(copy.url())) {
            Some(login) => request.header(AUTHORIZATION, login),
            None => request,
        }
    }

    fn login(&self, url: &Url) -> Option<HeaderValue> {
        let text = with_slash(url.as_str());
        let below = |credential: &&Credential| text.starts_with(&credential.prefix);
        self.known.iter().find(below)?.basic.clone()
    }
}

/// A place to fetch from instead.
pub(super) fn mirror(url: Url) -> Mirror {
    Mirror {
        url,
        no_zstd: false,
        no_bz2: false,
        max_failures: None,
    }
}

fn basic(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    let text = format!("Basic {}", BASE64_STANDARD.encode(pair));
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn with_slash(text: &str) -> String {
    format!("{}/", text.trim_end_matches('/'))
}

/// The path without its first `/t/TOKEN`; nothing when there is none.
fn without_token(path: &str) -> Option<String> {
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

/// Whether a URL carries a credential.
pub fn is_secret(url: &Url) -> bool {
    basic(url).is_some() || without_token(url.path()).is_some()
}

/// A text for people, with the user, password and token of every URL in it masked.
pub fn mask(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split("://");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    let mut is_file = masked.ends_with("file");
    for part in parts {
        masked.push_str("://");
        match is_file {
            true => masked.push_str(part),
            false => push_masked(&mut masked, part),
        }
        is_file = part.ends_with("file");
    }
    Cow::Owned(masked)
}

/// Masks what follows a `://`, up to the next one.
fn push_masked(masked: &mut String, part: &str) {
    let end = part
        .find(|c: char| c.is_whitespace() || "'\"<>`".contains(c))
        .unwrap_or(part.len());
    let (url, rest) = part.split_at(end);
    let path = url.find(['/', '?', '#']).unwrap_or(url.len());
    // A password may hold what should have been encoded: the last '@' before a path's end counts,
    // and a wrong guess hides too much rather than too little.
    let authority = match url[..path].rfind('@').or_else(|| stray_at(url)) {
        Some(at) => {
            masked.push_str(MASK);
            at
        }
        None => 0,
    };
    let url = &url[authority..];
    match token(url) {
        Some((start, stop)) => {
            masked.push_str(&url[..start]);
            masked.push_str(MASK);
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

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn secrets_go_back_only_to_where_they_came_from() {
        let mut credentials = Credentials::default();
        let clean = |credentials: &mut Credentials, text| credentials.take(&url(text)).to_string();
        let all = &mut credentials;
        assert_eq!(clean(all, "https://h/t/tk-1/chan"), "https://h/chan");
        assert_eq!(clean(all, "https://h/a/t/tk-2/b/"), "https://h/a/b/");
        assert_eq!(clean(all, "https://me:p%40ss@h/own"), "https://h/own");
        assert_eq!(clean(all, "https://h/t/tk-3/own/sub"), "https://h/own/sub");
        for plain in ["https://h/open", "https://h/t", "https://h/t//x"] {
            assert_eq!(clean(all, plain), plain);
        }
        let tokens = credentials.tokens();
        let mut sent: Vec<_> = tokens
            .iter()
            .map(|(from, to)| format!("{from} -> {}", to[0].url))
            .collect();
        sent.sort();
        assert_eq!(
            sent,
            [
                "https://h/a/b/ -> https://h/a/t/tk-2/b/",
                "https://h/chan/ -> https://h/t/tk-1/chan/",
                "https://h/own/sub/ -> https://h/t/tk-3/own/sub/",
            ]
        );
        let login = |text| credentials.login(&url(text));
        let header = login("https://h/own/x").unwrap();
        assert!(header.is_sensitive());
        assert_eq!(header, "Basic bWU6cEBzcw==");
        for other in [
            "https://h/own/sub/x",
            "https://h/owner",
            "https://h:444/own/x",
            "http://h/own/x",
            "https://h.evil.example/own/x",
        ] {
            assert_eq!(login(other), None, "{other}");
        }
    }

    #[test]
    fn texts_show_no_secret() {
        let cases = [
            ("nothing", "nothing"),
            ("at https://u:s3cret@h/x: no", "at https://***@h/x: no"),
            ("(https://s3cret@h)", "(https://***@h)"),
            (
                "'https://h/a/t/s3cret/c' and https://h/t/s3cret",
                "'https://h/a/t/***/c' and https://h/t/***",
            ),
            ("https://u:s3/cret@h/x", "https://***@h/x"),
            ("https://h:80/a@b", "https://h:80/a@b"),
            ("file:///home/t/x/y", "file:///home/t/x/y"),
            ("https://u:s3cret@h/t/s3cret/x?y", "https://***@h/t/***/x?y"),
        ];
        for (text, masked) in cases {
            assert_eq!(mask(text), masked);
            assert_eq!(mask(&mask(text)), masked, "masking twice changes nothing");
        }
    }
}
