//! What containers can't do, with real ones.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use kubelet::runtime::{ContainerRef, Mount, Namespaces, Propagation, Runtime, Seccomp};
use support::{Host, in_own_network};

/// A field of /proc/self/status of a command run in the container.
async fn status_field(host: &Host, container: &ContainerRef, field: &str) -> String {
    let (_, text, _) = host.exec(container, &["cat", "/proc/self/status"]).await;
    text.lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap_or("")
        .trim_start_matches(':')
        .trim()
        .to_owned()
}

#[test]
fn confined_by_default_and_in_exec() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("plain");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let script = "grep -E 'Seccomp:|CapEff|CapBnd|NoNewPrivs' /proc/self/status; sleep 1000";
        let spec = host.container(&pod, "main", &["sh", "-c", script]);
        host.start(&spec).await;
        while host.log(&spec).len() < 4 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let log = host.log(&spec);
        for line in [
            "stdout F CapEff:\t00000000a80425fb",
            "stdout F CapBnd:\t00000000a80425fb",
            "stdout F NoNewPrivs:\t0",
            "stdout F Seccomp:\t2",
        ] {
            assert!(log.contains(&line.to_owned()), "{line}: {log:?}");
        }
        let container = &spec.container;
        assert_eq!(status_field(&host, container, "Seccomp").await, "2");
        for field in ["CapEff", "CapBnd", "CapPrm"] {
            assert_eq!(
                status_field(&host, container, field).await,
                "00000000a80425fb",
                "{field}"
            );
        }
        assert_eq!(
            status_field(&host, container, "CapAmb").await,
            "0000000000000000"
        );
        assert_eq!(status_field(&host, container, "Groups").await, "0 10");
        // Only standard streams, and ls's own directory: nothing of the host leaks in.
        let (_, descriptors, _) = host.exec(container, &["ls", "/proc/self/fd"]).await;
        assert_eq!(
            descriptors.split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2", "3"]
        );
        let (_, descriptors, _) = host.exec(container, &["sh", "-c", "ls /proc/1/fd"]).await;
        assert_eq!(
            descriptors.split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2"]
        );
        for (what, command) in [
            ("new namespaces", "unshare -m true"),
            ("mounts", "mount -t tmpfs x /tmp"),
            ("kernel settings", "echo 1 > /proc/sys/kernel/panic"),
            ("sysrq", "echo h > /proc/sysrq-trigger"),
            ("sysfs", "echo x > /sys/kernel/mm/ksm/run || touch /sys/x"),
            (
                "cgroups",
                "touch /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/memory/x || echo -1 > /sys/fs/cgroup/memory/memory.limit_in_bytes",
            ),
            (
                "block devices",
                "mknod /tmp/disk b 254 0 && dd if=/tmp/disk of=/dev/null bs=1 count=1",
            ),
            ("kernel memory", "head -c 1 /proc/kcore | grep ."),
            ("the shim", "ls -l /proc/1/root/../../host"),
        ] {
            let (code, stdout, _) = host.exec(container, &["sh", "-c", command]).await;
            assert_ne!(code, 0, "{what}: {stdout}");
        }
        let (_, devices, _) = host.exec(container, &["ls", "/dev"]).await;
        for device in [
            "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue",
            "fd", "stdin", "stdout", "stderr",
        ] {
            assert!(
                devices.split_whitespace().any(|found| found == device),
                "{device}: {devices}"
            );
        }
        host.close().await;
    });
}

