use super::*;

const EMPTY: &str = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

fn hash(text: &str) -> Hash {
    Hash::parse(text).unwrap()
}

fn digest_text(algorithm: &str, data: &[u8]) -> String {
    let digest = match algorithm {
        "sha384" => Sha384::digest(data).to_vec(),
        "sha512" => Sha512::digest(data).to_vec(),
        _ => Sha256::digest(data).to_vec(),
    };
    format!("{algorithm}={}", URL_SAFE_NO_PAD.encode(digest))
}

#[test]
fn rows_have_a_hash_and_a_size() {
    let text =
        format!("a.py,{EMPTY},0\r\n\"b, \"\"c\"\".py\",{EMPTY},\nr/RECORD,,\na.py,{EMPTY},0\n");
    let record = parse(text.as_bytes()).unwrap();
    assert_eq!(record.len(), 3);
    assert_eq!(record["a.py"].size, Some(0));
    assert_eq!(record["a.py"].hash.as_ref().unwrap().to_string(), EMPTY);
    assert_eq!(record["b, \"c\".py"].size, None);
    assert_eq!(record["r/RECORD"].hash, None);
}

#[test]
fn rows_that_say_something_else_are_refused() {
    for bad in [
        format!("a,{EMPTY}"),
        format!("a,{EMPTY},0,x"),
        format!("a,{EMPTY},-1"),
        format!("a,{EMPTY}=,0"),
        format!("a,{EMPTY},0\na,{EMPTY},1"),
        format!("a,{EMPTY},0\na,,0"),
        "a,md5=1B2M2Y8AsgTpgAmY7PhCfg,0".to_owned(),
        "a,sha256,0".to_owned(),
        "a,sha256=,0".to_owned(),
        "a,SHA256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0".to_owned(),
        "a,sha256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU,0".to_owned(),
    ] {
        assert!(parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(parse(b"\xff,,\n").is_err());
}

#[test]
fn content_is_compared_while_it_passes() {
    for algorithm in ["sha256", "sha384", "sha512"] {
        let right = hash(&digest_text(algorithm, b"abc"));
        let read = |content: &'static [u8], size| {
            let mut reader = Verifying::new(content, &right, size);
            let read = reader.read_to_end(&mut Vec::new());
            (
                read.is_ok(),
                reader.fault().is_some(),
                reader.finish(&right).is_ok(),
            )
        };
        assert_eq!(read(b"abc", 3), (true, false, true));
        assert_eq!(read(b"abd", 3), (true, false, false));
        assert_eq!(read(b"abc", 2), (false, true, false));
        assert_eq!(read(b"abc", 4), (false, true, false));
    }
}

#[test]
fn content_that_nobody_reads_is_compared_too() {
    let right = hash(&digest_text("sha256", b"abc"));
    assert!(
        Verifying::new(&b"abc"[..], &right, 3)
            .finish(&right)
            .is_ok()
    );
    assert!(
        Verifying::new(&b"abx"[..], &right, 3)
            .finish(&right)
            .is_err()
    );
}

#[test]
fn an_installed_record_is_sorted() {
    let row = |path: &str| Row {
        path: path.into(),
        hash: EMPTY.into(),
        size: Some(7),
    };
    let rows = vec![row("z,\"q"), row("../../../bin/x"), row("a.py")];
    let text = render(rows, "r/RECORD".into()).unwrap();
    assert_eq!(
        String::from_utf8(text).unwrap(),
        format!("../../../bin/x,{EMPTY},7\na.py,{EMPTY},7\nr/RECORD,,\n\"z,\"\"q\",{EMPTY},7\n")
    );
}
