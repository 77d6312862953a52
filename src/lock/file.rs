//! The lock file: `rattler_lock`'s format, which pixi and other tools read.

use std::path::Path;

use rattler_conda_types::{RepoDataRecord, Subdir};
use rattler_lock::{CondaPackageData, Environment, LockFile, PlatformData, PlatformName};

use super::{Lock, LockedEnv};
use crate::error::{Error, Exit, Result, chain};

const ENV: &str = "default";
const MINICONDA: &str = "miniconda";
const GENERATED: &str = "# Written by imgbuild; `imgbuild lock` renews it.\n";

/// The lock as text; the same lock gives the same bytes.
///
/// # Errors
/// Never for a lock that the solver made.
pub fn render(lock: &Lock, platform: Subdir) -> Result<String> {
    let failed = |e: &dyn std::error::Error| {
        Error::new(Exit::Internal, "cannot write the lock").why(chain(e))
    };
    let platform_data = PlatformData {
        name: PlatformName::from(&platform),
        subdir: platform,
        virtual_packages: Vec::new(),
    };
    let mut builder = LockFile::builder()
        .with_platforms(vec![platform_data])
        .map_err(|e| failed(&e))?;
    let environments = [(ENV, Some(&lock.env)), (MINICONDA, lock.miniconda.as_ref())];
    for (name, env) in environments {
        let Some(env) = env else { continue };
        builder.set_channels(name, env.channels.iter().map(String::as_str));
        for record in env.packages() {
            let package = CondaPackageData::from(record.clone());
            builder
                .add_conda_package(name, &platform.to_string(), package)
                .map_err(|e| failed(&e))?;
        }
    }
    let text = builder
        .finish()
        .render_to_string()
        .map_err(|e| failed(&e))?;
    Ok(format!("{GENERATED}{text}"))
}

/// Reads a lock that [`render`] wrote.
///
/// # Errors
/// When the text is not such a lock, or lacks the platform or a sha256.
pub fn parse(text: &str, file: &str, dir: &Path, platform: Subdir) -> Result<Lock> {
    let lock = LockFile::from_str_with_base_directory(text, Some(dir)).map_err(|e| {
        Error::input(format!("{file} is not a lock that imgbuild can read"))
            .why(chain(&e))
            .hint("run `imgbuild lock` to write it anew")
    })?;
    let env = lock.environment(ENV).ok_or_else(|| {
        Error::input(format!("{file} has no environment named '{ENV}'"))
            .hint("run `imgbuild lock` to write it anew")
    })?;
    Ok(Lock {
        env: environment(env, file, platform)?,
        miniconda: lock
            .environment(MINICONDA)
            .map(|env| environment(env, file, platform))
            .transpose()?,
    })
}

fn environment(env: Environment<'_>, file: &str, platform: Subdir) -> Result<LockedEnv> {
    let records = env
        .platforms()
        .find(|candidate| candidate.subdir() == platform)
        .and_then(|found| env.conda_repodata_records(found).transpose())
        .ok_or_else(|| {
            Error::input(format!("{file} has no packages for {platform}"))
                .hint("run `imgbuild lock` to write it anew")
        })?
        .map_err(|e| Error::input(format!("{file} cannot be read")).why(chain(&e)))?;
    for record in &records {
        require_sha256(record, file)?;
    }
    let channels = env.channels().iter().map(|c| c.url.clone()).collect();
    Ok(LockedEnv::new(channels, records))
}

fn require_sha256(record: &RepoDataRecord, file: &str) -> Result<()> {
    if record.package_record.sha256.is_some() {
        return Ok(());
    }
    Err(
        Error::input(format!("{file} has a package without a sha256"))
            .at(&record.url)
            .why("imgbuild verifies every package before it uses a byte of it")
            .hint("run `imgbuild lock` to write it anew"),
    )
}
