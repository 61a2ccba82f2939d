//! The walk of one node with stock kubectl: from `keelson up` to a program that answers on a Service's name, and back to nothing.
//!
//! One cluster, one order, since each step stands on the one before; every step says what it looks at.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keelson_e2e::cluster::{Cluster, missing, run, wait_for};

const SECONDS_30: Duration = Duration::from_secs(30);
const SECONDS_90: Duration = Duration::from_secs(90);

#[test]
fn the_walk() -> Result<()> {
    if let Some(why) = missing() {
        eprintln!("SKIPPED: the walk {why}");
        return Ok(());
    }
    let shared = ["/run/keelson", "/var/lib/keelson"].map(|folder| (folder, entries(folder)));
    let cluster = Cluster::start("walk", &[])?;
    let steps: &[(&str, fn(&Cluster) -> Result<()>)] = &[
        ("nodes and namespaces", nodes_and_namespaces),
        ("the guide's example answers", example_answers),
        ("get in its forms", get_in_its_forms),
        ("describe and events", describe_and_events),
        ("logs", logs),
        ("exec", exec),
        ("cp", cp),
        ("port-forward", port_forward),
        ("apply, diff, edit by patch", apply_and_patch),
        ("server-side apply and its conflicts", server_side_apply),
        ("scale and rollouts", rollouts),
        ("run, expose, wait, delete", run_expose_delete),
        ("explain and api-resources", explain),
        ("who may do what", access),
        ("bad input", bad_input),
        ("cordon and taint", cordon_and_taint),
        ("a pod that cannot run says why", failing_pods),
        ("a second up changes nothing", second_up),
        (
            "daemons that are killed come back, containers stay",
            killed_daemons,
        ),
    ];
    for (name, step) in steps {
        let started = Instant::now();
        step(&cluster).with_context(|| format!("step {name:?}\n{}", cluster.logs()))?;
        eprintln!(
            "step {name:?} took {:.1} s",
            started.elapsed().as_secs_f64()
        );
    }
    nothing_is_left(cluster, &shared)
}

fn contains(text: &str, wanted: &[&str]) -> Result<()> {
    for word in wanted {
        ensure!(text.contains(word), "{word:?} is not in:\n{text}");
    }
    Ok(())
}

fn nodes_and_namespaces(c: &Cluster) -> Result<()> {
    contains(
        &c.kubectl("get nodes")?,
        &[
            "NAME",
            "STATUS",
            "ROLES",
            "walk-node",
            "Ready",
            "control-plane",
            "v1.36.",
        ],
    )?;
    contains(
        &c.kubectl("get namespaces")?,
        &[
            "default",
            "kube-system",
            "kube-public",
            "kube-node-lease",
            "Active",
        ],
    )?;
    contains(&c.kubectl("version")?, &["Server Version: v1.36.2+keelson"])?;
    contains(
        &c.kubectl("cluster-info")?,
        &["Kubernetes control plane", "is running at", "CoreDNS"],
    )?;
    contains(
        &c.kubectl("get --raw /readyz?verbose")?,
        &["[+]etcd ok", "readyz check passed"],
    )
}

fn example_answers(c: &Cluster) -> Result<()> {
    c.kubectl("rollout status deployment/api --timeout=90s")?;
    let answer = c.kubectl("exec deploy/api -- /api fetch http://api-service:3000/settings")?;
    contains(
        &answer,
        &[
            "NODE_ENV=production",
            "LOG_LEVEL=info",
            "DATABASE_URL=(set)",
            "JWT_SECRET=(set)",
        ],
    )?;
    let other = c.kubectl(
        "exec deploy/api -- /api fetch http://api-service.default.svc.cluster.local:3000/version",
    )?;
    ensure!(other == "1.5.0\n", "{other}");
    Ok(())
}

