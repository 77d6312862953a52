//! What stands where in a base image, so that layers on top of it do no harm.
//!
//! Two things go wrong in an engine when a layer ignores its base: an entry whose path runs
//! through a symlink of the base replaces the symlink by a folder, and a parent entry left out or
//! made up resets the folder's mode and owner. So layers are written to canonical paths, and
//! repeat the base's own folders.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde::{Deserialize, Serialize};

use super::{
    BaseLayer, Libc,
    scan::{Lost, Node, Nodes, Scan, ancestors, canonical, clear, follow, insert, remove},
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    layer::DirectoryAttributes,
    store::Store,
};

/// Bumped when the scan's meaning changes: kept surveys of other versions are made again.
const FORMAT: &str = "imgbuild base tree 3";

/// The paths of a base image, layers applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseTree {
    nodes: Nodes,
    /// The C library; the uppermost layer that has one counts.
    libc: Option<Libc>,
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A device, a socket or a pipe.
    Other,
}

/// A folder of the base, as its own entry describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseDir {
    /// Without a leading slash.
    pub path: String,
    /// How it looks.
    pub attributes: DirectoryAttributes,
}

/// Where a path really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The canonical path, without a leading slash; empty for the root.
    pub path: String,
    /// The folders above it that the base has, from the root downwards, the root left out.
    pub parents: Vec<BaseDir>,
    /// The folder itself, when the base has it already.
    pub existing: Option<BaseDir>,
}

impl BaseTree {
    /// Scans the layers, or takes the survey that an earlier run kept in the store.
    ///
    /// Every layer is unpacked once, in memory of a constant size, and verified against its diff
    /// id. Whiteouts and opaque folders are applied (OCI image-spec, layer.md).
    ///
    /// # Errors
    /// When a layer is damaged, or the survey cannot be kept.
    pub fn scan(layers: &[BaseLayer], store: &Store) -> Result<Self> {
        if let Some(tree) = Self::kept(layers, store) {
            return Ok(tree);
        }
        let mut tree = Self::default();
        for scan in scan_all(layers, store)? {
            tree.apply(scan);
        }
        store.put_survey(&survey_key(layers), &tree)?;
        Ok(tree)
    }

    /// The survey of these layers that an earlier run kept.
    pub fn kept(layers: &[BaseLayer], store: &Store) -> Option<Self> {
        store.survey(&survey_key(layers))
    }

    /// The part of it that says all there is to say of these paths, and the C library.
    pub(super) fn only<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Self {
        let mut nodes = Nodes::new();
        for path in paths {
            let keep = |at: &str| {
                let node = self.nodes.get(at).cloned();
                nodes.extend(node.map(|node| (at.to_owned(), node)));
            };
            // A path that leads nowhere does so for the same reason in the part.
            let _ = follow(&self.nodes, path.trim_matches('/'), keep);
        }
        Self {
            nodes,
            libc: self.libc.clone(),
        }
    }

    /// The canonical place of a path for a folder to be made there, through the base's symlinks.
    ///
    /// # Errors
    /// When a file of the base is in the way, or its symlinks lead in a circle.
    pub fn resolve(&self, path: &str) -> Result<Resolved> {
        let path = path.trim_matches('/');
        let found = canonical(&self.nodes, path).map_err(|lost| lost_error(path, lost))?;
        if matches!(self.nodes.get(&found), Some(Node::File | Node::Other)) {
            return Err(lost_error(path, Lost::NotADir(found)));
        }
        Ok(Resolved {
            parents: ancestors(&found).filter_map(|dir| self.dir(dir)).collect(),
            existing: self.dir(&found),
            path: found,
        })
    }

    /// What stands at a path, symlinks followed.
    pub fn exists(&self, path: &str) -> Option<Kind> {
        let found = canonical(&self.nodes, path).ok()?;
        match self.nodes.get(&found)? {
            Node::Dir(..) => Some(Kind::Dir),
            Node::File => Some(Kind::File),
            Node::Other => Some(Kind::Other),
            Node::Symlink(_) => None,
        }
    }

    /// The base's C library, when it has one that is known.
    pub fn libc(&self) -> Option<&Libc> {
        self.libc.as_ref()
    }

    fn dir(&self, path: &str) -> Option<BaseDir> {
        match *self.nodes.get(path)? {
            Node::Dir(mode, uid, gid, mtime) => Some(BaseDir {
                path: path.to_owned(),
                attributes: DirectoryAttributes {
                    mode,
                    uid,
                    gid,
                    mtime,
                },
            }),
            _ => None,
        }
    }

    /// Puts a layer on top. Its whiteouts are about the layers below it only, wherever they stand
    /// in its tar.
    fn apply(&mut self, scan: Scan) {
        for path in &scan.removed {
            remove(&mut self.nodes, path);
        }
        for path in &scan.opaque {
            clear(&mut self.nodes, path);
        }
        for (path, node) in scan.added {
            insert(&mut self.nodes, path, node);
        }
        self.libc = Libc::over(self.libc.take(), scan.libc);
    }
}

