//! Where a symbolic link of a folder leads, without leaving it.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

/// The most links followed for one path, as in Linux.
const MAX_LINKS: usize = 40;

/// Follows a link's target through further links of the folder `root`.
///
/// `link` is the link's path relative to `root`. What does not exist counts as being no link.
///
/// # Errors
/// The reason, in words, when the target is absolute, leaves the folder, or never ends.
pub(super) fn stays_inside(root: &Path, link: &Path, target: &Path) -> Result<(), String> {
    let mut here: PathBuf = link.parent().map(Path::to_owned).unwrap_or_default();
    let mut left = VecDeque::new();
    push(&mut left, target)?;
    let mut followed = 0;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            if !here.pop() {
                return Err("it leaves the folder".into());
            }
            continue;
        }
        here.push(&part);
        match fs::read_link(root.join(&here)) {
            Ok(next) => {
                followed += 1;
                if followed > MAX_LINKS {
                    return Err("it leads through more than 40 links, or round in a circle".into());
                }
                here.pop();
                push(&mut left, &next)?;
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(format!("{} cannot be looked at: {error}", here.display()));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn push(left: &mut VecDeque<OsString>, target: &Path) -> Result<(), String> {
    for part in target.components().rev() {
        match part {
            Component::Normal(name) => left.push_front(name.to_owned()),
            Component::ParentDir => left.push_front("..".into()),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return Err("it is absolute".into()),
        }
    }
    Ok(())
}
