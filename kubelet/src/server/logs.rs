//! `/containerLogs`: which attempt's log is meant, and reading it: tail, since, limits, following over rotation.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::Frame;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::sync::mpsc;

use super::Server;
use super::answer::{self, Body};
use super::route::{Place, Query};
use crate::pods::{containers, logs};
use crate::runtime::{ContainerRef, ContainerStatus, PodRef};

/// Most bytes of one chunk to the client.
const CHUNK: usize = 32 << 10;
/// Longest physical line: the shim splits longer ones.
const MAX_LINE: usize = 256 << 10;

/// `PodLogOptions`, as far as the kubelet acts on it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    follow: bool,
    timestamps: bool,
    since: Option<Timestamp>,
    tail: Option<u64>,
    limit: Option<u64>,
    stream: Option<&'static str>,
}

fn options(query: &Query, now: Timestamp) -> Result<Options, String> {
    let number = |key: &str| {
        query
            .get(key)
            .map(|v| v.parse::<u64>().map_err(|_| format!("invalid {key} {v:?}")))
            .transpose()
    };
    let since = match (query.get("sinceTime"), number("sinceSeconds")?) {
        (Some(text), _) => Some(
            text.parse()
                .map_err(|_| format!("invalid sinceTime {text:?}"))?,
        ),
        (None, Some(seconds)) => {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).min(1 << 40);
            Some(
                now.checked_sub(jiff::SignedDuration::from_secs(seconds))
                    .unwrap_or(Timestamp::MIN),
            )
        }
        (None, None) => None,
    };
    let stream = match query.get("stream") {
        None | Some("All") => None,
        Some("Stdout") => Some("stdout"),
        Some("Stderr") => Some("stderr"),
        Some(other) => return Err(format!("invalid stream {other:?}")),
    };
    Ok(Options {
        follow: query.is("follow"),
        timestamps: query.is("timestamps"),
        since,
        tail: number("tailLines")?,
        limit: number("limitBytes")?,
        stream,
    })
}

/// Picks lines and writes them as the client wants them. Pure.
#[derive(Debug)]
struct Printer {
    options: Options,
    line_begun: bool,
    left: u64,
}

