//! Giving an image to the daemon.

use std::{collections::BTreeSet, time::Instant};

use bollard::{
    Docker,
    errors::Error as DockerError,
    models::ImageInspect,
    query_parameters::{RemoveImageOptionsBuilder, TagImageOptionsBuilder},
};

use super::{
    Early,
    climb::{Climb, Goal},
    held, is_absent,
    transfer::{Failure, Loaded},
    words,
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    image::Image,
    report::human_bytes,
};

/// What a daemon says of a full disk, among other words.
const DISK_FULL: &str = "no space left";
const REFUSES: &str = "does not take the image";

/// Makes the daemon hold the image under these full names; returns the ID that it has there. Layers
/// that the daemon has already are not sent to it, nor those that it got early.
///
/// Safe to drop: the transfer then stops after the layer that is being sent, because Docker 29 may
/// hang at the next load after one that was cut off (moby#51623).
///
/// # Errors
/// When a blob is missing, or the daemon refuses the image or keeps it under another ID.
pub async fn load(early: &Early, image: &Image, names: &[String]) -> Result<String> {
    let began = Instant::now();
    let goal = early.goal().await?;
    let load = Load {
        goal: &goal,
        image,
        names,
    };
    let title = goal.daemon.facts.title();
    let shown = names.first().map_or("the image", String::as_str);
    let mut climb = early.begun().await?;
    if !climb.leads_to(image) {
        climb = Climb::new(goal.clone());
    }
    climb.add_rest(image).await;
    // What was sent must come to an end.
    if climb.is_idle()
        && let Some(id) = load.held().await?
    {
        goal.reporter.step(format!("{title} holds {shown} already"));
        return Ok(id);
    }
    let of = climb.size();
    let sent = load.send(climb).await?;
    let id = match sent.id.as_ref().filter(|_| load.is_told(&sent.loaded)) {
        Some(id) => id.clone(),
        None => load.verified().await?,
    };
    let amount = match sent.bytes < of {
        true => format!("{} of {} sent", human_bytes(sent.bytes), human_bytes(of)),
        false => human_bytes(sent.bytes),
    };
    let seconds = began.elapsed().as_secs_f64();
    goal.reporter.step(format!(
        "Loaded {shown} into {title} ({amount}, {seconds:.1} s)"
    ));
    Ok(id)
}

struct Load<'a> {
    goal: &'a Goal,
    image: &'a Image,
    names: &'a [String],
}

/// What a load came to.
struct Sent {
    /// How many bytes went to the daemon.
    bytes: u64,
    /// What the daemon said to have loaded.
    loaded: Loaded,
    /// The ID under which it has all of the image, as far as that is known.
    id: Option<String>,
}

