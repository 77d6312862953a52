//! Pulls from a small registry on loopback, well-behaved and not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;

use super::*;
use crate::base::{
    Platform,
    testing::{Answer, Fixture, Server, Stored, layer_tar},
};

/// A registry of one image, `base:1`, at every path that the distribution-spec names.
struct Shop {
    fixture: Fixture,
    image: Stored,
    index: Stored,
}

impl Shop {
    fn new() -> Self {
        let fixture = Fixture::new();
        let (one, two) = (layer_tar(&["a"]), layer_tar(&["b"]));
        let image = fixture.image(&[one.as_slice(), &two, &one], "amd64");
        let platform = json!({"platform": {"os": "linux", "architecture": "amd64"}});
        let other = json!({"platform": {"os": "linux", "architecture": "arm64"}});
        let index = fixture.index(json!([
            fixture.descriptor(&image, other),
            fixture.descriptor(&image, platform),
        ]));
        Self {
            fixture,
            image,
            index,
        }
    }

    fn answer(&self, path: &str) -> Answer {
        if path == "/v2/" {
            return Answer::body(b"{}".to_vec());
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        let digest = match name {
            "1" => self.index.digest,
            name => match name.parse() {
                Ok(digest) => digest,
                Err(_) => return Answer::status(404),
            },
        };
        match std::fs::read(self.fixture.blob(&digest)) {
            Ok(bytes) => Answer::body(bytes),
            Err(_) => Answer::status(404),
        }
    }
}

struct Pulled {
    result: Result<BaseImage>,
    requests: usize,
    store: Store,
    _root: tempfile::TempDir,
}

impl Pulled {
    fn error(&self, server: &str) -> String {
        let error = self.result.as_ref().expect_err("an error");
        error.to_string().replace(server, "HOST")
    }

    fn blobs(&self) -> usize {
        let count = |dir: std::path::PathBuf| std::fs::read_dir(dir).unwrap().count();
        assert_eq!(count(self.store.tmp_dir()), 0);
        count(self.store.root().join("blobs/sha256"))
    }
}

/// Pulls `base:TAG` from a server that answers like this; returns the host as well.
fn pull_with(
    tag: &str,
    config: Option<&str>,
    answer: impl Fn(&str, Option<&str>) -> Answer + Send + Sync + 'static,
) -> (Pulled, String) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let server = Server::start(move |path, auth| {
        // oci-client asks a registry without logins for its challenge before each request.
        counted.fetch_add(usize::from(path != "/v2/"), Ordering::SeqCst);
        answer(path, auth)
    });
    let root = tempfile::tempdir().unwrap();
    let config = config.map(|text| {
        let path = root.path().join("config.json");
        std::fs::write(&path, text.replace("HOST", &server.host())).unwrap();
        path
    });
    let store = Store::open(root.path()).unwrap();
    let result = pull_into(&store, &format!("{}/base:{tag}", server.host()), config);
    let pulled = Pulled {
        result,
        requests: count.load(Ordering::SeqCst),
        store,
        _root: root,
    };
    (pulled, server.host())
}

fn pull_into(
    store: &Store,
    reference: &str,
    config: Option<std::path::PathBuf>,
) -> Result<BaseImage> {
    let loader = Loader {
        store: store.clone(),
        reporter: crate::report::Reporter::stderr(true),
        platform: Platform::linux_amd64(),
        offline: false,
        registries: crate::registry::Settings::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let purpose = Purpose::pull(&loader.registries);
        let logins = config.into_iter().collect();
        let remote = Remote::connect_with(reference, purpose, &loader.reporter, logins).await?;
        pull_from(&remote, None, &loader).await
    })
}