fn get_in_its_forms(c: &Cluster) -> Result<()> {
    contains(
        &c.kubectl("get pods -o wide")?,
        &[
            "READY",
            "RESTARTS",
            "IP",
            "NODE",
            "1/1",
            "Running",
            "10.244.0.",
        ],
    )?;
    contains(
        &c.kubectl("get deploy,rs,svc,endpointslices,events -A")?,
        &[
            "deployment.apps/api",
            "3/3",
            "service/api-service",
            "ClusterIP",
            "3000/TCP",
        ],
    )?;
    contains(
        &c.kubectl("get all")?,
        &["pod/api-", "service/kubernetes", "replicaset.apps/api-"],
    )?;
    let json: serde_json::Value = serde_json::from_str(&c.kubectl("get deploy api -o json")?)?;
    ensure!(json["status"]["availableReplicas"] == 3, "{json}");
    ensure!(
        json["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 1
            && json["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    );
    contains(
        &c.kubectl("get pods -l app=api -o jsonpath={.items[*].status.phase}")?,
        &["Running Running Running"],
    )?;
    contains(
        &c.kubectl("get pods --field-selector=status.phase=Running -o name")?,
        &["pod/api-"],
    )?;
    let answer = c.try_kubectl("get pods nope")?;
    ensure!(
        answer.code == 1
            && answer
                .stderr
                .contains("Error from server (NotFound): pods \"nope\" not found"),
        "{answer:?}"
    );
    Ok(())
}

fn describe_and_events(c: &Cluster) -> Result<()> {
    // Of several pods at once, newer kubectl leaves the events out.
    let names = c.kubectl("get pods -l app=api -o name")?;
    let pods = c.kubectl(&format!(
        "describe {}",
        names.lines().next().unwrap_or_default()
    ))?;
    contains(
        &pods,
        &[
            "Successfully assigned default/api-",
            "Container created",
            "Container started",
            "QoS Class:",
            "Burstable",
            "Liveness:",
        ],
    )?;
    contains(
        &c.kubectl("describe deployment api")?,
        &[
            "RollingUpdateStrategy:  0 max unavailable, 1 max surge",
            "NewReplicaSetAvailable",
            "Scaled up replica set",
        ],
    )?;
    contains(
        &c.kubectl("describe service api-service")?,
        &["Endpoints:", ":3000"],
    )?;
    contains(
        &c.kubectl("describe node walk-node")?,
        &["KubeletReady", "Allocated resources", "cpu"],
    )
}

fn logs(c: &Cluster) -> Result<()> {
    contains(
        &c.kubectl("logs deploy/api --tail=1")?,
        &["listening on 3000, version 1.5.0"],
    )?;
    contains(
        &c.kubectl("logs -l app=api --prefix --timestamps")?,
        &["[pod/api-", "T", "Z listening"],
    )?;
    // A container that writes once a second is followed while it does.
    apply(c, TICKER)?;
    c.kubectl("wait --for=condition=Ready pod/ticker --timeout=60s")?;
    let mut command = c.inside(c.kubectl_path());
    command.args(["logs", "-f", "ticker", "--since=10m"]);
    let answer = run_for(command, Duration::from_secs(4))?;
    contains(&answer, &["tick 1\n", "tick 2\n"])
}

/// Runs a command that does not end by itself, and returns what it printed until then.
fn run_for(mut command: std::process::Command, time: Duration) -> Result<String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(time);
    child.kill()?;
    Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
}

const TICKER: &str = "apiVersion: v1
kind: Pod
metadata: { name: ticker }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: ticker
      image: myregistry/api:1.5.0
      command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo tick $i; sleep 1; done']
";

fn apply(c: &Cluster, manifest: &str) -> Result<String> {
    let answer = c.kubectl_with(&["apply", "-f", "-"], Some(manifest))?;
    ensure!(answer.code == 0, "apply: {answer:?}");
    Ok(answer.stdout)
}

fn exec(c: &Cluster) -> Result<()> {
    let hostname = c.kubectl("exec ticker -- hostname")?;
    ensure!(hostname == "ticker\n", "{hostname:?}");
    let answer = c.kubectl_with(
        &[
            "exec",
            "ticker",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ],
        None,
    )?;
    ensure!(
        answer.code == 7 && answer.stdout == "out\n" && answer.stderr.starts_with("err\n"),
        "{answer:?}"
    );
    let answer = c.kubectl_with(
        &["exec", "-i", "ticker", "--", "cat"],
        Some("through stdin\n"),
    )?;
    ensure!(
        answer.code == 0 && answer.stdout == "through stdin\n",
        "{answer:?}"
    );
    let answer = c.kubectl_with(&["exec", "ticker", "--", "no-such-program"], None)?;
    ensure!(
        answer.code == 127 || answer.stderr.contains("executable file not found"),
        "{answer:?}"
    );
    Ok(())
}

fn cp(c: &Cluster) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("keelson-walk-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (there, back) = (folder.join("there"), folder.join("back"));
    std::fs::write(&there, "copied\n")?;
    c.kubectl(&format!("cp {} ticker:/tmp/copied", there.display()))?;
    c.kubectl(&format!("cp ticker:/tmp/copied {}", back.display()))?;
    let text = std::fs::read_to_string(&back)?;
    std::fs::remove_dir_all(&folder)?;
    ensure!(text == "copied\n", "{text:?}");
    Ok(())
}

fn port_forward(c: &Cluster) -> Result<()> {
    let mut command = c.inside(c.kubectl_path());
    command.args(["port-forward", "svc/api-service", "8080:3000"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let outcome = wait_for("an answer through port-forward", SECONDS_30, || {
        let answer = run(
            c.inside(Path::new("curl"))
                .args(["-s", "-m", "3", "http://127.0.0.1:8080/version"]),
            None,
            SECONDS_30,
        )?;
        Ok(answer.stdout == "1.5.0\n")
    });
    child.kill()?;
    child.wait()?;
    outcome
}

fn apply_and_patch(c: &Cluster) -> Result<()> {
    let map =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: walk }\ndata: { a: '1', b: '2' }\n";
    ensure!(apply(c, map)?.contains("configmap/walk created"));
    ensure!(apply(c, map)?.contains("configmap/walk unchanged"));
    let changed = map.replace("b: '2'", "c: '3'");
    let diff = c.kubectl_with(&["diff", "-f", "-"], Some(&changed))?;
    ensure!(
        diff.code == 1
            && diff.stdout.contains("-  b: \"2\"")
            && diff.stdout.contains("+  c: \"3\""),
        "{diff:?}"
    );
    ensure!(apply(c, &changed)?.contains("configmap/walk configured"));
    ensure!(c.kubectl("get cm walk -o jsonpath={.data}")? == r#"{"a":"1","c":"3"}"#);
    c.kubectl_with(
        &[
            "patch",
            "cm",
            "walk",
            "--type=merge",
            "-p",
            r#"{"data":{"a":null}}"#,
        ],
        None,
    )?;
    c.kubectl_with(
        &[
            "patch",
            "cm",
            "walk",
            "--type=json",
            "-p",
            r#"[{"op":"add","path":"/data/d","value":"4"}]"#,
        ],
        None,
    )?;
    ensure!(c.kubectl("get cm walk -o jsonpath={.data}")? == r#"{"c":"3","d":"4"}"#);
    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"api","env":[{"name":"EXTRA","value":"x"}]}]}}}}"#;
    let answer = c.kubectl_with(&["patch", "deploy", "api", "--dry-run=server", "-o", "jsonpath={.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env[0].name}", "-p", patch], None)?;
    ensure!(answer.stdout == "myregistry/api:1.5.0 EXTRA", "{answer:?}");
    c.kubectl("label cm walk tier=one")?;
    c.kubectl("annotate cm walk note=two")?;
    ensure!(c.kubectl("get cm -l tier=one -o name")? == "configmap/walk\n");
    let edited = changed.replace("'1'", "'9'");
    let answer = c.kubectl_with(&["replace", "-f", "-"], Some(&edited))?;
    ensure!(
        answer.stdout.contains("configmap/walk replaced"),
        "{answer:?}"
    );
    Ok(())
}

