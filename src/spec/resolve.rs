//! Merging: flags over imgbuild.yaml over env.yml over defaults.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{
    base::BaseSource,
    error::{Error, Result},
    machine::Machine,
    spec::{
        CONDA, CodeSpec, DEFAULT_BASE, EnvYaml, ImageSpec, InputKind, LOCK_LIMITS, LockChoice,
        LockInput, MAX_LAYERS, MinicondaChoice, MinicondaSpec, Overrides, ProbeSpec, Spec, check,
        config, detect, env_yaml::utf8, source::quoted,
    },
};

/// The environment's folder name below a Miniconda base when env.yml has no `name:`.
const DEFAULT_NAME: &str = "env";

pub(super) fn resolve(env_file: &Path, mut flags: Overrides) -> Result<Vec<ImageSpec>> {
    check_flags(&mut flags)?;
    let dir = parent(env_file);
    let name = env_file.display().to_string();
    let bytes = read(env_file)?;
    let text = utf8(&bytes, &name)?;
    let read = |machine| input(text, (&name, &dir), &flags.lock, machine);
    let config = match config_file(&dir, flags.config.as_deref())? {
        Some(path) => read_config(&path)?,
        None => Overrides::default(),
    };
    let set = over(config, flags.clone());
    let spec = |machine| {
        let (env, lock) = read(machine)?;
        env.check_machine(machine)?;
        merge(env, lock, set.clone(), machine)
    };
    let listed = || Ok(read(Machine::default())?.0.machines());
    machines(&set, listed)?.into_iter().map(spec).collect()
}

/// What is built for, in order and each once; `listed` says what the environment file names.
fn machines(
    set: &Overrides,
    listed: impl FnOnce() -> Result<Vec<Machine>>,
) -> Result<Vec<Machine>> {
    let mut machines = set.machines.clone();
    if let (true, Some(locked)) = (machines.is_empty(), &set.locked) {
        machines = match locked.is_empty() {
            true => listed()?,
            false => locked.clone(),
        };
    }
    if machines.is_empty() {
        machines.push(Machine::default());
    }
    machines.sort_unstable();
    machines.dedup();
    Ok(machines)
}

/// An environment file to solve, or a lock, which has all but a name.
fn input(
    text: &str,
    (file, dir): (&str, &Path),
    choice: &LockChoice,
    machine: Machine,
) -> Result<(EnvYaml, Option<LockInput>)> {
    let kind = detect(text);
    for (flag, given, wanted, what) in [
        (
            "--environment",
            choice.environment.is_some(),
            InputKind::PixiLock,
            "environments: only a pixi lock does",
        ),
        (
            "--category",
            !choice.categories.is_empty(),
            InputKind::CondaLock,
            "categories: only a conda-lock file does",
        ),
    ] {
        if given && kind != wanted {
            return Err(Error::input(format!("{flag} does not go with {file}"))
                .why(format!("the file does not have {what}"))
                .hint("leave the flag out"));
        }
    }
    if kind == InputKind::EnvYaml {
        return Ok((EnvYaml::parse(text, file, dir, machine)?, None));
    }
    let env = EnvYaml {
        file: file.to_owned(),
        name: choice.environment.clone(),
        ..EnvYaml::default()
    };
    if let Some(name) = &env.name {
        check::env_name(name).map_err(|why| flag("--environment", name, &why))?;
    }
    let lock = LockInput {
        kind,
        text: text.to_owned(),
        choice: choice.clone(),
    };
    Ok((env, Some(lock)))
}

