//! What the machines that run the image offer: read off flags, the base image and the lock, never
//! off this machine.

use std::env;

use super::lock::Locker;
use crate::{
    base::{BaseImage, BaseSource, Libc, tree::BaseTree},
    digest::Digest,
    docker,
    error::{Error, Result},
    lock::{ASSUMED_GLIBC, CudaTarget, Lock, VirtualPackages, glibc_unmet},
    machine::Machine,
};

/// Overrides `__glibc` (conda docs, "Managing virtual packages").
const GLIBC: &str = "CONDA_OVERRIDE_GLIBC";

/// The base image of a solve: what is known of it.
#[derive(Clone, Copy, Default)]
pub(super) struct Base<'a> {
    /// Its digest.
    pub digest: Option<&'a Digest>,
    /// The image, where it was loaded already.
    pub image: Option<&'a BaseImage>,
}

impl<'a> Base<'a> {
    pub(super) fn loaded(image: &'a BaseImage) -> Self {
        Self {
            digest: image.digest.as_ref(),
            image: Some(image),
        }
    }
}

impl Locker<'_> {
    /// The CUDA that the image is for: what is given now, else what the pins say, else what the
    /// lock has.
    pub(super) fn cuda(&self, old: Option<&Lock>) -> Result<CudaTarget> {
        let env = &self.spec.env;
        let resolve = |given| CudaTarget::resolve(given, &env.specs, &env.file);
        let locked = old.and_then(|lock| lock.conditions.version_of("__cuda"));
        match (resolve(self.spec.cuda.as_deref()), locked) {
            (Ok(target), Some(_)) if target.version.is_some() => Ok(target),
            (_, Some(locked)) => resolve(Some(locked)),
            (target, None) => target,
        }
    }

    /// The virtual packages, as far as no base image has to be read for them.
    pub(super) fn target(&self, cuda: &CudaTarget, old: Option<&Lock>) -> VirtualPackages {
        let locked = old.and_then(|lock| lock.conditions.version_of("__glibc"));
        VirtualPackages {
            cuda: cuda.version.clone(),
            glibc: env::var(GLIBC).ok().or(locked.map(str::to_owned)),
            archspec: env::var("CONDA_OVERRIDE_ARCHSPEC")
                .ok()
                .filter(|name| self.has_processor(name)),
            linux: env::var("CONDA_OVERRIDE_LINUX").ok(),
        }
    }

    /// Whether a processor may be the machine's: what is said for one platform is not of another.
    fn has_processor(&self, name: &str) -> bool {
        self.spec.machine == Machine::Amd64 || !name.starts_with(Machine::Amd64.uname())
    }

    /// The glibc of the base image; what is assumed where it has none, and `locked` where it cannot
    /// be read.
    pub(super) fn glibc(&self, base: Base<'_>, locked: Option<String>) -> Result<String> {
        if let Ok(given) = env::var(GLIBC) {
            return Ok(given);
        }
        let loaded;
        let image = match base.image {
            Some(image) => image,
            None => match self.pinned(base.digest) {
                Ok(image) => {
                    loaded = image;
                    &loaded
                }
                Err(e) => {
                    let glibc = locked.unwrap_or_else(|| ASSUMED_GLIBC.to_owned());
                    let text = e.to_string();
                    let first = text.lines().next().unwrap_or_default();
                    self.reporter.warn(format!(
                        "__glibc is taken as {glibc}, for the base image cannot be read: {first}"
                    ));
                    return Ok(glibc);
                }
            },
        };
        match self.ground(image.clone())?.tree.libc() {
            Some(Libc::Glibc(version)) => Ok(version.clone()),
            Some(Libc::Musl) => Err(self.musl()),
            None => {
                self.reporter.step(format!(
                    "__glibc is taken as {ASSUMED_GLIBC}: the base image {} has no glibc",
                    self.spec.base
                ));
                Ok(ASSUMED_GLIBC.to_owned())
            }
        }
    }

    fn pinned(&self, digest: Option<&Digest>) -> Result<BaseImage> {
        let daemon = async { Ok(docker::connect().await?.docker) };
        let loader = self.loader();
        self.runtime
            .block_on(loader.describe(&self.spec.base, digest, daemon))
    }

    /// Refuses a lock whose packages cannot run on the base: it may have been made for another.
    pub(super) fn runs_on(&self, lock: &Lock, base: &BaseTree) -> Result<()> {
        if env::var_os(GLIBC).is_some() || self.spec.base == BaseSource::Scratch {
            return Ok(());
        }
        let version = match base.libc() {
            Some(Libc::Glibc(version)) => version,
            Some(Libc::Musl) => return Err(self.musl()),
            None => return Ok(()),
        };
        let mut environments = lock.environments();
        match environments.find_map(|env| glibc_unmet(env, version)) {
            None => Ok(()),
            Some((package, needed)) => Err(Error::input(format!(
                "{package} does not run on the base image"
            ))
            .at(&self.spec.base)
            .why(format!(
                "it needs {needed}, and the base has glibc {version}"
            ))
            .hint("run `imgbuild lock` for this base, or take a newer base (--base)")),
        }
    }

    fn musl(&self) -> Error {
        Error::input("conda's packages do not run on this base image")
            .at(&self.spec.base)
            .why("they need glibc, and it has musl (as Alpine does)")
            .hint(format!(
                "take a base with glibc, such as debian:bookworm-slim; if it has one that imgbuild \
                 does not see, say its version with {GLIBC}"
            ))
    }
}
