//! Requests to one registry over HTTP: TLS, proxies, redirects, and a limit on silence.
//!
//! One request is sent once; [`super::remote::Remote`] adds logins, [`super::retry`] further
//! attempts.

use std::{path::Path, time::Duration};

use reqwest::{
    Client, ClientBuilder, Method, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LINK, LOCATION},
    redirect::Policy,
    tls::Version,
};
use url::Url;

use super::{
    body::{Content, Watch},
    problem::{Problem, certificate_alert},
    settings::{Settings, is_loopback},
    trust::Trust,
};
use crate::error::{Error, Result, chain};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// As many as Go's clients, Docker's among them, follow.
const MAX_REDIRECTS: usize = 10;

/// A request, which can be sent more than once.
pub(super) struct Call {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub content: Content,
}

impl Call {
    /// A request without a body.
    pub fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            content: Content::Empty,
        }
    }
}

/// The way to one registry.
pub(super) struct Transport {
    /// Shows the user's certificate to whoever asks for one.
    own: Client,
    /// For other hosts that the registry points to.
    foreign: Client,
    trust: Trust,
    base: Url,
    plain: bool,
    /// How long the registry may take or send no byte.
    pub silence: Duration,
}

impl Transport {
    /// For a host with its port, if it has one; nothing is sent yet.
    ///
    /// # Errors
    /// When the certificates that the user has for it cannot be used.
    pub fn new(host: &str, trust: Trust, settings: &Settings) -> Result<Self> {
        // Another part of the program may have chosen the provider already; either is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let asked = settings.is_plain(host);
        let plain = asked || (is_loopback(host) && trust.authorities.is_empty());
        let scheme = if plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/"));
        Ok(Self {
            own: built(host, client(host, &trust, true)?)?,
            foreign: built(host, client(host, &trust, false)?)?,
            trust,
            base: base.map_err(|e| Error::input(format!("'{host}' is no host")).why(e))?,
            plain,
            silence: settings.silence,
        })
    }

    /// `SCHEME://HOST/v2/`, where the registry's API begins.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Whether the registry is spoken to without TLS.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// The file of the certificate that the registry is shown.
    pub fn identity(&self) -> Option<&Path> {
        let shown = self.trust.identity.as_ref();
        shown.map(|identity| identity.path.as_path())
    }

    /// The error that tells more of a request's failure. In TLS 1.3 a registry says only after the
    /// handshake that it wants a certificate, and the connection may end before that is read; in
    /// TLS 1.2 the handshake itself fails.
    pub async fn clearer(&self, call: &Call, problem: Problem) -> Problem {
        let vague = matches!(&problem, Problem::Broken(error)
            if !self.plain && !error.is_connect() && certificate_alert(error).is_none());
        if !vague {
            return problem;
        }
        let host = self.base.host_str().unwrap_or_default();
        let older = client(host, &self.trust, true);
        let older = older.and_then(|older| built(host, older.tls_version_max(Version::TLS_1_2)));
        let Ok(older) = older else {
            return problem;
        };
        let request = older.request(call.method.clone(), call.url.clone());
        match Watch::quiet(self.silence).wait(request.send()).await {
            Some(Err(error)) if certificate_alert(&error).is_some() => Problem::Broken(error),
            _ => problem,
        }
    }

    /// Whether an address is the registry's own: only there a login is shown.
    pub fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Sends a request once and follows redirects. `login` is shown to the host of the request
    /// only: not to another host, on another port, or without TLS after TLS.
    pub async fn send(
        &self,
        call: &Call,
        login: Option<&HeaderValue>,
    ) -> Result<Response, Problem> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let login = login.filter(|_| url.origin() == call.url.origin());
            let response = self.send_to(&url, call, login).await?;
            match self.redirect(call, &response)? {
                None => return Ok(response),
                Some(next) => url = next,
            }
        }
        Err(Problem::Misdirected(format!(
            "it redirects more than {MAX_REDIRECTS} times"
        )))
    }

    async fn send_to(
        &self,
        url: &Url,
        call: &Call,
        login: Option<&HeaderValue>,
    ) -> Result<Response, Problem> {
        let client = match url.host() == self.base.host() {
            true => &self.own,
            false => &self.foreign,
        };
        let watch = Watch::new(&call.content, self.silence);
        let mut request = client.request(call.method.clone(), url.clone());
        request = request.headers(call.headers.clone());
        if let Some(login) = login {
            request = request.header(AUTHORIZATION, login.clone());
        }
        // Some registries answer 411 to a POST or a PUT that does not say its length.
        if !matches!(call.method, Method::GET | Method::HEAD) {
            request = request.header(CONTENT_LENGTH, call.content.len());
        }
        if let Some(body) = call.content.body(&watch).map_err(Problem::Local)? {
            request = request.body(body);
        }
        let answer = watch.wait(request.send()).await;
        match answer.ok_or(Problem::Silent(self.silence))? {
            Ok(response) => Ok(response),
            Err(e) => Err(Problem::Broken(e)),
        }
    }

    /// Where a response sends the client to.
    fn redirect(&self, call: &Call, response: &Response) -> Result<Option<Url>, Problem> {
        let reads = matches!(call.method, Method::GET | Method::HEAD);
        let follows = match response.status() {
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => true,
            StatusCode::SEE_OTHER => reads,
            _ => false,
        };
        match location(response) {
            Some(text) if follows => self.target(response.url(), &text).map(Some),
            _ => Ok(None),
        }
    }

    /// An address that the registry names, relative or whole.
    ///
    /// # Errors
    /// When it is none, or leads from TLS to plain HTTP.
    pub fn target(&self, from: &Url, text: &str) -> Result<Url, Problem> {
        let wrong = |why: &str| Problem::Misdirected(format!("it sends to {}: {why}", bare(text)));
        let url = from.join(text).map_err(|e| wrong(&e.to_string()))?;
        let host = url.host_str().unwrap_or_default();
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.plain || is_loopback(host) => Ok(url),
            "http" => Err(wrong(
                "that is plain HTTP (behind a proxy, the registry must be told so: \
                 X-Forwarded-Proto)",
            )),
            _ => Err(wrong("that is no HTTP")),
        }
    }
}

