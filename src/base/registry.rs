//! Pulls an image: manifest by tag, then config and layers by digest, into the store.

use std::io::Write;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    BaseImage, BaseLayer, Loader,
    files::{damaged, label},
    manifest::{self, Descriptor, Document, LayerBlob, MAX_DEPTH, MAX_DOCUMENT, Manifest},
    media,
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    registry::{
        failure::{Failure, Retry},
        remote::{Purpose, Remote, parse_reference},
    },
    report::{Activity, Step},
    store::{BlobWriter, Store},
};

/// How many blobs are fetched at once: as many as Docker does.
const CONCURRENT: usize = 3;

/// Pulls the image of a reference for the loader's platform; with a pin, the image of that digest.
///
/// # Errors
/// When the registry cannot be reached, refuses, has no such image, or sends other bytes than the
/// manifest says.
pub(super) async fn pull(
    reference: &str,
    pin: Option<&Digest>,
    loader: &Loader,
) -> Result<BaseImage> {
    let name = parse_reference(reference)?.whole();
    if let Some((digest, manifest, config)) = pin.and_then(|pin| kept(pin, loader))
        && is_whole(&manifest, loader)
    {
        return finish(&name, (digest, &manifest), &config, loader);
    }
    pull_from(&connect(reference, loader).await?, pin, loader).await
}

async fn pull_from(remote: &Remote, pin: Option<&Digest>, loader: &Loader) -> Result<BaseImage> {
    let name = remote.reference().whole();
    let place = |error: Error| error.at(&name);
    let (digest, manifest) = find(remote, pin, loader).await?;
    let layers = manifest.layers().map_err(place)?;
    let config = config(remote, &manifest.config, loader).await?;
    // Refused before the layers are fetched.
    manifest::read_config(&config, &loader.platform).map_err(place)?;
    fetch_layers(remote, &layers, loader).await?;
    finish(&name, (digest, &manifest), &config, loader)
}

/// What an image is, without its layers; with a pin, the image of that digest.
///
/// # Errors
/// As [`pull`], but for the layers.
pub(super) async fn describe(
    reference: &str,
    pin: Option<&Digest>,
    loader: &Loader,
) -> Result<BaseImage> {
    let name = parse_reference(reference)?.whole();
    let place = |error: Error| error.at(&name);
    let (digest, manifest, config) = match pin.and_then(|pin| kept(pin, loader)) {
        Some(kept) => kept,
        None => {
            let remote = connect(reference, loader).await?;
            let (digest, manifest) = find(&remote, pin, loader).await?;
            let config = config(&remote, &manifest.config, loader).await?;
            (digest, manifest, config)
        }
    };
    let layers = manifest.layers().map_err(place)?;
    let (config, diff_ids) = manifest::read_config(&config, &loader.platform).map_err(place)?;
    let image = manifest::assemble(config, layers, diff_ids, digest).map_err(place)?;
    Ok(BaseImage {
        name: Some(name.clone()),
        ..image
    })
}

/// The manifest and the config of an image; nothing when the registry says that it has none.
///
/// # Errors
/// As [`describe`].
pub(super) async fn documents(
    reference: &str,
    loader: &Loader,
) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let remote = connect(reference, loader).await?;
    if !is_there(&remote).await? {
        return Ok(None);
    }
    let (digest, manifest) = find(&remote, None, loader).await?;
    let config = config(&remote, &manifest.config, loader).await?;
    Ok(Some((loader.store.read_blob(&digest)?, config)))
}

async fn is_there(remote: &Remote) -> Result<bool> {
    let name = name(remote);
    remote.retrying(|| remote.has_manifest(&name)).await
}

/// What the reference names the manifest with.
fn name(remote: &Remote) -> String {
    let at = remote.reference();
    let name = at.digest().or(at.tag());
    name.unwrap_or("latest").to_owned()
}

/// Fetches some layers of an image.
///
/// # Errors
/// When the registry cannot be reached, refuses, or sends other bytes than it should.
pub(super) async fn fetch_some(
    reference: &str,
    layers: &[BaseLayer],
    loader: &Loader,
) -> Result<()> {
    let blobs: Vec<LayerBlob> = layers
        .iter()
        .map(|layer| LayerBlob {
            digest: layer.digest,
            size: layer.size,
            media_type: layer.media_type.clone(),
        })
        .collect();
    fetch_layers(&connect(reference, loader).await?, &blobs, loader).await
}

