//! The HTTP client for channels.

use std::{sync::Arc, time::Duration};

use rattler_networking::{
    Authentication, AuthenticationMiddleware, AuthenticationStorage, OfflineMiddleware,
    authentication_storage::{StorageBackend, backends::memory::MemoryStorage},
};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};

use crate::error::{Error, Result, chain};

/// How the client behaves.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// Every request fails.
    pub offline: bool,
    /// Logins by host, which go before those of the auth file and `.netrc`.
    pub logins: Vec<(String, Authentication)>,
}

/// A client that signs in where the options, rattler's auth file or `.netrc` have a credential for
/// the host.
///
/// # Errors
/// When the auth file cannot be read or TLS cannot be set up.
pub fn http_client(options: &ClientOptions) -> Result<ClientWithMiddleware> {
    let broken = |e: &dyn std::error::Error| {
        Error::environment("cannot set up the HTTP client").why(chain(e))
    };
    let client = reqwest::Client::builder()
        .user_agent(concat!("imgbuild/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(20))
        // Bounds a hung socket, not a long download.
        .read_timeout(Duration::from_secs(60))
        .build()
        .map_err(|e| broken(&e))?;
    let builder = ClientBuilder::new(client);
    if options.offline {
        return Ok(builder.with(OfflineMiddleware).build());
    }
    let own = MemoryStorage::new();
    for (host, login) in &options.logins {
        own.store(host, login).map_err(|e| broken(&e))?;
    }
    let known = AuthenticationStorage::from_env_and_defaults().map_err(|e| broken(&e))?;
    let mut storage = AuthenticationStorage::empty();
    storage.add_backend(Arc::new(own));
    known
        .backends
        .into_iter()
        .for_each(|backend| storage.add_backend(backend));
    let auth = AuthenticationMiddleware::from_auth_storage(storage);
    Ok(builder.with(auth).build())
}
