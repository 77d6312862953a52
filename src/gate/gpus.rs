//! GPUs by name, and the architecture that each has.

use std::{fmt, str::FromStr};

use crate::spec::source::nearest;

/// The compute capabilities (NVIDIA, "CUDA GPU Compute Capability") of GPUs that jobs run on.
const GPUS: &[(u32, &[&str])] = &[
    (37, &["k80"]),
    (52, &["m40", "m60"]),
    (60, &["p100"]),
    (
        61,
        &[
            "p4",
            "p40",
            "gtx1060",
            "gtx1070",
            "gtx1080",
            "gtx1080ti",
            "titanxp",
        ],
    ),
    (70, &["v100", "titanv"]),
    (
        75,
        &[
            "t4",
            "rtx2060",
            "rtx2070",
            "rtx2080",
            "rtx2080ti",
            "titanrtx",
            "gtx1660",
        ],
    ),
    (80, &["a100", "a800", "a30"]),
    (
        86,
        &[
            "a2",
            "a10",
            "a10g",
            "a16",
            "a40",
            "a4000",
            "a5000",
            "a6000",
            "rtxa4000",
            "rtxa5000",
            "rtxa6000",
            "rtx3060",
            "rtx3070",
            "rtx3080",
            "rtx3080ti",
            "rtx3090",
            "rtx3090ti",
        ],
    ),
    (
        89,
        &[
            "l4",
            "l20",
            "l40",
            "l40s",
            "rtx4060",
            "rtx4070",
            "rtx4080",
            "rtx4090",
            "rtx6000ada",
        ],
    ),
    (90, &["h100", "h200", "h800", "h20", "gh200"]),
    (100, &["b100", "b200", "gb200"]),
    (103, &["b300", "gb300"]),
    (
        120,
        &["rtx5060", "rtx5070", "rtx5080", "rtx5090", "rtxpro6000"],
    ),
    (121, &["gb10"]),
];

/// A GPU that the image is to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// As the user wrote it.
    pub name: String,
    /// The architecture: 90 for sm_90.
    pub sm: u32,
}

impl FromStr for Gpu {
    type Err = String;

    /// Takes a name (`h200`, `RTX 4090`, `NVIDIA A100`) or an architecture (`sm_90`).
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = plain(text);
        let known = GPUS
            .iter()
            .find(|(_, names)| names.contains(&plain.as_str()));
        let sm = known
            .map(|(sm, _)| *sm)
            .or_else(|| architecture(&plain))
            .ok_or_else(|| unknown(&plain))?;
        Ok(Self {
            name: text.trim().to_owned(),
            sm,
        })
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match architecture(&plain(&self.name)) {
            Some(sm) => write!(f, "sm_{sm}"),
            None => write!(f, "{} (sm_{})", self.name, self.sm),
        }
    }
}

/// Lower case, without makers' words, blanks and dashes.
fn plain(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let kept: String = lower
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .take(64)
        .collect();
    ["nvidia", "geforce", "tesla"]
        .iter()
        .fold(kept, |name, word| match name.strip_prefix(word) {
            Some(rest) => rest.to_owned(),
            None => name,
        })
}

fn architecture(plain: &str) -> Option<u32> {
    let sm = plain.strip_prefix("sm")?.parse().ok()?;
    (30..=199).contains(&sm).then_some(sm)
}

fn unknown(plain: &str) -> String {
    let names = GPUS.iter().flat_map(|(_, names)| names.iter().copied());
    match nearest(plain, names) {
        Some(near) => format!("no such GPU is known; '{near}' is one"),
        None => "no such GPU is known; write its architecture, such as sm_90".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_as_people_write_them() {
        for (text, sm) in [
            ("h200", 90),
            ("H100", 90),
            ("NVIDIA A100", 80),
            ("Tesla K80", 37),
            ("GeForce RTX 4090", 89),
            ("rtx-5090", 120),
            ("b300", 103),
            ("sm_90", 90),
            ("sm120", 120),
        ] {
            assert_eq!(text.parse::<Gpu>().unwrap().sm, sm, "{text}");
        }
        assert_eq!("h200".parse::<Gpu>().unwrap().to_string(), "h200 (sm_90)");
        assert_eq!("SM_90".parse::<Gpu>().unwrap().to_string(), "sm_90");
        let wrong = |text: &str| text.parse::<Gpu>().unwrap_err();
        assert!(
            wrong("rtx4900").contains("'rtx4090'"),
            "{}",
            wrong("rtx4900")
        );
        assert!(wrong("mi300x").contains("sm_90"));
        assert!(wrong("").contains("sm_90") && wrong("sm_9999").contains("sm_90"));
    }

    #[test]
    fn no_name_twice() {
        let all: Vec<_> = GPUS.iter().flat_map(|(_, names)| names.iter()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert!(all.iter().all(|name| plain(name) == ***name));
    }
}
