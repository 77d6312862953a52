use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Overrides> {
    parse(text, "imgbuild.yaml", Path::new("/proj"))
}

/// The documentation's example must be what the parser takes, with every key in it.
#[test]
fn the_documented_example_holds() {
    let doc = include_str!("../../docs/imgbuild.yaml.md");
    let example = doc
        .split("```yaml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let config = read(example).unwrap();
    for key in KEYS {
        assert!(
            example
                .lines()
                .any(|line| line.starts_with(&format!("{key}:"))),
            "{key}"
        );
        assert!(doc.contains(&format!("| `{key}` |")), "{key} has no row");
    }
    assert_eq!(config.code.unwrap().dir, Path::new("/proj/src"));
    assert_eq!(config.cmd.unwrap(), ["python", "train.py"]);
    assert_eq!(config.probe.shm_size, Some(8 << 30));
    assert!(matches!(config.miniconda, Some(MinicondaChoice::On(packages)) if packages.len() == 3));
    for other in doc.split("```yaml\n").skip(2) {
        read(other.split("```").next().unwrap()).unwrap();
    }
}

#[test]
fn texts_of_refusals() {
    let cases = [
        "base: scratch\n\nentrypont: [python]\n",
        "code:\n  path: src\n  to: /x\n",
        "code: {dest: /x}\n",
        "prefix: /opt/a b\n",
        "layers: {max: 200}\n",
        "entrypoint: python train.py && ls\n",
        "env:\n  A: 1\n  B-C: 2\n",
        "env: {A: }\n",
        "tags: [Train]\n",
        "tags: train\n",
        "miniconda: {packages: ['python>>3']}\n",
        "miniconda: maybe\n",
        "probe: {shm_size: big}\n",
        "base: 'oci:'\n",
        "- a\n",
    ];
    let texts: Vec<String> = cases
        .iter()
        .map(|text| read(text).unwrap_err().to_string())
        .collect();
    insta::assert_snapshot!(texts.join("\n\n"));
}

#[test]
fn an_empty_file_sets_nothing() {
    let config = read("# nothing yet\n").unwrap();
    assert!(config.base.is_none() && config.tags.is_empty() && config.miniconda.is_none());
}

proptest! {
    #[test]
    fn never_panics(text in any::<String>(), at in 0..KEYS.len()) {
        let _ = read(&text);
        let _ = read(&format!("{}: {text}", KEYS[at]));
    }
}
