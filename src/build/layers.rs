//! Building the layers that are not in the store yet, several at once.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use rattler_conda_types::RepoDataRecord;

use super::{
    Tools,
    environment::{Environment, info},
    state::PrefixState,
};
use crate::{
    base::tree::BaseTree,
    code::CodeTree,
    digest::Digest,
    error::{Error, Exit, Result},
    fetch,
    image::TopLayer,
    layer::{DirectoryAttributes, FORMAT, build_layer},
    package::{EntrySink, Package, excluded_of, link},
    plan::{KeyInput, PlannedLayer, layer_key},
    report::human_bytes,
    store::BuiltLayer,
};

/// The annotation that tells what a layer was made of, so that it need not be made again.
pub const KEY_ANNOTATION: &str = "dev.imgbuild.layer-key";

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
        let attributes = |dir: &crate::base::tree::DirAttrs| DirectoryAttributes {
            mode: dir.mode,
            uid: dir.uid,
            gid: dir.gid,
            mtime: dir.mtime,
        };
        let folders = found
            .parents
            .iter()
            .chain(&found.existing)
            .map(|dir| (dir.path.clone().into_bytes(), attributes(dir)))
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
    records: Vec<&'a RepoDataRecord>,
    key: Digest,
}

impl PackageLayers<'_> {
    pub(super) fn build(&self) -> Result<Vec<TopLayer>> {
        let folders = format!("{:?}", self.environment.place.folders);
        let input = KeyInput {
            format: FORMAT,
            prefix: &self.environment.prefix,
            base_folders: &folders,
            exclusions: &self.environment.survey.exclusions,
        };
        let tasks = self.tasks(&input)?;
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

    fn tasks(&self, input: &KeyInput<'_>) -> Result<Vec<Task<'_>>> {
        let packages = self.environment.locked.packages();
        let mut tasks = Vec::new();
        for planned in &self.environment.plan.layers {
            let records: Vec<&RepoDataRecord> = planned
                .packages
                .iter()
                .map(|index| &packages[*index])
                .collect();
            let key = layer_key(input, &records)?;
            tasks.push(Task {
                planned,
                records,
                key,
            });
        }
        Ok(tasks)
    }

    fn make_missing(&self, tasks: &[Task<'_>], built: &mut [Option<BuiltLayer>]) -> Result<()> {
        let mut missing: Vec<usize> = (0..tasks.len()).filter(|i| built[*i].is_none()).collect();
        let reused = tasks.len() - missing.len();
        if reused > 0 {
            self.tools.reporter.step(format!(
                "Reusing {reused} of {} layers of {}",
                tasks.len(),
                self.environment.prefix.path
            ));
        }
        let records: Vec<&RepoDataRecord> = missing
            .iter()
            .flat_map(|index| tasks[*index].records.iter().copied())
            .collect();
        self.tools.runtime.block_on(fetch::fetch_packages(
            &records,
            self.tools.client,
            self.tools.store,
            self.tools.reporter,
        ))?;
        // The largest first, so that no large one is left for the end.
        let size = |index: &usize| -> u64 {
            let records = tasks[*index].records.iter();
            records
                .filter_map(|record| record.package_record.size)
                .sum()
        };
        missing.sort_by_key(|index| std::cmp::Reverse(size(index)));
        let made = in_parallel(&missing, self.tools.threads, |index| {
            self.make(&tasks[*index])
        })?;
        for (index, layer) in missing.into_iter().zip(made) {
            built[index] = Some(layer);
        }
        Ok(())
    }

    fn make(&self, task: &Task<'_>) -> Result<BuiltLayer> {
        let Tools {
            store, compressors, ..
        } = self.tools;
        let folders = self.environment.place.folders.clone();
        let layer = build_layer(store, compressors, folders, |sink| {
            task.records
                .iter()
                .try_for_each(|record| self.link(record, sink))
        })?;
        store.put_built_layer(&task.key, &layer)?;
        report(self.tools, &task.planned.title, &layer);
        Ok(layer)
    }

    fn link(&self, record: &RepoDataRecord, sink: &mut dyn EntrySink) -> Result<()> {
        let package = Package {
            record,
            archive: &fetch::archive(record, self.tools.store)?,
            info: &info(record, self.tools)?,
        };
        let name = record.package_record.name.as_normalized();
        let excluded = excluded_of(&self.environment.survey.exclusions, name);
        link(&package, &self.environment.prefix, excluded, sink)
    }
}

/// Runs the work on several threads; results come in the order of the items. After an error no
/// further item is begun.
fn in_parallel<I: Sync, O: Send>(
    items: &[I],
    threads: usize,
    work: impl Fn(&I) -> Result<O> + Sync,
) -> Result<Vec<O>> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let slots: Vec<Mutex<Option<Result<O>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    if let Ok(mut slot) = slots[index].lock() {
                        *slot = Some(result);
                    }
                }
            });
        }
    });
    let mut done = Vec::with_capacity(items.len());
    let mut skipped = false;
    for slot in slots {
        match slot.into_inner() {
            Ok(Some(Ok(value))) => done.push(value),
            Ok(Some(Err(e))) => return Err(e),
            _ => skipped = true,
        }
    }
    if skipped {
        return Err(Error::new(Exit::Internal, "a layer thread ended early"));
    }
    Ok(done)
}

/// The layer of what is no package's: histories, and the wrapper.
pub(super) fn state(
    states: &[PrefixState<'_>],
    wrapper: bool,
    tools: &Tools<'_>,
) -> Result<TopLayer> {
    let folders = states
        .iter()
        .flat_map(|state| state.environment.place.folders.clone())
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
        title: "Environment state: conda history, activation".into(),
        annotations: BTreeMap::new(),
    })
}

/// The user's code, where it goes.
pub(super) struct Code {
    pub files: CodeTree,
    pub place: Place,
}

impl Code {
    pub(super) fn build(self, tools: &Tools<'_>) -> Result<TopLayer> {
        let input = (FORMAT, "code", self.files.key()?.hex(), &self.place.root);
        let folders = format!("{:?}", self.place.folders);
        let key = serde_json::to_vec(&(input, folders))
            .map(|bytes| Digest::of(&bytes))
            .map_err(|e| Error::new(Exit::Internal, "cannot make a layer key").why(e))?;
        let title = format!("User code in /{}", self.place.root);
        let built = match tools.store.built_layer(&key) {
            Some(built) => built,
            None => {
                let folders = self.place.folders.clone();
                let built = build_layer(tools.store, tools.compressors, folders, |sink| {
                    self.files.write(&self.place.root, sink)
                })?;
                tools.store.put_built_layer(&key, &built)?;
                report(tools, &title, &built);
                built
            }
        };
        Ok(TopLayer {
            built,
            title,
            annotations: annotations(&key),
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_results_keep_their_order() {
        let items: Vec<u32> = (0..50).collect();
        let doubled = in_parallel(&items, 7, |item| Ok(item * 2)).unwrap();
        assert_eq!(doubled, items.iter().map(|i| i * 2).collect::<Vec<_>>());
        let error = in_parallel(&items, 3, |item| match item {
            9 => Err(Error::input("nine")),
            _ => Ok(()),
        });
        assert_eq!(error.unwrap_err().to_string(), "nine");
    }
}
