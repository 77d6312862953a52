//! Giving an image to the daemon.

use std::{collections::BTreeSet, time::Instant};

use bollard::{
    Docker,
    errors::Error as DockerError,
    models::ImageInspect,
    query_parameters::{RemoveImageOptionsBuilder, TagImageOptionsBuilder},
};

use super::{
    Daemon, Early, ImageStore, held, is_absent,
    transfer::{Failure, Transfer},
    words,
};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
    image::Image,
    report::{Reporter, human_bytes},
    sink::Contents,
    store::Store,
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
    let Early {
        daemon,
        store,
        reporter,
        ..
    } = early;
    let (docker, title) = (&daemon.docker, daemon.facts.title());
    let shown = names.first().map_or("the image", String::as_str);
    let begun = early.begun();
    let held = match &begun {
        // What was sent must come to an end.
        Some(_) => None,
        None => held_id(daemon, image).await?,
    };
    if let Some(id) = held {
        for name in names {
            tag(docker, &id, name).await?;
        }
        reporter.step(format!("{title} holds {shown} already"));
        return verified(daemon, image, names).await;
    }
    let load = Load {
        daemon,
        names,
        store,
        reporter,
    };
    let all = load.contents(image).await?;
    let (sent, size) = (load.send(&all, image, begun).await?, all.size());
    let id = verified(daemon, image, names).await?;
    let amount = match sent < size {
        true => format!("{} of {} sent", human_bytes(sent), human_bytes(size)),
        false => human_bytes(sent),
    };
    let seconds = began.elapsed().as_secs_f64();
    reporter.step(format!(
        "Loaded {shown} into {title} ({amount}, {seconds:.1} s)"
    ));
    Ok(id)
}

struct Load<'a> {
    daemon: &'a Daemon,
    names: &'a [String],
    store: &'a Store,
    reporter: &'a Reporter,
}

