//! `imgbuild diff`: two locks, images or plans read, and held against each other.

use std::{collections::BTreeSet, fs::File, io::Read, path::Path, process::ExitCode};

use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{
    args::{DiffArgs, Format},
    print, runtime, stoppable, stored, warn_all,
};
use crate::{
    base::{BaseImage, BaseLayer, BaseSource, Loader, media},
    build::{BuildPlan, of_plan},
    diff::{Diff, ImageSide, Layer, LayerContents, Subject, of_image, of_lock},
    digest::{DiffId, Digest},
    docker,
    error::{Error, Exit, Result},
    image::{BASE_DIGEST, Image, KEY_ANNOTATION, Manifest},
    lock::{complete, foreign, is_own},
    report::{Activity, Reporter, Step},
    spec::{InputKind, LOCK_LIMITS, detect},
    store::Store,
};

/// Changes whenever the same layer would be read in another way.
const CONTENTS_FORMAT: &str = "imgbuild-contents-1";

pub(super) fn run(args: &DiffArgs, reporter: &Reporter) -> Result<ExitCode> {
    let runtime = runtime()?;
    let differ = Differ {
        args,
        loader: Loader {
            store: Store::open(Store::default_root()?)?,
            reporter: reporter.clone(),
            platform: args.platform.platform(),
            offline: args.offline,
            registries: args.registries.settings(),
        },
        runtime: &runtime,
    };
    let diff = stoppable(&runtime, reporter, || {}, || differ.diff())?;
    match args.format {
        Format::Text => print(&diff),
        Format::Json => print(
            serde_json::to_string_pretty(&diff)
                .map_err(|e| Error::new(Exit::Internal, "cannot write the comparison").why(e))?,
        ),
    }
    Ok(match args.exit_code && !diff.same {
        true => ExitCode::from(Exit::Different as u8),
        false => ExitCode::SUCCESS,
    })
}

/// What comparing needs.
struct Differ<'a> {
    args: &'a DiffArgs,
    loader: Loader,
    runtime: &'a Runtime,
}

/// One side, read as far as its kind can be without the other.
enum Found<'a> {
    /// A lock or a plan.
    Whole(Box<Subject>),
    /// An image, of which layers may have to be opened.
    Image(Box<Opened<'a>>),
}

/// An image whose documents were read.
struct Opened<'a> {
    name: &'a str,
    /// Where layers come from that the store has not.
    source: Option<BaseSource>,
    image: BaseImage,
    /// Its manifest, where there is one.
    manifest: Option<Manifest>,
}

