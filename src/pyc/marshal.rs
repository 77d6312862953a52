//! One form of a marshalled code object.
//!
//! CPython's `marshal` writes a back reference where an object occurs again, and marks what *may*
//! occur again by its reference count; strings say whether they are interned. Both depend on what
//! the process did before, so the same source gives other bytes in another process. Here the stream
//! is read, equal constants become one, and it is written anew: references exactly where something
//! occurs again, strings interned exactly where the code constructor would do so on loading
//! (`intern_string_constants` in `Objects/codeobject.c`), sets in the order of their content's hash
//! (CPython sorts them since 3.11 only). The result depends on the code's value alone.
//!
//! The format is that of `Python/marshal.c`, versions 3 to 5.

use std::collections::HashMap;

use crate::digest::Digest;

/// CPython's own limit is 2000; a compiler's output never comes near (100 levels of indentation).
const MAX_DEPTH: u32 = 1000;
const FLAG_REF: u8 = 0x80;
const REF: u8 = b'r';
const TUPLE: u8 = b'(';
const SMALL_TUPLE: u8 = b')';
const FROZENSET: u8 = b'>';
const CODE: u8 = b'c';
const UNICODE: u8 = b'u';
const ASCII: u8 = b'a';
const ASCII_INTERNED: u8 = b'A';
const SHORT_ASCII: u8 = b'z';
const SHORT_ASCII_INTERNED: u8 = b'Z';

/// Why bytes are not a marshalled code object of a known form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarshalError {
    /// The stream ends in the middle of an object, or goes on after the last.
    #[error("it ends too early or too late")]
    Length,
    /// A type that code objects do not hold.
    #[error("it holds an object of type {0:#04x}")]
    Type(u8),
    /// A reference to nothing, or to what holds it.
    #[error("it refers to an object that it does not hold")]
    Reference,
    /// It is nested too deeply.
    #[error("it is nested too deeply")]
    Depth,
}

type Result<T> = std::result::Result<T, MarshalError>;

/// The fields of a code object, which differ between minor versions of Python 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeLayout {
    /// Integers of 4 bytes before the objects.
    integers: usize,
    /// Objects before `co_firstlineno`.
    before_line: usize,
    /// Objects after it.
    after_line: usize,
}

impl CodeLayout {
    /// The layout of Python 3.`minor`; none for versions that are not known. Hash-based `.pyc`
    /// files begin with 3.7 (PEP 552).
    pub fn of_minor(minor: u64) -> Option<Self> {
        let (integers, before_line, after_line) = match minor {
            7 => (5, 8, 1),
            8..=10 => (6, 8, 1),
            // Exception tables and localsplus: PEP 657 and gh-89914.
            11..=14 => (5, 8, 2),
            _ => return None,
        };
        Some(Self {
            integers,
            before_line,
            after_line,
        })
    }
}

/// Writes a marshalled code object in the one form.
///
/// # Errors
/// When the bytes are not what this Python's `marshal.dumps` gives for a code object.
pub fn canonical(bytes: &[u8], layout: CodeLayout) -> Result<Vec<u8>> {
    let mut reader = Reader {
        rest: bytes,
        layout,
        nodes: Vec::new(),
        known: HashMap::new(),
        references: Vec::new(),
    };
    let root = reader.object(0)?;
    if !reader.rest.is_empty() {
        return Err(MarshalError::Length);
    }
    Writer::new(&reader.nodes, layout).write(root, bytes.len())
}

/// An object; children are indices of nodes that were made before it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node<'a> {
    kind: u8,
    /// What follows the type: a length and bytes, or a code object's integers.
    head: &'a [u8],
    /// A code object's first line.
    line: &'a [u8],
    children: Vec<usize>,
}

