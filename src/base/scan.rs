//! What one layer says: the paths that it adds, and those that it takes away.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read},
};

use serde::{Deserialize, Serialize};
use tar::EntryType;

use super::{BaseLayer, Libc, glibc, media};
use crate::{
    digest::Hashing,
    error::{Error, Result},
    store::Store,
};

/// Marks a path of a lower layer as removed (OCI image-spec, layer.md, "Whiteouts").
const WHITEOUT: &str = ".wh.";
/// Marks a folder of which lower layers' content is hidden (same, "Opaque Whiteout").
const OPAQUE: &str = ".wh..wh..opq";
/// How many symlinks are followed for one path, as Linux does (path_resolution(7)).
pub(super) const MAX_LINKS: usize = 40;

/// What stands at a path. Paths have no leading slash; the root's is empty.
pub(super) type Nodes = BTreeMap<String, Node>;

/// What is remembered of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Node {
    /// Mode, owner, group, and modification time.
    #[serde(rename = "d")]
    Dir(u32, u64, u64, u64),
    #[serde(rename = "l")]
    Symlink(String),
    #[serde(rename = "f")]
    File,
    /// A device, a socket, a pipe.
    #[serde(rename = "o")]
    Other,
}

/// A folder that no layer has an entry for: what engines make of it, but for its time.
const IMPLICIT_DIR: Node = Node::Dir(0o755, 0, 0, 0);

/// One layer, read. Folders above what it adds are there only if it has entries for them.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub added: Nodes,
    pub removed: Vec<String>,
    pub opaque: Vec<String>,
    /// The C library that it brings.
    pub libc: Option<Libc>,
}

impl Scan {
    /// Reads a layer from the store, and verifies that it unpacks to its diff id.
    ///
    /// # Errors
    /// When the blob is damaged, unpacks to something else, or holds a path outside the root.
    pub fn read(layer: &BaseLayer, store: &Store) -> Result<Self> {
        let place = |error: Error| error.at(format!("base layer {}", layer.digest));
        let failed =
            |e: io::Error| place(Error::input("a layer of the base image cannot be read").why(e));
        let packing = media::sniff_blob(store, &layer.digest)?;
        let packed = BufReader::with_capacity(256 << 10, store.open_blob(&layer.digest)?);
        let mut tar = Hashing::new(packing.decoder(packed).map_err(failed)?);
        let scan = Self::read_tar(&mut tar).map_err(failed)?.map_err(place)?;
        // The diff id covers the padding behind the last entry as well.
        io::copy(&mut tar, &mut io::sink()).map_err(failed)?;
        let (_, found, _) = tar.finish();
        if found != layer.diff_id.0 {
            return Err(place(
                Error::input("a layer of the base image is not what its config says")
                    .why(format!("the config's diff id is {}", layer.diff_id))
                    .why(format!("the layer unpacks to      {found}")),
            ));
        }
        Ok(scan)
    }

    fn read_tar(tar: &mut dyn Read) -> io::Result<Result<Self>> {
        let mut scan = Self::default();
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path_bytes();
            // Names that are not UTF-8 cannot be asked for.
            let Ok(text) = std::str::from_utf8(&path) else {
                continue;
            };
            let Some(path) = normal(text) else {
                return Ok(Err(Error::input(format!(
                    "a layer of the base image holds a path outside its root: {text}"
                ))));
            };
            if let Some(node) = node(&entry)? {
                if node == Node::File {
                    scan.libc = Libc::over(scan.libc, glibc::libc_of(&path, &mut entry)?);
                }
                scan.take(path, node);
            }
        }
        Ok(Ok(scan))
    }

    fn take(&mut self, path: String, node: Node) {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if name == OPAQUE {
            return self.opaque.push(folder.to_owned());
        }
        match name.strip_prefix(WHITEOUT) {
            // Bookkeeping of AUFS (`.wh..wh.plnk`), no whiteout.
            Some(rest) if rest.starts_with(WHITEOUT) => {}
            Some("") => {}
            Some(name) => self.removed.push(join(folder, name)),
            None => {
                // An extractor follows the links that this same layer has made.
                let path = self.through_own_links(folder, name).unwrap_or(path);
                if !matches!(node, Node::Dir(..)) {
                    clear(&mut self.added, &path);
                }
                self.added.insert(path, node);
            }
        }
    }

    fn through_own_links(&self, folder: &str, name: &str) -> Option<String> {
        let link = |path: &str| matches!(self.added.get(path), Some(Node::Symlink(_)));
        if !ancestors(folder).chain([folder]).any(link) {
            return None;
        }
        Some(join(&canonical(&self.added, folder).ok()?, name))
    }
}

