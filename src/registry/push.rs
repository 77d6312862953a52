//! Gives an image to registries (OCI distribution-spec, "Push").
//!
//! A repository gets the blobs first, then the manifest under its digest, then the tags: a tag
//! never names what is not there, wherever the way is broken off. What a registry has already is
//! not sent again, so that a push which was stopped goes on where it was.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{StreamExt, TryStreamExt, stream};
use oci_client::{Reference, RegistryOperation};

use super::{
    Sent,
    api::{Condition, Put},
    failure::Failure,
    remote::{Purpose, Remote, parse_reference},
    upload::{Begun, Blob, Session, Upload, begin},
};
use crate::{
    cache_from::Origins,
    digest::Digest,
    error::{Error, Result},
    image::{BASE_NAME, Document, ImageSet, Manifest},
    reference,
    report::{Reporter, State, human_bytes},
    store::Store,
};

/// How many blobs are sent at once.
pub(super) const CONCURRENT: usize = 4;

/// Pushes an image, or the images of an index and then that, to every reference; one without a tag
/// gets `latest`. Blobs that were sent before the image was known are not sent again.
///
/// # Errors
/// When a reference is not one, a blob is not in the store, or a registry cannot be reached or
/// refuses. References before the one that failed are pushed.
pub async fn push(
    set: &ImageSet,
    references: &[String],
    origins: &Origins<'_>,
    sent: &Sent,
) -> Result<()> {
    let reporter = origins.reporter();
    let manifests = set.images().iter();
    let manifests = manifests
        .map(|image| Manifest::parse(&image.manifest))
        .collect::<Result<Vec<_>>>()?;
    let blobs = blobs(&manifests);
    let store = origins.store();
    let from_here = blobs.iter().filter(|blob| !origins.has(&blob.digest));
    check_stored(from_here, store)?;
    let mut sources: Vec<Source> = manifests.iter().find_map(base_source).into_iter().collect();
    for target in targets(references)? {
        let purpose = Purpose {
            operation: RegistryOperation::Push,
            sources: &readable(&target, &sources, origins),
            settings: origins.settings(),
        };
        let remote = Remote::connect(&target.first, purpose, reporter).await?;
        let push = Push {
            documents: &set.documents(),
            blobs: &blobs,
            sources: &sources,
            origins,
            barred: Mutex::default(),
            sent: sent.to(remote.reference()),
            remote,
            store,
            reporter,
        };
        push.run(&target.tags).await?;
        let pushed = push.remote.reference().clone();
        // Nearer than the base's repository, and it has every blob.
        sources.insert(0, Source::new(pushed, false));
    }
    Ok(())
}

/// A repository, and what the image is to be called there.
struct Target {
    first: String,
    tags: Vec<Reference>,
}

fn targets(references: &[String]) -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    for text in references {
        let reference = parse_reference(text)?;
        let same = |target: &&mut Target| {
            let mut tags = target.tags.iter();
            tags.any(|known| same_repository(known, &reference))
        };
        match targets.iter_mut().find(same) {
            Some(target) if target.tags.contains(&reference) => {}
            Some(target) => target.tags.push(reference),
            None => targets.push(Target {
                first: text.clone(),
                tags: vec![reference],
            }),
        }
    }
    Ok(targets)
}

/// The repositories of a target's registry that blobs may be mounted from.
fn readable(target: &Target, sources: &[Source], origins: &Origins<'_>) -> Vec<String> {
    let Some(at) = target.tags.first() else {
        return Vec::new();
    };
    let sources = sources.iter().map(|source| source.at.clone());
    let all = sources.chain(origins.repositories(at.registry()));
    let others = all.filter(|from| from.registry() == at.registry() && !same_repository(from, at));
    let names: BTreeSet<String> = others.map(|from| from.repository().to_owned()).collect();
    names.into_iter().collect()
}

pub(super) fn same_repository(one: &Reference, other: &Reference) -> bool {
    one.registry() == other.registry() && one.repository() == other.repository()
}

/// Configs and layers, each once.
fn blobs(manifests: &[Manifest]) -> Vec<Blob> {
    let mut blobs: Vec<Blob> = Vec::new();
    for blob in manifests.iter().flat_map(blobs_of) {
        if blobs.iter().all(|known| known.digest != blob.digest) {
            blobs.push(blob);
        }
    }
    blobs
}

fn blobs_of(manifest: &Manifest) -> Vec<Blob> {
    // Only imgbuild's own layers are annotated, and the lowest of those has a package in it.
    let of_base = manifest
        .layers
        .iter()
        .take_while(|layer| layer.annotations.is_empty())
        .count();
    let layers = manifest.layers.iter().enumerate();
    let layers = layers.map(|(at, layer)| (layer, at < of_base));
    let all = layers.chain([(&manifest.config, false)]);
    all.map(|(descriptor, base)| Blob {
        digest: descriptor.digest,
        size: descriptor.size,
        base,
    })
    .collect()
}