/// The digest of the manifest that a reference leads to for the loader's platform.
///
/// # Errors
/// As [`pull`], but for the layers.
pub(super) async fn resolve(reference: &str, loader: &Loader) -> Result<Digest> {
    let remote = connect(reference, loader).await?;
    find(&remote, None, loader).await.map(|(digest, _)| digest)
}

async fn connect(reference: &str, loader: &Loader) -> Result<Remote> {
    if loader.offline {
        return Err(Error::environment("the base image is not in the cache")
            .at(reference)
            .why("--offline: no registry is asked")
            .hint("run once without --offline"));
    }
    let purpose = Purpose::pull(&loader.registries);
    Remote::connect(reference, purpose, &loader.reporter).await
}

/// What the store has of a pinned image: its manifest and config.
fn kept(pin: &Digest, loader: &Loader) -> Option<(Digest, Manifest, Vec<u8>)> {
    let store = &loader.store;
    let document = store
        .blob_path(pin)
        .exists()
        .then(|| store.read_blob(pin).ok())?;
    let Document::Manifest(manifest) = Document::parse(&document?).ok()? else {
        return None;
    };
    let config = manifest.config.digest().ok()?;
    let here = store.has_blob(&config, manifest.config.size);
    let config = here.then(|| store.read_blob(&config).ok())??;
    Some((*pin, manifest, config))
}

/// Whether the store has every layer of an image.
fn is_whole(manifest: &Manifest, loader: &Loader) -> bool {
    let here = |layer: &LayerBlob| loader.store.has_blob(&layer.digest, layer.size);
    manifest
        .layers()
        .is_ok_and(|layers| layers.iter().all(here))
}

fn finish(
    name: &str,
    (digest, manifest): (Digest, &Manifest),
    config: &[u8],
    loader: &Loader,
) -> Result<BaseImage> {
    let place = |error: Error| error.at(name);
    let mut layers = manifest.layers().map_err(place)?;
    let (config, diff_ids) = manifest::read_config(config, &loader.platform).map_err(place)?;
    media::correct(&mut layers, &loader.store, &loader.reporter).map_err(place)?;
    let base = manifest::assemble(config, layers, diff_ids, digest).map_err(place)?;
    Ok(BaseImage {
        name: Some(name.to_owned()),
        ..base
    })
}

/// Follows the tag, or the pin, to the manifest of the platform, which the store has afterwards.
async fn find(
    remote: &Remote,
    pin: Option<&Digest>,
    loader: &Loader,
) -> Result<(Digest, Manifest)> {
    let whole = remote.reference().whole();
    let mut at = pin.map_or_else(|| name(remote), Digest::to_string);
    for _ in 0..MAX_DEPTH {
        let (digest, bytes) = document(remote, &at).await?;
        let parsed = Document::parse(&bytes).map_err(|e| e.at(&whole))?;
        let entries = match parsed {
            Document::Manifest(manifest) => {
                loader.store.put_blob(&bytes)?;
                return Ok((digest, manifest));
            }
            Document::Index(entries) => entries,
        };
        let chosen = manifest::choose(&entries, &loader.platform, None, false);
        at = chosen.map_err(|e| e.at(&whole))?.digest()?.to_string();
    }
    Err(Error::input("image indexes point to each other without end").at(whole))
}

/// Fetches a manifest or an index; one asked for by digest must have it.
async fn document(remote: &Remote, name: &str) -> Result<(Digest, Vec<u8>)> {
    let expected = name.contains(':').then(|| manifest::sha256(name));
    let expected = expected.transpose()?;
    let bytes = remote.retrying(|| remote.manifest(name)).await?;
    let found = Digest::of(&bytes);
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        let damaged = damaged(&expected, &found, bytes.len() as u64);
        return Err(damaged.at(remote.reference().whole()));
    }
    Ok((found, bytes))
}