impl Node<'_> {
    /// Objects that are not worth a reference: CPython has one of each, and so writes none.
    fn is_singleton(&self) -> bool {
        matches!(self.kind, b'N' | b'T' | b'F' | b'.' | b'S')
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    layout: CodeLayout,
    nodes: Vec<Node<'a>>,
    known: HashMap<Node<'a>, usize>,
    /// The stream's own references; an object that is still being read has none yet.
    references: Vec<Option<usize>>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(size)
            .ok_or(MarshalError::Length)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().ok_or(MarshalError::Length)
    }

    fn number(&mut self) -> Result<i32> {
        let bytes = self.take(4)?.try_into().map_err(|_| MarshalError::Length)?;
        Ok(i32::from_le_bytes(bytes))
    }

    fn size(&mut self) -> Result<usize> {
        usize::try_from(self.number()?).map_err(|_| MarshalError::Length)
    }

    fn object(&mut self, depth: u32) -> Result<usize> {
        if depth > MAX_DEPTH {
            return Err(MarshalError::Depth);
        }
        let byte = self.byte()?;
        let kind = byte & !FLAG_REF;
        if kind == REF {
            let index = self.size()?;
            let found = self.references.get(index).copied().flatten();
            return found.ok_or(MarshalError::Reference);
        }
        let reserved = (byte & FLAG_REF != 0).then(|| {
            self.references.push(None);
            self.references.len() - 1
        });
        let node = self.content(kind, depth)?;
        let index = self.keep(node);
        if let Some(slot) = reserved.and_then(|at| self.references.get_mut(at)) {
            *slot = Some(index);
        }
        Ok(index)
    }

    fn content(&mut self, kind: u8, depth: u32) -> Result<Node<'a>> {
        let mut node = Node {
            kind,
            head: &[],
            line: &[],
            children: Vec::new(),
        };
        match kind {
            b'N' | b'T' | b'F' | b'.' | b'S' => {}
            b'i' => node.head = self.take(4)?,
            b'g' => node.head = self.take(8)?,
            b'y' => node.head = self.take(16)?,
            b'l' => node.head = self.long()?,
            b's' => {
                let size = self.size()?;
                node.head = self.take(size)?;
            }
            SHORT_ASCII | SHORT_ASCII_INTERNED => {
                let size = self.byte()?.into();
                node = self.text(size)?;
            }
            ASCII | ASCII_INTERNED | UNICODE | b't' => {
                let size = self.size()?;
                node = self.text(size)?;
            }
            SMALL_TUPLE => {
                let count = self.byte()?.into();
                node.kind = TUPLE;
                node.children = self.objects(count, depth)?;
            }
            TUPLE => {
                let count = self.size()?;
                node.children = self.objects(count, depth)?;
            }
            FROZENSET => {
                let count = self.size()?;
                node.children = self.objects(count, depth)?;
                self.sort(&mut node.children);
            }
            b':' => node.children = self.objects(3, depth)?,
            CODE => {
                node.head = self.take(self.layout.integers * 4)?;
                node.children = self.objects(self.layout.before_line, depth)?;
                node.line = self.take(4)?;
                let mut more = self.objects(self.layout.after_line, depth)?;
                node.children.append(&mut more);
            }
            other => return Err(MarshalError::Type(other)),
        }
        Ok(node)
    }

    fn objects(&mut self, count: usize, depth: u32) -> Result<Vec<usize>> {
        // Each takes a byte at least: a lying count must not reserve memory.
        if count > self.rest.len() {
            return Err(MarshalError::Length);
        }
        (0..count).map(|_| self.object(depth + 1)).collect()
    }

    /// An integer of more than 32 bits: a signed count, then that many 15-bit digits.
    fn long(&mut self) -> Result<&'a [u8]> {
        let all = self.rest;
        let digits = self.number()?.unsigned_abs() as usize;
        self.take(digits.checked_mul(2).ok_or(MarshalError::Length)?)?;
        let size = all.len() - self.rest.len();
        all.get(..size).ok_or(MarshalError::Length)
    }

    fn text(&mut self, size: usize) -> Result<Node<'a>> {
        let head = self.take(size)?;
        let name = head.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let kind = match (head.is_ascii(), head.len() < 256, name) {
            (false, _, _) => UNICODE,
            (true, true, true) => SHORT_ASCII_INTERNED,
            (true, true, false) => SHORT_ASCII,
            (true, false, true) => ASCII_INTERNED,
            (true, false, false) => ASCII,
        };
        Ok(Node {
            kind,
            head,
            line: &[],
            children: Vec::new(),
        })
    }

    /// Equal constants are one node. Code objects stay apart, as CPython keeps them.
    fn keep(&mut self, node: Node<'a>) -> usize {
        let next = self.nodes.len();
        if node.kind != CODE {
            if let Some(known) = self.known.get(&node) {
                return *known;
            }
            self.known.insert(node.clone(), next);
        }
        self.nodes.push(node);
        next
    }

    fn sort(&self, members: &mut [usize]) {
        let mut hashes = HashMap::new();
        members.sort_by_cached_key(|member| self.hash(*member, &mut hashes));
    }

    fn hash(&self, index: usize, hashes: &mut HashMap<usize, Digest>) -> Option<Digest> {
        if let Some(known) = hashes.get(&index) {
            return Some(*known);
        }
        let node = self.nodes.get(index)?;
        let mut bytes = vec![node.kind];
        bytes.extend(node.head.len().to_le_bytes());
        bytes.extend(node.head);
        bytes.extend(node.line);
        for child in &node.children {
            bytes.extend(self.hash(*child, hashes)?.bytes());
        }
        let hash = Digest::of(&bytes);
        hashes.insert(index, hash);
        Some(hash)
    }
}