fn check_stored<'b>(mut blobs: impl Iterator<Item = &'b Blob>, store: &Store) -> Result<()> {
    let missing = |blob: &&Blob| !store.has_blob(&blob.digest, blob.size);
    match blobs.find(missing) {
        None => Ok(()),
        Some(blob) => Err(Error::environment(format!(
            "blob {} is no longer in the cache",
            blob.digest
        ))
        .at(store.blob_path(&blob.digest).display())
        .hint("build the image again")),
    }
}

/// Where blobs may be mounted from (OCI distribution-spec, "Mounting a blob from another
/// repository").
struct Source {
    at: Reference,
    /// Whether it has the base's layers only.
    base: bool,
    /// Whether the registry let one through: it is not asked again.
    missed: AtomicBool,
}

impl Source {
    fn new(at: Reference, base: bool) -> Self {
        Self {
            at,
            base,
            missed: AtomicBool::new(false),
        }
    }
}

fn base_source(manifest: &Manifest) -> Option<Source> {
    let name = manifest.annotations.get(BASE_NAME)?;
    Some(Source::new(reference::parse(name).ok()?, true))
}

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    WasThere,
    Mounted,
    Uploaded,
}

/// A push to one repository.
struct Push<'a> {
    /// Manifests, then the index over them; tags name the last one.
    documents: &'a [Document],
    blobs: &'a [Blob],
    sources: &'a [Source],
    /// Where layers come from that need not be in the store.
    origins: &'a Origins<'a>,
    /// Repositories that may not be read.
    barred: Mutex<BTreeSet<String>>,
    /// What the repository got before the image was known.
    sent: BTreeSet<Digest>,
    remote: Remote,
    store: &'a Store,
    reporter: &'a Reporter,
}

impl Push<'_> {
    async fn run(&self, tags: &[Reference]) -> Result<()> {
        let names: Vec<String> = tags.iter().map(Reference::whole).collect();
        let names = names.join(", ");
        let bytes = self.blobs.iter().map(|blob| blob.size).sum();
        self.reporter.step(format_args!(
            "Pushing {names} ({} blobs, {})",
            self.blobs.len(),
            human_bytes(bytes)
        ));
        let mut came = self.send_blobs(true).await?;
        if let Put::Lacking(_) = self.put_documents().await? {
            self.reporter.warn(format_args!(
                "{} lacks blobs that it said it has: sending all",
                self.remote.reference().registry()
            ));
            came = self.send_blobs(false).await?;
            self.put_documents().await?.taken()?;
        }
        let tags = tags.iter().filter_map(Reference::tag);
        for (tag, document) in tags.zip(self.documents.last().into_iter().cycle()) {
            self.put_manifest(tag, document).await?.taken()?;
        }
        self.reporter
            .step(format_args!("Pushed {names} ({})", summary(&came)));
        Ok(())
    }

    async fn send_blobs(&self, look: bool) -> Result<Vec<Came>> {
        stream::iter(self.blobs)
            .map(|blob| self.send_blob(blob, look))
            .buffer_unordered(CONCURRENT)
            .try_collect()
            .await
    }

    fn settled(&self, blob: &Blob, state: State) {
        self.reporter.settled(&blob.activity(), blob.size, state);
    }

    /// Looks for it, else has it mounted, else sends it.
    async fn send_blob(&self, blob: &Blob, look: bool) -> Result<Came> {
        let mut session = None;
        if look && self.sent.contains(&blob.digest) {
            return Ok(Came::Uploaded);
        }
        if look {
            let digest = &blob.digest;
            let there = self.remote.retrying(|| self.remote.has_blob(digest));
            if there.await? {
                self.settled(blob, State::Exists);
                return Ok(Came::WasThere);
            }
            match self.mount(blob).await {
                Some(Begun::Mounted) => {
                    self.settled(blob, State::Mounted);
                    return Ok(Came::Mounted);
                }
                Some(Begun::Session(begun)) => session = Some(begun),
                None => {}
            }
        }
        self.send(blob, session).await?;
        Ok(Came::Uploaded)
    }

    async fn send(&self, blob: &Blob, session: Option<Session>) -> Result<()> {
        self.origins.bring(&blob.digest).await?;
        let upload = Upload::new(&self.remote, blob, self.store, self.reporter);
        upload.run(session).await
    }

    /// Has the registry take the blob over from another repository. It need not: it may begin an
    /// upload instead; whatever it answers else, the blob is sent.
    async fn mount(&self, blob: &Blob) -> Option<Begun> {
        let at = self.remote.reference();
        let other = |from: &Reference| from.repository() != at.repository();
        let origin = self.origins.repository(&blob.digest, at.registry());
        if let Some(origin) = origin.filter(other) {
            return self.mount_from(blob, &origin).await;
        }
        let source = self.sources.iter().find(|source| {
            source.at.registry() == at.registry()
                && other(&source.at)
                && (blob.base || !source.base)
                && !source.missed.load(Ordering::Relaxed)
        })?;
        let begun = self.mount_from(blob, &source.at).await;
        if !matches!(begun, Some(Begun::Mounted)) {
            source.missed.store(true, Ordering::Relaxed);
        }
        begun
    }

    async fn mount_from(&self, blob: &Blob, from: &Reference) -> Option<Begun> {
        let barred = || self.barred.lock().unwrap_or_else(PoisonError::into_inner);
        let from = from.repository();
        if barred().contains(from) {
            return None;
        }
        let mount = Some((&blob.digest, from));
        let asked = self.remote.retrying(|| async {
            let begun = begin(&self.remote, mount).await;
            begun.map_err(|problem| self.remote.failure(problem))
        });
        let begun = asked.await.ok();
        if begun.is_none() {
            barred().insert(from.to_owned());
        }
        begun
    }

    /// Puts every manifest, and then the index, under its digest, until blobs are lacking.
    async fn put_documents(&self) -> Result<Put> {
        for document in self.documents {
            let by_digest = document.digest.to_string();
            let put = self.put_manifest(&by_digest, document).await?;
            if matches!(put, Put::Lacking(_)) {
                return Ok(put);
            }
        }
        Ok(Put::Taken)
    }

    /// Puts a document under a name, unless that is what the name stands for already.
    async fn put_manifest(&self, name: &str, document: &Document) -> Result<Put> {
        let remote = &self.remote;
        let put = remote.retrying(|| async {
            if remote.manifest_digest(name).await? == Some(document.digest) {
                return Ok::<Put, Failure>(Put::Taken);
            }
            remote
                .put_manifest(name, document, &Condition::Always)
                .await
        });
        let placed = |error: Error| {
            let reference = remote.reference();
            let (host, repository) = (reference.registry(), reference.repository());
            error.at(format_args!("{host}/{repository}, {name}"))
        };
        match put.await {
            Ok(Put::Lacking(error)) => Ok(Put::Lacking(placed(error))),
            Ok(put) => Ok(put),
            Err(error) => Err(placed(error)),
        }
    }
}

