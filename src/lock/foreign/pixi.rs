//! `pixi.lock` in every version that `rattler_lock` reads, imgbuild's own lock among them.
//!
//! The text is parsed twice: once here, with places and bounds, once by `rattler_lock`, which has
//! neither and takes time in the square of what an environment holds. What wheels require is kept
//! from it: a lock has resolved that, and pep508_rs, which would read it, can panic (`a--[`).

use std::{collections::HashMap, path::Path};

use rattler_conda_types::RepoDataRecord;
use rattler_lock::{
    CondaBinaryData, CondaPackageData, DEFAULT_ENVIRONMENT_NAME, Environment, LockFile,
    LockedPackage, Platform, PypiPackageData, UrlOrPath,
};
use serde_json::Value as Json;
use url::Url;

use super::{
    Collected, Given, Reading,
    conda_lock::field,
    origin::{Checked, Refusal, checked, hide_secrets, refusal, without_secrets},
    wheel,
};
use crate::{
    error::{Error, Result},
    lock::{Lock, LockedEnv, LockedWheel, channels::plain_urls, graph::MAX_PACKAGES, header},
    spec::{
        LOCK_LIMITS,
        source::{Source, quoted},
        yaml::{self, Node, Value},
    },
};

/// The environment of a Miniconda base in imgbuild's own lock.
const MINICONDA: &str = "miniconda";
/// How often a package may stand in the list: versions before 6 repeat some.
const MAX_REPEATS: usize = 16;
const LOCK_AGAIN: &str = "lock the environment again with the tool that wrote the file";

/// Reads a lock: the chosen environment for the platform.
pub(super) fn parse(reading: &Reading<'_>) -> Result<Given> {
    let source = Source {
        file: reading.file,
        text: reading.text,
    };
    parse_tree(reading, &yaml::parse_within(source, LOCK_LIMITS)?)
}

/// As [`parse`], of a text whose YAML is known already.
pub(super) fn parse_tree(reading: &Reading<'_>, root: &Node) -> Result<Given> {
    bounded(reading, root)?;
    let lines = lines(reading, root)?;
    let text = without_requirements(root).to_string();
    let lock = LockFile::from_str_with_base_directory(&text, Some(reading.dir))
        .map_err(|e| reading.broken(crate::error::chain(&e)))?;
    let chosen = reading.choice.environment.as_deref();
    let name = chosen.unwrap_or(DEFAULT_ENVIRONMENT_NAME);
    let Some(chosen) = lock.environment(name) else {
        let mut names: Vec<String> = lock.environments().map(|(name, _)| quoted(name)).collect();
        names.sort();
        if names.is_empty() {
            names.push("none".into());
        }
        return Err(Error::input(format!(
            "{} has no environment {}",
            reading.file,
            quoted(name)
        ))
        .at(reading.file)
        .why(format!("its environments are {}", names.join(", ")))
        .hint("choose one with --environment NAME"));
    };
    let (env, warnings) = environment(reading, chosen, &lines)?;
    let miniconda = lock.environment(MINICONDA).filter(|_| name != MINICONDA);
    let miniconda = miniconda
        .map(|miniconda| environment(reading, miniconda, &lines))
        .transpose()?;
    let (base, conditions) =
        header::parse(reading.text, reading.platform).map_err(|why| reading.broken(why))?;
    Ok(Given {
        lock: Lock {
            env,
            miniconda: miniconda.map(|(env, _)| env),
            base,
            conditions,
        },
        warnings,
    })
}

/// Refuses what `rattler_lock` would take hours for.
fn bounded(reading: &Reading<'_>, root: &Node) -> Result<()> {
    let environments = field(root, "environments").into_iter().flat_map(values);
    let packages = environments.filter_map(|environment| field(environment, "packages"));
    let lists = packages.flat_map(values).chain(field(root, "package"));
    let longest = lists.map(|list| match &list.value {
        Value::List(items) => items.len(),
        _ => 0,
    });
    match longest.max() {
        Some(count) if count > MAX_PACKAGES => Err(reading.broken(format!(
            "an environment of it has more than {MAX_PACKAGES} packages"
        ))),
        _ => Ok(()),
    }
}

