//! The least that a build can cost: decode, hash, compress and hash the same bytes in a straight loop.
//!
//! `floor CODEC FILE...` prints JSON: bytes, the CPU seconds of one thread, and the wall seconds of two. Each package is
//! decoded to its one tar (a wheel to its files); nothing is linked. A file without an extension, as compiled Python
//! files are kept, goes in as it is. The libraries, their settings and the chunk size are those of builds. docs/bench.md
//! says what is compared.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use flate2::{Compression as GzipLevel, write::GzEncoder};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zip::ZipArchive;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What builds compress at a time, in bytes.
const CHUNK: usize = 1 << 20;
/// How often each measurement is made; the best one counts.
const RUNS: usize = 3;

#[derive(Clone, Copy)]
enum Codec {
    Zstd(i32),
    Gzip(u32),
    None,
}

/// What went through the loop, in bytes.
#[derive(Clone, Copy, Default)]
struct Bytes {
    packed: u64,
    tar: u64,
    blob: u64,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let Some((codec, packages)) = arguments.split_first() else {
        return Err("usage: floor zstd:LEVEL|gzip:LEVEL|none FILE...".into());
    };
    let codec = parse(codec)?;
    let mut packages: Vec<PathBuf> = packages.iter().map(PathBuf::from).collect();
    // The largest first, so that two threads end together.
    packages.sort_by_key(|path| std::cmp::Reverse(path.metadata().map_or(0, |m| m.len())));
    let (mut cpu, mut wall, mut two) = (f64::MAX, f64::MAX, f64::MAX);
    let mut bytes = Bytes::default();
    for _ in 0..RUNS {
        let (cpu_before, before) = (cpu_seconds()?, Instant::now());
        bytes = one_by_one(&packages, codec)?;
        cpu = cpu.min(cpu_seconds()? - cpu_before);
        wall = wall.min(before.elapsed().as_secs_f64());
        let before = Instant::now();
        in_two_threads(&packages, codec)?;
        two = two.min(before.elapsed().as_secs_f64());
    }
    println!(
        "{}",
        json!({
            "cpu_s": cpu, "wall_s": wall, "wall_two_threads_s": two, "packages": packages.len(),
            "packed_bytes": bytes.packed, "tar_bytes": bytes.tar, "blob_bytes": bytes.blob,
        })
    );
    Ok(())
}

fn parse(text: &str) -> Result<Codec, Failure> {
    let (name, level) = text.split_once(':').unwrap_or((text, "1"));
    match name {
        "zstd" => Ok(Codec::Zstd(level.parse()?)),
        "gzip" => Ok(Codec::Gzip(level.parse()?)),
        "none" => Ok(Codec::None),
        _ => Err(format!("unknown codec {text}").into()),
    }
}

fn one_by_one(packages: &[PathBuf], codec: Codec) -> Result<Bytes, Failure> {
    packages.iter().try_fold(Bytes::default(), |sum, path| {
        let bytes = package(path, codec).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Bytes {
            packed: sum.packed + bytes.packed,
            tar: sum.tar + bytes.tar,
            blob: sum.blob + bytes.blob,
        })
    })
}

fn in_two_threads(packages: &[PathBuf], codec: Codec) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Failure> {
        while let Some(path) = packages.get(next.fetch_add(1, Ordering::Relaxed)) {
            package(path, codec)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        work()?;
        other
            .join()
            .unwrap_or_else(|_| Err("a thread panicked".into()))
    })
}

fn package(path: &Path, codec: Codec) -> Result<Bytes, Failure> {
    let mut file = File::open(path)?;
    let packed = file.metadata()?.len();
    let mut pipe = Pipe::new(codec)?;
    match path.extension().and_then(|e| e.to_str()) {
        None => pipe.take(&mut file)?,
        Some("conda") => {
            let mut zip = ZipArchive::new(file)?;
            let content = zip
                .file_names()
                .position(|name| name.is_ok_and(|name| name.starts_with("pkg-")));
            let content = zip.by_index(content.ok_or("no pkg-*.tar.zst in it")?)?;
            pipe.take(&mut zstd::Decoder::new(content)?)?;
        }
        Some("bz2") => pipe.take(&mut bzip2::read::MultiBzDecoder::new(
            BufReader::with_capacity(CHUNK, file),
        ))?,
        Some("whl") => {
            let mut zip = ZipArchive::new(file)?;
            for index in 0..zip.len() {
                pipe.take(&mut zip.by_index(index)?)?;
            }
        }
        Some(_) => return Err("neither .conda, .tar.bz2 nor .whl".into()),
    }
    let (tar, blob) = pipe.finish()?;
    Ok(Bytes { packed, tar, blob })
}

/// Decoded bytes -> diff id, and compressed -> digest.
struct Pipe {
    codec: Codec,
    chunk: Vec<u8>,
    filled: usize,
    compressed: Vec<u8>,
    diff_id: Sha256,
    digest: Sha256,
    zstd: zstd::bulk::Compressor<'static>,
    tar: u64,
    blob: u64,
}

impl Pipe {
    fn new(codec: Codec) -> io::Result<Self> {
        let level = if let Codec::Zstd(level) = codec {
            level
        } else {
            1
        };
        Ok(Self {
            codec,
            chunk: vec![0; CHUNK],
            filled: 0,
            compressed: Vec::with_capacity(2 * CHUNK),
            diff_id: Sha256::new(),
            digest: Sha256::new(),
            zstd: zstd::bulk::Compressor::new(level)?,
            tar: 0,
            blob: 0,
        })
    }

    fn take(&mut self, source: &mut impl Read) -> io::Result<()> {
        loop {
            let read = source.read(&mut self.chunk[self.filled..])?;
            if read == 0 {
                return Ok(());
            }
            self.filled += read;
            if self.filled == CHUNK {
                self.flush()?;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = &self.chunk[..self.filled];
        self.diff_id.update(chunk);
        self.compressed.clear();
        let blob: &[u8] = match self.codec {
            Codec::Zstd(_) => {
                self.zstd.compress_to_buffer(chunk, &mut self.compressed)?;
                &self.compressed
            }
            Codec::Gzip(level) => {
                let mut encoder = GzEncoder::new(&mut self.compressed, GzipLevel::new(level));
                encoder.write_all(chunk)?;
                encoder.finish()?;
                &self.compressed
            }
            Codec::None => chunk,
        };
        self.digest.update(blob);
        self.tar += self.filled as u64;
        self.blob += blob.len() as u64;
        self.filled = 0;
        Ok(())
    }

    fn finish(mut self) -> io::Result<(u64, u64)> {
        self.flush()?;
        std::hint::black_box((self.diff_id.finalize(), self.digest.finalize()));
        Ok((self.tar, self.blob))
    }
}

/// User and system seconds of this process so far, from /proc (proc(5): clock ticks of 10 ms).
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("odd /proc/self/stat")?.1;
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.map(|field| field.parse().unwrap_or(0.0)).sum();
    Ok(ticks / 100.0)
}
