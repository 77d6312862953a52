//! One prefix of the image before anything is made: what goes there, and what is known of it.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rattler_conda_types::RepoDataRecord;
use rattler_digest::{Md5, compute_file_digest};
use serde::Serialize;

use super::{Order, layers::Place, parallel::in_parallel, wheels};
use crate::{
    cache_from::CacheFrom,
    digest::Digest,
    error::{Error, Exit, Result, chain},
    fetch::{self, Wanted},
    layer::Compression,
    lock::LockedEnv,
    package::{
        ArchiveError, ArchiveKind, Contents, Decoders, InfoFiles, PackageArchive, PackageInfo,
        Prefix, Survey, contents, outlines, place, survey,
    },
    plan::{self, Budget, LayerPlan, Locked},
    pyc::Compiler,
    spec::PipSection,
    store::Store,
};

/// Changes whenever the same packages would give another survey.
const SURVEY_FORMAT: &str = "imgbuild-survey-4";

/// A prefix of the image and what goes there.
pub(super) struct Site<'a> {
    /// The locked packages.
    pub locked: &'a LockedEnv,
    /// What was asked of pip: its sources may have credentials that a lock has not.
    pub pip: &'a PipSection,
    /// Where the packages are linked to.
    pub prefix: Prefix,
    /// What compiles Python files, where that is wanted.
    pub compiler: Option<Compiler<'a>>,
    /// Where the prefix is in the base image.
    pub place: Place,
    /// Which of the image's prefixes it is.
    pub role: Role,
    /// How many layers it may take.
    pub budget: Budget,
    /// What its layers are compressed with.
    pub compression: Compression,
    /// Which of its layers are made first.
    pub order: Order,
    /// The specs that asked for the packages, as the user wrote them.
    pub requested: Vec<String>,
    /// The names in these.
    pub names: BTreeSet<String>,
}

/// Which of an image's prefixes it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A Miniconda base below an environment.
    Miniconda,
    /// An environment over a Miniconda base.
    OverMiniconda,
    /// The only prefix.
    Alone,
}

impl<'a> Site<'a> {
    /// What the layer in that place of the plan, of archives of so many bytes, goes by among the
    /// image's layers; the greatest first.
    pub(super) fn rank(&self, place: usize, size: u64) -> u64 {
        match self.order {
            Order::LargestFirst => size,
            Order::LowestFirst => {
                let above = u64::from(self.role == Role::OverMiniconda) << u32::BITS;
                u64::MAX - above - place as u64
            }
        }
    }

    /// The survey of an earlier run over the same packages, if there was one: on this machine, or
    /// where an earlier image comes from.
    pub(super) fn known(&self, store: &Store, cache_from: &CacheFrom) -> Result<Option<Survey>> {
        match store.survey(&self.key()?) {
            Some(known) => Ok(Some(known)),
            None => Ok(cache_from.survey(&self.noted_key()?)),
        }
    }

    /// A survey as it goes with an image, and its key there. Both are the same whatever lock named
    /// the packages.
    pub(super) fn noted(&self, survey: &Survey) -> Result<(Digest, Survey)> {
        let md5s = self.locked.packages().iter().filter_map(|record| {
            let id = Locked::Conda(record).id();
            let md5 = survey.md5_of(record, &id)?;
            Some((id, md5))
        });
        let survey = Survey {
            md5s: md5s.collect(),
            ..survey.clone()
        };
        Ok((self.noted_key()?, survey))
    }

    /// The packages in the order of installation: conda's as the lock has them, then wheels.
    pub(super) fn packages(&self) -> impl Iterator<Item = Locked<'a>> + use<'a> {
        let conda = self.locked.packages().iter().map(Locked::Conda);
        conda.chain(self.locked.wheels().iter().map(Locked::Wheel))
    }

