//! Whether the kernel killed processes of this one's cgroup for lack of memory.

use std::{fs, path::PathBuf};

const MOUNT: &str = "/sys/fs/cgroup";

/// How many processes of this cgroup the kernel has killed so; `None` where it does not tell.
pub(super) fn kills() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    counters(&own)
        .into_iter()
        .find_map(|path| count(&fs::read_to_string(path).ok()?))
}

/// Where the count may be. Within a container the mount begins at its own cgroup, which
/// `/proc/self/cgroup` may still name as the host sees it.
fn counters(own: &str) -> Vec<PathBuf> {
    let places = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (mount, file) = match controllers {
            "" => (MOUNT.to_owned(), "memory.events"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (format!("{MOUNT}/memory"), "memory.oom_control")
            }
            _ => return None,
        };
        let inner = PathBuf::from(format!("{mount}/{path}/{file}"));
        Some([inner, PathBuf::from(format!("{mount}/{file}"))])
    });
    places.flatten().collect()
}

/// Both versions of cgroups have it on a line of its own (Linux, admin-guide/cgroup-v2 and -v1).
fn count(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_tell() {
        assert_eq!(count("low 0\nmax 9\noom 2\noom_kill 1\n"), Some(1));
        assert_eq!(
            count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            Some(3)
        );
        assert_eq!(count("oom_kill_disable 0\n"), None);
        let paths = |own| -> Vec<String> {
            let found = counters(own).into_iter();
            found.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            paths("0::/user.slice/a\n"),
            [
                "/sys/fs/cgroup//user.slice/a/memory.events",
                "/sys/fs/cgroup/memory.events"
            ]
        );
        assert_eq!(
            paths("5:cpu,cpuacct:/x\n4:memory:/docker/1\n"),
            [
                "/sys/fs/cgroup/memory//docker/1/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control"
            ]
        );
    }
}