fn parent(file: &Path) -> PathBuf {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reads a file, but no more of it than the parser takes.
fn read(path: &Path) -> Result<Vec<u8>> {
    let fail = |error: io::Error| {
        let error_is = error.kind();
        let wrong = Error::io("read", path, error).with_exit(crate::error::Exit::Input);
        match error_is {
            io::ErrorKind::NotFound => {
                wrong.hint("write one out with: imgbuild init NAME (imgbuild init --list)")
            }
            _ => wrong,
        }
    };
    // Opening a pipe or a device could wait for ever.
    if !fs::metadata(path).map_err(fail)?.is_file() {
        return Err(Error::input(format!("{} is not a file", path.display())));
    }
    let mut bytes = Vec::new();
    // One more than the largest of all inputs may have tells that there is too much.
    let limit = LOCK_LIMITS.bytes as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(fail)?;
    if bytes.len() > LOCK_LIMITS.bytes {
        return Err(
            Error::input(format!("{} is too large", path.display())).why(format!(
                "even a lock of thousands of packages has no more than {} MiB",
                LOCK_LIMITS.bytes >> 20
            )),
        );
    }
    Ok(bytes)
}

fn config_file(dir: &Path, chosen: Option<&Path>) -> Result<Option<PathBuf>> {
    if let Some(path) = chosen {
        return Ok(Some(path.to_owned()));
    }
    let near = dir.join("imgbuild.yml");
    if near.exists() {
        return Err(Error::input(format!("{} is not read", near.display()))
            .why(format!("the file must be named {}", config::FILE))
            .hint(format!("rename it to {}", config::FILE)));
    }
    let path = dir.join(config::FILE);
    Ok(path.exists().then_some(path))
}

fn read_config(path: &Path) -> Result<Overrides> {
    let name = path.display().to_string();
    let bytes = read(path)?;
    config::parse(utf8(&bytes, &name)?, &name, &parent(path))
}

fn over(file: Overrides, flags: Overrides) -> Overrides {
    Overrides {
        config: None,
        lock: flags.lock,
        machines: match flags.machines.is_empty() {
            true => file.machines,
            false => flags.machines,
        },
        locked: flags.locked,
        base: flags.base.or(file.base),
        tags: if flags.tags.is_empty() {
            file.tags
        } else {
            flags.tags
        },
        code: flags.code.or(file.code),
        user: flags.user.or(file.user),
        workdir: flags.workdir.or(file.workdir),
        env: [file.env, flags.env].concat(),
        entrypoint: flags.entrypoint.or(file.entrypoint),
        cmd: flags.cmd.or(file.cmd),
        labels: [file.labels, flags.labels].concat(),
        annotations: [file.annotations, flags.annotations].concat(),
        prefix: flags.prefix.or(file.prefix),
        cuda: flags.cuda.or(file.cuda),
        channel_priority: flags.channel_priority.or(file.channel_priority),
        miniconda: flags.miniconda.or(file.miniconda),
        layers: flags.layers.or(file.layers),
        pip_overwrites: flags.pip_overwrites.or(file.pip_overwrites),
        compile: flags.compile.or(file.compile),
        compression: flags.compression.or(file.compression),
        probe: ProbeSpec {
            gpus: flags.probe.gpus.or(file.probe.gpus),
            nproc: flags.probe.nproc.or(file.probe.nproc),
            timeout: flags.probe.timeout.or(file.probe.timeout),
            shm_size: flags.probe.shm_size.or(file.probe.shm_size),
            min_efficiency: flags.probe.min_efficiency.or(file.probe.min_efficiency),
        },
        fleet: flags.fleet.over(file.fleet),
    }
}

fn merge(
    env: EnvYaml,
    lock: Option<LockInput>,
    set: Overrides,
    machine: Machine,
) -> Result<ImageSpec> {
    let (prefix, miniconda) = prefixes(&env, set.prefix, set.miniconda)?;
    if let Some(code) = &set.code {
        check_code(code, &prefix)?;
    }
    let base = match set.base {
        Some(base) => base,
        None => BaseSource::Registry(DEFAULT_BASE.into()),
    };
    let workdir = set
        .workdir
        .or_else(|| set.code.as_ref().map(|c| c.dest.clone()));
    Ok(ImageSpec {
        machine,
        base,
        tags: tags(&set.tags)?,
        prefix,
        cuda: set.cuda,
        channel_priority: set.channel_priority,
        miniconda,
        user: set.user,
        workdir,
        variables: variables(&env.variables, set.env),
        entrypoint: set.entrypoint,
        cmd: set.cmd,
        labels: BTreeMap::from_iter(set.labels),
        annotations: BTreeMap::from_iter(set.annotations),
        layer_budget: set.layers.unwrap_or(MAX_LAYERS),
        pip_overwrites: set.pip_overwrites.unwrap_or(false),
        compile: set.compile.unwrap_or(true),
        compression: set.compression.unwrap_or_default(),
        probe: set.probe,
        fleet: set.fleet,
        code: set.code,
        warnings: env.warnings.clone(),
        env,
        lock,
    })
}

fn tags(tags: &[String]) -> Result<Vec<String>> {
    let mut known = Vec::new();
    for tag in tags {
        let tag = check::tag(tag).map_err(|why| flag("--tag", tag, &why))?;
        if !known.contains(&tag) {
            known.push(tag);
        }
    }
    Ok(known)
}

fn variables(first: &[(String, String)], then: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = first.to_vec();
    for (name, value) in then {
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some(variable) => variable.1 = value,
            None => variables.push((name, value)),
        }
    }
    variables
}

