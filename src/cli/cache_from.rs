//! `--cache-from`: which references a build takes layers from.

use std::str::FromStr;

use super::args::BuildArgs;
use crate::{
    cache_from::Wanted,
    error::{Error, Result},
    registry::remote::parse_reference,
    spec::ImageSpec,
};

/// A value of `--cache-from`: a reference, or nothing for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CacheSource(Option<String>);

impl FromStr for CacheSource {
    type Err = Error;

    /// Takes buildx's forms: `REF`, and `type=registry,ref=REF`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::input(format!("'{text}' is no cache source"))
                .why(why)
                .hint("give a reference, type=registry,ref=REF, or '' for none")
        };
        let reference = match text.contains('=') {
            false => text,
            true => {
                let mut fields = text.split(',').map(|part| part.split_once('='));
                let mut reference = None;
                for field in fields.by_ref() {
                    match field {
                        Some(("type", "registry")) => {}
                        Some(("type", _)) => return Err(bad("layers come from registries only")),
                        Some(("ref", value)) if !value.is_empty() => reference = Some(value),
                        _ => return Err(bad("only type= and ref= are understood")),
                    }
                }
                reference.ok_or_else(|| bad("ref= is missing"))?
            }
        };
        if reference.is_empty() {
            return Ok(Self(None));
        }
        parse_reference(reference).map(|_| Self(Some(reference.to_owned())))
    }
}

/// The references that were named; else, for an image that is to be pushed, its own names. A value
/// that is empty leaves these out.
pub(super) fn wanted(args: &BuildArgs, spec: &ImageSpec) -> Vec<Wanted> {
    let sources = args.cache_from.iter();
    let named = sources.filter_map(|CacheSource(source)| source.clone());
    let implied = match args.cache_from.is_empty() && args.push && !args.locking.offline {
        true => spec.tags.as_slice(),
        false => &[],
    };
    let wanted = |implied| move |reference| Wanted { reference, implied };
    let named = named.map(wanted(false));
    named
        .chain(implied.iter().cloned().map(wanted(true)))
        .collect()
}

/// Whether a build's image goes to registries and nowhere else, so that what they have need not be
/// here.
pub(super) fn only_pushes(args: &BuildArgs) -> bool {
    args.push && !args.load && !args.probe && args.outputs.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_buildxs() {
        let read = |text: &str| text.parse::<CacheSource>().map(|source| source.0);
        let named = Some("h:1/a:x".to_owned());
        assert_eq!(read("h:1/a:x").unwrap(), named);
        assert_eq!(read("type=registry,ref=h:1/a:x").unwrap(), named);
        assert_eq!(read("").unwrap(), None);
        for bad in [
            "type=gha",
            "type=local,src=x",
            "type=registry",
            "ref=",
            "A",
            "a=b",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
