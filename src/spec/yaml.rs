//! YAML with the place of every value, on top of serde_yaml.
//!
//! serde_yaml gives values without places, but it stamps the place of a scalar on every error
//! that a visitor raises there. So the visitor keeps each scalar aside and answers with an
//! error; its caller takes the scalar and the place out of it. The tests below hold this
//! against flow style, quotes, anchors and non-ASCII text.

use std::{cell::RefCell, collections::HashSet, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::{
    error::{Error, Result},
    spec::source::{Place, Source, nearest, quoted},
};

/// How large a document may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes.
    pub bytes: usize,
    /// The most values; what aliases multiply counts every time.
    pub nodes: usize,
}

impl Limits {
    /// For what people write by hand: a thousand times a usual file.
    pub const BY_HAND: Self = Self {
        bytes: 1 << 20,
        nodes: 200_000,
    };
}

/// The deepest flow nesting handed to the scanner, whose work is quadratic in it.
const MAX_FLOW: usize = 100;

/// A YAML value and where it starts; for lists and maps, where their first scalar is.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub place: Place,
    /// The value.
    pub value: Value,
}

/// A YAML value; numbers and booleans keep their spelling (`3.10` is not `3.1`).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`, with the spelling.
    Bool(bool, String),
    /// A number as it is spelt.
    Number(String),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in file order, keys unique; a key's value is a `Text`.
    Map(Vec<(Node, Node)>),
}

/// Parses one document that a person wrote.
///
/// # Errors
/// As [`parse_within`], beyond [`Limits::BY_HAND`].
pub fn parse(source: Source) -> Result<Node> {
    parse_within(source, Limits::BY_HAND)
}

/// Parses one document.
///
/// # Errors
/// Anything but one well-formed document within the limits without NUL bytes, duplicate keys,
/// tags, or aliases that multiply beyond reason.
pub fn parse_within(source: Source, limits: Limits) -> Result<Node> {
    refuse_unreasonable(source, limits)?;
    let state = State::new(source, limits.nodes);
    match state
        .seed()
        .deserialize(serde_yaml::Deserializer::from_str(source.text))
    {
        Ok(node) => Ok(node),
        Err(error) => match state.take_scalar(&error) {
            Some(node) => Ok(node),
            None => Err(malformed(source, &error)),
        },
    }
}

fn refuse_unreasonable(source: Source, limits: Limits) -> Result<()> {
    let what = || format!("cannot read {}", source.file);
    if source.text.len() > limits.bytes {
        return Err(Error::input(what()).why(format!(
            "{} bytes are more than the {} MiB that such a file may have",
            source.text.len(),
            limits.bytes >> 20
        )));
    }
    let mut depth = 0_usize;
    let mut place = Place { line: 1, column: 0 };
    for c in source.text.chars() {
        place.column += 1;
        match c {
            '\n' => {
                place.line += 1;
                place.column = 0;
            }
            '\0' => return Err(source.error(place, what(), "a NUL byte stands in the text")),
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_FLOW {
            let why = format!("more than {MAX_FLOW} brackets are open");
            return Err(source.error(place, what(), why));
        }
    }
    refuse_staircases(source)
}

/// Refuses `- - - ...` and `? ? ? ...`: serde_yaml keeps hundreds of bytes for each before it
/// looks at how deep they are.
fn refuse_staircases(source: Source) -> Result<()> {
    for (index, line) in source.text.lines().enumerate() {
        let mut steps = 0;
        let mut rest = line.trim_start();
        while let Some(next) = rest.strip_prefix(['-', '?'])
            && next.starts_with([' ', '\t'])
        {
            rest = next.trim_start();
            steps += 1;
        }
        if steps > MAX_FLOW {
            let place = Place {
                line: index + 1,
                column: 1,
            };
            let what = format!("cannot read {}", source.file);
            let why = format!("more than {MAX_FLOW} lists begin on one line");
            return Err(source.error(place, what, why));
        }
    }
    Ok(())
}

fn malformed(source: Source, error: &serde_yaml::Error) -> Error {
    let what = format!("malformed YAML in {}", source.file);
    let text = error.to_string();
    // Ours may carry a place of its own, before the one that serde_yaml adds.
    let text = text
        .rsplit_once(MARK)
        .map_or(text.as_str(), |(_, ours)| ours);
    let mut parts = text.split(" at line ");
    let reason = parts.next().unwrap_or(text);
    let mut places = parts.map(|at| place_of(&format!(" at line {at}")));
    let first = places.next().unwrap_or_default();
    // What is unfinished shows only behind the last line; where it began says more.
    let place = match source.is_blank(first) {
        true => places.next().unwrap_or(first),
        false => first,
    };
    let error = source.error(place, what, reason);
    match source
        .text
        .lines()
        .any(|line| line.trim_start_matches(' ').starts_with('\t'))
    {
        true => error.hint("indent with blanks: YAML takes no tabs"),
        false => error,
    }
}

/// Separates serde_yaml's path prefix from a message of ours; no text of a file has it.
const MARK: char = '\0';

struct State<'a> {
    source: Source<'a>,
    line_starts: Vec<usize>,
    scalar: RefCell<Option<Value>>,
    nodes: RefCell<usize>,
    max_nodes: usize,
}

