//! Credentials for registries, from where `docker login` puts them.
//!
//! `config.json` in `$DOCKER_CONFIG`, else `~/.docker` (Docker CLI reference, "Configuration
//! files"): `auths`, `credHelpers` and `credsStore`.

use std::{
    fs::File,
    io::{BufReader, ErrorKind},
    path::{Path, PathBuf},
};

use docker_credential::{CredentialRetrievalError as Failure, DockerCredential};

use crate::report::Reporter;

/// What a user has for a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: only what is public can be had.
    Anonymous,
    /// User name and password.
    Password(String, String),
    /// An OAuth2 refresh token, to be exchanged for an access token
    /// (distribution, "OAuth2 token authentication").
    IdentityToken(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password(..) => "Password(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
        })
    }
}

/// The Docker client's configuration file of this user.
pub fn config_path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".docker")))
        .map(|dir| dir.join("config.json"))
}

/// The credential for a registry host. Helpers are run, so this may block.
///
/// A file that cannot be read or a helper that fails is a warning, as it is in Docker: the image
/// may be public.
pub fn credential(config: Option<&Path>, host: &str, reporter: &Reporter) -> Credential {
    let Some(config) = config else {
        return Credential::Anonymous;
    };
    for server in server_keys(host) {
        match lookup(config, server) {
            Ok(Some(credential)) => return credential,
            Ok(None) => {}
            Err(why) => {
                reporter.warn(format_args!(
                    "no credentials for {host} from {}: {why}",
                    config.display()
                ));
                return Credential::Anonymous;
            }
        }
    }
    Credential::Anonymous
}

/// Docker Hub's credentials stand under the address of its first index.
fn server_keys(host: &str) -> Vec<&str> {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
            vec![
                "https://index.docker.io/v1/",
                "index.docker.io",
                "docker.io",
            ]
        }
        other => vec![other],
    }
}

fn lookup(config: &Path, server: &str) -> Result<Option<Credential>, String> {
    let file = match File::open(config) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    match docker_credential::get_credential_from_reader(BufReader::new(file), server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Some(Credential::Password(user, password)))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::IdentityToken(token))),
        Err(Failure::NoCredentialConfigured) => Ok(None),
        // What every helper says when it simply has none
        // (docker-credential-helpers, credentials/error.go).
        Err(Failure::HelperFailure { stdout, stderr, .. })
            if format!("{stdout}{stderr}").contains("credentials not found") =>
        {
            Ok(None)
        }
        Err(Failure::ConfigReadError) => Err("it is not the JSON that Docker writes".into()),
        Err(Failure::HelperCommunicationError) => {
            Err("the credential helper that it names cannot be run".into())
        }
        Err(e) => Err(e.to_string().trim().replace('\n', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn look(json: &str, host: &str) -> Credential {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, json).unwrap();
        credential(Some(&path), host, &Reporter::stderr(true))
    }

    #[test]
    fn finds_what_docker_login_wrote() {
        // "user:pass:word"
        let auth = r#"{"auth": "dXNlcjpwYXNzOndvcmQ="}"#;
        let password = Credential::Password("user".into(), "pass:word".into());
        let json = format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {auth}, "localhost:5000": {auth}}}}}"#
        );
        assert_eq!(look(&json, "docker.io"), password);
        assert_eq!(look(&json, "localhost:5000"), password);
        assert_eq!(look(&json, "ghcr.io"), Credential::Anonymous);
        let token = r#"{"auths": {"acr.example": {"identitytoken": "t"}}}"#;
        assert_eq!(
            look(token, "acr.example"),
            Credential::IdentityToken("t".into())
        );
        for broken in ["", "[1]", "{}", r#"{"auths": {"h": {"auth": "%"}}}"#] {
            assert_eq!(look(broken, "h"), Credential::Anonymous, "{broken}");
        }
        assert_eq!(
            credential(None, "h", &Reporter::stderr(true)),
            Credential::Anonymous
        );
        assert_eq!(format!("{password:?}"), "Password(..)");
    }

    #[test]
    fn a_helper_that_is_absent_is_a_warning() {
        let missing = r#"{"credsStore": "imgbuild-test-absent"}"#;
        assert_eq!(look(missing, "h"), Credential::Anonymous);
    }
}
