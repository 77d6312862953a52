//! What packages mean together where the last build, or an earlier image, tells of those that did
//! not change.
//!
//! Only the others are brought and opened, and those of which it does not tell enough beside them.
//! Then it is sure which layers are to be made, as if all were here.

use super::{Tools, layers::Infos, parallel::in_parallel, site::Site};
use crate::{
    digest::Digest,
    error::Result,
    package::{Contents, Survey, touched},
    plan::Locked,
    report::counted,
};

/// One package of this many may have changed since the last build here, or one in all, and how
/// large those may be in bytes: with more, to make layers while packages still come is worth more.
const FEW: usize = 8;
const SMALL: u64 = 64 << 20;

/// Surveys a prefix with what is known of most of its packages. None where that is of too few, and
/// where what is told does not fit together.
///
/// # Errors
/// The first package that cannot be had or opened.
pub(super) fn survey(site: &Site<'_>, infos: &Infos, tools: &Tools<'_>) -> Result<Option<Survey>> {
    let opener = Opener {
        site,
        infos,
        tools,
        packages: site.packages().collect(),
    };
    match opener.here()? {
        None => opener.remote(),
        found => Ok(found),
    }
}

/// Brings packages and opens them.
struct Opener<'o, 'a> {
    site: &'o Site<'a>,
    infos: &'o Infos,
    tools: &'o Tools<'o>,
    packages: Vec<Locked<'a>>,
}

impl<'a> Opener<'_, 'a> {
    /// By the last build of the like here, where few packages changed since.
    fn here(&self) -> Result<Option<Survey>> {
        let Some(last) = self.site.last(self.tools.store)? else {
            return Ok(None);
        };
        let told = self.told(&last, &self.sources()?);
        let untold = self.untold(&told);
        let size: u64 = untold.iter().filter_map(Locked::size).sum();
        if untold.len() > (self.packages.len() / FEW).max(1) || size > SMALL {
            return Ok(None);
        }
        let found = self.site.surveyed(&self.complete(told)?).ok();
        if let Some(found) = &found {
            self.site.keep(found, self.tools.store)?;
        }
        Ok(found)
    }

    /// By an earlier image of a registry, where it tells of half of the packages, and not all are
    /// here to be asked themselves.
    fn remote(&self) -> Result<Option<Survey>> {
        let tools = self.tools;
        if tools.cache_from.is_empty() || self.site.is_here(tools.store) {
            return Ok(None);
        }
        let sources = self.sources()?;
        let Some((earlier, name)) = tools.cache_from.survey_of_most(&sources) else {
            return Ok(None);
        };
        let told = self.told(earlier, &sources);
        if told.iter().flatten().count() * 2 < self.packages.len() {
            return Ok(None);
        }
        let all = self.complete(told)?;
        // Who tells what cannot be is not believed.
        let Ok(found) = self.site.surveyed(&all) else {
            return Ok(None);
        };
        let told = all.iter().filter(|one| one.claims.is_some()).count();
        tools.reporter.step(format!(
            "Known  what {told} of {} bring, from {name}",
            counted(all.len(), "package")
        ));
        Ok(Some(found))
    }

    fn sources(&self) -> Result<Vec<Digest>> {
        let packages = self.packages.iter();
        packages.map(|one| self.site.source(*one)).collect()
    }

    /// What a survey tells of each package.
    fn told(&self, earlier: &Survey, sources: &[Digest]) -> Vec<Option<Contents>> {
        let packages = self.packages.iter().zip(sources);
        let told = packages.map(|(package, source)| {
            let outline = earlier.outlines.get(source)?;
            let contents = outline.contents(package.id(), earlier)?;
            has_md5(package, &contents).then_some(contents)
        });
        told.collect()
    }

    fn untold(&self, told: &[Option<Contents>]) -> Vec<Locked<'a>> {
        let packages = self.packages.iter().zip(told);
        let untold = packages.filter(|(_, told)| told.is_none());
        untold.map(|(package, _)| *package).collect()
    }

    /// What all packages bring: those of which nothing or too little is told are opened.
    fn complete(&self, told: Vec<Option<Contents>>) -> Result<Vec<Contents>> {
        let mut opened = self.open(&self.untold(&told))?.into_iter();
        let mut all: Vec<Contents> = told
            .into_iter()
            .filter_map(|told| told.or_else(|| opened.next()))
            .collect();
        let touched = touched(&all);
        let again = touched
            .iter()
            .filter_map(|at| self.packages.get(*at))
            .copied();
        let again: Vec<Locked<'a>> = again.collect();
        for (at, contents) in touched.into_iter().zip(self.open(&again)?) {
            if let Some(one) = all.get_mut(at) {
                *one = contents;
            }
        }
        Ok(all)
    }

    fn open(&self, packages: &[Locked<'a>]) -> Result<Vec<Contents>> {
        let tools = self.tools;
        let wanted: Vec<_> = packages.iter().map(|one| self.site.wanted(*one)).collect();
        let fetching = tools.fetcher();
        tools.runtime.block_on(fetching.fetch(&wanted, |_| {}))?;
        in_parallel(packages, tools.threads, |package| {
            let (contents, info) = self.site.open(*package, tools.store, &tools.decoders)?;
            self.infos.put(*package, info)?;
            Ok(contents)
        })
    }
}

/// Whether the md5 of a package is known, which its lock may lack: it stands in `conda-meta`.
fn has_md5(package: &Locked<'_>, contents: &Contents) -> bool {
    match package {
        Locked::Conda(record) => record.package_record.md5.is_some() || contents.md5.is_some(),
        Locked::Wheel(_) => true,
    }
}
