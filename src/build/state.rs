//! The environment's own state: what conda writes beside the packages.

use std::{collections::BTreeSet, io::Cursor};

use rattler_conda_types::RepoDataRecord;

use super::environment::Environment;
use crate::{
    error::{Error, Result},
    package::{Entry, EntryKind, EntrySink},
};

/// The wrapper's path below the prefix.
pub(super) const WRAPPER: &str = "bin/imgbuild-entrypoint";

const WRAPPER_TEMPLATE: &str = include_str!("../../templates/entrypoint.sh");

/// What one prefix gets.
pub(super) struct PrefixState<'a> {
    /// The prefix.
    pub environment: &'a Environment<'a>,
    /// The time written into the history, in seconds since the epoch.
    pub created: u64,
}

impl PrefixState<'_> {
    /// Writes `conda-meta/history`, which makes a folder a conda environment and is what
    /// `conda env export --from-history` reads.
    pub(super) fn write(&self, sink: &mut dyn EntrySink) -> Result<()> {
        let text = self.history();
        self.file("conda-meta/history", 0o644, text.as_bytes(), sink)
    }

    /// Writes the wrapper that runs activation scripts.
    pub(super) fn write_wrapper(&self, sink: &mut dyn EntrySink) -> Result<()> {
        let script = WRAPPER_TEMPLATE.replace("@PREFIX@", &self.environment.prefix.path);
        self.file(WRAPPER, 0o755, script.as_bytes(), sink)
    }

    fn history(&self) -> String {
        let lines: BTreeSet<String> = self
            .environment
            .locked
            .packages()
            .iter()
            .map(history_line)
            .collect();
        let mut text = format!(
            "==> {} <==\n# cmd: imgbuild build\n",
            crate::image::timestamp(self.created)
                .trim_end_matches('Z')
                .replace('T', " ")
        );
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        let specs = &self.environment.requested;
        text.push_str(&format!("# update specs: {}\n", python_list(specs)));
        text
    }

    fn file(&self, path: &str, mode: u32, bytes: &[u8], sink: &mut dyn EntrySink) -> Result<()> {
        let entry = Entry {
            path: self.environment.prefix.entry_path(path.as_ref()),
            kind: EntryKind::File(bytes.len() as u64),
            mode,
            mtime: self.created,
            owner: (0, 0),
        };
        sink.entry(&entry, &mut Cursor::new(bytes))
            .map_err(|e| Error::environment("cannot write the environment's state").why(e))
    }
}

/// conda's form: `+channel/subdir::name-version-build` (conda, `history.py`).
fn history_line(record: &RepoDataRecord) -> String {
    let package = &record.package_record;
    let channel = record.channel.as_deref().unwrap_or("");
    format!(
        "+{}/{}::{}-{}-{}",
        channel.trim_end_matches('/'),
        package.subdir,
        package.name.as_normalized(),
        package.version,
        package.build
    )
}

/// conda writes the specs as a Python list and reads them back as one.
fn python_list(specs: &[String]) -> String {
    let quoted: Vec<String> = specs
        .iter()
        .map(|spec| format!("'{}'", spec.replace('\\', "\\\\").replace('\'', "\\'")))
        .collect();
    format!("[{}]", quoted.join(", "))
}