impl<'a> State<'a> {
    fn new(source: Source<'a>, max_nodes: usize) -> Self {
        let line_ends = source.text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            source,
            line_starts: std::iter::once(0).chain(line_ends).collect(),
            scalar: RefCell::new(None),
            nodes: RefCell::new(0),
            max_nodes,
        }
    }

    fn seed(&self) -> Seed<'_> {
        Seed(self)
    }

    /// The scalar that the visitor kept aside when it raised this error.
    fn take_scalar(&self, error: &impl fmt::Display) -> Option<Node> {
        let value = self.scalar.borrow_mut().take()?;
        let place = place_of(&error.to_string());
        let value = match value {
            Value::Number(text) => Value::Number(self.spelling(place).unwrap_or(text)),
            Value::Bool(is, text) => Value::Bool(is, self.spelling(place).unwrap_or(text)),
            other => other,
        };
        Some(Node { place, value })
    }

    /// A plain scalar without spaces, as the text has it; `None` behind an anchor or an alias.
    fn spelling(&self, place: Place) -> Option<String> {
        let start = *self.line_starts.get(place.line.checked_sub(1)?)?;
        let line = self.source.text.get(start..)?.lines().next()?;
        let (at, first) = line.char_indices().nth(place.column.checked_sub(1)?)?;
        if matches!(first, '&' | '*' | '!' | '?') {
            return None;
        }
        let rest = &line[at..];
        let end = rest.find([' ', '\t', ',', ']', '}', '\r']);
        let word = &rest[..end.unwrap_or(rest.len())];
        Some(word.trim_end_matches(':').to_owned())
    }

    fn count<E: de::Error>(&self) -> Result<(), E> {
        let mut nodes = self.nodes.borrow_mut();
        *nodes += 1;
        if *nodes > self.max_nodes {
            let why = format!(
                "{MARK}more than {} values, or aliases that repeat too much",
                self.max_nodes
            );
            return Err(E::custom(why));
        }
        Ok(())
    }
}

/// The place at the end of a serde_yaml message; a message without one is at the very start.
fn place_of(message: &str) -> Place {
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit());
        text[..end.unwrap_or(text.len())].parse().ok()
    };
    let parse = || {
        let (_, at) = message.rsplit_once(" at line ")?;
        let (line, column) = at.split_once(" column ")?;
        Some(Place {
            line: number(line)?,
            column: number(column)?,
        })
    };
    parse().unwrap_or(Place { line: 1, column: 1 })
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a State<'a>);

