//! The image config: the base's, kept, with what the build adds (OCI image-spec, config.md).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{NOTES_KEY, manifest::Annotations};
use crate::{
    base::BaseImage,
    error::{Error, Exit, Result},
    machine::Machine,
    store::BuiltLayer,
};

/// A layer on top of the base, with what a person reads about it.
#[derive(Clone, Debug)]
pub struct TopLayer {
    /// The blob.
    pub built: BuiltLayer,
    /// The words in `docker history`.
    pub title: String,
    /// Annotations of the layer's descriptor.
    pub annotations: Annotations,
}

/// What the image runs with.
#[derive(Clone, Debug, Default)]
pub struct ImageSettings {
    /// Environment variables; they replace the base's of the same name.
    pub env: BTreeMap<String, String>,
    /// Folders put before the base's `PATH`, first one first.
    pub path: Vec<String>,
    /// `WORKDIR`.
    pub workdir: Option<String>,
    /// `USER`.
    pub user: Option<String>,
    /// `ENTRYPOINT`; resets the base's `CMD`, as a Dockerfile does.
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`.
    pub cmd: Option<Vec<String>>,
    /// A program that runs whatever else is to run, for activation scripts.
    pub wrapper: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the manifest.
    pub annotations: Annotations,
    /// The base image's name, if it means the same on every machine.
    pub base_name: Option<String>,
    /// The creation time in seconds since the epoch.
    pub created: u64,
    /// What it runs on.
    pub machine: Machine,
    /// What a later build needs to know of this one ([`NOTES_KEY`]).
    pub notes: Value,
}

/// The label that names the wrapper which runs activation scripts.
pub const ENTRYPOINT_LABEL: &str = "dev.imgbuild.entrypoint";
/// The label that names the environment's prefix.
pub const PREFIX_LABEL: &str = "dev.imgbuild.prefix";

/// What a shell without any `PATH` would search, for a base that sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The config of the new image, as bytes.
///
/// # Errors
/// When the base's config is not a JSON object, or is for another architecture.
pub fn assemble_config(
    base: &BaseImage,
    top: &[TopLayer],
    settings: &ImageSettings,
) -> Result<Vec<u8>> {
    let mut config = match &base.config {
        Value::Null => Map::new(),
        Value::Object(map) => map.clone(),
        _ => return Err(unusable(base, "its config is not a JSON object")),
    };
    let architecture = settings.machine.architecture();
    check_architecture(base, &config, architecture)?;
    let created = timestamp(settings.created);
    config.insert("created".into(), json!(created));
    config.insert("architecture".into(), json!(architecture));
    config.insert("os".into(), json!("linux"));
    let run = object(&mut config, "config");
    set_run_config(run, &base.variables(), settings);
    // Docker's record of the container that a layer was committed from; it would be untrue.
    for stale in [
        "container",
        "container_config",
        "docker_version",
        "id",
        "parent",
    ] {
        config.shift_remove(stale);
    }
    set_history(&mut config, base, top, &created);
    let diff_ids = base
        .layers
        .iter()
        .map(|layer| layer.diff_id)
        .chain(top.iter().map(|layer| layer.built.diff_id));
    let diff_ids: Vec<String> = diff_ids.map(|id| id.to_string()).collect();
    config.insert(
        "rootfs".into(),
        json!({"type": "layers", "diff_ids": diff_ids}),
    );
    // Those of a base that imgbuild made are about another build.
    config.shift_remove(NOTES_KEY);
    if !settings.notes.is_null() {
        config.insert(NOTES_KEY.into(), settings.notes.clone());
    }
    serde_json::to_vec(&config)
        .map_err(|e| Error::new(Exit::Internal, "cannot write the image config").why(e))
}

fn check_architecture(base: &BaseImage, config: &Map<String, Value>, wanted: &str) -> Result<()> {
    match config.get("architecture").and_then(Value::as_str) {
        Some(found) if found != wanted && !found.is_empty() => Err(unusable(
            base,
            &format!("it is for {found}, the packages are for {wanted}"),
        )),
        _ => Ok(()),
    }
}

fn unusable(base: &BaseImage, why: &str) -> Error {
    Error::input("the base image cannot be used")
        .at(base.name.as_deref().unwrap_or("scratch"))
        .why(why)
        .hint("choose another base with --base")
}

fn object<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(key).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("made an object just above")
}

fn set_run_config(run: &mut Map<String, Value>, env: &[&str], settings: &ImageSettings) {
    run.insert("Env".into(), json!(merged_env(env, settings)));
    if let Some(workdir) = &settings.workdir {
        run.insert("WorkingDir".into(), json!(workdir));
    }
    if let Some(user) = &settings.user {
        run.insert("User".into(), json!(user));
    }
    if let Some(entrypoint) = &settings.entrypoint {
        run.insert("Entrypoint".into(), json!(entrypoint));
        run.insert("Cmd".into(), Value::Null);
    }
    if let Some(cmd) = &settings.cmd {
        run.insert("Cmd".into(), json!(cmd));
    }
    if let Some(wrapper) = &settings.wrapper {
        let mut wrapped = vec![json!(wrapper)];
        if let Some(inner) = run.get("Entrypoint").and_then(Value::as_array) {
            wrapped.extend(inner.iter().cloned());
        }
        run.insert("Entrypoint".into(), Value::Array(wrapped));
    }
    let labels = object(run, "Labels");
    for (key, value) in &settings.labels {
        labels.insert(key.clone(), json!(value));
    }
    labels.sort_keys();
}

/// The base's variables in their order, replaced where the build sets them, then the new ones.
fn merged_env(base: &[&str], settings: &ImageSettings) -> Vec<String> {
    let mut wanted = settings.env.clone();
    let base_path = base
        .iter()
        .find_map(|pair| pair.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut path = settings.path.clone();
    path.push(base_path.to_owned());
    wanted
        .entry("PATH".into())
        .or_insert_with(|| path.join(":"));
    let mut env = Vec::new();
    for &pair in base {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        match wanted.remove(name) {
            Some(value) => env.push(format!("{name}={value}")),
            None => env.push(pair.to_owned()),
        }
    }
    env.extend(wanted.iter().map(|(name, value)| format!("{name}={value}")));
    env
}

fn set_history(config: &mut Map<String, Value>, base: &BaseImage, top: &[TopLayer], created: &str) {
    let mut history = match config.shift_remove("history") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    // One entry a layer is what `docker history` and converters rely on; bases without a
    // complete history get a plain one.
    let told = history
        .iter()
        .filter(|entry| entry.get("empty_layer").and_then(Value::as_bool) != Some(true))
        .count();
    if told != base.layers.len() {
        history = base
            .layers
            .iter()
            .map(|_| json!({"created": created, "created_by": "base image"}))
            .collect();
    }
    history.extend(top.iter().map(
        |layer| json!({"created": created, "created_by": layer.title, "comment": "imgbuild"}),
    ));
    config.insert("history".into(), Value::Array(history));
}

/// RFC 3339 in UTC, as the config wants it, from seconds since the epoch; what lies beyond the
/// year 9999 is the last moment of it.
pub fn timestamp(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(base: &Value, settings: ImageSettings) -> Value {
        let base = BaseImage {
            config: base.clone(),
            ..BaseImage::default()
        };
        let settings = ImageSettings {
            machine: Machine::Amd64,
            ..settings
        };
        serde_json::from_slice(&assemble_config(&base, &[], &settings).unwrap()).unwrap()
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(timestamp(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(timestamp(4_102_444_800), "2100-01-01T00:00:00Z");
    }

    #[test]
    fn the_base_is_kept_and_path_is_put_first() {
        let base = json!({
            "architecture": "amd64",
            "config": {
                "Env": ["PATH=/usr/bin", "LANG=C", "A=1"],
                "Cmd": ["bash"], "Healthcheck": {"Test": ["NONE"]}, "Labels": {"z": "1"},
            },
            "author": "someone", "container": "abc",
        });
        let settings = ImageSettings {
            env: [("A".to_owned(), "2".to_owned()), ("B".into(), "3".into())].into(),
            path: vec!["/opt/conda/bin".into()],
            labels: [("a".to_owned(), "b".to_owned())].into(),
            wrapper: Some("/wrap".into()),
            ..ImageSettings::default()
        };
        let made = config(&base, settings);
        assert_eq!(made["author"], "someone");
        assert!(made.get("container").is_none());
        let run = &made["config"];
        assert_eq!(
            run["Env"],
            json!(["PATH=/opt/conda/bin:/usr/bin", "LANG=C", "A=2", "B=3"])
        );
        assert_eq!(run["Cmd"], json!(["bash"]));
        assert_eq!(run["Entrypoint"], json!(["/wrap"]));
        assert_eq!(run["Healthcheck"], json!({"Test": ["NONE"]}));
        assert_eq!(run["Labels"], json!({"a": "b", "z": "1"}));
    }

    #[test]
    fn an_entrypoint_resets_cmd_and_is_wrapped() {
        let base = json!({"config": {"Cmd": ["bash"], "Entrypoint": ["/old"]}});
        let settings = ImageSettings {
            entrypoint: Some(vec!["python".into()]),
            wrapper: Some("/wrap".into()),
            ..ImageSettings::default()
        };
        let made = config(&base, settings);
        assert_eq!(made["config"]["Entrypoint"], json!(["/wrap", "python"]));
        assert_eq!(made["config"]["Cmd"], Value::Null);
    }

    #[test]
    fn another_architecture_is_refused() {
        let base = BaseImage {
            config: json!({"architecture": "arm64"}),
            ..BaseImage::default()
        };
        let settings = ImageSettings {
            machine: Machine::Amd64,
            ..ImageSettings::default()
        };
        let error = assemble_config(&base, &[], &settings).unwrap_err();
        assert!(error.to_string().contains("arm64"), "{error}");
    }
}