#[test]
fn users_groups_and_privileges() {
    in_own_network(|| async {
        let host = Host::new().await;
        let pod = host.pod("users");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let mut spec = host.container(&pod, "web", &["sleep", "1000"]);
        spec.security.run_as_user = Some(1000);
        spec.security.run_as_non_root = true;
        spec.security.no_new_privileges = true;
        spec.security.read_only_root = true;
        spec.security.supplemental_groups = vec![2000];
        spec.security.drop_capabilities = vec!["ALL".into()];
        spec.security.add_capabilities = vec!["NET_BIND_SERVICE".into()];
        spec.working_dir = Some("/srv/made".into());
        host.start(&spec).await;
        let (_, id, _) = host
            .exec(
                &spec.container,
                &["sh", "-c", "id; echo $HOME; readlink /proc/self/cwd"],
            )
            .await;
        assert_eq!(
            id,
            "uid=1000(web) gid=1001(web) groups=10(wheel),1001(web),2000\n/tmp\n/srv/made\n"
        );
        assert_eq!(
            status_field(&host, &spec.container, "NoNewPrivs").await,
            "1"
        );
        assert_eq!(status_field(&host, &spec.container, "Seccomp").await, "2");
        assert_eq!(
            status_field(&host, &spec.container, "CapBnd").await,
            "0000000000000400"
        );
        assert_eq!(
            status_field(&host, &spec.container, "CapEff").await,
            "0000000000000000"
        );
        let (code, _, _) = host.exec(&spec.container, &["touch", "/x"]).await;
        assert_ne!(code, 0);
        let mut spec = host.container(&pod, "unconfined", &["sleep", "1000"]);
        spec.security.seccomp = Seccomp::Unconfined;
        host.start(&spec).await;
        assert_eq!(status_field(&host, &spec.container, "Seccomp").await, "0");
        let mut spec = host.container(&pod, "privileged", &["sleep", "1000"]);
        spec.security.privileged = true;
        host.start(&spec).await;
        let (code, _, error) = host
            .exec(
                &spec.container,
                &[
                    "sh",
                    "-c",
                    "mount -t tmpfs x /tmp && touch /tmp/y && ls /dev/null",
                ],
            )
            .await;
        assert_eq!(code, 0, "{error}");
        host.close().await;
    });
}

#[test]
fn localhost_seccomp_profiles() {
    in_own_network(|| async {
        let host = Host::new().await;
        let profile = host.directory.path().join("profile.json");
        std::fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}"#).unwrap();
        let pod = host.pod("profile");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let mut spec = host.container(&pod, "main", &["sleep", "1000"]);
        spec.security.seccomp = Seccomp::Localhost(profile);
        host.start(&spec).await;
        let (_, _, error) = host
            .exec(&spec.container, &["busybox", "chmod", "700", "/tmp"])
            .await;
        assert!(error.contains("Operation not permitted"), "{error}");
        host.close().await;
    });
}

#[test]
fn mounts() {
    in_own_network(|| async {
        let host = Host::new().await;
        let source = host.directory.path().join("volume");
        std::fs::create_dir_all(source.join("inner")).unwrap();
        std::fs::write(source.join("file"), "content").unwrap();
        let pod = host.pod("mounts");
        host.runtime.run_sandbox(&pod).await.unwrap();
        let mount = |container: &str, host_path: std::path::PathBuf, read_only| Mount {
            host_path,
            container_path: container.into(),
            read_only,
            propagation: Propagation::None,
        };
        let mut spec = host.container(&pod, "main", &["sleep", "1000"]);
        spec.mounts = vec![
            mount("/data", source.clone(), false),
            mount("/frozen", source.clone(), true),
            mount("/etc/hosts", source.join("file"), false),
            // The image's link points out of it.
            mount("/bin/../proc/../escape", source.clone(), true),
        ];
        host.start(&spec).await;
        let (code, text, error) = host.exec(&spec.container, &["sh", "-c", "cat /etc/hosts; echo new > /data/written; touch /frozen/x || cat /escape/file; df /dev/shm | grep -c 65536"]).await;
        assert_eq!((code, text.as_str()), (0, "contentcontent1\n"), "{error}");
        assert_eq!(
            std::fs::read_to_string(source.join("written")).unwrap(),
            "new\n"
        );
        let mut spec = host.container(&pod, "gone", &["true"]);
        spec.mounts = vec![mount("/data", source.join("missing"), false)];
        let error = host.runtime.create_container(&spec).await.unwrap_err();
        assert!(
            error.to_string().contains("no such file or directory"),
            "{error}"
        );
        // What is mounted on the host later shows where that is wanted.
        let mut spec = host.container(&pod, "slave", &["sleep", "1000"]);
        spec.mounts = vec![Mount {
            propagation: Propagation::HostToContainer,
            ..mount("/data", source.clone(), false)
        }];
        host.start(&spec).await;
        host.close().await;
    });
}

