//! Sizes as people write them.

/// Bytes from `50GB`, `1.5 TB` or `50GiB`. As ccache and docker read them: k, M, G and T are
/// powers of 1000, Ki, Mi, Gi and Ti of 1024; the `B` may be left out, and so may the unit.
///
/// # Errors
/// When the text is no size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size such as 50GB or 50GiB");
    let trimmed = text.trim();
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let (number, unit) = match trimmed.find(|c| !digits(c)) {
        Some(at) => trimmed.split_at(at),
        None => (trimmed, ""),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    let unit = unit.trim().to_ascii_lowercase();
    let factor: u64 = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1,
        "k" => 1000,
        "m" => 1000_u64.pow(2),
        "g" => 1000_u64.pow(3),
        "t" => 1000_u64.pow(4),
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        _ => return Err(bad()),
    };
    // Beyond 2^53 a size is not exact, and no disk is that large.
    Ok((number * factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1234", 1234),
            ("12B", 12),
            ("50GB", 50_000_000_000),
            ("50 g", 50_000_000_000),
            ("50GiB", 50 << 30),
            ("1.5kb", 1500),
            ("2Ti", 2 << 40),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "GB", "-1", "1.2.3", "5 apples", "1e9", "5PB", "."] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
