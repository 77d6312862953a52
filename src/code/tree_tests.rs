use std::{
    fs,
    os::unix::{
        ffi::OsStringExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
};

use super::*;

#[derive(Default)]
struct Taken(Vec<(Entry, Vec<u8>)>);

impl EntrySink for Taken {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        self.0.push((entry.clone(), bytes));
        Ok(())
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn taken(dir: &Path) -> Vec<(Entry, Vec<u8>)> {
    let mut sink = Taken::default();
    collect(dir).unwrap().write("/srv/app", &mut sink).unwrap();
    sink.0
}

fn names(dir: &Path) -> Vec<String> {
    let name = |(entry, _): (Entry, Vec<u8>)| String::from_utf8_lossy(&entry.path).into_owned();
    taken(dir).into_iter().map(name).collect()
}

#[test]
fn entries_are_normalised_and_sorted() {
    let dir = folder(&[("b/run.sh", "#!"), ("a.py", "x"), ("b-c", "")]);
    fs::create_dir(dir.path().join("empty")).unwrap();
    for (name, mode) in [("b/run.sh", 0o4700), ("a.py", 0o666), ("empty", 0o700)] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("b/run.sh", dir.path().join("link")).unwrap();
    let entries = taken(dir.path());
    let seen: Vec<_> = entries
        .iter()
        .map(|(e, content)| (std::str::from_utf8(&e.path).unwrap(), e.mode, content.len()))
        .collect();
    assert_eq!(
        seen,
        [
            ("srv/app", 0o755, 0),
            ("srv/app/a.py", 0o644, 1),
            ("srv/app/b", 0o755, 0),
            ("srv/app/b-c", 0o644, 0),
            ("srv/app/b/run.sh", 0o755, 2),
            ("srv/app/empty", 0o755, 0),
            ("srv/app/link", 0o777, 0),
        ]
    );
    assert!(entries.iter().all(|(e, _)| e.owner == (0, 0)));
    assert_eq!(entries[6].0.kind, EntryKind::Symlink(b"b/run.sh".to_vec()));
}

#[test]
fn dockerignore_is_honoured_while_walking() {
    let dir = folder(&[
        (".dockerignore", "*\n!src\nsrc/secret\n!keep/deep/yes.txt\n"),
        ("src/a.py", ""),
        ("src/secret/key", ""),
        ("keep/deep/yes.txt", ""),
        ("keep/deep/no.txt", ""),
        ("keep/other/no.txt", ""),
        ("top.txt", ""),
    ]);
    let expected = [
        "",
        "/keep",
        "/keep/deep",
        "/keep/deep/yes.txt",
        "/src",
        "/src/a.py",
    ];
    assert_eq!(names(dir.path()), expected.map(|n| format!("srv/app{n}")));
    let dir = folder(&[(".dockerignore", "ok\n[x\n")]);
    let error = collect(dir.path()).unwrap_err().to_string();
    assert!(error.contains(".dockerignore:2"), "{error}");
}

#[test]
fn links_stay_inside() {
    let dir = folder(&[("a/b/file", ""), ("c", "")]);
    let root = dir.path();
    let link = |target: &str, name: &str| {
        let _ = fs::remove_file(root.join(name));
        symlink(target, root.join(name)).unwrap();
        collect(root).map(drop).map_err(|e| e.to_string())
    };
    for good in [
        "../../c",
        "file",
        "../b/./file",
        "nowhere/at/all",
        "..",
        "../..",
    ] {
        assert_eq!(link(good, "a/b/link"), Ok(()), "{good}");
    }
    for bad in [
        "/etc/passwd",
        "../../../x",
        "../../../../etc",
        "x/../../../../y",
    ] {
        let error = link(bad, "a/b/link").unwrap_err();
        assert!(
            error.contains("link a/b/link") && error.contains(bad),
            "{error}"
        );
    }
    link("file", "a/b/link").unwrap();
    // Lexically inside, but through another link that goes up.
    link("a/b", "up").unwrap();
    assert!(link("up/../../c", "through").is_ok());
    assert!(link("up/../../../c", "through").is_err());
    fs::remove_file(root.join("through")).unwrap();
    assert!(link("loop", "loop").unwrap_err().contains("circle"));
}

#[test]
fn ignored_links_and_sockets_do_no_harm_others_are_refused() {
    let dir = folder(&[(".dockerignore", "bad\nsock\n")]);
    symlink("/etc", dir.path().join("bad")).unwrap();
    let _socket = UnixListener::bind(dir.path().join("sock")).unwrap();
    assert_eq!(names(dir.path()), ["srv/app", "srv/app/.dockerignore"]);
    let _other = UnixListener::bind(dir.path().join("other")).unwrap();
    let error = collect(dir.path()).unwrap_err().to_string();
    assert!(error.contains("a socket"), "{error}");
}

#[test]
fn names_need_not_be_utf8() {
    let dir = folder(&[]);
    let name = std::ffi::OsString::from_vec(b"\xff\n".to_vec());
    fs::write(dir.path().join(name), "x").unwrap();
    assert_eq!(taken(dir.path())[1].0.path, b"srv/app/\xff\n");
}

#[test]
fn the_key_follows_content_not_times() {
    let files = [("a", "1"), ("b/c", "2")];
    let key = |dir: &tempfile::TempDir| collect(dir.path()).unwrap().key().unwrap();
    let (one, two) = (folder(&files), folder(&files));
    let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    File::options()
        .write(true)
        .open(two.path().join("a"))
        .unwrap()
        .set_times(old)
        .unwrap();
    assert_eq!(key(&one), key(&two));
    assert_eq!(collect(one.path()).unwrap().size(), 2);
    let before = key(&one);
    fs::set_permissions(one.path().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_ne!(key(&one), before);
    fs::write(two.path().join("a"), "3").unwrap();
    assert_ne!(key(&two), before);
    fs::rename(two.path().join("a"), two.path().join("d")).unwrap();
    assert_ne!(key(&two), key(&one));
}

#[test]
fn a_file_that_changes_fails_the_build() {
    let dir = folder(&[("a", "12345")]);
    for text in ["1234", "123456"] {
        fs::write(dir.path().join("a"), "12345").unwrap();
        let tree = collect(dir.path()).unwrap();
        fs::write(dir.path().join("a"), text).unwrap();
        let error = tree
            .write("/w", &mut Taken::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("changed while it was read"), "{error}");
        assert!(tree.key().is_err());
    }
    let tree = collect(dir.path()).unwrap();
    fs::remove_file(dir.path().join("a")).unwrap();
    symlink("/etc/passwd", dir.path().join("a")).unwrap();
    assert!(tree.key().is_err());
}

/// Grows the file between its entry and its content.
struct Appends(PathBuf);

impl EntrySink for Appends {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        if let EntryKind::File(size) = entry.kind {
            fs::write(&self.0, "longer than before")?;
            assert!(io::copy(content, &mut io::sink())? <= size);
        }
        Ok(())
    }
}

#[test]
fn a_file_that_grows_while_it_is_read_fails_too() {
    let dir = folder(&[("a", "12345")]);
    let tree = collect(dir.path()).unwrap();
    let mut sink = Appends(dir.path().join("a"));
    assert!(tree.write("/w", &mut sink).is_err());
}

#[test]
fn the_epoch() {
    assert_eq!(mtime(None).unwrap(), MTIME);
    assert_eq!(mtime(Some(OsStr::new(""))).unwrap(), MTIME);
    assert_eq!(
        mtime(Some(OsStr::new("1700000000"))).unwrap(),
        1_700_000_000
    );
    for bad in ["x", "-1", "1.5", "99999999999999"] {
        assert!(mtime(Some(OsStr::new(bad))).is_err());
    }
}
