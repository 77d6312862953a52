use std::time::{Duration, Instant};

use super::*;

fn read(text: &str) -> Result<Node> {
    parse(Source {
        file: "f.yml",
        text,
    })
}

fn place(line: usize, column: usize) -> Place {
    Place { line, column }
}

fn get<'n>(node: &'n Node, key: &str) -> &'n Node {
    let Value::Map(items) = &node.value else {
        panic!("no map: {node:?}")
    };
    &items
        .iter()
        .find(|(k, _)| k.scalar() == Some(key))
        .unwrap()
        .1
}

fn items(node: &Node) -> &[Node] {
    let Value::List(items) = &node.value else {
        panic!("no list: {node:?}")
    };
    items
}

#[test]
fn every_scalar_has_its_place() {
    let text =
        "# é\nname: é  \nlist:\n- a\n-   \"b c\"   # no\n- {k: v, pip: [x,\n  'y']}\nempty:\n";
    let node = read(text).unwrap();
    assert_eq!(get(&node, "name").place, place(2, 7));
    let list = items(get(&node, "list"));
    assert_eq!(list[0].place, place(4, 3));
    assert_eq!(
        (list[1].place, list[1].scalar()),
        (place(5, 5), Some("b c"))
    );
    assert_eq!(get(&list[2], "k").place, place(6, 7));
    let pip = items(get(&list[2], "pip"));
    assert_eq!((pip[0].place, pip[1].place), (place(6, 16), place(7, 3)));
    assert_eq!(get(&node, "empty").value, Value::Null);
    assert_eq!(node.place, place(2, 1));
}

#[test]
fn numbers_keep_their_spelling() {
    let node = read("a: 3.10\nb: [1.0,0x10, 007]\nc: {d: 1e3}\ne: True\nf: '3.10'\n8: 9").unwrap();
    assert_eq!(get(&node, "a").value, Value::Number("3.10".into()));
    let spelt: Vec<_> = items(get(&node, "b"))
        .iter()
        .map(|n| n.scalar().unwrap())
        .collect();
    assert_eq!(spelt, ["1.0", "0x10", "007"]);
    assert_eq!(get(get(&node, "c"), "d").scalar(), Some("1e3"));
    assert_eq!(get(&node, "e").value, Value::Bool(true, "True".into()));
    assert_eq!(get(&node, "f").value, Value::Text("3.10".into()));
    assert_eq!(get(&node, "8").scalar(), Some("9"));
}

#[test]
fn scalars_nulls_and_anchors() {
    assert_eq!(read("").unwrap().value, Value::Null);
    assert_eq!(read("just text").unwrap().scalar(), Some("just text"));
    let node = read("a: &x [1, &y 2]\nb: *x\nc: *y\n").unwrap();
    assert_eq!(items(get(&node, "b")).len(), 2);
    assert_eq!(get(&node, "c").scalar(), Some("2"));
}

fn refused(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

#[test]
fn faults_are_named_where_they_are() {
    let text = refused("name: x\ndependencies:\n  - a\n  pytorch\n  - b\n");
    insta::assert_snapshot!(text);
    let text = refused("a: 1\nb:\n  c: 1\n  c: 2\n");
    assert!(
        text.contains("at: f.yml:4:3") && text.contains("key 'c' stands twice"),
        "{text}"
    );
    let text = refused("a: 1\na: 2\n");
    assert!(text.contains("at: f.yml:2:1"), "{text}");
    assert!(refused("a: !object x").contains("tags"));
    assert!(refused("? [a]\n: b").contains("a key must be a word"));
    assert!(refused("a: b\0").contains("NUL"));
    assert!(refused("a: 1\n---\nb: 2\n").contains("more than one document"));
    assert!(refused("a: *nope").contains("unknown anchor"));
    assert!(refused("a:\n\t- b").contains("f.yml:2:1"));
}

#[test]
fn nothing_hangs() {
    let started = Instant::now();
    let bomb: String = (0..30)
        .map(|i| format!("a{}: &a{} [*a{i}, *a{i}, *a{i}, *a{i}]\n", i + 1, i + 1))
        .collect();
    assert!(refused(&format!("a0: &a0 x\n{bomb}")).contains("repetition limit exceeded"));
    let wide = format!(
        "a: &a [{}]\nb: [{}]\n",
        "x,".repeat(50_000),
        "*a,".repeat(50_000)
    );
    assert!(refused(&wide).contains("too much"));
    assert!(read(&"[".repeat(900_000)).is_err());
    for step in ["- ", "? ", "-\t"] {
        let text = refused(&format!("a:\n  {}", step.repeat(400_000)));
        assert!(text.contains("lists begin on one line"), "{step}: {text}");
    }
    assert!(read(&"a: ".repeat(300_000)).is_err());
    assert!(read(&"[a]".repeat(300_000)).is_err());
    assert!(read(&"'".repeat(1_000_001)).is_err());
    assert!(read(&"x".repeat(2_000_000)).is_err());
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}
