//! What is known of a prefix's layers: expected ones while packages are still to come, then the
//! sure ones.

use std::sync::Arc;

use super::{
    Tools,
    layers::{LayerTask, annotations, keyed, packages},
    site::Site,
};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
    image::TopLayer,
    package::{Contents, Survey, survey},
    plan::{LayerPlan, Locked, Member, PlannedLayer},
    store::BuiltLayer,
};

/// How much is known.
pub(super) enum Stage {
    /// Packages are still to come.
    Guess(Guess),
    /// It is known what all packages mean together.
    Sure(Sure),
}

/// The layers as they are expected to be.
pub(super) struct Guess {
    plan: LayerPlan,
    /// Which packages, by position, are to be opened before layers are made.
    first: Vec<bool>,
    /// What those mean together.
    base: Option<Arc<Survey>>,
    /// Whether layers can be made by now.
    pub open: bool,
}

/// The layers as they are.
pub(super) struct Sure {
    plan: LayerPlan,
    pub survey: Arc<Survey>,
    /// The key of each layer.
    pub keys: Vec<Digest>,
    /// Each layer, where it is built.
    pub built: Vec<Option<BuiltLayer>>,
}

/// The packages of a layer, by position and the largest first.
pub(super) struct Slot {
    pub positions: Vec<usize>,
    /// What it goes by among the layers, the greatest first.
    pub rank: u64,
    /// Whether somebody makes it, or it is there.
    pub begun: bool,
}

impl Guess {
    /// Packages that are here already, by position, are opened before anything is made: what they
    /// lose to each other need not be guessed.
    pub(super) fn of(site: &Site<'_>, here: Vec<bool>) -> Self {
        let sized = site.packages().all(|package| package.size().is_some());
        let some_come = here.contains(&false);
        Self {
            plan: site.plan(None),
            base: None,
            // Sizes that the lock does not say may make another plan of it.
            open: sized && some_come && !here.contains(&true),
            first: if sized { here } else { Vec::new() },
        }
    }

    /// The layers.
    pub(super) fn slots(&self, site: &Site<'_>) -> Vec<Slot> {
        slots(site, &self.plan, None)
    }

    /// Whether all packages that go first were opened; says so once.
    pub(super) fn can_open(&mut self, contents: &[Option<Arc<Contents>>]) -> bool {
        let mut first = self.first.iter().zip(contents);
        let opened = first.all(|(first, one)| !first || one.is_some());
        let can_open = opened && !self.open && !self.first.is_empty();
        if can_open {
            self.first.clear();
        }
        can_open
    }

    /// Lets layers be made, now that the packages that go first were surveyed; without a survey
    /// they do not fit together, of which the survey of all tells.
    pub(super) fn open_with(&mut self, base: Option<Survey>) {
        self.base = base.map(Arc::new);
        self.open = true;
    }

    /// What the key of a layer is made of.
    pub(super) fn layer(&self, index: usize, contents: Vec<Arc<Contents>>) -> Option<Guessed> {
        Some(Guessed {
            planned: self.plan.layers.get(index)?.clone(),
            contents,
            base: self.base.clone(),
        })
    }
}

impl Sure {
    /// Plans the layers; finds those that were made before.
    ///
    /// # Errors
    /// When a package has no sha256.
    pub(super) fn of(site: &Site<'_>, survey: Survey, tools: &Tools<'_>) -> Result<Self> {
        let plan = site.plan(Some(&survey));
        let keyed = keyed(site, &plan, &survey)?;
        let keys: Vec<Digest> = keyed.into_iter().map(|(_, key)| key).collect();
        Ok(Self {
            built: keys.iter().map(|key| tools.known_layer(key)).collect(),
            survey: Arc::new(survey),
            plan,
            keys,
        })
    }

    /// The layers.
    pub(super) fn slots(&self, site: &Site<'_>) -> Vec<Slot> {
        let mut slots = slots(site, &self.plan, Some(&self.survey));
        for (slot, built) in slots.iter_mut().zip(&self.built) {
            slot.begun = built.is_some();
        }
        slots
    }

