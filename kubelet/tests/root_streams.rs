//! Exec and attach with real shims: streams, terminals, exit codes, bounds.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use kubelet::runtime::{ExecRequest, Runtime, RuntimeError};
use support::{Host, finish, in_own_network, read_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

fn command(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn write_and_close(fd: Option<OwnedFd>, data: &[u8]) {
    let mut pipe = pipe::Sender::from_owned_fd(fd.unwrap()).unwrap();
    pipe.write_all(data).await.unwrap();
}

/// Reads a terminal's master until it has shown `until` or is gone.
async fn read_terminal(master: &OwnedFd, until: &str) -> String {
    let master = master.try_clone().unwrap();
    let until = until.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        let before = Instant::now();
        while !text.contains(&until) && before.elapsed() < Duration::from_secs(10) {
            let mut fds = [nix::poll::PollFd::new(
                master.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            if nix::poll::poll(&mut fds, 1000_u16).unwrap() == 0 {
                continue;
            }
            let mut buffer = [0; 1024];
            match nix::unistd::read(&master, &mut buffer) {
                Ok(0) | Err(nix::errno::Errno::EIO) => break,
                Ok(length) => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
                Err(nix::errno::Errno::EAGAIN) => {}
                Err(errno) => panic!("{errno}"),
            }
        }
        text
    })
    .await
    .unwrap()
}

#[test]
fn exec_codes_and_streams() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("exec");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let mut spec = host.container(&pod, "main", &["sleep", "1000"]);
        spec.env = vec![("GREETING".into(), "hi".into())];
        host.start(&spec).await;
        let (code, stdout, stderr) = host
            .exec(
                &spec.container,
                &["sh", "-c", "echo $GREETING; echo err >&2; exit 42"],
            )
            .await;
        assert_eq!(
            (code, stdout.as_str(), stderr.as_str()),
            (42, "hi\n", "err\n")
        );
        assert_eq!(
            host.exec(&spec.container, &["sh", "-c", "kill -9 $$"])
                .await
                .0,
            137
        );
        for (words, want) in [
            (
                vec!["xx"],
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"xx\": executable file not found in $PATH: unknown",
            ),
            (
                vec!["/xx"],
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/xx\": stat /xx: no such file or directory: unknown",
            ),
            (
                vec!["/etc/plain"],
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/etc/plain\": permission denied: unknown",
            ),
        ] {
            let request = ExecRequest {
                command: command(&words),
                stdout: true,
                ..ExecRequest::default()
            };
            let error = host
                .runtime
                .exec(&spec.container, &request)
                .await
                .unwrap_err();
            assert!(
                matches!(&error, RuntimeError::Start(message) if message == want),
                "{error}"
            );
        }
        // What goes in comes out.
        let request = ExecRequest {
            command: command(&["cat"]),
            stdin: true,
            stdout: true,
            ..ExecRequest::default()
        };
        let mut session = host.runtime.exec(&spec.container, &request).await.unwrap();
        let data = vec![b'x'; 1 << 20];
        let stdin = session.stdin.take();
        let ((), (code, stdout, _)) = tokio::join!(write_and_close(stdin, &data), finish(session));
        assert_eq!((code, stdout.len()), (0, data.len()));
        // Long commands fit.
        let long = "y".repeat(100 << 10);
        let (code, stdout, _) = host.exec(&spec.container, &["echo", "-n", &long]).await;
        assert_eq!((code, stdout.len()), (0, long.len()));
        // Time is bounded.
        let request = ExecRequest {
            command: command(&["sleep", "100"]),
            timeout: Some(Duration::from_millis(300)),
            ..ExecRequest::default()
        };
        let before = Instant::now();
        let session = host.runtime.exec(&spec.container, &request).await.unwrap();
        assert_eq!(session.exit.await.unwrap(), 137);
        assert!(before.elapsed() < Duration::from_secs(5));
        // Failed execs leave nothing behind.
        let (_, processes, _) = host.exec(&spec.container, &["ps"]).await;
        assert_eq!(processes.lines().count(), 3, "{processes}");
        let tasks: Vec<_> = (0..30)
            .map(|number| {
                let runtime = host.runtime.clone();
                let container = spec.container.clone();
                tokio::spawn(async move {
                    let request = ExecRequest {
                        command: command(&["echo", &number.to_string()]),
                        stdout: true,
                        ..ExecRequest::default()
                    };
                    let (code, stdout, _) =
                        finish(runtime.exec(&container, &request).await.unwrap()).await;
                    assert_eq!((code, stdout), (0, format!("{number}\n")));
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        host.close().await;
    });
}

#[test]
fn exec_with_a_terminal() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("tty");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let spec = host.container(&pod, "main", &["sleep", "1000"]);
        host.start(&spec).await;
        let request = ExecRequest {
            // The size is there before the program starts.
            command: command(&["sh", "-c", "stty size; sh"]),
            stdin: true,
            stdout: true,
            tty: true,
            size: Some((24, 80)),
            ..ExecRequest::default()
        };
        let session = host.runtime.exec(&spec.container, &request).await.unwrap();
        let master = session.pty.unwrap();
        let text = read_terminal(&master, "24 80").await;
        assert!(text.contains("24 80"), "{text}");
        let size = nix::libc::winsize {
            ws_row: 33,
            ws_col: 77,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCSWINSZ reads one winsize.
        unsafe { nix::libc::ioctl(master.as_raw_fd(), nix::libc::TIOCSWINSZ, &size) };
        nix::unistd::write(&master, b"stty size; tty; exit 9\n").unwrap();
        let text = read_terminal(&master, "/dev/pts/").await;
        assert!(
            text.contains("33 77") && text.contains("/dev/pts/"),
            "{text}"
        );
        assert_eq!(session.exit.await.unwrap(), 9);
        host.close().await;
    });
}

#[test]
fn attach_to_pipes() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("attach");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let mut spec = host.container(&pod, "cat", &["sh", "-c", "cat; echo end >&2"]);
        spec.stdin = true;
        spec.stdin_once = true;
        host.start(&spec).await;
        // Two see the same; a third never reads.
        let first = host
            .runtime
            .attach(&spec.container, true, true, true)
            .await
            .unwrap();
        let second = host
            .runtime
            .attach(&spec.container, false, true, false)
            .await
            .unwrap();
        let stuck = host
            .runtime
            .attach(&spec.container, false, true, true)
            .await
            .unwrap();
        let data = "line\n".repeat(1 << 20);
        let ((), stdout, seen, stderr) = tokio::join!(
            write_and_close(first.stdin, data.as_bytes()),
            read_all(first.stdout),
            read_all(second.stdout),
            read_all(first.stderr),
        );
        assert_eq!(
            (stdout.len(), seen.len(), stderr.as_str()),
            (data.len(), data.len(), "end\n")
        );
        assert_eq!(
            (
                first.exit.await.unwrap(),
                host.wait(&spec.container).await.0
            ),
            (0, 0)
        );
        drop(stuck);
        assert_eq!(host.log(&spec).len(), (1 << 20) + 1);
        host.close().await;
    });
}

