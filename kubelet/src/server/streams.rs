//! exec, attach, port-forward and run: between the client's streams and the container's.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use keelson_streaming::pipe::{Reader, Writer};
use keelson_streaming::remote_command::{self, RemoteCommand, Wanted};
use keelson_streaming::{Outcome, Size, port_forward as forwarding};
use tokio::io::AsyncWriteExt;

use super::Server;
use super::answer::{self, Body};
use super::route::{Place, Query, running};
use crate::exec;
use crate::fdio::FdStream;
use crate::runtime::{ContainerRef, ExecRequest, Runtime, Session};

/// How long output is awaited after the command itself has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a program with a terminal waits for the client to say how large it is.
const FIRST_SIZE: Duration = Duration::from_millis(150);
/// Most output of `/run`.
const MAX_RUN_OUTPUT: usize = 1 << 20;

fn boxed(response: Response<Full<Bytes>>) -> Response<Body> {
    response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}

/// exec or attach.
pub async fn remote_command(
    server: &Arc<Server>,
    mut request: Request<Incoming>,
    place: Place,
    query: &Query,
    exec: bool,
) -> Response<Body> {
    let is = |kubelet: &str, api: &str| query.is(kubelet) || query.is(api);
    let tty = query.is("tty");
    let wanted = Wanted {
        stdin: is("input", "stdin"),
        stdout: is("output", "stdout"),
        stderr: is("error", "stderr") && !tty,
        tty,
    };
    if !wanted.stdin && !wanted.stdout && !wanted.stderr {
        return answer::text(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr",
        );
    }
    let command = query.all("command");
    if exec && command.is_empty() {
        return answer::text(StatusCode::BAD_REQUEST, "you must specify a command");
    }
    let container = match running(server, &place).await {
        Ok(container) => container,
        Err(response) => return response,
    };
    let (response, accepted) = match remote_command::accept(request.headers(), wanted) {
        Ok(accepted) => accepted,
        Err(error) => return boxed(error.response()),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let server = server.clone();
    tokio::spawn(async move {
        let Ok(io) = upgrade.await else { return };
        let client = match accepted.serve(TokioIo::new(io)).await {
            Ok(client) => client,
            Err(error) => {
                tracing::debug!(%error, "remote command not begun");
                return;
            }
        };
        let runtime = &*server.host.runtime.runtime;
        let asked = if exec {
            Asked::Exec(command)
        } else {
            Asked::Attach
        };
        serve(runtime, &container, asked, wanted, client).await;
    });
    boxed(response)
}

enum Asked {
    Exec(Vec<String>),
    Attach,
}

async fn serve(
    runtime: &dyn Runtime,
    container: &ContainerRef,
    asked: Asked,
    wanted: Wanted,
    mut client: RemoteCommand,
) {
    let (session, what) = match &asked {
        Asked::Exec(command) => {
            let request = ExecRequest {
                size: first_size(&mut client, wanted.tty).await,
                command: command.clone(),
                stdin: wanted.stdin,
                stdout: wanted.stdout,
                stderr: wanted.stderr,
                tty: wanted.tty,
                timeout: None,
            };
            (
                runtime.exec(container, &request).await,
                "error executing command in container",
            )
        }
        Asked::Attach => {
            let attached = runtime
                .attach(container, wanted.stdin, wanted.stdout, wanted.stderr)
                .await;
            (attached, "error attaching to container")
        }
    };
    let outcome = match session {
        Ok(session) => join(session, &mut client, matches!(asked, Asked::Exec(_))).await,
        Err(error) => Outcome::Failure(format!("{what}: {error}")),
    };
    client.stdout.take();
    client.stderr.take();
    client.stdin.take();
    client.end.finish(&outcome).await;
}

/// The size a client sends at once, so that the program finds its terminal that large from the start.
async fn first_size(client: &mut RemoteCommand, tty: bool) -> Option<(u16, u16)> {
    let sizes = client.resize.as_mut().filter(|_| tty)?;
    let size = tokio::time::timeout(FIRST_SIZE, sizes.recv()).await;
    size.ok().flatten().map(|size| (size.height, size.width))
}

async fn to_container(fd: OwnedFd, mut from: Reader) {
    if let Ok(mut to) = FdStream::new(fd) {
        // The container may close its input whenever it likes.
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
}

async fn to_client(fd: Option<OwnedFd>, to: Option<Writer>) {
    let (Some(fd), Some(mut to)) = (fd, to) else {
        return;
    };
    if let Ok(mut from) = FdStream::new(fd) {
        // Either side may go first; the outcome tells the rest.
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
    let _ = to.shutdown().await;
}

fn resize(pty: &OwnedFd, size: Size) {
    let size = nix::libc::winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open for as long as `pty` lives, and TIOCSWINSZ reads one winsize.
    let result =
        unsafe { nix::libc::ioctl(pty.as_raw_fd(), nix::libc::TIOCSWINSZ, &raw const size) };
    if result != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "resizing a terminal");
    }
}

/// Copies until the command has ended, or the client is gone.
async fn join(session: Session, client: &mut RemoteCommand, exec: bool) -> Outcome {
    let Session {
        stdin,
        stdout,
        stderr,
        pty,
        mut exit,
    } = session;
    let typing = match (stdin, client.stdin.take()) {
        (Some(fd), Some(from)) => Some(tokio::spawn(to_container(fd, from))),
        _ => None,
    };
    let sizes = match (pty, client.resize.take()) {
        (Some(pty), Some(mut sizes)) => Some(tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                resize(&pty, size);
            }
        })),
        _ => None,
    };
    let (out, err) = (client.stdout.take(), client.stderr.take());
    let mut output =
        tokio::spawn(async move { tokio::join!(to_client(stdout, out), to_client(stderr, err)) });
    let code = tokio::select! {
        code = &mut exit => code,
        () = client.end.gone.cancelled() => {
            [typing, sizes].into_iter().flatten().for_each(|t| t.abort());
            output.abort();
            return Outcome::Success;
        }
    };
    // A child in the background may hold the streams open for ever.
    if tokio::time::timeout(DRAIN, &mut output).await.is_err() {
        output.abort();
    }
    [typing, sizes]
        .into_iter()
        .flatten()
        .for_each(|t| t.abort());
    match (code, exec) {
        (Ok(code), true) => Outcome::of_code(code),
        (_, false) => Outcome::Success,
        (Err(_), true) => Outcome::Failure("the exec session ended without an exit code".into()),
    }
}

