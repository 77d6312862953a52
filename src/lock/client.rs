//! The HTTP client for channels.

use std::time::Duration;

use rattler_networking::AuthenticationMiddleware;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};

use crate::error::{Error, Result, chain};

/// A client that signs in where rattler's auth file or `.netrc` has a credential for the host.
///
/// # Errors
/// When the auth file cannot be read or TLS cannot be set up.
pub fn http_client() -> Result<ClientWithMiddleware> {
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
    let auth = AuthenticationMiddleware::from_env_and_defaults().map_err(|e| broken(&e))?;
    Ok(ClientBuilder::new(client).with(auth).build())
}
