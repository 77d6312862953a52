//! What a plan says of all layers together.

use std::collections::BTreeSet;

use super::dry_run_plan::{LayerOutlook, LayerState, PlannedBase, Totals};
use crate::report::counted;

/// All layers together.
pub(super) fn totals(base: &PlannedBase, layers: &[LayerOutlook]) -> Totals {
    let mut totals = Totals {
        layers: base.layers + layers.len(),
        ..Totals::default()
    };
    for layer in layers {
        totals.bytes += layer.bytes;
        totals.packages += layer.packages.len();
        for package in &layer.packages {
            totals.packages_of_unknown_size += usize::from(package.bytes.is_none());
            if package.download {
                totals.download_packages += 1;
                totals.download_bytes += package.bytes.unwrap_or(0);
            }
        }
    }
    totals
}

/// What leaves a plan unsure.
pub(super) struct Unsure<'a> {
    /// Whether nothing is known of the packages of a prefix.
    pub blind: bool,
    /// The names of the packages of which nobody tells.
    pub absent: &'a BTreeSet<String>,
    /// The layers.
    pub layers: &'a [LayerOutlook],
}

/// What is not known, in words.
pub(super) fn notes(base: &PlannedBase, totals: &Totals, unsure: &Unsure<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if !base.known {
        notes.push(format!(
            "{} is not on this machine: it is taken to have {}, and which layers can be reused is \
             unknown until it is here",
            base.image,
            counted(base.layers, "layer")
        ));
    }
    notes.extend(unsure.packages());
    if totals.packages_of_unknown_size > 0 {
        notes.push(format!(
            "the lock does not say the size of {}: 0 bytes are counted for that, and layers may be \
             others once it is known",
            counted(totals.packages_of_unknown_size, "package")
        ));
    }
    notes
}

impl Unsure<'_> {
    fn packages(&self) -> Option<String> {
        if self.blind {
            return Some(
                "which layers can be reused, and whether packages ship the same files, is unknown \
                 until the packages are here"
                    .into(),
            );
        }
        let expected = self.layers.iter();
        let expected = expected.filter(|layer| layer.state == LayerState::Expected);
        let deciding: BTreeSet<&String> = expected.flat_map(|layer| &layer.decided_by).collect();
        if !deciding.is_empty() {
            return Some(format!(
                "'reuse?' is sure once {} here: packages may ship files of others, which makes \
                 other layers of these",
                are(&deciding)
            ));
        }
        let absent: BTreeSet<&String> = self.absent.iter().collect();
        (!absent.is_empty()).then(|| {
            format!(
                "whether packages ship the same files is unknown until {} here",
                are(&absent)
            )
        })
    }
}

/// How many packages a note names.
const NAMED: usize = 4;

/// `a is`, `a and b are`, `a, b and 7 more are`.
fn are(names: &BTreeSet<&String>) -> String {
    let mut parts: Vec<String> = names
        .iter()
        .take(NAMED)
        .map(|name| (*name).clone())
        .collect();
    if names.len() > NAMED {
        parts.push(format!("{} more", names.len() - NAMED));
    }
    match parts.pop() {
        Some(one) if parts.is_empty() => format!("{one} is"),
        Some(last) => format!("{} and {last} are", parts.join(", ")),
        None => "all are".to_owned(),
    }
}