fn server_side_apply(c: &Cluster) -> Result<()> {
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: owned }\ndata: { a: '1' }\n";
    let apply = |manager: &str, text: &str, force: bool| {
        let manager = format!("--field-manager={manager}");
        let mut arguments = vec!["apply", "--server-side", manager.as_str(), "-f", "-"];
        if force {
            arguments.push("--force-conflicts");
        }
        c.kubectl_with(&arguments, Some(text))
    };
    ensure!(
        apply("one", map, false)?
            .stdout
            .contains("configmap/owned serverside-applied")
    );
    let other = map.replace("'1'", "'2'");
    let conflict = apply("two", &other, false)?;
    ensure!(
        conflict.code == 1
            && conflict
                .stderr
                .contains("Apply failed with 1 conflict: conflict with \"one\": .data.a"),
        "{conflict:?}"
    );
    ensure!(apply("two", &other, true)?.code == 0);
    ensure!(c.kubectl("get cm owned -o jsonpath={.data.a}")? == "2");
    let managers = c.kubectl(
        "get cm owned --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}",
    )?;
    ensure!(managers.split(' ').any(|m| m == "two"), "{managers}");
    Ok(())
}

fn available(c: &Cluster, wanted: i64) -> Result<()> {
    wait_for(&format!("{wanted} available replicas"), SECONDS_90, || {
        Ok(
            c.kubectl("get deploy api -o jsonpath={.status.availableReplicas}/{.status.replicas}")?
                == format!("{wanted}/{wanted}"),
        )
    })
}