#[test]
fn shared_and_foreign_process_namespaces() {
    in_own_network(|| async {
        let host = Host::new().await;
        let mut pod = host.pod("shared");
        pod.namespaces = Namespaces {
            share_pid: true,
            ..Namespaces::default()
        };
        host.runtime.run_sandbox(&pod).await.unwrap();
        let first = host.container(&pod, "first", &["sh", "-c", "sleep 4321 & sleep 1000"]);
        let second = host.container(&pod, "second", &["sleep", "1000"]);
        host.start(&first).await;
        host.start(&second).await;
        let (_, processes, _) = host.exec(&second.container, &["ps"]).await;
        assert!(
            processes.contains("sleep 4321")
                && processes
                    .lines()
                    .any(|line| line.trim_start().starts_with("1 65535")),
            "{processes}"
        );
        // The pause process shows nothing of the host.
        let (code, _, _) = host
            .exec(&second.container, &["ls", "/proc/1/root/etc/passwd"])
            .await;
        assert_ne!(code, 0);
        // A container that ends takes all of its processes along.
        host.runtime
            .stop_container(&first.container, std::time::Duration::from_secs(1))
            .await
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let (_, processes, _) = host.exec(&second.container, &["ps"]).await;
        assert!(!processes.contains("sleep 4321"), "{processes}");

        let plain = host.pod("target");
        host.runtime.run_sandbox(&plain).await.unwrap();
        let target = host.container(&plain, "target", &["sleep", "2222"]);
        host.start(&target).await;
        let mut debugger = host.container(&plain, "debugger", &["sleep", "1000"]);
        debugger.target_container = Some(target.container.clone());
        host.start(&debugger).await;
        let (_, processes, _) = host.exec(&debugger.container, &["ps"]).await;
        assert!(processes.contains("sleep 2222"), "{processes}");
        let (code, hostname, _) = host.exec(&debugger.container, &["hostname"]).await;
        assert_eq!((code, hostname.trim()), (0, "target"));
        host.close().await;
    });
}

#[test]
fn sysctls_stay_in_the_pod() {
    in_own_network(|| async {
        let host = Host::new().await;
        let mut pod = host.pod("sysctls");
        pod.sysctls
            .insert("net.ipv4.ip_local_port_range".into(), "4000 5000".into());
        pod.sysctls
            .insert("kernel.shm_rmid_forced".into(), "1".into());
        host.runtime.run_sandbox(&pod).await.unwrap();
        let spec = host.container(&pod, "main", &["sleep", "1000"]);
        host.start(&spec).await;
        let (_, text, _) = host
            .exec(
                &spec.container,
                &[
                    "cat",
                    "/proc/sys/net/ipv4/ip_local_port_range",
                    "/proc/sys/kernel/shm_rmid_forced",
                ],
            )
            .await;
        assert_eq!(
            text.split_whitespace().collect::<Vec<_>>(),
            ["4000", "5000", "1"]
        );
        assert_ne!(
            std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")
                .unwrap()
                .trim(),
            "1"
        );
        let mut pod = host.pod("host-sysctls");
        pod.sysctls.insert("kernel.panic".into(), "1".into());
        let error = host.runtime.run_sandbox(&pod).await.unwrap_err();
        assert!(error.to_string().contains("invalid sysctl"), "{error}");
        assert!(host.runtime.sandbox(&pod.pod.uid).await.unwrap().is_none());
        host.close().await;
    });
}