pub(super) fn survey_key(layers: &[BaseLayer]) -> Digest {
    let mut text = format!("{FORMAT}\n");
    for layer in layers {
        text.push_str(&format!("{} {}\n", layer.digest, layer.diff_id));
    }
    Digest::of(text.as_bytes())
}

/// Reads the layers side by side; the result is in their order.
fn scan_all(layers: &[BaseLayer], store: &Store) -> Result<Vec<Scan>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(layers.len()) {
            scope.spawn(|| {
                while let Some((index, layer)) = take(layers, &next) {
                    let scan = Scan::read(layer, store);
                    if scan.is_err() {
                        // No use in reading the rest.
                        next.store(layers.len(), Ordering::Relaxed);
                    }
                    done.lock()
                        .unwrap_or_else(|e| e.into_inner())
                        .push((index, scan));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, scan)| scan).collect()
}

fn take<'a>(layers: &'a [BaseLayer], next: &AtomicUsize) -> Option<(usize, &'a BaseLayer)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, layers.get(index)?))
}

fn lost_error(path: &str, lost: Lost) -> Error {
    let what = format!("/{path} cannot be a folder in this base image");
    match lost {
        Lost::Loop => Error::input(what).why("its symlinks lead in a circle"),
        Lost::NotADir(at) => Error::input(what).why(format!("/{at} is a file there")),
        Lost::NotUtf8(at) => {
            Error::input(what).why(format!("/{at} points to a name that is not UTF-8"))
        }
    }
    .hint("choose another path, or another base image")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::testing::{TarBuilder, gzip, layer_tar},
        digest::DiffId,
    };
    use tar::EntryType::{Fifo, Link, Symlink};

    struct Base {
        _root: tempfile::TempDir,
        store: Store,
        layers: Vec<BaseLayer>,
    }

    fn base(tars: &[Vec<u8>]) -> Base {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let packed = |at: usize, tar: &[u8]| match at % 3 {
            0 => gzip(tar),
            1 => zstd::encode_all(tar, 1).unwrap(),
            _ => tar.to_vec(),
        };
        let put = |(at, tar): (usize, &Vec<u8>)| {
            let (digest, size) = store.put_blob(&packed(at, tar)).unwrap();
            BaseLayer {
                digest,
                diff_id: DiffId(Digest::of(tar)),
                size,
                media_type: String::new(),
            }
        };
        let layers = tars.iter().enumerate().map(put).collect();
        Base {
            _root: root,
            store,
            layers,
        }
    }

    fn tree(tars: &[Vec<u8>]) -> BaseTree {
        let base = base(tars);
        let tree = BaseTree::scan(&base.layers, &base.store).unwrap();
        let kept = base.store.survey(&survey_key(&base.layers));
        assert_eq!(kept.as_ref(), Some(&tree));
        tree
    }

    fn place(tree: &BaseTree, path: &str) -> String {
        tree.resolve(path).unwrap().path
    }

    #[test]
    fn symlinks_are_followed_as_the_kernel_does() {
        let tree = tree(&[TarBuilder::new()
            .dir("usr/", 0o755, (0, 0), 5)
            .dir("usr/bin/", 0o755, (0, 0), 6)
            .file("usr/bin/dash", b"")
            .link("usr/bin/sh", "dash", Symlink)
            .link("bin", "usr/bin", Symlink)
            .link("opt", "/data/./opt/", Symlink)
            .link("a", "b", Symlink)
            .link("b", "../../a", Symlink)
            .link("up", "../../../usr", Symlink)
            .link("hard", "usr/bin/dash", Link)
            .link("pipe", "", Fifo)
            .done()]);
        assert_eq!(place(&tree, "bin/x"), "usr/bin/x");
        assert_eq!(place(&tree, "/opt/conda/envs/t/"), "data/opt/conda/envs/t");
        assert_eq!(place(&tree, "up/x"), "usr/x");
        assert_eq!(place(&tree, "nowhere/x"), "nowhere/x");
        assert_eq!(place(&tree, ""), "");
        assert_eq!(tree.exists("bin/sh"), Some(Kind::File));
        assert_eq!(tree.exists("/bin"), Some(Kind::Dir));
        assert_eq!(tree.exists("hard"), Some(Kind::File));
        assert_eq!(tree.exists("pipe"), Some(Kind::Other));
        assert_eq!(tree.exists("bin/bash"), None);
        assert_eq!(tree.exists("opt"), None);
        assert_eq!(tree.exists("a"), None);
        let error = tree.resolve("a/x").unwrap_err().to_string();
        assert!(error.contains("circle"), "{error}");
        for path in ["bin/sh", "bin/sh/x", "usr/bin/dash/x/y"] {
            let error = tree.resolve(path).unwrap_err().to_string();
            assert!(error.contains("/usr/bin/dash is a file"), "{error}");
        }
    }

    #[test]
    fn parents_keep_the_bases_attributes() {
        let tree = tree(&[
            TarBuilder::new()
                .dir("./opt/", 0o2775, (1, 3_000_000), 7)
                .dir("opt/conda/", 0o700, (4, 5), 8)
                .done(),
            // Files alone: the folders above them are implied, and stay as they were.
            layer_tar(&["opt/conda/x", "new/y"]),
        ]);
        let found = tree.resolve("opt/conda/envs/t").unwrap();
        let dir = |path: &str, mode, uid, gid, mtime| BaseDir {
            path: path.into(),
            attributes: DirectoryAttributes {
                mode,
                uid,
                gid,
                mtime,
            },
        };
        let opt = dir("opt", 0o2775, 1, 3_000_000, 7);
        let conda = dir("opt/conda", 0o700, 4, 5, 8);
        assert_eq!(found.parents, [opt.clone(), conda.clone()]);
        assert_eq!(found.existing, None);
        let itself = tree.resolve("opt/conda").unwrap();
        assert_eq!((itself.parents, itself.existing), (vec![opt], Some(conda)));
        assert_eq!(
            tree.resolve("new/z").unwrap().parents,
            [dir("new", 0o755, 0, 0, 0)]
        );
    }

    #[test]
    fn an_entry_sets_a_folders_attributes_again() {
        let lower = TarBuilder::new()
            .dir("a/", 0o700, (1, 1), 9)
            .file("a/b", b"");
        // Just like a folder that is only implied, yet with an entry of its own.
        let upper = TarBuilder::new().dir("a/", 0o755, (0, 0), 0);
        let tree = tree(&[lower.done(), upper.done()]);
        let found = tree.resolve("a").unwrap().existing.unwrap();
        let found = found.attributes;
        assert_eq!((found.mode, found.uid, found.mtime), (0o755, 0, 0));
        assert_eq!(tree.exists("a/b"), Some(Kind::File));
    }

    #[test]
    fn layers_replace_and_remove() {
        let lower = layer_tar(&[
            "a/", "a/b/", "a/b/c", "a/d", "ab", "e/", "e/f", "g/", "g/h", "i",
        ]);
        let upper = TarBuilder::new()
            .file("a/.wh.b", b"")
            .file("e/new", b"")
            .file("e/.wh..wh..opq", b"")
            .link("g", "a", Symlink)
            .file("i/j", b"")
            .file(".wh.ab", b"")
            .file(".wh..wh.plnk", b"")
            .done();
        let tree = tree(&[lower, upper]);
        for (path, kind) in [
            ("a/b", None),
            ("a/b/c", None),
            ("a/d", Some(Kind::File)),
            ("ab", None),
            ("e/f", None),
            ("e/new", Some(Kind::File)),
            ("e", Some(Kind::Dir)),
            ("g/d", Some(Kind::File)),
            ("g/h", None),
            ("i/j", Some(Kind::File)),
            ("i", Some(Kind::Dir)),
        ] {
            assert_eq!(tree.exists(path), kind, "{path}");
        }
    }

    #[test]
    fn whiteouts_spare_their_own_layer() {
        let upper = TarBuilder::new()
            .file("a/b", b"")
            .file("a/.wh.b", b"")
            .done();
        let tree = tree(&[layer_tar(&["a/b/c"]), upper]);
        assert_eq!(tree.exists("a/b"), Some(Kind::File));
    }

    #[test]
    fn links_of_a_lower_layer_are_replaced_and_own_ones_followed() {
        let lower =
            TarBuilder::new()
                .link("lib", "usr/lib", Symlink)
                .dir("usr/lib/", 0o755, (0, 0), 1);
        let upper = TarBuilder::new()
            .file("lib/x", b"")
            .link("own", "usr/own", Symlink)
            .file("own/y", b"");
        let tree = tree(&[lower.done(), upper.done()]);
        assert_eq!(place(&tree, "lib/x2"), "lib/x2");
        assert_eq!(tree.exists("usr/lib/x"), None);
        assert_eq!(place(&tree, "own/y2"), "usr/own/y2");
        assert_eq!(tree.exists("usr/own/y"), Some(Kind::File));
    }

    #[test]
    fn damage_is_found() {
        let scan = |tar: Vec<u8>, break_it: fn(&mut BaseLayer)| {
            let mut base = base(&[tar]);
            break_it(&mut base.layers[0]);
            BaseTree::scan(&base.layers, &base.store)
                .unwrap_err()
                .to_string()
        };
        let error = scan(layer_tar(&["a"]), |layer| {
            layer.diff_id = DiffId(Digest::of(b""))
        });
        assert!(error.contains("not what its config says"), "{error}");
        let error = scan(TarBuilder::new().file("a/../../x", b"").done(), |_| {});
        assert!(error.contains("outside its root: a/../../x"), "{error}");
        let error = scan(vec![b'x'; 1024], |_| {});
        assert!(error.contains("cannot be read"), "{error}");
    }

    #[test]
    fn an_empty_base_has_nothing() {
        let tree = tree(&[]);
        let found = tree.resolve("opt/conda").unwrap();
        assert_eq!((found.path.as_str(), found.parents), ("opt/conda", vec![]));
        assert_eq!(tree.exists(""), None);
    }
}
