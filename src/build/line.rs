//! One prefix while its packages come: which layers can be made by now, and under which keys.
//!
//! A layer's key covers everything that its bytes depend on, so a layer may be made under a key
//! that is only expected: the worst is that nobody asks for it. While packages are still to come,
//! a layer is expected to lose no path to one of them; what packages mean together is sure once
//! all of them were opened.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    layers::LayerTask,
    site::{Site, is_here},
    stage::{Guess, Guessed, Slot, Stage, Sure},
};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
    image::TopLayer,
    package::{Contents, Survey},
    plan::LayerPlan,
    store::{BuiltLayer, Store},
};

/// What to do next; the greatest first. Opening goes before making, since it brings more to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Make a layer.
    Layer {
        /// Its rank among the layers.
        rank: u64,
        /// Its index in the plan.
        index: usize,
    },
    /// Read what a package says of itself.
    Open {
        /// The package's position in the prefix.
        position: usize,
    },
    /// Find out what the packages that were opened mean together.
    Survey {
        /// Whether these are all packages.
        whole: bool,
    },
}

/// A prefix. Its packages are known by position: conda's in the lock's order, then wheels.
pub(super) struct Line {
    /// What was opened so far; empty once it is surveyed.
    contents: Vec<Option<Arc<Contents>>>,
    /// The packages that are waited for.
    pending: Vec<bool>,
    /// The packages that Python needs to compile files.
    python: Vec<usize>,
    slots: Vec<Slot>,
    stage: Stage,
    /// The layers that are being made, and how to give them up.
    making: HashMap<Digest, Arc<AtomicBool>>,
    /// Those that were made before they were known to be wanted.
    made: HashMap<Digest, BuiltLayer>,
}

/// A layer to make.
pub(super) enum Claim<'a> {
    /// One that is wanted.
    Sure(LayerTask<'a>),
    /// One that is expected to be wanted.
    Guess(Guessed),
}

/// What settling a prefix found.
pub(super) struct Settled {
    /// The layers that the store had before this build.
    pub reused: usize,
    /// The layers that were made, or begun, and that nobody wants.
    pub in_vain: usize,
    /// The layers that were made and are wanted.
    pub made: Vec<BuiltLayer>,
    /// What to do next.
    pub steps: Vec<Step>,
}

impl Line {
    /// A prefix that was never surveyed: all packages are waited for.
    pub(super) fn unsurveyed(site: &Site<'_>, store: &Store) -> Self {
        let here: Vec<bool> = site.packages().map(|one| is_here(one, store)).collect();
        let count = here.len();
        let guess = Guess::of(site, here);
        Self {
            contents: vec![None; count],
            pending: vec![true; count],
            slots: guess.slots(site),
            ..Self::at(Stage::Guess(guess), site)
        }
    }

    /// A prefix of which all is known: only packages of layers that are not built are waited for.
    pub(super) fn surveyed(site: &Site<'_>, sure: Sure) -> Self {
        let slots = sure.slots(site);
        let mut pending = vec![false; site.packages().count()];
        let missing = slots.iter().filter(|slot| !slot.begun);
        for position in missing.flat_map(|slot| &slot.positions) {
            mark(&mut pending, *position, true);
        }
        Self {
            pending,
            slots,
            ..Self::at(Stage::Sure(sure), site)
        }
    }

    fn at(stage: Stage, site: &Site<'_>) -> Self {
        Self {
            contents: Vec::new(),
            pending: Vec::new(),
            python: python(site),
            slots: Vec::new(),
            stage,
            making: HashMap::new(),
            made: HashMap::new(),
        }
    }

    /// The packages to bring, in groups that make a layer, with the rank of each.
    pub(super) fn wanted(&self) -> Vec<(u64, Vec<usize>)> {
        let missing = self.slots.iter().filter(|slot| !slot.begun);
        missing
            .map(|slot| (slot.rank, slot.positions.clone()))
            .collect()
    }

    /// What to do where nothing is waited for.
    pub(super) fn begin(&self) -> Option<Step> {
        let empty = !self.is_sure() && self.contents.is_empty();
        empty.then_some(Step::Survey { whole: true })
    }

