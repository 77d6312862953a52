//! Sending an archive to the daemon.

use std::{
    collections::{BTreeSet, HashMap},
    io::Write,
    pin::pin,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread,
    time::Duration,
};

use bollard::{
    Docker, errors::Error as DockerError, models::BuildInfo,
    query_parameters::ImportImageOptionsBuilder,
};
use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;

use super::{
    pipe::{Chunks, Control, Pipe},
    teardown, words,
};
use crate::{
    error::{Error, Exit, Result},
    report::{Activity, Reporter, Step, Task},
    sink::{Archive, Blob, Contents},
    store::Store,
};

/// The daemon answers a load only when it has read everything; slow disks take their time.
const ANSWER: Duration = Duration::from_secs(24 * 3600);
/// How long a stopped transfer may take to come to the end of a layer.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Why a transfer failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The daemon does not take what it was sent, in its own words.
    Refused(String),
    /// Anything else.
    Other(Error),
}

/// The names of the images that a daemon said to have loaded.
pub(super) type Loaded = BTreeSet<String>;

/// What a transfer sends, one after the other.
enum Piece {
    /// A layer.
    Layer(Blob),
    /// The other layers, and the image under these names.
    Image(Contents, Vec<String>),
}

/// What is shown of transfers.
#[derive(Clone)]
pub(super) struct Shown {
    sent: Arc<Task>,
    unpacked: Arc<Task>,
}

impl Shown {
    /// Begins to show that `total` bytes, if that is known, are sent to this engine.
    pub(super) fn start(reporter: &Reporter, engine: &str, total: Option<u64>) -> Self {
        let task =
            |what: String, total| Arc::new(reporter.bytes(Activity::new(Step::Load, what), total));
        Self {
            sent: task(format!("to {engine}"), total),
            unpacked: task(format!("{engine} unpacks"), None),
        }
    }
}

/// A transfer on a thread of its own, so that it can outlive the future that waits for it.
pub(super) struct Transfer {
    pieces: Option<Sender<Piece>>,
    control: Arc<Control>,
    /// Ends once all was written.
    writing: oneshot::Receiver<()>,
    result: Option<oneshot::Receiver<Result<Loaded, Failure>>>,
    reporter: Reporter,
}

impl Transfer {
    /// Begins to send an archive.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(
        docker: &Docker,
        shown: &Shown,
        store: &Store,
        reporter: &Reporter,
    ) -> Result<Self> {
        let control = Arc::new(Control::default());
        let (pipe, chunks) = Pipe::new(control.clone(), shown.sent.clone());
        let (pieces, queue) = channel();
        let (written, writing) = oneshot::channel();
        let writer = {
            let store = store.clone();
            thread::spawn(move || {
                let _written = written;
                write(pipe, &queue, &store)
            })
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::environment("cannot start a thread").why(e))?;
        let docker = docker.clone().with_timeout(ANSWER);
        let unpacked = shown.unpacked.clone();
        let (tell, result) = oneshot::channel();
        thread::spawn(move || {
            let answer = runtime.block_on(post(&docker, chunks, &unpacked));
            // A daemon may refuse before it has read all: what would be sent has nowhere to go then.
            drop(runtime);
            let written = writer.join().unwrap_or(Ok(()));
            // Our own failure is the cause; the daemon only saw its effect.
            let _ = tell.send(written.map_err(Failure::Other).and(answer));
        });
        Ok(Self {
            pieces: Some(pieces),
            control,
            writing,
            result: Some(result),
            reporter: reporter.clone(),
        })
    }

    /// Sends a layer.
    pub(super) fn layer(&self, blob: Blob) {
        self.send(Piece::Layer(blob));
    }

    /// A writer that is gone has failed, and its failure is told at the end.
    fn send(&self, piece: Piece) {
        if let Some(pieces) = &self.pieces {
            let _ = pieces.send(piece);
        }
    }

    /// Sends the other layers of an image, and what it is under these names.
    pub(super) fn image(&self, contents: Contents, names: &[String]) {
        self.send(Piece::Image(contents, names.to_owned()));
    }

    /// How many bytes were sent by now.
    pub(super) fn sent(&self) -> u64 {
        self.control.sent.load(Ordering::Relaxed)
    }

    /// Waits until the daemon was sent all.
    pub(super) async fn written(&mut self) {
        if !self.writing.is_terminated() {
            let _ = (&mut self.writing).await;
        }
    }

    /// Waits for what the daemon says of the image.
    pub(super) async fn answer(&mut self) -> Result<Loaded, Failure> {
        let lost = || {
            let error = Error::new(Exit::Internal, "the transfer to the daemon broke off");
            Failure::Other(error)
        };
        let Some(result) = &mut self.result else {
            return Err(lost());
        };
        let answer = result.await.unwrap_or_else(|_| Err(lost()));
        self.result = None;
        answer
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let Some(result) = self.result.take() else {
            return;
        };
        self.pieces = None;
        self.control.stop.store(true, Ordering::Relaxed);
        self.reporter
            .step("Stopping after the layer being sent; Ctrl-C again stops at once");
        let work = async move {
            let _ = result.await;
        };
        teardown::finish(work, STOP_LIMIT);
    }
}