    /// The package at that position of [`Site::packages`].
    pub(super) fn package(&self, position: usize) -> Option<Locked<'a>> {
        let conda = self.locked.packages();
        match position.checked_sub(conda.len()) {
            None => conda.get(position).map(Locked::Conda),
            Some(wheel) => self.locked.wheels().get(wheel).map(Locked::Wheel),
        }
    }

    /// How a package is brought.
    pub(super) fn wanted(&self, package: Locked<'a>) -> Wanted<'a> {
        match package {
            Locked::Conda(record) => Wanted::Conda(record),
            Locked::Wheel(wheel) => Wanted::Wheel(wheel, self.pip),
        }
    }

    /// Whether the store has every package.
    pub(super) fn is_here(&self, store: &Store) -> bool {
        self.packages().all(|package| is_here(package, store))
    }

    /// Opens the packages, all of which the store must have, and keeps the survey.
    pub(super) fn survey(&self, store: &Store, threads: usize) -> Result<Survey> {
        let decoders = Decoders::new(threads);
        let packages: Vec<Locked<'_>> = self.packages().collect();
        let all = in_parallel(&packages, threads, |package| {
            Ok(self.open(*package, store, &decoders)?.0)
        })?;
        let found = self.surveyed(&all)?;
        self.keep(&found, store)?;
        Ok(found)
    }

    /// What the packages, given in their order, mean together.
    pub(super) fn surveyed(&self, all: &[impl Borrow<Contents>]) -> Result<Survey> {
        let mut found = survey(all)?;
        let sources: Vec<Digest> = self
            .packages()
            .map(|one| self.source(one))
            .collect::<Result<_>>()?;
        found.outlines = sources.into_iter().zip(outlines(all)).collect();
        Ok(found)
    }

    /// What a package is known by in a survey of other packages: all that its paths depend on.
    pub(super) fn source(&self, package: Locked<'_>) -> Result<Digest> {
        key(&(
            SURVEY_FORMAT,
            self.python(),
            package.id(),
            package.sha256()?,
        ))
    }

    fn python(&self) -> Option<impl Serialize> {
        self.prefix.python.as_ref().map(|python| {
            (
                python.short_version,
                &python.site_packages_path,
                &python.bin_dir,
            )
        })
    }

    /// Keeps what the packages mean together.
    pub(super) fn keep(&self, survey: &Survey, store: &Store) -> Result<()> {
        let key = self.key()?;
        store.put_survey(&key, survey)?;
        store.put_survey(&self.wishes()?, &key)
    }

    /// The survey that was kept last where the same was asked for.
    pub(super) fn last(&self, store: &Store) -> Result<Option<Survey>> {
        let key: Option<Digest> = store.survey(&self.wishes()?);
        Ok(key.and_then(|key| store.survey(&key)))
    }

    /// The key of what the user asks for, whatever versions of it.
    fn wishes(&self) -> Result<Digest> {
        let prefix = &self.prefix.path;
        key(&(SURVEY_FORMAT, "of", prefix, self.python(), &self.names))
    }

    /// What a package that the store has brings, and what it says of itself.
    pub(super) fn open(
        &self,
        package: Locked<'_>,
        store: &Store,
        decoders: &Decoders,
    ) -> Result<(Contents, Option<PackageInfo>)> {
        let record = match package {
            Locked::Conda(record) => record,
            Locked::Wheel(wheel) => {
                return Ok((wheels::contents(wheel, &self.prefix, store)?, None));
            }
        };
        let archive = fetch::archive(record, store)?.with(decoders);
        let info = info(record, &archive, store)?;
        let size = archive.size().map_err(|e| faulty(record, &e))?;
        let mut contents = contents(record, &info, size, &self.prefix)?;
        if record.package_record.md5.is_none() {
            contents.md5 = Some(md5(&archive.path)?);
        }
        Ok((contents, Some(info)))
    }

    /// Which package goes into which layer. Without a survey, a package whose size the lock does
    /// not say counts as empty.
    pub(super) fn plan(&self, survey: Option<&Survey>) -> LayerPlan {
        let none = Default::default();
        let sizes = survey.map_or(&none, |survey| &survey.sizes);
        let items = plan::items(self.locked, sizes);
        match self.role {
            Role::Miniconda => plan::plan_miniconda(&items, &self.budget),
            Role::OverMiniconda => plan::plan(&items, true, &self.budget),
            Role::Alone => plan::plan(&items, false, &self.budget),
        }
    }

    fn key(&self) -> Result<Digest> {
        self.key_with(|record| record.package_record.md5.is_none())
    }

    fn noted_key(&self) -> Result<Digest> {
        self.key_with(|_| true)
    }

    /// `measured` tells of which packages the survey has the md5.
    fn key_with(&self, measured: impl Fn(&RepoDataRecord) -> bool) -> Result<Digest> {
        let packages = self
            .locked
            .packages()
            .iter()
            .map(|record| {
                let name = record.package_record.name.as_normalized();
                Ok((name, fetch::sha256_of(record)?, measured(record)))
            })
            .collect::<Result<Vec<_>>>()?;
        let wheels: Vec<_> = self
            .locked
            .wheels()
            .iter()
            .map(|wheel| (&wheel.name, wheel.sha256))
            .collect();
        key(&(SURVEY_FORMAT, self.python(), packages, wheels))
    }
}