struct Writer<'a> {
    layout: CodeLayout,
    nodes: &'a [Node<'a>],
    /// How often each node is met when every node is entered once.
    met: Vec<u32>,
    /// The reference of what was written and is met again.
    references: Vec<Option<u32>>,
    next: u32,
    out: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(nodes: &'a [Node<'a>], layout: CodeLayout) -> Self {
        Self {
            layout,
            nodes,
            met: vec![0; nodes.len()],
            references: vec![None; nodes.len()],
            next: 0,
            out: Vec::new(),
        }
    }

    fn write(mut self, root: usize, size: usize) -> Result<Vec<u8>> {
        self.out.reserve(size);
        self.count(root)?;
        self.object(root)?;
        Ok(self.out)
    }

    fn node(&self, index: usize) -> Result<&'a Node<'a>> {
        self.nodes.get(index).ok_or(MarshalError::Reference)
    }

    fn count(&mut self, index: usize) -> Result<()> {
        let met = self.met.get_mut(index).ok_or(MarshalError::Reference)?;
        *met += 1;
        if *met == 1 {
            let children = &self.node(index)?.children;
            children.iter().try_for_each(|child| self.count(*child))?;
        }
        Ok(())
    }

    fn object(&mut self, index: usize) -> Result<()> {
        if let Some(reference) = self.references.get(index).copied().flatten() {
            self.out.push(REF);
            self.out.extend(reference.to_le_bytes());
            return Ok(());
        }
        let node = self.node(index)?;
        let again = self.met.get(index).is_some_and(|met| *met > 1) && !node.is_singleton();
        let mut flag = 0;
        if again && let Some(slot) = self.references.get_mut(index) {
            *slot = Some(self.next);
            self.next += 1;
            flag = FLAG_REF;
        }
        self.content(node, flag)
    }

    fn content(&mut self, node: &'a Node<'a>, flag: u8) -> Result<()> {
        let count = node.children.len();
        let short = u8::try_from(count).ok().filter(|_| node.kind == TUPLE);
        let kind = short.map_or(node.kind, |_| SMALL_TUPLE);
        self.out.push(kind | flag);
        match node.kind {
            b's' | ASCII | ASCII_INTERNED | UNICODE => self.length(node.head.len())?,
            SHORT_ASCII | SHORT_ASCII_INTERNED => {
                let size = u8::try_from(node.head.len()).map_err(|_| MarshalError::Length)?;
                self.out.push(size);
            }
            TUPLE => match short {
                Some(count) => self.out.push(count),
                None => self.length(count)?,
            },
            FROZENSET => self.length(count)?,
            _ => {}
        }
        self.out.extend(node.head);
        let before_line = match node.kind {
            CODE => self.layout.before_line,
            _ => count,
        };
        for (position, child) in node.children.iter().enumerate() {
            if position == before_line {
                self.out.extend(node.line);
            }
            self.object(*child)?;
        }
        Ok(())
    }

    fn length(&mut self, length: usize) -> Result<()> {
        let length = i32::try_from(length).map_err(|_| MarshalError::Length)?;
        self.out.extend(length.to_le_bytes());
        Ok(())
    }
}

#[cfg(test)]
#[path = "marshal_tests.rs"]
mod tests;
