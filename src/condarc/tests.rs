use super::*;

fn parse(text: &str) -> Result<Condarc> {
    let source = Source {
        file: ".condarc",
        text,
    };
    keys::parse(source, |name| (name == "TOKEN").then(|| "tk-1".to_owned()))
}

#[test]
fn keys_of_a_company() {
    let found = parse(
        "channels: [conda-forge, $TOKEN/x, '${TOKEN}y', $UNSET]\n\
         channel_alias: https://conda.corp.example/t/$TOKEN/\n\
         default_channels:\n  - https://conda.corp.example/main\n\
         custom_channels:\n  team: https://repo.corp.example\n\
         custom_multichannels:\n  all: [conda-forge, team]\n\
         mirrored_channels:\n  conda-forge: [https://a.example/cf, https://b.example/cf]\n\
         channel_priority: flexible\n\
         ssl_verify: /etc/ssl/corp.pem\n\
         proxy_servers:\n  http: http://p:1\n  https: http://p:2\n\
         remote_connect_timeout_secs: 9.15\n\
         auto_activate_base: false\n",
    )
    .unwrap();
    assert_eq!(found.channels, ["conda-forge", "tk-1/x", "tk-1y", "$UNSET"]);
    let alias = found.channel_alias.as_deref();
    assert_eq!(alias, Some("https://conda.corp.example/t/tk-1/"));
    assert_eq!(found.custom_channels["team"], "https://repo.corp.example");
    assert_eq!(found.custom_multichannels["all"], ["conda-forge", "team"]);
    assert_eq!(found.mirrored_channels["conda-forge"].len(), 2);
    assert_eq!(found.channel_priority, Some(ChannelPriority::Flexible));
    let bundle = SslVerify::Bundle("/etc/ssl/corp.pem".into());
    assert_eq!(found.ssl_verify, Some(bundle));
    assert_eq!(found.proxy_servers["https"], "http://p:2");
    assert_eq!(found.connect_timeout, Some(Duration::from_millis(9150)));
    assert_eq!(found.warning(), None);
}

#[test]
fn later_files_win_and_lists_join() {
    let mut merged = Condarc::default();
    for text in [
        "channels: [a, b]\nchannel_priority: strict\ncustom_channels: {x: u1, y: u2}\nnonsense: 1",
        "channels: [b, c]\nchannel_priority: true\ncustom_channels: {x: u3}\npinned_packages: [p]",
        "ssl_verify: no\n",
    ] {
        merged.over(parse(text).unwrap());
    }
    assert_eq!(merged.channels, ["b", "c", "a"]);
    assert_eq!(merged.channel_priority, Some(ChannelPriority::Flexible));
    assert_eq!(merged.custom_channels["x"], "u3");
    assert_eq!(merged.custom_channels["y"], "u2");
    assert_eq!(merged.ssl_verify, Some(SslVerify::Off));
    let warning = merged.warning().unwrap();
    assert!(
        warning.contains("pinned_packages (.condarc), nonsense (.condarc)"),
        "{warning}"
    );
}

#[test]
fn what_has_no_meaning_is_refused_at_its_place() {
    for (text, place) in [
        ("channels: {a: b}", ".condarc:1"),
        ("a: 1\nchannel_priority: maybe", ".condarc:2:19"),
        ("remote_read_timeout_secs: -1", ".condarc:1:27"),
        ("remote_read_timeout_secs: 1e300", ".condarc:1:27"),
        ("custom_channels: [x]", ".condarc:1"),
        ("channels: [\n", ".condarc:"),
        ("a: &a [*a]", ".condarc"),
        ("just text", ".condarc:1:1"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(place), "{text}: {error}");
    }
    for empty in ["", "\n", "# nothing\n", "channels:\n"] {
        assert_eq!(parse(empty).unwrap(), Condarc::default(), "{empty:?}");
    }
}

#[test]
fn files_are_searched_where_conda_does() {
    let paths = search_path(|name| {
        let value = match name {
            "HOME" => "/h",
            "XDG_CONFIG_HOME" => "/x",
            "CONDA_EXE" => "/m/bin/conda",
            "CONDA_PREFIX" => "/m/envs/e",
            "CONDARC" => "/c/rc",
            _ => return None,
        };
        Some(value.into())
    });
    let texts: Vec<_> = paths.iter().map(|p| p.to_str().unwrap()).collect();
    let three = |dir: &str| [".condarc", "condarc", "condarc.d"].map(|n| format!("{dir}/{n}"));
    let mut expected = Vec::new();
    for dir in [
        "/etc/conda",
        "/var/lib/conda",
        "/m",
        "/x/conda",
        "/h/.config/conda",
        "/h/.conda",
    ] {
        expected.extend(three(dir));
    }
    expected.push("/h/.condarc".into());
    expected.extend(three("/m/envs/e"));
    expected.push("/c/rc".into());
    assert_eq!(texts, expected);
    assert_eq!(search_path(|_| None).len(), 6);
}

#[test]
fn variables_of_conda() {
    let set = |name: &str| match name {
        "CONDA_CHANNEL_PRIORITY" => Some("disabled".to_owned()),
        "REQUESTS_CA_BUNDLE" => Some("/ca.pem".to_owned()),
        _ => None,
    };
    let found = keys::from_variables(set).unwrap();
    assert_eq!(found.channel_priority, Some(ChannelPriority::Disabled));
    assert_eq!(found.ssl_verify, Some(SslVerify::Bundle("/ca.pem".into())));
    assert!(keys::from_variables(|_| Some("odd".to_owned())).is_err());
}
