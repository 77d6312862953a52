//! Ready image definitions, embedded from `images/`.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    spec::source::{nearest, quoted},
};

/// One ready image definition.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Its name, as `imgbuild init NAME` takes it.
    pub name: &'static str,
    /// What it is, in one line.
    pub description: &'static str,
    /// Its files: path relative to the project's folder, and text.
    pub files: &'static [(&'static str, &'static str)],
}

macro_rules! definition {
    ($name:literal, $description:literal, $($file:literal),+) => {
        Definition {
            name: $name,
            description: $description,
            files: &[$(($file, include_str!(concat!("../../images/", $name, "/", $file)))),+],
        }
    };
}

static DEFINITIONS: &[Definition] = &[
    definition!(
        "miniconda3-py39",
        "Miniconda with Python 3.9: python, conda and pip at /opt/conda",
        "env.yml",
        "imgbuild.yaml"
    ),
    definition!(
        "pytorch-1.12-cu113",
        "PyTorch 1.12.1, CUDA 11.3, Python 3.9 (pytorch channel; up to A100, sm_86)",
        "env.yml",
        "imgbuild.yaml"
    ),
    definition!(
        "pytorch-2.0-cu118",
        "PyTorch 2.0.1, CUDA 11.8, Python 3.9 (pytorch and nvidia channels; up to H100)",
        "env.yml",
        "imgbuild.yaml"
    ),
    definition!(
        "pytorch-cuda-conda-forge",
        "The current PyTorch, CUDA 12.9, Python 3.12 (conda-forge alone)",
        "env.yml",
        "imgbuild.yaml"
    ),
    definition!(
        "pytorch-cpu",
        "The current PyTorch without CUDA, Python 3.12 (conda-forge alone)",
        "env.yml",
        "imgbuild.yaml"
    ),
    definition!(
        "multi-gpu-train",
        "A training job on all GPUs: PyTorch, CUDA 12.9, torchrun and a DDP script to start from",
        "env.yml",
        "imgbuild.yaml",
        "src/train.py"
    ),
];

/// Every definition, in the order to show them in.
pub fn list() -> &'static [Definition] {
    DEFINITIONS
}

/// The definition of a name.
///
/// # Errors
/// When there is none, with the nearest name.
pub fn find(name: &str) -> Result<&'static Definition> {
    if let Some(definition) = DEFINITIONS.iter().find(|d| d.name == name) {
        return Ok(definition);
    }
    let names = || DEFINITIONS.iter().map(|d| d.name);
    let error = Error::input(format!("there is no image definition {}", quoted(name))).why(
        format!("there are: {}", names().collect::<Vec<_>>().join(", ")),
    );
    Err(match nearest(name, names()) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error,
    })
}

/// Writes a definition's files into a folder, which is made when missing; returns their paths.
///
/// # Errors
/// When the name is unknown, a file exists already (unless `force` is set; nothing is written
/// then), or a file cannot be written.
pub fn write(name: &str, dir: &Path, force: bool) -> Result<Vec<PathBuf>> {
    let definition = find(name)?;
    let paths = definition.files.iter().map(|(file, _)| dir.join(file));
    let paths: Vec<PathBuf> = paths.collect();
    if !force && let Some(path) = paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(exists(path));
    }
    for (path, (_, text)) in paths.iter().zip(definition.files) {
        write_file(path, text, force)?;
    }
    Ok(paths)
}

fn exists(path: &Path) -> Error {
    Error::input(format!("{} exists already", path.display()))
        .hint("choose another folder, or overwrite it with --force")
}

fn write_file(path: &Path, text: &str, force: bool) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(|e| Error::io("make", dir, e))?;
    let mut options = File::options();
    match force {
        true => options.write(true).create(true).truncate(true),
        false => options.write(true).create_new(true),
    };
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => Error::io("write", path, error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ImageSpec, Overrides};

    #[test]
    fn every_definition_resolves_as_written_out() {
        for definition in list() {
            let dir = tempfile::tempdir().unwrap();
            let paths = write(definition.name, dir.path(), false).unwrap();
            assert!(paths.iter().all(|p| p.is_file()));
            let spec = ImageSpec::resolve(&dir.path().join("env.yml"), Overrides::default())
                .unwrap()
                .remove(0);
            assert_eq!(spec.env.name.as_deref(), Some(definition.name));
            assert!(spec.warnings.is_empty(), "{:?}", spec.warnings);
            assert!(!spec.tags.is_empty());
            assert!(definition.description.len() < 100);
        }
    }

    #[test]
    fn the_folder_holds_nothing_else() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("images");
        let mut names: Vec<_> = fs::read_dir(images)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        let mut known: Vec<_> = list().iter().map(|d| d.name).collect();
        known.sort_unstable();
        assert_eq!(names, known);
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("imgbuild.yaml"), "mine").unwrap();
        let error = write("pytorch-cpu", dir.path(), false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("exists already"), "{error}");
        assert!(!dir.path().join("env.yml").exists());
        write("pytorch-cpu", dir.path(), true).unwrap();
        assert_ne!(
            fs::read_to_string(dir.path().join("imgbuild.yaml")).unwrap(),
            "mine"
        );
        let error = find("pytorch-cpuu").unwrap_err().to_string();
        assert!(error.contains("did you mean 'pytorch-cpu'?"), "{error}");
    }
}
