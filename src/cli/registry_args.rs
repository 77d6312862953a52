//! Flags of every command that speaks with registries.

use std::time::Duration;

use clap::Args as Group;

use crate::registry::Settings;

/// How registries are spoken to.
#[derive(Group, Clone)]
#[command(next_help_heading = "Registries")]
pub(super) struct RegistryArgs {
    /// Speak plain HTTP with this registry; may be given more than once. Registries on this machine
    /// need it only where they have a certificate.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub plain_http: Vec<String>,
    /// Give up on a registry that takes and sends nothing for that many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = Settings::SILENCE,
          env = "IMGBUILD_REGISTRY_TIMEOUT", hide_env_values = true,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub registry_timeout: u64,
}

impl RegistryArgs {
    pub(super) fn settings(&self) -> Settings {
        Settings {
            plain_http: self.plain_http.clone(),
            silence: Duration::from_secs(self.registry_timeout),
        }
    }
}