/// Writes the archive. A reader that goes away is no failure here: the daemon says why.
fn write(mut pipe: Pipe, pieces: &Receiver<Piece>, store: &Store) -> Result<()> {
    let mut written = archive(&mut pipe, pieces, store);
    if written.is_ok() {
        written = pipe
            .flush()
            .map_err(|e| Error::environment("cannot write the image archive").why(e));
    }
    let closed = pipe.closed();
    match written {
        Ok(()) => Ok(()),
        Err(_) if closed => Ok(()),
        Err(e) => {
            pipe.end();
            Err(e)
        }
    }
}

fn archive(pipe: &mut Pipe, pieces: &Receiver<Piece>, store: &Store) -> Result<()> {
    let mut archive = Archive::begin(store, pipe)?;
    while let Some(piece) = next(pieces, &mut archive)? {
        match piece {
            Piece::Layer(blob) => archive.layer(&blob)?,
            Piece::Image(contents, names) => return archive.end(&contents, &names),
        }
    }
    Err(Error::new(Exit::Interrupted, "the image was not finished"))
}

/// Waits for the next piece. What was written goes out first, for the daemon unpacks it meanwhile.
fn next(pieces: &Receiver<Piece>, archive: &mut Archive<'_>) -> Result<Option<Piece>> {
    match pieces.try_recv() {
        Ok(piece) => Ok(Some(piece)),
        Err(TryRecvError::Disconnected) => Ok(None),
        Err(TryRecvError::Empty) => {
            archive.flush()?;
            Ok(pieces.recv().ok())
        }
    }
}

async fn post(docker: &Docker, chunks: Chunks, unpacked: &Task) -> Result<Loaded, Failure> {
    let body = stream::unfold(chunks, |mut chunks| async {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    });
    let options = ImportImageOptionsBuilder::new().quiet(false).build();
    let mut events = pin!(docker.import_image_stream(options, body, None));
    let (mut layers, mut loaded) = (HashMap::new(), Loaded::new());
    let mut failed = None;
    while let Some(event) = events.next().await {
        let event = event.map_err(|e| failure(&e))?;
        unpacked.add(progress(&event, &mut layers));
        loaded.extend(name_of_loaded(&event));
        failed = failed.or_else(|| unpacking_failed(&event));
    }
    failed.map_or(Ok(loaded), |why| Err(Failure::Refused(why)))
}

/// Told for people, and by every Docker in these words (moby, image/tarexport/load.go).
fn name_of_loaded(event: &BuildInfo) -> Option<String> {
    let name = event.stream.as_ref()?.strip_prefix("Loaded image: ")?;
    Some(name.trim().to_owned())
}

