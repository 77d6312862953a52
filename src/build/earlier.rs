//! What packages mean together where the last build, or an earlier image, tells of those that did
//! not change.
//!
//! Only the others are brought and opened, and those of which it does not tell enough beside them.
//! Then it is sure which layers are to be made, as if all were here.

use super::{Tools, layers::Infos, parallel::in_parallel, site::Site, told::Told};
use crate::{
    error::Result,
    package::{Contents, Survey, touched},
    plan::Locked,
    report::counted,
};

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
        let told = Told::here(self.site, self.tools.store)?;
        let Some(told) = told.filter(|told| told.suffices) else {
            return Ok(None);
        };
        let found = self.site.surveyed(&self.complete(told)?).ok();
        if let Some(found) = &found {
            self.site.keep(found, self.tools.store)?;
        }
        Ok(found)
    }

    /// By an earlier image of a registry, where not all packages are here to be asked themselves.
    fn remote(&self) -> Result<Option<Survey>> {
        let tools = self.tools;
        if self.site.is_here(tools.store) {
            return Ok(None);
        }
        let told = Told::remote(self.site, tools.cache_from)?;
        let Some(mut told) = told.filter(|told| told.suffices) else {
            return Ok(None);
        };
        let name = told.name.take().unwrap_or_default();
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

    /// What all packages bring: those of which nothing or too little is told are opened.
    fn complete(&self, told: Told<'a>) -> Result<Vec<Contents>> {
        let mut opened = self.open(&told.untold())?.into_iter();
        let told = told.contents.into_iter();
        let mut all: Vec<Contents> = told
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
