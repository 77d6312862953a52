use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<EnvYaml> {
    EnvYaml::parse(text, "env.yml", Path::new("/proj/app"), Machine::Amd64)
}

fn refused(text: &str) -> String {
    let error = parse(text).unwrap_err();
    assert_eq!(error.exit(), crate::error::Exit::Input);
    error.to_string()
}

const EXPORT: &str = "\
name: train
channels:
  - pytorch
  - nodefaults
  - conda-forge
dependencies:
  - _libgcc_mutex=0.1=conda_forge
  - numpy=1.26.4=py311h64a7726_0  # comment
  - python=3.11
  - \"pytorch>=2.0,<3\"
  - conda-forge::blas=*=mkl
  - pip
variables:
  PY: 3.10
  FLAG: true
  TEXT: a b
prefix: /home/someone/miniconda3/envs/train
";

#[test]
fn an_export_is_read_whole() {
    let env = parse(EXPORT).unwrap();
    assert_eq!(env.name.as_deref(), Some("train"));
    let channels: Vec<_> = env
        .channels
        .iter()
        .map(|c| (c.text.as_str(), c.line))
        .collect();
    assert_eq!(channels, [("pytorch", 3), ("conda-forge", 5)]);
    let specs: Vec<_> = env
        .specs
        .iter()
        .map(|s| (s.text.as_str(), s.line, s.column))
        .collect();
    assert_eq!(specs[1], ("numpy=1.26.4=py311h64a7726_0", 8, 5));
    assert_eq!(specs[3], ("pytorch>=2.0,<3", 10, 5));
    assert_eq!(specs.len(), 6);
    let numpy = &env.specs[1].match_spec;
    assert_eq!(numpy.build.as_ref().unwrap().to_string(), "py311h64a7726_0");
    let blas = &env.specs[4].match_spec;
    assert_eq!(blas.channel.as_ref().unwrap().name(), "conda-forge");
    let variables: Vec<_> = env
        .variables
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(variables, ["PY=3.10", "FLAG=true", "TEXT=a b"]);
    assert_eq!(env.warnings.len(), 1);
    assert!(
        env.warnings[0].contains("env.yml:17: 'prefix:' is ignored"),
        "{:?}",
        env.warnings
    );
}

#[test]
fn channels_are_names_urls_and_paths() {
    let text = "channels: [./channel, ../up, /abs/c, file:///x/y, https://host/c/label/dev, a/label/b, a/label/b]\ndependencies: [python]";
    let env = parse(text).unwrap();
    let channels: Vec<_> = env.channels.iter().map(|c| c.text.as_str()).collect();
    assert_eq!(
        channels,
        [
            "file:///proj/app/channel",
            "file:///proj/up",
            "file:///abs/c",
            "file:///x/y",
            "https://host/c/label/dev",
            "a/label/b"
        ]
    );
    let env = parse("dependencies: [python]").unwrap();
    assert_eq!(env.channels[0].text, DEFAULT_CHANNEL);
    assert_eq!(env.channels[0].line, 0);
}

#[test]
fn selectors_in_comments_choose_lines() {
    let env = parse(
        "channels:\n  - msys2  # [win]\n  - conda-forge\ndependencies:\n  - a  # [linux64]\n  \
         - b  # [osx]\n  - c  # [py3k]\n  - d # only on [win]\n  - pip:\n    - e  # [win]\n",
    )
    .unwrap();
    let specs: Vec<_> = env
        .specs
        .iter()
        .map(|s| (s.text.as_str(), s.line))
        .collect();
    assert_eq!(specs, [("a", 5), ("c", 7)]);
    assert_eq!(env.channels.len(), 1);
    assert_eq!(
        env.warnings,
        ["env.yml:7: selector [py3k] is not known, the line is used"]
    );
    let text = refused("dependencies:\n  - a  # [win]\n");
    assert!(text.contains("asks for no packages"), "{text}");
}

