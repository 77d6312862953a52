use proptest::prelude::*;

use super::*;

fn one_form(bytes: &[u8]) -> Result<Vec<u8>> {
    canonical(bytes, CodeLayout::of_minor(11).unwrap())
}

/// `(x, x)` for a string of the given type byte, the second time as a reference or in full.
fn pair(kind: u8, text: &[u8], second: &[u8]) -> Vec<u8> {
    let mut bytes = vec![SMALL_TUPLE, 2, kind, text.len() as u8];
    bytes.extend(text);
    bytes.extend(second);
    bytes
}

#[test]
fn neither_references_nor_interning_of_the_writer_matter() {
    let back = [REF, 0, 0, 0, 0];
    let name = one_form(&pair(SHORT_ASCII_INTERNED | FLAG_REF, b"name", &back)).unwrap();
    assert_eq!(name, pair(SHORT_ASCII_INTERNED | FLAG_REF, b"name", &back));
    // In full twice, and not interned the first time.
    assert_eq!(
        one_form(&pair(SHORT_ASCII, b"name", b"Z\x04name")),
        Ok(name)
    );

    let star = one_form(&pair(SHORT_ASCII_INTERNED | FLAG_REF, b"*", &back)).unwrap();
    assert_eq!(star, pair(SHORT_ASCII | FLAG_REF, b"*", &back));
    // A mark that nothing refers to: the reference count was not 1.
    let lone = [SMALL_TUPLE | FLAG_REF, 1, b'i' | FLAG_REF, 7, 0, 0, 0];
    assert_eq!(one_form(&lone).unwrap(), [SMALL_TUPLE, 1, b'i', 7, 0, 0, 0]);
}

#[test]
fn what_is_equal_but_of_another_type_stays_apart() {
    let one = [
        &[SMALL_TUPLE, 3, b'i', 1, 0, 0, 0, b'T', b'g'][..],
        &1f64.to_le_bytes(),
    ]
    .concat();
    assert_eq!(one_form(&one).unwrap(), one);
    let zeros = [
        &b")\x02g"[..],
        &0f64.to_le_bytes(),
        b"g",
        &(-0f64).to_le_bytes(),
    ]
    .concat();
    assert_eq!(one_form(&zeros).unwrap(), zeros);
    let bytes_and_text = b")\x02s\x01\0\0\0aZ\x01a";
    assert_eq!(one_form(bytes_and_text).unwrap(), bytes_and_text);
}

#[test]
fn sets_have_one_order() {
    let forward = one_form(b">\x03\0\0\0z\x01.Ni\x07\0\0\0").unwrap();
    assert_eq!(
        one_form(b">\x03\0\0\0i\x07\0\0\0z\x01.N"),
        Ok(forward.clone())
    );
    assert_eq!(one_form(&forward), Ok(forward));
}

#[test]
fn code_objects_stay_apart() {
    let code = [&b"c"[..], &[0; 20], b"NNNNNNNN\x01\0\0\0NN"].concat();
    let two = [&[SMALL_TUPLE, 2][..], &code, &code].concat();
    assert_eq!(one_form(&two).unwrap(), two);
}

#[test]
fn broken_streams_are_refused() {
    let cases: [(&[u8], MarshalError); 9] = [
        (b"", MarshalError::Length),
        (b"NN", MarshalError::Length),
        (b"z\x05ab", MarshalError::Length),
        (b"(\xff\xff\xff\x7f", MarshalError::Length),
        (b"s\xff\xff\xff\xff", MarshalError::Length),
        (b"l\0\0\0\x80", MarshalError::Length),
        (b"[\0\0\0\0", MarshalError::Type(b'[')),
        (b"r\0\0\0\0", MarshalError::Reference),
        // A tuple that holds itself.
        (b"\xa9\x01r\0\0\0\0", MarshalError::Reference),
    ];
    for (bytes, error) in cases {
        assert_eq!(one_form(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn depth_has_a_limit() {
    let nested = |depth: usize| [b")\x01".repeat(depth), b"N".to_vec()].concat();
    let run = move || {
        assert_eq!(one_form(&nested(1001)), Err(MarshalError::Depth));
        assert_eq!(one_form(&nested(500)), Ok(nested(500)));
    };
    let thread = std::thread::Builder::new().stack_size(super::super::STACK);
    thread.spawn(run).unwrap().join().unwrap();
}

proptest! {
    #[test]
    fn no_bytes_panic_and_the_form_is_stable(bytes in proptest::collection::vec(
        prop_oneof![prop::sample::select(&b")(>czZaAursligyN:\x01\x02\0"[..]), any::<u8>()], 0..200))
    {
        if let Ok(form) = one_form(&bytes) {
            prop_assert_eq!(one_form(&form), Ok(form));
        }
    }
}
