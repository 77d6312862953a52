//! Giving an image to the daemon.

use std::{
    collections::HashMap,
    io::Write,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bollard::{
    Docker,
    models::BuildInfo,
    query_parameters::{ImportImageOptionsBuilder, TagImageOptionsBuilder},
};
use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;

use super::{
    Daemon, is_absent,
    pipe::{Chunks, Pipe},
    teardown, words,
};
use crate::{
    error::{Error, Exit, Result},
    image::Image,
    report::{Reporter, Task, human_bytes},
    sink::{self, ArchiveKind},
    store::Store,
};

/// The daemon answers a load only when it has read everything; slow disks take their time.
const ANSWER: Duration = Duration::from_secs(24 * 3600);
/// How long a stopped transfer may take to come to the end of a layer.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Makes the daemon hold the image under these full names. Sends nothing when it holds it already.
///
/// Safe to drop: the transfer then stops after the layer that is being sent, because Docker 29 may
/// hang at the next load after one that was cut off (moby#51623).
///
/// # Errors
/// When a blob is missing, or the daemon refuses the image or keeps it under another ID.
pub async fn load(
    daemon: &Daemon,
    image: &Image,
    names: &[String],
    store: &Store,
    reporter: &Reporter,
) -> Result<()> {
    let began = Instant::now();
    let shown = names.first().map_or("the image", String::as_str);
    if let Some(id) = held_id(&daemon.docker, image).await? {
        for name in names {
            tag(&daemon.docker, &id, name).await?;
        }
        verify(&daemon.docker, image, names).await?;
        reporter.step(format!(
            "Docker {} holds {shown} already",
            daemon.facts.server
        ));
        return Ok(());
    }
    Transfer::start(daemon, image, names, store, reporter)?
        .finished()
        .await?;
    verify(&daemon.docker, image, names).await?;
    reporter.step(format!(
        "Loaded {shown} into Docker {} ({}, {:.1} s)",
        daemon.facts.server,
        human_bytes(sink::archive_size(image)),
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// The ID under which the daemon holds exactly this image.
async fn held_id(docker: &Docker, image: &Image) -> Result<Option<String>> {
    for digest in [image.config_digest, image.digest] {
        let id = digest.to_string();
        match docker.inspect_image(&id).await {
            Ok(found) if is_id_of(image, found.id.as_deref()) => return Ok(Some(id)),
            Ok(_) => {}
            Err(e) if is_absent(&e) => {}
            Err(e) => {
                return Err(refused(
                    "does not say whether it holds the image",
                    words(&e),
                ));
            }
        }
    }
    Ok(None)
}

/// Classic stores name an image by its config, containerd's by its manifest.
pub(crate) fn is_id_of(image: &Image, id: Option<&str>) -> bool {
    let ours = [image.config_digest.to_string(), image.digest.to_string()];
    id.is_some_and(|id| ours.iter().any(|our| our == id))
}

async fn tag(docker: &Docker, id: &str, name: &str) -> Result<()> {
    let (repository, tag) = split_name(name);
    let options = TagImageOptionsBuilder::new()
        .repo(repository)
        .tag(tag)
        .build();
    docker
        .tag_image(id, Some(options))
        .await
        .map_err(|e| refused(&format!("does not take the name '{name}'"), words(&e)))
}

/// Repository and tag; a colon before a slash is a registry's port.
fn split_name(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    }
}

async fn verify(docker: &Docker, image: &Image, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return match held_id(docker, image).await? {
            Some(_) => Ok(()),
            None => Err(refused(
                "took the image but does not hold it",
                "no such ID".into(),
            )),
        };
    }
    for name in names {
        let found = docker
            .inspect_image(name)
            .await
            .map_err(|e| refused(&format!("took the image but not as '{name}'"), words(&e)))?;
        if !is_id_of(image, found.id.as_deref()) {
            let id = found.id.unwrap_or_default();
            let why = format!("its ID is {id}, expected {}", image.config_digest);
            return Err(refused(&format!("holds another image as '{name}'"), why));
        }
    }
    Ok(())
}

fn refused(what: &str, why: String) -> Error {
    let error = Error::environment(format!("the Docker daemon {what}"));
    if why.contains("no space left") {
        return error
            .why(why)
            .hint("make room on the daemon's disk: docker system prune");
    }
    error.why(why)
}

/// A transfer on a thread of its own, so that it can outlive the future that waits for it.
struct Transfer {
    stop: Arc<AtomicBool>,
    result: Option<oneshot::Receiver<Result<()>>>,
    reporter: Reporter,
}

impl Transfer {
    fn start(
        daemon: &Daemon,
        image: &Image,
        names: &[String],
        store: &Store,
        reporter: &Reporter,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = reporter.bytes("to Docker", Some(sink::archive_size(image)));
        let (pipe, chunks) = Pipe::new(stop.clone(), sent);
        let writer = {
            let (image, names, store) = (image.clone(), names.to_owned(), store.clone());
            thread::spawn(move || write(pipe, &image, &names, &store))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::environment("cannot start a thread").why(e))?;
        let docker = daemon.docker.clone().with_timeout(ANSWER);
        let unpacked = reporter.bytes("Docker unpacks", None);
        let (tell, result) = oneshot::channel();
        thread::spawn(move || {
            let answer = runtime.block_on(post(&docker, chunks, unpacked));
            let written = writer.join().unwrap_or(Ok(()));
            // Our own failure is the cause; the daemon only saw its effect.
            let _ = tell.send(written.and(answer));
        });
        Ok(Self {
            stop,
            result: Some(result),
            reporter: reporter.clone(),
        })
    }

    async fn finished(mut self) -> Result<()> {
        let lost = || Error::new(Exit::Internal, "the transfer to Docker broke off");
        let Some(result) = &mut self.result else {
            return Err(lost());
        };
        let result = result.await.unwrap_or_else(|_| Err(lost()));
        self.result = None;
        result
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let Some(result) = self.result.take() else {
            return;
        };
        self.stop.store(true, Ordering::Relaxed);
        self.reporter
            .step("Stopping after the layer being sent; Ctrl-C again stops at once");
        let work = async move {
            let _ = result.await;
        };
        teardown::finish(work, STOP_LIMIT);
    }
}

/// Writes the archive. A reader that goes away is no failure here: the daemon says why.
fn write(mut pipe: Pipe, image: &Image, names: &[String], store: &Store) -> Result<()> {
    let mut written = sink::stream(image, names, ArchiveKind::Docker, store, &mut pipe);
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

async fn post(docker: &Docker, chunks: Chunks, unpacked: Task) -> Result<()> {
    let body = stream::unfold(chunks, |mut chunks| async {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    });
    let options = ImportImageOptionsBuilder::new().quiet(false).build();
    let mut events = pin!(docker.import_image_stream(options, body, None));
    let mut layers = HashMap::new();
    while let Some(event) = events.next().await {
        let event = event.map_err(|e| refused("does not take the image", words(&e)))?;
        unpacked.add(progress(&event, &mut layers));
    }
    Ok(())
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
    use super::*;

    #[test]
    fn names_are_split_at_the_tag() {
        assert_eq!(split_name("train:dev"), ("train", "dev"));
        assert_eq!(split_name("train"), ("train", "latest"));
        assert_eq!(
            split_name("localhost:5000/a/b:1"),
            ("localhost:5000/a/b", "1")
        );
        assert_eq!(
            split_name("localhost:5000/a"),
            ("localhost:5000/a", "latest")
        );
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
