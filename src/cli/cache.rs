//! `imgbuild cache`: what the cache holds, removing from it, and whether it is whole; and the
//! bound that builds keep.

use std::{collections::BTreeMap, num::NonZeroUsize, path::Path, process::ExitCode, thread};

use clap::{Args as Group, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::{args::Format, open_store, print};
use crate::{
    digest::Digest,
    error::{Error, Exit, Result},
    report::{Reporter, human_bytes},
    store::{Alone, Damage, Kind, Policy, Role, Store, Thing, parse_size},
};

/// The version of the JSON: another one when a field goes or changes its meaning.
const VERSION: u32 = 1;

/// The setting that bounds the cache.
const MAX_SIZE: &str = "IMGBUILD_CACHE_MAX_SIZE";

#[derive(Group)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Subcommand)]
enum CacheCommand {
    /// Show what the cache holds, by kind.
    Du(Printing),
    /// Remove what no named image needs and no build used in the last two weeks.
    Prune(PruneArgs),
    /// Check everything that the cache holds, and remove what is damaged; exit status 3 when
    /// something was.
    Verify(Printing),
}

#[derive(Group)]
struct Printing {
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Group)]
struct PruneArgs {
    /// Remove what was not used for the longest time, until the rest has that size, such as 50GB
    /// or 50GiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Remove everything, named images too.
    #[arg(long, conflicts_with = "max_size")]
    all: bool,
    /// Print what would go, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    printing: Printing,
}

pub(super) fn run(args: &CacheArgs, reporter: &Reporter) -> Result<ExitCode> {
    let store = open_store(reporter)?;
    match &args.command {
        CacheCommand::Du(args) => du(args.format, &store),
        CacheCommand::Prune(args) => prune(args, &store, reporter),
        CacheCommand::Verify(args) => verify(args.format, &store, reporter),
    }
}

/// Things of one kind.
#[derive(Clone, Copy, Default, Serialize)]
struct Sum {
    count: usize,
    bytes: u64,
}

fn sums(things: &[Thing]) -> BTreeMap<Kind, Sum> {
    let mut sums: BTreeMap<Kind, Sum> = BTreeMap::new();
    for thing in things {
        let sum = sums.entry(thing.kind).or_default();
        sum.count += 1;
        sum.bytes += thing.size;
    }
    sums
}

fn total(things: &[Thing]) -> Sum {
    Sum {
        count: things.len(),
        bytes: things.iter().map(|thing| thing.size).sum(),
    }
}

