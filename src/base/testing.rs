//! Images made in temporary folders, and a small registry that can misbehave, for the unit tests.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{BaseImage, Platform, files::Folder, layout, media};
use crate::{digest::Digest, error::Result, report::Reporter, store::Store};

/// Builds tars entry by entry.
pub(super) struct TarBuilder(tar::Builder<Vec<u8>>);

impl TarBuilder {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn put(mut self, name: &str, kind: tar::EntryType, link: Option<&str>, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        // Written by hand: the crate's setters refuse the names that the tests are about.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(link) = link {
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.put(name, tar::EntryType::Regular, None, data)
    }

    pub fn dir(mut self, name: &str, mode: u32, owner: (u64, u64), mtime: u64) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(mtime);
        header.set_size(0);
        header.set_cksum();
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    pub fn link(self, name: &str, target: &str, kind: tar::EntryType) -> Self {
        self.put(name, kind, Some(target), b"")
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A layer's tar; names that end in `/` are folders.
pub(super) fn layer_tar(names: &[&str]) -> Vec<u8> {
    let mut tar = TarBuilder::new();
    for name in names {
        tar = match name.ends_with('/') {
            true => tar.dir(name, 0o755, (0, 0), 1_700_000_000),
            false => tar.file(name, b"content"),
        };
    }
    tar.done()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A blob of the fixture's layout that a descriptor can point to.
pub(super) struct Stored {
    pub digest: Digest,
    pub bytes: Vec<u8>,
    pub media_type: &'static str,
    pub layers: Vec<Digest>,
}

/// An OCI layout being made, beside a store to load it into.
pub(super) struct Fixture {
    pub dir: TempDir,
    _root: TempDir,
    pub store: Store,
    pub reporter: Reporter,
}

impl Fixture {
    pub fn new() -> Self {
        let (dir, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(
            dir.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        Self {
            dir,
            store: Store::open(root.path()).unwrap(),
            _root: root,
            reporter: Reporter::stderr(true),
        }
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("blobs/sha256").join(digest.hex())
    }

    fn put(&self, bytes: &[u8], media_type: &'static str) -> Stored {
        let digest = Digest::of(bytes);
        fs::write(self.blob(&digest), bytes).unwrap();
        Stored {
            digest,
            bytes: bytes.into(),
            media_type,
            layers: Vec::new(),
        }
    }

    /// An image of gzip layers, from their tars.
    pub fn image(&self, layers: &[&[u8]], architecture: &str) -> Stored {
        self.image_declared(layers, architecture, media::OCI_GZIP)
    }

    pub fn image_declared(
        &self,
        layers: &[&[u8]],
        architecture: &str,
        declared: &'static str,
    ) -> Stored {
        let ids: Vec<_> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
        let config = json!({"os": "linux", "architecture": architecture,
            "config": {"Env": ["A=1"]}, "rootfs": {"type": "layers", "diff_ids": ids}});
        let config = self.put(config.to_string().as_bytes(), media::OCI_CONFIG);
        let blobs: Vec<_> = layers
            .iter()
            .map(|l| self.put(&gzip(l), declared))
            .collect();
        let layers: Vec<_> = blobs
            .iter()
            .map(|b| self.descriptor(b, json!({})))
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
            "config": self.descriptor(&config, json!({})), "layers": layers});
        Stored {
            layers: blobs.iter().map(|b| b.digest).collect(),
            ..self.put(manifest.to_string().as_bytes(), media::OCI_MANIFEST)
        }
    }

    pub fn index(&self, manifests: Value) -> Stored {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.put(index.to_string().as_bytes(), media::OCI_INDEX)
    }

    pub fn descriptor(&self, blob: &Stored, more: Value) -> Value {
        let mut descriptor = json!({"mediaType": blob.media_type, "digest": blob.digest,
            "size": blob.bytes.len()});
        for (key, value) in more.as_object().unwrap() {
            descriptor[key] = value.clone();
        }
        descriptor
    }

    pub fn write_index(&self, manifests: Value) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.dir.path().join("index.json"), index.to_string()).unwrap();
    }

    pub fn load_layout(&self, tag: Option<&str>) -> Result<BaseImage> {
        let folder = Folder(self.dir.path().into());
        let platform = Platform::linux_amd64();
        layout::load(&folder, tag, &self.store, &self.reporter, &platform)
    }

    /// The layout as one tar.
    pub fn archive(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_dir_all(".", self.dir.path()).unwrap();
        tar.into_inner().unwrap()
    }
}

/// What the test registry answers.
pub(super) struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// How many bytes of the body are sent before the connection is closed.
    pub cut: Option<usize>,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
        }
    }

    pub fn body(body: Vec<u8>) -> Self {
        Self {
            body,
            ..Self::status(200)
        }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// An HTTP server on loopback that answers by the request's path and its Authorization header.
pub(super) struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub fn start(answer: impl Fn(&str, Option<&str>) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, answer) = (stop.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let answer = answer.clone();
                std::thread::spawn(move || serve(stream.unwrap(), answer.as_ref()));
            }
        });
        Self { address, stop }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&str, Option<&str>) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = reader.by_ref().lines();
    let Some(Ok(request)) = lines.next() else {
        return;
    };
    let (mut authorization, mut length) = (None, 0);
    for line in lines
        .map_while(|line| line.ok())
        .take_while(|l| !l.is_empty())
    {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    // A body left unread makes the kernel reset the connection.
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).unwrap();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let answer = answer(path, authorization.as_deref());
    let mut head = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let sent = answer.cut.unwrap_or(answer.body.len());
    // The client may have gone away; that is its right.
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    let _ = stream.write_all(&answer.body[..sent]);
}