/// The address that a response names.
pub(super) fn location(response: &Response) -> Option<String> {
    let value = response.headers().get(LOCATION)?;
    value.to_str().ok().map(str::to_owned)
}

/// Where the next page of a list is (OCI distribution-spec, "Listing Referrers"; RFC 8288), on the
/// same host.
pub(super) fn next_page(response: &Response) -> Option<Url> {
    let link = response.headers().get(LINK)?.to_str().ok()?;
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let next = parameters.contains("rel=\"next\"") || parameters.contains("rel=next");
    let url = response.url().join(target).ok().filter(|_| next)?;
    Some(url).filter(|url| url.origin() == response.url().origin())
}

/// An address without its query, which may hold a signature and does not belong in a log.
pub(super) fn bare(address: &str) -> &str {
    address.split('?').next().unwrap_or_default()
}

fn cannot(host: &str, error: &reqwest::Error) -> Error {
    Error::environment("cannot make an HTTP client")
        .at(host)
        .why(chain(error))
}

fn built(host: &str, builder: ClientBuilder) -> Result<Client> {
    builder.build().map_err(|e| cannot(host, &e))
}

fn client(host: &str, trust: &Trust, own: bool) -> Result<ClientBuilder> {
    let authorities = trust.authorities.iter();
    let authorities = authorities.map(|der| reqwest::Certificate::from_der(der));
    let authorities: reqwest::Result<Vec<_>> = authorities.collect();
    let authorities = authorities.map_err(|e| cannot(host, &e))?;
    // Redirects are followed here, for reqwest keeps a login from https://h:1 to http://h:1, and
    // cannot send a stream twice. Blobs are what their digests say: as they are.
    let mut builder = Client::builder()
        .tls_certs_merge(authorities)
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .user_agent(concat!("imgbuild/", env!("CARGO_PKG_VERSION")));
    if let Some(identity) = trust.identity.as_ref().filter(|_| own) {
        let identity = reqwest::Identity::from_pem(&identity.pem).map_err(|e| {
            Error::environment("cannot use a registry's client certificate")
                .at(identity.path.display())
                .why(chain(&e))
        })?;
        builder = builder.identity(identity);
    }
    if is_loopback(host) {
        // The environment's proxy must never be asked for this machine (Go's clients behave so,
        // reqwest does not).
        builder = builder.no_proxy();
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transport(host: &str, plain: &[&str]) -> Transport {
        let settings = Settings {
            plain_http: plain.iter().map(|host| (*host).to_owned()).collect(),
            ..Settings::default()
        };
        Transport::new(host, Trust::default(), &settings).unwrap()
    }

    #[test]
    fn tls_is_left_only_when_asked() {
        let base = |host: &str, plain: &[&str]| transport(host, plain).base().to_string();
        assert_eq!(base("h:5000", &[]), "https://h:5000/v2/");
        assert_eq!(base("h:5000", &["h:5000"]), "http://h:5000/v2/");
        assert_eq!(base("h:5000", &["h"]), "https://h:5000/v2/");
        assert_eq!(base("localhost:5000", &[]), "http://localhost:5000/v2/");
        let tls = transport("h:5000", &[]);
        let target = |text: &str| tls.target(tls.base(), text);
        assert_eq!(target("../x?a=b").unwrap().as_str(), "https://h:5000/x?a=b");
        for text in ["http://h:5000/v2/x?secret", "ftp://h/x", "http://"] {
            let Err(Problem::Misdirected(why)) = target(text) else {
                panic!("{text} is followed");
            };
            assert!(!why.contains("secret"), "{why}");
        }
        assert!(target("http://127.0.0.1:1/x").is_ok());
    }

    #[test]
    fn own_means_scheme_host_and_port() {
        let tls = transport("h:5000", &[]);
        let own = |text: &str| tls.is_own(&Url::parse(text).unwrap());
        assert!(own("https://h:5000/x"));
        for other in ["http://h:5000/x", "https://h/x", "https://i:5000/x"] {
            assert!(!own(other), "{other}");
        }
    }
}
