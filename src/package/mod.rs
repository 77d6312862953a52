//! Package archives to entries: reading `.conda` and `.tar.bz2`, linking, `conda-meta`.

mod archive;
mod bzip2;
mod entry;
mod link;
pub mod origin;
mod outline;
mod placed;
mod prefix;
mod record;
mod survey;

pub use archive::{ArchiveError, ArchiveKind, InfoFiles, PackageArchive, PackageInfo};
pub use bzip2::{Decoders, Reader as Bz2Reader};
pub use entry::{Entry, EntryKind, EntrySink, sink_error};
pub use link::{Package, link};
pub use outline::{Claims, Outline, outlines, touched};
pub use prefix::{Exclusions, Prefix, place, pyc_target};
pub use survey::{
    Clobber, Contents, LinkScript, Survey, Target, by_pair, compiled, contents, excluded_of, named,
    survey, wheel_id,
};
