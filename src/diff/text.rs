//! A comparison as a person reads it.

use std::fmt::{Display, Formatter, Result};

use super::{
    Change, Diff, FactChange, Layer, LayerChanges, Manager, PackageChange, Side, Topic,
    subject::Kind,
};
use crate::report::{counted, human_bytes};

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Lock => "lock",
            Self::Image => "image",
            Self::Plan => "plan",
        })
    }
}

impl Display for Topic {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Base => "base image",
            Self::Channels => "channels",
            Self::Conditions => "conditions",
            Self::Config => "image config",
        })
    }
}

/// What was compared, then a section a topic, then the counts; `-` is the left, `+` the right.
impl Display for Diff {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Side { name, kind } = &self.left;
        writeln!(f, "--- {name} ({kind})")?;
        let Side { name, kind } = &self.right;
        writeln!(f, "+++ {name} ({kind})")?;
        for topic in &self.topics {
            let facts: Vec<&FactChange> = self.facts.iter().filter(|c| c.topic == *topic).collect();
            section(f, &topic.to_string(), &facts, fact)?;
        }
        for (manager, title) in [
            (Manager::Conda, "conda packages"),
            (Manager::Pip, "pip packages"),
        ] {
            let of = |change: &&PackageChange| change.id.manager == manager;
            let changes: Vec<&PackageChange> = self.packages.iter().filter(of).collect();
            section(f, title, &changes, package)?;
        }
        if let Some(changes) = &self.layers {
            layers(f, changes)?;
        }
        write!(f, "{}", self.summary())
    }
}

fn section<T>(
    f: &mut Formatter<'_>,
    title: &str,
    items: &[&T],
    line: impl Fn(&mut Formatter<'_>, &T) -> Result,
) -> Result {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}")?;
    items.iter().try_for_each(|item| line(f, item))
}

fn fact(f: &mut Formatter<'_>, change: &FactChange) -> Result {
    let name = &change.name;
    match (&change.from, &change.to) {
        (Some(from), Some(to)) => writeln!(f, "  ~ {name}: {from} -> {to}"),
        (Some(from), None) => writeln!(f, "  - {name}: {from}"),
        (None, to) => writeln!(f, "  + {name}: {}", to.as_deref().unwrap_or_default()),
    }
}

fn package(f: &mut Formatter<'_>, change: &PackageChange) -> Result {
    let id = &change.id;
    let size = change.to.as_ref().and_then(|package| package.size);
    let size = size
        .map(|size| format!(" ({})", human_bytes(size)))
        .unwrap_or_default();
    match (&change.from, &change.to) {
        (Some(from), Some(to)) => {
            let (from, to) = from.pair(to);
            let what = match change.change {
                Change::Archive => "another archive: ",
                _ => "",
            };
            writeln!(f, "  ~ {id} {what}{from} -> {to}{size}")
        }
        (Some(from), None) => writeln!(f, "  - {id} {from}"),
        (None, Some(to)) => writeln!(f, "  + {id} {to}{size}"),
        (None, None) => Ok(()),
    }
}

fn layers(f: &mut Formatter<'_>, changes: &LayerChanges) -> Result {
    let LayerChanges {
        repacked,
        removed,
        added,
        ..
    } = changes;
    if !(repacked.is_empty() && removed.is_empty() && added.is_empty()) {
        writeln!(f, "layers")?;
    }
    let line = |f: &mut Formatter<'_>, sign: &str, layer: &Layer| {
        let Layer { bytes, title, .. } = layer;
        writeln!(f, "  {sign} {:>9}  {title}", human_bytes(*bytes))
    };
    for (_, layer) in repacked {
        line(f, "~", layer)?;
    }
    removed.iter().try_for_each(|layer| line(f, "-", layer))?;
    added.iter().try_for_each(|layer| line(f, "+", layer))?;
    if changes.reordered {
        writeln!(f, "layers stand in another order")?;
    }
    Ok(())
}

impl Diff {
    /// The counts, in one line.
    fn summary(&self) -> String {
        if self.same {
            return "no differences".into();
        }
        let totals = &self.totals;
        let mut text = format!(
            "packages: {} changed, {} added, {} removed",
            totals.changed, totals.added, totals.removed
        );
        if totals.download_bytes > 0 {
            text.push_str(&format!(
                "; {} to download",
                human_bytes(totals.download_bytes)
            ));
        }
        if totals.packages_of_unknown_size > 0 {
            text.push_str(&format!(
                "; the size of {} is not known",
                totals.packages_of_unknown_size
            ));
        }
        if let Some(layers) = &self.layers {
            text.push_str(&format!(
                "; {} in both ({}), {} only on the right ({})",
                counted(layers.common, "layer"),
                human_bytes(layers.common_bytes),
                layers.added.len() + layers.repacked.len(),
                human_bytes(totals.new_layer_bytes)
            ));
        }
        text
    }
}
