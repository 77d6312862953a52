//! conda-lock's unified lock, version 1 (conda-lock docs, "Lockfile format"; CEP 37).
//!
//! Read here and not by `rattler_lock`, whose reader of this version knows no categories and no
//! lines. Versions 2 and 3 of the same shape are pixi's.

use std::collections::BTreeSet;

use rattler_digest::{Md5, Sha256, parse_digest_from_hex};

use super::{
    Collected, Given, Reading,
    origin::{Checked, Origin, Refusal, agrees, refusal},
    pixi, wheel,
};
use crate::{
    error::{Error, Result},
    spec::{
        LOCK_LIMITS,
        source::{Source, quoted},
        yaml::{self, Node, Value},
    },
};

const MAIN: &str = "main";
const LOCK_AGAIN: &str = "run conda-lock again";

/// Reads a lock: the packages of the platform in `main` and the chosen categories.
pub(super) fn parse(reading: &Reading<'_>) -> Result<Given> {
    let source = Source {
        file: reading.file,
        text: reading.text,
    };
    let root = yaml::parse_within(source, LOCK_LIMITS)?;
    match field(&root, "version").and_then(Node::scalar) {
        Some("1") => {}
        Some("2" | "3") => return pixi::parse_tree(reading, &root),
        _ => return Err(reading.broken("its version is none that conda-lock writes (1)")),
    }
    let packages = match field(&root, "package").map(|node| &node.value) {
        Some(Value::List(packages)) => packages,
        _ => return Err(reading.broken("'package' is not a list")),
    };
    let mut found = Collected {
        channels: channels(&root),
        ..Collected::default()
    };
    let wanted = categories(reading, packages)?;
    let (mut platforms, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for package in packages {
        let platform = text(package, "platform");
        platforms.extend(platform);
        let category = text(package, "category").unwrap_or(MAIN);
        if platform == Some(reading.platform.as_str()) && wanted.contains(category) {
            let own = ["manager", "name"].map(|key| text(package, key));
            let first = seen.insert((own, category));
            add(reading, package, first, &mut found)?;
        }
    }
    if found.lines.is_empty() {
        let platforms: Vec<String> = platforms.into_iter().map(quoted).collect();
        let platforms = match platforms.is_empty() {
            true => "no platform".to_owned(),
            false => platforms.join(", "),
        };
        return Err(Error::input(format!(
            "{} has no packages for {}",
            reading.file, reading.platform
        ))
        .at(reading.file)
        .why(format!("its packages are for {platforms}"))
        .hint(format!(
            "run conda-lock with --platform {}",
            reading.platform
        )));
    }
    found.given(reading)
}

/// `main` and the chosen ones, which must be in the lock.
fn categories<'a>(reading: &'a Reading<'_>, packages: &'a [Node]) -> Result<BTreeSet<&'a str>> {
    let known: BTreeSet<&str> = packages
        .iter()
        .filter_map(|p| text(p, "category"))
        .collect();
    let mut wanted = BTreeSet::from([MAIN]);
    for name in &reading.choice.categories {
        if name != MAIN && !known.contains(name.as_str()) {
            let known: Vec<String> = known.into_iter().map(quoted).collect();
            return Err(
                Error::input(format!("{} has no category {}", reading.file, quoted(name)))
                    .at(reading.file)
                    .why(format!("its categories are {}", known.join(", "))),
            );
        }
        wanted.insert(name);
    }
    Ok(wanted)
}

fn channels(root: &Node) -> Vec<String> {
    let listed = field(root, "metadata").and_then(|node| field(node, "channels"));
    let Some(Value::List(channels)) = listed.map(|node| &node.value) else {
        return Vec::new();
    };
    channels
        .iter()
        .filter_map(|channel| channel.scalar().or_else(|| text(channel, "url")))
        .flat_map(pixi::channel_url)
        .collect()
}

