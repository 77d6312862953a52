//! Unpacking frames with libzstd, one block at a time.

use std::{
    cell::{Ref, RefCell},
    io::{self, BufRead, Read},
    rc::Rc,
};

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::format::{self, BLOCK_MAX, BlockHeader, FrameHeader, Kind, Window, damaged};

/// A block of a frame, packed and unpacked.
#[derive(Default)]
pub struct Block {
    /// Its frame's number in the stream.
    pub(super) frame: u64,
    /// Its frame's window, if that says one.
    pub(super) window: Option<Window>,
    pub(super) kind: Option<Kind>,
    /// Header and body.
    pub(super) packed: Vec<u8>,
    /// What is in it.
    pub(super) content: Vec<u8>,
}

impl Block {
    /// What follows the header.
    pub(super) fn body(&self) -> &[u8] {
        self.packed.get(BlockHeader::LEN..).unwrap_or_default()
    }
}

#[derive(Default)]
struct State {
    block: Block,
    /// Bytes of the block's content that were read.
    read: usize,
}

/// Tells what block was just read by whom the reader was given to.
#[derive(Clone, Default)]
pub struct Tape(Rc<RefCell<State>>);

impl Tape {
    /// The window of the frame that was last read from; None when the frame says none.
    pub fn window(&self) -> Option<Window> {
        self.0.borrow().block.window
    }

    /// The block whose whole content the last read gave, if that gave as many bytes as it has.
    pub fn whole(&self, read: usize) -> Option<Ref<'_, Block>> {
        let filter = |state: &State| {
            let length = state.block.content.len();
            length > 0 && read == length && state.read == length
        };
        let state = self.0.borrow();
        filter(&state).then(|| Ref::map(state, |state| &state.block))
    }
}

/// Reads what is in frames; no read goes beyond the end of a block.
pub struct BlockReader<R> {
    input: R,
    decoder: Decoder<'static>,
    tape: Tape,
    /// The frame whose blocks come next.
    frame: Option<FrameHeader>,
    /// How many frames began, skippable ones too.
    frames: u64,
}

impl<R: BufRead> BlockReader<R> {
    /// Reads frames from the input until that ends.
    ///
    /// # Errors
    /// When libzstd has no memory.
    pub fn new(input: R) -> io::Result<Self> {
        Ok(Self {
            input,
            decoder: Decoder::new()?,
            tape: Tape::default(),
            frame: None,
            frames: 0,
        })
    }

    /// What tells of the blocks that are read.
    pub fn tape(&self) -> Tape {
        self.tape.clone()
    }

    /// Reads the next block; false at the input's end.
    fn advance(&mut self) -> io::Result<bool> {
        let tape = self.tape.clone();
        let mut state = tape.0.borrow_mut();
        let next = match self.frame {
            None => self.next_frame()?,
            known => known,
        };
        let Some(frame) = next else {
            return Ok(false);
        };
        let State { block, read } = &mut *state;
        let mut header = [0; BlockHeader::LEN];
        self.input.read_exact(&mut header)?;
        let header = BlockHeader::parse(header)?;
        block.frame = self.frames;
        block.window = frame.window;
        block.kind = Some(header.kind);
        block.packed.clear();
        block.packed.extend_from_slice(&header.bytes());
        let mut body = self.input.by_ref().take(header.body() as u64);
        if body.read_to_end(&mut block.packed)? < header.body() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Also for who reads on after an error.
        *read = 0;
        block.content.clear();
        decode(&mut self.decoder, &block.packed, &mut block.content)?;
        self.frame = Some(frame).filter(|_| !header.last);
        if header.last && frame.checksum {
            let mut checksum = [0; 4];
            self.input.read_exact(&mut checksum)?;
            decode(&mut self.decoder, &checksum, &mut block.content)?;
        }
        Ok(true)
    }

    /// Reads the next header of a frame that has content; None at the input's end.
    fn next_frame(&mut self) -> io::Result<Option<FrameHeader>> {
        while !self.input.fill_buf()?.is_empty() {
            self.frames += 1;
            let mut header = [0; 18];
            self.input.read_exact(&mut header[..5])?;
            let [a, b, c, d, descriptor, ..] = header;
            let magic = u32::from_le_bytes([a, b, c, d]);
            if format::is_skippable(magic) {
                let mut rest = [descriptor, 0, 0, 0];
                self.input.read_exact(&mut rest[1..])?;
                let size = u64::from(u32::from_le_bytes(rest));
                io::copy(&mut self.input.by_ref().take(size), &mut io::sink())?;
                continue;
            }
            if magic != format::MAGIC {
                return Err(damaged("no frame where one should begin"));
            }
            let header = &mut header[..FrameHeader::len(descriptor)];
            self.input.read_exact(&mut header[5..])?;
            decode(&mut self.decoder, header, &mut Vec::new())?;
            return Ok(Some(FrameHeader::parse(header)));
        }
        if self.frames == 0 {
            return Err(damaged("no frame"));
        }
        Ok(None)
    }
}

/// Has libzstd take all of the input, and adds what comes of it.
fn decode(decoder: &mut Decoder<'static>, input: &[u8], content: &mut Vec<u8>) -> io::Result<()> {
    // More than a block has, so that nothing is held back.
    content.reserve(BLOCK_MAX + 1);
    let start = content.len();
    let mut input = InBuffer::around(input);
    let mut output = OutBuffer::around_pos(content, start);
    while input.pos() < input.src.len() {
        let before = (input.pos(), output.pos());
        decoder.run(&mut input, &mut output)?;
        if before == (input.pos(), output.pos()) {
            return Err(damaged("a block that does not end"));
        }
    }
    Ok(())
}

impl<R: BufRead> Read for BlockReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            {
                let mut state = self.tape.0.borrow_mut();
                let State { block, read } = &mut *state;
                let left = &block.content[*read..];
                if !left.is_empty() || buf.is_empty() {
                    let n = left.len().min(buf.len());
                    buf[..n].copy_from_slice(&left[..n]);
                    *read += n;
                    return Ok(n);
                }
            }
            if !self.advance()? {
                return Ok(0);
            }
        }
    }
}