fn key(of: &impl Serialize) -> Result<Digest> {
    serde_json::to_vec(of)
        .map(|bytes| Digest::of(&bytes))
        .map_err(|e| Error::new(Exit::Internal, "cannot make a survey key").why(e))
}

/// Whether the store has a package. A lock that has no sha256 of it does not tell.
pub(super) fn is_here(package: Locked<'_>, store: &Store) -> bool {
    match package {
        Locked::Conda(record) => {
            fetch::sha256_of(record).is_ok_and(|sha256| store.package_path(&sha256).exists())
        }
        Locked::Wheel(wheel) => fetch::wheel_path(wheel, store).exists(),
    }
}

/// What a package's `info/` says. That of a `.tar.bz2` is kept: to reach it, the content has to be
/// decoded, too, while a `.conda` has it apart.
pub(super) fn info(
    record: &RepoDataRecord,
    archive: &PackageArchive,
    store: &Store,
) -> Result<PackageInfo> {
    let faulty = |e| faulty(record, &e);
    if archive.kind == ArchiveKind::Conda {
        return archive.info().map_err(faulty);
    }
    let package = fetch::sha256_of(record)?;
    if let Some(known) = known_info(&package, store) {
        return Ok(known);
    }
    let files = archive.info_files().map_err(faulty)?;
    let info = PackageInfo::parse(&files).map_err(faulty)?;
    if let Some(texts) = texts(&files) {
        store.put_info(&package, &texts)?;
    }
    Ok(info)
}

fn known_info(package: &Digest, store: &Store) -> Option<PackageInfo> {
    let kept = store.info(package)?.into_iter();
    let files = kept.map(|(name, text)| (name, text.into_bytes())).collect();
    PackageInfo::parse(&files).ok()
}

/// None where one is no UTF-8, which JSON cannot hold.
fn texts(files: &InfoFiles) -> Option<BTreeMap<&str, &str>> {
    let text = |(name, bytes)| {
        Some((
            String::as_str(name),
            str::from_utf8(Vec::as_slice(bytes)).ok()?,
        ))
    };
    files.iter().map(text).collect()
}

fn md5(path: &Path) -> Result<String> {
    compute_file_digest::<Md5>(path)
        .map(hex::encode)
        .map_err(|e| Error::io("read", path, e))
}

fn faulty(record: &RepoDataRecord, why: &ArchiveError) -> Error {
    Error::environment("a package archive cannot be read")
        .at(place(record))
        .why(chain(why))
        .hint("its hash is right, so the package itself is faulty: use another build of it")
}