#[test]
fn pulls_by_tag_and_fetches_nothing_twice() {
    let shop = Arc::new(Shop::new());
    let kept = shop.clone();
    let (pulled, host) = pull_with("1", None, move |path, _| shop.answer(path));
    let base = pulled.result.as_ref().unwrap();
    assert_eq!(base.digest, Some(kept.image.digest));
    assert_eq!(base.name, Some(format!("{host}/base:1")));
    assert_eq!(base.layers.len(), 3);
    assert_eq!(base.layers[0], base.layers[2]);
    // Index, manifest, config, two layers; the third is the first again.
    assert_eq!((pulled.requests, pulled.blobs()), (5, 4));

    // The layers are in the store: only the documents are asked for.
    let server = Server::start(move |path, _| match path.contains("/blobs/") {
        true => Answer::status(500),
        false => kept.answer(path),
    });
    let again = pull_into(&pulled.store, &format!("{}/base:1", server.host()), None).unwrap();
    assert_eq!(again.layers, base.layers);
    let pinned = format!("{}/base@{}", server.host(), base.digest.unwrap());
    assert_eq!(
        pull_into(&pulled.store, &pinned, None).unwrap().layers,
        base.layers
    );
}

#[test]
fn passing_failures_are_retried() {
    let shop = Shop::new();
    let calls = AtomicUsize::new(0);
    let (pulled, _) = pull_with("1", None, move |path, _| {
        if !path.contains("/blobs/") {
            return shop.answer(path);
        }
        match calls.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::status(429),
            1 => Answer::status(503),
            2 => Answer {
                cut: Some(20),
                ..shop.answer(path)
            },
            _ => shop.answer(path),
        }
    });
    pulled.result.as_ref().unwrap();
    assert_eq!((pulled.requests, pulled.blobs()), (8, 4));
}

#[test]
fn what_never_gets_better_ends() {
    let (pulled, host) = pull_with("1", None, |path, _| match path {
        "/v2/" => Answer::status(200),
        _ => Answer::status(503),
    });
    assert_eq!(
        pulled.error(&host),
        "cannot pull HOST/base:1\n  why: HTTP status 503\n  why: tried 5 times"
    );
    assert_eq!(pulled.requests, 5);
    let shop = Shop::new();
    let layer = shop.image.layers[1];
    let (pulled, host) = pull_with("1", None, move |path, _| match path {
        path if path.ends_with(&layer.hex()) => Answer {
            cut: Some(10),
            ..shop.answer(path)
        },
        path => shop.answer(path),
    });
    let error = pulled.error(&host);
    assert!(
        error.contains(&format!("layer {layer} broke off after 10 of")),
        "{error}"
    );
    assert!(!pulled.store.blob_path(&layer).exists());
    pulled.blobs();
}

#[test]
fn wrong_bytes_are_named_and_not_kept() {
    let shop = Shop::new();
    let layer = shop.image.layers[0];
    let mut bytes = std::fs::read(shop.fixture.blob(&layer)).unwrap();
    bytes[12] ^= 1;
    let wrong = Digest::of(&bytes);
    let (pulled, host) = pull_with("1", None, move |path, _| match path {
        path if path.ends_with(&layer.hex()) => Answer::body(bytes.clone()),
        path => shop.answer(path),
    });
    let error = pulled.error(&host);
    assert!(
        error.contains(&layer.to_string()) && error.contains(&wrong.to_string()),
        "{error}"
    );
    assert!(!pulled.store.blob_path(&layer).exists());
    assert!(!pulled.store.blob_path(&wrong).exists());
    pulled.blobs();

    let shop = Shop::new();
    let manifest = shop.image.digest;
    let (pulled, host) = pull_with("1", None, move |path, _| match path {
        path if path.ends_with(&manifest.hex()) => Answer::body(b"{}".to_vec()),
        path => shop.answer(path),
    });
    let error = pulled.error(&host);
    assert!(error.contains(&manifest.to_string()), "{error}");
    assert!(error.contains(&Digest::of(b"{}").to_string()), "{error}");
    assert_eq!(pulled.blobs(), 0);
}

#[test]
fn endless_layers_are_cut() {
    let shop = Shop::new();
    let layer = shop.image.layers[0];
    let (pulled, host) = pull_with("1", None, move |path, _| match path {
        path if path.ends_with(&layer.hex()) => Answer::body(vec![0; 1 << 20]),
        path => shop.answer(path),
    });
    let error = pulled.error(&host);
    assert!(error.contains("longer than"), "{error}");
}

