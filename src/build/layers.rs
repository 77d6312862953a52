//! Building the layers that are not in the store yet, several at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use rattler_conda_types::RepoDataRecord;
use rattler_digest::{Md5, parse_digest_from_hex};

use super::{
    Tools,
    environment::Environment,
    parallel::in_parallel,
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
    image::{KEY_ANNOTATION, TopLayer},
    layer::{self, Compression, DirectoryAttributes, build_layer},
    lock::LockedWheel,
    package::{EntrySink, Package, Survey, excluded_of, link, named},
    plan::{KeyInput, LayerPlan, Locked, PlannedLayer, layer_key},
    pyc::{Compiled, Compiler},
    report::human_bytes,
    store::{BuiltLayer, MadeOnce},
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

/// All package layers of one prefix.
pub(super) struct PackageLayers<'a> {
    pub environment: &'a Environment<'a>,
    pub tools: &'a Tools<'a>,
}

struct Task<'a> {
    planned: &'a PlannedLayer,
    packages: Vec<Locked<'a>>,
    key: Digest,
}

impl Task<'_> {
    /// The size of the archives in bytes.
    fn size(&self, survey: &Survey) -> u64 {
        let sizes = self.packages.iter().map(Locked::id);
        sizes.filter_map(|id| survey.sizes.get(&id)).sum()
    }
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

impl PackageLayers<'_> {
    pub(super) fn build(&self) -> Result<Vec<TopLayer>> {
        let Environment {
            site, plan, survey, ..
        } = self.environment;
        let tasks: Vec<Task<'_>> = plan
            .layers
            .iter()
            .zip(keyed(site, plan, survey)?)
            .map(|(planned, (packages, key))| Task {
                planned,
                packages,
                key,
            })
            .collect();
        let mut built: Vec<Option<BuiltLayer>> = tasks
            .iter()
            .map(|task| self.tools.store.built_layer(&task.key))
            .collect();
        self.make_missing(&tasks, &mut built)?;
        let lost = || Error::new(Exit::Internal, "a layer was not built");
        tasks
            .iter()
            .zip(built)
            .map(|(task, built)| {
                Ok(TopLayer {
                    built: built.ok_or_else(lost)?,
                    title: task.planned.title.clone(),
                    annotations: annotations(&task.key),
                })
            })
            .collect()
    }

    fn make_missing(&self, tasks: &[Task<'_>], built: &mut [Option<BuiltLayer>]) -> Result<()> {
        let missing = built
            .iter()
            .enumerate()
            .filter(|(_, built)| built.is_none());
        let mut missing: Vec<(usize, &Task<'_>)> = missing
            .filter_map(|(index, _)| Some((index, tasks.get(index)?)))
            .collect();
        let reused = tasks.len() - missing.len();
        if reused > 0 {
            self.tools.reporter.step(format!(
                "Reusing {reused} of {} layers of {}",
                tasks.len(),
                self.environment.site.prefix.path
            ));
        }
        self.fetch(&missing)?;
        // The largest first, so that no large one is left for the end.
        let survey = &self.environment.survey;
        missing.sort_by_key(|(_, task)| std::cmp::Reverse(task.size(survey)));
        let made = in_parallel(&missing, self.tools.threads, |(_, task)| self.make(task))?;
        for ((index, _), layer) in missing.into_iter().zip(made) {
            if let Some(slot) = built.get_mut(index) {
                *slot = Some(layer);
            }
        }
        Ok(())
    }

    /// What an earlier survey did not leave in the store.
    fn fetch(&self, missing: &[(usize, &Task<'_>)]) -> Result<()> {
        let (mut records, mut wheels): (Vec<&RepoDataRecord>, Vec<LockedWheel>) =
            Default::default();
        for package in missing.iter().flat_map(|(_, task)| &task.packages) {
            match package {
                Locked::Conda(record) => records.push(record),
                Locked::Wheel(wheel) => wheels.push((*wheel).clone()),
            }
        }
        self.tools.runtime.block_on(fetch::fetch_packages(
            &records,
            self.tools.client,
            self.tools.store,
            self.tools.reporter,
        ))?;
        wheels::fetch(&wheels, &self.environment.site, self.tools)
    }

    fn make(&self, task: &Task<'_>) -> Result<BuiltLayer> {
        let Tools {
            store, compressors, ..
        } = self.tools;
        let _made_once = made_once(self.tools, &task.key, &task.planned.title)?;
        if let Some(made) = store.built_layer(&task.key) {
            return Ok(made);
        }
        let folders = self.environment.site.place.folders.clone();
        let layer = build_layer(store, compressors, folders, |sink| {
            task.packages
                .iter()
                .try_for_each(|package| self.link(package, sink))
        })?;
        store.put_built_layer(&task.key, &layer)?;
        report(self.tools, &task.planned.title, &layer);
        Ok(layer)
    }

    /// The record with the md5 that its lock may lack.
    fn with_md5(&self, record: &RepoDataRecord) -> RepoDataRecord {
        let mut record = record.clone();
        let id = Locked::Conda(&record).id();
        if let Some(md5) = self.environment.survey.md5s.get(&id) {
            record.package_record.md5 = parse_digest_from_hex::<Md5>(md5);
        }
        record
    }

    fn link(&self, package: &Locked<'_>, sink: &mut dyn EntrySink) -> Result<()> {
        let Environment { site, survey, .. } = self.environment;
        let id = package.id();
        let excluded = excluded_of(&survey.exclusions, &id);
        let link = |sink: &mut dyn EntrySink| self.link_as_is(package, excluded, sink);
        let Some(compiler) = site.compiler.as_ref() else {
            return link(sink);
        };
        if !survey.for_python.contains(&id) {
            return link(sink);
        }
        let compiled = Compiled {
            name: &named(&id),
            sha256: match package {
                Locked::Conda(record) => fetch::sha256_of(record)?,
                Locked::Wheel(wheel) => wheel.sha256,
            },
            excluded,
        };
        compiler.compile(&compiled, &self.tools.workshop(), sink, link)
    }

    fn link_as_is(
        &self,
        package: &Locked<'_>,
        excluded: &BTreeSet<PathBuf>,
        sink: &mut dyn EntrySink,
    ) -> Result<()> {
        let (prefix, store) = (&self.environment.site.prefix, self.tools.store);
        match package {
            Locked::Wheel(wheel) => wheels::link(wheel, prefix, excluded, store, sink),
            Locked::Conda(record) => {
                let archive = fetch::archive(record, store)?.with(&self.tools.decoders);
                let read;
                let info = match self.environment.infos.get(&fetch::sha256_of(record)?) {
                    Some(known) => known,
                    None => {
                        read = info(record, &archive)?;
                        &read
                    }
                };
                let package = Package {
                    record: &self.with_md5(record),
                    archive: &archive,
                    info,
                };
                link(&package, prefix, excluded, sink)
            }
        }
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
        let built = match tools.store.built_layer(&key) {
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

fn annotations(key: &Digest) -> BTreeMap<String, String> {
    BTreeMap::from([(KEY_ANNOTATION.to_owned(), key.to_string())])
}

fn report(tools: &Tools<'_>, title: &str, layer: &BuiltLayer) {
    tools.reporter.step(format!(
        "Built  {title} ({} from {})",
        human_bytes(layer.size),
        human_bytes(layer.unpacked)
    ));
}