async fn config(remote: &Remote, config: &Descriptor, loader: &Loader) -> Result<Vec<u8>> {
    if config.size > MAX_DOCUMENT {
        return Err(Error::input(format!(
            "the image's config is too large: {} bytes",
            config.size
        ))
        .at(remote.reference().whole()));
    }
    let digest = config.digest()?;
    fetch(remote, &digest, config.size, "base config".into(), loader).await?;
    loader.store.read_blob(&digest)
}

async fn fetch_layers(remote: &Remote, layers: &[LayerBlob], loader: &Loader) -> Result<()> {
    // A layer may stand in a manifest more than once, and must not be fetched twice at a time.
    let mut missing: Vec<&LayerBlob> = Vec::new();
    for layer in layers {
        if !missing.iter().any(|other| other.digest == layer.digest) {
            missing.push(layer);
        }
    }
    missing.retain(|layer| !loader.store.has_blob(&layer.digest, layer.size));
    if !missing.is_empty() {
        let bytes = missing.iter().map(|layer| layer.size).sum();
        loader.reporter.step(format_args!(
            "pulling {}: {} of {} layers, {}",
            remote.reference().whole(),
            missing.len(),
            layers.len(),
            crate::report::human_bytes(bytes)
        ));
    }
    stream::iter(missing)
        .map(|layer| {
            fetch(
                remote,
                &layer.digest,
                layer.size,
                label(&layer.digest),
                loader,
            )
        })
        .buffer_unordered(CONCURRENT)
        .try_collect()
        .await
}

/// Fetches a blob into the store, unless it is there.
async fn fetch(
    remote: &Remote,
    digest: &Digest,
    size: u64,
    label: String,
    loader: &Loader,
) -> Result<()> {
    if loader.store.has_blob(digest, size) {
        return Ok(());
    }
    let waiting = || {
        let line = format!("Waiting for another build that downloads {label}");
        loader.reporter.step(line);
    };
    let _made_once = loader.store.lock_download(&digest.hex(), waiting).await?;
    if loader.store.has_blob(digest, size) {
        return Ok(());
    }
    remote
        .retrying(|| async {
            let activity = Activity::new(Step::Pull, label.as_str()).of(*digest);
            let task = loader.reporter.bytes(activity, Some(size));
            let mut writer = loader.store.blob_writer_of(Some(size))?;
            let received = receive(remote, digest, size, &mut writer, &task).await?;
            if received != size {
                return Err(Failure {
                    error: broke_off(remote, digest, received, size),
                    retry: Retry::Later,
                });
            }
            keep(writer, *digest, &loader.store, remote).await
        })
        .await
}

/// Writes what the registry sends, one byte more than expected at the most.
async fn receive(
    remote: &Remote,
    digest: &Digest,
    size: u64,
    writer: &mut BlobWriter,
    task: &crate::report::Task,
) -> Result<u64, Failure> {
    let mut body = remote.blob(digest).await?;
    let mut received = 0;
    loop {
        let chunk = match body.next().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(received),
            Err(problem) => {
                let cause = problem.words();
                return Err(Failure {
                    error: broke_off(remote, digest, received, size).why(cause),
                    retry: remote.failure(problem).retry,
                });
            }
        };
        received += chunk.len() as u64;
        if received > size {
            return Err(
                Error::environment(format!("cannot pull {}", remote.reference().whole()))
                    .why(format!(
                        "layer {digest} is longer than the {size} bytes that the manifest says"
                    ))
                    .into(),
            );
        }
        writer
            .write_all(&chunk)
            .map_err(|e| Error::of_io("cannot write to the cache", e))?;
        task.add(chunk.len() as u64);
    }
}

fn broke_off(remote: &Remote, digest: &Digest, received: u64, size: u64) -> Error {
    remote.cannot().why(format!(
        "layer {digest} broke off after {received} of {size} bytes"
    ))
}

/// Syncing to disk takes long: not on an async thread.
async fn keep(
    writer: BlobWriter,
    digest: Digest,
    store: &Store,
    remote: &Remote,
) -> Result<(), Failure> {
    let place = store.blob_path(&digest);
    let kept = super::blocking(move || writer.finish_expecting(&digest, |_| place)).await?;
    kept.map(drop).map_err(|(found, bytes)| {
        let error = damaged(&digest, &found, bytes);
        error.at(remote.reference().whole()).into()
    })
}

#[cfg(test)]
mod tests;
