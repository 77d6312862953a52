//! `imgbuild probe --attach` and `--check-attached`: verdicts beside the image in its registry.

use std::time::{SystemTime, UNIX_EPOCH};

use oci_client::RegistryOperation;
use serde_json::Value;

use super::report_file::json;
use crate::{
    base::media,
    digest::Digest,
    error::{Error, Exit, Result},
    image::{Annotations, Descriptor, Index},
    machine::Machine,
    probe::{Attached, PROBE_TYPE, Place, ProbeReport, attestation, deciding},
    registry::{
        Settings,
        referrers::Referrers,
        remote::{Purpose, Remote},
    },
    report::Reporter,
};

/// Where a verdict is to be attached.
pub(super) struct Attach {
    /// The image's name in a registry, where its own does not tell.
    pub to: Option<String>,
    /// How registries are spoken to.
    pub settings: Settings,
}

/// An image in its registry.
pub(super) struct Target {
    remote: Remote,
    /// The manifest of one machine's image.
    image: Descriptor,
    /// What daemons and clusters call it: by its index, by its manifest or by its config.
    ids: Vec<Digest>,
}

/// What a manifest is for.
struct Found {
    bytes: Vec<u8>,
    document: Value,
}

impl Target {
    /// Finds an image that something is to be attached to.
    ///
    /// # Errors
    /// When the registry cannot be reached or refuses, or has no such image.
    pub(super) async fn to_write(name: &str, attach: &Attach, reporter: &Reporter) -> Result<Self> {
        let name = attach.to.as_deref().unwrap_or(name);
        let purpose = Purpose {
            operation: RegistryOperation::Push,
            ..Purpose::pull(&attach.settings)
        };
        Self::find(Remote::connect(name, purpose, reporter).await?).await
    }

    async fn find(remote: Remote) -> Result<Self> {
        let at = remote.reference();
        let name = at.digest().or(at.tag()).unwrap_or("latest").to_owned();
        let whole = at.whole();
        let absent = || {
            Error::environment("the registry has no such image")
                .at(&whole)
                .hint(
                    "push it there: imgbuild push NAME REF; --attach=REF names another repository",
                )
        };
        let named = fetch(&remote, &name).await?.ok_or_else(absent)?;
        let mut ids = vec![Digest::of(&named.bytes)];
        let manifest = match named.document["manifests"].is_array() {
            true => {
                let machine = Machine::here().unwrap_or_default();
                let index = Index::parse(&named.bytes).map_err(|e| e.at(&whole))?;
                let entry = index.of(machine).ok_or_else(|| {
                    Error::environment(format!("the image is not for {machine}")).at(&whole)
                })?;
                let name = entry.digest.to_string();
                fetch(&remote, &name).await?.ok_or_else(absent)?
            }
            false => named,
        };
        let said = |key: &str| manifest.document[key].as_str();
        let image = Descriptor {
            media_type: said("mediaType").unwrap_or(media::OCI_MANIFEST).to_owned(),
            digest: Digest::of(&manifest.bytes),
            size: manifest.bytes.len() as u64,
            annotations: Annotations::new(),
            platform: None,
        };
        let config = manifest.document["config"]["digest"].as_str();
        ids.push(image.digest);
        ids.extend(config.and_then(|text| text.parse::<Digest>().ok()));
        Ok(Self { remote, image, ids })
    }

    /// Refuses another image than the registry's, by what a daemon or a cluster calls it.
    ///
    /// # Errors
    /// When it is another, or its ID cannot be read.
    pub(super) fn check(&self, id: &str) -> Result<()> {
        let digest = id.parse::<Digest>().ok();
        if digest.is_some_and(|digest| self.ids.contains(&digest)) {
            return Ok(());
        }
        let whole = self.remote.reference().whole();
        Err(
            Error::input("the image that is probed is not the one in the registry")
                .at(&whole)
                .why(format!("there: {}", self.image.digest))
                .why(format!("probed: {id}"))
                .hint("push the one, or pull the other; then probe it again"),
        )
    }

