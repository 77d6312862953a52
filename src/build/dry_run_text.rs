//! A plan as a person reads it.

use std::fmt;

use super::dry_run::{BuildPlan, LayerState, PlannedBase, Totals};
use crate::report::human_bytes;

/// `1 layer`, `2 layers`.
pub(super) fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

impl fmt::Display for LayerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stored => "reuse",
            Self::ToBuild => "build",
            Self::Unknown => "unknown",
        })
    }
}

/// One line a layer, lowest first, then the totals.
impl fmt::Display for BuildPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlannedBase {
            image,
            known,
            layers,
            bytes,
        } = &self.base;
        let state = if *known { "base" } else { "unknown" };
        let bytes = bytes.map(human_bytes).unwrap_or_default();
        let count = counted(*layers, "layer");
        writeln!(f, "{state:8}{bytes:>9}  {image}: {count}")?;
        for layer in &self.layers {
            let bytes = match layer.bytes {
                0 => String::new(),
                bytes => human_bytes(bytes),
            };
            writeln!(f, "{:8}{bytes:>9}  {}", layer.state, layer.title)?;
        }
        let Totals {
            layers,
            packages,
            bytes,
            download_packages,
            download_bytes,
            ..
        } = self.totals;
        write!(
            f,
            "total   {:>9}  {}, {}; to download: {} in {}",
            human_bytes(bytes),
            counted(layers, "layer"),
            counted(packages, "package"),
            human_bytes(download_bytes),
            counted(download_packages, "package")
        )?;
        for note in &self.notes {
            write!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}
