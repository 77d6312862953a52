//! A series of locks made from one: few packages change often, most seldom.

use std::{fs, path::Path};

use imgbuild::{
    digest::Digest,
    lock::{self, Lock, LockedEnv},
    machine::Machine,
};
use rattler_conda_types::{PackageName, RepoDataRecord};
use rattler_digest::{Sha256, parse_digest_from_hex};

use crate::Failure;

/// What a series is made by.
pub(crate) struct Series {
    /// The same one makes the same series.
    pub seed: u64,
    /// The mean of the packages' chances of a new build, an update.
    pub chance: f64,
}

/// The chance that an update removes a package, and that it adds one.
const COMES_OR_GOES: f64 = 0.5;
/// A package's size in bytes where the lock does not say it: the median, and the spread of its logarithm.
/// About what conda-forge's packages have.
const MEDIAN: f64 = 200e3;
const SPREAD: f64 = 1.9;
/// The giants of CUDA environments, by the start of their names, in MB.
const GIANTS: [(&str, f64); 14] = [
    ("pytorch-gpu", 0.05),
    ("pytorch", 500.0),
    ("libtorch", 500.0),
    ("libcublas", 390.0),
    ("cudnn", 500.0),
    ("libcudnn", 500.0),
    ("nccl", 200.0),
    ("libcufft", 200.0),
    ("libcusolver", 195.0),
    ("libcusparse", 145.0),
    ("libmagma", 250.0),
    ("tensorflow-base", 400.0),
    ("cuda-nvrtc", 45.0),
    ("mkl", 125.0),
];

/// Writes the lock itself and then its updates, as imgbuild's own locks.
pub(crate) fn write(
    start: &Lock,
    folder: &Path,
    updates: usize,
    series: &Series,
) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    let folder = std::path::absolute(folder)?;
    let mut records = start.env.packages().to_vec();
    for record in &mut records {
        let name = name_of(record);
        record
            .package_record
            .size
            .get_or_insert_with(|| usual_size(&name));
    }
    for update in 0..=updates {
        if update > 0 {
            step(&mut records, update, series)?;
        }
        let env = LockedEnv::new(start.env.channels.clone(), records.clone())
            .with_wheels(start.env.wheels().to_vec());
        let lock = Lock {
            env,
            ..start.clone()
        };
        let text = lock::render(&lock::Locks::from([(Machine::Amd64, lock)]), &folder)
            .map_err(|e| e.to_string())?;
        fs::write(folder.join(format!("{update:04}.lock.yml")), text)?;
    }
    Ok(())
}

fn step(records: &mut Vec<RepoDataRecord>, update: usize, series: &Series) -> Result<(), Failure> {
    let seed = series.seed;
    let chance = |what: &str, name: &str| unit(&format!("{seed}/{update}/{what}/{name}"));
    for record in records.iter_mut() {
        let name = name_of(record);
        if chance("bump", &name) < rate(&name, series) {
            bump(record, update, chance("size", &name))?;
        }
    }
    if chance("remove", "") < COMES_OR_GOES {
        let leaves: Vec<usize> = (0..records.len())
            .filter(|i| is_leaf(records, *i))
            .collect();
        let chosen = (chance("which", "") * leaves.len() as f64) as usize;
        if let Some(index) = leaves.get(chosen) {
            records.remove(*index);
        }
    }
    if chance("add", "") < COMES_OR_GOES {
        let like = (chance("like", "") * records.len() as f64) as usize;
        if let Some(record) = records.get(like).cloned() {
            records.push(added(record, update)?);
        }
    }
    Ok(())
}

/// A package's chance of a new build an update: with the fourth power of an even number, a tenth of the packages
/// has two fifths of the updates.
fn rate(name: &str, series: &Series) -> f64 {
    let even = unit(&format!("{}/rate/{name}", series.seed));
    (series.chance * 5.0 * even.powi(4)).min(1.0)
}

/// A new build: another file, sha256 and a size that is near the old one mostly, and far from it at times.
fn bump(record: &mut RepoDataRecord, update: usize, luck: f64) -> Result<(), Failure> {
    let factor = if luck > 0.95 { 1.5 } else { 0.9 + luck / 5.0 };
    let size = record.package_record.size.unwrap_or(0);
    record.package_record.size = Some(((size as f64 * factor) as u64).max(1000));
    renamed(record, &format!("u{update}_0"))
}

/// A package that nobody needs, of the same size as one that there is.
fn added(mut record: RepoDataRecord, update: usize) -> Result<RepoDataRecord, Failure> {
    let name = format!("added-{update}");
    record.package_record.name = PackageName::new_unchecked(&name);
    let size = record.package_record.size.unwrap_or(0);
    record.package_record.size = Some(size.min(20_000_000));
    renamed(&mut record, "0")?;
    Ok(record)
}

/// The record under the name that its fields now have, with a new sha256.
fn renamed(record: &mut RepoDataRecord, build: &str) -> Result<(), Failure> {
    let package = &mut record.package_record;
    package.build = build.parse()?;
    let extension = match record.url.path().ends_with(".tar.bz2") {
        true => "tar.bz2",
        false => "conda",
    };
    let file = format!(
        "{}-{}-{build}.{extension}",
        package.name.as_normalized(),
        package.version
    );
    let hex = Digest::of(file.as_bytes()).hex().to_string();
    package.sha256 = parse_digest_from_hex::<Sha256>(&hex);
    package.md5 = None;
    record.url = record.url.join(&file)?;
    record.identifier = file.parse().map_err(|e| format!("{file}: {e}"))?;
    Ok(())
}

fn is_leaf(records: &[RepoDataRecord], index: usize) -> bool {
    let name = name_of(&records[index]);
    let needs = |spec: &String| spec.split_whitespace().next() == Some(&name);
    !records
        .iter()
        .any(|record| record.package_record.depends.iter().any(needs))
}

fn usual_size(name: &str) -> u64 {
    if let Some((_, mb)) = GIANTS.iter().find(|(start, _)| name.starts_with(start)) {
        return (mb * 1e6) as u64;
    }
    // Twelve even numbers make a normal one.
    let normal: f64 = (0..12)
        .map(|i| unit(&format!("size/{i}/{name}")))
        .sum::<f64>()
        - 6.0;
    (MEDIAN * (SPREAD * normal).exp()).clamp(2e3, 80e6) as u64
}

/// An even number from 0 to 1 that the text stands for: no state, so no change of order changes the series.
fn unit(text: &str) -> f64 {
    let hex = Digest::of(text.as_bytes()).hex().to_string();
    u32::from_str_radix(&hex[..8], 16).map_or(0.0, |number| f64::from(number) / f64::from(u32::MAX))
}

fn name_of(record: &RepoDataRecord) -> String {
    record.package_record.name.as_normalized().to_owned()
}
