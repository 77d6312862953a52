//! One prefix of the image: its packages, its layers, and what the packages mean together.

use rattler_conda_types::RepoDataRecord;

use super::{Tools, layers::Place};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result, chain},
    fetch,
    lock::LockedEnv,
    package::{PackageInfo, Prefix, Survey, by_pair, place, survey},
    plan::LayerPlan,
    report::Reporter,
};

/// Changes whenever the same packages would give another survey.
const SURVEY_FORMAT: &str = "imgbuild-survey-1";

/// A prefix that is ready to be built.
pub struct Environment<'a> {
    /// The locked packages.
    pub locked: &'a LockedEnv,
    /// Where they are linked to.
    pub prefix: Prefix,
    /// Where the prefix is in the base image.
    pub place: Place,
    /// Which package goes into which layer.
    pub plan: LayerPlan,
    /// What the packages mean together.
    pub survey: Survey,
    /// The specs that asked for them, as the user wrote them.
    pub requested: Vec<String>,
}

impl<'a> Environment<'a> {
    /// Surveys the packages; opens them only when this set was never surveyed.
    pub(super) fn survey(
        locked: &'a LockedEnv,
        prefix: Prefix,
        place: Place,
        plan: LayerPlan,
        tools: &Tools<'_>,
    ) -> Result<Self> {
        let key = survey_key(locked, &prefix)?;
        let survey = match tools.store.survey(&key) {
            Some(known) => known,
            None => {
                let made = open_and_survey(locked, &prefix, tools)?;
                tools.store.put_survey(&key, &made)?;
                made
            }
        };
        Ok(Self {
            locked,
            prefix,
            place,
            plan,
            survey,
            requested: Vec::new(),
        })
    }

    /// Says what a user should know about these packages.
    pub(super) fn warn(&self, reporter: &Reporter) {
        for ((winner, loser), paths) in by_pair(&self.survey.clobbers) {
            let more = match paths.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            reporter.warn(format!(
                "{winner} and {loser} both ship {}{more}; {winner}'s is used",
                paths[0].display()
            ));
        }
        for script in &self.survey.link_scripts {
            reporter.warn(format!(
                "{}'s link script {} was not run: imgbuild runs nothing of a package while it \
                 builds; run it in a container if the package needs it",
                script.package,
                script.path.display()
            ));
        }
    }
}

fn survey_key(locked: &LockedEnv, prefix: &Prefix) -> Result<Digest> {
    let hashes = locked
        .packages()
        .iter()
        .map(|record| Ok(fetch::sha256_of(record)?.hex()))
        .collect::<Result<Vec<String>>>()?;
    let python = prefix
        .python
        .as_ref()
        .map(|python| (&python.site_packages_path, &python.bin_dir));
    serde_json::to_vec(&(SURVEY_FORMAT, python, hashes))
        .map(|bytes| Digest::of(&bytes))
        .map_err(|e| Error::new(Exit::Internal, "cannot make a survey key").why(e))
}

fn open_and_survey(locked: &LockedEnv, prefix: &Prefix, tools: &Tools<'_>) -> Result<Survey> {
    let all: Vec<&RepoDataRecord> = locked.packages().iter().collect();
    tools.runtime.block_on(fetch::fetch_packages(
        &all,
        tools.client,
        tools.store,
        tools.reporter,
    ))?;
    let infos = all
        .iter()
        .map(|record| info(record, tools))
        .collect::<Result<Vec<PackageInfo>>>()?;
    let pairs: Vec<_> = all.into_iter().zip(&infos).collect();
    survey(&pairs, prefix)
}

/// What a package's `info/` says.
pub(super) fn info(record: &RepoDataRecord, tools: &Tools<'_>) -> Result<PackageInfo> {
    fetch::archive(record, tools.store)?.info().map_err(|e| {
        Error::environment("a package archive cannot be read")
            .at(place(record))
            .why(chain(&e))
            .hint("its hash is right, so the package itself is faulty: use another build of it")
    })
}
