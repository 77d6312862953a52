//! Layers are made while other packages are still being downloaded.
//!
//! Downloads run on the I/O threads; what arrives is opened and made into layers by one worker more
//! than there are processors, since a layer that is done is waited for until it is on the disk.

use std::{
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio_util::sync::CancellationToken;

use super::{
    Tools, earlier,
    environment::{Environment, check_overwrites, warn},
    layers::{Infos, Maker},
    line::{Claim, Line, Step},
    site::Site,
    stage::Sure,
};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
    fetch::{self, Wanted},
    image::Layer,
    package::{Survey, survey},
    plan::Locked,
};

/// Brings the packages of these prefixes and makes their layers. With `pip_overwrites`, wheels may
/// replace files of conda packages.
///
/// # Errors
/// The first package that cannot be had or used. Layers that are being made by then are finished
/// and kept: the next build finds them.
pub(super) fn build<'a>(
    sites: Vec<Site<'a>>,
    pip_overwrites: bool,
    tools: &Tools<'_>,
) -> Result<Vec<Environment<'a>>> {
    let pipeline = Pipeline {
        sites: &sites,
        pip_overwrites,
        tools,
        infos: Infos::default(),
        state: Mutex::default(),
        changed: Condvar::new(),
        stop: CancellationToken::new(),
    };
    pipeline.begin()?;
    let lines = pipeline.run()?;
    let built = sites.into_iter().zip(lines).map(|(site, line)| {
        let (plan, survey, layers) = line.finish()?;
        Ok(Environment {
            site,
            plan,
            survey,
            layers,
        })
    });
    built.collect()
}

struct Pipeline<'p, 'a> {
    sites: &'p [Site<'a>],
    pip_overwrites: bool,
    tools: &'p Tools<'p>,
    infos: Infos,
    state: Mutex<State>,
    changed: Condvar,
    /// Ends the downloads.
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    /// One a site.
    lines: Vec<Line>,
    /// How many layers were told of, the lowest first.
    told: usize,
    jobs: BinaryHeap<Job>,
    failed: Option<Error>,
}

/// A step, and the index of the site that it is for.
type Job = (Step, usize);

/// Where a package is waited for: the index of a site, and a position in it.
type Waiting = (usize, usize);

impl Pipeline<'_, '_> {
    /// Finds out what is known already.
    fn begin(&self) -> Result<()> {
        for (index, site) in self.sites.iter().enumerate() {
            let known = match site.known(self.tools.store, self.tools.cache_from)? {
                None => earlier::survey(site, &self.infos, self.tools)?,
                known => known,
            };
            let line = match known {
                None => Line::unsurveyed(site, self.tools.store),
                Some(known) => {
                    self.check(&known)?;
                    let sure = Sure::of(site, known, self.tools)?;
                    let reused = sure.built.iter().flatten().count();
                    self.say_reused(reused, &sure.keys, site);
                    Line::surveyed(site, sure)
                }
            };
            let mut state = self.lock();
            state.jobs.extend(line.begin().map(|step| (step, index)));
            state.lines.push(line);
        }
        self.tell(&mut self.lock());
        Ok(())
    }

    fn run(self) -> Result<Vec<Line>> {
        thread::scope(|scope| {
            for _ in 0..=self.tools.threads {
                scope.spawn(|| self.work());
            }
            if let Err(e) = self.download() {
                self.fail(e);
            }
        });
        let state = self.state.into_inner();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        match state.failed {
            Some(e) => Err(e),
            None => Ok(state.lines),
        }
    }