fn du(format: Format, store: &Store) -> Result<ExitCode> {
    let things = store.things()?;
    let (sums, Sum { count, bytes }) = (sums(&things), total(&things));
    let each = Kind::ALL.map(|kind| (kind, sums.get(&kind).copied().unwrap_or_default()));
    match format {
        Format::Text => {
            for (kind, Sum { count, bytes }) in each {
                print(format_args!(
                    "{kind:10} {count:>7} {:>9}",
                    human_bytes(bytes)
                ));
            }
            let (bytes, folder) = (human_bytes(bytes), store.root().display());
            print(format_args!(
                "{:10} {count:>7} {bytes:>9}  {folder}",
                "total"
            ));
        }
        Format::Json => {
            let kind = |(kind, Sum { count, bytes })| json!({"kind": kind, "count": count, "bytes": bytes});
            print(format_args!(
                "{:#}",
                json!({
                    "version": VERSION,
                    "folder": store.root(),
                    "max_bytes": bound()?,
                    "count": count,
                    "bytes": bytes,
                    "kinds": each.map(kind),
                })
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn prune(args: &PruneArgs, store: &Store, reporter: &Reporter) -> Result<ExitCode> {
    let policy = match (args.all, args.max_size) {
        (true, _) => Policy::Everything,
        (_, Some(bytes)) => Policy::DownTo(bytes),
        (_, None) => Policy::unneeded(),
    };
    let gone = match args.dry_run {
        true => store.prunable(&policy, &[])?,
        false => {
            let alone = store.try_alone()?.ok_or_else(|| in_use(store))?;
            remove(&alone, &policy, &[], reporter)?
        }
    };
    let folder = store.root();
    match args.printing.format {
        Format::Text if args.dry_run => {
            for thing in &gone {
                let (kind, bytes, shown) = (thing.kind, human_bytes(thing.size), shown(thing));
                print(format_args!("{kind:10} {bytes:>9}  {}", shown));
            }
            print(format_args!("Would free {}", summary(&gone)));
        }
        Format::Text => print(format_args!("Freed {}", summary(&gone))),
        Format::Json => print(format_args!("{:#}", pruned(&gone, args.dry_run, folder))),
    }
    Ok(ExitCode::SUCCESS)
}

fn in_use(store: &Store) -> Error {
    Error::environment("the cache is in use, nothing was removed")
        .at(store.root().display())
        .why("another imgbuild is running")
        .hint("run this again when it has ended; IMGBUILD_CACHE_MAX_SIZE lets builds do it")
}

fn remove(
    alone: &Alone<'_>,
    policy: &Policy,
    keep: &[Digest],
    reporter: &Reporter,
) -> Result<Vec<Thing>> {
    let things = alone.store().prunable(policy, keep)?;
    alone.remove(&things)?;
    for thing in &things {
        if let Role::Name(name, _) = &thing.role {
            reporter.step(format_args!("{name} is named no more: its turn to go came"));
        }
    }
    Ok(things)
}

/// An image by its name, other things by where they are.
fn shown(thing: &Thing) -> String {
    match &thing.role {
        Role::Name(name, _) => name.clone(),
        _ => thing.path.display().to_string(),
    }
}

/// `3.6 GB: 53 packages, 2 layers`.
fn summary(things: &[Thing]) -> String {
    let each: Vec<String> = sums(things)
        .iter()
        .map(|(kind, sum)| format!("{} {kind}", sum.count))
        .collect();
    let colon = if each.is_empty() { "" } else { ": " };
    let bytes = human_bytes(total(things).bytes);
    format!("{bytes}{colon}{}", each.join(", "))
}

fn pruned(things: &[Thing], dry_run: bool, folder: &Path) -> serde_json::Value {
    let Sum { count, bytes } = total(things);
    let each = things.iter().map(|thing| {
        let mut value = json!({"kind": thing.kind, "path": thing.path, "bytes": thing.size});
        if let Role::Name(name, _) = &thing.role {
            value["image"] = json!(name);
        }
        value
    });
    json!({
        "version": VERSION,
        "folder": folder,
        "dry_run": dry_run,
        "count": count,
        "bytes": bytes,
        "things": each.collect::<Vec<_>>(),
    })
}

fn verify(format: Format, store: &Store, reporter: &Reporter) -> Result<ExitCode> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut found = store.verify(threads)?;
    if !found.damaged.is_empty() {
        let waiting = || {
            reporter.step("Waiting until no build uses the cache, to remove what is damaged");
        };
        let alone = store.alone(waiting)?;
        found.damaged = alone.remove_damaged(&found.damaged, threads)?;
    }
    match format {
        Format::Text => {
            for Damage { path, what } in &found.damaged {
                print(format_args!("removed {}: {what}", path.display()));
            }
            print(format_args!(
                "Checked {} files ({}) and {} records: {} damaged",
                found.files,
                human_bytes(found.bytes),
                found.records,
                found.damaged.len()
            ));
        }
        Format::Json => print(format_args!(
            "{:#}",
            json!({
                "version": VERSION,
                "folder": store.root(),
                "files": found.files,
                "bytes": found.bytes,
                "records": found.records,
                "damaged": found.damaged,
            })
        )),
    }
    Ok(match found.damaged.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(Exit::Environment as u8),
    })
}

/// The size in bytes that builds keep the cache down to, if the user set one.
pub(super) fn bound() -> Result<Option<u64>> {
    let Some(text) = std::env::var_os(MAX_SIZE).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = parse_size(&text.to_string_lossy());
    parsed.map(Some).map_err(|why| {
        Error::input(format!("{MAX_SIZE} is not a size"))
            .why(why)
            .hint(format!(
                "set it to a size such as 50GB, or unset {MAX_SIZE}"
            ))
    })
}

/// Keeps the bound after a build; the image that was built stays. While another build runs,
/// nothing is removed: the last one does it.
pub(super) fn keep_bound(bytes: u64, built: &Digest, store: &Store, reporter: &Reporter) {
    let trim = || -> Result<()> {
        let Some(alone) = store.try_alone()? else {
            return Ok(());
        };
        let gone = remove(&alone, &Policy::DownTo(bytes), &[*built], reporter)?;
        if !gone.is_empty() {
            reporter.step(format_args!("Freed {} of the cache", summary(&gone)));
        }
        Ok(())
    };
    // The build is done, and its result stands.
    if let Err(e) = trim() {
        reporter.warn(format_args!(
            "the cache was not cut down to {MAX_SIZE}: {e}"
        ));
    }
}
