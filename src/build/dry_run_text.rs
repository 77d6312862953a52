//! A plan as a person reads it.

use std::fmt;

use super::dry_run_plan::{BuildPlan, LayerOutlook, LayerState, PlannedBase, Sending, Totals};
use crate::report::{counted, human_bytes};

impl fmt::Display for LayerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stored | Self::Remote => "reuse",
            Self::Expected => "reuse?",
            Self::ToBuild => "build",
            Self::Unknown => "unknown",
        })
    }
}

/// How many reasons a person reads of one layer.
const REASONS: usize = 6;

/// What becomes of a layer.
fn what(f: &mut fmt::Formatter<'_>, layer: &LayerOutlook) -> fmt::Result {
    let bytes = match layer.bytes {
        0 => String::new(),
        bytes => human_bytes(bytes),
    };
    write!(f, "{:8}{bytes:>9}  {}", layer.state, layer.title)?;
    match &layer.from {
        Some(from) => writeln!(f, " (from {from})"),
        None => writeln!(f),
    }
}

/// The reasons, a line each, below the title.
fn why(f: &mut fmt::Formatter<'_>, layer: &LayerOutlook) -> fmt::Result {
    for reason in layer.why.iter().take(REASONS) {
        writeln!(f, "{:19}  {reason}", "")?;
    }
    match layer.why.len().saturating_sub(REASONS) {
        0 => Ok(()),
        more => writeln!(f, "{:19}and {more} more", ""),
    }
}

impl BuildPlan {
    /// What a push or a load would send, in one line.
    fn sent(&self) -> String {
        let Sending {
            layers,
            bytes,
            estimated_layers,
            estimated_bytes,
            there_layers,
            there_bytes,
        } = self.sending;
        let mut text = format!(
            "send    {:>9}  {}",
            human_bytes(bytes),
            counted(layers, "layer")
        );
        if estimated_layers > 0 {
            text.push_str(&format!(
                ", {} of that an estimate: the archives of {}",
                human_bytes(estimated_bytes),
                counted(estimated_layers, "layer")
            ));
        }
        match &self.compared_with {
            None => text.push_str("; first build: no earlier image is known"),
            Some(earlier) => text.push_str(&format!(
                "; {} has the other {there_layers}, {}",
                earlier.name,
                human_bytes(there_bytes)
            )),
        }
        text
    }
}

/// One line a layer, lowest first, and why; then the totals.
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
            what(f, layer)?;
            if self.compared_with.is_some() {
                why(f, layer)?;
            }
        }
        for title in &self.gone {
            writeln!(f, "gone               {title}")?;
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
        write!(f, "\n{}", self.sent())?;
        for note in &self.notes {
            write!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}
