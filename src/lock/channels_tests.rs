//! Channels as conda resolves them.

use super::*;

fn named(names: &[&str]) -> EnvYaml {
    let name = |(at, text): (usize, &&str)| ChannelName {
        text: (*text).into(),
        line: at + 1,
        column: 1,
    };
    EnvYaml {
        file: "env.yml".into(),
        channels: names.iter().enumerate().map(name).collect(),
        ..EnvYaml::default()
    }
}

fn no_variable(_: &str) -> Option<String> {
    None
}

fn parsed(text: &str) -> Result<Channels> {
    let env = EnvYaml::parse(text, "env.yml", Path::new("/proj"), Default::default()).unwrap();
    let variable = |name: &str| match name {
        "USER" => Some("me".to_owned()),
        "TOKEN" => Some("s3cr%40t".to_owned()),
        _ => None,
    };
    let specs: Vec<&Spec> = env.specs.iter().collect();
    Channels::resolve(&env, &specs, &Condarc::default(), variable)
}

fn wanted(channels: &Channels) -> Vec<&str> {
    channels.wanted.iter().map(|c| c.url.as_str()).collect()
}

#[test]
fn variables_are_expanded_and_secrets_taken_out() {
    let channels = parsed(
        "channels:\n  - https://${USER}:$TOKEN@host/c\n  - https://other/t/$TOKEN/c\n  - plain\n\
         dependencies: [a]\n",
    )
    .unwrap();
    let urls = [
        "https://host/c/",
        "https://other/c/",
        "https://conda.anaconda.org/plain/",
    ];
    assert_eq!(wanted(&channels), urls);
    assert_eq!(channels.urls(), urls);
    assert_eq!(channels.wanted[1].place, Place { line: 3, column: 5 });
    assert!(!channels.credentials.is_empty());
}

#[test]
fn a_variable_that_is_not_set_is_named_with_its_line() {
    let error = parsed("channels:\n  - a\n  - https://$NOPE@host/c\ndependencies: [a]\n")
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("NOPE is not set"), "{error}");
    assert!(error.contains("env.yml:3:5"), "{error}");
}

#[test]
fn a_channel_of_a_spec_is_searched_after_the_others() {
    let channels = parsed(
        "channels: [a, b]\ndependencies:\n  - c::x\n  - b::y\n  - c::z\n  - https://host/d::w\n",
    )
    .unwrap();
    assert_eq!(
        wanted(&channels),
        [
            "https://conda.anaconda.org/a/",
            "https://conda.anaconda.org/b/",
            "https://conda.anaconda.org/c/",
            "https://host/d/"
        ]
    );
    assert_eq!(channels.wanted[2].place.line, 3);
}

fn urls(names: &[&str], condarc: &Condarc) -> Vec<String> {
    let channels = Channels::resolve(&named(names), &[], condarc, no_variable).unwrap();
    channels.urls()
}

fn condarc() -> Condarc {
    Condarc {
        channels: vec!["team".into(), DEFAULTS.into()],
        channel_alias: Some("conda.corp.example/t/tk-1".into()),
        custom_channels: [("team".into(), "https://u:p@repo.corp.example/x".into())].into(),
        custom_multichannels: [("both".into(), vec!["a".into(), "team".into()])].into(),
        default_channels: vec!["https://conda.corp.example/main".into()],
        mirrored_channels: [("a".into(), vec!["https://m.example/a".into()])].into(),
        ..Condarc::default()
    }
}

#[test]
fn names_mean_what_conda_means() {
    let plain = Condarc::default();
    assert_eq!(
        urls(
            &["conda-forge", "defaults", "pkgs/main", "https://h/c"],
            &plain
        ),
        [
            "https://conda.anaconda.org/conda-forge/",
            "https://repo.anaconda.com/pkgs/main/",
            "https://repo.anaconda.com/pkgs/r/",
            "https://h/c/",
        ]
    );
    assert_eq!(
        urls(
            &["conda-forge", "team/label/dev", "both", "defaults"],
            &condarc()
        ),
        [
            "https://conda.corp.example/conda-forge/",
            "https://repo.corp.example/x/team/label/dev/",
            "https://conda.corp.example/a/",
            "https://repo.corp.example/x/team/",
            "https://conda.corp.example/main/",
        ]
    );
}

#[test]
fn condarc_speaks_where_the_file_names_none() {
    let mut none = named(&[DEFAULT_CHANNEL]);
    none.channels[0].line = 0;
    let channels = Channels::resolve(&none, &[], &condarc(), no_variable).unwrap();
    let team = "https://repo.corp.example/x/team/";
    assert_eq!(channels.urls(), [team, "https://conda.corp.example/main/"]);
    assert!(channels.warnings.is_empty());
    let channels = Channels::resolve(&none, &[], &Condarc::default(), no_variable).unwrap();
    assert_eq!(channels.urls().len(), 1);
    assert!(channels.warnings[0].contains("conda-forge is used"));
}

#[test]
fn specs_name_channels_as_the_list_does() {
    let specs = ["both::x", "team::y", "https://h/c::z", "plain"];
    let specs = specs.map(|text| Spec::parse(text).unwrap());
    let refs: Vec<&Spec> = specs.iter().collect();
    let channels = Channels::resolve(&named(&["a"]), &refs, &condarc(), no_variable).unwrap();
    assert_eq!(
        channels.urls(),
        [
            "https://conda.corp.example/a/",
            "https://repo.corp.example/x/team/",
            "https://h/c/",
        ]
    );
    let specs = channels.specs(&specs);
    let url = |wanted: &WantedSpec| wanted.spec.channel.as_ref().map(|c| c.base_url.to_string());
    assert_eq!(
        url(&specs[1]).as_deref(),
        Some("https://repo.corp.example/x/team/")
    );
    assert_eq!(url(&specs[3]), None);
}

#[test]
fn no_credential_stays_in_a_url() {
    let names = ["conda-forge", "team", "https://me:s3cret@h/t/tk-2/c"];
    let channels = Channels::resolve(&named(&names), &[], &condarc(), no_variable).unwrap();
    for url in channels.urls() {
        assert!(!url.contains('@') && !url.contains("/t/"), "{url}");
    }
    assert!(!channels.credentials.is_empty());
    let mirrors: Vec<_> = channels.mirrors.keys().map(Url::as_str).collect();
    assert_eq!(mirrors, ["https://conda.corp.example/a/"]);
}

#[test]
fn what_is_no_channel_is_refused() {
    for bad in ["", " ", "a\nb", "https://"] {
        assert!(
            Channels::resolve(&named(&[bad]), &[], &Condarc::default(), no_variable).is_err(),
            "{bad:?}"
        );
    }
    let condarc = Condarc {
        channel_alias: Some("https://[".into()),
        ..Condarc::default()
    };
    assert!(Channels::resolve(&named(&["x"]), &[], &condarc, no_variable).is_err());
}
