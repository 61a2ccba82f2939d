//! Running a command in a container to its end, for probes, hooks and `/run`.

use std::time::Duration;

use crate::fdio::{FdStream, read_bounded};
use crate::runtime::{ContainerRef, ExecRequest, Runtime, RuntimeError};

/// How a command came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// What it printed on both streams, bounded.
    pub output: String,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The runtime could not run it.
    #[error("{0}")]
    Runtime(#[from] RuntimeError),
    /// It took too long.
    #[error("command {command:?} timed out after {seconds}s")]
    Timeout {
        /// The command.
        command: String,
        /// Seconds it had.
        seconds: u64,
    },
    /// Its streams broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Runs `command`, keeping at most `most` bytes of its output.
pub async fn run(
    runtime: &dyn Runtime,
    container: &ContainerRef,
    command: &[String],
    timeout: Option<Duration>,
    most: usize,
) -> Result<Outcome, ExecError> {
    let request = ExecRequest {
        command: command.to_vec(),
        stdout: true,
        stderr: true,
        timeout,
        ..ExecRequest::default()
    };
    let work = async {
        let session = runtime.exec(container, &request).await?;
        let read = |fd: Option<std::os::fd::OwnedFd>| async move {
            match fd {
                Some(fd) => read_bounded(FdStream::new(fd)?, most).await,
                None => Ok(Vec::new()),
            }
        };
        // A child in the background may hold the streams open after the command itself has ended.
        let exit = session.exit;
        let output = async { tokio::join!(read(session.stdout), read(session.stderr)) };
        tokio::pin!(output);
        let mut streams = None;
        let mut exit = exit;
        let code = tokio::select! {
            code = &mut exit => code,
            both = &mut output => {
                streams = Some(both);
                exit.await
            }
        };
        let code = code.map_err(|_| {
            RuntimeError::Other("the exec session ended without an exit code".into())
        })?;
        let (out, err) = match streams {
            Some(both) => both,
            None => tokio::time::timeout(Duration::from_secs(1), output)
                .await
                .unwrap_or((Ok(Vec::new()), Ok(Vec::new()))),
        };
        let mut bytes = out?;
        bytes.extend(err?);
        Ok(Outcome {
            code,
            output: String::from_utf8_lossy(&bytes).into_owned(),
        })
    };
    match timeout {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ExecError::Timeout {
                command: command.join(" "),
                seconds: limit.as_secs(),
            }),
        },
    }
}
