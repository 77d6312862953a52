//! What packages mean together where an earlier image tells of those that did not change.
//!
//! Only the others are brought and opened, and those of which the earlier image does not tell
//! enough beside them. Then it is sure which layers are to be made, as if all were here.

use super::{Tools, layers::Infos, parallel::in_parallel, site::Site};
use crate::{
    digest::Digest,
    error::Result,
    package::{Contents, Survey, touched},
    plan::Locked,
    report::counted,
};

/// Surveys a prefix. None where no earlier image tells of half of its packages, where all are here
/// to be asked themselves, and where what is told does not fit together.
///
/// # Errors
/// The first package that cannot be had or opened.
pub(super) fn survey(site: &Site<'_>, infos: &Infos, tools: &Tools<'_>) -> Result<Option<Survey>> {
    if tools.cache_from.is_empty() || site.is_here(tools.store) {
        return Ok(None);
    }
    let packages: Vec<Locked<'_>> = site.packages().collect();
    let sources = packages.iter().map(|one| site.source(*one));
    let sources: Vec<Digest> = sources.collect::<Result<_>>()?;
    let Some((earlier, name)) = tools.cache_from.survey_of_most(&sources) else {
        return Ok(None);
    };
    let told = packages.iter().zip(&sources).map(|(package, source)| {
        let outline = earlier.outlines.get(source)?;
        outline.contents(package.id(), earlier)
    });
    let told: Vec<Option<Contents>> = told.collect();
    // To make layers while packages still come is worth more than a few packages.
    if told.iter().flatten().count() * 2 < packages.len() {
        return Ok(None);
    }
    let all = Opener { site, infos, tools }.complete(&packages, told)?;
    let told = all.iter().filter(|one| one.claims.is_some()).count();
    tools.reporter.step(format!(
        "Known  what {told} of {} bring, from {name}",
        counted(packages.len(), "package")
    ));
    // Who tells what cannot be is not believed.
    Ok(site.surveyed(&all).ok())
}

/// Brings packages and opens them.
struct Opener<'o, 'a> {
    site: &'o Site<'a>,
    infos: &'o Infos,
    tools: &'o Tools<'o>,
}

impl<'a> Opener<'_, 'a> {
    /// What all packages bring: those of which nothing or too little is told are opened.
    fn complete(
        &self,
        packages: &[Locked<'a>],
        told: Vec<Option<Contents>>,
    ) -> Result<Vec<Contents>> {
        let untold = packages
            .iter()
            .zip(&told)
            .filter(|(_, told)| told.is_none());
        let untold: Vec<Locked<'a>> = untold.map(|(package, _)| *package).collect();
        let mut opened = self.open(&untold)?.into_iter();
        let mut all: Vec<Contents> = told
            .into_iter()
            .filter_map(|told| told.or_else(|| opened.next()))
            .collect();
        let touched = touched(&all);
        let again = touched.iter().filter_map(|at| packages.get(*at)).copied();
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