    /// Brings the packages of the layers that are made first before others.
    fn download(&self) -> Result<()> {
        let mut groups: Vec<(u64, usize, Vec<usize>)> = Vec::new();
        for (index, line) in self.lock().lines.iter().enumerate() {
            let wanted = line.wanted().into_iter();
            groups.extend(wanted.map(|(rank, positions)| (rank, index, positions)));
        }
        groups.sort_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
        let places = groups
            .into_iter()
            .flat_map(|(_, index, positions)| positions.into_iter().map(move |one| (index, one)));
        let (wanted, places) = self.once_each(places)?;
        let fetcher = self.tools.fetcher();
        let arrived = |one: usize| self.arrived(places.get(one).map_or(&[], Vec::as_slice));
        self.tools.runtime.block_on(async {
            tokio::select! {
                done = fetcher.fetch(&wanted, arrived) => done,
                () = self.stop.cancelled() => Ok(()),
            }
        })
    }

    /// The packages, each once, and where each is waited for: two prefixes may have the same.
    fn once_each(
        &self,
        places: impl Iterator<Item = Waiting>,
    ) -> Result<(Vec<Wanted<'_>>, Vec<Vec<Waiting>>)> {
        let mut known: HashMap<(bool, Digest), usize> = HashMap::new();
        let (mut wanted, mut waiting) = (Vec::new(), Vec::<Vec<Waiting>>::new());
        for (index, position) in places {
            let site = self.site(index)?;
            let Some(package) = site.package(position) else {
                continue;
            };
            let hash = match package {
                Locked::Conda(record) => (false, fetch::sha256_of(record)?),
                Locked::Wheel(wheel) => (true, wheel.sha256),
            };
            let one = site.wanted(package);
            let at = *known.entry(hash).or_insert(wanted.len());
            match waiting.get_mut(at) {
                Some(places) => places.push((index, position)),
                None => {
                    wanted.push(one);
                    waiting.push(vec![(index, position)]);
                }
            }
        }
        Ok((wanted, waiting))
    }

    fn arrived(&self, places: &[Waiting]) {
        for (index, position) in places {
            // Every place is one of a site.
            if let Ok(site) = self.site(*index) {
                self.then(*index, |line| line.arrived(*position, site));
            }
        }
    }

    fn work(&self) {
        let _alarm = Alarm(self);
        while let Some(job) = self.next() {
            if let Err(e) = self.perform(job) {
                self.fail(e);
            }
        }
    }