fn summary(came: &[Came]) -> String {
    let count = |how| came.iter().filter(|came| **came == how).count();
    let mounted = match count(Came::Mounted) {
        0 => String::new(),
        mounted => format!("{mounted} mounted, "),
    };
    format!(
        "{} uploaded, {mounted}{} there already",
        count(Came::Uploaded),
        count(Came::WasThere)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_visited_once() {
        let names = ["h:1/a:x", "h:1/b", "h:1/a:y", "h:1/a:x", "a"].map(String::from);
        let targets = targets(&names).unwrap();
        let tags: Vec<Vec<String>> = targets
            .iter()
            .map(|target| target.tags.iter().map(Reference::whole).collect())
            .collect();
        assert_eq!(
            tags,
            [
                vec!["h:1/a:x", "h:1/a:y"],
                vec!["h:1/b:latest"],
                vec!["docker.io/library/a:latest"]
            ]
        );
        assert!(self::targets(&["A".into()]).is_err());
    }

    #[test]
    fn a_blob_is_sent_once() {
        let layer = |name: &str, annotated: bool| {
            let annotations = match annotated {
                true => serde_json::json!({"k": "v"}),
                false => serde_json::json!({}),
            };
            serde_json::json!({"mediaType": "t", "size": 1, "annotations": annotations,
                "digest": Digest::of(name.as_bytes())})
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": crate::base::media::OCI_MANIFEST, "config": layer("c", false),
            "layers": [layer("base", false), layer("base", false), layer("p", true), layer("s", false)],
        });
        let manifest = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
        let blobs = blobs(&[manifest.clone(), manifest]);
        let of_base: Vec<bool> = blobs.iter().map(|blob| blob.base).collect();
        assert_eq!(of_base, [true, false, false, false]);
    }

    #[test]
    fn a_summary_names_what_there_was() {
        use Came::{Mounted, Uploaded, WasThere};
        assert_eq!(
            summary(&[Uploaded, WasThere, Uploaded]),
            "2 uploaded, 1 there already"
        );
        assert_eq!(
            summary(&[Mounted, WasThere]),
            "0 uploaded, 1 mounted, 1 there already"
        );
    }
}
