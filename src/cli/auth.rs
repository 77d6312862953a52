//! `imgbuild auth`.

use std::{fmt, process::ExitCode};

use clap::{Args as Group, Subcommand};
use serde::Serialize;

use super::{args::Format, interruptible, print, registry_args::RegistryArgs, runtime};
use crate::{
    error::{Error, Exit, Result},
    registry::{
        Grant,
        auth::Credential,
        remote::{Purpose, Remote},
    },
    report::Reporter,
    spec::check,
};

#[derive(Group)]
pub(super) struct AuthArgs {
    #[command(subcommand)]
    command: AuthCommand,
}

#[derive(Subcommand)]
enum AuthCommand {
    /// Say who you are in a repository, where the login comes from, and whether pull and push are
    /// granted: it asks for the image, and begins an upload that it cancels. Exit status 3 when
    /// pull is not granted.
    Check(CheckArgs),
}

#[derive(Group)]
struct CheckArgs {
    /// An image in the repository, or one that is to be pushed there.
    #[arg(value_name = "REF", value_parser = check::tag)]
    reference: String,
    /// Exit status 3 also when push is not granted.
    #[arg(long)]
    push: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    registries: RegistryArgs,
}

/// What was found out.
#[derive(Serialize)]
struct Standing {
    registry: String,
    repository: String,
    /// The user's name; nothing for nobody and for a token.
    user: Option<String>,
    login: &'static str,
    /// Where the login came from.
    source: Option<String>,
    pull: Grant,
    push: Grant,
}

pub(super) fn run(args: &AuthArgs, reporter: &Reporter) -> Result<ExitCode> {
    let AuthCommand::Check(args) = &args.command;
    let settings = args.registries.settings();
    let finding = async {
        let purpose = Purpose::pull(&settings);
        let remote = Remote::connect(&args.reference, purpose, reporter).await?;
        standing(remote).await
    };
    let standing = runtime()?.block_on(interruptible(finding))?;
    match args.format {
        Format::Text => print(&standing),
        Format::Json => print(
            serde_json::to_string_pretty(&standing)
                .map_err(|e| Error::new(Exit::Internal, "cannot write the result").why(e))?,
        ),
    }
    let granted = standing.pull.is_granted() && (!args.push || standing.push.is_granted());
    Ok(match granted {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(Exit::Environment as u8),
    })
}

async fn standing(remote: Remote) -> Result<Standing> {
    let (credential, source) = remote.credential();
    let (user, login) = match credential {
        Credential::Anonymous => (None, "anonymous"),
        Credential::Password(user, _) => (Some(user.clone()), "password"),
        Credential::IdentityToken(_) => (None, "identity-token"),
    };
    let source = source.map(|source| format!("{}, {}", source.file.display(), source.place));
    let at = remote.reference();
    Ok(Standing {
        registry: at.registry().to_owned(),
        repository: at.repository().to_owned(),
        user,
        login,
        source,
        pull: remote.may_pull().await?,
        push: remote.may_push().await?,
    })
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "registry    {}", self.registry)?;
        writeln!(f, "repository  {}", self.repository)?;
        let who = self.user.as_deref().unwrap_or(match self.login {
            "anonymous" => "nobody (no login for it was found)",
            _ => "whom an identity token stands for",
        });
        writeln!(f, "login       {who}")?;
        if let Some(source) = &self.source {
            writeln!(f, "from        {source}")?;
        }
        writeln!(f, "pull        {}", in_words(&self.pull))?;
        write!(f, "push        {}", in_words(&self.push))
    }
}

fn in_words(grant: &Grant) -> String {
    match grant {
        Grant::Granted => "granted".into(),
        Grant::NoImage => "granted; there is no such image yet".into(),
        Grant::Denied(why) => format!("denied: {}", why.replace('\n', "; ")),
    }
}
