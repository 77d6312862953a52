//! What goes with an image, so that a later build can tell its layers' keys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    base::BaseNotes,
    digest::Digest,
    error::{Error, Exit, Result},
    image::NOTES_KEY,
    package::Survey,
};

/// What a build found out from packages and base layers. It stands in the image's config under
/// [`NOTES_KEY`], as BuildKit's inline cache does under a key of its own: readers must ignore
/// what they do not know there (OCI image-spec, config.md, "Any extra fields"). It depends on the
/// packages, the base and the paths alone, so the image's digest does too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// The base image's part.
    pub base: BaseNotes,
    /// What packages mean together, by the key of their set.
    pub surveys: BTreeMap<Digest, Survey>,
}

impl Notes {
    /// What a config says; nothing where it says nothing, or in another version's words.
    pub fn of_config(config: &[u8]) -> Option<Self> {
        let config: Value = serde_json::from_slice(config).ok()?;
        Self::deserialize(config.get(NOTES_KEY)?).ok()
    }

    /// As JSON for a config.
    ///
    /// # Errors
    /// Never for notes made here.
    pub fn to_json(&self) -> Result<Value> {
        serde_json::to_value(self)
            .map_err(|e| Error::new(Exit::Internal, "cannot write what was found out").why(e))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::base::tree::BaseTree;

    #[test]
    fn notes_are_read_back_and_others_are_none() {
        let survey = Survey {
            activation: true,
            ..Survey::default()
        };
        let notes = Notes {
            base: BaseNotes::new(
                &BaseTree::default(),
                &[],
                &BTreeSet::from(["/a".to_owned()]),
            ),
            surveys: BTreeMap::from([(Digest::of(b"set"), survey)]),
        };
        let config = json!({"os": "linux", NOTES_KEY: notes.to_json().unwrap()});
        let read = |config: Value| Notes::of_config(config.to_string().as_bytes());
        assert_eq!(read(config), Some(notes));
        for other in [json!({}), json!({NOTES_KEY: {"base": 1}}), json!(1)] {
            assert_eq!(read(other), None);
        }
        assert_eq!(Notes::of_config(b"x"), None);
    }
}
