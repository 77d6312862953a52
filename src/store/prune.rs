//! Removing what is not needed.

use std::{
    collections::HashSet,
    fs, io,
    time::{Duration, SystemTime},
};

use super::{Alone, Store, Thing, things::Role};
use crate::{
    digest::Digest,
    error::{Error, Result},
    store::Kind,
};

/// What was used so recently is needed by somebody: two weeks, so that neither a weekly build nor
/// a holiday makes everything anew.
const RECENT: Duration = Duration::from_secs(14 * 24 * 3600);

/// What is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everything.
    Everything,
    /// What no named image needs and no build used since then.
    Unneeded(SystemTime),
    /// The least recently used, until the rest has at most that many bytes.
    DownTo(u64),
}

impl Policy {
    /// What no named image needs and no build used in the last two weeks.
    pub fn unneeded() -> Self {
        let since = SystemTime::now().checked_sub(RECENT);
        Self::Unneeded(since.unwrap_or(SystemTime::UNIX_EPOCH))
    }
}

impl Store {
    /// What a policy would remove, in the order of removal. Images with the manifests `keep` stay
    /// in any case.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn prunable(&self, policy: &Policy, keep: &[Digest]) -> Result<Vec<Thing>> {
        let keep = keep.iter().filter_map(|manifest| self.with_named(manifest));
        Ok(chosen(self.things()?, policy, &keep.flatten().collect()))
    }
}

impl Alone<'_> {
    /// Removes things in their order; what is gone already does not matter.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove(&self, things: &[Thing]) -> Result<()> {
        self.store.sweep();
        for thing in things {
            let gone = match thing.path.is_dir() {
                true => self.remove_folder(thing),
                false => fs::remove_file(&thing.path),
            };
            match gone {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                gone => gone.map_err(|e| Error::io("remove", &thing.path, e))?,
            }
        }
        Ok(())
    }

    /// Half a folder under its name would be taken for a whole one.
    fn remove_folder(&self, thing: &Thing) -> io::Result<()> {
        let away = self.store.temp_dir().map_err(io::Error::other)?;
        fs::rename(&thing.path, away.path().join("gone"))?;
        if thing.kind == Kind::Repodata {
            fs::create_dir(&thing.path)?;
        }
        away.close()
    }
}

/// The things that go, records before the blobs that they name.
fn chosen(things: Vec<Thing>, policy: &Policy, keep: &HashSet<Digest>) -> Vec<Thing> {
    match policy {
        Policy::Everything => things,
        Policy::Unneeded(since) => unneeded(things, *since),
        Policy::DownTo(bytes) => oldest(things, *bytes, keep),
    }
}

fn unneeded(mut things: Vec<Thing>, since: SystemTime) -> Vec<Thing> {
    let needed: HashSet<Digest> = things
        .iter()
        .filter(|thing| matches!(thing.role, Role::Name(..)))
        .flat_map(|thing| thing.role.blobs())
        .copied()
        .collect();
    things.retain(|thing| match &thing.role {
        Role::Stale => true,
        _ => thing.used < since && !stays(thing, &needed),
    });
    things
}

fn oldest(mut things: Vec<Thing>, bytes: u64, keep: &HashSet<Digest>) -> Vec<Thing> {
    // What is known of packages is small, and dear to find out again: it goes last. The order of
    // equals stays, and a blob is as fresh as its records: these go before it.
    things.sort_by_key(|thing| (thing.kind == Kind::Facts, thing.used));
    let total: u64 = things.iter().map(|thing| thing.size).sum();
    let mut over = total.saturating_sub(bytes);
    things.retain(|thing| {
        let goes = over > 0 && !stays(thing, keep);
        if goes {
            over = over.saturating_sub(thing.size);
        }
        goes
    });
    things
}

