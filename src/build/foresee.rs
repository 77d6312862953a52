//! What packages mean together, as far as it is known without those that are not on this machine.
//!
//! A package loses paths only to those that come after it. So what one loses is sure where it was
//! opened or is told of, and all that come after it were; else it is only likely.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    parallel::in_parallel,
    site::{Site, is_here},
    told::Told,
};
use crate::{
    cache_from::CacheFrom,
    error::Result,
    fetch,
    package::{Contents, Decoders, Survey, excluded_of, named, survey, touched},
    plan::Locked,
    store::Store,
};

/// What is known of the packages of a prefix before any is brought.
pub(super) struct Foresight {
    /// What the packages mean together. Those that are not here are taken to ship no file of
    /// others but those that an earlier version of them did.
    pub survey: Survey,
    /// The packages of which nobody tells, by id.
    pub absent: BTreeSet<String>,
    /// The names of the packages, not on this machine, that decide what a package loses, by its id.
    doubts: BTreeMap<String, BTreeSet<String>>,
    /// The packages that a build opens whatever layers it makes, by id.
    opened: BTreeSet<String>,
    /// Whether nobody says how large a package is, so that layers may be others.
    pub unsized_packages: bool,
}

/// Finds out what packages mean together, none of which is brought for that. None where a lock has
/// no sha256 of one.
///
/// # Errors
/// When a package that is here cannot be opened, and when packages do not fit together.
pub(super) fn foresee(
    site: &Site<'_>,
    store: &Store,
    cache_from: &CacheFrom,
) -> Result<Option<Foresight>> {
    let hashed = |record| fetch::sha256_of(record).is_ok();
    if !site.locked.packages().iter().all(hashed) {
        return Ok(None);
    }
    if let Some(known) = site.known(store, cache_from)? {
        return Ok(Some(Foresight::sure(known)));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if site.is_here(store) {
        return site.survey(store, threads).map(Foresight::sure).map(Some);
    }
    let opener = Opener {
        site,
        store,
        threads,
        decoders: Decoders::new(threads),
    };
    if let Some(told) = best(site, store, cache_from)? {
        let seen = opener.look(Some(told))?;
        // Who tells what cannot be is not believed.
        if let Ok(found) = survey(&seen.contents) {
            return Ok(Some(seen.foresight(found)));
        }
    }
    let seen = opener.look(None)?;
    let found = survey(&seen.contents)?;
    Ok(Some(seen.foresight(found)))
}

/// What a build would go by; where it would open all packages, what tells of the most.
fn best<'a>(site: &Site<'a>, store: &Store, cache_from: &CacheFrom) -> Result<Option<Told<'a>>> {
    let here = Told::here(site, store)?;
    if here.as_ref().is_some_and(|told| told.suffices) {
        return Ok(here);
    }
    let all = here.into_iter().chain(Told::remote(site, cache_from)?);
    Ok(all.max_by_key(|told| (told.suffices, told.count())))
}

impl Foresight {
    fn sure(survey: Survey) -> Self {
        Self {
            survey,
            absent: BTreeSet::new(),
            doubts: BTreeMap::new(),
            opened: BTreeSet::new(),
            unsized_packages: false,
        }
    }

    /// The names of the packages that decide what one of these loses.
    pub(super) fn doubts(&self, packages: &[Locked<'_>]) -> Vec<String> {
        let of = |package: &Locked<'_>| self.doubts.get(&package.id());
        let all: BTreeSet<&String> = packages.iter().filter_map(of).flatten().collect();
        all.into_iter().cloned().collect()
    }

    /// Whether a build opens the package whatever layers it makes.
    pub(super) fn is_opened(&self, id: &str) -> bool {
        self.opened.contains(id)
    }
}

/// How a package is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// An earlier survey tells enough of it.
    Told,
    /// It tells too little beside the others, and the package is not here.
    Touched,
    /// It was opened.
    Opened,
    /// It is not here, and nobody tells of it.
    Absent,
}

/// Opens what is here.
struct Opener<'o, 'a> {
    site: &'o Site<'a>,
    store: &'o Store,
    threads: usize,
    decoders: Decoders,
}

