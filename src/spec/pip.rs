//! The `pip:` section of an environment file.

use url::Url;

/// What a `pip:` section asks for.
#[derive(Clone, Debug, Default)]
pub struct PipSection {
    /// The packages, in file order.
    pub requirements: Vec<PipRequirement>,
    /// Where they may come from.
    pub sources: PipSources,
}

/// One requirement (PEP 508).
#[derive(Clone, Debug)]
pub struct PipRequirement {
    /// The line as the user wrote it, less its comment.
    pub text: String,
    /// The line in the file, from 1.
    pub line: usize,
    /// The column in the file, from 1.
    pub column: usize,
}

/// Package indexes, as pip's options of the same names say.
#[derive(Clone, Debug, Default)]
pub struct PipSources {
    /// `--index-url`: instead of the default index.
    pub index_url: Option<Url>,
    /// `--extra-index-url`, in order.
    pub extra_index_urls: Vec<Url>,
    /// `--find-links`: URLs or absolute paths, in order.
    pub find_links: Vec<String>,
    /// `--no-index`.
    pub no_index: bool,
    /// `--pre`.
    pub prereleases: bool,
}
