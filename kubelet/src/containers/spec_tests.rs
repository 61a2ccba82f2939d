//! Specifications that come out of the pod's and the image's wishes.

use super::*;
use crate::runtime::{ContainerRef, PodRef, Security};

fn container() -> ContainerSpec {
    ContainerSpec {
        container: ContainerRef {
            pod_uid: "u".into(),
            name: "c".into(),
            attempt: 0,
        },
        pod: PodRef {
            uid: "u".into(),
            namespace: "ns".into(),
            name: "p".into(),
        },
        image_id: String::new(),
        image: String::new(),
        command: vec![],
        args: vec![],
        working_dir: None,
        env: vec![],
        mounts: vec![],
        devices: vec![],
        resources: Resources::default(),
        security: Security::default(),
        stdin: false,
        stdin_once: false,
        tty: false,
        log_path: "c/0.log".into(),
        target_container: None,
        stop_signal: None,
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn spec_of(container: &ContainerSpec) -> Result<Value, String> {
    let image = RuntimeConfig {
        entrypoint: strings(&["/entry"]),
        cmd: strings(&["default"]),
        env: strings(&["A=1", "B=2"]),
        ..RuntimeConfig::default()
    };
    let possible = all_capabilities()
        .iter()
        .filter(|name| **name != "SYS_RESOURCE")
        .map(|name| (*name).to_owned())
        .collect();
    let around = Surroundings {
        image: &image,
        root: Path::new("/bundle/rootfs"),
        cgroup: "keelson/kubepods/podu/c",
        hierarchies: &Hierarchies::V2,
        shm: Path::new("/pod/shm"),
        hostname: Path::new("/pod/hostname"),
        host: "pod-host",
        pid_namespace: Some(String::new()),
        possible: &possible,
        lowest_oom_score: 0,
    };
    let spec = build(container, &around)?;
    // What libcontainer will read.
    serde_json::from_value::<oci_spec::runtime::Spec>(spec.clone()).unwrap();
    Ok(spec)
}

#[test]
fn command_and_arguments() {
    for (command, args, want) in [
        (vec![], vec![], vec!["/entry", "default"]),
        (vec![], vec!["x"], vec!["/entry", "x"]),
        (vec!["/run"], vec![], vec!["/run"]),
        (vec!["/run"], vec!["x"], vec!["/run", "x"]),
    ] {
        let container = ContainerSpec {
            command: strings(&command),
            args: strings(&args),
            ..container()
        };
        assert_eq!(spec_of(&container).unwrap()["process"]["args"], json!(want));
    }
}

#[test]
fn environment_of_image_and_pod() {
    let container = ContainerSpec {
        env: vec![("B".into(), "3".into()), ("C".into(), "=x".into())],
        ..container()
    };
    let spec = spec_of(&container).unwrap();
    let environment: Vec<&str> = spec["process"]["env"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(
        environment[1..],
        ["HOSTNAME=pod-host", "A=1", "B=3", "C==x"]
    );
}

#[test]
fn confined_by_default() {
    let spec = spec_of(&container()).unwrap();
    assert_eq!(
        spec["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        14
    );
    assert_eq!(spec["process"]["capabilities"]["ambient"], json!([]));
    assert!(spec["process"].get("noNewPrivileges").is_none());
    assert!(
        spec["linux"]["maskedPaths"]
            .as_array()
            .unwrap()
            .contains(&json!("/proc/kcore"))
    );
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(
        spec["linux"]["resources"]["devices"][0],
        json!({"allow": false, "access": "rwm"})
    );
    let sys = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|mount| mount["destination"] == "/sys")
        .unwrap();
    assert!(sys["options"].as_array().unwrap().contains(&json!("ro")));
}

#[test]
fn privileged_is_not() {
    let container = ContainerSpec {
        security: Security {
            privileged: true,
            ..Security::default()
        },
        ..container()
    };
    let spec = spec_of(&container).unwrap();
    assert_eq!(
        spec["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        40
    );
    assert!(spec["linux"].get("seccomp").is_none() && spec["linux"].get("maskedPaths").is_none());
}

#[test]
fn capabilities_added_and_dropped() {
    let with = |add: &[&str], drop: &[&str]| {
        let security = Security {
            add_capabilities: strings(add),
            drop_capabilities: strings(drop),
            ..Security::default()
        };
        spec_of(&ContainerSpec {
            security,
            ..container()
        })
        .map(|spec| {
            spec["process"]["capabilities"]["bounding"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(
        with(&["NET_BIND_SERVICE"], &["ALL"]).unwrap(),
        ["CAP_NET_BIND_SERVICE"]
    );
    assert_eq!(with(&["ALL"], &["SYS_ADMIN"]).unwrap().len(), 39);
    assert!(
        !with(&["SYS_RESOURCE"], &[])
            .unwrap()
            .contains(&"CAP_SYS_RESOURCE".to_owned())
    );
    assert!(
        with(&["NO_SUCH"], &[])
            .unwrap_err()
            .contains("unknown capability")
    );
}

#[test]
fn mounts_in_order() {
    let mount = |path: &str| Mount {
        host_path: "/h".into(),
        container_path: path.into(),
        read_only: true,
        propagation: Propagation::None,
    };
    let spec = spec_of(&ContainerSpec {
        mounts: vec![
            mount("/a/b"),
            mount("/a"),
            mount("/dev/shm"),
            mount("/etc/hostname"),
        ],
        ..container()
    })
    .unwrap();
    let targets: Vec<&str> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    let at = |path: &str| targets.iter().position(|target| *target == path).unwrap();
    assert!(at("/a") < at("/a/b"));
    assert_eq!(
        targets
            .iter()
            .filter(|target| **target == "/dev/shm")
            .count(),
        1
    );
    assert_eq!(
        targets
            .iter()
            .filter(|target| **target == "/etc/hostname")
            .count(),
        1
    );
}