impl<'a> Opener<'_, 'a> {
    fn look(&self, told: Option<Told<'a>>) -> Result<Seen<'a>> {
        let packages: Vec<Locked<'a>> = self.site.packages().collect();
        let suffices = told.as_ref().is_some_and(|told| told.suffices);
        let (told, earlier) = match told {
            Some(told) => (told.contents, told.earlier),
            None => (vec![None; packages.len()], Survey::default()),
        };
        let mut seen = Seen {
            standings: Vec::new(),
            contents: Vec::new(),
            packages,
            earlier,
            suffices,
        };
        for (package, told) in seen.packages.iter().zip(told) {
            let (standing, contents) = match told {
                Some(told) => (Standing::Told, told),
                None => (Standing::Absent, nothing(*package)),
            };
            seen.standings.push(standing);
            seen.contents.push(contents);
        }
        let untold = seen.at(|standing| standing == Standing::Absent);
        self.open(untold, &mut seen)?;
        let touched = touched(&seen.contents);
        for at in &touched {
            if let Some(standing) = seen.standings.get_mut(*at) {
                *standing = Standing::Touched;
            }
        }
        self.open(touched, &mut seen)?;
        Ok(seen)
    }

    /// Opens those of these that are here.
    fn open(&self, positions: Vec<usize>, seen: &mut Seen<'a>) -> Result<()> {
        let package = |at: usize| Some((at, *seen.packages.get(at)?));
        let here = |(_, package): &(usize, Locked<'_>)| is_here(*package, self.store);
        let here: Vec<_> = positions
            .into_iter()
            .filter_map(package)
            .filter(here)
            .collect();
        let opened = in_parallel(&here, self.threads, |(_, package)| {
            let (contents, _) = self.site.open(*package, self.store, &self.decoders)?;
            Ok(contents)
        })?;
        for ((at, _), contents) in here.into_iter().zip(opened) {
            if let (Some(standing), Some(one)) =
                (seen.standings.get_mut(at), seen.contents.get_mut(at))
            {
                (*standing, *one) = (Standing::Opened, contents);
            }
        }
        Ok(())
    }
}

/// What stands for a package that nobody tells of.
fn nothing(package: Locked<'_>) -> Contents {
    Contents {
        id: package.id(),
        place: named(&package.id()),
        targets: Vec::new(),
        compiled: Vec::new(),
        projects: BTreeMap::new(),
        claims: None,
        size: package.size().unwrap_or(0),
        md5: None,
        built_at: 0,
        for_python: match package {
            Locked::Conda(record) => record.package_record.noarch.is_python(),
            Locked::Wheel(_) => true,
        },
    }
}

/// What is known of each package, by position.
struct Seen<'a> {
    packages: Vec<Locked<'a>>,
    standings: Vec<Standing>,
    contents: Vec<Contents>,
    /// What tells of those that were not opened.
    earlier: Survey,
    /// Whether a build opens only those of which that tells too little.
    suffices: bool,
}

