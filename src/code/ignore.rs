//! `.dockerignore`, with the meaning that Docker gives it (docs.docker.com, "Build context:
//! .dockerignore files"; moby/patternmatcher is the reference): patterns in order, the last
//! match wins, `!` takes back in, a match of a folder covers what is in it.
//!
//! Held against the context that the Docker 28 client sends for 1,800 random pattern sets, this
//! differs in one thing: the client's classic builder does not look into an ignored folder for
//! an exception with wildcards (`!**/keep`). BuildKit, Docker's default since 23, does, as here.
//!
//! It is not `.gitignore`: patterns are anchored at the root, and `*.txt` matches there only.

/// A parsed `.dockerignore`.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

/// The verdict on one path, and what its children need to know of it.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// Whether the path is left out.
    pub ignored: bool,
    /// Which patterns matched it or a folder above it; empty at the root.
    matched: Vec<bool>,
}

#[derive(Clone, Debug)]
struct Pattern {
    exception: bool,
    text: String,
    glob: Glob,
}

/// How a pattern is compared. Leading and trailing `**` are Docker's special cases: `**x` is
/// "ends with x", folder borders or not, where `**x*` is not.
#[derive(Clone, Debug)]
enum Glob {
    Exact,
    Prefix(String),
    Suffix(String),
    Tokens(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// One character, itself.
    Char(Char),
    /// `?`: one character but `/`.
    One,
    /// `*`: any characters but `/`.
    Star,
    /// `**/`: nothing, or anything that ends with `/`.
    Folders,
    /// `**` at the end: anything.
    Rest,
    /// `[a-z]` or `[^a-z]`.
    Class(bool, Vec<(char, char)>),
}

/// A character of a name, or a byte that is part of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Char {
    Of(char),
    Byte(u8),
}

impl Patterns {
    /// Parses the text of a `.dockerignore`.
    ///
    /// # Errors
    /// The line, from 1, and the reason, for a pattern that Docker refuses too.
    pub fn parse(text: &[u8]) -> Result<Self, (usize, String)> {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut patterns = Vec::new();
        for (index, line) in text.lines().enumerate() {
            patterns.extend(Pattern::parse(line).map_err(|why| (index + 1, why))?);
        }
        Ok(Self { patterns })
    }

    /// The verdict on a path relative to the root, given its folder's verdict (the default
    /// [`Match`] for the root's children).
    pub fn check(&self, path: &[u8], folder: &Match) -> Match {
        let name = chars(path);
        let mut result = Match {
            ignored: false,
            matched: vec![false; self.patterns.len()],
        };
        for (index, pattern) in self.patterns.iter().enumerate() {
            let above = folder.matched.get(index).copied().unwrap_or(false);
            // Only a pattern that would change the verdict is looked at, as in Docker.
            let matches =
                above || (pattern.exception == result.ignored && pattern.matches(path, &name));
            result.matched[index] = matches;
            if matches {
                result.ignored = !pattern.exception;
            }
        }
        result
    }

    /// Whether something inside an ignored folder may be taken back in, so that it must be walked.
    pub fn may_take_back_inside(&self, folder: &[u8]) -> bool {
        self.patterns.iter().filter(|p| p.exception).any(|p| {
            let fixed = p.text.find(['*', '?', '[', '\\']).unwrap_or(p.text.len());
            let fixed = &p.text.as_bytes()[..fixed];
            let shared = fixed.iter().zip(folder).take_while(|(a, b)| a == b).count();
            shared == fixed.len() || shared == folder.len()
        })
    }
}

impl Pattern {
    fn parse(line: &str) -> Result<Option<Self>, String> {
        if line.starts_with('#') {
            return Ok(None);
        }
        let line = line.trim();
        let (exception, text) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        if text.is_empty() {
            return match exception {
                true => Err("'!' stands alone".into()),
                false => Ok(None),
            };
        }
        let text = clean(text);
        if exception && text == "/" {
            return Err("'!' takes the whole folder back in".into());
        }
        let glob = compile(&text)?;
        Ok(Some(Self {
            exception,
            text,
            glob,
        }))
    }

