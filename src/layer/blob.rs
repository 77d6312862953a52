//! A layer's tar to its blob: cut into chunks, hashed, compressed, hashed again, written.
//!
//! The thread that fills the chunks goes on while another takes them, in order, through the
//! rest; compressing is what all threads do. The bytes do not depend on how many there are.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::{
    buffers::Buffer,
    compressors::{CHUNK, Compressed, Compressors},
    tar::TakesBlocks,
};
use crate::{
    digest::Hashing,
    frames::{
        BLOCK_MAX, Tape, Window,
        splice::{self, Splicer},
    },
};

/// What the beginning of a file is compressed with whose blocks are taken.
const LEVEL: i32 = 1;

/// A chunk on its way.
pub(super) struct Part {
    chunk: Arc<Buffer>,
    form: Form,
}

/// What is written of a chunk.
enum Form {
    Plain,
    Coming(Compressed),
    /// The part of a frame that came about with it.
    Ready(Buffer),
}

/// Takes the tar and cuts it into chunks.
pub(super) struct Chunks<'a> {
    compressors: &'a Compressors,
    parts: Sender<Part>,
    filling: Option<Buffer>,
}

/// What the chunks come out of. How many are under way is bounded by the buffers there are.
pub(super) fn chunks(compressors: &Compressors) -> (Chunks<'_>, Receiver<Part>) {
    let (parts, out) = unbounded();
    let chunks = Chunks {
        compressors,
        parts,
        filling: None,
    };
    (chunks, out)
}

impl Chunks<'_> {
    fn send(&mut self) -> io::Result<()> {
        let Some(chunk) = self.filling.take() else {
            return Ok(());
        };
        let chunk = Arc::new(chunk);
        let form = match self.compressors.compression().is_none() {
            true => Form::Plain,
            false => Form::Coming(self.compressors.compress(chunk.clone())?),
        };
        self.part(Part { chunk, form })
    }

    fn part(&self, part: Part) -> io::Result<()> {
        self.parts
            .send(part)
            .map_err(|_| io::Error::other("the layer is not written any more"))
    }

    /// Writes the file's beginning, as far as its blocks can be taken, as one frame.
    fn splice(&mut self, file: &mut dyn Read, tape: &Tape, window: Window) -> io::Result<()> {
        self.send()?;
        let mut piece = vec![0; BLOCK_MAX];
        let (mut chunk, mut form) = (self.compressors.chunk()?, self.compressors.output()?);
        let mut splicer = Splicer::new(window, LEVEL, &mut form)?;
        let untaken = loop {
            let (n, taken) = splicer.read(file, tape, &mut piece, &mut form)?;
            if !taken {
                break n;
            }
            chunk.extend_from_slice(&piece[..n]);
            if chunk.len() + BLOCK_MAX > CHUNK {
                let part = Part {
                    chunk: Arc::new(chunk),
                    form: Form::Ready(form),
                };
                self.part(part)?;
                (chunk, form) = (self.compressors.chunk()?, self.compressors.output()?);
            }
        };
        splicer.finish(&mut form)?;
        self.part(Part {
            chunk: Arc::new(chunk),
            form: Form::Ready(form),
        })?;
        self.write_all(&piece[..untaken])
    }
}

impl TakesBlocks for Chunks<'_> {
    fn file(&mut self, size: u64, file: &mut dyn Read, tape: &Tape) -> io::Result<()> {
        let takes = self.compressors.compression().takes_blocks();
        let window = tape
            .window()
            .filter(|window| splice::is_worth_it(size, *window));
        if let Some(window) = window.filter(|_| takes) {
            self.splice(file, tape, window)?;
        }
        io::copy(file, self).map(drop)
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut chunk = match self.filling.take() {
            Some(chunk) => chunk,
            None => self.compressors.chunk()?,
        };
        let taken = bytes.len().min(CHUNK - chunk.len());
        chunk.extend_from_slice(&bytes[..taken]);
        let full = chunk.len() == CHUNK;
        self.filling = Some(chunk);
        if full {
            self.send()?;
        }
        Ok(taken)
    }

    /// Sends what there is: only the last chunk is a short one, so this is called at the end.
    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Writes the parts as they come.
///
/// # Errors
/// When compressing or writing fails.
pub(super) fn write_parts<W: Write>(parts: &Receiver<Part>, out: W) -> io::Result<Written<W>> {
    let mut tar = Hashing::new(io::sink());
    let mut out = out;
    for Part { chunk, form } in parts {
        tar.write_all(&chunk)?;
        match form {
            Form::Plain => out.write_all(&chunk)?,
            Form::Ready(output) => out.write_all(&output)?,
            Form::Coming(compressed) => {
                let output = compressed.recv().map_err(io::Error::other)??;
                out.write_all(&output)?;
            }
        }
    }
    out.flush()?;
    Ok(Written { tar, out })
}

