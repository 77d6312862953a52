//! Package archives to entries.

mod entry;

pub use entry::{Entry, EntryKind, EntrySink};
