//! `imgbuild probe --emit` and `--read`: a probe that a cluster's engine runs.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use oci_client::Reference;
use serde_json::Value;

use super::{
    interruptible, open_store, print,
    probe_args::{EngineChoice, ProbeArgs},
    runtime,
};
use crate::{
    base::Loader,
    error::{Error, Result},
    machine::Machine,
    probe::{self, ClusterJob, Form, ProbeReport, ProbeRequest, What},
    registry::{Settings, remote::parse_reference},
    report::Reporter,
};

pub(super) fn emit(
    engine: EngineChoice,
    args: &ProbeArgs,
    request: ProbeRequest,
    reporter: &Reporter,
) -> Result<ExitCode> {
    if engine == EngineChoice::Slurm && request.shm_size.is_some() {
        return Err(Error::input("--shm-size has no place in a Slurm job")
            .why("its ranks have the /dev/shm of their node"));
    }
    let what = match (&args.image, &args.python) {
        (Some(image), _) => {
            What::Image(pinned(image, engine, args.registries.settings(), reporter)?)
        }
        (None, Some(python)) => What::Python(python.display().to_string()),
        (None, None) => What::Python("python3".into()),
    };
    let job = ClusterJob {
        request,
        nodes: args.nodes,
        what,
    };
    let text = match engine {
        EngineChoice::Slurm => probe::slurm(&job),
        EngineChoice::Kubernetes => probe::kubernetes(&job, Form::Job)?,
        EngineChoice::Jobset => probe::kubernetes(&job, Form::JobSet)?,
        EngineChoice::Pytorchjob => probe::kubernetes(&job, Form::PyTorchJob)?,
    };
    match &args.output {
        Some(path) => fs::write(path, text).map_err(|e| Error::io("write", path, e))?,
        None => print(text.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The image by digest, so that all nodes run the same one, now and later; a registry is only asked for a tag's.
fn pinned(
    image: &str,
    engine: EngineChoice,
    registries: Settings,
    reporter: &Reporter,
) -> Result<Reference> {
    let reference = parse_reference(image)?;
    if reference.digest().is_some() {
        return Ok(reference);
    }
    let loader = Loader {
        store: open_store(reporter)?,
        reporter: reporter.clone(),
        platform: Machine::default().platform(),
        offline: false,
        registries,
    };
    let digest = runtime()?
        .block_on(interruptible(loader.resolve(image)))
        .map_err(|e| {
            e.hint("the nodes pull it from a registry: push it first, or name it by digest (NAME@sha256:...)")
        })?;
    if engine == EngineChoice::Slurm && has_zstd(&loader.store.read_blob(&digest)?) {
        reporter.warn(
            "enroot does not unpack layers of zstd beside others, and enroot 3 none at all\n  \
             hint: for a cluster with pyxis, build and push the image with --compression gzip",
        );
    }
    Ok(Reference::with_digest(
        reference.registry().to_owned(),
        reference.repository().to_owned(),
        digest.to_string(),
    ))
}

/// enroot 3 takes every layer for gzip, and enroot 4 for what the lowest is (src/docker.sh; issue 153).
fn has_zstd(manifest: &[u8]) -> bool {
    let manifest: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let mut layers = manifest["layers"].as_array().into_iter().flatten();
    layers.any(|layer| {
        let kind = layer["mediaType"].as_str().unwrap_or_default();
        kind.ends_with("zstd")
    })
}

pub(super) fn read(path: &Path) -> Result<ProbeReport> {
    probe::read(&text(path)?)
}

/// All nodes' logs, one after the other. Bytes that are no UTF-8 come from other programs.
fn text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        let failed = |e| Error::io("read", path, e);
        std::io::stdin().read_to_end(&mut bytes).map_err(failed)?;
    } else if path.is_dir() {
        for log in logs(path)? {
            bytes.extend(fs::read(&log).map_err(|e| Error::io("read", &log, e))?);
            bytes.push(b'\n');
        }
    } else {
        bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The batch script's own log, which Slurm puts beside the job's folder, and the nodes' in it.
fn logs(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("read", folder, e);
    let is_log = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "log");
    let mut nodes: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(failed)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_log)
        .collect();
    nodes.sort();
    let batch = folder.with_extension("log");
    Ok(batch
        .is_file()
        .then_some(batch)
        .into_iter()
        .chain(nodes)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layers_of_zstd_are_told_from_others() {
        let has = |kinds: &[&str]| {
            let layers: Vec<Value> = kinds
                .iter()
                .map(|kind| json!({"mediaType": kind}))
                .collect();
            has_zstd(json!({"layers": layers}).to_string().as_bytes())
        };
        let (gzip, zstd) = (
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
        );
        assert!(has(&[gzip, zstd]));
        assert!(!has(&[gzip]));
        assert!(!has(&[]));
        assert!(!has_zstd(b"x"));
    }
}
