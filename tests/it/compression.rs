//! `--compression`: what layers are packed with, and what does not depend on it.

use std::{collections::BTreeSet, fs};

use crate::support::{Codec, Image, Project, env_file};

/// Builds the crafted packages and some code with these flags.
fn build(flags: &[&str]) -> (Project, Image) {
    let project = Project::new(&env_file("crafted"));
    project.write("code/train.py", "print('training')\n");
    let image = again(&project, flags);
    (project, image)
}

fn again(project: &Project, flags: &[&str]) -> Image {
    let build = ["build", "env.yml", "--base", "scratch", "--code", "code"];
    project.image(&project.ok(&[&build[..], flags].concat()))
}

#[test]
fn an_image_is_the_same_inside_whatever_it_is_packed_with() {
    let (project, zstd) = build(&[]);
    for (compression, codec) in [
        ("zstd:1", Codec::Zstd),
        ("zstd:9", Codec::Zstd),
        ("gzip", Codec::Gzip),
        ("gzip:9", Codec::Gzip),
        ("none", Codec::Plain),
    ] {
        let other = again(&project, &["--compression", compression]);
        assert!(
            other.ours().all(|layer| layer.codec == codec),
            "{compression}"
        );
        // The config holds the diff ids, and is what classic stores call the image.
        assert_eq!(other.config, zstd.config, "{compression}");
        assert_eq!(other.digest == zstd.digest, compression == "zstd:1");
        let elsewhere = build(&["--compression", compression]).1;
        assert_eq!(elsewhere.digest, other.digest, "{compression}");
    }
}

#[test]
fn the_settings_file_says_it_and_a_flag_wins() {
    let (project, _) = build(&[]);
    let settings = fs::read_to_string(project.path("imgbuild.yaml")).unwrap();
    project.write("imgbuild.yaml", &(settings + "compression: gzip:2\n"));
    let codecs = |image: &Image| -> BTreeSet<String> {
        let codecs = image.ours().map(|layer| format!("{:?}", layer.codec));
        codecs.collect()
    };
    assert_eq!(codecs(&again(&project, &[])), ["Gzip".into()].into());
    let flag = again(&project, &["--compression", "none"]);
    assert_eq!(codecs(&flag), ["Plain".into()].into());
}

#[test]
fn what_is_no_compression_is_refused() {
    let project = Project::new(&env_file("crafted"));
    for (compression, word) in [("lz4", "zstd, gzip or none"), ("gzip:10", "1 to 9")] {
        let output = project.imgbuild(&["build", "env.yml", "--compression", compression]);
        output.expect(2);
        assert!(output.stderr.contains(word), "{}", output.stderr);
    }
}