impl Printer {
    fn new(options: Options) -> Self {
        let left = options.limit.unwrap_or(u64::MAX);
        Self {
            options,
            line_begun: false,
            left,
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, bytes: &[u8]) {
        let count = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        out.extend_from_slice(&bytes[..count]);
        self.left -= count as u64;
    }

    /// One physical line: `<time> <stream> <P|F> <text>`.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(stream), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        if self
            .options
            .stream
            .is_some_and(|wanted| wanted.as_bytes() != stream)
        {
            return;
        }
        if let Some(since) = self.options.since {
            let at = std::str::from_utf8(time)
                .ok()
                .and_then(|t| t.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
        }
        if self.options.timestamps && !self.line_begun {
            self.put(out, time);
            self.put(out, b" ");
        }
        let partial = tag == b"P";
        let text = if partial {
            text.strip_suffix(b"\n").unwrap_or(text)
        } else {
            text
        };
        self.put(out, text);
        self.line_begun = partial;
    }

    fn done(&self) -> bool {
        self.left == 0
    }
}

/// Where the last `lines` lines begin.
async fn tail_offset(file: &mut tokio::fs::File, lines: u64) -> std::io::Result<u64> {
    let length = file.metadata().await?.len();
    let (mut end, mut seen) = (length, 0);
    let mut buffer = vec![0; CHUNK];
    if lines == 0 {
        return Ok(length);
    }
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let size = usize::try_from(end - start).unwrap_or(CHUNK);
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut buffer[..size]).await?;
        for (index, byte) in buffer[..size].iter().enumerate().rev() {
            let at = start + index as u64 + 1;
            // The newline at the very end ends the last line, it begins none.
            if *byte == b'\n' && at < length {
                seen += 1;
                if seen == lines {
                    return Ok(at);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// A watch of the log's directory.
fn notices(path: &Path) -> Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
    inotify::add_watch(
        &fd,
        path.parent()?,
        WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO,
    )
    .ok()?;
    // SAFETY: an OwnedFd answers with the same open descriptor for as long as it lives.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.ok()
}

struct Follow {
    runtime: std::sync::Arc<dyn crate::runtime::Runtime>,
    container: ContainerRef,
    notices: Option<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>>,
    events: tokio::sync::broadcast::Receiver<crate::runtime::RuntimeEvent>,
}

impl Follow {
    /// Whether the container may still write.
    async fn alive(&self) -> bool {
        match self.runtime.sandbox(&self.container.pod_uid).await {
            Ok(Some(sandbox)) => sandbox
                .containers
                .iter()
                .any(|c| c.container == self.container && containers::running(c)),
            Ok(None) => false,
            Err(_) => true,
        }
    }

    async fn wait(&mut self) {
        let noticed = async {
            let Some(fd) = &self.notices else {
                return std::future::pending().await;
            };
            if let Ok(mut guard) = fd.readable().await {
                let mut events = [0; 4096];
                while nix::unistd::read(fd.get_ref(), &mut events).is_ok_and(|n| n > 0) {}
                guard.clear_ready();
            }
        };
        tokio::select! {
            () = noticed => {}
            _ = self.events.recv() => {}
            // Should a notice be lost.
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
}

type Sender = mpsc::Sender<std::io::Result<Frame<Bytes>>>;

/// Sends the log until its end, the limit, or the client's end.
async fn read(
    path: PathBuf,
    options: Options,
    mut follow: Option<Follow>,
    sender: Sender,
) -> std::io::Result<()> {
    let mut file = tokio::fs::File::open(&path).await?;
    let start = match options.tail {
        Some(lines) => tail_offset(&mut file, lines).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await?;
    let mut printer = Printer::new(options);
    let (mut pending, mut buffer, mut out) = (Vec::new(), vec![0; CHUNK], Vec::new());
    let mut ending = false;
    loop {
        let count = file.read(&mut buffer).await?;
        pending.extend_from_slice(&buffer[..count]);
        let mut used = 0;
        while let Some(end) = pending[used..].iter().position(|b| *b == b'\n') {
            printer.line(&pending[used..=used + end], &mut out);
            used += end + 1;
        }
        pending.drain(..used);
        if pending.len() > MAX_LINE {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "log line is too long",
            ));
        }
        let full = out.len() >= CHUNK || count == 0 || follow.is_some() || printer.done();
        if full && !out.is_empty() {
            let chunk = Bytes::from(std::mem::take(&mut out));
            if sender.send(Ok(Frame::data(chunk))).await.is_err() {
                return Ok(());
            }
        }
        if printer.done() {
            return Ok(());
        }
        if count > 0 {
            continue;
        }
        let Some(follow) = &mut follow else {
            return Ok(());
        };
        // Rotated: what is at the path now is another file; the old one was just read to its end.
        let (ours, theirs) = (
            file.metadata().await?.ino(),
            tokio::fs::metadata(&path).await.map(|m| m.ino()),
        );
        if theirs.is_ok_and(|inode| inode != ours) {
            file = tokio::fs::File::open(&path).await?;
            ending = false;
            continue;
        }
        if ending || sender.is_closed() {
            return Ok(());
        }
        // Once more after the end, for what was written in between.
        ending = !follow.alive().await;
        if !ending {
            tokio::select! {
                () = follow.wait() => {}
                () = sender.closed() => return Ok(()),
            }
        }
    }
}

/// The attempt whose log is meant.
fn choose<'a>(
    sandbox: Option<&'a crate::runtime::SandboxStatus>,
    place: &Place,
    previous: bool,
    reason: Option<String>,
) -> Result<&'a ContainerStatus, String> {
    let (name, pod) = (
        &place.container,
        place.pod.metadata.name.as_deref().unwrap_or_default(),
    );
    if !containers::of(&place.pod).iter().any(|i| i.name() == name) {
        return Err(format!("container {name:?} not found in pod {pod:?}"));
    }
    if previous {
        let found = containers::previous(sandbox, name);
        return found.ok_or_else(|| {
            format!("previous terminated container {name:?} in pod {pod:?} not found")
        });
    }
    match containers::latest(sandbox, name) {
        Some(status) if status.state != crate::runtime::ContainerState::Created => Ok(status),
        _ => match reason {
            Some(reason)
                if matches!(
                    reason.as_str(),
                    "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull"
                ) =>
            {
                Err(format!(
                    "container {name:?} in pod {pod:?} is waiting to start: {}",
                    image_words(&reason)
                ))
            }
            Some(reason) => Err(format!(
                "container {name:?} in pod {pod:?} is waiting to start: {reason}"
            )),
            None => Err(format!(
                "container {name:?} in pod {pod:?} is not available"
            )),
        },
    }
}

fn image_words(reason: &str) -> &'static str {
    match reason {
        "ErrImagePull" => "image can't be pulled",
        "InvalidImageName" => "image name is invalid",
        "ErrImageNeverPull" => "image is not present and never pulled",
        _ => "trying and failing to pull image",
    }
}

fn waiting_reason(server: &Server, place: &Place) -> Option<String> {
    let status = server.host.statuses.get(place.uid())?;
    let mut all = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten();
    let found = all.find(|s| s.name == place.container)?.clone();
    found.state?.waiting?.reason
}

/// The log of a container.
pub async fn answer(server: &Server, place: &Place, query: &Query) -> Response<Body> {
    let options = match options(query, server.host.clock.now()) {
        Ok(options) => options,
        Err(message) => return answer::text(StatusCode::BAD_REQUEST, message),
    };
    let runtime = &server.host.runtime.runtime;
    // Before the look, so that no exit is missed after it.
    let events = runtime.events();
    let sandbox = match runtime.sandbox(place.uid()).await {
        Ok(sandbox) => sandbox,
        Err(error) => return answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let status = match choose(
        sandbox.as_ref(),
        place,
        query.is("previous"),
        waiting_reason(server, place),
    ) {
        Ok(status) => status,
        Err(message) => return answer::text(StatusCode::BAD_REQUEST, message),
    };
    let meta = &place.pod.metadata;
    let pod = PodRef {
        uid: place.uid().to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    };
    let path = logs::absolute(&server.host, &pod, status);
    if !path.exists() {
        return answer::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("failed to try resolving symlinks in path {path:?}: no such file or directory"),
        );
    }
    let follow = options.follow.then(|| Follow {
        runtime: runtime.clone(),
        container: status.container.clone(),
        notices: notices(&path),
        events,
    });
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        if let Err(error) = read(path, options, follow, sender.clone()).await {
            // The client sees a broken body, which is what happened.
            let _ = sender.send(Err(error)).await;
        }
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    });
    answer::text_stream(answer::streamed(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr P tw\n2026-01-01T00:00:02.5Z stderr F o\n2026-01-01T00:00:03Z stdout F three\n";

    fn print(options: Options) -> String {
        let mut printer = Printer::new(options);
        let mut out = Vec::new();
        for line in LOG.split_inclusive('\n') {
            printer.line(line.as_bytes(), &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_printed() {
        assert_eq!(print(Options::default()), "one\ntwo\nthree\n");
        let stamped = print(Options {
            timestamps: true,
            ..Options::default()
        });
        assert_eq!(
            stamped,
            "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z three\n"
        );
        assert_eq!(
            print(Options {
                since: Some("2026-01-01T00:00:02.1Z".parse().unwrap()),
                ..Options::default()
            }),
            "o\nthree\n"
        );
        assert_eq!(
            print(Options {
                limit: Some(5),
                ..Options::default()
            }),
            "one\nt"
        );
        assert_eq!(
            print(Options {
                stream: Some("stderr"),
                ..Options::default()
            }),
            "two\n"
        );
    }

    #[tokio::test]
    async fn what_fits_in_the_limit_is_sent() {
        let path = std::env::temp_dir().join(format!("keelson-limit-{}", std::process::id()));
        std::fs::write(&path, LOG).unwrap();
        let (sender, mut chunks) = mpsc::channel(4);
        let options = Options {
            limit: Some(1),
            ..Options::default()
        };
        read(path.clone(), options, None, sender).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let chunk = chunks.recv().await.unwrap().unwrap();
        assert_eq!(chunk.into_data().unwrap(), Bytes::from_static(b"o"));
        assert!(chunks.recv().await.is_none());
    }

    #[tokio::test]
    async fn tails() {
        let path = std::env::temp_dir().join(format!("keelson-tail-{}", std::process::id()));
        std::fs::write(&path, "a\nbb\nccc\n").unwrap();
        let mut file = tokio::fs::File::open(&path).await.unwrap();
        for (lines, offset) in [(0, 9), (1, 5), (2, 2), (3, 0), (9, 0)] {
            assert_eq!(
                tail_offset(&mut file, lines).await.unwrap(),
                offset,
                "{lines}"
            );
        }
        std::fs::remove_file(&path).unwrap();
    }
}