#[test]
fn nodefaults_and_pip_without_a_list() {
    let env = parse("channels: [nodefaults]\ndependencies: [a]").unwrap();
    assert_eq!(env.channels[0].text, DEFAULT_CHANNEL);
    for pip in [
        "  - pip\n",
        "  - pip:\n",
        "  - pip: []\n",
        "  - pip\n  - pip:\n",
    ] {
        let env = parse(&format!("channels: [c]\ndependencies:\n  - a\n{pip}")).unwrap();
        assert!(env.pip.requirements.is_empty(), "{pip}");
        assert_eq!(env.warnings, [""; 0], "{pip}");
        let names = env.specs.iter().map(|spec| spec.text.as_str());
        let conda = pip.contains("pip\n");
        let expected: &[&str] = if conda { &["a", "pip"] } else { &["a"] };
        assert_eq!(names.collect::<Vec<_>>(), expected, "{pip}");
    }
}

#[test]
fn variables_in_channels_are_kept_as_written() {
    let env = parse("channels: ['https://${U}:$T@host/c', $ALL]\ndependencies: [a]").unwrap();
    let texts: Vec<_> = env.channels.iter().map(|c| c.text.as_str()).collect();
    assert_eq!(texts, ["https://${U}:$T@host/c", "$ALL"]);
    for spec in [
        "https://u:p@host/c::a",
        "https://$T@host/c::a",
        "https://host/t/x/c::a",
    ] {
        let text = refused(&format!("dependencies: ['{spec}']"));
        assert!(
            text.contains("a login is not supported in a spec"),
            "{text}"
        );
    }
}

#[test]
fn texts_of_refusals() {
    let cases = [
        "name: x\ndependncies:\n  - python\n",
        "dependencies:\n  - python=3.11\n  - numpy>>1\n",
        "dependencies:\n  - python\n  - pip:\n    - git+https://host/x\n",
        "dependencies:\n  - https://host/linux-64/a-1-0.conda\n",
        "dependencies:\n  - py*\n",
        "dependencies:\n  - sel(linux): gcc\n",
        "dependencies: python\n",
        "name: a/b\ndependencies: [python]\n",
        "channels:\n- a b\ndependencies: [python]\n",
        "variables: {1A: x}\ndependencies: [python]\n",
        "variables: {A: [x]}\ndependencies: [python]\n",
        "name: x\n",
        "- python\n",
        "",
    ];
    let texts: Vec<String> = cases.iter().map(|text| refused(text)).collect();
    insta::assert_snapshot!(texts.join("\n\n"));
}

#[test]
fn odd_specs_are_refused_not_guessed() {
    for spec in [
        "'>=1.2'",
        "'numpy>='",
        "'numpy=='",
        "'=1'",
        "'numpy=1=a=b'",
        "''",
        "'a b c d'",
        "./x::y",
        "'numpy[foo=1]'",
    ] {
        let text = refused(&format!("dependencies: [{spec}]"));
        assert!(text.contains("is not a package spec"), "{spec}: {text}");
    }
}

#[test]
fn usual_specs_are_taken() {
    for spec in [
        "numpy",
        "'numpy>=1.2'",
        "numpy 1.2",
        "numpy 1.2 py_0",
        "numpy=1.2",
        "numpy==1.2",
        "numpy=1.2.*",
        "'numpy !=1.3'",
        "'numpy>=1,<2|>3'",
        "'numpy=*=mkl*'",
        "'numpy[version=\">=1\"]'",
        "pytorch::pytorch=2.0.1=py3.9_cuda11.8*",
        "'numpy = 1.2'",
    ] {
        let env = parse(&format!("dependencies: [{spec}]"));
        assert!(env.is_ok(), "{spec}: {}", env.unwrap_err());
    }
}

#[test]
fn bytes_must_be_utf8_and_a_bom_is_fine() {
    let error = EnvYaml::parse_bytes(
        b"name: a\n# \xff\n",
        "env.yml",
        Path::new("."),
        Machine::Amd64,
    )
    .unwrap_err();
    assert!(error.to_string().contains("env.yml:2"), "{error}");
    assert!(parse("\u{feff}dependencies: [python]").is_ok());
    let crlf = parse("name: x\r\ndependencies:\r\n  - python=3.11\r\n").unwrap();
    assert_eq!(crlf.specs[0].text, "python=3.11");
}

proptest! {
    #[test]
    fn never_panics(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn never_panics_on_yaml_like_text(
        text in "(name|channels|dependencies|variables|pip|- |  |: |\\[|\\]|\\{|\\}|'|\"|&a |\\*a|!b |,|#|\n|3\\.10|=|>|é|\t|\\||~){0,60}"
    ) {
        let _ = parse(&text);
        let _ = parse(&format!("dependencies:\n  - {text}"));
    }
}