    /// A package is in the store.
    pub(super) fn arrived(&mut self, position: usize, site: &Site<'_>) -> Vec<Step> {
        match self.stage {
            Stage::Guess(_) => vec![Step::Open { position }],
            Stage::Sure(_) => {
                mark(&mut self.pending, position, false);
                self.ready(site)
            }
        }
    }

    /// A package was opened.
    pub(super) fn opened(
        &mut self,
        position: usize,
        contents: Contents,
        site: &Site<'_>,
    ) -> Vec<Step> {
        if let Some(slot) = self.contents.get_mut(position) {
            *slot = Some(Arc::new(contents));
        }
        mark(&mut self.pending, position, false);
        let whole = self.contents.iter().all(Option::is_some);
        let can_open = match &mut self.stage {
            Stage::Guess(guess) => guess.can_open(&self.contents),
            Stage::Sure(_) => false,
        };
        match whole || can_open {
            true => vec![Step::Survey { whole }],
            false => self.ready(site),
        }
    }

    /// What was opened so far, in the order of installation.
    pub(super) fn contents(&self) -> Vec<Arc<Contents>> {
        self.contents.iter().flatten().cloned().collect()
    }

    /// What packages that are here mean together; none if they do not fit together.
    pub(super) fn open(&mut self, base: Option<Survey>, site: &Site<'_>) -> Vec<Step> {
        if let Stage::Guess(guess) = &mut self.stage {
            guess.open_with(base);
        }
        self.ready(site)
    }

    /// Now it is sure. Layers that are being made and that nobody wants are given up.
    pub(super) fn settle(&mut self, mut sure: Sure, site: &Site<'_>) -> Settled {
        let wanted: HashSet<Digest> = sure.keys.iter().copied().collect();
        for (key, given_up) in &self.making {
            given_up.store(!wanted.contains(key), Ordering::Relaxed);
        }
        let begun = self.made.keys().chain(self.making.keys());
        let in_vain = begun.filter(|key| !wanted.contains(key)).count();
        let had = sure.keys.iter().zip(&sure.built);
        let reused = had
            .filter(|(key, built)| built.is_some() && !self.made.contains_key(key))
            .count();
        let mut made = Vec::new();
        for (key, layer) in self.made.drain() {
            if wanted.contains(&key) {
                sure.take(&key, &layer);
                made.push(layer);
            }
        }
        self.slots = sure.slots(site);
        for (slot, key) in self.slots.iter_mut().zip(&sure.keys) {
            slot.begun |= self.making.contains_key(key);
        }
        self.contents = Vec::new();
        self.stage = Stage::Sure(sure);
        Settled {
            reused,
            in_vain,
            made,
            steps: self.ready(site),
        }
    }

    /// The layers that can be begun by now.
    fn ready(&mut self, site: &Site<'_>) -> Vec<Step> {
        if let Stage::Guess(Guess { open: false, .. }) = self.stage {
            return Vec::new();
        }
        let pending = |position: &usize| self.pending.get(*position).is_some_and(|is| *is);
        // A Python that is on its way need not be fetched a second time.
        let no_python = self.python.iter().any(pending);
        let waits =
            |position: &usize| pending(position) || no_python && self.is_compiled(*position, site);
        let is_ready = |slot: &Slot| !slot.begun && !slot.positions.iter().any(waits);
        let ready: Vec<bool> = self.slots.iter().map(is_ready).collect();
        let mut steps = Vec::new();
        for (index, (slot, ready)) in self.slots.iter_mut().zip(ready).enumerate() {
            if ready {
                slot.begun = true;
                let rank = slot.rank;
                steps.push(Step::Layer { rank, index });
            }
        }
        steps
    }

    fn is_compiled(&self, position: usize, site: &Site<'_>) -> bool {
        match &self.stage {
            Stage::Guess(_) => {
                let contents = self.contents.get(position).and_then(Option::as_ref);
                contents.is_some_and(|contents| contents.for_python)
            }
            Stage::Sure(sure) => {
                let id = site.package(position).map(|package| package.id());
                id.is_some_and(|id| sure.survey.for_python.contains(&id))
            }
        }
    }

