//! Building the layers that are not in the store yet, several at once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, Read},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rattler_conda_types::RepoDataRecord;
use rattler_digest::{Md5, parse_digest_from_hex};

use super::{
    Tools,
    site::{Site, info},
    state::PrefixState,
    wheels,
};
use crate::{
    base::tree::{BaseDir, BaseTree},
    code::CodeTree,
    digest::Digest,
    error::{Error, Exit, Result},
    fetch,
    frames::Tape,
    image::{KEY_ANNOTATION, TopLayer},
    layer::{self, Compression, DirectoryAttributes, build_layer},
    package::{
        Entry, EntrySink, Package, PackageArchive, PackageInfo, Survey, excluded_of, link, named,
    },
    plan::{KeyInput, LayerPlan, Locked, PlannedLayer, layer_key},
    pyc::{Compiled, Compiler},
    report::{Activity, State, Step, human_bytes},
    store::{BuiltLayer, MadeOnce, Store},
};

/// Where something goes in the base image.
#[derive(Clone, Debug)]
pub struct Place {
    /// The path from the root, through the base's symlinks, without a leading slash.
    pub root: String,
    /// The base's folders on the way.
    pub folders: BTreeMap<Vec<u8>, DirectoryAttributes>,
}

impl Place {
    /// Finds an absolute path in the base image.
    pub(super) fn resolve(tree: &BaseTree, path: &str) -> Result<Self> {
        let found = tree.resolve(path.trim_start_matches('/'))?;
        let folder = |dir: &BaseDir| (dir.path.clone().into_bytes(), dir.attributes);
        let folders = found
            .parents
            .iter()
            .chain(&found.existing)
            .map(folder)
            .collect();
        Ok(Self {
            root: found.path,
            folders,
        })
    }
}

/// A layer to make: everything that its bytes depend on.
pub(super) struct LayerTask<'a> {
    /// Its packages in their order.
    pub packages: Vec<Locked<'a>>,
    /// What a person reads in `docker history`.
    pub title: String,
    pub key: Digest,
    /// What these packages, at least, mean together.
    pub survey: Arc<Survey>,
    /// Set when nobody wants it any more.
    pub given_up: Arc<AtomicBool>,
}

/// What packages say of themselves, by the sha256 of their archive: read once in a build.
#[derive(Default)]
pub(super) struct Infos(Mutex<HashMap<Digest, Arc<PackageInfo>>>);

impl Infos {
    /// Keeps what a conda package says.
    ///
    /// # Errors
    /// When it has no sha256.
    pub(super) fn put(&self, package: Locked<'_>, info: Option<PackageInfo>) -> Result<()> {
        if let (Locked::Conda(record), Some(info)) = (package, info) {
            let package = fetch::sha256_of(record)?;
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(package, Arc::new(info));
        }
        Ok(())
    }

    fn of(
        &self,
        record: &RepoDataRecord,
        archive: &PackageArchive,
        store: &Store,
    ) -> Result<Arc<PackageInfo>> {
        let package = fetch::sha256_of(record)?;
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known().get(&package) {
            return Ok(Arc::clone(known));
        }
        info(record, archive, store).map(Arc::new)
    }
}

/// Makes package layers of one prefix.
pub(super) struct Maker<'m, 'a> {
    pub site: &'m Site<'a>,
    pub infos: &'m Infos,
    pub tools: &'m Tools<'m>,
}

/// The packages of each layer, and its key.
pub(super) fn keyed<'a>(
    site: &'a Site<'_>,
    plan: &LayerPlan,
    survey: &Survey,
) -> Result<Vec<(Vec<Locked<'a>>, Digest)>> {
    let input = KeyInput {
        format: &layer::format(site.compression),
        prefix: &site.prefix,
        base_folders: &site.place.folders,
        survey,
        compile: site.compiler.as_ref().map(Compiler::key),
    };
    let layers = plan.layers.iter().map(|planned| {
        let packages = packages(site, planned);
        let key = layer_key(&input, &packages)?;
        Ok((packages, key))
    });
    layers.collect()
}