fn node(entry: &tar::Entry<'_, impl Read>) -> io::Result<Option<Node>> {
    let header = entry.header();
    Ok(Some(match header.entry_type() {
        EntryType::Directory => Node::Dir(
            header.mode()? & 0o7777,
            header.uid()?,
            header.gid()?,
            // Negative times are stored as huge numbers; engines clamp them to 0.
            header
                .mtime()
                .ok()
                .filter(|t| i64::try_from(*t).is_ok())
                .unwrap_or(0),
        ),
        EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            Node::Symlink(String::from_utf8_lossy(&target).into_owned())
        }
        EntryType::Regular | EntryType::Continuous | EntryType::Link | EntryType::GNUSparse => {
            Node::File
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => Node::Other,
        // Global headers and what is not known stand for no path.
        _ => return Ok(None),
    }))
}

/// A path without a leading slash, `.` and double slashes; nothing when it climbs with `..`.
pub(super) fn normal(path: &str) -> Option<String> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    let parts: Vec<_> = parts.collect();
    (!parts.contains(&"..")).then(|| parts.join("/"))
}

/// Joins a folder and a name; the root's folder is empty.
pub(super) fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        _ => format!("{folder}/{name}"),
    }
}

/// The folders above a path, the nearest to the root first, without the root.
pub(super) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Removes a path and all below it.
pub(super) fn remove(nodes: &mut Nodes, path: &str) {
    nodes.remove(path);
    clear(nodes, path);
}

/// Removes all below a path.
pub(super) fn clear(nodes: &mut Nodes, folder: &str) {
    let start = match folder {
        "" => String::new(),
        _ => format!("{folder}/"),
    };
    let below = |(path, _): &(&String, &Node)| path.starts_with(&start);
    let paths: Vec<_> = nodes
        .range(start.clone()..)
        .take_while(below)
        .map(|(path, _)| path.clone())
        .filter(|path| !path.is_empty())
        .collect();
    for path in paths {
        nodes.remove(&path);
    }
}

/// Puts a path, and the folders above it where they are missing or something else.
pub(super) fn insert(nodes: &mut Nodes, path: String, node: Node) {
    for folder in ancestors(&path) {
        if !matches!(nodes.get(folder), Some(Node::Dir(..))) {
            nodes.insert(folder.to_owned(), IMPLICIT_DIR);
        }
    }
    if !matches!(node, Node::Dir(..)) && matches!(nodes.get(&path), Some(Node::Dir(..))) {
        clear(nodes, &path);
    }
    nodes.insert(path, node);
}

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Symlinks lead in a circle.
    Loop,
    /// This is in the way: it is no folder.
    NotADir(String),
    /// A symlink's target is not UTF-8.
    NotUtf8(String),
}

/// Follows the symlinks of a path, its last part included; what does not exist is taken as it is.
pub(super) fn canonical(nodes: &Nodes, path: &str) -> std::result::Result<String, Lost> {
    follow(nodes, path, |_| {})
}

/// As [`canonical`]; tells every path that it looks at on the way.
pub(super) fn follow(
    nodes: &Nodes,
    path: &str,
    mut look: impl FnMut(&str),
) -> std::result::Result<String, Lost> {
    let mut left: Vec<String> = path.split('/').rev().map(Into::into).collect();
    let mut done = String::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        match part.as_str() {
            "" | "." => continue,
            // Above the root is the root (path_resolution(7)).
            ".." => {
                done.truncate(done.rfind('/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let next = join(&done, &part);
        look(&next);
        match nodes.get(&next) {
            Some(Node::Symlink(target)) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Lost::Loop);
                }
                if target.contains(char::REPLACEMENT_CHARACTER) {
                    return Err(Lost::NotUtf8(next));
                }
                if target.starts_with('/') {
                    done.clear();
                }
                left.extend(target.split('/').rev().map(Into::into));
            }
            Some(Node::File | Node::Other)
                if left.iter().any(|p| !matches!(p.as_str(), "" | ".")) =>
            {
                return Err(Lost::NotADir(next));
            }
            _ => done = next,
        }
    }
    Ok(done)
}
