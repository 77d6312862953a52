//! The environment's own state: what conda writes beside the packages.

use std::{collections::BTreeSet, io::Cursor};

use rattler_conda_types::RepoDataRecord;

use super::environment::Environment;
use crate::{
    error::{Error, Result},
    package::{Entry, EntryKind, EntrySink, origin},
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
        let script = WRAPPER_TEMPLATE.replace("@PREFIX@", &self.environment.site.prefix.path);
        self.file(WRAPPER, 0o755, script.as_bytes(), sink)
    }

    fn history(&self) -> String {
        let lines: BTreeSet<String> = self
            .environment
            .site
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
        let specs = &self.environment.site.requested;
        text.push_str(&format!("# update specs: {}\n", python_list(specs)));
        text
    }

    fn file(&self, path: &str, mode: u32, bytes: &[u8], sink: &mut dyn EntrySink) -> Result<()> {
        let entry = Entry {
            path: self.environment.site.prefix.entry_path(path.as_ref()),
            kind: EntryKind::File(bytes.len() as u64),
            mode,
            mtime: self.created,
            owner: (0, 0),
        };
        sink.entry(&entry, &mut Cursor::new(bytes))
            .map_err(|e| Error::environment("cannot write the environment's state").why(e))
    }
}

/// conda's form: `+channel/subdir::name-version-build` (conda, `history.py`). All of it is in the
/// URL; locks differ in what else they say.
fn history_line(record: &RepoDataRecord) -> String {
    let package = &record.package_record;
    let channel = origin::channel(&record.url);
    let subdir = origin::subdir(&record.url).map(|subdir| subdir.to_string());
    let dist = origin::dist(&record.url).unwrap_or_else(|| {
        format!(
            "{}-{}-{}",
            package.name.as_normalized(),
            package.version,
            package.build
        )
    });
    format!(
        "+{}/{}::{dist}",
        channel.trim_end_matches('/'),
        subdir.as_deref().unwrap_or(&package.subdir),
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
