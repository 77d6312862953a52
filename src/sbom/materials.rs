//! What an image was built of, as far as the image itself does not tell.

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Component, WheelFacts};
use crate::{
    lock::{Lock, LockedEnv, LockedWheel},
    package::origin,
    spec::ImageSpec,
};

/// The packages of an image and what was chosen for it. Nothing of it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Materials {
    /// What was chosen.
    pub choices: Choices,
    /// The packages, sorted.
    pub components: Vec<Component>,
}

/// What the user chose, and the layers depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choices {
    /// The channels that the packages were chosen from, in priority order, without logins.
    pub channels: Vec<String>,
    /// Where the environment stands.
    pub prefix: String,
    /// Whether there is a Miniconda base below it.
    pub miniconda: bool,
    /// Where the user's code stands, when there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What layers are compressed with.
    pub compression: String,
    /// Whether Python files were compiled.
    pub compile: bool,
}

impl Materials {
    /// Of a lock that is built as the specification says; `facts` tells what wheels say of
    /// themselves.
    pub fn of(
        spec: &ImageSpec,
        lock: &Lock,
        facts: impl Fn(&LockedWheel) -> Option<WheelFacts>,
    ) -> Self {
        let miniconda = spec.miniconda.as_ref().zip(lock.miniconda.as_ref());
        let mut places: Vec<(&str, &LockedEnv)> = vec![(&spec.prefix, &lock.env)];
        places.extend(miniconda.map(|(spec, env)| (spec.prefix.as_str(), env)));
        let mut components = Vec::new();
        for (prefix, env) in places {
            let conda = env.packages().iter();
            components.extend(conda.map(|record| Component::of_record(record, prefix)));
            let wheels = env.wheels().iter();
            components.extend(wheels.map(|wheel| Component::of_wheel(wheel, facts(wheel), prefix)));
        }
        components.sort();
        Self {
            choices: Choices {
                channels: lock.env.channels.iter().map(|url| public(url)).collect(),
                prefix: spec.prefix.clone(),
                miniconda: miniconda.is_some(),
                code: spec.code.as_ref().map(|code| code.dest.clone()),
                compression: spec.compression.to_string(),
                compile: spec.compile,
            },
            components,
        }
    }
}

fn public(channel: &str) -> String {
    match channel.parse::<Url>() {
        Ok(url) => origin::public_url(&url).into(),
        Err(_) => channel.to_owned(),
    }
}
