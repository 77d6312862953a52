//! Tests of reading `pip:` sections.

use std::{io, path::Path};

use proptest::prelude::*;

use super::{Host, PipSection};
use crate::{
    error::Result,
    spec::{
        source::Source,
        yaml::{self, Value},
    },
};

/// A machine with a few requirements files in `/p` and two variables.
fn host() -> Host<'static> {
    Host {
        read: &|path: &Path| {
            let text = match path.to_str().unwrap() {
                "/p/req.txt" => {
                    "\u{feff}# all\n-i https://i.example/simple\nsix==1.16 # old\n\n-r sub/more.txt\n"
                }
                "/p/sub/more.txt" => {
                    "--find-links wheels\nidna \\\n  >=3 \\\n  ; python_version > '3'\n"
                }
                "/p/limits.txt" => "numpy<2\n",
                "/p/many.txt" => &"-r limits.txt\n".repeat(99),
                "/p/circle.txt" => "-r circle.txt\n",
                "/p/bad.txt" => "good\n\nnot good\n",
                _ => return Err(io::Error::from(io::ErrorKind::NotFound)),
            };
            Ok(text.into())
        },
        variable: &|name| match name {
            "TOKEN" => Some("s3cret".into()),
            "HOST" => Some("h.example".into()),
            _ => None,
        },
    }
}

fn read(items: &str) -> Result<PipSection> {
    let source = Source {
        file: "env.yml",
        text: items,
    };
    let root = yaml::parse(source)?;
    let mut section = PipSection::default();
    match &root.value {
        Value::List(items) => section.add(source, Path::new("/p"), items, host())?,
        other => panic!("{other:?}"),
    }
    Ok(section)
}

fn lines(section: &PipSection) -> Vec<&str> {
    let lines = section.requirements.iter();
    lines.map(|line| line.pep508.as_str()).collect()
}

#[test]
fn requirements_as_pip_writes_them() {
    let section = read(
        "- torch==2.1.0+cu118 # the pin\n- 'requests[socks]>=2,<3 ; python_version >= \"3.8\"'\n\
         - '# nothing'\n- NumPy\n",
    )
    .unwrap();
    assert_eq!(
        lines(&section),
        [
            "torch==2.1.0+cu118",
            "requests[socks]>=2,<3 ; python_version >= \"3.8\"",
            "NumPy"
        ]
    );
    let last = &section.requirements[2];
    assert_eq!(last.place().to_string(), "env.yml:4:3");
    assert_eq!(last.name(), "numpy");
}

#[test]
fn options_in_all_their_forms() {
    for items in [
        "- --index-url https://a/s\n- --extra-index-url=https://b/s\n- -f ./wheels\n- --pre\n- --no-index\n",
        "- -i https://a/s --extra-index-url https://b/s -fwheels --pre --no-index\n",
        "- \"--index-url 'https://a/s'\"\n- |\n  --extra-index-url \\\n    https://b/s\n  -f=wheels\n  --pre # new\n  --no-index\n",
    ] {
        let sources = read(items).unwrap().sources;
        assert_eq!(
            sources.index_url.unwrap().as_str(),
            "https://a/s",
            "{items}"
        );
        assert_eq!(sources.extra_index_urls[0].as_str(), "https://b/s");
        assert_eq!(sources.find_links, ["/p/wheels"], "{items}");
        assert!(sources.prereleases && sources.no_index);
    }
    let section = read("- '--only-binary :all:'\n- --prefer-binary\n- --require-hashes\n").unwrap();
    assert!(section.is_empty() && section.require_hashes);
}

#[test]
fn variables_are_replaced_and_not_shown() {
    let section = read(
        "- -i https://me:${TOKEN}@${HOST}/simple\n- a @ https://${TOKEN}@x/a-1-py3-none-any.whl\n",
    )
    .unwrap();
    let wheel = |host: &str| format!("https://{host}/a.whl").parse().unwrap();
    let with = |host| section.with_credentials(&wheel(host)).to_string();
    assert_eq!(with("h.example"), "https://me:s3cret@h.example/a.whl");
    assert_eq!(with("x"), "https://s3cret@x/a.whl");
    assert_eq!(with("other"), "https://other/a.whl");
    assert!(!section.requirements[0].text.contains("s3cret"));
    let shown = section.redacted("cannot read https://me:s3cret@h.example/ as me");
    assert_eq!(shown, "cannot read https://me:****@h.example/ as me");

    let error = read("- -i https://${NOPE}@h/simple\n")
        .unwrap_err()
        .to_string();
    assert!(error.contains("variable NOPE is not set"), "{error}");
    assert!(error.contains("env.yml:1:3"), "{error}");
}

#[test]
fn requirements_files_are_read_in_place() {
    let section = read("- attrs\n- -r req.txt\n- tqdm\n- --constraint=limits.txt\n").unwrap();
    assert_eq!(
        lines(&section),
        [
            "attrs",
            "six==1.16",
            "idna   >=3   ; python_version > '3'",
            "tqdm"
        ]
    );
    assert_eq!(section.constraints[0].pep508, "numpy<2");
    assert_eq!(
        section.requirements[1].place().to_string(),
        "/p/req.txt:3:1"
    );
    assert_eq!(
        section.requirements[2].place().to_string(),
        "/p/sub/more.txt:2:1"
    );
    // Paths start at the file that names them.
    assert_eq!(section.sources.find_links, ["/p/sub/wheels"]);
    assert!(section.sources.index_url.is_some());
}

