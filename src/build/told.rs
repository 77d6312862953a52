//! What a survey of other packages tells of those of a prefix.

use super::site::Site;
use crate::{
    cache_from::CacheFrom,
    digest::Digest,
    error::Result,
    package::{Contents, Survey},
    plan::Locked,
    store::Store,
};

/// One package of this many may have changed since the last build here, or one in all, and how
/// large those may be in bytes: with more, to make layers while packages still come is worth more.
const FEW: usize = 8;
const SMALL: u64 = 64 << 20;

/// What an earlier survey tells of the packages of a prefix.
pub(super) struct Told<'a> {
    packages: Vec<Locked<'a>>,
    /// What each package brings, by position; none of one that is not told of, or not enough.
    pub contents: Vec<Option<Contents>>,
    /// The survey that tells it.
    pub earlier: Survey,
    /// The reference that has it, where it was not made here.
    pub name: Option<String>,
    /// Whether a build opens the other packages alone.
    pub suffices: bool,
}

impl<'a> Told<'a> {
    /// By the last build of the like here.
    pub fn here(site: &Site<'a>, store: &Store) -> Result<Option<Self>> {
        let Some(last) = site.last(store)? else {
            return Ok(None);
        };
        let mut told = Self::of(site, &sources(site)?, last, None);
        let untold = told.untold();
        let size: u64 = untold.iter().filter_map(Locked::size).sum();
        told.suffices = untold.len() <= (told.packages.len() / FEW).max(1) && size <= SMALL;
        Ok(Some(told))
    }

    /// By an earlier image of a registry. It has to tell of half of the packages.
    pub fn remote(site: &Site<'a>, cache_from: &CacheFrom) -> Result<Option<Self>> {
        if cache_from.is_empty() {
            return Ok(None);
        }
        let sources = sources(site)?;
        let found = cache_from.survey_of_most(&sources).map(|(earlier, name)| {
            let mut told = Self::of(site, &sources, earlier.clone(), Some(name));
            told.suffices = told.count() * 2 >= told.packages.len();
            told
        });
        Ok(found)
    }

    fn of(site: &Site<'a>, sources: &[Digest], earlier: Survey, name: Option<&str>) -> Self {
        let packages: Vec<Locked<'a>> = site.packages().collect();
        let contents = packages.iter().zip(sources).map(|(package, source)| {
            let outline = earlier.outlines.get(source)?;
            let contents = outline.contents(package.id(), &earlier)?;
            has_md5(package, &contents).then_some(contents)
        });
        Self {
            contents: contents.collect(),
            packages,
            earlier,
            name: name.map(str::to_owned),
            suffices: false,
        }
    }

    /// Of how many packages it tells.
    pub fn count(&self) -> usize {
        self.contents.iter().flatten().count()
    }

    /// The packages that are to be opened.
    pub fn untold(&self) -> Vec<Locked<'a>> {
        let packages = self.packages.iter().zip(&self.contents);
        let untold = packages.filter(|(_, told)| told.is_none());
        untold.map(|(package, _)| *package).collect()
    }
}

fn sources(site: &Site<'_>) -> Result<Vec<Digest>> {
    site.packages().map(|one| site.source(one)).collect()
}

/// Whether the md5 of a package is known, which its lock may lack: it stands in `conda-meta`.
fn has_md5(package: &Locked<'_>, contents: &Contents) -> bool {
    match package {
        Locked::Conda(record) => record.package_record.md5.is_some() || contents.md5.is_some(),
        Locked::Wheel(_) => true,
    }
}
