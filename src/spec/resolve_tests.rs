use std::fs;

use super::*;

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn resolve_in(dir: &tempfile::TempDir, flags: Overrides) -> Result<ImageSpec> {
    ImageSpec::resolve(&dir.path().join("env.yml"), flags).map(|mut all| all.remove(0))
}

const ENV: &str =
    "name: train\nchannels: [conda-forge]\ndependencies: [python]\nvariables: {A: '1', B: '2'}\n";

#[test]
fn defaults() {
    let spec = resolve_in(&project(&[("env.yml", ENV)]), Overrides::default()).unwrap();
    assert_eq!(spec.base, BaseSource::Registry(DEFAULT_BASE.into()));
    assert_eq!(
        (spec.prefix.as_str(), spec.layer_budget),
        ("/opt/conda", 125)
    );
    assert!(spec.miniconda.is_none() && spec.workdir.is_none() && spec.tags.is_empty());
    assert_eq!(
        spec.variables,
        [("A".into(), "1".into()), ("B".into(), "2".into())]
    );
}

#[test]
fn flags_win_over_the_file_and_the_file_over_env_yml() {
    let config = "base: oci:base\ntags: [a]\nenv: {B: 3, C: 4}\nlabels: {x: 1, y: 1}\ncode: src\nminiconda: true\nprobe: {gpus: 4, timeout: 60}\n";
    let dir = project(&[("env.yml", ENV), ("imgbuild.yaml", config)]);
    let spec = resolve_in(&dir, Overrides::default()).unwrap();
    let base = dir.path().join("base").to_string_lossy().into_owned();
    assert_eq!(spec.base, BaseSource::OciLayout(base));
    assert_eq!(spec.prefix, "/opt/conda/envs/train");
    let packages: Vec<_> = spec
        .miniconda
        .unwrap()
        .specs
        .into_iter()
        .map(|s| s.text)
        .collect();
    assert_eq!(packages, ["python", "conda", "pip"]);
    assert_eq!(spec.workdir.as_deref(), Some("/workspace"));
    assert_eq!(spec.code.unwrap().dir, dir.path().join("src"));
    let flags = Overrides {
        base: Some(BaseSource::Scratch),
        tags: vec!["b:1".into(), "b:1".into()],
        env: vec![("C".into(), "5".into())],
        labels: vec![("y".into(), "2".into())],
        miniconda: Some(MinicondaChoice::Off),
        prefix: Some("/env/".into()),
        workdir: Some("/data/".into()),
        probe: ProbeSpec {
            gpus: Some(8),
            ..ProbeSpec::default()
        },
        ..Overrides::default()
    };
    let spec = resolve_in(&dir, flags).unwrap();
    assert_eq!(
        (spec.base, spec.tags),
        (BaseSource::Scratch, vec!["b:1".to_owned()])
    );
    let variables: Vec<_> = spec
        .variables
        .iter()
        .map(|(k, v)| format!("{k}{v}"))
        .collect();
    assert_eq!(variables, ["A1", "B3", "C5"]);
    assert_eq!(
        (spec.labels["x"].as_str(), spec.labels["y"].as_str()),
        ("1", "2")
    );
    assert_eq!(
        (spec.prefix.as_str(), spec.workdir.as_deref()),
        ("/env", Some("/data"))
    );
    assert_eq!((spec.probe.gpus, spec.probe.timeout), (Some(8), Some(60)));
}

#[test]
fn what_cannot_be_built_is_refused() {
    let dir = project(&[("env.yml", ENV), ("imgbuild.yaml", "miniconda: true")]);
    let flags = |set: fn(&mut Overrides)| {
        let mut flags = Overrides::default();
        set(&mut flags);
        resolve_in(&dir, flags).unwrap_err().to_string()
    };
    assert!(flags(|f| f.prefix = Some("/opt/conda".into())).contains("Miniconda base's"));
    assert!(flags(|f| f.prefix = Some("/opt/conda/lib".into())).contains("Miniconda base's"));
    assert!(flags(|f| f.prefix = Some("../x".into())).contains("--prefix '../x'"));
    assert!(flags(|f| f.user = Some("a b".into())).contains("--user"));
    assert!(flags(|f| f.env = vec![("1".into(), "".into())]).contains("--env"));
    assert!(flags(|f| f.tags = vec!["A".into()]).contains("--tag"));
    assert!(flags(|f| f.layers = Some(126)).contains("125"));
    assert!(flags(|f| f.code = Some("nowhere".parse().unwrap())).contains("nowhere"));
    let inside = flags(|f| {
        f.code = Some(CodeSpec {
            dir: ".".into(),
            dest: "/opt/conda/envs/train/x".into(),
        })
    });
    assert!(inside.contains("inside the environment"));
    let based = project(&[
        ("env.yml", "name: base\ndependencies: [python]"),
        ("imgbuild.yaml", "miniconda: true"),
    ]);
    assert!(resolve_in(&based, Overrides::default()).is_err());
}

#[test]
fn files_that_are_absent_or_misnamed() {
    let dir = project(&[("imgbuild.yml", "")]);
    let error = resolve_in(&dir, Overrides::default()).unwrap_err();
    assert_eq!(error.exit(), crate::error::Exit::Input);
    assert!(error.to_string().contains("imgbuild init"), "{error}");
    fs::write(dir.path().join("env.yml"), ENV).unwrap();
    let error = resolve_in(&dir, Overrides::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("must be named imgbuild.yaml"), "{error}");
    assert!(ImageSpec::resolve(dir.path(), Overrides::default()).is_err());
}

#[test]
fn code_flags() {
    let code = |text: &str| {
        text.parse::<CodeSpec>()
            .map(|c| (c.dir.to_string_lossy().into_owned(), c.dest))
    };
    assert_eq!(code("src").unwrap(), ("src".into(), "/workspace".into()));
    assert_eq!(
        code("/a/b:/srv/app/").unwrap(),
        ("/a/b".into(), "/srv/app".into())
    );
    assert_eq!(code("a:b").unwrap(), ("a:b".into(), "/workspace".into()));
    for bad in ["", ":/x", "a:/", "a:/etc", "a:/x/../y", "a:/bin/x"] {
        assert!(code(bad).is_err(), "{bad}");
    }
}

#[test]
fn machines_of_flags_and_file_are_merged() {
    let config = "driver: 535.104.05\ngpu: [a100, h200]\nallow: python-eol\n";
    let dir = project(&[("env.yml", ENV), ("imgbuild.yaml", config)]);
    let file = resolve_in(&dir, Overrides::default()).unwrap();
    assert_eq!(file.fleet.gpus.len(), 2);
    // They judge what was chosen, and choose nothing.
    assert_eq!(file.cuda, None);
    let flags = Overrides {
        fleet: crate::gate::Fleet {
            gpus: vec!["sm_75".parse().unwrap()],
            allow: vec!["arch"],
            ..Default::default()
        },
        ..Overrides::default()
    };
    let both = resolve_in(&dir, flags).unwrap();
    assert_eq!(both.fleet.driver, file.fleet.driver);
    assert_eq!(both.fleet.gpus.first().map(|gpu| gpu.sm), Some(75));
    assert_eq!(both.fleet.allow, ["python-eol", "arch"]);
}