fn rollouts(c: &Cluster) -> Result<()> {
    c.kubectl("scale deploy/api --replicas=5")?;
    available(c, 5)?;
    c.kubectl("scale deploy/api --replicas=3")?;
    available(c, 3)?;
    c.kubectl("set image deploy/api api=myregistry/api:1.6.0")?;
    c.kubectl("rollout status deploy/api --timeout=180s")?;
    ensure!(
        c.kubectl("exec deploy/api -- /api fetch http://api-service:3000/version")? == "1.6.0\n"
    );
    contains(
        &c.kubectl("rollout history deploy/api")?,
        &["REVISION", "1", "2"],
    )?;
    c.kubectl("rollout undo deploy/api")?;
    c.kubectl("rollout status deploy/api --timeout=180s")?;
    ensure!(
        c.kubectl("get deploy api -o jsonpath={.spec.template.spec.containers[0].image}")?
            == "myregistry/api:1.5.0"
    );
    c.kubectl("rollout pause deploy/api")?;
    c.kubectl("rollout resume deploy/api")?;
    Ok(())
}

fn run_expose_delete(c: &Cluster) -> Result<()> {
    c.kubectl("run solo --image=myregistry/api:1.5.0 --port=3000 --labels=app=solo")?;
    c.kubectl("wait --for=condition=Ready pod/solo --timeout=60s")?;
    c.kubectl("expose pod solo --name=solo --port=80 --target-port=3000")?;
    wait_for("the exposed pod answers", SECONDS_30, || {
        Ok(c.kubectl("exec ticker -- /api fetch http://solo/version")? == "1.5.0\n")
    })?;
    let started = Instant::now();
    c.kubectl("delete pod/solo svc/solo --grace-period=5")?;
    ensure!(
        started.elapsed() < Duration::from_secs(20),
        "deletion took {:?}",
        started.elapsed()
    );
    ensure!(c.try_kubectl("get pod solo")?.code == 1);
    Ok(())
}

