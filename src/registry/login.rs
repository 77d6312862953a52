//! The login that a registry is shown: what it asks for, and tokens, which are short-lived.
//!
//! distribution, "Token authentication" (spec/auth/token.md, oauth.md) and RFC 7617 for `Basic`.

use base64::Engine;
use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::{
    auth::Credential,
    body::{Content, Watch},
    problem::{Problem, Refusal},
    transport::{Call, Transport, bare},
};

/// Token answers longer than this are not read.
const MAX_ANSWER: usize = 1 << 20;

/// A credential, and what it was exchanged for.
pub(super) struct Login {
    credential: Credential,
    /// `repository:NAME:ACTIONS` of the repository itself.
    scope: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    shown: Option<HeaderValue>,
    /// How often the login was renewed.
    age: u64,
    service: Option<Service>,
    /// Scopes of other repositories, and those that the registry asked for.
    more: Vec<String>,
}

/// A login as it was at one time.
#[derive(Clone)]
pub(super) struct Shown {
    /// The header; nothing where none is needed.
    pub header: Option<HeaderValue>,
    age: u64,
}

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer(Service, Option<String>),
    Unknown(String),
}

/// A token service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    realm: String,
    name: Option<String>,
}

/// The token has one of two names, or both.
#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
}

impl Login {
    /// For a scope of the repository, and for reading `sources`.
    pub fn new(credential: Credential, scope: String, sources: &[String]) -> Self {
        let more = sources.iter().map(|name| format!("repository:{name}:pull"));
        let state = State {
            more: more.collect(),
            ..State::default()
        };
        Self {
            credential,
            scope,
            state: Mutex::new(state),
        }
    }

    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    pub fn is_anonymous(&self) -> bool {
        self.credential == Credential::Anonymous
    }

    pub async fn shown(&self) -> Shown {
        let state = self.state.lock().await;
        Shown {
            header: state.shown.clone(),
            age: state.age,
        }
    }

    /// Gets another login after the registry did not take `old`; its answer says what it wants.
    /// Those who come at the same time get one between them.
    ///
    /// # Errors
    /// When the token service cannot be reached, refuses, or is not to be trusted.
    pub async fn renew(
        &self,
        transport: &Transport,
        old: &Shown,
        answer: &Response,
    ) -> Result<(), Problem> {
        let mut state = self.state.lock().await;
        if state.age != old.age {
            return Ok(());
        }
        match challenge(answer.headers(), &self.credential) {
            Some(Challenge::Basic) => {
                state.shown = self.basic();
                state.service = None;
            }
            Some(Challenge::Bearer(service, scope)) => {
                for scope in scope.iter().flat_map(|all| all.split(' ')) {
                    if scope != self.scope && !state.more.iter().any(|known| known == scope) {
                        state.more.push(scope.to_owned());
                    }
                }
                state.service = Some(service);
            }
            Some(Challenge::Unknown(text)) => {
                return Err(Problem::Login(format!("the registry asks for: {text}")));
            }
            None => {}
        }
        if let Some(service) = state.service.clone() {
            let token = self.token(transport, &service, &mut state.more).await?;
            state.shown = Some(token);
        }
        state.age += 1;
        Ok(())
    }

    /// A token for all scopes, else for the repository alone: some services grant all or nothing.
    async fn token(
        &self,
        transport: &Transport,
        service: &Service,
        more: &mut Vec<String>,
    ) -> Result<HeaderValue, Problem> {
        match self.ask(transport, service, more).await {
            Err(Problem::Login(_)) if !more.is_empty() => {
                more.clear();
                self.ask(transport, service, more).await
            }
            done => done,
        }
    }

    async fn ask(
        &self,
        transport: &Transport,
        service: &Service,
        more: &[String],
    ) -> Result<HeaderValue, Problem> {
        let realm = Url::parse(&service.realm);
        let realm = realm.map_err(|e| Problem::Login(format!("its token service: {e}")))?;
        if realm.scheme() != "https" && !transport.is_plain() {
            let address = bare(&service.realm);
            let text = format!("its token service is not on TLS: {address}");
            return Err(Problem::Login(text));
        }
        let scopes = std::iter::once(&self.scope).chain(more);
        let scopes: Vec<&str> = scopes.map(String::as_str).collect();
        let name = service.name.as_deref().unwrap_or_default();
        let (call, header) = match &self.credential {
            Credential::IdentityToken(token) => (exchange(realm, name, &scopes, token), None),
            _ => (query(realm, name, &scopes), self.basic()),
        };
        let answer = transport.send(&call, header.as_ref()).await?;
        read_token(answer, transport).await
    }

    fn basic(&self) -> Option<HeaderValue> {
        let Credential::Password(user, password) = &self.credential else {
            return None;
        };
        let plain = format!("{user}:{password}");
        let coded = base64::engine::general_purpose::STANDARD.encode(plain);
        secret(&format!("Basic {coded}"))
    }
}