/// The packages of a planned layer.
pub(super) fn packages<'a>(site: &'a Site<'_>, planned: &PlannedLayer) -> Vec<Locked<'a>> {
    let members = planned.packages.iter();
    members
        .filter_map(|member| member.of(site.locked))
        .collect()
}

impl Maker<'_, '_> {
    /// Makes a layer and keeps it under its key.
    ///
    /// # Errors
    /// When a package cannot be linked, when the store cannot be written, and when the layer is
    /// given up; nothing of it is kept then.
    pub(super) fn make(&self, task: &LayerTask<'_>) -> Result<BuiltLayer> {
        let Tools {
            store, compressors, ..
        } = self.tools;
        let _made_once = made_once(self.tools, &task.key, &task.title)?;
        if let Some(made) = store.built_layer(&task.key) {
            return Ok(made);
        }
        let folders = self.site.place.folders.clone();
        let layer = build_layer(store, compressors, folders, |sink| {
            let given_up = &task.given_up;
            let mut sink = Droppable { sink, given_up };
            let mut packages = task.packages.iter();
            packages.try_for_each(|package| self.link(package, &task.survey, &mut sink))
        })?;
        store.put_built_layer(&task.key, &layer)?;
        report(self.tools, &task.title, &layer);
        Ok(layer)
    }

    /// The record with the md5 that its lock may lack.
    fn with_md5(record: &RepoDataRecord, survey: &Survey) -> RepoDataRecord {
        let mut record = record.clone();
        let id = Locked::Conda(&record).id();
        if let Some(md5) = survey.md5s.get(&id) {
            record.package_record.md5 = parse_digest_from_hex::<Md5>(md5);
        }
        record
    }

    fn link(&self, package: &Locked<'_>, survey: &Survey, sink: &mut dyn EntrySink) -> Result<()> {
        let id = package.id();
        let excluded = excluded_of(&survey.exclusions, &id);
        let link = |sink: &mut dyn EntrySink| self.link_as_is(package, survey, excluded, sink);
        let Some(compiler) = self.site.compiler.as_ref() else {
            return link(sink);
        };
        if !survey.for_python.contains(&id) {
            return link(sink);
        }
        let compiled = Compiled {
            name: &named(&id),
            sha256: package.sha256()?,
            excluded,
        };
        compiler.compile(&compiled, &self.tools.workshop(), sink, link)
    }

    fn link_as_is(
        &self,
        package: &Locked<'_>,
        survey: &Survey,
        excluded: &BTreeSet<PathBuf>,
        sink: &mut dyn EntrySink,
    ) -> Result<()> {
        let (prefix, store) = (&self.site.prefix, self.tools.store);
        match package {
            Locked::Wheel(wheel) => wheels::link(wheel, prefix, excluded, store, sink),
            Locked::Conda(record) => {
                let archive = fetch::archive(record, store)?.with(&self.tools.decoders);
                let package = Package {
                    record: &Self::with_md5(record, survey),
                    info: &*self.infos.of(record, &archive, store)?,
                    archive: &archive,
                };
                link(&package, prefix, excluded, sink)
            }
        }
    }
}

/// A sink that ends once its layer is given up.
struct Droppable<'s> {
    sink: &'s mut dyn EntrySink,
    given_up: &'s AtomicBool,
}

impl Droppable<'_> {
    fn checked(&mut self) -> io::Result<&mut dyn EntrySink> {
        match self.given_up.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the layer is not needed any more")),
            false => Ok(self.sink),
        }
    }
}

