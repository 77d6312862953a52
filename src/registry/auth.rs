//! Credentials for registries, from where `docker login` and `podman login` put them.
//!
//! Docker's `config.json` (Docker CLI reference, "Configuration files") and the `auth.json` of
//! podman and skopeo (containers-auth.json(5)) have one form: `auths`, `credHelpers` and
//! `credsStore`.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use docker_credential::{CredentialRetrievalError as Failure, DockerCredential};

use serde_json::Value;

use crate::report::Reporter;

/// What a user has for a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: only what is public can be had.
    #[default]
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

/// The files that may hold this user's credentials, the one that counts most first: Docker's, the
/// one that `REGISTRY_AUTH_FILE` names, podman's of this session and podman's to stay.
pub fn files() -> Vec<PathBuf> {
    files_from(|name| std::env::var_os(name).map(PathBuf::from))
}

fn files_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.as_os_str().is_empty());
    let home = |dir: &str| set("HOME").map(|home| home.join(dir));
    let docker = set("DOCKER_CONFIG").or_else(|| home(".docker"));
    let podman = |dir: PathBuf| dir.join("containers/auth.json");
    [
        docker.map(|dir| dir.join("config.json")),
        set("REGISTRY_AUTH_FILE"),
        set("XDG_RUNTIME_DIR").map(podman),
        set("XDG_CONFIG_HOME")
            .or_else(|| home(".config"))
            .map(podman),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A credential and where it stands.
#[derive(Debug, Default)]
pub struct Found {
    /// The credential.
    pub credential: Credential,
    /// Where it came from; nothing when there is none.
    pub source: Option<Source>,
}

/// Where a credential came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file that has it or names the helper.
    pub file: PathBuf,
    /// The key of `auths`, or the helper's program.
    pub place: String,
}

/// The credential for a repository, from the first file that has one. Helpers are run, so this may
/// block.
///
/// A file that cannot be read or a helper that fails is a warning, as it is in Docker: another file
/// may have the credential, or the image may be public.
pub fn find(files: &[PathBuf], host: &str, repository: &str, reporter: &Reporter) -> Found {
    for file in files {
        match in_file(file, host, repository) {
            Ok(Some((credential, place))) => {
                return Found {
                    credential,
                    source: Some(Source {
                        file: file.clone(),
                        place,
                    }),
                };
            }
            Ok(None) => {}
            Err(why) => reporter.warn(format_args!(
                "no credentials for {host} from {}: {why}",
                file.display()
            )),
        }
    }
    Found::default()
}

/// A credential, and its place in the file.
fn in_file(
    path: &Path,
    host: &str,
    repository: &str,
) -> Result<Option<(Credential, String)>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    for key in narrow_keys(&bytes, host, repository) {
        if let Some(credential) = lookup(&bytes, &key)? {
            return Ok(Some((credential, place(&bytes, &key))));
        }
    }
    for key in host_keys(host) {
        if let Some(credential) = lookup(&bytes, key)? {
            return Ok(Some((credential, place(&bytes, key))));
        }
    }
    Ok(None)
}

/// In the order in which `lookup` looks.
fn place(file: &[u8], key: &str) -> String {
    let json: Value = serde_json::from_slice(file).unwrap_or_default();
    let helper = |name: &Value, from: &str| {
        let name = name.as_str().filter(|name| !name.is_empty())?;
        Some(format!("docker-credential-{name}, its {from}"))
    };
    let of_host = || helper(json.get("credHelpers")?.get(key)?, "credHelpers");
    let own = || {
        let entry = json.get("auths")?.get(key)?.as_object()?;
        (!entry.is_empty()).then(|| format!("auths \"{key}\""))
    };
    let of_all = || helper(json.get("credsStore")?, "credsStore");
    of_host().or_else(own).or_else(of_all).unwrap_or_default()
}

/// The `auths` keys that mean this repository or a namespace above it, the narrowest first
/// (containers-auth.json(5)). Helpers know hosts only.
fn narrow_keys(file: &[u8], host: &str, repository: &str) -> Vec<String> {
    let Ok(json) = serde_json::from_slice::<Value>(file) else {
        return Vec::new();
    };
    let ends = repository.match_indices('/').map(|(at, _)| at);
    let ends = ends.chain([repository.len()]);
    let names = ends.filter_map(|end| repository.get(..end));
    let keys = names.map(|name| format!("{host}/{name}"));
    let auths = json.get("auths");
    let mut keys: Vec<String> = keys
        .filter(|key| auths.is_some_and(|auths| auths.get(key).is_some()))
        .collect();
    keys.reverse();
    keys
}

