//! conda's own configuration: where channels are, and how they are reached.

use std::fs;

use super::{Channels, competing, has, lock, locked};
use crate::support::{Channel, Project};

/// A project whose env.yml names these channels, and with this condarc.
fn project(channels: &str, condarc: &str) -> Project {
    let project = Project::new(&format!("{channels}dependencies: [tool]\n"));
    fs::write(project.home().join(".condarc"), condarc).unwrap();
    project
}

fn urls(project: &Project) -> Vec<String> {
    let text = fs::read_to_string(project.path("env.lock.yml")).unwrap();
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- url: "));
    lines.map(str::to_owned).collect()
}

#[test]
fn channels_are_what_condarc_says() {
    let channels = competing();
    let (root, low) = (
        format!("file://{}", channels.path().display()),
        channels.url("low"),
    );
    let cases = [
        // Where env.yml names none.
        ("", format!("channels: ['{low}']"), "tool-2.0"),
        (
            "",
            format!("channels: [low]\nchannel_alias: {root}"),
            "tool-2.0",
        ),
        (
            "",
            format!("channels: [defaults]\ndefault_channels: ['{low}']"),
            "tool-2.0",
        ),
        (
            "",
            format!("channels: [mine]\ncustom_multichannels: {{mine: ['{low}']}}"),
            "tool-2.0",
        ),
        // Where it does, condarc says what its names mean.
        (
            "channels: [high]\n",
            format!("channels: ['{low}']\nchannel_alias: {root}"),
            "tool-1.0",
        ),
        (
            "channels: [low]\n",
            format!("custom_channels: {{low: '{root}'}}"),
            "tool-2.0",
        ),
        (
            "channels: [defaults]\n",
            format!("default_channels: ['{low}']"),
            "tool-2.0",
        ),
    ];
    for (named, condarc, tool) in cases {
        let project = project(named, &condarc);
        let (output, packages) = locked(&project, &[]);
        has(&packages, &[tool]);
        assert!(
            !output.stderr.contains("no channels are named"),
            "{}",
            output.stderr
        );
    }
}

/// A name for several channels is one priority: among its members the newest version wins.
#[test]
fn a_multichannel_is_one_priority() {
    let channels = competing();
    let (high, low) = (channels.url("high"), channels.url("low"));
    let condarc = format!("custom_multichannels: {{both: ['{high}', '{low}']}}");
    let project = project("channels: [both]\n", &condarc);
    has(&locked(&project, &[]).1, &["tool-2.0"]);
    assert_eq!(urls(&project), [format!("{high}/"), format!("{low}/")]);
    project.write_env("channels: [both]\ndependencies: ['both::tool']\n");
    has(&locked(&project, &[]).1, &["tool-2.0"]);
    // The second member has it, and so the lock still answers.
    project.ok(&["lock", "env.yml", "--locked"]);
}

#[test]
fn what_is_not_followed_is_said_once() {
    let channels = competing();
    let condarc = format!(
        "channels: ['{}']\nauto_activate_base: false\npinned_packages: [x]\nfoo: 1\nbar: {{}}\n",
        channels.url("low")
    );
    let project = project("", &condarc);
    fs::create_dir(project.home().join(".conda")).unwrap();
    fs::write(project.home().join(".conda/condarc"), "baz: 1\nfoo: 2\n").unwrap();
    let (output, _) = locked(&project, &[]);
    let warnings: Vec<_> = output.stderr.matches("of condarc").collect();
    assert_eq!(warnings.len(), 1, "{}", output.stderr);
    for key in ["pinned_packages (", "foo (", "bar (", "baz ("] {
        assert!(output.stderr.contains(key), "{}", output.stderr);
    }
    assert!(
        !output.stderr.contains("auto_activate_base"),
        "{}",
        output.stderr
    );
}

#[test]
fn a_broken_condarc_is_an_error_at_its_place() {
    for (text, words) in [
        ("channels: [x\n", "malformed YAML"),
        ("channels: {a: b}\n", "channels must be a list"),
        ("channel_priority: often\n", ".condarc:1:19"),
        ("ssl_verify: /no/such.pem\n", "/no/such.pem"),
        ("channel_alias: 'http://['\n", "channel_alias"),
        ("proxy_servers: {http: 'http://['}\n", "proxy for http"),
        (
            "mirrored_channels: {tool: ['http://me:s3cret@h/x']}\n",
            "a mirror's URL holds a password",
        ),
    ] {
        let project = project("channels: [x]\n", text);
        let (output, _) = lock(&project, &[]);
        assert!([2, 3].contains(&output.status), "{text}: {}", output.stderr);
        assert!(output.stderr.contains(words), "{text}: {}", output.stderr);
        assert!(!output.stderr.contains("s3cret"), "{}", output.stderr);
    }
}

/// The lock keeps the channel's own address, so that it is the same with and without mirrors.
#[test]
fn mirrors_stand_in_for_a_channel() {
    let channels = competing();
    let served = Channel::serve(channels.path());
    let condarc = |mirrors: &str| {
        format!("mirrored_channels:\n  'http://channel.invalid/low': [{mirrors}]\n")
    };
    let named = "channels: ['http://channel.invalid/low']\n";
    let live = format!("'{}/low'", served.url);
    let project = project(named, &condarc(&live));
    has(&locked(&project, &[]).1, &["tool-2.0"]);
    assert_eq!(urls(&project), ["http://channel.invalid/low/"]);
    // The next one is asked where the first is down.
    let dead = format!("'http://127.0.0.1:9/low', {live}");
    let other = self::project(named, &condarc(&dead));
    has(&locked(&other, &[]).1, &["tool-2.0"]);
    assert_eq!(
        crate::mini::read(&other, "env.lock.yml"),
        crate::mini::read(&project, "env.lock.yml")
    );
}

#[test]
fn proxies_are_used() {
    let channels = Channels::crafted(&["low: tool 2.0"]);
    // A proxy is asked for whole URLs; the server takes their path.
    let proxy = Channel::serve(channels.path());
    let condarc = format!("proxy_servers: {{http: '{}'}}\n", proxy.url);
    let project = project("channels: ['http://channel.invalid/low']\n", &condarc);
    has(&locked(&project, &[]).1, &["tool-2.0"]);
}
