//! The runtime with real shims, libcontainer, overlayfs and cgroups: the lives of containers.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::time::{Duration, Instant};

use kubelet::runtime::{
    ContainerRef, ContainerState, Images, Resources, Runtime, RuntimeError, RuntimeEvent,
};
use support::{Host, in_own_network};

#[test]
fn runs_logs_and_exits() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("first");
        let sandbox = host.runtime.run_sandbox(&pod).await.unwrap();
        assert!(sandbox.ready && sandbox.ips.len() == 1, "{sandbox:?}");
        // Repeated, it is the same.
        assert_eq!(host.runtime.run_sandbox(&pod).await.unwrap(), sandbox);
        let spec = host.container(
            &pod,
            "main",
            &[
                "sh",
                "-c",
                "echo hello; echo oops >&2; hostname; env; echo -n rest; exit 7",
            ],
        );
        host.start(&spec).await;
        assert_eq!(host.wait(&spec.container).await, (7, false));
        let log = host.log(&spec);
        for line in [
            "stdout F hello",
            "stderr F oops",
            "stdout F first",
            "stdout F IMAGE=yes",
            "stdout F HOME=/root",
            // A line that never ended is a part of one.
            "stdout P rest",
        ] {
            assert!(log.contains(&line.to_owned()), "{line}: {log:?}");
        }
        // The image can't go while a container of it is there.
        assert!(
            host.runtime
                .remove(&host.image)
                .await
                .unwrap_err()
                .to_string()
                .contains("is used by container")
        );
        host.runtime
            .remove_container(&spec.container)
            .await
            .unwrap();
        Images::remove(&host.runtime, &host.image).await.unwrap();
        assert!(Images::list(&host.runtime).await.unwrap().is_empty());
        host.close().await;
    });
}

#[test]
fn what_cannot_start_says_why() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("broken");
        host.runtime.run_sandbox(&pod).await.unwrap();
        for (name, command, want) in [
            (
                "missing",
                "no-such",
                "exec: \"no-such\": executable file not found in $PATH",
            ),
            (
                "path",
                "/no/such",
                "exec: \"/no/such\": stat /no/such: no such file or directory",
            ),
            (
                "plain",
                "/etc/plain",
                "exec: \"/etc/plain\": permission denied",
            ),
        ] {
            let spec = host.container(&pod, name, &[command]);
            host.runtime.create_container(&spec).await.unwrap();
            let error = host
                .runtime
                .start_container(&spec.container)
                .await
                .unwrap_err();
            assert!(
                matches!(&error, RuntimeError::Start(message) if message.contains(want)),
                "{error:?}"
            );
            let ContainerState::Exited {
                exit_code,
                message,
                started_at,
                ..
            } = host.status(&spec.container).await.state
            else {
                panic!("not ended")
            };
            assert_eq!((exit_code, started_at), (128, None));
            assert!(message.contains(want), "{message}");
        }
        let mut spec = host.container(&pod, "user", &["true"]);
        spec.security.run_as_non_root = true;
        host.runtime.create_container(&spec).await.unwrap();
        let error = host
            .runtime
            .start_container(&spec.container)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("runAsNonRoot"), "{error}");
        host.close().await;
    });
}

#[test]
fn stops_with_grace_and_without() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("stop");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let polite = host.container(
            &pod,
            "polite",
            &[
                "sh",
                "-c",
                "trap 'echo bye; exit 3' TERM; echo up; while true; do sleep 0.05; done",
            ],
        );
        let deaf = host.container(
            &pod,
            "deaf",
            &[
                "sh",
                "-c",
                "trap '' TERM; echo up; while true; do sleep 0.05; done",
            ],
        );
        host.start(&polite).await;
        host.start(&deaf).await;
        for spec in [&polite, &deaf] {
            while host.log(spec).is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        host.runtime
            .stop_container(&polite.container, Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!(host.wait(&polite.container).await, (3, false));
        assert!(host.log(&polite).contains(&"stdout F bye".to_owned()));
        let before = Instant::now();
        host.runtime
            .stop_container(&deaf.container, Duration::from_millis(500))
            .await
            .unwrap();
        assert!(
            before.elapsed() >= Duration::from_millis(500)
                && before.elapsed() < Duration::from_secs(5)
        );
        assert_eq!(host.wait(&deaf.container).await, (137, false));
        // Again is fine.
        host.runtime
            .stop_container(&deaf.container, Duration::from_secs(1))
            .await
            .unwrap();
        host.close().await;
    });
}

#[test]
fn memory_is_bounded() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("oom");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let mut spec = host.container(
            &pod,
            "eater",
            &["sh", "-c", "x=a; while true; do x=$x$x; done"],
        );
        spec.resources = Resources {
            memory_limit: Some(16 << 20),
            ..Resources::default()
        };
        host.start(&spec).await;
        assert_eq!(host.wait(&spec.container).await, (137, true));
        let mut spec = host.container(&pod, "modest", &["sleep", "100"]);
        spec.resources = Resources {
            memory_limit: Some(64 << 20),
            cpu_shares: Some(512),
            pids_limit: Some(20),
            ..Resources::default()
        };
        host.start(&spec).await;
        let usage = host.runtime.usage(&spec.container).await.unwrap();
        assert!(usage.memory_usage > 0 && usage.pids == 1, "{usage:?}");
        let resources = Resources {
            memory_limit: Some(128 << 20),
            ..Resources::default()
        };
        host.runtime
            .update_resources(&spec.container, &resources)
            .await
            .unwrap();
        assert!(
            host.runtime
                .pod_usage(&pod.pod.uid)
                .await
                .unwrap()
                .cpu_nanos
                > 0
        );
        host.close().await;
    });
}