fn values(node: &Node) -> impl Iterator<Item = &Node> {
    let items = match &node.value {
        Value::Map(items) => &items[..],
        _ => &[],
    };
    items.iter().map(|(_, value)| value)
}

/// A lock's text in a form that `rattler_lock` can be given: bounded, and without what it could
/// panic on.
pub(in crate::lock) fn harmless(source: Source<'_>) -> Result<String> {
    let root = yaml::parse_within(source, LOCK_LIMITS)?;
    Ok(without_requirements(&root).to_string())
}

/// The lock as JSON, which is YAML, less what wheels require.
fn without_requirements(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(is, _) => Json::Bool(*is),
        Value::Text(text) => Json::String(text.clone()),
        // The format has whole numbers only: `1.10` is a version that lacks its quotes.
        Value::Number(text) => match text.parse::<u64>() {
            Ok(number) => number.into(),
            Err(_) => Json::String(text.clone()),
        },
        Value::List(items) => items.iter().map(without_requirements).collect(),
        Value::Map(items) => {
            let manager = field(node, "manager").and_then(Node::scalar);
            let wheel = matches!(manager, Some("pip" | "pypi"));
            let kept = |key: &str| match key {
                "requires_dist" | "requires_python" => false,
                "dependencies" => !wheel,
                _ => true,
            };
            items
                .iter()
                .filter_map(|(key, value)| Some((key.scalar()?, value)))
                .filter(|(key, _)| kept(key))
                .map(|(key, value)| (key.to_owned(), without_requirements(value)))
                .collect()
        }
    }
}

/// The line of each package, by its location as the lock has it. The same package with two
/// hashes is refused: which of them counts would be a matter of luck.
fn lines<'n>(reading: &Reading<'_>, root: &'n Node) -> Result<HashMap<&'n str, usize>> {
    let listed = field(root, "packages").or_else(|| field(root, "package"));
    let Some(Value::List(packages)) = listed.map(|node| &node.value) else {
        return Ok(HashMap::new());
    };
    let mut known: HashMap<&str, (&Node, usize)> = HashMap::new();
    for package in packages {
        let Some(location) = ["conda", "pypi", "url", "path"]
            .iter()
            .find_map(|key| field(package, key)?.scalar())
        else {
            continue;
        };
        let (first, times) = known.entry(location).or_insert((package, 0));
        *times += 1;
        if *times > MAX_REPEATS || hashes(first) != hashes(package) {
            let refusal = Refusal {
                why: format!(
                    "it stands on line {} too, with another hash",
                    first.place.line
                ),
                hint: LOCK_AGAIN.into(),
            };
            let file = location.rsplit('/').next().unwrap_or_default();
            return Err(reading.refused(file, package.place.line, refusal));
        }
    }
    Ok(known
        .into_iter()
        .map(|(location, (node, _))| (location, node.place.line))
        .collect())
}

fn hashes(package: &Node) -> [Option<&str>; 2] {
    let holder = field(package, "hash").unwrap_or(package);
    ["sha256", "md5"].map(|kind| field(holder, kind)?.scalar())
}

fn environment(
    reading: &Reading<'_>,
    environment: Environment<'_>,
    lines: &HashMap<&str, usize>,
) -> Result<(LockedEnv, Vec<String>)> {
    let platform = platform(reading, environment)?;
    let names = environment.channels().iter().map(|c| c.url.as_str());
    let mut found = Collected {
        channels: names.flat_map(channel_url).collect(),
        ..Collected::default()
    };
    for package in environment.packages(platform).into_iter().flatten() {
        let location = match package {
            LockedPackage::Conda(package) => package.location(),
            LockedPackage::Pypi(package) => package.location().inner(),
        };
        let line = line(location, lines);
        let wrong = |why: Refusal| reading.refused(package.name(), line, why);
        match package {
            LockedPackage::Conda(CondaPackageData::Binary(package)) => {
                let (record, secret) = record(package, reading).map_err(wrong)?;
                found.secrets |= secret;
                found.add(reading, line, record)?;
            }
            LockedPackage::Conda(CondaPackageData::Source(_)) => {
                return Err(wrong(Refusal {
                    why: "it is built from source, which imgbuild does not do".into(),
                    hint: "build it (pixi build), put it into a channel, and lock that".into(),
                }));
            }
            LockedPackage::Pypi(package) => {
                let (wheel, secret) = pip(package, location, reading).map_err(wrong)?;
                found.secrets |= secret;
                found.add_wheel(reading, line, wheel)?;
            }
        }
    }
    let warnings = found.warnings(reading);
    Ok((found.finish(reading)?, warnings))
}

