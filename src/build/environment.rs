//! One prefix of the image: its layers, and what its packages mean together.

use std::path::Path;

use super::site::Site;
use crate::{
    error::{Error, Result},
    image::TopLayer,
    package::{Survey, by_pair, named},
    plan::LayerPlan,
    report::Reporter,
};

/// A prefix that is built.
pub struct Environment<'a> {
    /// What goes where.
    pub(super) site: Site<'a>,
    /// Which package goes into which layer.
    pub(super) plan: LayerPlan,
    /// What the packages mean together.
    pub(super) survey: Survey,
    /// The layers, lowest first.
    pub(super) layers: Vec<TopLayer>,
}

/// Says what a user should know about packages together.
pub(super) fn warn(survey: &Survey, reporter: &Reporter) {
    for ((winner, loser), paths) in by_pair(&survey.clobbers) {
        let (winner, loser) = (named(winner), named(loser));
        reporter.warn(format!(
            "{winner} and {loser} both ship {}; {winner}'s is used",
            some(&paths)
        ));
    }
    for ((wheel, package), paths) in by_pair(&survey.overwrites) {
        reporter.warn(format!(
            "{} takes the place of {} of the conda package {package}",
            named(wheel),
            some(&paths)
        ));
    }
    for script in &survey.link_scripts {
        reporter.warn(format!(
            "{}'s link script {} was not run: imgbuild runs nothing of a package while it \
             builds; run it in a container if the package needs it",
            script.package,
            script.path.display()
        ));
    }
}

/// How many pairs of packages an error names.
const NAMED: usize = 5;

/// Refuses wheels that ship a conda package's files: each would break the other's record.
///
/// # Errors
/// When there is such a wheel and `allowed` is not set.
pub(super) fn check_overwrites(survey: &Survey, allowed: bool) -> Result<()> {
    if allowed || survey.overwrites.is_empty() {
        return Ok(());
    }
    let pairs = by_pair(&survey.overwrites);
    let mut error = Error::input("pip packages would overwrite files of conda packages");
    for ((wheel, package), paths) in pairs.iter().take(NAMED) {
        error = error.why(format!(
            "{} would take the place of {} of the conda package {package}",
            named(wheel),
            some(paths)
        ));
    }
    if pairs.len() > NAMED {
        error = error.why(format!(
            "and {} more pairs of packages",
            pairs.len() - NAMED
        ));
    }
    Err(error.hint(
        "leave one of the two out; to let pip's win, give --pip-overwrites or set \
         'pip_overwrites: true' in imgbuild.yaml",
    ))
}

fn some(paths: &[&Path]) -> String {
    let first = paths.first().map(|path| path.display().to_string());
    match paths.len() {
        0 | 1 => first.unwrap_or_default(),
        n => format!("{} and {} more", first.unwrap_or_default(), n - 1),
    }
}