#[test]
fn containers_outlive_the_runtime() {
    in_own_network(|| async {
        let mut host = Host::new().await;
        let pod = host.pod("survivor");
        let made = host.runtime.run_sandbox(&pod).await.unwrap();
        let long = host.container(
            &pod,
            "long",
            &[
                "sh",
                "-c",
                "while [ ! -e /tmp/go ]; do sleep 0.02; done; echo went; exit 5",
            ],
        );
        let short = host.container(
            &pod,
            "short",
            &[
                "sh",
                "-c",
                "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 33",
            ],
        );
        host.start(&long).await;
        host.start(&short).await;
        assert_eq!(
            host.exec(&short.container, &["touch", "/tmp/go"]).await.0,
            0
        );
        let ContainerState::Running { pid, .. } = host.status(&long.container).await.state else {
            panic!("not running")
        };
        host.restart().await;
        let found = host.runtime.sandbox(&pod.pod.uid).await.unwrap().unwrap();
        assert_eq!(
            (found.ready, &found.ips, found.created_at),
            (true, &made.ips, made.created_at)
        );
        assert_eq!(host.wait(&short.container).await, (33, false));
        assert!(
            matches!(host.status(&long.container).await.state, ContainerState::Running { pid: same, .. } if same == pid)
        );
        assert_eq!(host.exec(&long.container, &["touch", "/tmp/go"]).await.0, 0);
        assert_eq!(host.wait(&long.container).await, (5, false));
        assert_eq!(host.log(&long), ["stdout F went"]);
        host.close().await;
    });
}

#[test]
fn a_killed_shim_takes_its_containers_along() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("orphan");
        let sandbox = host.runtime.run_sandbox(&pod).await.unwrap();
        let spec = host.container(&pod, "main", &["sleep", "1000"]);
        let ContainerState::Running { pid, .. } = host.start(&spec).await.state else {
            panic!("not running")
        };
        let mut events = host.runtime.events();
        let shim: i32 = sandbox
            .netns
            .unwrap()
            .iter()
            .nth(2)
            .unwrap()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::SIGKILL)
            .unwrap();
        loop {
            let event = tokio::time::timeout(Duration::from_secs(10), events.recv())
                .await
                .unwrap()
                .unwrap();
            if event == RuntimeEvent::SandboxDied(pod.pod.clone()) {
                break;
            }
        }
        assert!(
            !host
                .runtime
                .sandbox(&pod.pod.uid)
                .await
                .unwrap()
                .unwrap()
                .ready
        );
        assert_eq!(host.wait(&spec.container).await, (137, false));
        for _ in 0..100 {
            if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "the container lives on"
        );
        // The pod gets a new sandbox; what ended stays known.
        assert!(host.runtime.run_sandbox(&pod).await.unwrap().ready);
        assert_eq!(host.wait(&spec.container).await, (137, false));
        let mut next = spec.clone();
        next.container.attempt = 1;
        next.command = vec!["true".into()];
        host.start(&next).await;
        assert_eq!(host.wait(&next.container).await, (0, false));
        host.close().await;
    });
}

#[test]
fn fifty_pods_at_once() {
    in_own_network(|| async {
        let host = std::sync::Arc::new(Host::new().await);
        let before = Instant::now();
        let tasks: Vec<_> = (0..50)
            .map(|number| {
                let host = std::sync::Arc::clone(&host);
                tokio::spawn(async move {
                    let pod = host.pod(&format!("p{number}"));
                    let sandbox = host.runtime.run_sandbox(&pod).await.unwrap();
                    let spec = host.container(&pod, "c", &["sh", "-c", "echo out; exit 4"]);
                    host.start(&spec).await;
                    assert_eq!(host.wait(&spec.container).await, (4, false));
                    assert_eq!(host.log(&spec), ["stdout F out"]);
                    sandbox.ips[0]
                })
            })
            .collect();
        let mut addresses = std::collections::BTreeSet::new();
        for task in tasks {
            addresses.insert(task.await.unwrap());
        }
        assert_eq!(addresses.len(), 50);
        eprintln!("50 pods in {:?}", before.elapsed());
        let uids: Vec<String> = (0..50).map(|number| format!("uid-p{number}")).collect();
        let tasks: Vec<_> = uids
            .into_iter()
            .map(|uid| {
                let host = std::sync::Arc::clone(&host);
                tokio::spawn(async move { host.runtime.remove_sandbox(&uid).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let missing = ContainerRef {
            pod_uid: "uid-p1".into(),
            name: "c".into(),
            attempt: 0,
        };
        assert!(matches!(
            host.runtime.usage(&missing).await,
            Err(RuntimeError::NotFound(_))
        ));
        std::sync::Arc::into_inner(host).unwrap().close().await;
    });
}
