//! A container's output, cut into lines.

/// No line of interest is longer; a process that writes without end must not fill the memory.
const LONGEST: usize = 1 << 20;

/// Puts chunks together to lines. What is longer than a mebibyte comes in pieces.
#[derive(Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes a chunk and gives the lines that it completes, without their ends.
    pub(super) fn push(&mut self, chunk: &[u8], mut each: impl FnMut(&str)) {
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            self.pending.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.pending.len() >= LONGEST {
                self.give(&mut each);
            }
        }
    }

    /// Gives the last line when it has no end.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&str)) {
        if !self.pending.is_empty() {
            self.give(&mut each);
        }
    }

    fn give(&mut self, each: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.pending);
        each(text.trim_end_matches(['\n', '\r']));
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut got = Vec::new();
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.push(chunk, |line| got.push(line.to_owned()));
        }
        lines.finish(|line| got.push(line.to_owned()));
        got
    }

    #[test]
    fn chunks_are_put_together() {
        let chunks: [&[u8]; 4] = [b"a\nb", b"", b"c\r\n\nd", b"\xffe"];
        assert_eq!(lines(&chunks), ["a", "bc", "", "d\u{fffd}e"]);
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn an_endless_line_comes_in_pieces() {
        let chunk = vec![b'x'; LONGEST / 2 + 1];
        assert_eq!(lines(&[&chunk, &chunk, b"y\n"]).len(), 2);
    }
}
