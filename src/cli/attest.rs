//! `--sbom` and `--provenance`: what is said of an image beside it in a registry.

use clap::{ArgAction, Args as Group, ValueEnum};
use jiff::Timestamp;
use oci_client::{Reference, RegistryOperation};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::interruptible;
use crate::{
    attest::{Attestation, Attested, IN_TOTO, PROVENANCE, SPDX, SPDX_JSON, provenance, statement},
    base::Loader,
    digest::Digest,
    error::{Error, Result},
    fetch::{Fetcher, Wanted, wheel_path},
    image::{
        Annotations, BASE_DIGEST, BASE_NAME, Descriptor, Document, Image, ImageSet, Manifest,
        timestamp,
    },
    lock::{Lock, LockedWheel},
    registry::{
        referrers::Referrers,
        remote::{Purpose, Remote, parse_reference},
    },
    report::Reporter,
    sbom::{Base, Materials, Subject, WheelFacts, document},
    sink::Output,
    spec::ImageSpec,
    store::Store,
    wheel::WheelArchive,
};

/// Changes whenever what an image was built of is kept in another form.
const FORMAT: &str = "imgbuild-materials-1";

/// What to attach to an image that is pushed or written as an OCI layout.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Attestations")]
pub(super) struct AttestArgs {
    /// Attach a bill of materials (SPDX) to what is pushed or written as an OCI layout.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          action = ArgAction::Set, default_value_t = false, default_missing_value = "true")]
    pub sbom: bool,
    /// Attach a provenance (SLSA) to what is pushed or written as an OCI layout.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          action = ArgAction::Set, default_value_t = false, default_missing_value = "true")]
    pub provenance: bool,
    /// How they are attached in a registry: beside the image, so that tags name it as ever, or in
    /// an index that the tags name, as docker buildx does. A layout has them in an index.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Form::Referrers)]
    pub attach_as: Form,
}

/// How documents are attached to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// Artifacts that refer to it (OCI 1.1).
    Referrers,
    /// An index of the image and its statements.
    Index,
}

impl AttestArgs {
    /// Whether anything is to be attached.
    pub(super) fn any(&self) -> bool {
        self.sbom || self.provenance
    }

    /// Refuses, before anything is built, what nothing could be attached to.
    pub(super) fn check(&self, pushes: bool, outputs: &[Output]) -> Result<()> {
        match self.any() && !pushes && !outputs.iter().any(Output::holds_attestations) {
            true => Err(
                Error::input("--sbom and --provenance need --push or -o type=oci")
                    .why("they are attached to the image in its registry or its OCI layout")
                    .hint("for a file: imgbuild sbom IMAGE > image.spdx.json"),
            ),
            false => Ok(()),
        }
    }

    /// What an OCI layout has beside images.
    ///
    /// # Errors
    /// When it is not known what an image was built of.
    pub(super) fn in_layout(
        &self,
        set: &ImageSet,
        (store, reporter): (&Store, &Reporter),
    ) -> Result<Option<Attested>> {
        if !self.any() {
            return Ok(None);
        }
        let about = self.about(set, Form::Index, (store, reporter))?;
        Ok(Some(Attested::of(&about)))
    }

    /// The names to push the image under: the tags, unless an index is to have these.
    pub(super) fn names(&self, set: &ImageSet, tags: &[String]) -> Result<Vec<String>> {
        if !self.any() || self.attach_as == Form::Referrers {
            return Ok(tags.to_vec());
        }
        let by_digest = |tag: &String| {
            let named = parse_reference(tag)?;
            Ok(named.clone_with_digest(set.digest().to_string()).whole())
        };
        tags.iter().map(by_digest).collect()
    }