/// Adds a package; `first` is whether its category does not have it yet.
fn add(reading: &Reading<'_>, package: &Node, first: bool, found: &mut Collected) -> Result<()> {
    let line = package.place.line;
    let name = text(package, "name").unwrap_or_default();
    let wrong = |why: Refusal| reading.refused(name, line, why);
    let url = required(package, "url").map_err(wrong)?;
    let version = required(package, "version").map_err(wrong)?;
    let hash = |kind| field(package, "hash").and_then(|hash| text(hash, kind));
    match text(package, "manager") {
        Some("conda") => {
            let origin = Origin::parse(url, reading.platform).map_err(wrong)?;
            if first && in_other_category(package, &origin, found) {
                return Ok(());
            }
            found.secrets |= origin.secret;
            let record = record(name, version, package, origin).map_err(wrong)?;
            found.add(reading, line, record)
        }
        Some("pip") => {
            let named = (name, Some(version));
            let (wheel, secret) =
                wheel::locked(named, url, hash("sha256"), reading.platform).map_err(wrong)?;
            if first && found.wheels.contains(&wheel) {
                return Ok(());
            }
            found.secrets |= secret;
            found.add_wheel(reading, line, wheel)
        }
        _ => Err(wrong(Refusal {
            why: "its manager is neither conda nor pip".into(),
            hint: LOCK_AGAIN.into(),
        })),
    }
}

/// Whether the very package is there already: conda-lock repeats it for each of its categories.
fn in_other_category(package: &Node, origin: &Origin, found: &Collected) -> bool {
    let sha256 = field(package, "hash").and_then(|hash| text(hash, "sha256"));
    found.records.iter().any(|known| {
        known.url == origin.url
            && sha256.is_some()
            && sha256.and_then(parse_digest_from_hex::<Sha256>) == known.package_record.sha256
    })
}

fn record(
    name: &str,
    version: &str,
    package: &Node,
    origin: Origin,
) -> Checked<rattler_conda_types::RepoDataRecord> {
    let mut record = origin.record()?;
    let own = &mut record.package_record;
    agrees("name", name, own.name.as_normalized())?;
    agrees("version", version, &own.version.as_str())?;
    let hash = |kind| field(package, "hash").and_then(|hash| text(hash, kind));
    if let Some(hex) = hash("sha256") {
        own.sha256 = Some(digest::<Sha256>(hex)?);
    }
    if let Some(hex) = hash("md5") {
        own.md5 = Some(digest::<Md5>(hex)?);
    }
    own.depends = depends(package)?;
    Ok(record)
}

fn digest<D: rattler_digest::digest::Digest>(
    hex: &str,
) -> Checked<rattler_digest::digest::Output<D>> {
    match parse_digest_from_hex::<D>(hex) {
        Some(digest) => Ok(digest),
        None => refusal(format!("{} is not such a hash", quoted(hex)), LOCK_AGAIN),
    }
}

/// `dependencies: {name: spec}` as match specs.
fn depends(package: &Node) -> Checked<Vec<String>> {
    match field(package, "dependencies").map(|node| &node.value) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Map(items)) => Ok(items
            .iter()
            .map(|(name, spec)| {
                let name = name.scalar().unwrap_or_default();
                let spec = spec.scalar().unwrap_or_default();
                format!("{name} {spec}").trim().to_owned()
            })
            .collect()),
        Some(_) => refusal("its dependencies are not a map", LOCK_AGAIN),
    }
}

fn required<'n>(package: &'n Node, key: &str) -> Checked<&'n str> {
    match text(package, key) {
        Some(text) => Ok(text),
        None => refusal(format!("it has no {key}"), LOCK_AGAIN),
    }
}

fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    field(node, key)?.scalar()
}

pub(super) fn field<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Value::Map(items) = &node.value else {
        return None;
    };
    let found = items.iter().find(|(name, _)| name.scalar() == Some(key));
    found.map(|(_, value)| value)
}
