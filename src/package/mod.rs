//! Package archives to entries: reading `.conda` and `.tar.bz2`, linking, `conda-meta`.

mod archive;
mod entry;
mod link;
mod prefix;
mod record;
mod survey;

pub use archive::{ArchiveError, ArchiveKind, PackageArchive, PackageInfo};
pub use entry::{Entry, EntryKind, EntrySink};
pub use link::{Package, link};
pub use prefix::{Exclusions, Prefix, place};
pub use survey::{LinkScript, Survey, by_pair, excluded_of, survey};