    /// What making a layer takes.
    pub(super) fn task<'a>(&self, index: usize, site: &'a Site<'_>) -> Option<LayerTask<'a>> {
        let planned = self.plan.layers.get(index)?;
        Some(LayerTask {
            packages: packages(site, planned),
            title: planned.title.clone(),
            key: *self.keys.get(index)?,
            survey: Arc::clone(&self.survey),
            given_up: Arc::default(),
        })
    }

    /// Whether a layer of that key is wanted and not built.
    pub(super) fn lacks(&self, key: &Digest) -> bool {
        let mut slots = self.keys.iter().zip(&self.built);
        slots.any(|(wanted, built)| wanted == key && built.is_none())
    }

    /// Takes a layer that was made.
    pub(super) fn take(&mut self, key: &Digest, layer: &BuiltLayer) {
        let slots = self.keys.iter().zip(&mut self.built);
        slots
            .filter(|(wanted, _)| *wanted == key)
            .for_each(|(_, built)| *built = Some(layer.clone()));
    }

    /// The plan, what the packages mean together, and the layers.
    ///
    /// # Errors
    /// When a layer was not built.
    pub(super) fn finish(self) -> Result<(LayerPlan, Survey, Vec<TopLayer>)> {
        let lost = || Error::new(Exit::Internal, "a layer was not built");
        let built = self.built.into_iter().zip(&self.keys);
        let layers = built.zip(&self.plan.layers).map(|((built, key), planned)| {
            Ok(TopLayer {
                built: built.ok_or_else(lost)?,
                title: planned.title.clone(),
                annotations: annotations(key),
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        Ok((self.plan, Arc::unwrap_or_clone(self.survey), layers))
    }
}

/// A layer whose packages are all here, and its key is not known yet.
pub(super) struct Guessed {
    planned: PlannedLayer,
    contents: Vec<Arc<Contents>>,
    base: Option<Arc<Survey>>,
}

impl Guessed {
    /// The layer as it is if it loses nothing to a package that is still to come; none where its
    /// packages do not fit together, of which the survey of all tells.
    ///
    /// # Errors
    /// When a package has no sha256.
    pub(super) fn task<'a>(self, site: &'a Site<'_>) -> Result<Option<LayerTask<'a>>> {
        let covers = |base: &Arc<Survey>| {
            let mut contents = self.contents.iter();
            contents.all(|one| base.sizes.contains_key(&one.id))
        };
        let alone = || survey(&self.contents).ok().map(Arc::new);
        let Some(survey) = self.base.filter(covers).or_else(alone) else {
            return Ok(None);
        };
        let title = self.planned.title.clone();
        let plan = LayerPlan {
            layers: vec![self.planned],
        };
        let keyed = keyed(site, &plan, &survey)?.pop();
        Ok(keyed.map(|(packages, key)| LayerTask {
            packages,
            title,
            key,
            survey,
            given_up: Arc::default(),
        }))
    }
}

fn slots(site: &Site<'_>, plan: &LayerPlan, survey: Option<&Survey>) -> Vec<Slot> {
    let size = |package: &Locked<'_>| {
        let measured = survey.and_then(|survey| survey.sizes.get(&package.id()).copied());
        measured.or(package.size()).unwrap_or(0)
    };
    let conda = site.locked.packages().len();
    let position = |member: &Member| match member {
        Member::Conda(index) => *index,
        Member::Wheel(index) => conda + index,
    };
    let layers = plan.layers.iter().enumerate().map(|(place, planned)| {
        let sizes: Vec<u64> = packages(site, planned).iter().map(size).collect();
        let positions = planned.packages.iter().map(position);
        let mut sized: Vec<(u64, usize)> = sizes.iter().copied().zip(positions).collect();
        sized.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        Slot {
            positions: sized.into_iter().map(|(_, position)| position).collect(),
            rank: site.rank(place, sizes.iter().sum()),
            begun: false,
        }
    });
    layers.collect()
}