/// A header that is not written to logs.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn query(mut realm: Url, service: &str, scopes: &[&str]) -> Call {
    let mut pairs = realm.query_pairs_mut();
    if !service.is_empty() {
        pairs.append_pair("service", service);
    }
    for scope in scopes {
        pairs.append_pair("scope", scope);
    }
    drop(pairs);
    Call::new(Method::GET, realm)
}

/// An identity token is exchanged for an access token (oauth.md).
fn exchange(realm: Url, service: &str, scopes: &[&str], token: &str) -> Call {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "imgbuild")
        .append_pair("service", service)
        .append_pair("scope", &scopes.join(" "))
        .append_pair("refresh_token", token)
        .finish();
    let mut call = Call::new(Method::POST, realm);
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    call.headers.insert(CONTENT_TYPE, form_type);
    call.content = Content::Bytes(form.into());
    call
}

async fn read_token(answer: Response, transport: &Transport) -> Result<HeaderValue, Problem> {
    let status = answer.status();
    if status != StatusCode::OK {
        let refusal = Problem::Refused(Refusal::read(answer, transport.silence).await);
        return Err(match status.is_client_error() && status.as_u16() != 429 {
            true => Problem::Login(refusal.words()),
            false => refusal,
        });
    }
    let odd = |why: String| Problem::Login(format!("its token service answers oddly: {why}"));
    let body = read_all(answer, MAX_ANSWER, transport).await?;
    let granted: Granted = serde_json::from_slice(&body).map_err(|e| odd(e.to_string()))?;
    let token = granted.token.or(granted.access_token);
    let header = token.and_then(|token| secret(&format!("Bearer {token}")));
    header.ok_or_else(|| odd("there is no token in it".into()))
}

/// The body of an answer.
///
/// # Errors
/// When it is longer than `most` bytes, breaks off, or does not go on.
pub(super) async fn read_all(
    mut answer: Response,
    most: usize,
    transport: &Transport,
) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    loop {
        let silence = transport.silence;
        let next = Watch::quiet(silence).wait(answer.chunk()).await;
        match next.ok_or(Problem::Silent(silence))? {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(e) => return Err(Problem::Broken(e)),
        }
        if body.len() > most {
            let text = format!("it answers with more than {most} bytes");
            return Err(Problem::Odd(text));
        }
    }
}

/// What an answer asks for, the kind that suits the credential first.
fn challenge(headers: &HeaderMap, credential: &Credential) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter();
    let texts = texts.filter_map(|value| value.to_str().ok());
    let mut all: Vec<Challenge> = texts.flat_map(challenges).collect();
    let bearer = |challenge: &Challenge| matches!(challenge, Challenge::Bearer(..));
    let basic = |challenge: &Challenge| *challenge == Challenge::Basic;
    let password = matches!(credential, Credential::Password(..));
    let best = all.iter().position(bearer);
    let best = best.or_else(|| all.iter().position(|c| basic(c) && password));
    // Without a password nothing can be answered to `Basic`: the registry's refusal tells.
    match best.unwrap_or(0) {
        at if at < all.len() => Some(all.swap_remove(at)),
        _ => None,
    }
}

fn challenges(text: &str) -> Vec<Challenge> {
    let Ok(parsed) = http_auth::parse_challenges(text) else {
        return vec![Challenge::Unknown(text.to_owned())];
    };
    let read = |challenge: &http_auth::ChallengeRef<'_>| {
        let parameter = |name: &str| {
            let mut params = challenge.params.iter();
            let found = params.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        match (challenge.scheme, parameter("realm")) {
            (scheme, _) if scheme.eq_ignore_ascii_case("Basic") => Challenge::Basic,
            (scheme, Some(realm)) if scheme.eq_ignore_ascii_case("Bearer") => {
                let name = parameter("service");
                Challenge::Bearer(Service { realm, name }, parameter("scope"))
            }
            (scheme, _) => Challenge::Unknown(scheme.to_owned()),
        }
    };
    parsed.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_challenges() {
        let text = r#"Bearer realm="https://h/token",service="r",scope="repository:a:pull,push""#;
        let service = Service {
            realm: "https://h/token".into(),
            name: Some("r".into()),
        };
        let bearer = Challenge::Bearer(service, Some("repository:a:pull,push".into()));
        assert_eq!(challenges(text), std::slice::from_ref(&bearer));
        assert_eq!(challenges("basic realm=\"x\""), [Challenge::Basic]);
        let negotiate = Challenge::Unknown("Negotiate".into());
        assert_eq!(challenges("Negotiate"), [negotiate]);
        let mut headers = HeaderMap::new();
        assert_eq!(challenge(&headers, &Credential::Anonymous), None);
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap());
        assert_eq!(challenge(&headers, &Credential::Anonymous), Some(bearer));
    }

    #[test]
    fn a_token_is_asked_for_with_a_scope_a_parameter() {
        let realm = Url::parse("https://h/token?a=b").unwrap();
        let call = query(realm, "r", &["repository:a:pull,push", "repository:b:pull"]);
        assert_eq!(
            call.url.query(),
            Some("a=b&service=r&scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull")
        );
        assert!(!call.headers.contains_key("authorization"));
    }
}
