//! rattler's own installer, for the Dockerfile that builds are compared with: `install LOCK PREFIX [PACKAGE_CACHE]`.
//!
//! The lock is imgbuild's own, so both install the same packages; conda's link scripts do not run in either.

use std::path::Path;

use imgbuild::{lock::foreign, spec::LockChoice};
use rattler::{install::Installer, package_cache::PackageCache};
use rattler_conda_types::Subdir;
use reqwest_middleware::ClientWithMiddleware;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [lock, prefix, cache @ ..] = arguments.as_slice() else {
        return Err("usage: install LOCK PREFIX [PACKAGE_CACHE]".into());
    };
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "no TLS provider")?;
    let bytes = std::fs::read(lock)?;
    let dir = Path::new(lock).parent().unwrap_or(Path::new("/"));
    let given = foreign::parse(&bytes, lock, dir, &LockChoice::default(), Subdir::Linux64)
        .map_err(|e| e.to_string())?;
    let cache = cache.first().map_or("/tmp/rattler", String::as_str);
    // The image has no certificates, and packages come over loopback: ask for none.
    let client = reqwest::Client::builder().tls_certs_only([]).build()?;
    Installer::new()
        .with_target_platform(Subdir::Linux64)
        .with_download_client(ClientWithMiddleware::from(client))
        .with_package_cache(PackageCache::new(Path::new(cache)))
        .with_execute_link_scripts(false)
        .install(prefix, given.lock.env.packages().to_vec())
        .await?;
    Ok(())
}
