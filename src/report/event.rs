//! Progress as JSON, one event a line: the form that docs/progress.md promises to programs.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::{digest::Digest, error::Error, secret::mask};

/// The version of the form: another one when a field goes or changes its meaning.
pub(super) const VERSION: u32 = 1;

/// What bytes are moved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Packages are downloaded.
    Fetch,
    /// Blobs of the base image come from a registry.
    Pull,
    /// The base image comes from a file, a folder or a daemon.
    Base,
    /// Layers are made.
    Build,
    /// The image goes to the Docker daemon.
    Load,
    /// Blobs go to a registry.
    Push,
    /// Layers are looked into.
    Read,
}

/// How far an activity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It begins.
    Started,
    /// Some bytes are done.
    Running,
    /// All bytes are done.
    Done,
    /// It ended before all bytes were done: it is tried again, or an error follows.
    Stopped,
    /// Nothing to do: the bytes were there.
    Exists,
    /// Nothing to send: the registry had the bytes in another repository.
    Mounted,
}

/// A line of JSON, less its time.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event<'a> {
    /// The first line.
    Start { version: u32, imgbuild: &'a str },
    /// A line for people.
    Message { message: String },
    /// Bytes on their way.
    Progress(Progress<'a>),
    /// Something to look at that ends nothing.
    Warning { message: String },
    /// What ends the program, and findings that come with it.
    Error {
        exit: u8,
        #[serde(flatten)]
        error: &'a Error,
    },
    /// The last line.
    End { exit: u8 },
}

/// How far an activity is, in bytes.
#[derive(Serialize)]
pub(super) struct Progress<'a> {
    /// Tells activities apart; another attempt is another one.
    pub id: u64,
    pub step: Step,
    pub state: State,
    pub label: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    pub current: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

impl Event<'_> {
    /// The line, with stars for the credentials of URLs in it. Its time has milliseconds (RFC 3339).
    pub(super) fn line(&self, time: Timestamp) -> String {
        let line = Line {
            time: format!("{time:.3}"),
            event: self,
        };
        // Nothing in it can fail to be JSON.
        let value = serde_json::to_value(line).unwrap_or_default();
        masked(value).to_string()
    }
}

fn masked(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(mask(&text)),
        Value::Array(values) => Value::Array(values.into_iter().map(masked).collect()),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            Value::Object(fields.map(|(key, value)| (key, masked(value))).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: Event<'_>) -> String {
        event.line(Timestamp::from_millisecond(1_700_000_000_012).unwrap())
    }

    #[test]
    fn the_form_is_what_is_promised() {
        let digest = Digest::of(b"x");
        let progress = Progress {
            id: 3,
            step: Step::Push,
            state: State::Running,
            label: "push 2d711642b726",
            digest: Some(digest),
            current: 1,
            total: Some(2),
        };
        assert_eq!(
            line(Event::Progress(progress)),
            format!(
                "{{\"time\":\"2023-11-14T22:13:20.012Z\",\"event\":\"progress\",\"id\":3,\
                 \"step\":\"push\",\"state\":\"running\",\"label\":\"push 2d711642b726\",\
                 \"digest\":\"{digest}\",\"current\":1,\"total\":2}}"
            )
        );
        let error = Error::input("no").at("a").why("b\nc").why("d").hint("e");
        assert_eq!(
            line(Event::Error {
                exit: 2,
                error: &error
            }),
            "{\"time\":\"2023-11-14T22:13:20.012Z\",\"event\":\"error\",\"exit\":2,\
             \"message\":\"no\",\"at\":\"a\",\"why\":[\"b\\nc\",\"d\"],\"hint\":\"e\"}"
        );
        let end = line(Event::End { exit: 0 });
        assert!(end.ends_with("\"event\":\"end\",\"exit\":0}"), "{end}");
    }

    #[test]
    fn no_field_shows_a_secret() {
        let secret = "at https://u:s3cret@h/t/s3cret/x\nnext";
        let error = Error::input(secret).at(secret).why(secret).hint(secret);
        for event in [
            Event::Error {
                exit: 2,
                error: &error,
            },
            Event::Message {
                message: secret.into(),
            },
            Event::Warning {
                message: secret.into(),
            },
        ] {
            let line = line(event);
            assert!(!line.contains("s3cret"), "{line}");
            let json: Value = serde_json::from_str(&line).unwrap();
            assert!(json["message"].as_str().unwrap().ends_with("x\nnext"));
        }
    }
}