    /// Waits for something to do; none once all is done or something failed.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() || state.lines.iter().all(Line::is_done) {
                return None;
            }
            if let Some(job) = state.jobs.pop() {
                return Some(job);
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn perform(&self, (step, index): Job) -> Result<()> {
        let site = self.site(index)?;
        match step {
            Step::Open { position } => self.open(index, site, position),
            Step::Survey { whole: false } => {
                let base = survey(&self.with(index, |line| line.contents())?).ok();
                self.then(index, |line| line.open(base, site));
                Ok(())
            }
            Step::Survey { whole: true } => {
                let found = site.surveyed(&self.with(index, |line| line.contents())?)?;
                site.keep(&found, self.tools.store)?;
                self.check(&found)?;
                self.settle(index, site, found)
            }
            Step::Layer { index: layer, .. } => self.layer(index, site, layer),
        }
    }

    fn open(&self, index: usize, site: &Site<'_>, position: usize) -> Result<()> {
        let Some(package) = site.package(position) else {
            return Ok(());
        };
        let (contents, info) = site.open(package, self.tools.store, &self.tools.decoders)?;
        self.infos.put(package, info)?;
        self.then(index, |line| line.opened(position, contents, site));
        Ok(())
    }

    fn check(&self, survey: &Survey) -> Result<()> {
        check_overwrites(survey, self.pip_overwrites)?;
        warn(survey, self.tools.reporter);
        Ok(())
    }

    fn settle(&self, index: usize, site: &Site<'_>, survey: Survey) -> Result<()> {
        let sure = Sure::of(site, survey, self.tools)?;
        let (keys, all) = (sure.keys.clone(), sure.keys.len());
        let mut state = self.lock();
        let old = |job: &Job| job.1 == index && matches!(job.0, Step::Layer { .. });
        state.jobs.retain(|job| !old(job));
        let Some(line) = state.lines.get_mut(index) else {
            return Ok(());
        };
        let settled = line.settle(sure, site);
        state
            .jobs
            .extend(settled.steps.into_iter().map(|step| (step, index)));
        self.tell(&mut state);
        drop(state);
        self.changed.notify_all();
        settled.made.iter().for_each(self.tools.made);
        self.say_reused(settled.reused, &keys, site);
        if settled.in_vain > 0 {
            self.tools.reporter.step(format!(
                "Made in vain: {} of {all} layers of {}, from which packages that came later take files",
                settled.in_vain, site.prefix.path
            ));
        }
        Ok(())
    }

    fn say_reused(&self, reused: usize, keys: &[Digest], site: &Site<'_>) {
        if reused == 0 {
            return;
        }
        let mut line = format!(
            "Reusing {reused} of {} layers of {}",
            keys.len(),
            site.prefix.path
        );
        let Tools {
            store, cache_from, ..
        } = self.tools;
        let mut from: BTreeMap<&str, usize> = BTreeMap::new();
        let absent = keys.iter().filter(|key| store.built_layer(key).is_none());
        for (_, name) in absent.filter_map(|key| cache_from.layer(key)) {
            *from.entry(name).or_default() += 1;
        }
        for (name, count) in from {
            line.push_str(&format!(", {count} from {name}"));
        }
        self.tools.reporter.step(line);
    }

    fn layer(&self, index: usize, site: &Site<'_>, layer: usize) -> Result<()> {
        let task = match self.with(index, |line| line.claim(layer, site))? {
            None => return Ok(()),
            Some(Claim::Sure(task)) => task,
            Some(Claim::Guess(guessed)) => match guessed.task(site)? {
                Some(task) if self.tools.known_layer(&task.key).is_none() => task,
                _ => return Ok(()),
            },
        };
        if !self.with(index, |line| line.enter(&task))? {
            return Ok(());
        }
        let maker = Maker {
            site,
            infos: &self.infos,
            tools: self.tools,
        };
        let made = maker.make(&task);
        let wanted = self.with(index, |line| line.leave(&task.key, made))??;
        wanted.iter().for_each(self.tools.made);
        self.tell(&mut self.lock());
        Ok(())
    }

    /// Tells of the layers that are there with all those below them, in their order.
    fn tell(&self, state: &mut State) {
        let unfinished = state.lines.iter().position(|line| !line.is_done());
        let lines = state
            .lines
            .iter()
            .take(unfinished.map_or(usize::MAX, |at| at + 1));
        let there: Vec<Layer> = lines.flat_map(Line::built).map(Layer::from).collect();
        there.iter().skip(state.told).for_each(self.tools.next);
        state.told = state.told.max(there.len());
    }

    /// Changes a line, and queues what is to be done then.
    fn then(&self, index: usize, change: impl FnOnce(&mut Line) -> Vec<Step>) {
        let mut state = self.lock();
        if let Some(line) = state.lines.get_mut(index) {
            let steps = change(line);
            state
                .jobs
                .extend(steps.into_iter().map(|step| (step, index)));
        }
        drop(state);
        self.changed.notify_all();
    }

    fn with<T>(&self, index: usize, use_of: impl FnOnce(&mut Line) -> T) -> Result<T> {
        let mut state = self.lock();
        let found = state.lines.get_mut(index).map(use_of);
        drop(state);
        self.changed.notify_all();
        found.ok_or_else(|| Error::new(Exit::Internal, "there is no such prefix"))
    }

    fn site(&self, index: usize) -> Result<&Site<'_>> {
        let site = self.sites.get(index);
        site.ok_or_else(|| Error::new(Exit::Internal, "there is no such prefix"))
    }

    /// Ends the build; the first reason counts.
    fn fail(&self, e: Error) {
        self.lock().failed.get_or_insert(e);
        self.stop.cancel();
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the build when a worker panics: the others would wait for its work for ever.
struct Alarm<'w>(&'w Pipeline<'w, 'w>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0
                .fail(Error::new(Exit::Internal, "a worker thread ended early"));
        }
    }
}
