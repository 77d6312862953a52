//! `entry_points.txt`: the commands that a wheel asks for ("Entry points specification").

use std::{collections::BTreeMap, str::FromStr};

use configparser::ini::{Ini, IniDefault};
use rattler_conda_types::package::EntryPoint;

use super::WheelError;

/// Commands come from these groups; on Unix a `gui_scripts` one is a command like any other.
const GROUPS: [&str; 2] = ["console_scripts", "gui_scripts"];

/// Parses the commands out of an `entry_points.txt`, by name.
pub(super) fn parse(text: &str) -> Result<Vec<EntryPoint>, WheelError> {
    let mut rules = IniDefault::default();
    rules.case_sensitive = true;
    rules.delimiters = vec!['='];
    rules.enable_inline_comments = false;
    let mut ini = Ini::new_from_defaults(rules);
    let groups = ini
        .read(text.to_owned())
        .map_err(|e| WheelError(format!("its entry_points.txt cannot be read: {e}")))?;
    let mut commands = BTreeMap::new();
    for (name, value) in GROUPS
        .iter()
        .filter_map(|group| groups.get(*group))
        .flatten()
    {
        let value = value.as_deref().unwrap_or_default();
        let entry_point = command(name, value).ok_or_else(|| {
            WheelError(format!(
                "the command '{name} = {value}' is not NAME = MODULE:FUNCTION"
            ))
        })?;
        commands.insert(name.clone(), entry_point);
    }
    Ok(commands.into_values().collect())
}

/// A command whose name is a plain file name, and whose function can be named in Python.
fn command(name: &str, value: &str) -> Option<EntryPoint> {
    let recommended = |c: char| c.is_alphanumeric() || "_.-+".contains(c);
    if !name.chars().all(recommended) {
        return None;
    }
    // Extras only tell which dependencies the command needs.
    let function = match value.split_once('[') {
        Some((function, extras)) if extras.trim_end().ends_with(']') => function,
        Some(_) => return None,
        None => value,
    };
    EntryPoint::from_str(&format!("{name}={function}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Vec<String>> {
        let commands = parse(text).ok()?;
        Some(commands.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn commands_come_from_two_groups() {
        let text = "; a comment\n[other]\nx = 1\nnot : a = pair\n[console_scripts]\nb=b.c:d.e\nA-1.x = a:main [ui,\
                    fast]\n# more\n[gui_scripts]\ng = g : main\n";
        let commands = ["A-1.x = a:main", "b = b.c:d.e", "g = g:main"];
        assert_eq!(parsed(text).unwrap(), commands);
        assert_eq!(parsed("").unwrap(), [""; 0]);
    }

    #[test]
    fn commands_that_are_no_commands_are_refused() {
        for bad in [
            "../x = a:b",
            "x/y = a:b",
            ".. = a:b",
            ".x = a:b",
            "x\\y = a:b",
            "x y = a:b",
            "x = a",
            "x = a:",
            "x = :b",
            "x",
            "x =",
            "x = a:b [",
            "x = a:b\"]",
            "x = a b:c",
            "x = a:b();import os",
            "x = a-b:c",
            "x\u{0} = a:b",
        ] {
            assert_eq!(
                parsed(&format!("[console_scripts]\n{bad}\n")),
                None,
                "{bad}"
            );
        }
        assert_eq!(parsed("[console_scripts\nx = a:b\n"), None);
    }
}