/// Whether a thing is one of the blobs that are kept, or a record of nothing else.
fn stays(thing: &Thing, kept: &HashSet<Digest>) -> bool {
    match &thing.role {
        Role::Blob(digest) => kept.contains(digest),
        Role::Record(blobs) | Role::Name(_, blobs) => blobs.iter().all(|blob| kept.contains(blob)),
        Role::Stale | Role::Apart => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn thing(name: &str, used: u64, size: u64, role: Role) -> Thing {
        Thing {
            kind: Kind::Layers,
            path: name.into(),
            size,
            used: at(used),
            role,
        }
    }

    /// Two named images that share a blob, a layer that no image has, and a package.
    fn cache() -> Vec<Thing> {
        let name = |name: &str, blobs: [u8; 2]| Role::Name(name.into(), blobs.map(blob).into());
        vec![
            thing("stale", 90, 1, Role::Stale),
            thing("record", 20, 1, Role::Record(vec![blob(3)])),
            thing("old", 10, 1, name("old", [1, 2])),
            thing("new", 30, 1, name("new", [2, 4])),
            thing("1", 10, 100, Role::Blob(blob(1))),
            thing("2", 30, 100, Role::Blob(blob(2))),
            thing("3", 20, 100, Role::Blob(blob(3))),
            thing("4", 30, 100, Role::Blob(blob(4))),
            thing("package", 25, 100, Role::Apart),
        ]
    }

    fn names(policy: Policy, keep: &[u8]) -> Vec<String> {
        let keep = keep.iter().map(|n| blob(*n)).collect();
        let gone = chosen(cache(), &policy, &keep);
        let name = |thing: Thing| thing.path.to_string_lossy().into_owned();
        gone.into_iter().map(name).collect()
    }

    #[test]
    fn what_is_named_or_recent_stays() {
        assert_eq!(
            names(Policy::Unneeded(at(25)), &[]),
            ["stale", "record", "3"]
        );
        assert_eq!(
            names(Policy::Unneeded(at(99)), &[]),
            ["stale", "record", "3", "package"]
        );
        assert_eq!(names(Policy::Everything, &[]).len(), cache().len());
    }

    #[test]
    fn the_oldest_goes_first_and_only_as_much_as_must() {
        assert_eq!(names(Policy::DownTo(504), &[]), [""; 0]);
        assert_eq!(names(Policy::DownTo(403), &[]), ["old", "1"]);
        assert_eq!(
            names(Policy::DownTo(300), &[1, 2, 3, 4]),
            ["package", "stale"]
        );
        assert_eq!(names(Policy::DownTo(0), &[2, 4]).len(), 6);
    }

    proptest! {
        /// Whatever goes, no record is left that names a blob which went, and what is kept stays.
        #[test]
        fn no_record_outlives_its_blobs(
            records in prop::collection::vec((prop::collection::vec(0..9u8, 1..4), 0..50u64), 0..9),
            bytes in 0..1200u64,
            keep in prop::collection::hash_set(0..9u8, 0..4),
        ) {
            let mut things = Vec::new();
            let mut fresh = [0; 9];
            for (blobs, used) in &records {
                for n in blobs {
                    fresh[*n as usize] = (*used).max(fresh[*n as usize]);
                }
                let blobs = blobs.iter().map(|n| blob(*n)).collect();
                things.push(thing("record", *used, 3, Role::Record(blobs)));
            }
            for n in 0..9 {
                things.push(thing("blob", fresh[n as usize], 100, Role::Blob(blob(n))));
            }
            let keep = keep.into_iter().map(blob).collect();
            let gone = chosen(things.clone(), &Policy::DownTo(bytes), &keep);
            let lost: HashSet<&Digest> = gone.iter().filter_map(|thing| match &thing.role {
                Role::Blob(digest) => Some(digest),
                _ => None,
            }).collect();
            prop_assert!(keep.iter().all(|kept| !lost.contains(kept)));
            for left in things.iter().filter(|thing| !gone.contains(thing)) {
                prop_assert!(left.role.blobs().iter().all(|blob| !lost.contains(blob)));
            }
            // A removed record comes before its blobs.
            for (at, blob) in gone.iter().enumerate() {
                if let Role::Blob(digest) = &blob.role {
                    let later = gone.iter().skip(at);
                    prop_assert!(later.flat_map(|thing| thing.role.blobs()).all(|b| b != digest));
                }
            }
            let size = |things: &[Thing]| things.iter().map(|thing| thing.size).sum::<u64>();
            if keep.is_empty() {
                prop_assert!(size(&things) - size(&gone) <= bytes);
            }
        }
    }
}