impl EntrySink for Droppable<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        self.checked()?.entry(entry, content)
    }

    fn entry_in_blocks(
        &mut self,
        entry: &Entry,
        content: &mut dyn Read,
        tape: &Tape,
    ) -> io::Result<()> {
        self.checked()?.entry_in_blocks(entry, content, tape)
    }

    fn complete(&mut self) -> io::Result<Vec<PathBuf>> {
        self.sink.complete()
    }
}

/// What a person reads in `docker history` of the layer that [`state`] makes.
pub(super) const STATE_TITLE: &str = "Environment state: conda history, activation";

/// The layer of what is no package's: histories, and the wrapper.
pub(super) fn state(
    states: &[PrefixState<'_>],
    wrapper: bool,
    tools: &Tools<'_>,
) -> Result<TopLayer> {
    let folders = states
        .iter()
        .flat_map(|state| state.environment.site.place.folders.clone())
        .collect();
    // Small and quick: built every time, so it needs no key.
    let built = build_layer(tools.store, tools.compressors, folders, |sink| {
        for state in states {
            state.write(sink)?;
        }
        match (wrapper, states.last()) {
            (true, Some(last)) => last.write_wrapper(sink),
            _ => Ok(()),
        }
    })?;
    Ok(TopLayer {
        built,
        title: STATE_TITLE.into(),
        annotations: BTreeMap::new(),
    })
}

/// The user's code, where it goes.
pub(super) struct Code {
    pub files: CodeTree,
    /// Of all of the files; reading them takes a while.
    pub hash: Digest,
    pub place: Place,
    pub compression: Compression,
}

impl Code {
    /// The key of the layer.
    pub(super) fn key(&self) -> Result<Digest> {
        let format = layer::format(self.compression);
        let folders: Vec<_> = self.place.folders.iter().collect();
        serde_json::to_vec(&(format, "code", self.hash.hex(), &self.place.root, folders))
            .map(|bytes| Digest::of(&bytes))
            .map_err(|e| Error::new(Exit::Internal, "cannot make a layer key").why(e))
    }

    /// What a person reads in `docker history`.
    pub(super) fn title(&self) -> String {
        format!("User code in /{}", self.place.root)
    }

    pub(super) fn build(self, tools: &Tools<'_>) -> Result<TopLayer> {
        let (key, title) = (self.key()?, self.title());
        let built = match tools.known_layer(&key) {
            Some(built) => built,
            None => self.make(&key, &title, tools)?,
        };
        Ok(TopLayer {
            built,
            title,
            annotations: annotations(&key),
        })
    }

    fn make(&self, key: &Digest, title: &str, tools: &Tools<'_>) -> Result<BuiltLayer> {
        let _made_once = made_once(tools, key, title)?;
        if let Some(made) = tools.store.built_layer(key) {
            return Ok(made);
        }
        let folders = self.place.folders.clone();
        let built = build_layer(tools.store, tools.compressors, folders, |sink| {
            self.files.write(&self.place.root, sink)
        })?;
        tools.store.put_built_layer(key, &built)?;
        report(tools, title, &built);
        (tools.made)(&built);
        Ok(built)
    }
}

/// Waits while another build makes the layer.
fn made_once(tools: &Tools<'_>, key: &Digest, title: &str) -> Result<MadeOnce> {
    let waiting = || {
        let line = format!("Waiting for another build that makes {title}");
        tools.reporter.step(line);
    };
    tools.store.lock_layer(key, waiting)
}

pub(super) fn annotations(key: &Digest) -> BTreeMap<String, String> {
    BTreeMap::from([(KEY_ANNOTATION.to_owned(), key.to_string())])
}

fn report(tools: &Tools<'_>, title: &str, layer: &BuiltLayer) {
    let activity = Activity::new(Step::Build, title).of(layer.digest);
    tools.reporter.settled(&activity, layer.size, State::Done);
    tools.reporter.step(format!(
        "Built  {title} ({} from {})",
        human_bytes(layer.size),
        human_bytes(layer.unpacked.unwrap_or_default())
    ));
}