    /// Attaches what is wanted to an image that was pushed.
    ///
    /// # Errors
    /// When it is not known what the image was built of, or a registry refuses.
    pub(super) fn attach(
        &self,
        set: &ImageSet,
        tags: &[String],
        runtime: &Runtime,
        loader: &Loader,
    ) -> Result<()> {
        if !self.any() {
            return Ok(());
        }
        let about = self.about(set, self.attach_as, (&loader.store, &loader.reporter))?;
        let attaching = async {
            for repository in repositories(tags)? {
                self.attach_at(&about, &repository, loader).await?;
            }
            Ok(())
        };
        runtime.block_on(interruptible(attaching))
    }

    async fn attach_at(&self, images: &[About], tags: &[Reference], loader: &Loader) -> Result<()> {
        let Some(first) = tags.first() else {
            return Ok(());
        };
        let reporter = &loader.reporter;
        let purpose = Purpose {
            operation: RegistryOperation::Push,
            ..Purpose::pull(&loader.registries)
        };
        let remote = Remote::connect(&first.whole(), purpose, reporter).await?;
        let referrers = Referrers::of(&remote);
        let place = format!("{}/{}", first.registry(), first.repository());
        if self.attach_as == Form::Index {
            let names = tags.iter().filter_map(Reference::tag).map(str::to_owned);
            let names: Vec<String> = names.collect();
            let attested = Attested::of(images);
            referrers.tag_with(&attested, &names).await?;
            let digest = attested.index.digest;
            reporter.step(format_args!("Attached in an index at {place} ({digest})"));
            return Ok(());
        }
        for (image, documents) in images {
            let subject = Descriptor {
                platform: None,
                ..image.clone()
            };
            for document in documents {
                let digest = referrers.attach(&subject, document).await?;
                let what = document.predicate_type.unwrap_or(document.media_type);
                reporter.step(format_args!("Attached {what} at {place} ({digest})"));
            }
        }
        Ok(())
    }

    fn about(
        &self,
        set: &ImageSet,
        form: Form,
        (store, reporter): (&Store, &Reporter),
    ) -> Result<Vec<About>> {
        let about = |image: &Image| {
            let documents = self.documents(image, form, (store, reporter))?;
            Ok((descriptor(image), documents))
        };
        set.images().iter().map(about).collect()
    }

    fn documents(
        &self,
        image: &Image,
        form: Form,
        (store, reporter): (&Store, &Reporter),
    ) -> Result<Vec<Attestation>> {
        let materials = kept(&image.digest, store).ok_or_else(|| {
            Error::input("it is not known what the image was built of")
                .at(image.digest)
                .why("the cache has no record of it: it is of an older imgbuild, or was pruned")
                .hint("build the image again")
        })?;
        let subject = subject(image)?;
        let mut documents = Vec::new();
        if self.sbom {
            warn_unknown(&materials, reporter);
            let spdx = document(&subject, &materials.components);
            documents.push(match form {
                Form::Referrers => Attestation {
                    media_type: SPDX_JSON,
                    predicate_type: None,
                    annotations: Annotations::new(),
                    bytes: spdx.to_string().into_bytes(),
                },
                Form::Index => in_toto(&image.digest, SPDX, spdx),
            });
        }
        if self.provenance {
            let predicate = provenance(&subject, &materials);
            documents.push(in_toto(&image.digest, PROVENANCE, predicate));
        }
        Ok(documents)
    }
}

/// An image's descriptor with its platform, and what is said of it.
type About = (Descriptor, Vec<Attestation>);

fn descriptor(image: &Image) -> Descriptor {
    let config: Value = serde_json::from_slice(&image.config).unwrap_or_default();
    let keys = ["architecture", "os", "variant"].into_iter();
    let said = keys.filter_map(|key| Some((key.to_owned(), config.get(key)?.clone())));
    Descriptor {
        platform: Some(Value::Object(said.collect())),
        ..Document::of_image(image).descriptor()
    }
}

fn in_toto(subject: &Digest, kind: &'static str, predicate: Value) -> Attestation {
    Attestation {
        media_type: IN_TOTO,
        predicate_type: Some(kind),
        annotations: Annotations::new(),
        bytes: statement(subject, kind, predicate).to_string().into_bytes(),
    }
}

