//! Which of a package's wheels fits best.
//!
//! The order is `packaging.tags.sys_tags`', which pip takes (PEP 425; platforms by PEP 600): the
//! target's own ABI first, then the stable ABI, then none, then other Pythons; within each the
//! newest glibc first.

use std::collections::HashMap;

use super::target::Target;
use crate::machine::Machine;

/// The tags that a target takes, with the best at 0.
pub struct Ranking {
    ranks: HashMap<String, usize>,
}

impl Ranking {
    /// The tags of CPython on Linux.
    pub fn of(target: &Target) -> Self {
        let (major, minor) = target.python;
        let own = format!("cp{major}{minor}");
        let platforms = platforms(target.glibc, target.machine);
        let mut tags = Vec::new();
        let mut add = |python: &str, abi: &str, platforms: &[String]| {
            tags.extend(platforms.iter().map(|p| format!("{python}-{abi}-{p}")));
        };
        let flag = match (target.free_threaded, minor) {
            (true, _) => "t",
            // Until 3.8 the ABI named its memory allocator (bpo-36707).
            (_, ..8) => "m",
            _ => "",
        };
        add(&own, &format!("{own}{flag}"), &platforms);
        // The stable ABI does not reach the free-threaded build (PEP 703).
        if !target.free_threaded {
            add(&own, "abi3", &platforms);
        }
        add(&own, "none", &platforms);
        if !target.free_threaded {
            // 3.2 was the first with it (PEP 384).
            for older in (2..minor).rev() {
                add(&format!("cp{major}{older}"), "abi3", &platforms);
            }
        }
        let mut pythons = vec![format!("py{major}{minor}"), format!("py{major}")];
        pythons.extend((0..minor).rev().map(|older| format!("py{major}{older}")));
        for python in &pythons {
            add(python, "none", &platforms);
        }
        let any = ["any".to_owned()];
        add(&own, "none", &any);
        for python in &pythons {
            add(python, "none", &any);
        }
        let ranks = tags.into_iter().enumerate();
        Self {
            ranks: ranks.map(|(rank, tag)| (tag, rank)).rev().collect(),
        }
    }

    /// How well a wheel fits, by its file name (PEP 427); less is better, `None` not at all. Among
    /// equals the higher build number wins.
    pub fn rank(&self, file_name: &str) -> Option<impl Ord + use<>> {
        let stem = file_name.strip_suffix(".whl")?;
        let parts: Vec<&str> = stem.split('-').collect();
        let (build, [python, abi, platform]) = match parts.as_slice() {
            [_, _, tags @ ..] if tags.len() == 3 => ("", [tags[0], tags[1], tags[2]]),
            [_, _, build, tags @ ..] if tags.len() == 3 => (*build, [tags[0], tags[1], tags[2]]),
            _ => return None,
        };
        // A compressed tag stands for every combination of its parts (PEP 425).
        let best = python
            .split('.')
            .flat_map(|py| abi.split('.').map(move |abi| (py, abi)))
            .flat_map(|(py, abi)| platform.split('.').map(move |p| format!("{py}-{abi}-{p}")))
            .filter_map(|tag| self.ranks.get(&tag).copied())
            .min()?;
        Some((best, std::cmp::Reverse(build_number(build))))
    }
}

/// A build tag sorts by its number, then by the rest (PEP 427).
fn build_number(build: &str) -> (u64, String) {
    let digits = build
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(build.len());
    let (number, rest) = build.split_at(digits);
    (number.parse().unwrap_or(0), rest.to_owned())
}

