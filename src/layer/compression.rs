//! What a layer's tar is compressed with.

use std::{fmt, io, io::Write, ops::RangeInclusive, str::FromStr};

use flate2::write::GzEncoder;

use crate::base::media::Packing;

/// A codec and its level, as `--compression` takes them: `zstd`, `gzip:6`, `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    codec: Packing,
    level: u32,
}

const CODECS: [Packing; 3] = [Packing::Zstd, Packing::Gzip, Packing::Plain];

fn name(codec: Packing) -> &'static str {
    match codec {
        Packing::Zstd => "zstd",
        Packing::Gzip => "gzip",
        Packing::Plain => "none",
    }
}

/// Higher ones of zstd want more memory to decompress than some engines give.
fn levels(codec: Packing) -> RangeInclusive<u32> {
    match codec {
        Packing::Zstd => 1..=19,
        Packing::Gzip => 1..=9,
        Packing::Plain => 0..=0,
    }
}

/// The level of a codec that is named without one. gzip is for old engines and gets its own
/// default: what is pulled more often than it is made should be small.
fn default_level(codec: Packing) -> u32 {
    match codec {
        Packing::Gzip => 6,
        other => *levels(other).start(),
    }
}

impl Default for Compression {
    /// zstd's level 1: smaller than gzip's level 6, at ten times its speed.
    fn default() -> Self {
        Self {
            codec: Packing::Zstd,
            level: 1,
        }
    }
}

impl Compression {
    /// The OCI media type of such layers.
    pub fn media_type(self) -> &'static str {
        self.codec.media_type()
    }

    /// Names everything that the bytes of a compressed chunk depend on but the chunk.
    pub(super) fn format(self) -> String {
        match self.codec {
            Packing::Zstd => format!(
                "zstd-{} level-{}{}",
                zstd::zstd_safe::version_string(),
                self.level,
                if self.takes_blocks() { " blocks-1" } else { "" }
            ),
            // flate2 tells no version of zlib-rs: a test notices when its output changes.
            Packing::Gzip => format!("gzip level-{}", self.level),
            Packing::Plain => "none".into(),
        }
    }

    /// Whether blocks that are compressed already are taken as they are: at the quickest level,
    /// since no package is compressed worse. Who names another level wants that.
    pub(super) fn takes_blocks(self) -> bool {
        self.codec == Packing::Zstd && self.level == 1
    }

    pub(super) fn is_none(self) -> bool {
        self.codec == Packing::Plain
    }

    /// What one thread compresses with.
    pub(super) fn encoder(self) -> io::Result<Encoder> {
        Ok(match self.codec {
            Packing::Zstd => Encoder::Zstd(zstd::bulk::Compressor::new(self.level.cast_signed())?),
            Packing::Gzip => Encoder::Gzip(flate2::Compression::new(self.level)),
            Packing::Plain => Encoder::None,
        })
    }
}

/// Compresses chunks, each by itself: a zstd frame (RFC 8878, 3.1) or a gzip member (RFC 1952,
/// 2.2), several of which in a row every engine reads as one stream.
pub(super) enum Encoder {
    Zstd(zstd::bulk::Compressor<'static>),
    Gzip(flate2::Compression),
    None,
}

impl Encoder {
    /// Writes the compressed chunk into `out`, which it empties before.
    pub(super) fn encode(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        match self {
            Self::Zstd(compressor) => {
                out.reserve(zstd::zstd_safe::compress_bound(chunk.len()));
                compressor.compress_to_buffer(chunk, out).map(|_| ())
            }
            Self::Gzip(level) => {
                let mut encoder = GzEncoder::new(out, *level);
                encoder.write_all(chunk)?;
                encoder.finish().map(|_| ())
            }
            Self::None => out.write_all(chunk),
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let known = CODECS.into_iter().find(|codec| self::name(*codec) == name);
        let codec = known
            .ok_or_else(|| "use zstd, gzip or none, with a level if you like: zstd:3".to_owned())?;
        let levels = levels(codec);
        let level = match level {
            None => default_level(codec),
            Some(_) if codec == Packing::Plain => {
                return Err("none has no level".into());
            }
            Some(level) => level
                .parse()
                .ok()
                .filter(|level| levels.contains(level))
                .ok_or_else(|| {
                    let (first, last) = (levels.start(), levels.end());
                    format!("{name} has the levels {first} to {last}")
                })?,
        };
        Ok(Self { codec, level })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.codec {
            Packing::Plain => f.write_str("none"),
            codec => write!(f, "{}:{}", name(codec), self.level),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn texts_are_read_and_written() {
        for (text, shown) in [
            ("zstd", "zstd:1"),
            ("zstd:19", "zstd:19"),
            ("gzip", "gzip:6"),
            ("gzip:9", "gzip:9"),
            ("none", "none"),
        ] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), shown);
        }
        for (text, word) in [
            ("", "use zstd"),
            ("lz4", "use zstd"),
            ("zstd:0", "1 to 19"),
            ("zstd:20", "1 to 19"),
            ("gzip:x", "1 to 9"),
            ("none:1", "no level"),
        ] {
            let error = text.parse::<Compression>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert_eq!(Compression::default(), "zstd:1".parse().unwrap());
    }

    /// Digests must not change with a dependency unnoticed: caches and registries know layers by
    /// keys that say nothing of it. After a wanted change, `LAYOUT` needs a new name.
    #[test]
    fn compressed_bytes_are_those_of_earlier_builds() {
        let words: Vec<String> = (0..40_000_u32)
            .map(|i| format!("{} ", i.wrapping_mul(2_654_435_761) >> (i % 23)))
            .collect();
        let chunk = words.concat();
        let found = ["zstd:1", "zstd:9", "gzip:1", "gzip:6"].map(|text| {
            let mut bytes = Vec::new();
            let compression: Compression = text.parse().unwrap();
            let mut encoder = compression.encoder().unwrap();
            encoder.encode(chunk.as_bytes(), &mut bytes).unwrap();
            format!("{} {}", compression.format(), Digest::of(&bytes))
        });
        insta::assert_snapshot!(found.join("\n"));
    }
}