    fn matches(&self, path: &[u8], name: &[Char]) -> bool {
        match &self.glob {
            Glob::Exact => path == self.text.as_bytes(),
            Glob::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
            Glob::Suffix(suffix) => {
                let whole = suffix.strip_prefix('/').map(str::as_bytes);
                path.ends_with(suffix.as_bytes()) || whole == Some(path)
            }
            Glob::Tokens(tokens) => run(tokens, name),
        }
    }
}

/// Go's `filepath.Clean`, then without the leading slash: the pattern counts from the root.
fn clean(text: &str) -> String {
    let rooted = text.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (parts.is_empty(), rooted) {
        (true, true) => "/".into(),
        (true, false) => ".".into(),
        _ => parts.join("/"),
    }
}

fn compile(text: &str) -> Result<Glob, String> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                match rest.peek() {
                    None => Token::Rest,
                    Some(_) => Token::Folders,
                }
            }
            '*' => Token::Star,
            '?' => Token::One,
            '[' => class(&mut rest)?,
            '\\' => Token::Char(Char::Of(rest.next().ok_or("it ends with a backslash")?)),
            c => Token::Char(Char::Of(c)),
        });
    }
    Ok(special(text, &tokens).unwrap_or(Glob::Tokens(tokens)))
}

fn special(text: &str, tokens: &[Token]) -> Option<Glob> {
    let plain = |tokens: &[Token]| tokens.iter().all(|t| matches!(t, Token::Char(_)));
    if text.contains('\\') {
        return None;
    }
    match tokens {
        [Token::Rest] => Some(Glob::Suffix(String::new())),
        [Token::Folders, rest @ ..] if plain(rest) => Some(Glob::Suffix(text[2..].into())),
        [start @ .., Token::Rest] if plain(start) => {
            Some(Glob::Prefix(text.trim_end_matches("**").into()))
        }
        all if plain(all) => Some(Glob::Exact),
        _ => None,
    }
}

/// A class as Go's `filepath.Match` has it: ends of ranges may be escaped, `-` and `]` must be.
fn class(rest: &mut std::iter::Peekable<std::str::Chars>) -> Result<Token, String> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
            return Ok(Token::Class(negated, ranges));
        }
        let low = class_char(rest)?;
        let high = match rest.next_if_eq(&'-') {
            Some(_) => class_char(rest)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn class_char(rest: &mut std::iter::Peekable<std::str::Chars>) -> Result<char, String> {
    let c = match rest.next() {
        None | Some('-' | ']') => None,
        Some('\\') => rest.next(),
        other => other,
    };
    c.filter(|_| rest.peek().is_some())
        .ok_or_else(|| "a '[' class is malformed; escape '-' and ']' in it, and close it".into())
}

fn chars(path: &[u8]) -> Vec<Char> {
    path.utf8_chunks()
        .flat_map(|chunk| {
            let valid = chunk.valid().chars().map(Char::Of);
            valid.chain(chunk.invalid().iter().map(|b| Char::Byte(*b)))
        })
        .collect()
}

/// Matches by the set of positions reached so far: linear in name times pattern, whatever the
/// pattern.
fn run(tokens: &[Token], name: &[Char]) -> bool {
    let slash = |at: usize| name[at] == Char::Of('/');
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for token in tokens {
        let mut next = vec![false; name.len() + 1];
        let mut open = false;
        for at in 0..=name.len() {
            match token {
                Token::Star => {
                    open = reached[at] || (open && !slash(at - 1));
                    next[at] = open;
                }
                Token::Rest => {
                    open |= reached[at];
                    next[at] = open;
                }
                Token::Folders => {
                    next[at] = reached[at] || (open && slash(at - 1));
                    open |= reached[at];
                }
                single if at < name.len() => next[at + 1] = reached[at] && single.takes(name[at]),
                _ => {}
            }
        }
        reached = next;
    }
    reached[name.len()]
}

impl Token {
    fn takes(&self, c: Char) -> bool {
        match self {
            Token::Char(own) => *own == c,
            Token::One => c != Char::Of('/'),
            Token::Class(negated, ranges) => {
                // Go reads a byte that is part of no character as U+FFFD.
                let c = match c {
                    Char::Of(c) => c,
                    Char::Byte(_) => char::REPLACEMENT_CHARACTER,
                };
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
            Token::Star | Token::Folders | Token::Rest => false,
        }
    }
}

#[cfg(test)]
#[path = "ignore_tests.rs"]
mod tests;