/// Over containerd an image that cannot be unpacked counts as loaded; only the text for people
/// tells (moby, daemon/containerd/image_exporter.go).
fn unpacking_failed(event: &BuildInfo) -> Option<String> {
    let line = event.stream.as_ref()?;
    line.starts_with("Error unpacking image")
        .then(|| line.trim().to_owned())
}

fn failure(error: &DockerError) -> Failure {
    match error {
        DockerError::DockerResponseServerError { .. } | DockerError::DockerStreamError { .. } => {
            Failure::Refused(words(error))
        }
        other => {
            let error = Error::environment("the transfer to the daemon broke off");
            Failure::Other(error.why(words(other)))
        }
    }
}

/// How many bytes further a layer is, by its own count.
fn progress(event: &BuildInfo, layers: &mut HashMap<String, u64>) -> u64 {
    let current = event.progress_detail.as_ref().and_then(|p| p.current);
    let (Some(id), Some(current)) = (&event.id, current) else {
        return 0;
    };
    let current = u64::try_from(current).unwrap_or(0);
    let before = layers.insert(id.clone(), current).unwrap_or(0);
    current.saturating_sub(before)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::net::UnixListener,
    };

    use bollard::API_DEFAULT_VERSION;

    use super::*;
    use crate::{digest::DiffId, image::Layer, sink::Packed};

    /// A daemon that answers a load at once, and neither reads on nor closes the connection.
    #[tokio::test]
    async fn a_daemon_that_refuses_before_it_has_read_all_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("d.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let head = BufReader::new(stream.try_clone().unwrap()).lines();
            let _ = head.map(Result::unwrap).find(String::is_empty);
            let said = r#"{"errorDetail":{"message":"no room"},"error":"no room"}"#;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
            let length = said.len();
            write!(stream, "{head}Content-Length: {length}\r\n\r\n{said}").unwrap();
            stream
        });
        let store = Store::open(dir.path().join("cache")).unwrap();
        // More than the connection and the pipe hold.
        let (digest, size) = store.put_blob(&vec![7; 16 << 20]).unwrap();
        let layer = Layer {
            diff_id: DiffId(digest),
            digest,
            size,
            unpacked: Some(size),
            media_type: String::new(),
            annotations: Default::default(),
        };
        let path = socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&path, 120, API_DEFAULT_VERSION).unwrap();
        let reporter = Reporter::stderr(true);
        let shown = Shown::start(&reporter, "Docker", None);
        let mut transfer = Transfer::start(&docker, &shown, &store, &reporter).unwrap();
        transfer.layer(Packed::stored(&layer).blob().unwrap());
        let answer = tokio::time::timeout(Duration::from_secs(60), transfer.answer()).await;
        match answer.expect("the refusal is not heard") {
            Err(Failure::Refused(why)) => assert_eq!(why, "no room"),
            other => panic!("{other:?}"),
        }
        drop(daemon.join().unwrap());
    }

    #[test]
    fn names_are_heard() {
        let told = |line: &str| {
            let event = serde_json::json!({ "stream": line });
            name_of_loaded(&serde_json::from_value(event).unwrap())
        };
        assert_eq!(
            told("Loaded image: r:5000/a:1\n").as_deref(),
            Some("r:5000/a:1")
        );
        assert_eq!(told("Loaded image ID: sha256:0\n"), None);
    }

    #[test]
    fn progress_counts_each_layer_once() {
        let event = |id: &str, current: i64| {
            serde_json::from_value::<BuildInfo>(serde_json::json!({
                "id": id, "progressDetail": {"current": current, "total": 9},
            }))
            .unwrap()
        };
        let mut layers = HashMap::new();
        let counted: Vec<u64> = [event("a", 3), event("b", 2), event("a", 9)]
            .iter()
            .map(|event| progress(event, &mut layers))
            .collect();
        assert_eq!(counted, [3, 2, 6]);
        assert_eq!(progress(&BuildInfo::default(), &mut layers), 0);
    }
}
