//! The credentials that URLs of the user's files carry: taken out of every URL before it is kept,
//! and sent only to where they belong.

use std::collections::HashMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use rattler_networking::mirror_middleware::Mirror;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest_middleware::RequestBuilder;
use url::Url;

use crate::secret::without_token;

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
}
