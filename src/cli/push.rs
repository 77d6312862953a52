//! `imgbuild push`, and the push at the end of `imgbuild build --push`.

use std::process::ExitCode;

use clap::Args as Group;
use tokio::runtime::Runtime;

use super::{
    attest::AttestArgs, interruptible, metadata::MetadataArgs, open_store, print,
    registry_args::RegistryArgs, runtime, stored,
};
use crate::{
    base::Loader,
    cache_from::Origins,
    error::{Error, Result},
    image::ImageSet,
    machine::Machine,
    registry::{self, Sent},
    report::Reporter,
    spec::check,
    store::Store,
};

#[derive(Group)]
pub(super) struct PushArgs {
    /// The image: the name that a build gave it.
    #[arg(value_parser = check::tag)]
    pub image: String,
    /// Where to push it [default: where its name says].
    #[arg(value_name = "REF", value_parser = check::tag)]
    pub references: Vec<String>,
    #[command(flatten)]
    pub registries: RegistryArgs,
    #[command(flatten)]
    pub attest: AttestArgs,
    #[command(flatten)]
    pub metadata: MetadataArgs,
}

pub(super) fn run(args: &PushArgs, reporter: &Reporter) -> Result<ExitCode> {
    let store = open_store(reporter)?;
    let image = stored(&args.image, &store)?.ok_or_else(|| {
        Error::input(format!("imgbuild has no image '{}'", args.image)).hint(format!(
            "build it first: imgbuild build env.yml -t {}; one that was pushed by its build may be \
             in its registry alone",
            args.image
        ))
    })?;
    let own = std::slice::from_ref(&args.image);
    let references = match args.references.as_slice() {
        [] => own,
        named => named,
    };
    let loader = loader(&args.registries, &store, reporter);
    let runtime = runtime()?;
    let names = args.attest.names(&image, references)?;
    push(&image, &names, &runtime, &loader)?;
    args.attest.attach(&image, references, &runtime, &loader)?;
    args.metadata.write(&image, references)?;
    print(image.digest());
    Ok(ExitCode::SUCCESS)
}

/// What brings layers that the store does not have.
pub(super) fn loader(registries: &RegistryArgs, store: &Store, reporter: &Reporter) -> Loader {
    Loader {
        store: store.clone(),
        reporter: reporter.clone(),
        platform: Machine::default().platform(),
        offline: false,
        registries: registries.settings(),
    }
}

pub(super) fn push(
    set: &ImageSet,
    references: &[String],
    runtime: &Runtime,
    loader: &Loader,
) -> Result<()> {
    let origins = Origins::none(loader);
    let sent = Sent::default();
    let pushing = registry::push(set, references, &origins, &sent);
    runtime.block_on(interruptible(pushing))
}

/// Refuses, before anything is built, to push without a network.
pub(super) fn check_online(offline: bool) -> Result<()> {
    match offline {
        true => Err(Error::input("--push and --offline exclude each other")
            .hint("build with --offline, then: imgbuild push NAME")),
        false => Ok(()),
    }
}

/// Refuses, before anything is built, an image that no registry could be told from.
pub(super) fn check_names(names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Err(
            Error::input("--push needs a name: it says the registry and the repository")
                .hint("add -t HOST/NAME:TAG, or tags: in imgbuild.yaml"),
        );
    }
    Ok(())
}
