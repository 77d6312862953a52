//! The file system that an image's layers make, in memory; file contents as their sha256.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{Image, image::Sha};

/// What stands at each path, without leading slashes.
#[derive(Clone, Debug, Default)]
pub struct Rootfs {
    /// The paths.
    pub nodes: BTreeMap<PathBuf, Node>,
    inodes: usize,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u64,
    /// Numeric group.
    pub gid: u64,
    /// Modification time in seconds since the epoch.
    pub mtime: u64,
}

/// The kinds of node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Directory,
    /// A regular file.
    File {
        /// The hash of its content.
        sha256: String,
        /// The content itself where it was asked for.
        content: Option<Vec<u8>>,
        /// Equal for hard links to one file.
        inode: usize,
    },
    /// A symbolic link with its target.
    Symlink(PathBuf),
    /// A device or a pipe; only base images have them.
    Special,
}

impl Rootfs {
    /// Reads the only image of an OCI layout folder.
    pub fn of_layout(dir: &Path) -> Self {
        Image::of_layout(dir).rootfs
    }

    /// The node at a path.
    #[track_caller]
    pub fn node(&self, path: impl AsRef<Path>) -> &Node {
        let path = path.as_ref();
        let path = path.strip_prefix("/").unwrap_or(path);
        self.nodes
            .get(path)
            .unwrap_or_else(|| panic!("{} is not in the image", path.display()))
    }

    /// The content of a small file; see [`keeps_content`].
    #[track_caller]
    pub fn text(&self, path: impl AsRef<Path>) -> &str {
        match &self.node(path.as_ref()).kind {
            Kind::File {
                content: Some(content),
                ..
            } => std::str::from_utf8(content).unwrap(),
            other => panic!("{} is {other:?}", path.as_ref().display()),
        }
    }

    /// The nodes below a folder, by their path from there.
    pub fn below(&self, folder: impl AsRef<Path>) -> BTreeMap<PathBuf, Node> {
        let folder = folder.as_ref();
        let folder = folder.strip_prefix("/").unwrap_or(folder);
        self.nodes
            .iter()
            .filter_map(|(path, node)| {
                let rest = path.strip_prefix(folder).ok()?;
                (rest != Path::new("")).then(|| (rest.to_owned(), node.clone()))
            })
            .collect()
    }

    /// Applies one entry of a layer (OCI image-spec, layer.md, "Applying Changesets").
    pub(super) fn apply<R: Read>(&mut self, path: &Path, entry: &mut tar::Entry<'_, R>) {
        let name = path.file_name().map_or("", |n| n.to_str().unwrap_or(""));
        let folder = path.parent().unwrap_or(Path::new(""));
        if name == ".wh..wh..opq" {
            self.remove_below(folder);
        } else if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = folder.join(gone);
            self.remove_below(&gone);
            self.nodes.remove(&gone);
        } else {
            let node = self.node_of(path, entry);
            let before = self.nodes.get(path).map(|node| &node.kind);
            if before == Some(&Kind::Directory) && node.kind != Kind::Directory {
                self.remove_below(path);
            }
            self.nodes.insert(path.to_owned(), node);
        }
    }

    fn remove_below(&mut self, folder: &Path) {
        let below = |path: &Path| path != folder && path.starts_with(folder);
        self.nodes.retain(|path, _| !below(path));
    }

    fn node_of<R: Read>(&mut self, path: &Path, entry: &mut tar::Entry<'_, R>) -> Node {
        let header = entry.header().clone();
        let link = || {
            let link = entry.link_name().unwrap().expect("a link has a target");
            link.into_owned()
        };
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Symlink(link()),
            tar::EntryType::Link => {
                let target = link();
                let target = target.strip_prefix(".").unwrap_or(&target).to_owned();
                let there = self.nodes.get(&target);
                return there
                    .unwrap_or_else(|| panic!("{path:?} is a hard link to {target:?}, not there"))
                    .clone();
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                self.inodes += 1;
                let (sha256, content) = read(path, entry);
                Kind::File {
                    sha256,
                    content,
                    inode: self.inodes,
                }
            }
            _ => Kind::Special,
        };
        Node {
            kind,
            mode: header.mode().unwrap() & 0o7777,
            uid: header.uid().unwrap(),
            gid: header.gid().unwrap(),
            mtime: header.mtime().unwrap(),
        }
    }
}

/// Whether a file's content is kept: small, or in `conda-meta`.
fn keeps_content(path: &Path, size: u64) -> bool {
    size <= 4096 || path.parent().is_some_and(|dir| dir.ends_with("conda-meta"))
}

fn read<R: Read>(path: &Path, entry: &mut tar::Entry<'_, R>) -> (String, Option<Vec<u8>>) {
    let keep = keeps_content(path, entry.size());
    let mut hashing = Sha::new(entry);
    if !keep {
        io::copy(&mut hashing, &mut io::sink()).unwrap();
        return (hashing.finish().0, None);
    }
    let mut content = Vec::new();
    hashing.read_to_end(&mut content).unwrap();
    (hashing.finish().0, Some(content))
}
