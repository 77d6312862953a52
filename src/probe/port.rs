//! A port that a job's ranks can meet at.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io,
    net::TcpListener,
    ops::{Range, RangeInclusive},
};

/// Ports of services come before these.
const LOWEST: u16 = 10_000;
/// What Linux gives to those who ask for any port, unless it is told otherwise (ip(7)).
const ANY: RangeInclusive<u16> = 32_768..=60_999;
/// Where the jobs that `--emit slurm` writes meet.
const SLURM: Range<u16> = 20_000..30_000;
/// How many places are tried.
const TRIES: usize = 1000;

/// A free port of the loopback address that no other program gets by asking for any: a job takes it
/// only once it has imported torch, and until then the kernel would give it away.
///
/// # Errors
/// When the loopback address has none.
pub fn free_port() -> io::Result<u16> {
    let outside = outside(&any());
    let start = usize::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or_default();
    let tried = outside.iter().cycle().skip(start % outside.len().max(1));
    let mut tried = tried.take(TRIES);
    let free = |port: &&u16| TcpListener::bind(("127.0.0.1", **port)).is_ok();
    match tried.find(free) {
        Some(port) => Ok(*port),
        None => Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port()),
    }
}

/// The ports that the kernel gives to those who ask for any.
fn any() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    text.ok().and_then(|text| parse(&text)).unwrap_or(ANY)
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    let (low, high) = (words.next()?, words.next()?);
    Some(low.parse().ok()?..=high.parse().ok()?)
}

fn outside(any: &RangeInclusive<u16>) -> Vec<u16> {
    (LOWEST..=u16::MAX)
        .filter(|port| !any.contains(port) && !SLURM.contains(port))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_and_nobody_gets_it_unasked() {
        let port = free_port().unwrap();
        TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(port >= LOWEST);
        assert_eq!(parse("32768\t60999\n"), Some(ANY));
        assert_eq!(parse(""), None);
        let ports = outside(&ANY);
        assert!(ports.contains(&10_000) && ports.contains(&61_000));
        let others = [9999, 20_000, 40_000];
        assert!(others.iter().all(|port| !ports.contains(port)));
        assert_eq!(outside(&(1024..=65_535)), [0; 0]);
    }
}
