//! `imgbuild sbom`: the bill of materials of an image, the one that is attached to it or one that
//! its own records give.

use std::process::ExitCode;

use clap::Args as Group;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{
    attest::{kept, subject, subject_of},
    open_store, print,
    registry_args::RegistryArgs,
    runtime, stoppable, stored,
};
use crate::{
    attest::{PREDICATE_TYPE, REFERENCE_DIGEST, SPDX, SPDX_JSON},
    base::{BaseLayer, BaseSource, Loader, media},
    digest::{DiffId, Digest},
    docker,
    error::{Error, Result},
    image::Manifest,
    machine::Machine,
    registry::{
        referrers::Referrers,
        remote::{Purpose, Remote},
    },
    report::{Activity, Reporter, Step},
    sbom::{Inventory, components, document},
    store::Store,
};

/// Changes whenever the same layer would be read in another way.
const INVENTORY_FORMAT: &str = "imgbuild-inventory-1";

#[derive(Group)]
pub(super) struct SbomArgs {
    /// The image: a name in imgbuild's store, oci:DIR, oci-archive:FILE, docker-archive:FILE,
    /// docker-daemon:REF, or a registry reference.
    pub image: String,
    #[command(flatten)]
    pub registries: RegistryArgs,
}

pub(super) fn run(args: &SbomArgs, reporter: &Reporter) -> Result<ExitCode> {
    let runtime = runtime()?;
    let finder = Finder {
        loader: Loader {
            store: open_store(reporter)?,
            reporter: reporter.clone(),
            platform: Machine::default().platform(),
            offline: false,
            registries: args.registries.settings(),
        },
        runtime: &runtime,
    };
    let found = stoppable(&runtime, reporter, || {}, || finder.find(&args.image))?;
    print(format_args!("{found:#}"));
    Ok(ExitCode::SUCCESS)
}

/// What finding a bill of materials needs.
struct Finder<'a> {
    loader: Loader,
    runtime: &'a Runtime,
}

impl Finder<'_> {
    fn find(&self, name: &str) -> Result<Value> {
        let store = &self.loader.store;
        if let Some(set) = stored(name, store)?
            && let Some(image) = set.for_machine(Machine::default()).or(set.images().first())
        {
            let subject = subject(image)?;
            if let Some(materials) = kept(&image.digest, store) {
                return Ok(document(&subject, &materials.components));
            }
            let layers = image
                .layers
                .iter()
                .map(|layer| (layer.digest, layer.diff_id));
            return Ok(document(&subject, &components(self.inventories(layers)?)));
        }
        let source: BaseSource = name.parse()?;
        let daemon = async { Ok(docker::connect().await?.docker) };
        let describing = self.loader.describe(&source, None, daemon);
        let image = self.runtime.block_on(describing)?;
        let digest = image.digest.ok_or_else(|| {
            Error::input(format!("{name} is no image")).hint("name one that has packages in it")
        })?;
        if let BaseSource::Registry(reference) = &source
            && let Some(attached) = self.runtime.block_on(self.attached(reference, &digest))?
        {
            return Ok(attached);
        }
        if let Some(mut statement) = self.loader.statement(&source, &digest, SPDX)? {
            return Ok(statement["predicate"].take());
        }
        let reporter = &self.loader.reporter;
        reporter.step("No bill of materials is attached: it is made from the image's own records");
        self.runtime
            .block_on(self.loader.fetch(&source, &image.layers))?;
        let place = |layer: &BaseLayer| (layer.digest, layer.diff_id);
        let found = components(self.inventories(image.layers.iter().map(place))?);
        let manifest = manifest(&digest, store);
        let subject = subject_of(digest, &image.config, manifest.as_ref());
        Ok(document(&subject, &found))
    }

    /// As a referrer, else in the index that the name stands for.
    async fn attached(&self, reference: &str, image: &Digest) -> Result<Option<Value>> {
        let purpose = Purpose::pull(&self.loader.registries);
        let remote = Remote::connect(reference, purpose, &self.loader.reporter).await?;
        let referrers = Referrers::of(&remote);
        for manifest in referrers.of_type(image, SPDX_JSON).await? {
            let any = |layer: &Value| layer["mediaType"] == SPDX_JSON;
            if let Some(bytes) = referrers.document(&manifest, any).await? {
                return parsed(&bytes).map(Some);
            }
        }
        let at = remote.reference();
        let name = at.digest().or(at.tag()).unwrap_or("latest");
        let index: Value = match referrers.manifest(name).await? {
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            None => return Ok(None),
        };
        let entries = index["manifests"].as_array().into_iter().flatten();
        let about = |entry: &&Value| entry["annotations"][REFERENCE_DIGEST] == image.to_string();
        for entry in entries.filter(about) {
            let digest = entry["digest"].as_str().and_then(|text| text.parse().ok());
            let spdx = |layer: &Value| layer["annotations"][PREDICATE_TYPE] == SPDX;
            if let Some(digest) = digest
                && let Some(bytes) = referrers.document(&digest, spdx).await?
            {
                return Ok(Some(parsed(&bytes)?["predicate"].take()));
            }
        }
        Ok(None)
    }

    fn inventories(
        &self,
        layers: impl Iterator<Item = (Digest, DiffId)>,
    ) -> Result<Vec<Inventory>> {
        layers
            .map(|(digest, diff_id)| self.inventory(&digest, &diff_id))
            .collect()
    }

    /// What a layer tells; remembered, for a large one takes seconds.
    fn inventory(&self, digest: &Digest, diff_id: &DiffId) -> Result<Inventory> {
        let store = &self.loader.store;
        let key = Digest::of(format!("{INVENTORY_FORMAT} {diff_id}").as_bytes());
        if let Some(known) = store.survey(&key) {
            return Ok(known);
        }
        let activity = Activity::new(Step::Read, "Reading a layer").of(*digest);
        let _task = self.loader.reporter.bytes(activity, None);
        let inventory = Inventory::read(media::open_layer(store, digest)?).map_err(|e| {
            Error::environment("a layer cannot be read")
                .at(format!("layer {digest}"))
                .why(e)
        })?;
        store.put_survey(&key, &inventory)?;
        Ok(inventory)
    }
}

fn parsed(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::environment("the attached bill of materials cannot be read").why(e))
}

fn manifest(digest: &Digest, store: &Store) -> Option<Manifest> {
    let here = store.blob_path(digest).exists();
    Manifest::parse(&here.then(|| store.read_blob(digest).ok())??).ok()
}