fn prefixes(
    env: &EnvYaml,
    prefix: Option<String>,
    choice: Option<MinicondaChoice>,
) -> Result<(String, Option<MinicondaSpec>)> {
    let Some(MinicondaChoice::On(packages)) = choice else {
        return Ok((prefix.unwrap_or_else(|| CONDA.into()), None));
    };
    let envs = format!("{CONDA}/envs/");
    let prefix = match prefix {
        Some(prefix) => prefix,
        None => format!("{envs}{}", folder(env)?),
    };
    let inside = prefix == CONDA || prefix.starts_with(&format!("{CONDA}/"));
    if inside && !prefix.starts_with(&envs) {
        return Err(Error::input(format!(
            "prefix {} is the Miniconda base's",
            quoted(&prefix)
        ))
        .why(format!(
            "with 'miniconda' on, {CONDA} holds a base environment of its own"
        ))
        .hint(format!(
            "leave the prefix out ({envs}<name>), or turn miniconda off"
        )));
    }
    let specs = match packages.is_empty() {
        false => packages,
        true => ["python", "conda", "pip"]
            .into_iter()
            .map(|name| {
                Spec::parse(name).map_err(|why| Error::new(crate::error::Exit::Internal, why))
            })
            .collect::<Result<_>>()?,
    };
    let prefix_of_base = CONDA.to_owned();
    Ok((
        prefix,
        Some(MinicondaSpec {
            prefix: prefix_of_base,
            specs,
        }),
    ))
}

fn folder(env: &EnvYaml) -> Result<&str> {
    match env.name.as_deref() {
        Some("base" | "root") => Err(Error::input(
            "the environment cannot be named 'base' or 'root'",
        )
        .at(&env.file)
        .why("with 'miniconda' on, that is the Miniconda base's own name")
        .hint("change 'name:', or turn miniconda off")),
        Some(name) => Ok(name),
        None => Ok(DEFAULT_NAME),
    }
}

fn check_code(code: &CodeSpec, prefix: &str) -> Result<()> {
    if !code.dir.is_dir() {
        return Err(Error::input(format!(
            "code folder {} is not a folder",
            code.dir.display()
        )));
    }
    if code.dest == prefix || code.dest.starts_with(&format!("{prefix}/")) {
        return Err(
            Error::input(format!("code cannot go to {}", quoted(&code.dest)))
                .why(format!(
                    "that is inside the environment at {prefix}, among its packages' files"
                ))
                .hint(format!(
                    "choose another folder, such as {}",
                    CodeSpec::DEFAULT_DEST
                )),
        );
    }
    Ok(())
}

fn flag(name: &str, value: &str, why: &str) -> Error {
    Error::input(format!("{name} {} is not usable", quoted(value))).why(why)
}

/// The checks that config.rs makes with a place, for what flags say.
fn check_flags(flags: &mut Overrides) -> Result<()> {
    if let Some(cuda) = &flags.cuda {
        // The command line has checked --cuda.
        check::cuda(cuda).map_err(|why| flag("CONDA_OVERRIDE_CUDA", cuda, &why))?;
    }
    if let Some(user) = &flags.user {
        check::user(user).map_err(|why| flag("--user", user, &why))?;
    }
    if let Some(path) = &mut flags.workdir {
        *path = check::absolute(path).map_err(|why| flag("--workdir", path, &why))?;
    }
    if let Some(path) = &mut flags.prefix {
        *path = check::prefix(path).map_err(|why| flag("--prefix", path, &why))?;
    }
    if let Some(BaseSource::Registry(name)) = &flags.base {
        check::reference(name).map_err(|why| flag("--base", name, &why))?;
    }
    for (name, value) in &flags.env {
        check::variable(name, value).map_err(|why| flag("--env", name, &why))?;
    }
    for (option, pairs) in [
        ("--label", &flags.labels),
        ("--annotation", &flags.annotations),
    ] {
        for (key, _) in pairs {
            check::label(key).map_err(|why| flag(option, key, &why))?;
        }
    }
    if let Some(layers) = flags.layers.filter(|n| !(1..=MAX_LAYERS).contains(n)) {
        let why = format!("it must be from 1 to {MAX_LAYERS}");
        return Err(flag("--max-layers", &layers.to_string(), &why));
    }
    tags(&flags.tags).map(drop)
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
