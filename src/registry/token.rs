//! Identity tokens: a refresh token exchanged for an access token.
//!
//! distribution, "OAuth2 token authentication" (spec/auth/oauth.md). oci-client knows passwords
//! and access tokens only; `docker login` against some registries leaves an identity token.

use oci_client::{RegistryOperation, secrets::RegistryAuth};
use serde::Deserialize;

use super::remote::{Remote, is_plain};
use crate::error::{Error, Result, chain};

#[derive(Deserialize)]
struct Granted {
    access_token: String,
}

/// Exchanges an identity token for a bearer token for this repository.
///
/// # Errors
/// When the registry offers no token service, or the service refuses.
pub(super) async fn exchange(remote: &Remote, token: &str) -> Result<RegistryAuth> {
    let host = remote.reference().registry();
    let failed = |why: String| {
        Error::environment(format!("the login for {host} cannot be used"))
            .why(why)
            .hint(format!("docker login {host}"))
    };
    let certificates = remote.authorities().iter();
    let certificates = certificates.map(|der| reqwest::Certificate::from_der(der));
    let certificates: Result<Vec<_>, _> = certificates.collect();
    let http = certificates
        .and_then(|all| reqwest::Client::builder().tls_certs_merge(all).build())
        .map_err(|e| failed(chain(&e)))?;
    let address = remote.reference().resolve_registry();
    let scheme = if is_plain(address, remote.authorities()) {
        "http"
    } else {
        "https"
    };
    let ping = http.get(format!("{scheme}://{address}/v2/")).send().await;
    let ping = ping.map_err(|e| failed(chain(&e)))?;
    let challenge = ping.headers().get("www-authenticate");
    let Some(challenge) = challenge.and_then(|value| value.to_str().ok()) else {
        return Ok(RegistryAuth::Anonymous);
    };
    let (Some(realm), service) = (
        parameter(challenge, "realm"),
        parameter(challenge, "service"),
    ) else {
        return Err(failed(format!("the registry asks for: {challenge}")));
    };
    if scheme == "https" && !realm.starts_with("https://") {
        return Err(failed(format!("its token service is not on TLS: {realm}")));
    }
    let answer = http
        .post(realm)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form(remote, service.unwrap_or_default(), token))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|e| failed(chain(&e)))?;
    let body = answer.bytes().await.map_err(|e| failed(chain(&e)))?;
    let granted: Granted = serde_json::from_slice(&body)
        .map_err(|e| failed(format!("its token service answers in no known way: {e}")))?;
    Ok(RegistryAuth::Bearer(granted.access_token))
}

fn form(remote: &Remote, service: &str, token: &str) -> String {
    let actions = match remote.operation() {
        RegistryOperation::Pull => "pull",
        RegistryOperation::Push => "pull,push",
    };
    let scope = format!("repository:{}:{actions}", remote.reference().repository());
    url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "imgbuild")
        .append_pair("service", service)
        .append_pair("scope", &scope)
        .append_pair("refresh_token", token)
        .finish()
}

/// A quoted parameter of a `Bearer` challenge.
fn parameter<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    let parameters = challenge.strip_prefix("Bearer ")?;
    let (_, rest) = parameters.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_challenges() {
        let text = r#"Bearer realm="https://h/token",service="r",scope="a,b""#;
        assert_eq!(super::parameter(text, "realm"), Some("https://h/token"));
        assert_eq!(super::parameter(text, "service"), Some("r"));
        assert_eq!(super::parameter("Basic realm=\"x\"", "realm"), None);
    }
}