impl Differ<'_> {
    fn diff(&self) -> Result<Diff> {
        let DiffArgs { left, right, .. } = self.args;
        let (left, right) = (self.find(left)?, self.find(right)?);
        // What both images have makes no difference, and need not be opened.
        let common: BTreeSet<DiffId> = match (&left, &right) {
            (Found::Image(left), Found::Image(right)) => left
                .diff_ids()
                .intersection(&right.diff_ids())
                .copied()
                .collect(),
            _ => BTreeSet::new(),
        };
        let left = self.subject(left, &common)?;
        Ok(Diff::of(&left, &self.subject(right, &common)?))
    }

    fn find<'a>(&self, text: &'a str) -> Result<Found<'a>> {
        let path = Path::new(text);
        if path.is_dir() {
            return Err(Error::input(format!("{text} is a folder"))
                .hint(format!("for the OCI image layout in it write oci:{text}")));
        }
        // A pipe of the shell's counts as a file.
        if path.exists() {
            let side = self.file(text, path)?;
            return Ok(Found::Whole(Box::new(side)));
        }
        if let Some(set) = stored(text, &self.loader.store)? {
            let platform = self.args.platform;
            let image = set.for_machine(platform).ok_or_else(|| {
                Error::input(format!("image {text} is not there for {platform}"))
                    .hint("choose another one with --platform")
            })?;
            return of_store(text, image).map(|image| Found::Image(Box::new(image)));
        }
        let source: BaseSource = text.parse()?;
        if matches!(source, BaseSource::Registry(_)) && looks_like_a_file(text) {
            return Err(Error::input(format!("there is no file {text}"))
                .hint("give a lock, a plan, or an image"));
        }
        let daemon = async { Ok(docker::connect().await?.docker) };
        let describing = self.loader.describe(&source, None, daemon);
        let image = self.runtime.block_on(describing)?;
        let manifest = image.digest.and_then(|digest| self.manifest(&digest));
        Ok(Found::Image(Box::new(Opened {
            name: text,
            source: Some(source),
            image,
            manifest,
        })))
    }

    fn manifest(&self, digest: &Digest) -> Option<Manifest> {
        let store = &self.loader.store;
        let here = store.blob_path(digest).exists();
        Manifest::parse(&here.then(|| store.read_blob(digest).ok())??).ok()
    }

    /// A lock or a plan.
    fn file(&self, name: &str, path: &Path) -> Result<Subject> {
        let bytes = read(path)?;
        if bytes.trim_ascii_start().starts_with(b"{")
            && let Ok(plan) = serde_json::from_slice::<Versioned>(&bytes)
        {
            return plan.read(name, &bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        if detect(&text) == InputKind::EnvYaml {
            return Err(Error::input(format!("{name} is neither a lock nor a plan"))
                .hint("lock it first (imgbuild lock), and compare the locks"));
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = std::path::absolute(dir.unwrap_or(Path::new(".")))
            .map_err(|e| Error::io("open", path, e))?;
        let choice = self.args.choice.choice();
        let platform = self.args.platform.subdir();
        let given = foreign::parse(&bytes, name, &dir, &choice, platform)?;
        warn_all(&given.warnings, &self.loader.reporter);
        let lock = complete::from_store(&given.lock, &self.loader.store)?;
        Ok(of_lock(name, &lock, is_own(&text)))
    }

    fn subject(&self, found: Found<'_>, common: &BTreeSet<DiffId>) -> Result<Subject> {
        let opened = match found {
            Found::Whole(subject) => return Ok(*subject),
            Found::Image(opened) => opened,
        };
        let layers = opened.image.layers.iter();
        let wanted: Vec<BaseLayer> = layers
            .filter(|layer| !common.contains(&layer.diff_id))
            .cloned()
            .collect();
        if let Some(source) = &opened.source {
            let fetching = self.loader.fetch(source, &wanted);
            self.runtime.block_on(fetching)?;
        }
        let contents = wanted.iter().map(|layer| self.contents(layer));
        let contents = contents.collect::<Result<Vec<_>>>()?;
        Ok(of_image(ImageSide {
            name: opened.name,
            config: &opened.image.config,
            base: opened.base(),
            layers: opened.layers(),
            contents: &contents,
        }))
    }

    /// What a layer holds; remembered, for a large one takes seconds.
    fn contents(&self, layer: &BaseLayer) -> Result<LayerContents> {
        let store = &self.loader.store;
        let key = Digest::of(format!("{CONTENTS_FORMAT} {}", layer.diff_id).as_bytes());
        if let Some(known) = store.survey(&key) {
            return Ok(known);
        }
        let reading = Activity::new(Step::Read, "Reading a layer").of(layer.digest);
        let _task = self.loader.reporter.bytes(reading, None);
        let contents =
            LayerContents::read(media::open_layer(store, &layer.digest)?).map_err(|e| {
                Error::environment("a layer cannot be read")
                    .at(format!("layer {}", layer.digest))
                    .why(e)
            })?;
        store.put_survey(&key, &contents)?;
        Ok(contents)
    }
}

impl Opened<'_> {
    fn diff_ids(&self) -> BTreeSet<DiffId> {
        self.image
            .layers
            .iter()
            .map(|layer| layer.diff_id)
            .collect()
    }

    /// The digest of the base image, if the manifest says it.
    fn base(&self) -> Option<String> {
        self.manifest
            .as_ref()?
            .annotations
            .get(BASE_DIGEST)
            .cloned()
    }

    fn layers(&self) -> Vec<Layer> {
        let layers = self.image.layers.iter().enumerate();
        let layer = |(at, layer): (usize, &BaseLayer)| Layer {
            title: String::new(),
            bytes: layer.size,
            digest: Some(layer.digest),
            diff_id: Some(layer.diff_id),
            key: self.key(at),
            contents: None,
        };
        layers.map(layer).collect()
    }

    fn key(&self, at: usize) -> Option<Digest> {
        let layer = self.manifest.as_ref()?.layers.get(at)?;
        layer.annotations.get(KEY_ANNOTATION)?.parse().ok()
    }
}

/// An image of imgbuild's own store.
fn of_store<'a>(name: &'a str, image: &Image) -> Result<Opened<'a>> {
    let broken = |e| Error::environment("a config in the cache cannot be read").why(e);
    let config: Value = serde_json::from_slice(&image.config).map_err(broken)?;
    let ids = config.pointer("/rootfs/diff_ids").cloned();
    let ids: Vec<DiffId> = serde_json::from_value(ids.unwrap_or_default()).map_err(broken)?;
    let layers = image.layers.iter().zip(ids);
    let layers = layers
        .map(|(layer, diff_id)| BaseLayer {
            digest: layer.digest,
            diff_id,
            size: layer.size,
            media_type: layer.media_type.clone(),
        })
        .collect();
    Ok(Opened {
        name,
        source: None,
        manifest: Some(Manifest::parse(&image.manifest)?),
        image: BaseImage {
            config,
            layers,
            name: Some(name.to_owned()),
            digest: Some(image.digest),
        },
    })
}

/// JSON that looks like a plan; conda-lock files may be JSON too.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
    #[serde(rename = "layers")]
    _layers: serde::de::IgnoredAny,
}

impl Versioned {
    fn read(&self, name: &str, bytes: &[u8]) -> Result<Subject> {
        let refused =
            |error: Error| error.hint("write it anew: imgbuild build --dry-run --format json");
        if self.version != BuildPlan::VERSION {
            return Err(refused(
                Error::input(format!("{name} is no plan that imgbuild can read"))
                    .why(format!("its version is {}", self.version)),
            ));
        }
        let plan: BuildPlan = serde_json::from_slice(bytes).map_err(|e| {
            refused(Error::input(format!("{name} is no plan that imgbuild can read")).why(e))
        })?;
        Ok(of_plan(name, &plan))
    }
}

/// Reads a file, but no more of it than a lock may have.
fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = LOCK_LIMITS.bytes as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|e| Error::io("read", path, e).with_exit(Exit::Input))?;
    Ok(bytes)
}

fn looks_like_a_file(text: &str) -> bool {
    let ends = [".yml", ".yaml", ".lock", ".json", ".txt"];
    ends.iter().any(|end| text.ends_with(end))
}
