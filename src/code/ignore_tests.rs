use proptest::prelude::*;

use super::*;

/// The verdict after walking down to the path, as `collect` does.
fn ignored(patterns: &str, path: &str) -> bool {
    let patterns = Patterns::parse(patterns.as_bytes()).unwrap();
    verdict(&patterns, path)
}

fn verdict(patterns: &Patterns, path: &str) -> bool {
    let mut folder = Match::default();
    for (at, _) in path.match_indices('/') {
        folder = patterns.check(&path.as_bytes()[..at], &folder);
    }
    patterns.check(path.as_bytes(), &folder).ignored
}

/// The examples of Docker's documentation.
#[test]
fn the_documented_examples() {
    let cases = [
        ("# comment\n */temp* ", "somedir/temporary.txt", true),
        ("*/temp*", "somedir/temp/x", true),
        ("*/temp*", "temporary.txt", false),
        ("*/*/temp*", "somedir/subdir/temporary.txt", true),
        ("*/*/temp*", "somedir/temporary.txt", false),
        ("temp?", "tempa", true),
        ("temp?", "temp", false),
        ("/foo/bar", "foo/bar", true),
        ("foo/bar/", "foo/bar", true),
        ("**/*.go", "a/b/c.go", true),
        ("**/*.go", "c.go", true),
        ("*.md\n!README.md", "README.md", false),
        ("*.md\n!README.md", "CHANGES.md", true),
        (
            "*.md\n!README*.md\nREADME-secret.md",
            "README-secret.md",
            true,
        ),
        ("*.md\n!README*.md\nREADME-secret.md", "README-x.md", false),
        (
            "*.md\nREADME-secret.md\n!README*.md",
            "README-secret.md",
            false,
        ),
        ("*\n!src", "src/a/b.py", false),
        ("*\n!src", "other/a", true),
        ("#not\n  # is a pattern here", "# is a pattern here", true),
    ];
    for (patterns, path, expected) in cases {
        assert_eq!(ignored(patterns, path), expected, "{patterns:?} {path:?}");
    }
}

/// The corners of Docker's matcher that differ from what one would guess.
#[test]
fn the_corners() {
    let cases = [
        ("**", "a/b", true),
        ("**/", "a", true),
        ("**/**", "a/b", true),
        ("dir/**", "dir/b/c", true),
        ("dir/**", "dir", false),
        ("**/dir", "a/dir/file", true),
        ("**file", "a/myfile", true),
        ("**file*", "myfile1", false),
        ("**/.foo", "bar.foo", false),
        ("a**/*.txt", "a/b/c/d.txt", true),
        ("a/*.txt", "a/b/c.txt", false),
        ("a[b-d]e", "ace", true),
        ("a[^b-d]e", "aze", true),
        ("a[^b-d]e", "ace", false),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("[\\]a]", "]", true),
        ("a?b", "a☺b", true),
        ("a???b", "a☺b", false),
        ("[a-ζ]*", "α", true),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        ("abc.def", "abcZdef", false),
        ("./a//b/../c", "a/c", true),
        ("docs\n!docs/README.md", "docs/README.md", false),
        ("docs\n!docs/README.md", "docs/x", true),
        ("!a.go\n*.go", "a.go", true),
        ("**\n!web\nweb/foo", "web/foo", true),
        ("! a\n* ", "a", true),
        ("*\n! a", "a", false),
        ("a", "b/a", false),
        (".", "a", false),
        ("/", "a", false),
    ];
    for (patterns, path, expected) in cases {
        assert_eq!(ignored(patterns, path), expected, "{patterns:?} {path:?}");
    }
    let raw = Patterns::parse(b"a?c").unwrap();
    assert!(raw.check(b"a\xffc", &Match::default()).ignored);
}

#[test]
fn malformed_patterns_are_refused_with_their_line() {
    for bad in [
        "[", "[^", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "\\", "a[", "!",
    ] {
        let (line, _) = Patterns::parse(format!("ok\n\n{bad}\n").as_bytes()).unwrap_err();
        assert_eq!(line, 3, "{bad}");
    }
}

#[test]
fn ignored_folders_are_walked_only_for_exceptions() {
    let patterns = Patterns::parse(b"*\n!a/b/*.txt\n").unwrap();
    assert!(patterns.may_take_back_inside(b"a"));
    assert!(patterns.may_take_back_inside(b"a/b/c"));
    assert!(!patterns.may_take_back_inside(b"z"));
    assert!(!Patterns::parse(b"a").unwrap().may_take_back_inside(b"a"));
    assert!(
        Patterns::parse(b"a\n!**/x")
            .unwrap()
            .may_take_back_inside(b"a")
    );
}

#[test]
fn long_patterns_stay_fast() {
    let pattern = "*a".repeat(2_000) + "b";
    assert!(!ignored(&pattern, &"a".repeat(4_000)));
}

/// What `run` means, by trying every split: slow and obviously right.
fn by_definition(tokens: &[Token], name: &[Char]) -> bool {
    let Some((first, rest)) = tokens.split_first() else {
        return name.is_empty();
    };
    let slash = |c: &Char| *c == Char::Of('/');
    let mut splits = 0..=name.len();
    match first {
        Token::Star => {
            splits.any(|n| !name[..n].iter().any(slash) && by_definition(rest, &name[n..]))
        }
        Token::Rest => splits.any(|n| by_definition(rest, &name[n..])),
        Token::Folders => {
            splits.any(|n| (n == 0 || slash(&name[n - 1])) && by_definition(rest, &name[n..]))
        }
        one => name.first().is_some_and(|c| one.takes(*c)) && by_definition(rest, &name[1..]),
    }
}

fn segment() -> impl Strategy<Value = String> {
    "[ab]{1,3}"
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(segment(), 1..4).prop_map(|parts| parts.join("/"))
}

proptest! {
    #[test]
    fn never_panics(text in any::<Vec<u8>>(), path in path()) {
        if let Ok(patterns) = Patterns::parse(&text) {
            let _ = verdict(&patterns, &path);
        }
    }

    #[test]
    fn matching_follows_the_definition(text in "([ab/?]|\\*|\\*\\*|\\*\\*/|\\[ab\\]|\\[\\^a\\]){1,7}", path in "[ab/]{0,8}") {
        if let Ok(Glob::Tokens(tokens)) = compile(&text) {
            let name = chars(path.as_bytes());
            prop_assert_eq!(run(&tokens, &name), by_definition(&tokens, &name));
        }
    }

    #[test]
    fn a_path_ignores_itself_and_what_is_inside(path in path(), below in segment()) {
        prop_assert!(ignored(&path, &path));
        let inside = format!("{path}/{below}");
        prop_assert!(ignored(&path, &inside));
        let pattern = format!("/{path}/");
        prop_assert!(ignored(&pattern, &inside));
    }

    #[test]
    fn the_last_match_wins(path in path()) {
        let both = format!("**\n!{path}");
        prop_assert!(!ignored(&both, &path));
        let all = format!("!{path}\n**");
        prop_assert!(ignored(&all, &path));
    }

    #[test]
    fn any_depth_is_any_depth(folders in path(), name in segment()) {
        let pattern = format!("**/{name}");
        let path = format!("{folders}/{name}");
        prop_assert!(ignored(&pattern, &path));
        prop_assert!(ignored(&pattern, &name));
    }
}