fn explain(c: &Cluster) -> Result<()> {
    contains(
        &c.kubectl("explain deployment.spec.replicas")?,
        &["FIELD: replicas <integer>", "DESCRIPTION:"],
    )?;
    contains(
        &c.kubectl("api-resources")?,
        &["deployments", "deploy", "apps/v1", "true", "Deployment"],
    )?;
    contains(
        &c.kubectl("api-versions")?,
        &["apps/v1", "rbac.authorization.k8s.io/v1", "v1"],
    )
}

fn access(c: &Cluster) -> Result<()> {
    ensure!(c.kubectl("auth can-i create pods")? == "yes\n");
    contains(
        &c.kubectl("auth whoami")?,
        &[
            "kubernetes-admin",
            "kubeadm:cluster-admins",
            "system:authenticated",
        ],
    )?;
    contains(&c.kubectl("auth can-i --list")?, &["Resources", "*.*"])?;
    let answer =
        c.try_kubectl("auth can-i list secrets --as=system:serviceaccount:default:default")?;
    ensure!(answer.code == 1 && answer.stdout == "no\n", "{answer:?}");
    let answer = c.try_kubectl("get secrets --as=jane")?;
    ensure!(answer.stderr.contains("secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""), "{answer:?}");
    ensure!(c.kubectl("create token default")?.split('.').count() == 3);
    // Without credentials nothing but health and version answers.
    let curl = |path: &str| {
        run(
            c.inside(Path::new("curl")).args([
                "-sk",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                &format!("https://127.0.0.1:6443{path}"),
            ]),
            None,
            SECONDS_30,
        )
    };
    for (path, code) in [
        ("/api/v1/namespaces", "401"),
        ("/healthz", "200"),
        ("/version", "200"),
    ] {
        ensure!(curl(path)?.stdout == code, "{path}");
    }
    Ok(())
}

fn bad_input(c: &Cluster) -> Result<()> {
    let refused = |manifest: &str, sentence: &str| -> Result<()> {
        let answer = c.kubectl_with(&["create", "-f", "-"], Some(manifest))?;
        ensure!(
            answer.code == 1 && answer.stderr.contains(sentence),
            "{sentence:?} is not in {answer:?}"
        );
        Ok(())
    };
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: { name: Bad_Name }\nspec: { containers: [{ name: a, image: b }] }\n",
        "metadata.name: Invalid value: \"Bad_Name\"",
    )?;
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: { name: p }\nspec: { containers: [] }\n",
        "spec.containers: Required value",
    )?;
    refused(
        "apiVersion: v1\nkind: Pod\nmetadata: { name: p }\nspec: { containers: [{ name: a, image: b, nope: 1 }] }\n",
        "strict decoding error: unknown field \"spec.containers[0].nope\"",
    )?;
    refused(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: d }\nspec: { selector: { matchLabels: { a: b } }, template: { metadata: { labels: { a: c } }, spec: { containers: [{ name: a, image: b }] } } }\n",
        "`selector` does not match template `labels`",
    )?;
    refused(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: walk }\n",
        "configmaps \"walk\" already exists",
    )
}

fn cordon_and_taint(c: &Cluster) -> Result<()> {
    c.kubectl("cordon walk-node")?;
    contains(&c.kubectl("get nodes")?, &["Ready,SchedulingDisabled"])?;
    c.kubectl("run waiting --image=myregistry/api:1.5.0")?;
    wait_for("FailedScheduling", SECONDS_30, || {
        Ok(c.kubectl("describe pod waiting")?
            .contains("0/1 nodes are available: 1 node(s) were unschedulable."))
    })?;
    c.kubectl("uncordon walk-node")?;
    c.kubectl("wait --for=condition=Ready pod/waiting --timeout=60s")?;
    c.kubectl("delete pod waiting --now")?;
    c.kubectl("taint node walk-node walk=yes:NoSchedule")?;
    c.kubectl("taint node walk-node walk=yes:NoSchedule-")?;
    Ok(())
}