    /// What making a layer takes.
    pub(super) fn claim<'a>(&self, index: usize, site: &'a Site<'_>) -> Option<Claim<'a>> {
        let guess = match &self.stage {
            Stage::Sure(sure) => return sure.task(index, site).map(Claim::Sure),
            Stage::Guess(guess) => guess,
        };
        let mut positions = self.slots.get(index)?.positions.clone();
        positions.sort_unstable();
        let contents = positions
            .iter()
            .map(|position| self.contents.get(*position)?.clone())
            .collect::<Option<Vec<_>>>()?;
        guess.layer(index, contents).map(Claim::Guess)
    }

    /// Whether a layer is still wanted; from then on it counts as being made.
    pub(super) fn enter(&mut self, task: &LayerTask<'_>) -> bool {
        let wanted = match &self.stage {
            Stage::Guess(_) => true,
            Stage::Sure(sure) => sure.lacks(&task.key),
        };
        if !wanted || self.making.contains_key(&task.key) {
            return false;
        }
        self.making.insert(task.key, Arc::clone(&task.given_up));
        true
    }

    /// Takes what became of a layer; returns it if it is known to be wanted.
    ///
    /// # Errors
    /// That of a layer that is wanted. One that is only expected to be wanted does no harm when
    /// it fails: it is made again if it is wanted after all.
    pub(super) fn leave(
        &mut self,
        key: &Digest,
        made: Result<BuiltLayer>,
    ) -> Result<Option<BuiltLayer>> {
        self.making.remove(key);
        match (&mut self.stage, made) {
            (Stage::Guess(_), Ok(layer)) => {
                self.made.insert(*key, layer);
            }
            (Stage::Sure(sure), Ok(layer)) if sure.keys.contains(key) => {
                sure.take(key, &layer);
                return Ok(Some(layer));
            }
            (Stage::Sure(sure), Err(e)) if sure.keys.contains(key) => return Err(e),
            (Stage::Sure(_), Ok(_)) | (_, Err(_)) => {}
        }
        Ok(None)
    }

    /// Whether it is known what all packages mean together.
    pub(super) fn is_sure(&self) -> bool {
        matches!(self.stage, Stage::Sure(_))
    }

    /// The layers that are there with all those below them.
    pub(super) fn built(&self) -> impl Iterator<Item = &BuiltLayer> {
        let built = match &self.stage {
            Stage::Guess(_) => &[][..],
            Stage::Sure(sure) => &sure.built,
        };
        built.iter().map_while(Option::as_ref)
    }

    /// Whether every layer is built.
    pub(super) fn is_done(&self) -> bool {
        match &self.stage {
            Stage::Guess(_) => false,
            Stage::Sure(sure) => sure.built.iter().all(Option::is_some),
        }
    }

    /// The plan, what the packages mean together, and the layers.
    ///
    /// # Errors
    /// When a layer was not built.
    pub(super) fn finish(self) -> Result<(LayerPlan, Survey, Vec<TopLayer>)> {
        match self.stage {
            Stage::Sure(sure) => sure.finish(),
            Stage::Guess(_) => Err(Error::new(Exit::Internal, "packages were not surveyed")),
        }
    }
}

/// The positions of the packages that are needed to compile Python files.
fn python(site: &Site<'_>) -> Vec<usize> {
    let Some(compiler) = &site.compiler else {
        return Vec::new();
    };
    let needed = compiler.packages();
    let needed: HashSet<_> = needed.iter().map(|one| &one.package_record.name).collect();
    let packages = site.locked.packages().iter().enumerate();
    packages
        .filter(|(_, record)| needed.contains(&record.package_record.name))
        .map(|(position, _)| position)
        .collect()
}

fn mark(flags: &mut [bool], position: usize, value: bool) {
    if let Some(flag) = flags.get_mut(position) {
        *flag = value;
    }
}
