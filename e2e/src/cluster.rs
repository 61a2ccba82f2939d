//! A cluster that a test starts and takes away again, whatever happens to the test, and kubectl inside of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A running cluster in a network namespace of its own.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    keelson: PathBuf,
    kubectl: PathBuf,
}

/// What a command printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code; -1 for a signal.
    pub code: i32,
}

/// Why these tests cannot run here, if they cannot.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    let programs = programs();
    let wanted = ["keelson", "kube-apiserver", "kubelet", "example-api"];
    if let Some(name) = wanted.iter().find(|name| !programs.join(name).is_file()) {
        return Some(format!(
            "needs {} (make build)",
            programs.join(name).display()
        ));
    }
    kubectl().err().map(|error| error.to_string())
}

/// The folder of the programs that this test's build belongs to.
fn programs() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    // target/<profile>/deps/<test> → target/<profile>, where a program of this crate is already.
    let folder = exe.parent().unwrap_or(Path::new(""));
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    folder.to_path_buf()
}

fn kubectl() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KUBECTL") {
        return Ok(path.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubectl");
    let output = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(
        output.status.success(),
        "no stock kubectl within the version skew (make kubectl)"
    );
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

impl Cluster {
    /// Starts a cluster; what a killed run of the same name left is cleaned first.
    pub fn start(name: &str, arguments: &[&str]) -> Result<Self> {
        let cluster = Self {
            name: name.into(),
            keelson: programs().join("keelson"),
            kubectl: kubectl()?,
        };
        cluster.keelson(&["uninstall"])?;
        let mut all = vec!["up", "--no-kubeconfig"];
        all.extend(arguments);
        let answer = cluster.keelson(&all)?;
        if answer.code != 0 {
            let logs = cluster.logs();
            bail!(
                "keelson up failed: {}\n{}\n{logs}",
                answer.stdout,
                answer.stderr
            );
        }
        Ok(cluster)
    }

    /// Runs `keelson` for this cluster.
    pub fn keelson(&self, arguments: &[&str]) -> Result<Answer> {
        run(
            Command::new(&self.keelson)
                .args(["--name", &self.name])
                .args(arguments),
            None,
            Duration::from_secs(300),
        )
    }

    /// The command that runs a program in the cluster's network namespace with its kubeconfig.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.keelson);
        command.args(["--name", &self.name, "exec"]).arg(program);
        command
    }

    /// Runs stock kubectl; `line` is split at spaces.
    pub fn try_kubectl(&self, line: &str) -> Result<Answer> {
        self.kubectl_with(&line.split_whitespace().collect::<Vec<_>>(), None)
    }

    /// Runs stock kubectl with these arguments and standard input.
    pub fn kubectl_with(&self, arguments: &[&str], stdin: Option<&str>) -> Result<Answer> {
        run(
            self.inside(&self.kubectl).args(arguments),
            stdin,
            Duration::from_secs(120),
        )
    }

    /// Runs stock kubectl, which must succeed; returns what it printed.
    pub fn kubectl(&self, line: &str) -> Result<String> {
        let answer = self.try_kubectl(line)?;
        ensure!(
            answer.code == 0,
            "kubectl {line}: exit code {}: {}{}",
            answer.code,
            answer.stdout,
            answer.stderr
        );
        Ok(answer.stdout)
    }

    /// The stock kubectl.
    pub fn kubectl_path(&self) -> &Path {
        &self.kubectl
    }

    /// The ends of the daemons' logs, for a failure's message.
    pub fn logs(&self) -> String {
        let folder = PathBuf::from(format!("/var/log/keelson-{}", self.name));
        let mut text = String::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let content = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = content.lines().collect();
            text.push_str(&format!(
                "== {}\n{}\n",
                entry.path().display(),
                lines[lines.len().saturating_sub(15)..].join("\n")
            ));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        match self.keelson(&["uninstall"]) {
            Ok(answer) if answer.code == 0 => {}
            Ok(answer) => eprintln!("uninstall: {}{}", answer.stdout, answer.stderr),
            Err(error) => eprintln!("uninstall: {error:#}"),
        }
    }
}

/// Runs a command with a deadline.
pub fn run(command: &mut Command, stdin: Option<&str>, timeout: Duration) -> Result<Answer> {
    let shown = format!("{command:?}");
    let input = if stdin.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        pipe.write_all(text.as_bytes())?;
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = finished
            .recv_timeout(timeout)
            .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            // It may have ended at this very moment.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        late
    });
    let output: Output = child.wait_with_output()?;
    drop(done);
    let late = watchdog.join().unwrap_or(false);
    ensure!(
        !late,
        "{shown} did not end within {} s: {}",
        timeout.as_secs(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Answer {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    })
}

/// Asks until the answer is as wanted.
pub fn wait_for(
    what: &str,
    timeout: Duration,
    mut check: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match check() {
            Ok(true) => return Ok(()),
            Ok(false) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if Instant::now() > deadline {
            bail!("{what}: not after {} s{last}", timeout.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
