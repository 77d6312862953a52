//! The channels of a command: resolved as conda would on this machine, and the client for them.

use rattler_solve::ChannelPriority;
use reqwest_middleware::ClientWithMiddleware;

use super::warn_all;
use crate::{
    condarc::Condarc,
    error::Result,
    lock::{Channels, ClientOptions, http_client},
    report::Reporter,
    spec::{ImageSpec, Spec},
};

/// Where packages come from, and how they are asked for.
pub(super) struct Online {
    /// The channels in priority order.
    pub channels: Channels,
    /// Signs in where it has to.
    pub client: ClientWithMiddleware,
    /// How channels compete.
    pub priority: ChannelPriority,
}

impl Online {
    /// Reads condarc, and says what a user should know.
    pub(super) fn open(spec: &ImageSpec, offline: bool, reporter: &Reporter) -> Result<Self> {
        let condarc = Condarc::load()?;
        let miniconda = spec.miniconda.iter().flat_map(|m| &m.specs);
        let specs: Vec<&Spec> = spec.env.specs.iter().chain(miniconda).collect();
        let variable = |name: &str| std::env::var(name).ok();
        let channels = Channels::resolve(&spec.env, &specs, &condarc, variable)?;
        let options = ClientOptions::new(&condarc, &channels, offline);
        warn_all(condarc.warning().as_slice(), reporter);
        warn_all(&channels.warnings, reporter);
        warn_all(&options.warnings(), reporter);
        Ok(Self {
            client: http_client(&options)?,
            priority: spec
                .channel_priority
                .or(condarc.channel_priority)
                .unwrap_or(ChannelPriority::Strict),
            channels,
        })
    }
}
