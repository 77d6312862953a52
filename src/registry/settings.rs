//! How registries are spoken to, as the user asks for it.

use std::{net::IpAddr, time::Duration};

/// What holds for all registries of a command.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Hosts, with their ports if they have one, that are spoken to in plain HTTP.
    pub plain_http: Vec<String>,
    /// How long a registry may take or send no byte.
    pub silence: Duration,
}

impl Settings {
    /// How long a registry may be silent, unless the user says otherwise, in seconds.
    pub const SILENCE: u64 = 60;

    /// Whether the user asks for plain HTTP with this host.
    pub(super) fn is_plain(&self, host: &str) -> bool {
        self.plain_http.iter().any(|plain| plain == host)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            silence: Duration::from_secs(Self::SILENCE),
        }
    }
}

/// Whether a registry host is this machine, where plain HTTP is what test registries speak.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_and_for_hosts_that_are_named() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example",
            "docker.io",
            "10.0.0.1:5000",
            "127.0.0.1.example:80",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
        let settings = Settings {
            plain_http: vec!["lan:5000".into()],
            ..Settings::default()
        };
        assert!(settings.is_plain("lan:5000"));
        assert!(!settings.is_plain("lan") && !settings.is_plain("lan:5001"));
    }
}