#[test]
fn wheels_by_url_and_path() {
    let section = read(
        "- ./dist/My_Pkg-1.0-py3-none-any.whl\n- https://h/a/torch-2.1.0%2Bcu118-cp311-cp311-linux_x86_64.whl ; python_version > '3'\n\
         - x-1-py3-none-any.whl[fast]\n- y @ file:///w/y-1-py3-none-any.whl\n",
    )
    .unwrap();
    assert_eq!(
        lines(&section),
        [
            "My_Pkg @ file:///p/dist/My_Pkg-1.0-py3-none-any.whl",
            "torch @ https://h/a/torch-2.1.0%2Bcu118-cp311-cp311-linux_x86_64.whl ; python_version > '3'",
            "x[fast] @ file:///p/x-1-py3-none-any.whl",
            "y @ file:///w/y-1-py3-none-any.whl"
        ]
    );
    assert_eq!(section.requirements[0].name(), "my-pkg");
    assert!(section.requirements.iter().all(|line| line.url().is_some()));
}

#[test]
fn hashes_are_kept() {
    let hash = "0".repeat(64);
    let other = "f".repeat(64);
    let text =
        format!("- |\n  six==1.16 \\\n    --hash=sha256:{hash} \\\n    --hash sha256:{other}\n");
    let section = read(&text).unwrap();
    assert_eq!(lines(&section), ["six==1.16"]);
    let hashes: Vec<String> = section.requirements[0]
        .hashes
        .iter()
        .map(|h| h.hex())
        .collect();
    assert_eq!(hashes, [hash.clone(), other]);
    let url = format!("- a @ https://h/a-1-py3-none-any.whl#sha256={hash}&x=1\n");
    let pinned = &read(&url).unwrap().requirements[0].hashes;
    assert_eq!(pinned[0].hex(), hash);
    for wrong in [
        "--hash=sha256:12",
        "--hash=md5:00",
        "--hash",
        "--config-settings=a=b",
    ] {
        assert!(read(&format!("- six {wrong}\n")).is_err(), "{wrong}");
    }
}

#[test]
fn what_must_be_built_is_refused_by_name() {
    for (line, words) in [
        ("-e .", "editable install"),
        ("--editable=git+https://h/x", "editable install"),
        ("git+https://github.com/a/b@v1", "a git repository"),
        ("b @ git+ssh://git@github.com/a/b", "a git repository"),
        ("git://h/b", "a git repository"),
        ("hg+https://h/b", "a hg repository"),
        ("https://h/b-1.0.tar.gz#sha256=00", "a source distribution"),
        ("b @ https://h/b.zip", "a source distribution"),
        ("./b-1.0.zip", "a source distribution"),
        (".", "is no wheel"),
        ("./project", "is no wheel"),
        ("/abs/project", "is no wheel"),
        ("project/", "is no wheel"),
        ("b @ https://h/b", "is no wheel"),
        ("--no-binary six", "option '--no-binary'"),
    ] {
        let error = read(&format!("- six\n- {line}\n")).unwrap_err().to_string();
        assert!(error.contains(words), "{line}: {error}");
        assert!(error.contains("env.yml:2:3"), "{line}: {error}");
        assert!(error.contains("pip wheel"), "{line}: {error}");
        assert!(error.contains("--code"), "{line}: {error}");
    }
}

#[test]
fn mistakes_are_named() {
    for (line, words) in [
        ("numpy=1.26", "'numpy=1.26' is not a pip requirement"),
        ("numpy 1.26", "'numpy 1.26' is not a pip requirement"),
        ("-x", "option '-x'"),
        (
            "--extra-index https://h",
            "did you mean '--extra-index-url'",
        ),
        ("--trusted-host h", "certificates"),
        ("--index-url", "is not followed by a value"),
        ("-i nowhere", "no valid URL"),
        ("-i ftp://h/x", "http(s) or file URL"),
        ("-r https://h/r.txt", "only files of this machine"),
        ("-r nope.txt", "/p/nope.txt"),
        ("-r circle.txt", "more than 10 deep"),
        ("-r many.txt -r limits.txt", "'limits.txt' cannot be read"),
        ("to. > 1", "'to.' is no name"),
        ("to[ag-1. x", "'ag-1. x' is no name"),
        ("to [a, b_ ]", "'b_' is no name"),
        ("-r bad.txt", "/p/bad.txt:3:1"),
        ("é @ x", "is not a pip requirement"),
        ("x; é == 'é'", "is not a pip requirement"),
    ] {
        let error = read(&format!("- {line}\n")).unwrap_err().to_string();
        assert!(error.contains(words), "{line}: {error}");
    }
    let long = format!("- x ; {}\n", "(".repeat(3000));
    let error = read(&long).unwrap_err().to_string();
    assert!(error.contains("longer than 2000 bytes"), "{error}");
    assert!(read("- [a]\n").is_err());
}

proptest! {
    #[test]
    fn never_panics(
        line in "(-r |-c |-i |-f |-e |--hash=|--|req.txt|circle.txt|https://|@|\\$\\{TOKEN\\}|\\$\\{|\\}|\\[|\\]|;|==|\\+|\\.whl|/|\\(|\\)| |a|1|é|\"|'|#|\\\\|\n|~=|python_version|and|or|<){0,30}"
    ) {
        let source = Source { file: "env.yml", text: "" };
        let item = yaml::Node { place: crate::spec::source::Place::default(), value: Value::Text(line) };
        let _ = PipSection::default().add(source, Path::new("/p"), &[item], host());
    }
}
