//! What updates of an environment re-download, with the planner that builds use.
//!
//! `replay FOLDER` reads the locks of a folder in the order of their names; `replay --make LOCK FOLDER` writes
//! such a series by changing one lock with a fixed seed. docs/bench.md says what the figures mean.

mod series;
mod updates;

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Parser;
use imgbuild::{
    lock::{Lock, foreign},
    plan::Budget,
    spec::LockChoice,
};
use rattler_conda_types::Subdir;

type Failure = Box<dyn std::error::Error>;

/// Replay a series of locks
#[derive(Parser)]
struct Options {
    /// The folder of locks
    folder: PathBuf,
    /// Fill the folder with a series made from this lock
    #[arg(long)]
    make: Option<PathBuf>,
    /// How many updates to make
    #[arg(long, default_value_t = 52)]
    updates: usize,
    /// The seed of the series
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The mean of the packages' chances of a new build, an update; 0.22 gives real series' floor
    #[arg(long, default_value_t = 0.22)]
    chance: f64,
    /// The layers that packages may take; may be given more than once
    #[arg(long, default_values_t = [116, 60, 30, 15])]
    layers: Vec<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    if let Some(start) = &options.make {
        let start = read(start)?;
        let series = series::Series {
            seed: options.seed,
            chance: options.chance,
        };
        series::write(&start, &options.folder, options.updates, &series)?;
    }
    let locks = read_all(&options.folder)?;
    let rows: Vec<updates::Row> = options
        .layers
        .iter()
        .map(|layers| updates::replay(&locks, &Budget::of(*layers), *layers))
        .collect();
    if options.json {
        println!("{}", serde_json::to_string(&rows)?);
    } else {
        table(&rows, locks.len());
    }
    Ok(())
}

fn read_all(folder: &Path) -> Result<Vec<Lock>, Failure> {
    let mut files = fs::read_dir(folder)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()?;
    files.sort();
    let locks = files
        .iter()
        .map(|file| read(file))
        .collect::<Result<Vec<_>, _>>()?;
    match locks.len() {
        0 | 1 => Err(format!("{} has no two locks", folder.display()).into()),
        _ => Ok(locks),
    }
}

fn read(file: &Path) -> Result<Lock, Failure> {
    let dir = std::path::absolute(file)?;
    let dir = dir.parent().unwrap_or(Path::new("/"));
    let bytes = fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let name = file.display().to_string();
    let given = foreign::parse(&bytes, &name, dir, &LockChoice::default(), Subdir::Linux64)
        .map_err(|e| format!("{name}: {e}"))?;
    Ok(given.lock)
}

fn table(rows: &[updates::Row], locks: usize) {
    println!("{} updates; re-downloaded bytes an update", locks - 1);
    println!(
        "{:>6} {:>5} {:>9} {:>8} {:>8} {:>7} {:>10} {:>8}",
        "layers", "used", "image MB", "MB", "floor MB", "ratio", "of singles", "of bins"
    );
    for row in rows {
        println!(
            "{:>6} {:>5} {:>9.0} {:>8.1} {:>8.1} {:>7.3} {:>10.1} {:>8.1}",
            row.layers,
            row.used,
            row.image_mb,
            row.downloaded_mb,
            row.floor_mb,
            row.ratio,
            row.single_mb,
            row.bin_mb
        );
    }
}
