//! A command line as one string, split into words without a shell.

/// Splits a command as a POSIX shell splits words: blanks, `'...'`, `"..."` and `\`.
///
/// # Errors
/// The reason, when a quote is left open, there is no word, or the text needs a shell
/// (`$X`, `a && b`, `> file`, `*`), which images need not have.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' | '"' => quoted(c, &mut chars, word.get_or_insert_default())?,
            '\\' => word
                .get_or_insert_default()
                .push(chars.next().ok_or("it ends with a backslash")?),
            '$' | '`' | '|' | '&' | ';' | '<' | '>' | '(' | ')' | '*' | '?' => {
                return Err(needs_shell(c));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if words.is_empty() {
        return Err("it is empty".into());
    }
    Ok(words)
}

fn quoted(quote: char, chars: &mut std::str::Chars, word: &mut String) -> Result<(), String> {
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => return Ok(()),
            '$' | '`' if quote == '"' => return Err(needs_shell(c)),
            '\\' if quote == '"' => match chars.next() {
                Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                Some(c) => word.extend(['\\', c]),
                None => break,
            },
            c => word.push(c),
        }
    }
    Err(format!("a {quote} is left open"))
}

fn needs_shell(c: char) -> String {
    format!("'{c}' needs a shell; write the list [\"/bin/sh\", \"-c\", \"...\"]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_a_shell_does() {
        let cases: &[(&str, &[&str])] = &[
            ("python train.py", &["python", "train.py"]),
            (
                "  a\t'b c' \"d\\\"e\" f\\ g ''",
                &["a", "b c", "d\"e", "f g", ""],
            ),
            ("a'b'\"c\"", &["abc"]),
            ("echo '$HOME'", &["echo", "$HOME"]),
            (r#"a "b\n""#, &["a", "b\\n"]),
        ];
        for (text, words) in cases {
            assert_eq!(split(text).unwrap(), *words, "{text}");
        }
        for bad in [
            "", "  ", "'a", "\"a", "a\\", "a && b", "echo $X", "\"$X\"", "a > b", "ls *",
        ] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
