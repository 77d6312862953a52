//! Environment variables in URLs.

/// Puts in the values of `$NAME` and `${NAME}`, as conda does in channels (`os.path.expandvars`).
/// Any other `$` stays.
///
/// # Errors
/// The name of a variable that has no value: conda would ask a URL that holds its name.
pub fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        match name(after) {
            Some((name, behind)) => {
                out.push_str(&variable(name).ok_or_else(|| name.to_owned())?);
                rest = behind;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether [`expand`] would put something in.
pub fn has_variables(text: &str) -> bool {
    let mut parts = text.split('$');
    parts.next();
    parts.any(|after| name(after).is_some())
}

/// The variable's name after a `$`, and what is behind it.
fn name(after: &str) -> Option<(&str, &str)> {
    let (name, behind) = match after.strip_prefix('{') {
        Some(braced) => braced.split_once('}')?,
        None => {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
            after.split_at_checked(end)?
        }
    };
    let first = name.chars().next()?;
    let is_name = (first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then_some((name, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_and_nothing_else() {
        let variable = |name: &str| match name {
            "USER" => Some("me".to_owned()),
            "EMPTY" => Some(String::new()),
            "MONEY" => Some("$USER".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("https://${USER}:$USER@host/c", Ok("https://me:me@host/c")),
            ("$USER/$", Ok("me/$")),
            ("a$1b${}c${x", Ok("a$1b${}c${x")),
            ("${EMPTY}é", Ok("é")),
            ("$MONEY", Ok("$USER")),
            ("https://$NOT_SET@host", Err("NOT_SET")),
            ("${no}", Err("no")),
        ] {
            let done = expand(text, variable);
            let done = done.as_deref().map_err(String::as_str);
            assert_eq!(done, expected, "{text}");
        }
        assert!(has_variables("https://$A@host") && !has_variables("https://a$1$/${}"));
    }
}