    /// Attaches the verdict.
    ///
    /// # Errors
    /// When it is on another image, or the registry cannot be reached or refuses.
    pub(super) async fn attach(&self, report: &ProbeReport, reporter: &Reporter) -> Result<()> {
        self.check(probed(report)?.1)?;
        let document = attestation(report, json(report)?, now());
        let digest = Referrers::of(&self.remote)
            .attach(&self.image, &document)
            .await?;
        let at = self.remote.reference();
        let (registry, repository) = (at.registry(), at.repository());
        reporter.step(format_args!(
            "Attached the verdict to {registry}/{repository}@{} ({digest})",
            self.image.digest
        ));
        Ok(())
    }

    async fn attached(&self) -> Result<Vec<Attached>> {
        let referrers = Referrers::of(&self.remote);
        let mut found = Vec::new();
        for digest in referrers.of_type(&self.image.digest, PROBE_TYPE).await? {
            let manifest = referrers.artifact(&digest).await?.unwrap_or_default();
            // A list may name anything.
            if manifest["subject"]["digest"] != self.image.digest.to_string() {
                continue;
            }
            let annotations =
                serde_json::from_value(manifest["annotations"].clone()).unwrap_or_default();
            let report = referrers.blob(&manifest["layers"][0]).await?;
            found.push(Attached::read(digest, &annotations, &report)?);
        }
        Ok(found)
    }
}

async fn fetch(remote: &Remote, name: &str) -> Result<Option<Found>> {
    let bytes = Referrers::of(remote).manifest(name).await?;
    let found = |bytes: Vec<u8>| Found {
        document: serde_json::from_slice(&bytes).unwrap_or_default(),
        bytes,
    };
    Ok(bytes.map(found))
}

/// The name of what was probed, and what a daemon or a cluster calls it.
///
/// # Errors
/// When it was no image.
pub(super) fn probed(report: &ProbeReport) -> Result<(&str, &str)> {
    match &report.place {
        Place::Container { image, .. } => Ok((&image.name, &image.id)),
        Place::Cluster {
            container_image: Some(image),
            ..
        } => {
            let digest = image.rsplit_once('@').map_or("", |(_, digest)| digest);
            Ok((image, digest))
        }
        _ => Err(Error::input("there is no image to attach the verdict to")
            .why("the job ran in the machines' own Python")),
    }
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org), else the time now, in seconds since the epoch.
fn now() -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let given = given.and_then(|text| text.parse().ok());
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH);
    given.unwrap_or_else(|| clock().map_or(0, |since| since.as_secs()))
}

/// The attached verdict that counts for so many GPUs.
///
/// # Errors
/// With `Exit::ProbeNotRun` when there is none; when the registry cannot be reached or refuses, has
/// no such image, or has a verdict that cannot be read.
pub(super) async fn check_attached(
    name: &str,
    gpus: u32,
    settings: &Settings,
    reporter: &Reporter,
) -> Result<ProbeReport> {
    let remote = Remote::connect(name, Purpose::pull(settings), reporter).await?;
    let target = Target::find(remote).await?;
    let attached = target.attached().await?;
    let Some(found) = deciding(&attached, gpus) else {
        return Err(none(name, &target.image.digest, gpus, &attached));
    };
    reporter.step(format_args!(
        "{}, attached to {} ({})",
        found.summary(),
        target.image.digest,
        found.manifest
    ));
    Ok(found.report.clone())
}

fn none(name: &str, image: &Digest, gpus: u32, attached: &[Attached]) -> Error {
    let count = match gpus {
        1 => "GPUs".to_owned(),
        n => format!("{n} GPUs or more"),
    };
    let error = Error::new(
        Exit::ProbeNotRun,
        format!("no verdict on {count} is attached to the image"),
    )
    .at(format!("{name}, {image}"))
    .hint(format!("imgbuild probe {name} --gpus {gpus} --attach"));
    match attached {
        [] => error.why("none at all is"),
        others => others.iter().fold(error, |error, other| {
            error.why(format!("attached: {}", other.summary()))
        }),
    }
}
