use zip::DateTime;

use super::{seconds, *};

fn at(year: u16, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Option<u64> {
    DateTime::from_date_and_time(year, month, day, hour, minute, second)
        .ok()
        .and_then(seconds)
}

#[test]
fn times_are_utc_and_believable() {
    assert_eq!(at(2024, 2, 29, 23, 59, 58), Some(1_709_251_198));
    assert_eq!(at(1980, 1, 1, 0, 0, 0), None);
    assert_eq!(at(1980, 1, 1, 23, 59, 58), None);
    assert_eq!(at(1980, 1, 2, 0, 0, 0), Some(ZIP_EPOCH + 86_400));
    assert_eq!(at(2038, 1, 19, 3, 14, 6), Some(2_147_483_646));
    assert_eq!(at(2038, 1, 19, 3, 14, 8), None);
    assert_eq!(at(2107, 12, 31, 23, 59, 58), None);
    assert_eq!(at(2024, 5, 6, 7, 8, 60), at(2024, 5, 6, 7, 8, 59));
}

#[test]
fn parents_are_all_folders_above() {
    assert_eq!(parents("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
    assert_eq!(parents("a").count(), 0);
}

#[test]
fn descriptors_are_read_in_both_sizes() {
    let short = [&b"PK\x07\x08"[..], &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]].concat();
    assert_eq!(descriptor(&short), Some((1, 2, 3)));
    let mut long = b"PK\x07\x08\x01\0\0\0".to_vec();
    long.extend(2_u64.to_le_bytes());
    long.extend(3_u64.to_le_bytes());
    assert_eq!(descriptor(&long), Some((1, 2, 3)));
    assert_eq!(descriptor(&short[..15]), None);
    assert_eq!(descriptor(&[0; 16]), None);
}
