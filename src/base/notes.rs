//! What a build needs to know of its base image's files, small enough to go with the image that was
//! built: who reads it there need not read the base's layers.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    BaseLayer,
    tree::{BaseTree, survey_key},
};
use crate::digest::Digest;

/// What stands at some paths of a base image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseNotes {
    /// Of which layers it is.
    layers: Digest,
    /// The paths that it tells of.
    paths: BTreeSet<String>,
    tree: BaseTree,
}

impl BaseNotes {
    /// What `tree`, which is that of `layers`, says of these paths. It depends on nothing else, and
    /// is the same when it is made from notes about more paths.
    pub fn new(tree: &BaseTree, layers: &[BaseLayer], paths: &BTreeSet<String>) -> Self {
        Self {
            layers: survey_key(layers),
            paths: paths.clone(),
            tree: tree.only(paths.iter().map(String::as_str)),
        }
    }

    /// What stands at these paths, if it is of these layers and tells of all of them.
    pub fn tree_of(&self, layers: &[BaseLayer], paths: &BTreeSet<String>) -> Option<&BaseTree> {
        let known = self.layers == survey_key(layers) && paths.is_subset(&self.paths);
        known.then_some(&self.tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::testing::TarBuilder, digest::DiffId, store::Store};
    use tar::EntryType::Symlink;

    fn paths(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn a_part_says_the_same_of_its_paths() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let tar = TarBuilder::new()
            .dir("usr/", 0o755, (0, 0), 5)
            .dir("usr/lib/", 0o755, (0, 0), 5)
            .dir("usr/local/", 0o2775, (0, 50), 6)
            .file("usr/lib/os-release", b"")
            .link("opt", "/data/../usr/./local", Symlink)
            .link("a", "b", Symlink)
            .link("b", "a", Symlink)
            .done();
        let (digest, size) = store.put_blob(&tar).unwrap();
        let layers = [BaseLayer {
            digest,
            diff_id: DiffId(digest),
            size,
            media_type: String::new(),
        }];
        let whole = BaseTree::scan(&layers, &store).unwrap();
        let all = ["/opt/conda", "/usr/lib/os-release/x", "/new/x", "/a/x"];
        let notes = BaseNotes::new(&whole, &layers, &paths(&all));
        let part = notes.tree_of(&layers, &paths(&all[..1])).unwrap();
        for path in all {
            let say = |tree: &BaseTree| tree.resolve(path).map_err(|e| e.to_string());
            assert_eq!(say(part), say(&whole), "{path}");
        }
        assert_eq!(part.exists("usr/lib"), whole.exists("usr/lib"));
        assert_eq!(
            part.exists("usr/lib/os-release"),
            whole.exists("usr/lib/os-release")
        );
        let fewer = paths(&all[..1]);
        let again = BaseNotes::new(part, &layers, &fewer);
        assert_eq!(again, BaseNotes::new(&whole, &layers, &fewer));
        assert_eq!(again.tree.exists("usr/lib"), None);

        assert!(again.tree_of(&layers, &paths(&all)).is_none());
        assert!(notes.tree_of(&[], &fewer).is_none());
    }
}