/// A blob that is written, and the hash of the tar in it.
pub(super) struct Written<W> {
    pub tar: Hashing<io::Sink>,
    pub out: W,
}

#[cfg(test)]
mod tests {
    use std::{io::Read, num::NonZeroUsize, thread};

    use super::*;
    use crate::{base::media::Packing, digest::Digest, frames::BlockReader, layer::Compression};

    fn blob(bytes: &[u8], threads: usize, piece: usize, compression: Compression) -> Vec<u8> {
        let compressors = Compressors::new(NonZeroUsize::new(threads).unwrap(), compression);
        let (mut chunks, parts) = chunks(&compressors);
        thread::scope(|scope| {
            let writing = scope.spawn(move || write_parts(&parts, Vec::new()));
            for part in bytes.chunks(piece) {
                chunks.write_all(part).unwrap();
            }
            chunks.flush().unwrap();
            drop(chunks);
            let written = writing.join().unwrap().unwrap();
            assert_eq!(written.tar.digest(), Digest::of(bytes));
            written.out
        })
    }

    #[test]
    fn bytes_do_not_depend_on_threads_or_on_how_they_are_written() {
        let bytes: Vec<u8> = (0..70 * CHUNK as u32 / 16 + 17)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 & 0x1f)
            .collect();
        for text in ["zstd:1", "zstd:7", "gzip:1", "gzip:6", "none"] {
            let compression: Compression = text.parse().unwrap();
            let one = blob(&bytes, 1, 8192, compression);
            assert!(one == blob(&bytes, 7, 1_000_003, compression), "{text}");
            let packing = Packing::sniff(&one).unwrap();
            assert_eq!(packing.media_type(), compression.media_type());
            let mut back = Vec::new();
            packing
                .decoder(&one[..])
                .unwrap()
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == bytes, "{text}");
        }
    }

    #[test]
    fn a_layer_that_cannot_be_written_does_not_keep_its_buffers() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let one = NonZeroUsize::MIN;
        let compressors = Compressors::new(one, Compression::default());
        // More chunks than there are buffers, time and again.
        for _ in 0..5 {
            let (mut chunks, parts) = chunks(&compressors);
            thread::scope(|scope| {
                let writing = scope.spawn(move || write_parts(&parts, Full).map(|_| ()));
                let filled = (0..40).try_for_each(|_| chunks.write_all(&[7; CHUNK]));
                drop(chunks);
                let error = writing.join().unwrap().unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                assert!(filled.is_err());
            });
        }
    }

    /// The blob of a tar's header, a file read from `packed`, and some bytes behind it.
    fn blob_of_blocks(packed: &[u8], size: usize, threads: usize, compression: &str) -> Vec<u8> {
        let threads = NonZeroUsize::new(threads).unwrap();
        let compressors = Compressors::new(threads, compression.parse().unwrap());
        let (mut chunks, parts) = chunks(&compressors);
        let mut reader = BlockReader::new(packed).unwrap();
        let tape = reader.tape();
        thread::scope(|scope| {
            let writing = scope.spawn(move || write_parts(&parts, Vec::new()));
            io::copy(&mut reader.by_ref().take(512), &mut chunks).unwrap();
            let mut file = reader.by_ref().take(size as u64);
            chunks.file(size as u64, &mut file, &tape).unwrap();
            io::copy(&mut reader, &mut chunks).unwrap();
            chunks.flush().unwrap();
            drop(chunks);
            writing.join().unwrap().unwrap().out
        })
    }

    #[test]
    fn blocks_of_a_big_file_are_taken_at_the_quickest_level_alone() {
        let noise = |i: u32| (i.wrapping_mul(2_654_435_761) >> 22) as u8 & (i >> 13) as u8;
        let bytes: Vec<u8> = (0..2_500_000).map(noise).collect();
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        let window = zstd::stream::raw::CParameter::WindowLog(17);
        encoder.set_parameter(window).unwrap();
        encoder.write_all(&bytes).unwrap();
        let packed = encoder.finish().unwrap();
        // The middle of the package is found in the layer, byte for byte.
        let middle = &packed[packed.len() / 2..][..5000];
        for (compression, taken) in [("zstd:1", true), ("zstd:2", false), ("gzip:1", false)] {
            let blob = blob_of_blocks(&packed, 2_300_000, 1, compression);
            let found = blob.windows(middle.len()).any(|window| window == middle);
            assert_eq!(found, taken, "{compression}");
            assert!(blob == blob_of_blocks(&packed, 2_300_000, 5, compression));
            let mut back = Vec::new();
            let mut decoder = Packing::sniff(&blob).unwrap().decoder(&blob[..]).unwrap();
            decoder.read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{compression}");
        }
    }
}
