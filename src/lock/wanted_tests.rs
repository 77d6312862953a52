use super::*;

fn env(text: &str) -> EnvYaml {
    EnvYaml::parse(text, "env.yml", Path::new("/proj")).unwrap()
}

fn resolve(text: &str) -> Result<Channels> {
    let env = env(text);
    let variable = |name: &str| match name {
        "USER" => Some("me".to_owned()),
        "TOKEN" => Some("s3cr%40t".to_owned()),
        _ => None,
    };
    Channels::resolve(&env, &[&env.specs], variable)
}

fn urls(channels: &Channels) -> Vec<&str> {
    channels.wanted.iter().map(|c| c.url.as_str()).collect()
}

#[test]
fn secrets_are_taken_out_of_urls() {
    let channels = resolve(
        "channels:\n  - https://${USER}:$TOKEN@host/c\n  - https://other/t/$TOKEN/c\n  - plain\n\
         dependencies: [a]\n",
    )
    .unwrap();
    assert_eq!(
        urls(&channels),
        [
            "https://host/c/",
            "https://other/c/",
            "https://conda.anaconda.org/plain/"
        ]
    );
    assert_eq!(channels.wanted[1].place, Place { line: 3, column: 5 });
    assert_eq!(
        channels.logins,
        [
            (
                "host".into(),
                Authentication::BasicHTTP {
                    username: "me".into(),
                    password: "s3cr@t".into()
                }
            ),
            (
                "other".into(),
                Authentication::CondaToken("s3cr%40t".into())
            ),
        ]
    );
    let list: Vec<_> = channels.list.iter().map(|c| c.base_url.as_str()).collect();
    assert_eq!(list, urls(&channels));
}

#[test]
fn a_variable_that_is_not_set_is_named_with_its_line() {
    let error = resolve("channels:\n  - a\n  - https://$NOPE@host/c\ndependencies: [a]\n")
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("NOPE is not set"), "{error}");
    assert!(error.contains("env.yml:3:5"), "{error}");
}

#[test]
fn two_logins_for_one_host_are_refused() {
    let text = |one: &str, two: &str| {
        format!("channels: ['https://{one}@host/a', 'https://{two}@host/b']\ndependencies: [a]\n")
    };
    assert!(resolve(&text("u:p", "u:p")).is_ok());
    let error = resolve(&text("u:p", "u:q")).err().unwrap().to_string();
    assert!(error.contains("different logins"), "{error}");
    assert!(!error.contains("u:q"), "{error}");
}

#[test]
fn a_channel_of_a_spec_is_searched_after_the_others() {
    let channels = resolve(
        "channels: [a, b]\ndependencies:\n  - c::x\n  - b::y\n  - c::z\n  - https://host/d::w\n",
    )
    .unwrap();
    assert_eq!(
        urls(&channels),
        [
            "https://conda.anaconda.org/a/",
            "https://conda.anaconda.org/b/",
            "https://conda.anaconda.org/c/",
            "https://host/d/"
        ]
    );
    assert_eq!(channels.wanted[2].place.line, 3);
    let specs = env("channels: [a]\ndependencies: [c::z]\n").specs;
    let spec = &channels.specs(&specs)[0].spec;
    let url = spec.channel.as_ref().unwrap().base_url.as_str();
    assert_eq!(url, "https://conda.anaconda.org/c/");
}
