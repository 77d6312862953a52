//! The way out of a failure, by its code.

use crate::explain;

/// Codes whose way out is to look at what the report shows anyway.
const SEEN: &[&str] = &[
    "bad-end",
    "error",
    "no-results",
    "peer-lost",
    "rank-missing",
    "terminated",
];

/// What to do about a code of the probe; `None` when only the message can tell.
pub(super) fn fix(code: &str) -> Option<&'static str> {
    explain::find(code)
        .filter(|entry| !SEEN.contains(&entry.code))
        .map(|entry| entry.fix)
}
