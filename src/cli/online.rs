//! The channels of a command: resolved as conda would on this machine, and the client for them.

use std::collections::BTreeSet;

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
    /// Reads condarc, and says what a user should know, once for all of the specs.
    pub(super) fn open_all(
        specs: &[ImageSpec],
        offline: bool,
        reporter: &Reporter,
    ) -> Result<Vec<Self>> {
        let condarc = Condarc::load()?;
        let mut warnings = Vec::new();
        let opened = specs
            .iter()
            .map(|spec| Self::open(spec, &condarc, offline, &mut warnings))
            .collect::<Result<_>>()?;
        let mut told = BTreeSet::new();
        warnings.retain(|warning| told.insert(warning.clone()));
        warn_all(&warnings, reporter);
        Ok(opened)
    }

    fn open(
        spec: &ImageSpec,
        condarc: &Condarc,
        offline: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let miniconda = spec.miniconda.iter().flat_map(|m| &m.specs);
        let specs: Vec<&Spec> = spec.env.specs.iter().chain(miniconda).collect();
        let variable = |name: &str| std::env::var(name).ok();
        let channels = Channels::resolve(&spec.env, &specs, condarc, variable)?;
        let options = ClientOptions::new(condarc, &channels, offline);
        warnings.extend(condarc.warning());
        warnings.extend(channels.warnings.iter().cloned());
        warnings.extend(options.warnings());
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
