//! `.tar.bz2` packages as other compressors write them.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
};

use bzip2::{Compression, read::BzDecoder, write::BzEncoder};

use crate::{
    mini::{Mini, env},
    support::Project,
};

const HELLO: &str = "hello-demo-1.0-0.tar.bz2";

/// pbzip2 writes a bzip2 stream for every 900 kB; a package is all of them.
#[test]
fn a_package_of_several_bzip2_streams_is_read_whole() {
    let mini = Mini::of(&[HELLO]);
    let read = fs::read(mini.file(HELLO)).unwrap();
    let mut tar = Vec::new();
    BzDecoder::new(&read[..]).read_to_end(&mut tar).unwrap();
    let streams = tar.chunks(700).flat_map(|part| {
        let mut encoder = BzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    });
    let streams: Vec<u8> = streams.collect();
    let files = |mini: &Mini| {
        let project = Project::new(&env(&mini.url(), &["hello-demo"]));
        let image = project.build(&["--base", "scratch"]);
        let prefix = Path::new("/opt/conda");
        image.rootfs.below(prefix.join("share"))
    };
    let whole = files(&mini);
    mini.replace(HELLO, &streams, true);
    assert_eq!(files(&mini), whole);
    mini.replace(HELLO, &streams[..streams.len() - 10], true);
    let project = Project::new(&env(&mini.url(), &["hello-demo"]));
    let out = project.imgbuild(&["build", "env.yml", "--base", "scratch"]);
    out.expect(3);
    let said = "its bzip2 data ends early, behind ";
    assert!(out.stderr.contains(said), "{}", out.stderr);
}
