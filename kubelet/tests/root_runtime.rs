//! The runtime with real shims, libcontainer, overlayfs and cgroups.

mod support;

use std::time::Duration;

use kubelet::runtime::{ContainerState, Runtime};
use support::{Host, skipped};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_logs_and_exits() {
    if skipped() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("first");
    let sandbox = host.runtime.run_sandbox(&pod).await.unwrap();
    assert!(sandbox.ready);
    let spec = host.container(
        &pod,
        "main",
        &[
            "sh",
            "-c",
            "echo hello; echo oops >&2; hostname; id -u; exit 7",
        ],
    );
    let status = host.start(&spec).await;
    assert!(
        !matches!(status.state, ContainerState::Created),
        "{status:?}"
    );
    assert_eq!(host.wait(&spec.container).await, (7, false));
    let log = host.log(&spec);
    for line in [
        "stdout F hello",
        "stderr F oops",
        "stdout F first",
        "stdout F 0",
    ] {
        assert!(log.contains(&line.to_owned()), "{line}: {log:?}");
    }
    tokio::time::timeout(Duration::from_secs(10), host.close())
        .await
        .unwrap();
}