/// port-forward.
pub async fn port_forward(
    server: &Arc<Server>,
    mut request: Request<Incoming>,
    pod: Arc<Pod>,
) -> Response<Body> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    match server.host.runtime.runtime.sandbox(&uid).await {
        Ok(Some(sandbox)) if sandbox.ready => {}
        Ok(_) => {
            return answer::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("not running ({uid})"),
            );
        }
        Err(error) => return answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
    let (response, accepted) = match forwarding::accept(request.headers()) {
        Ok(accepted) => accepted,
        Err(error) => return boxed(error.response()),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let server = server.clone();
    tokio::spawn(async move {
        let Ok(io) = upgrade.await else { return };
        let mut session = accepted.serve(TokioIo::new(io)).await;
        let mut connections = tokio::task::JoinSet::new();
        while let Some(forward) = session.next().await {
            let (server, uid) = (server.clone(), uid.clone());
            connections.spawn(async move {
                let port = forward.port;
                match server.host.runtime.runtime.dial(&uid, port).await {
                    Ok(stream) => {
                        if let Err(error) = forward.join(stream).await {
                            tracing::debug!(%error, port, "forwarding a port");
                        }
                    }
                    Err(error) => {
                        forward
                            .fail(&format!(
                                "error forwarding port {port} to pod {uid}, uid : {error}"
                            ))
                            .await
                    }
                }
            });
            while connections.try_join_next().is_some() {}
        }
    });
    boxed(response)
}

/// `/run`: a command's output as the answer.
pub async fn run(server: &Server, place: &Place, query: &Query) -> Response<Body> {
    let container = match running(server, place).await {
        Ok(container) => container,
        Err(response) => return response,
    };
    let command: Vec<String> = query
        .all("cmd")
        .iter()
        .flat_map(|c| c.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    match exec::run(
        &*server.host.runtime.runtime,
        &container,
        &command,
        Some(Duration::from_secs(120)),
        MAX_RUN_OUTPUT,
    )
    .await
    {
        Ok(outcome) if outcome.code == 0 => answer::text(StatusCode::OK, outcome.output),
        Ok(outcome) => {
            let message = format!(
                "command '{}' exited with {}: {}",
                command.join(" "),
                outcome.code,
                outcome.output
            );
            answer::text(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
        Err(error) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