fn warn_unknown(materials: &Materials, reporter: &Reporter) {
    let unknown = |one: &&crate::sbom::Component| one.licence.is_none();
    match materials.components.iter().filter(unknown).count() {
        0 => {}
        n => reporter.warn(format_args!(
            "{n} packages say nothing of their licence, or it is not here: build with --sbom to \
             have all that they say"
        )),
    }
}

/// References by their repositories, in order.
fn repositories(tags: &[String]) -> Result<Vec<Vec<Reference>>> {
    let mut all: Vec<Vec<Reference>> = Vec::new();
    for tag in tags {
        let named = parse_reference(tag)?;
        let place = |one: &Reference| (one.registry().to_owned(), one.repository().to_owned());
        let same = |group: &&mut Vec<Reference>| {
            group
                .first()
                .is_some_and(|first| place(first) == place(&named))
        };
        match all.iter_mut().find(same) {
            Some(group) => group.push(named),
            None => all.push(vec![named]),
        }
    }
    Ok(all)
}

/// What an image's own documents say of it.
pub(super) fn subject(image: &Image) -> Result<Subject> {
    let manifest = Manifest::parse(&image.manifest)?;
    let config: Value = serde_json::from_slice(&image.config).unwrap_or_default();
    Ok(subject_of(image.digest, &config, Some(&manifest)))
}

/// As [`subject`], of documents that may be another tool's.
pub(super) fn subject_of(digest: Digest, config: &Value, manifest: Option<&Manifest>) -> Subject {
    let said = |key: &str| manifest?.annotations.get(key).cloned();
    let created = config["created"]
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    let seconds = created.and_then(|created| u64::try_from(created.as_second()).ok());
    let base = said(BASE_DIGEST).and_then(|digest| digest.parse().ok());
    Subject {
        digest,
        created: timestamp(seconds.unwrap_or(0)),
        base: base.map(|digest| Base {
            name: said(BASE_NAME),
            digest,
        }),
    }
}

/// Keeps what an image was built of beside it; `wanted` brings the wheels here that are not, so
/// that they can be read.
pub(super) fn keep(
    image: &Image,
    (spec, lock): (&ImageSpec, &Lock),
    fetcher: &Fetcher<'_>,
    fetching: Option<&Runtime>,
) -> Result<()> {
    let store = fetcher.store;
    if let Some(runtime) = fetching {
        let unknown = |wheel: &&LockedWheel| facts(wheel, store).is_none();
        let wheels = lock.environments().flat_map(|env| env.wheels());
        let wheels: Vec<Wanted<'_>> = wheels
            .filter(unknown)
            .map(|wheel| Wanted::Wheel(wheel, &spec.env.pip))
            .collect();
        runtime.block_on(interruptible(fetcher.fetch(&wheels, |_| {})))?;
    }
    let materials = Materials::of(spec, lock, |wheel| facts(wheel, store));
    store.put_survey(&key(&image.digest), &materials)
}

/// What an image was built of, if it was built here.
pub(super) fn kept(image: &Digest, store: &Store) -> Option<Materials> {
    store.survey(&key(image))
}

fn key(image: &Digest) -> Digest {
    Digest::of(format!("{FORMAT} {image}").as_bytes())
}

/// What a wheel says of itself: known already, or read from it where it is here.
fn facts(wheel: &LockedWheel, store: &Store) -> Option<WheelFacts> {
    if let Some(known) = store.facts(&wheel.sha256) {
        return Some(known);
    }
    let path = wheel_path(wheel, store);
    let archive = path
        .exists()
        .then(|| WheelArchive::open(&path, wheel).ok())??;
    let facts = WheelFacts::read(&archive.metadata().ok()?);
    // Without it the wheel is read again.
    let _ = store.put_facts(&wheel.sha256, &facts);
    Some(facts)
}