fn failing_pods(c: &Cluster) -> Result<()> {
    apply(
        c,
        "apiVersion: v1\nkind: Pod\nmetadata: { name: crash }\nspec: { containers: [{ name: a, image: 'myregistry/api:1.5.0', command: [sh, -c, 'echo last words; exit 3'] }] }\n---\napiVersion: v1\nkind: Pod\nmetadata: { name: unset }\nspec: { containers: [{ name: a, image: 'myregistry/api:1.5.0', envFrom: [{ configMapRef: { name: absent } }] }] }\n",
    )?;
    wait_for("CrashLoopBackOff", SECONDS_90, || {
        Ok(c.kubectl("get pod crash")?.contains("CrashLoopBackOff"))
    })?;
    ensure!(
        c.kubectl(
            "get pod crash -o jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}"
        )? == "3"
    );
    ensure!(c.kubectl("logs crash --previous")? == "last words\n");
    wait_for("CreateContainerConfigError", SECONDS_30, || {
        Ok(c.kubectl("get pod unset")?
            .contains("CreateContainerConfigError"))
    })?;
    contains(
        &c.kubectl("describe pod unset")?,
        &["configmap \"absent\" not found"],
    )?;
    c.kubectl("delete pod crash unset --now")?;
    Ok(())
}

fn second_up(c: &Cluster) -> Result<()> {
    let answer = c.keelson(&["up", "--no-kubeconfig"])?;
    ensure!(
        answer.code == 0 && answer.stdout.contains("nothing was changed"),
        "{answer:?}"
    );
    ensure!(c.keelson(&["status"])?.code == 0);
    Ok(())
}

/// Host pids of the example's containers.
fn container_pids() -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if cgroup.contains("/keelson-walk/") && command.starts_with(b"/api\0") {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    pids
}

fn killed_daemons(c: &Cluster) -> Result<()> {
    available(c, 3)?;
    let before = container_pids();
    ensure!(before.len() == 3, "{before:?}");
    for daemon in [
        "kubelet",
        "kube-apiserver",
        "etcd",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
    ] {
        let text = std::fs::read_to_string(format!("/run/keelson-walk/{daemon}.pid"))?;
        let pid: i32 = text.split(' ').next().unwrap_or_default().parse()?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        wait_for("the cluster is healthy again", SECONDS_90, || {
            Ok(c.keelson(&["status"])?.code == 0)
        })?;
    }
    ensure!(
        c.kubectl("exec deploy/api -- /api fetch http://api-service:3000/version")? == "1.5.0\n"
    );
    let after = container_pids();
    ensure!(
        before == after,
        "containers were restarted: {before:?} {after:?}"
    );
    Ok(())
}

fn entries(folder: &str) -> Vec<OsString> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    names
}

fn nothing_is_left(cluster: Cluster, shared: &[(&str, Vec<OsString>)]) -> Result<()> {
    drop(cluster);
    for (folder, before) in shared {
        // The default cluster's folders are not this one's to touch.
        ensure!(entries(folder) == *before, "{folder} was changed");
    }
    for folder in [
        "/run/keelson-walk",
        "/var/lib/keelson-walk",
        "/etc/keelson-walk",
        "/var/log/keelson-walk",
        "/run/netns/keelson-walk",
    ] {
        ensure!(!Path::new(folder).exists(), "{folder} is left");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(
        !mounts.contains("keelson-walk"),
        "mounts are left:\n{mounts}"
    );
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        ensure!(
            !cgroup.contains("keelson-walk"),
            "process {} is left",
            entry.file_name().to_string_lossy()
        );
    }
    ensure!(
        !Path::new("/sys/fs/cgroup/keelson-walk").exists()
            && !Path::new("/sys/fs/cgroup/memory/keelson-walk").exists(),
        "cgroups are left"
    );
    Ok(())
}