impl Load<'_> {
    fn docker(&self) -> &Docker {
        &self.goal.daemon.docker
    }

    fn is_classic(&self) -> bool {
        self.goal.is_classic()
    }

    /// The ID of the image, if the daemon has it; it has all of the names then.
    async fn held(&self) -> Result<Option<String>> {
        let (mut held, mut lacking) = (None, Vec::new());
        for name in self.names {
            match self.docker().inspect_image(name).await {
                Ok(found) if self.is_ours(&found) => held = found.id,
                // What prevents an answer prevents the next one too.
                Ok(_) | Err(_) => lacking.push(name),
            }
        }
        if held.is_some() && lacking.is_empty() {
            return Ok(held);
        }
        let Some(id) = self.held_id().await? else {
            return Ok(None);
        };
        for name in lacking {
            self.tag(&id, name).await?;
        }
        self.verified().await.map(Some)
    }

    /// Sends what the daemon lacks.
    async fn send(&self, mut climb: Climb) -> Result<Sent> {
        let mut wasted = 0;
        if climb.leaves_out() {
            let absent = self.absent_names().await;
            let answer = climb.finish(self.image, self.names).await;
            let bytes = climb.sent();
            match answer {
                Ok(loaded) => {
                    let id = self.whole().await?;
                    if id.is_some() {
                        return Ok(Sent { bytes, loaded, id });
                    }
                }
                Err(Failure::Refused(why)) if why.contains(DISK_FULL) => {
                    return Err(self.refused(REFUSES, why));
                }
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::Refused(_)) => {}
            }
            self.goal.reporter.step(format!(
                "{} has not all layers that it told of: sending the whole image",
                self.goal.daemon.facts.name()
            ));
            self.forget(&absent).await;
            wasted = bytes;
            climb = Climb::whole(self.goal.clone());
            climb.add_rest(self.image).await;
        }
        match climb.finish(self.image, self.names).await {
            Ok(loaded) => Ok(Sent {
                bytes: wasted + climb.sent(),
                id: self.classic_id(),
                loaded,
            }),
            Err(Failure::Refused(why)) => Err(self.refused(REFUSES, why)),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// The ID of an image whose load a graph driver calls done: it refuses one without its layers.
    fn classic_id(&self) -> Option<String> {
        let id = self.image.config_digest;
        self.is_classic().then(|| id.to_string())
    }

    /// The ID of an image whose load the daemon calls done, if it has all of it.
    async fn whole(&self) -> Result<Option<String>> {
        if self.is_classic() {
            return Ok(self.classic_id());
        }
        let Some(id) = self.held_id().await? else {
            return Ok(None);
        };
        let tells = self.goal.daemon.tells_parts;
        let incomplete = tells && held::is_incomplete(self.docker(), self.image).await;
        Ok((!incomplete).then_some(id))
    }

    /// Whether the daemon said to have loaded the image under all of its names.
    fn is_told(&self, loaded: &Loaded) -> bool {
        let told = !self.names.is_empty() && self.names.iter().all(|name| loaded.contains(name));
        told && !self.goal.daemon.facts.podman
    }

    /// The names that no image of containerd's store has.
    async fn absent_names(&self) -> BTreeSet<&str> {
        let mut absent = BTreeSet::new();
        if self.is_classic() {
            return absent;
        }
        // The first was there when it was asked for.
        let first = usize::from(self.goal.known.named.is_some());
        for name in self.names.iter().skip(first) {
            let found = self.docker().inspect_image(name).await;
            if found.is_err_and(|e| is_absent(&e)) {
                absent.insert(name.as_str());
            }
        }
        absent
    }

    /// Removes names that a refused load may have left, without an image's content.
    async fn forget(&self, names: &BTreeSet<&str>) {
        for name in names {
            let options = RemoveImageOptionsBuilder::new().build();
            // Most often there is none.
            let _ = self.docker().remove_image(name, Some(options), None).await;
        }
    }

    /// The ID under which the daemon holds exactly this image, and all of it.
    async fn held_id(&self) -> Result<Option<String>> {
        let Image {
            digest,
            config_digest,
            ..
        } = self.image;
        let ids: &[&Digest] = match self.is_classic() {
            true => &[config_digest],
            false => &[digest, config_digest],
        };
        for id in ids.iter().map(|id| id.to_string()) {
            match self.docker().inspect_image(&id).await {
                Ok(found) if self.is_ours(&found) => return Ok(Some(id)),
                Ok(_) => {}
                Err(e) if is_absent(&e) || is_garbled(&e) => {}
                Err(e) => {
                    let what = "does not say whether it holds the image";
                    return Err(self.refused(what, words(&e)));
                }
            }
        }
        Ok(None)
    }

    fn is_ours(&self, found: &ImageInspect) -> bool {
        is_id_of(self.image, found.id.as_deref()) && is_unpacked(self.image, found)
    }

    /// Checks that the daemon holds the image, all of it, under all names; returns its ID.
    async fn verified(&self) -> Result<String> {
        let mut held = None;
        for name in self.names {
            let found = self.docker().inspect_image(name).await;
            let found = found.map_err(|e| {
                self.refused(&format!("took the image but not as '{name}'"), words(&e))
            })?;
            let id = found.id.clone().unwrap_or_default();
            if !is_id_of(self.image, Some(&id)) {
                let expected = self.image.config_digest;
                let why = format!("its ID is {id}, expected {expected}");
                return Err(self.refused(&format!("holds another image as '{name}'"), why));
            }
            held = is_unpacked(self.image, &found).then_some(id);
        }
        match held {
            Some(id) => Ok(id),
            None => self.held_id().await?.ok_or_else(|| {
                self.refused("took the image but does not hold it", "no such ID".into())
            }),
        }
    }

    async fn tag(&self, id: &str, name: &str) -> Result<()> {
        let (repository, tag) = split_name(name);
        let options = TagImageOptionsBuilder::new()
            .repo(repository)
            .tag(tag)
            .build();
        let tagged = self.docker().tag_image(id, Some(options)).await;
        tagged.map_err(|e| self.refused(&format!("does not take the name '{name}'"), words(&e)))
    }

    /// What the daemon does not do, and why.
    fn refused(&self, what: &str, why: String) -> Error {
        let engine = self.goal.daemon.facts.name();
        let error = Error::environment(format!("the {engine} daemon {what}"));
        if why.contains(DISK_FULL) {
            let command = engine.to_lowercase();
            return error.why(why).hint(format!(
                "make room on the daemon's disk: {command} system prune"
            ));
        }
        error.why(why)
    }
}

/// Over containerd an image can be there by name alone: its layers are then not told.
fn is_unpacked(image: &Image, found: &ImageInspect) -> bool {
    held::told(found) == held::diff_ids(image)
}

/// An answer of another form than the API's, as Docker 28 gives of an image that it has in part.
fn is_garbled(error: &DockerError) -> bool {
    matches!(
        error,
        DockerError::JsonDataError { .. } | DockerError::JsonSerdeError { .. }
    )
}

/// Classic stores name an image by its config, containerd's by its manifest.
pub(crate) fn is_id_of(image: &Image, id: Option<&str>) -> bool {
    let ours = [image.config_digest.to_string(), image.digest.to_string()];
    id.is_some_and(|id| ours.iter().any(|our| our == id))
}

/// Repository and tag; a colon before a slash is a registry's port.
fn split_name(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_at_the_tag() {
        assert_eq!(split_name("train:dev"), ("train", "dev"));
        assert_eq!(split_name("train"), ("train", "latest"));
        assert_eq!(
            split_name("localhost:5000/a/b:1"),
            ("localhost:5000/a/b", "1")
        );
        assert_eq!(
            split_name("localhost:5000/a"),
            ("localhost:5000/a", "latest")
        );
    }
}