/// Docker Hub's credentials stand under the address of its first index.
fn host_keys(host: &str) -> Vec<&str> {
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

fn lookup(file: &[u8], server: &str) -> Result<Option<Credential>, String> {
    match docker_credential::get_credential_from_reader(file, server) {
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
        Err(Failure::ConfigReadError) => {
            Err("it is not the JSON that docker and podman write".into())
        }
        Err(Failure::HelperCommunicationError) => Err(
            "the credential helper that it names cannot be run, or does not read its input".into(),
        ),
        Err(e) => Err(e.to_string().trim().replace('\n', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(json: &str, host: &str) -> Credential {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, json).unwrap();
        find(&[path], host, "team/app", &Reporter::stderr(true)).credential
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
        assert_eq!(format!("{password:?}"), "Password(..)");
    }

    #[test]
    fn a_place_is_where_a_credential_is_looked_up() {
        let json = br#"{"auths": {"a": {}, "b": {"auth": "x"}, "c": {"auth": "x"}},
            "credHelpers": {"c": "own"}, "credsStore": "all"}"#;
        assert_eq!(place(json, "a"), "docker-credential-all, its credsStore");
        assert_eq!(place(json, "b"), "auths \"b\"");
        assert_eq!(place(json, "c"), "docker-credential-own, its credHelpers");
    }

    #[test]
    fn a_helper_that_is_absent_is_a_warning() {
        let missing = r#"{"credsStore": "imgbuild-test-absent"}"#;
        assert_eq!(look(missing, "h"), Credential::Anonymous);
    }

    fn login(user: &str) -> (String, Credential) {
        let entry = serde_json::json!({"username": user, "password": "p"});
        let credential = Credential::Password(user.into(), "p".into());
        (entry.to_string(), credential)
    }

    #[test]
    fn the_narrowest_key_counts() {
        let [(host, _), (team, _), (app, is_app)] = ["host", "team", "app"].map(login);
        let [(_, is_host), (_, is_team), _] = ["host", "team", "app"].map(login);
        let look = |auths: &str| look(&format!("{{\"auths\": {{{auths}}}}}"), "h:1");
        let (host, team) = (format!("\"h:1\": {host}"), format!("\"h:1/team\": {team}"));
        let app = format!("\"h:1/team/app\": {app}");
        assert_eq!(look(&format!("{host}, {team}, {app}")), is_app);
        assert_eq!(look(&format!("{host}, {team}")), is_team);
        assert_eq!(look(&host), is_host);
        let (other, _) = login("other");
        let others = format!("\"h:1/te\": {other}, \"h:1/team/app/x\": {other}");
        assert_eq!(look(&others), Credential::Anonymous);
    }

    #[test]
    fn the_first_file_with_a_credential_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (entry, second) = login("second");
        let good = format!("{{\"auths\": {{\"h\": {entry}}}}}");
        let names = ["absent", "broken", "other", "good"].map(|name| dir.path().join(name));
        fs::write(&names[1], "{").unwrap();
        fs::write(&names[2], good.replace("\"h\"", "\"i\"")).unwrap();
        fs::write(&names[3], good).unwrap();
        assert_eq!(
            find(&names, "h", "a", &Reporter::stderr(true)).credential,
            second
        );
        let none = find(&[], "h", "a", &Reporter::stderr(true)).credential;
        assert_eq!(none, Credential::Anonymous);
    }

    #[test]
    fn files_are_where_docker_and_podman_have_them() {
        let of = |set: &[(&str, &str)]| {
            let find = |name: &str| set.iter().find(|(n, _)| *n == name);
            let files = files_from(|name| find(name).map(|(_, value)| value.into()));
            let text = |path: &PathBuf| path.display().to_string();
            files.iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(
            of(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "")]),
            ["/h/.docker/config.json", "/h/.config/containers/auth.json"]
        );
        let all = [
            ("HOME", "/h"),
            ("DOCKER_CONFIG", "/d"),
            ("REGISTRY_AUTH_FILE", "/r.json"),
            ("XDG_RUNTIME_DIR", "/run/1"),
            ("XDG_CONFIG_HOME", "/c"),
        ];
        assert_eq!(
            of(&all),
            [
                "/d/config.json",
                "/r.json",
                "/run/1/containers/auth.json",
                "/c/containers/auth.json"
            ]
        );
        assert!(of(&[]).is_empty());
    }
}