/// The packages for the platform: those under its own name, or the only ones for it.
fn platform<'lock>(
    reading: &Reading<'_>,
    environment: Environment<'lock>,
) -> Result<Platform<'lock>> {
    let wanted = reading.platform;
    let mut fitting: Vec<Platform<'_>> = environment
        .platforms()
        .filter(|platform| platform.subdir() == wanted)
        .collect();
    fitting.sort_by_key(|platform| platform.name().to_string());
    let own = |platform: &&Platform<'_>| platform.name().as_str() == wanted.as_str();
    match (fitting.iter().find(own), &fitting[..]) {
        (Some(platform), _) | (None, [platform]) => Ok(*platform),
        (None, []) => {
            let mut names: Vec<_> = environment
                .platforms()
                .map(|p| p.name().to_string())
                .collect();
            names.sort();
            Err(
                Error::input(format!("{} has no packages for {wanted}", reading.file))
                    .at(reading.file)
                    .why(format!(
                        "the environment's platforms are {}",
                        names.join(", ")
                    ))
                    .hint(format!("add {wanted} to its platforms and lock again")),
            )
        }
        (None, many) => {
            let names: Vec<_> = many.iter().map(|p| p.name().to_string()).collect();
            Err(Error::input(format!(
                "{} has several platforms for {wanted}",
                reading.file
            ))
            .at(reading.file)
            .why(format!("they are {}", names.join(", ")))
            .hint(format!("name the one that images are for {wanted}")))
        }
    }
}

fn record(package: &CondaBinaryData, reading: &Reading<'_>) -> Checked<(RepoDataRecord, bool)> {
    let record = RepoDataRecord {
        package_record: package.package_record.clone(),
        identifier: package.file_name.clone(),
        url: absolute(&package.location, reading.dir)?,
        channel: None,
    };
    checked(record, reading.platform)
}

fn pip(
    package: &PypiPackageData,
    location: &UrlOrPath,
    reading: &Reading<'_>,
) -> Checked<(LockedWheel, bool)> {
    let PypiPackageData::Distribution(wheel) = package else {
        return refusal(
            "it is a source folder or an editable package, which imgbuild does not build",
            "build a wheel of it (pip wheel) and lock that by its path, or give the folder with --code",
        );
    };
    let name = wheel.name.to_string();
    // Version 7 may leave the version out, which then stands in the file name alone.
    let version = Some(&wheel.version).filter(|version| **version != *pep440_rs::MIN_VERSION);
    let sha256 = wheel.hash.as_ref().and_then(|hash| hash.sha256());
    wheel::locked(
        (&name, version.map(ToString::to_string).as_deref()),
        absolute(location, reading.dir)?.as_str(),
        sha256.map(hex::encode).as_deref(),
        reading.platform,
    )
}

fn absolute(location: &UrlOrPath, dir: &Path) -> Checked<Url> {
    let path = match location {
        UrlOrPath::Url(url) => return Ok(url.clone()),
        UrlOrPath::Path(path) => path.as_str(),
    };
    match Url::from_file_path(dir.join(path)) {
        Ok(url) => Ok(url),
        Err(()) => refusal("its path makes no URL", LOCK_AGAIN),
    }
}

/// A package's line; 0 when its location is written in another way than `rattler_lock` has it.
fn line(location: &UrlOrPath, lines: &HashMap<&str, usize>) -> usize {
    let text = location.as_str();
    let url = || lines.get(format!("file://{text}").as_str());
    lines.get(text).or_else(url).copied().unwrap_or(0)
}

/// A channel's URLs, without credentials; what is no channel tells nothing and is left out.
pub(super) fn channel_url(name: &str) -> Vec<String> {
    let name = match Url::parse(name) {
        Ok(url) => without_secrets(&url).0.to_string(),
        Err(_) => hide_secrets(name),
    };
    plain_urls(&name)
}