impl Seen<'_> {
    fn at(&self, of: impl Fn(Standing) -> bool) -> Vec<usize> {
        let standings = self.standings.iter().enumerate();
        let found = standings.filter(|(_, standing)| of(**standing));
        found.map(|(at, _)| at).collect()
    }

    fn ids(&self, of: impl Fn(Standing) -> bool) -> BTreeSet<String> {
        let at = self.at(of).into_iter();
        let contents = at.filter_map(|at| self.contents.get(at));
        contents.map(|one| one.id.clone()).collect()
    }

    fn foresight(self, mut survey: Survey) -> Foresight {
        let absent = self.ids(|standing| standing == Standing::Absent);
        self.keep_losses(&mut survey, &absent);
        let sizeless: Vec<String> = {
            let packages = self.packages.iter().filter(|one| one.size().is_none());
            let ids = packages.map(Locked::id);
            ids.filter(|id| absent.contains(id)).collect()
        };
        for id in &sizeless {
            survey.sizes.remove(id);
        }
        let opened = self.ids(|standing| match standing {
            Standing::Absent | Standing::Touched => true,
            Standing::Told | Standing::Opened => !self.suffices,
        });
        Foresight {
            doubts: self.doubts(&sizeless),
            unsized_packages: !sizeless.is_empty(),
            survey,
            absent,
            opened,
        }
    }

    /// Who decides what each package loses; from the last package to the first.
    fn doubts(&self, sizeless: &[String]) -> BTreeMap<String, BTreeSet<String>> {
        let mut absent: BTreeSet<String> = sizeless.iter().map(|id| named(id)).collect();
        let mut touched = BTreeSet::new();
        let mut all = BTreeMap::new();
        for (standing, one) in self.standings.iter().zip(&self.contents).rev() {
            let mut doubts = BTreeSet::new();
            match standing {
                Standing::Told => {}
                Standing::Opened => doubts.extend(touched.iter().cloned()),
                Standing::Absent => {
                    absent.insert(named(&one.id));
                }
                Standing::Touched => {
                    touched.insert(named(&one.id));
                    doubts.insert(named(&one.id));
                }
            }
            doubts.extend(absent.iter().cloned());
            if !doubts.is_empty() {
                all.insert(one.id.clone(), doubts);
            }
        }
        all
    }

    /// What a package lost to another version of one that is not here, it is likely to lose again.
    fn keep_losses(&self, survey: &mut Survey, absent: &BTreeSet<String>) {
        let earlier = &self.earlier;
        let newer = |id: &String| earlier.sizes.contains_key(id);
        let last = self
            .contents
            .iter()
            .rposition(|one| absent.contains(&one.id) && newer(&one.id));
        let told = earlier.clobbers.iter().chain(&earlier.overwrites);
        let told: BTreeMap<_, _> = told
            .map(|one| {
                (
                    (one.loser.as_str(), one.path.as_path()),
                    one.winner.as_str(),
                )
            })
            .collect();
        for one in self.contents.iter().take(last.unwrap_or(0)) {
            for path in excluded_of(&earlier.exclusions, &one.id) {
                let winner = told.get(&(one.id.as_str(), path.as_path()));
                if one.claims.is_some() && winner.is_none_or(|winner| absent.contains(*winner)) {
                    let lost = survey.exclusions.entry(one.id.clone()).or_default();
                    lost.insert(path.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::package::{Claims, Clobber};

    fn seen(packages: &[(&str, Standing)], earlier: Survey) -> Seen<'static> {
        let contents = |(id, standing): &(&str, Standing)| Contents {
            id: (*id).into(),
            place: (*id).into(),
            targets: Vec::new(),
            compiled: Vec::new(),
            projects: BTreeMap::new(),
            claims: (*standing == Standing::Told).then(Claims::default),
            size: 1,
            md5: None,
            built_at: 0,
            for_python: false,
        };
        Seen {
            packages: Vec::new(),
            standings: packages.iter().map(|(_, standing)| *standing).collect(),
            contents: packages.iter().map(contents).collect(),
            earlier,
            suffices: true,
        }
    }

    #[test]
    fn what_comes_after_all_that_is_unseen_is_sure() {
        let packages = [
            ("first", Standing::Told),
            ("here", Standing::Opened),
            ("new", Standing::Absent),
            ("touched", Standing::Touched),
            ("last", Standing::Told),
            ("pip:wheel", Standing::Opened),
        ];
        let doubts = seen(&packages, Survey::default()).doubts(&[]);
        let of = |id: &str| -> Vec<&str> {
            let names = doubts.get(id).into_iter().flatten();
            names.map(String::as_str).collect()
        };
        assert_eq!(of("first"), ["new"]);
        assert_eq!(of("here"), ["new", "touched"]);
        assert_eq!(of("new"), ["new"]);
        assert_eq!(of("touched"), ["touched"]);
        assert_eq!((of("last").len(), of("pip:wheel").len()), (0, 0));
        // Another size may be another plan of all.
        let doubts = seen(&packages, Survey::default()).doubts(&["pip:wheel".to_owned()]);
        assert!(doubts["last"].contains("wheel (pip)"));
    }

    #[test]
    fn what_was_lost_to_an_earlier_version_is_lost_again() {
        let lost = ["gone", "quiet", "told", "bumped"].map(PathBuf::from);
        let clobber = |path: &str, winner: &str| Clobber {
            path: path.into(),
            winner: winner.into(),
            loser: "first".into(),
        };
        let earlier = |of: &str| Survey {
            exclusions: [("first".to_owned(), BTreeSet::from(lost.clone()))].into(),
            clobbers: vec![
                clobber("gone", "was-there"),
                clobber("told", "last"),
                clobber("bumped", "new"),
            ],
            sizes: [(of.to_owned(), 1)].into(),
            ..Survey::default()
        };
        let packages = [
            ("first", Standing::Told),
            ("new", Standing::Absent),
            ("last", Standing::Told),
        ];
        let kept = |of: &str| {
            let mut survey = Survey::default();
            let absent = BTreeSet::from(["new".to_owned()]);
            seen(&packages, earlier(of)).keep_losses(&mut survey, &absent);
            excluded_of(&survey.exclusions, "first").clone()
        };
        assert_eq!(kept("new"), ["bumped", "quiet"].map(PathBuf::from).into());
        // It is no version of another.
        assert_eq!(kept("was-there"), BTreeSet::new());
    }
}