impl Seed<'_> {
    fn keep<E: de::Error>(self, value: Value) -> Result<Node, E> {
        self.0.count()?;
        *self.0.scalar.borrow_mut() = Some(value);
        Err(E::custom(""))
    }

    fn or_scalar<E: de::Error>(self, result: Result<Option<Node>, E>) -> Result<Option<Node>, E> {
        result.or_else(|error| self.0.take_scalar(&error).map(Some).ok_or(error))
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Node, E> {
        self.keep(Value::Bool(v, v.to_string()))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Node, E> {
        self.keep(Value::Number(v.to_string()))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Node, E> {
        self.keep(Value::Number(v.to_string()))
    }

    fn visit_i128<E: de::Error>(self, v: i128) -> Result<Node, E> {
        self.keep(Value::Number(v.to_string()))
    }

    fn visit_u128<E: de::Error>(self, v: u128) -> Result<Node, E> {
        self.keep(Value::Number(v.to_string()))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Node, E> {
        self.keep(Value::Number(v.to_string()))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Node, E> {
        self.keep(Value::Text(v.to_owned()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        self.keep(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        self.keep(Value::Null)
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(de::Error::custom(format!(
            "{MARK}tags (!...) have no meaning here"
        )))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        self.0.count()?;
        let mut items: Vec<Node> = Vec::new();
        while let Some(item) = self.or_scalar(seq.next_element_seed(self))? {
            items.push(item);
        }
        let place = items.first().map_or(Place::default(), |item| item.place);
        let value = Value::List(items);
        Ok(Node { place, value })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        self.0.count()?;
        let mut items: Vec<(Node, Node)> = Vec::new();
        let mut seen = HashSet::new();
        while let Some(mut key) = self.or_scalar(map.next_key_seed(self))? {
            let text = key_text(&key)?;
            if !seen.insert(text.clone()) {
                let Place { line, column } = key.place;
                let why = format!("{MARK}key {} stands twice", quoted(&text));
                // Carries its own place: serde_yaml would stamp the whole map's.
                return Err(de::Error::custom(format!(
                    "{why} at line {line} column {column}"
                )));
            }
            key.value = Value::Text(text);
            let value = map.next_value_seed(self).map(Some);
            let mut value = self
                .or_scalar(value)?
                .ok_or_else(|| de::Error::custom("no value"))?;
            if value.place.line == 0 {
                value.place = key.place;
            }
            items.push((key, value));
        }
        let place = items.first().map_or(Place::default(), |(key, _)| key.place);
        let value = Value::Map(items);
        Ok(Node { place, value })
    }
}

fn key_text<E: de::Error>(key: &Node) -> Result<String, E> {
    key.scalar()
        .map(str::to_owned)
        .ok_or_else(|| E::custom(format!("{MARK}a key must be a word")))
}

impl Node {
    /// The text of a scalar as it is spelt; `None` for null, lists and maps.
    pub fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Number(text) | Value::Bool(_, text) => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What kind of value this is, in words.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(..) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Typed readings of nodes, with errors that point at them.
impl Source<'_> {
    fn wrong(&self, node: &Node, name: &str, wanted: &str) -> Error {
        let what = format!("{name} must be {wanted}");
        self.error(node.place, what, format!("found {}", node.kind()))
    }

    /// A scalar's text.
    ///
    /// # Errors
    /// When the node is null, a list or a map.
    pub fn text(&self, node: &Node, name: &str) -> Result<String> {
        let text = node
            .scalar()
            .ok_or_else(|| self.wrong(node, name, "text"))?;
        Ok(text.to_owned())
    }

    /// A list's items; null is an empty list.
    ///
    /// # Errors
    /// When the node is something else.
    pub fn list<'n>(&self, node: &'n Node, name: &str) -> Result<&'n [Node]> {
        match &node.value {
            Value::List(items) => Ok(items),
            Value::Null => Ok(&[]),
            _ => Err(self.wrong(node, name, "a list")),
        }
    }

    /// A map's items; null is an empty map.
    ///
    /// # Errors
    /// When the node is something else.
    pub fn map<'n>(&self, node: &'n Node, name: &str) -> Result<&'n [(Node, Node)]> {
        match &node.value {
            Value::Map(items) => Ok(items),
            Value::Null => Ok(&[]),
            _ => Err(self.wrong(node, name, "a map")),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// When the node is something else.
    pub fn boolean(&self, node: &Node, name: &str) -> Result<bool> {
        match node.value {
            Value::Bool(is, _) => Ok(is),
            _ => Err(self.wrong(node, name, "true or false")),
        }
    }

    /// A whole number from 1 to a limit.
    ///
    /// # Errors
    /// When the node is something else.
    pub fn number(&self, node: &Node, name: &str, max: u32) -> Result<u32> {
        let number = match &node.value {
            Value::Number(text) => text.parse().ok(),
            _ => None,
        };
        number.filter(|n| (1..=max).contains(n)).ok_or_else(|| {
            let found = node.scalar().map_or_else(|| node.kind().to_owned(), quoted);
            let what = format!("{name} must be a whole number from 1 to {max}");
            self.error(node.place, what, format!("found {found}"))
        })
    }

    /// Refuses a key that is not among the known ones, naming the nearest.
    ///
    /// # Errors
    /// Always; this builds the error.
    pub fn unknown_key<T>(&self, key: &Node, known: &[&str]) -> Result<T> {
        let name = key.scalar().unwrap_or_default();
        let why = format!("known keys: {}", known.join(", "));
        let error = self.error(key.place, format!("unknown key {}", quoted(name)), why);
        Err(match nearest(name, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error,
        })
    }
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;
