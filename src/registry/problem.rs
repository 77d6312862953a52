//! Why a request to a registry brought no good answer, before it is put into words.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Response, StatusCode, header::RETRY_AFTER};
use serde::Deserialize;
use url::Url;

use super::body::Watch;
use crate::error::{Error, chain};

/// Error answers longer than this are cut.
const MAX_WORDS: usize = 64 << 10;
/// As much as is shown of an answer that is not the specification's JSON.
const SHOWN: usize = 200;
/// As rustls writes them.
const CERTIFICATE_ALERTS: [&str; 8] = [
    "CertificateRequired",
    "BadCertificate",
    "UnsupportedCertificate",
    "CertificateRevoked",
    "CertificateExpired",
    "CertificateUnknown",
    "UnknownCA",
    "AccessDenied",
];

/// Why there is no good answer.
#[derive(Debug)]
pub enum Problem {
    /// The registry's answer is no.
    Refused(Refusal),
    /// The connection broke, or never came about.
    Broken(reqwest::Error),
    /// Nothing was heard for so long.
    Silent(Duration),
    /// The token service does not take the login.
    Login(String),
    /// The registry points to where the client must not go.
    Misdirected(String),
    /// The registry does not do what the specification says.
    Odd(String),
    /// Something on this machine.
    Local(Error),
}

/// An answer whose status is an error.
#[derive(Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The codes of the answer's errors (OCI distribution-spec, "Error Codes").
    pub codes: Vec<String>,
    /// When to come again, as the registry says.
    pub retry_after: Option<Duration>,
    words: String,
}

#[derive(Deserialize)]
struct Envelope {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    code: String,
    #[serde(default)]
    message: Option<String>,
}

impl Refusal {
    /// Reads an answer; of an endless one only the beginning.
    pub(super) async fn read(mut response: Response, silence: Duration) -> Self {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| wait_asked(text, Timestamp::now()));
        let mut bytes = Vec::new();
        while bytes.len() < MAX_WORDS {
            let watch = Watch::quiet(silence);
            match watch.wait(response.chunk()).await {
                Some(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
                _ => break,
            }
        }
        let (codes, words) = words(&String::from_utf8_lossy(&bytes));
        Self {
            status,
            codes,
            retry_after,
            words,
        }
    }

    /// Whether one of the errors has this code.
    pub fn says(&self, code: &str) -> bool {
        self.codes.iter().any(|said| said == code)
    }
}

fn words(body: &str) -> (Vec<String>, String) {
    match serde_json::from_str::<Envelope>(body) {
        Ok(Envelope { errors }) if !errors.is_empty() => {
            let line = |e: &Entry| match &e.message {
                Some(message) => format!("{}: {message}", e.code),
                None => e.code.clone(),
            };
            let lines: Vec<String> = errors.iter().map(line).collect();
            let codes = errors.into_iter().map(|e| e.code).collect();
            (codes, lines.join("\n"))
        }
        _ => (Vec::new(), body.trim().chars().take(SHOWN).collect()),
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3).
fn wait_asked(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let seconds = date.as_second().saturating_sub(now.as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

impl Problem {
    /// The HTTP status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.status.as_u16()),
            Self::Login(_) => Some(401),
            _ => None,
        }
    }

    /// Whether a manifest was refused for a blob that the repository lacks (OCI distribution-spec,
    /// "Error Codes").
    pub fn lacks_blobs(&self) -> bool {
        let codes = ["BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"];
        match self {
            Self::Refused(refusal) => codes.iter().any(|code| refusal.says(code)),
            _ => false,
        }
    }

    /// The reason in short, for the user.
    pub fn words(&self) -> String {
        match self {
            Self::Refused(Refusal { status, words, .. }) if words.is_empty() => {
                format!("HTTP status {}", status.as_u16())
            }
            Self::Refused(Refusal { status, words, .. }) => {
                format!("HTTP status {}: {words}", status.as_u16())
            }
            Self::Broken(error) => request_words(error),
            Self::Silent(time) => format!("the registry was silent for {} s", time.as_secs()),
            Self::Login(why) => format!("the login was refused: {why}"),
            Self::Misdirected(why) | Self::Odd(why) => why.clone(),
            Self::Local(error) => error.to_string(),
        }
    }
}

/// Upload addresses may carry signatures in their query, which do not belong in a log.
fn request_words(error: &reqwest::Error) -> String {
    let text = chain(error);
    match error.url() {
        Some(url) => text.replace(url.as_str(), without_query(url).as_str()),
        None => text,
    }
}

/// What a registry says of the certificate that it was shown, or of the lack of one (RFC 8446,
/// 6.2): in TLS 1.3 only after the handshake. Found by its words, for hyper keeps no more of it.
pub(super) fn certificate_alert(error: &reqwest::Error) -> Option<&'static str> {
    let text = chain(error);
    let (_, said) = text.split_once("received fatal alert: ")?;
    CERTIFICATE_ALERTS
        .into_iter()
        .find(|name| said.starts_with(name))
}

fn without_query(url: &Url) -> Url {
    let mut bare = url.clone();
    bare.set_query(None);
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_short() {
        let json = r#"{"errors":[{"code":"DENIED","message":"no","detail":{}},{"code":"X"}]}"#;
        let (codes, text) = words(json);
        assert_eq!(codes, ["DENIED", "X"]);
        assert_eq!(text, "DENIED: no\nX");
        let (codes, text) = words(&format!("  <html>{}", "é".repeat(9999)));
        assert!(codes.is_empty());
        assert_eq!(text.chars().count(), SHOWN);
        assert_eq!(words("{\"errors\":[]}").0, [""; 0]);
    }

    #[test]
    fn what_a_repository_lacks_is_told_by_a_code() {
        let lacks = |body| {
            let (codes, words) = words(body);
            let refusal = Refusal {
                status: StatusCode::BAD_REQUEST,
                codes,
                retry_after: None,
                words,
            };
            Problem::Refused(refusal).lacks_blobs()
        };
        assert!(lacks(
            r#"{"errors":[{"code":"DENIED"},{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#
        ));
        assert!(lacks(r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#));
        assert!(!lacks(
            r#"{"errors":[{"code":"X","message":"BLOB_UNKNOWN"}]}"#
        ));
        assert!(!lacks("BLOB_UNKNOWN"));
        assert!(!Problem::Odd("BLOB_UNKNOWN".into()).lacks_blobs());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2015-10-21T07:27:00Z".parse().unwrap();
        let asked = |text| wait_asked(text, now).map(|wait| wait.as_secs());
        assert_eq!(asked("0"), Some(0));
        assert_eq!(asked(" 120 "), Some(120));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(60));
        assert_eq!(asked("Wed, 21 Oct 2015 07:26:00 GMT"), Some(0));
        for odd in ["", "soon", "-1", "1.5"] {
            assert_eq!(asked(odd), None, "{odd}");
        }
    }
}
