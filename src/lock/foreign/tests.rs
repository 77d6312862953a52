use std::path::Path;

use proptest::prelude::*;
use rattler_conda_types::Subdir;

use super::*;

const SUM: &str = "c0cddb66070dd6355311f7667ce2acccf70d1013edaa6e97f22859502fefdb22";
const MD5: &str = "887b70e1d607fba7957aa02f9ee0d939";

fn read(text: &str, choice: &LockChoice) -> Result<Given> {
    let dir = Path::new("/project");
    parse(text.as_bytes(), "the.lock", dir, choice, Subdir::Linux64)
}

fn good(text: &str) -> Given {
    read(text, &LockChoice::default()).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn refused(text: &str) -> String {
    match read(text, &LockChoice::default()) {
        Ok(_) => panic!("taken:\n{text}"),
        Err(e) => e.to_string(),
    }
}

/// A conda-lock file of these packages; `a-1-0` in full where nothing is said.
fn conda_lock(packages: &[&[(&str, &str)]]) -> String {
    let usual = [
        ("name", "a"),
        ("version", "'1'"),
        ("manager", "conda"),
        ("platform", "linux-64"),
        ("dependencies", "{b: '>=1', __glibc: ''}"),
        ("url", "https://h/c/linux-64/a-1-0.conda"),
        ("hash", "{md5: MD5, sha256: SUM}"),
        ("category", "main"),
    ];
    let mut text =
        "version: 1\nmetadata:\n  channels:\n  - url: conda-forge\npackage:\n".to_owned();
    for changes in packages {
        let mut mark = "- ";
        for (key, value) in usual {
            let changed = changes.iter().find(|(name, _)| *name == key);
            let value = changed.map_or(value, |(_, value)| value);
            if !value.is_empty() {
                text.push_str(&format!("{mark}{key}: {value}\n"));
                mark = "  ";
            }
        }
    }
    text.replace("MD5", MD5).replace("SUM", SUM)
}

fn pixi(selected: &str, packages: &str) -> String {
    format!(
        "version: 6\nenvironments:\n  default:\n    channels:\n    - url: https://u:pw@h/c/\n    \
         packages:\n      linux-64:\n{selected}packages:\n{packages}"
    )
    .replace("MD5", MD5)
    .replace("SUM", SUM)
}

const B: (&str, &str) = ("url", "https://h/c/noarch/b-1-py_0.tar.bz2");
const WHEEL: [(&str, &str); 3] = [
    ("name", "w"),
    ("manager", "pip"),
    ("url", "https://h/w-1-py3-none-any.whl"),
];

#[test]
fn conda_lock_files_are_read() {
    let b: &[_] = &[
        ("name", "b"),
        B,
        ("dependencies", "{}"),
        ("hash", "{md5: MD5}"),
    ];
    let mac: &[_] = &[("platform", "osx-64"), ("url", "")];
    let dev: &[_] = &[("category", "dev")];
    let text = conda_lock(&[&[], mac, b, dev, &WHEEL]);
    let given = good(&text);
    let packages = given.lock.env.packages();
    let names: Vec<_> = packages
        .iter()
        .map(|r| r.package_record.name.as_normalized())
        .collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(packages[1].package_record.depends, ["b >=1", "__glibc"]);
    assert_eq!(packages[0].package_record.subdir, "noarch");
    assert!(packages[0].package_record.sha256.is_none());
    assert!(packages.iter().all(super::super::complete::is_thin));
    assert_eq!(
        given.lock.env.channels,
        ["https://conda.anaconda.org/conda-forge/"]
    );
    assert_eq!(
        given.lock.env.wheels()[0].file_name(),
        "w-1-py3-none-any.whl"
    );

    let choice = |name: &str| LockChoice {
        categories: vec![name.into()],
        ..LockChoice::default()
    };
    // The same package in two categories is one; another build is two.
    assert_eq!(
        read(&text, &choice("dev"))
            .unwrap()
            .lock
            .env
            .packages()
            .len(),
        2
    );
    let error = read(&text, &choice("nope")).unwrap_err().to_string();
    assert!(error.contains("'dev', 'main'"), "{error}");
    let other: &[_] = &[("category", "dev"), ("hash", "{md5: MD5}")];
    let error = read(&conda_lock(&[&[], other]), &choice("dev"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("lines 6 and 14"), "{error}");
}

#[test]
fn explicit_lists_are_read() {
    let text = format!(
        "\u{feff}# made by hand\n# platform: linux-64\n@EXPLICIT\r\n\n\
         https://conda.anaconda.org/t/tk-secret/c/linux-64/a-1-0.conda#{MD5}\n  \
         file:///srv/ch/noarch/b-1-0.tar.bz2#sha256:{SUM}  \n\
         https://h/c/noarch/d-1-0.conda#{SUM}\n\
         # pip w @ https://h/w-1-py3-none-any.whl#sha256={SUM}\n\
         # pip v @ https://h/v-1-py3-none-any.whl --hash=sha256:{SUM}\n"
    );
    let given = good(&text);
    let env = &given.lock.env;
    let mut urls: Vec<_> = env.packages().iter().map(|r| r.url.as_str()).collect();
    urls.sort();
    assert_eq!(
        urls,
        [
            "file:///srv/ch/noarch/b-1-0.tar.bz2",
            "https://conda.anaconda.org/c/linux-64/a-1-0.conda",
            "https://h/c/noarch/d-1-0.conda"
        ]
    );
    assert_eq!(env.channels.len(), 3);
    assert_eq!(env.wheels().len(), 2);
    assert!(!format!("{given:?}").contains("tk-secret"));
    assert!(
        given.warnings[0].contains("credentials"),
        "{:?}",
        given.warnings
    );
}

#[test]
fn pixi_locks_are_read() {
    let text = pixi(
        "      - conda: https://u:pw@h/c/linux-64/a-1-0.conda\n      - conda: ./b-1-py_0.conda\n      \
         - pypi: wheels/w-1-py3-none-any.whl\n",
        "- conda: https://u:pw@h/c/linux-64/a-1-0.conda\n  sha256: SUM\n  depends: [b]\n  size: 5\n\
         - conda: ./b-1-py_0.conda\n  name: b\n  version: '1'\n  build: py_0\n  subdir: noarch\n  md5: MD5\n\
         - pypi: wheels/w-1-py3-none-any.whl\n  name: w\n  version: '1'\n  sha256: SUM\n  \
         requires_dist: ['a--[', b]\n  requires_python: x\n",
    );
    let given = good(&text);
    let env = &given.lock.env;
    assert_eq!(
        env.packages()[0].url.as_str(),
        "file:///project/b-1-py_0.conda"
    );
    assert_eq!(
        env.packages()[1].url.as_str(),
        "https://h/c/linux-64/a-1-0.conda"
    );
    assert_eq!(env.packages()[1].package_record.size, Some(5));
    assert_eq!(env.channels, ["https://h/c/"]);
    assert_eq!(
        env.wheels()[0].url.as_str(),
        "file:///project/wheels/w-1-py3-none-any.whl"
    );
    assert_eq!(given.warnings.len(), 1);
    assert!(!format!("{given:?}").contains("pw"));
}

#[test]
fn environments_and_platforms_of_a_pixi_lock() {
    let list = "      - conda: https://h/c/noarch/a-1-0.conda\n";
    let packages = "- conda: https://h/c/noarch/a-1-0.conda\n  sha256: SUM\n";
    let text = pixi(list, packages);
    let choice = |name: &str| LockChoice {
        environment: Some(name.into()),
        ..LockChoice::default()
    };
    let error = read(&text, &choice("cuda")).unwrap_err().to_string();
    assert!(error.contains("its environments are 'default'"), "{error}");
    let cuda = text.replace("default:", "cuda:");
    assert!(read(&cuda, &choice("cuda")).is_ok());
    assert!(refused(&cuda).contains("its environments are 'cuda'"));
    assert!(refused(&text.replace("linux-64:", "osx-64:")).contains("platforms are osx-64"));

    // Version 7 names platforms; several may be for the same machines.
    let seven = |names: &[&str]| {
        let platforms: String = names
            .iter()
            .map(|name| format!("- name: {name}\n  subdir: linux-64\n"))
            .collect();
        let lists: String = names
            .iter()
            .map(|name| format!("      {name}:\n{list}"))
            .collect();
        text.replace(
            "version: 6\n",
            &format!("version: 7\nplatforms:\n{platforms}"),
        )
        .replace(&format!("      linux-64:\n{list}"), &lists)
    };
    good(&seven(&["linux-64", "big-gpu"]));
    good(&seven(&["big-gpu"]));
    let error = refused(&seven(&["small-gpu", "big-gpu"]));
    assert!(error.contains("they are big-gpu, small-gpu"), "{error}");
}

#[test]
fn texts_of_refusals() {
    let one = "      - conda: https://u:pw@h/c/linux-64/a-1-0.conda\n";
    let cases = [
        // conda-lock
        conda_lock(&[&[("hash", "{}")]]),
        conda_lock(&[&[("hash", "{sha256: '123'}")]]),
        conda_lock(&[&[], &[]])
            .replacen("md5", "mdx", 1)
            .replacen(SUM, &SUM.replace('c', "d"), 1),
        conda_lock(&[&[("url", "https://u:pw@h/t/tk/c/win-64/a-1-0.conda")]]),
        conda_lock(&[&[("url", "https://u:pw@h/c/linux-64/a-1-0.zip")]]),
        conda_lock(&[&[("name", "b")]]),
        conda_lock(&[&[("version", "'1.1'")]]),
        conda_lock(&[&[("url", "")]]),
        conda_lock(&[&[("manager", "npm")]]),
        conda_lock(&[&[("platform", "osx-64")]]),
        conda_lock(&[&[
            ("name", "w"),
            ("manager", "pip"),
            ("url", "https://h/w-1.tar.gz"),
        ]]),
        conda_lock(&[&[
            ("name", "w"),
            ("manager", "pip"),
            ("url", "git+https://h/w.git@1"),
        ]]),
        conda_lock(&[
            &WHEEL,
            &[WHEEL[0], WHEEL[1], WHEEL[2], ("version", "'1.0'")],
        ]),
        conda_lock(&[]),
        "version: 1\npackage: {}\n".to_owned(),
        "version: 4\npackage: []\n".to_owned(),
        // @EXPLICIT
        "@EXPLICIT\nhttps://u:pw@h/c/linux-64/a-1-0.conda\n".to_owned(),
        "@EXPLICIT\nhttps://u:pw@h/c/linux-64/a-1-0.conda#sha256:12\n".to_owned(),
        "@EXPLICIT\na-1-0.conda\n".to_owned(),
        "# platform: osx-64\n@EXPLICIT\n".to_owned(),
        "name: x\n@EXPLICIT\n".to_owned(),
        "@EXPLICIT\n".to_owned(),
        "@EXPLICIT\n# pip w === 1 --hash=sha256:12\n".to_owned(),
        // pixi
        pixi(one, ""),
        pixi(one, "- conda: https://u:pw@h/c/linux-64/a-1-0.conda\n"),
        pixi(
            one,
            "- conda: https://u:pw@h/c/linux-64/a-1-0.conda\n  version: '2'\n  sha256: SUM\n",
        ),
        pixi(
            one,
            "- conda: https://u:pw@h/c/linux-64/a-1-0.conda\n  sha256: SUM\n\
             - conda: https://u:pw@h/c/linux-64/a-1-0.conda\n  md5: MD5\n",
        ),
        pixi(
            "      - pypi: ./w\n",
            "- pypi: ./w\n  name: w\n  version: '1'\n  editable: true\n",
        ),
        pixi(
            "      - conda: ./w\n",
            "- conda: ./w\n  name: w\n  version: '1'\n  build: x\n",
        ),
        pixi("", "").replace("version: 6", "version: 99"),
        "version: 6\nenvironments: []\npackages: 1\n".to_owned(),
    ];
    let texts: Vec<String> = cases.iter().map(|text| refused(text)).collect();
    let all = texts.join("\n\n");
    assert!(!all.contains("pw") && !all.contains("tk"), "{all}");
    insta::assert_snapshot!(all);
}

/// Nothing that is read may take long, whatever it is.
#[test]
fn what_is_made_up_is_refused() {
    let bomb: String = (1..30)
        .map(|i| {
            format!(
                "x{i}: &x{i} [{}]\n",
                vec![format!("*x{}", i - 1); 10].join(", ")
            )
        })
        .collect();
    let ring: String = (0..3000).fold("@EXPLICIT\n".into(), |text, i| {
        format!("{text}https://h/c/noarch/p{i}-1-0.conda#{MD5}\n")
    });
    good(&ring);
    let many = conda_lock(&[&[][..]; 10]);
    for text in [
        format!("version: 6\nenvironments: {{}}\nx0: &x0 [1]\n{bomb}"),
        format!("version: 1\npackage: []\nx0: &x0 [1]\n{bomb}"),
        format!("version: 6\nenvironments: {}\n", "[".repeat(10_000)),
        format!("version: 6\nenvironments:\n{}", "- ".repeat(10_000)),
        "version: 6\nenvironments: \0\n".to_owned(),
        "version: 6\nversion: 6\nenvironments: {}\n".to_owned(),
        many,
        (0..2000).fold(ring, |text, i| {
            format!("{text}https://h/c/noarch/q{i}-1-0.conda#{MD5}\n")
        }),
        pixi(&"      - conda: x\n".repeat(5000), ""),
    ] {
        refused(&text);
    }
    let circle: Vec<String> = (0..100)
        .map(|i| {
            let next = (i + 1) % 100;
            conda_lock(&[&[
                ("name", &format!("p{i}")),
                ("url", &format!("https://h/c/noarch/p{i}-1-0.conda")),
                ("dependencies", &format!("{{p{next}: ''}}")),
            ]])
        })
        .collect();
    let head = circle[0].split_once("- name").unwrap().0;
    let bodies: String = circle
        .iter()
        .map(|text| format!("- name{}", text.split_once("- name").unwrap().1))
        .collect();
    let error = refused(&format!("{head}{bodies}"));
    assert!(error.contains("100 packages need each other"), "{error}");
    let large = vec![b'#'; LOCK_LIMITS.bytes + 1];
    let choice = LockChoice::default();
    for bytes in [&large[..], b"version: 1\npackage: \xff\n"] {
        let given = parse(bytes, "f", Path::new("/"), &choice, Subdir::Linux64);
        given.unwrap_err();
    }
}

proptest! {
    #[test]
    fn never_panics(text in any::<String>()) {
        for head in ["@EXPLICIT\n", "version: 6\nenvironments:\n", "version: 1\npackage:\n", ""] {
            let _ = read(&format!("{head}{text}"), &LockChoice::default());
        }
    }

    #[test]
    fn never_panics_on_broken_locks(kind in 0..3usize, at in 0..800usize, byte in any::<char>()) {
        let list = "      - conda: https://h/c/noarch/a-1-0.conda\n";
        let packages = "- conda: https://h/c/noarch/a-1-0.conda\n  sha256: SUM\n  depends: [a]\n";
        let text = match kind {
            0 => conda_lock(&[&[], &WHEEL]),
            1 => pixi(list, packages),
            _ => format!("# platform: linux-64\n@EXPLICIT\nhttps://h/noarch/a-1-0.conda#{MD5}\n"),
        };
        let mut chars: Vec<char> = text.chars().collect();
        let at = at % chars.len();
        chars[at] = byte;
        let _ = read(&chars.into_iter().collect::<String>(), &LockChoice::default());
    }
}