#[test]
fn attach_to_a_terminal() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("attach-tty");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let mut spec = host.container(&pod, "sh", &["sh"]);
        (spec.stdin, spec.tty) = (true, true);
        host.start(&spec).await;
        let session = host
            .runtime
            .attach(&spec.container, true, true, false)
            .await
            .unwrap();
        assert!(session.pty.is_some());
        let mut stdin = pipe::Sender::from_owned_fd(session.stdin.unwrap()).unwrap();
        let mut stdout = pipe::Receiver::from_owned_fd(session.stdout.unwrap()).unwrap();
        stdin.write_all(b"echo $TERM-$((6*7))\n").await.unwrap();
        let mut text = String::new();
        while !text.contains("xterm-42") {
            let mut buffer = [0; 256];
            let length = tokio::time::timeout(Duration::from_secs(10), stdout.read(&mut buffer))
                .await
                .unwrap()
                .unwrap();
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        // Without stdinOnce the container goes on when its client goes.
        drop((stdin, stdout));
        tokio::time::sleep(Duration::from_millis(200)).await;
        let session = host
            .runtime
            .attach(&spec.container, true, true, false)
            .await
            .unwrap();
        write_and_close(session.stdin, b"exit 6\n").await;
        assert_eq!(host.wait(&spec.container).await, (6, false));
        assert!(
            host.log(&spec)
                .iter()
                .any(|line| line.starts_with("stdout F xterm-42")),
            "{:?}",
            host.log(&spec)
        );
        host.close().await;
    });
}

#[test]
fn logs_are_split_and_reopened() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("logs");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let script = "head -c 40000 /dev/zero | busybox tr '\\0' x; echo; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo after";
        let spec = host.container(&pod, "long", &["sh", "-c", script]);
        host.start(&spec).await;
        while host.log(&spec).len() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let lengths: Vec<(String, usize)> = host
            .log(&spec)
            .iter()
            .map(|line| (line[..8].to_owned(), line.len() - 9))
            .collect();
        assert_eq!(
            lengths,
            [
                ("stdout P".into(), 16384),
                ("stdout P".into(), 16384),
                ("stdout F".into(), 7232)
            ]
        );
        let path = host.directory.path().join("logs/logs/long/0.log");
        std::fs::rename(&path, path.with_extension("log.1")).unwrap();
        host.runtime.reopen_log(&spec.container).await.unwrap();
        host.exec(&spec.container, &["touch", "/tmp/go"]).await;
        host.wait(&spec.container).await;
        assert_eq!(host.log(&spec), ["stdout F after"]);
        host.close().await;
    });
}