#[test]
fn refusals_have_a_way_out() {
    let (pulled, host) = pull_with("2", None, |path, _| match path {
        "/v2/" => Answer::status(200),
        _ => Answer {
            body: br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#
                .into(),
            ..Answer::status(404)
        },
    });
    assert_eq!(
        pulled.error(&host),
        "no image HOST/base:2\n  why: HTTP status 404: MANIFEST_UNKNOWN: manifest unknown\n  hint: check the name and the tag"
    );
    let (pulled, host) = pull_with("1", None, |_, _| {
        Answer::status(401).header("WWW-Authenticate", "Basic realm=\"r\"")
    });
    assert_eq!(
        pulled.error(&host),
        "cannot pull HOST/base:1\n  why: HTTP status 401\n  \
         hint: check the name; if the image is private: docker login HOST"
    );
    let auths = r#"{"auths": {"HOST": {"username": "u", "password": "p"}}}"#;
    let (pulled, host) = pull_with("1", Some(auths), |_, _| {
        Answer::status(401).header("WWW-Authenticate", "Basic realm=\"r\"")
    });
    let error = pulled.error(&host);
    assert!(
        error.contains("is not accepted for it: docker login HOST"),
        "{error}"
    );
    let (pulled, host) = pull_with("1", None, |path, _| match path {
        "/v2/" => Answer::status(200),
        _ => Answer::body(br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec()),
    });
    let error = pulled.error(&host);
    assert!(
        error.contains("schema 1") && error.contains("HOST/base:1"),
        "{error}"
    );
}

#[test]
fn nothing_listening_is_said_at_once() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let start = std::time::Instant::now();
    let error = pull_into(&store, &format!("localhost:{port}/base:1"), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("nothing listens at localhost"), "{error}");
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn passwords_and_tokens_are_used() {
    let shop = Shop::new();
    let auths = r#"{"auths": {"HOST": {"auth": "dTpw"}}}"#;
    let (pulled, _) = pull_with("1", Some(auths), move |path, auth| match auth {
        Some("Basic dTpw") => shop.answer(path),
        _ => Answer::status(401).header("WWW-Authenticate", "Basic realm=\"r\""),
    });
    pulled.result.unwrap();

    // A token service beside the registry, for a password and for an identity token.
    for auths in [
        auths,
        r#"{"auths": {"HOST": {"identitytoken": "refresh"}}}"#,
    ] {
        let shop = Shop::new();
        let service = Server::start(|path, auth| {
            // An identity token is posted; a password goes into the header of a GET.
            assert!(path == "/token" || path.contains("scope=repository%3Abase%3Apull"));
            assert!(auth.is_none_or(|auth| auth == "Basic dTpw"));
            Answer::body(br#"{"token": "t", "access_token": "t"}"#.to_vec())
        });
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"r\"",
            service.host()
        );
        let (pulled, _) = pull_with("1", Some(auths), move |path, auth| match auth {
            Some("Bearer t") => shop.answer(path),
            _ => Answer::status(401).header("WWW-Authenticate", realm.as_str()),
        });
        pulled.result.unwrap();
    }
}

#[test]
fn a_token_that_ends_halfway_is_renewed() {
    for auths in [
        r#"{"auths": {"HOST": {"username": "u", "password": "p"}}}"#,
        r#"{"auths": {"HOST": {"identitytoken": "refresh"}}}"#,
    ] {
        let shop = Shop::new();
        let granted = AtomicUsize::new(0);
        let service = Server::start(move |_, _| {
            let number = granted.fetch_add(1, Ordering::SeqCst);
            let token = format!("t{}", number.min(1));
            let answer = serde_json::json!({"token": token, "access_token": token});
            Answer::body(answer.to_string().into_bytes())
        });
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"r\"",
            service.host()
        );
        let (pulled, _) = pull_with("1", Some(auths), move |path, auth| match auth {
            Some("Bearer t0") if path.contains("/manifests/") => shop.answer(path),
            Some("Bearer t1") => shop.answer(path),
            _ => Answer::status(401).header("WWW-Authenticate", realm.as_str()),
        });
        pulled.result.unwrap();
    }
}