/// The platforms of a glibc, newest first, each with its older name (PEP 513, 571, 599, 600). Those
/// of other machines than x86-64 begin with manylinux2014's glibc, as in `packaging.tags`.
fn platforms(glibc: u32, machine: Machine) -> Vec<String> {
    let oldest = match machine {
        Machine::Amd64 => 5,
        Machine::Arm64 => 17,
    };
    let machine = machine.uname();
    let mut platforms = Vec::new();
    for minor in (oldest..=glibc).rev() {
        platforms.push(format!("manylinux_2_{minor}_{machine}"));
        match minor {
            17 => platforms.push(format!("manylinux2014_{machine}")),
            12 => platforms.push(format!("manylinux2010_{machine}")),
            5 => platforms.push(format!("manylinux1_{machine}")),
            _ => {}
        }
    }
    platforms.push(format!("linux_{machine}"));
    platforms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(python: (u32, u32), free_threaded: bool, glibc: u32) -> Ranking {
        Ranking::of(&Target {
            version: format!("{}.{}.0", python.0, python.1),
            python,
            free_threaded,
            glibc,
            machine: Machine::Amd64,
        })
    }

    #[test]
    fn the_most_specific_wheel_is_the_best() {
        let ranking = ranking((3, 11), false, 36);
        let order = [
            "m-1-cp311-cp311-manylinux_2_28_x86_64.whl",
            "m-1-2-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "m-1-1b-cp311-cp311-manylinux_2_17_x86_64.whl",
            "m-1-1-cp311-cp311-manylinux_2_17_x86_64.whl",
            "m-1-cp311-cp311-manylinux2014_x86_64.whl",
            "m-1-cp311-cp311-linux_x86_64.whl",
            "m-1-cp311-abi3-manylinux1_x86_64.whl",
            "m-1-cp311-none-manylinux_2_17_x86_64.whl",
            "m-1-cp310-abi3-manylinux_2_17_x86_64.whl",
            "m-1-cp39-abi3-manylinux_2_28_x86_64.whl",
            "m-1-py3-none-manylinux_2_28_x86_64.whl",
            "m-1-py37-none-manylinux_2_28_x86_64.whl",
            "m-1-cp311-none-any.whl",
            "m-1-py311-none-any.whl",
            "m-1-py2.py3-none-any.whl",
            "m-1-py30-none-any.whl",
        ];
        for pair in order.windows(2) {
            let ranks = [ranking.rank(pair[0]), ranking.rank(pair[1])];
            assert!(ranks.iter().all(Option::is_some), "{pair:?}");
            assert!(ranks[0] < ranks[1], "{pair:?}");
        }
    }

    #[test]
    fn other_machines_have_other_wheels() {
        let ranking = Ranking::of(&Target {
            version: "3.11.0".into(),
            python: (3, 11),
            free_threaded: false,
            glibc: 36,
            machine: Machine::Arm64,
        });
        let rank = |tag: &str| ranking.rank(&format!("m-1-cp311-cp311-{tag}.whl"));
        let fits = [
            "manylinux_2_28_aarch64",
            "manylinux2014_aarch64",
            "linux_aarch64",
        ];
        for pair in fits.windows(2) {
            assert!(
                rank(pair[0]).is_some() && rank(pair[0]) < rank(pair[1]),
                "{pair:?}"
            );
        }
        assert!(rank(fits[2]).is_some());
        for other in [
            "manylinux_2_28_x86_64",
            "manylinux_2_12_aarch64",
            "manylinux2010_aarch64",
            "manylinux_2_37_aarch64",
        ] {
            assert!(rank(other).is_none(), "{other}");
        }
        assert!(ranking.rank("m-1-py3-none-any.whl").is_some());
    }

    #[test]
    fn what_does_not_fit_has_no_rank() {
        let plain = ranking((3, 11), false, 28);
        for name in [
            "m-1-cp312-cp312-manylinux_2_17_x86_64.whl",
            "m-1-cp312-abi3-manylinux_2_17_x86_64.whl",
            "m-1-cp311-cp311-manylinux_2_29_x86_64.whl",
            "m-1-cp311-cp311-manylinux_2_17_aarch64.whl",
            "m-1-cp311-cp311-musllinux_1_2_x86_64.whl",
            "m-1-cp311-cp311-win_amd64.whl",
            "m-1-cp311-cp311t-manylinux_2_17_x86_64.whl",
            "m-1-py2-none-any.whl",
            "m-1.tar.gz",
            "m-1.whl",
            "-----.whl",
            "",
        ] {
            assert!(plain.rank(name).is_none(), "{name}");
        }
        let threaded = ranking((3, 13), true, 28);
        assert!(
            threaded
                .rank("m-1-cp313-cp313t-manylinux_2_17_x86_64.whl")
                .is_some()
        );
        assert!(
            threaded
                .rank("m-1-cp313-cp313-manylinux_2_17_x86_64.whl")
                .is_none()
        );
        assert!(
            threaded
                .rank("m-1-cp39-abi3-manylinux_2_17_x86_64.whl")
                .is_none()
        );
        assert!(threaded.rank("m-1-py3-none-any.whl").is_some());
    }
}