impl Load<'_> {
    /// The archive with every layer. Graph drivers throw compression away; containerd's store
    /// keeps the blobs, and with them the image's digest.
    async fn contents(&self, image: &Image) -> Result<Contents> {
        if self.daemon.facts.store == ImageStore::Containerd {
            return Ok(Contents::stored(image));
        }
        let (image, store) = (image.clone(), self.store.clone());
        tokio::task::spawn_blocking(move || Contents::plain(&image, &store))
            .await
            .unwrap_or_else(|e| Err(Error::new(Exit::Internal, "a thread was lost").why(e)))
    }

    /// Sends what the daemon lacks; returns how many bytes it was sent.
    async fn send(
        &self,
        all: &Contents,
        image: &Image,
        mut begun: Option<Transfer>,
    ) -> Result<u64> {
        let held = held::layers(self.daemon, image, self.names, self.store).await;
        let mut sent = 0;
        if !held.is_empty() {
            let absent = self.absent_names().await;
            let rest = all.clone().only(|place| !held.contains(&place));
            let (bytes, answer) = self.transfer(rest, begun.take()).await?;
            match answer {
                Ok(()) if self.is_whole(image).await? => return Ok(bytes),
                Err(Failure::Refused(why)) if why.contains(DISK_FULL) => {
                    return Err(refused(REFUSES, why));
                }
                Err(Failure::Other(error)) => return Err(error),
                Ok(()) | Err(Failure::Refused(_)) => {}
            }
            self.reporter
                .step("Docker has not all layers that it told of: sending the whole image");
            self.forget(&absent).await;
            sent = bytes;
        }
        let (bytes, answer) = self.transfer(all.clone(), begun).await?;
        match answer {
            Ok(()) => Ok(sent + bytes),
            Err(Failure::Refused(why)) => Err(refused(REFUSES, why)),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// Whether a load that the daemon calls done is: a graph driver refuses one without its layers.
    async fn is_whole(&self, image: &Image) -> Result<bool> {
        if self.daemon.facts.store == ImageStore::Classic {
            return Ok(true);
        }
        let held = held_id(self.daemon, image).await?.is_some();
        Ok(held && !held::is_incomplete(&self.daemon.docker, image).await)
    }

    async fn transfer(
        &self,
        contents: Contents,
        begun: Option<Transfer>,
    ) -> Result<(u64, Result<(), Failure>)> {
        let Self {
            daemon,
            names,
            store,
            reporter,
        } = self;
        let transfer = match begun {
            Some(begun) => begun,
            None => Transfer::start(&daemon.docker, Some(contents.size()), store, reporter)?,
        };
        Ok(transfer.finish(contents, names).await)
    }

    /// The names that no image of containerd's store has.
    async fn absent_names(&self) -> BTreeSet<&str> {
        let mut absent = BTreeSet::new();
        if self.daemon.facts.store == ImageStore::Classic {
            return absent;
        }
        for name in self.names {
            let found = self.daemon.docker.inspect_image(name).await;
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
            let _ = self
                .daemon
                .docker
                .remove_image(name, Some(options), None)
                .await;
        }
    }
}

/// The ID under which the daemon holds exactly this image, and all of it.
async fn held_id(daemon: &Daemon, image: &Image) -> Result<Option<String>> {
    let ids: &[Digest] = match daemon.facts.store {
        ImageStore::Classic => &[image.config_digest],
        ImageStore::Containerd => &[image.digest, image.config_digest],
    };
    for id in ids.iter().map(Digest::to_string) {
        match daemon.docker.inspect_image(&id).await {
            Ok(found) if is_id_of(image, found.id.as_deref()) && is_unpacked(image, &found) => {
                return Ok(Some(id));
            }
            Ok(_) => {}
            Err(e) if is_absent(&e) || is_garbled(&e) => {}
            Err(e) => {
                return Err(refused(
                    "does not say whether it holds the image",
                    words(&e),
                ));
            }
        }
    }
    Ok(None)
}

/// Over containerd an image can be there by name alone: its layers are then not told.
fn is_unpacked(image: &Image, found: &ImageInspect) -> bool {
    let root = found.root_fs.as_ref();
    let told = root.and_then(|root| root.layers.as_deref()).unwrap_or(&[]);
    let ours = image.layers.iter().map(|layer| layer.diff_id.to_string());
    ours.eq(told.iter().cloned())
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

async fn tag(docker: &Docker, id: &str, name: &str) -> Result<()> {
    let (repository, tag) = split_name(name);
    let options = TagImageOptionsBuilder::new()
        .repo(repository)
        .tag(tag)
        .build();
    docker
        .tag_image(id, Some(options))
        .await
        .map_err(|e| refused(&format!("does not take the name '{name}'"), words(&e)))
}

/// Repository and tag; a colon before a slash is a registry's port.
fn split_name(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    }
}

/// Checks that the daemon holds the image, all of it, under all names; returns its ID.
async fn verified(daemon: &Daemon, image: &Image, names: &[String]) -> Result<String> {
    let mut held = None;
    for name in names {
        let found = daemon
            .docker
            .inspect_image(name)
            .await
            .map_err(|e| refused(&format!("took the image but not as '{name}'"), words(&e)))?;
        let id = found.id.clone().unwrap_or_default();
        if !is_id_of(image, Some(&id)) {
            let why = format!("its ID is {id}, expected {}", image.config_digest);
            return Err(refused(&format!("holds another image as '{name}'"), why));
        }
        held = is_unpacked(image, &found).then_some(id);
    }
    match held {
        Some(id) => Ok(id),
        None => held_id(daemon, image)
            .await?
            .ok_or_else(|| refused("took the image but does not hold it", "no such ID".into())),
    }
}

fn refused(what: &str, why: String) -> Error {
    let error = Error::environment(format!("the Docker daemon {what}"));
    if why.contains(DISK_FULL) {
        return error
            .why(why)
            .hint("make room on the daemon's disk: docker system prune");
    }
    error.why(why)
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
