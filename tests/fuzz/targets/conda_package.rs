#![no_main]
//! Conda packages: the first byte chooses the format.

use imgbuild::package::{ArchiveError, ArchiveKind, Decoders, PackageArchive};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let kind = if first & 1 == 0 {
        ArchiveKind::Conda
    } else {
        ArchiveKind::TarBz2
    };
    imgbuild_fuzz::with_file(data, "", |path| {
        let archive = PackageArchive {
            path: path.to_owned(),
            kind,
            decoders: Decoders::new(2),
        };
        let _ = archive.info();
        let _ = archive.for_each_content(|_, entry, _| -> Result<(), ArchiveError> {
            std::io::copy(entry, &mut std::io::sink())?;
            Ok(())
        });
    });
});
