//! `make conformance`: upstream's own end-to-end tests against a cluster of ours with more than one node.
//!
//! The cluster is a named one, in network namespaces of its own, with everything that secures it on. Its images come from a
//! registry inside its network ([`registry`]), assembled here ([`images`]) out of Debian packages ([`debian`]) and upstream's
//! modules. [`selection`] says which tests are run, [`report`] what came of them.

pub mod debian;
pub mod images;
pub mod registry;
pub mod report;
pub mod selection;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use debian::run;
use report::{Ended, Outcome};
use selection::{Selection, Wanted};

/// How to run.
#[derive(Debug)]
pub struct Options {
    /// Which tests.
    pub wanted: Wanted,
    /// `json` or `protobuf`: what upstream's clients speak.
    pub content_type: String,
    /// Nodes of the cluster.
    pub nodes: u32,
    /// How many tests run beside each other.
    pub parallel: u32,
    /// The cluster's name.
    pub cluster: String,
    /// Leave the cluster as it is at the end, and take one that runs.
    pub keep: bool,
    /// Folder of Keelson's programs.
    pub programs: PathBuf,
    /// The workspace.
    pub workspace: PathBuf,
}

impl Options {
    fn upstream(&self) -> PathBuf {
        self.workspace.join(".build/upstream/bin")
    }

    fn work(&self) -> PathBuf {
        self.workspace.join(".build/conformance")
    }

    fn keelson(&self) -> PathBuf {
        self.programs.join("keelson")
    }
}

/// Runs the tests. Returns whether all passed.
pub fn conformance(options: &Options) -> Result<bool> {
    let media_type = match options.content_type.as_str() {
        "json" => "application/json",
        "protobuf" => "application/vnd.kubernetes.protobuf",
        other => anyhow::bail!("CONTENT_TYPE={other}: json or protobuf"),
    };
    std::fs::create_dir_all(options.work())?;
    let listing = run(Command::new(options.upstream().join("e2e.test")).arg("--list-tests"))?;
    let selection = selection::select(&selection::names(&listing), &options.wanted)?;
    let count = selection.parallel.len() + selection.serial.len();
    println!(
        " • {count} tests, {} of them alone; {} nodes, {}",
        selection.serial.len(),
        options.nodes,
        options.content_type
    );
    let storage = prepare_images(options)?;
    let program = debian::root(
        &options.work().join("debian"),
        "registry",
        &["docker-registry"],
    )?
    .join("usr/bin/docker-registry");

    let cluster = Cluster::start(options)?;
    let keelson = options.keelson().display().to_string();
    let enter = [&keelson, "--name", &options.cluster, "exec"];
    let registry = registry::Registry::start(&enter, &program, &storage, &options.work())?;
    let mut ended: Vec<Ended> = selection
        .missing
        .iter()
        .map(|name| {
            (
                name.clone(),
                Outcome::Failed("upstream's e2e.test has no such test".into()),
            )
        })
        .collect();
    for (part, names, processes) in [
        ("parallel", &selection.parallel, options.parallel),
        ("serial", &selection.serial, 1),
    ] {
        if !names.is_empty() {
            ended.extend(run_part(options, media_type, part, names, processes)?);
        }
    }
    drop(registry);
    drop(cluster);
    Ok(summary(&selection, ended))
}

/// Assembles the images and stores them for the registry; each only once, as long as what it is made of stays the same.
fn prepare_images(options: &Options) -> Result<PathBuf> {
    let module = options.workspace.join("e2e/upstream/kubernetes");
    let places = images::Places {
        upstream: options.upstream(),
        work: options.work(),
        sources: images::sources(&module)?,
        programs: options.workspace.join("e2e/conformance/programs"),
    };
    let storage = options.work().join("registry");
    let mark = options.work().join("images.made");
    let mut made = images::stamp(&places)?;
    let before = std::fs::read_to_string(&mark).unwrap_or_default();
    if before.starts_with(&made) {
        made = before;
    } else if storage.exists() {
        std::fs::remove_dir_all(&storage)?;
    }
    for (names, make) in images::all() {
        if made.lines().any(|line| line == names[0]) {
            continue;
        }
        println!(" • assembling {}", names[0]);
        let recipe = make(&places).with_context(|| format!("cannot make {}", names[0]))?;
        registry::publish(&storage, &names, &recipe)?;
        made.push_str(&format!("{}\n", names[0]));
        std::fs::write(&mark, &made)?;
    }
    Ok(storage)
}

/// The cluster, which ends with this value unless it shall be kept.
struct Cluster<'a>(&'a Options);

impl<'a> Cluster<'a> {
    fn start(options: &'a Options) -> Result<Self> {
        let cluster = Self(options);
        if !options.keep {
            cluster.keelson(&["uninstall"])?;
        }
        let nodes = options.nodes.to_string();
        let address = keelson::netns::NODE_ADDRESS;
        let mirror = format!("*=http://{address}:{}", registry::PORT);
        let programs = options.programs.display().to_string();
        cluster.keelson(&[
            "up",
            "--no-example",
            "--no-kubeconfig",
            "--nodes",
            &nodes,
            "--registry-mirror",
            &mirror,
            "--programs",
            &programs,
        ])?;
        Ok(cluster)
    }

    fn keelson(&self, arguments: &[&str]) -> Result<()> {
        let status = Command::new(self.0.keelson())
            .args(["--name", &self.0.cluster])
            .args(arguments)
            .status()
            .context("cannot run keelson")?;
        ensure!(status.success(), "keelson {} failed", arguments.join(" "));
        Ok(())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if !self.0.keep
            && let Err(error) = self.keelson(&["uninstall"])
        {
            eprintln!(" ✗ {error:#}");
        }
    }
}

/// Runs some of the tests in that many processes of upstream's program.
fn run_part(
    options: &Options,
    media_type: &str,
    part: &str,
    names: &BTreeSet<String>,
    processes: u32,
) -> Result<Vec<Ended>> {
    let folder = options.work().join("reports").join(part);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let log = folder.join("output.log");
    println!(
        " • {} tests ({part}); output in {}",
        names.len(),
        log.display()
    );
    let output = std::fs::File::create(&log)?;
    let upstream = options.upstream();
    let status = Command::new(options.keelson())
        .args(["--name", &options.cluster, "exec"])
        .arg(upstream.join("ginkgo"))
        .arg(format!("-procs={processes}"))
        .arg(format!("-focus={}", selection::pattern(names)))
        .args(["-no-color", "-silence-skips", "-timeout=24h", "-v"])
        .args(["-junit-report=junit.xml", "-json-report=report.json"])
        .arg(format!("-output-dir={}", folder.display()))
        .arg(upstream.join("e2e.test"))
        .arg("--")
        .args(["-provider=skeleton", "-minStartupPods=0"])
        .args([
            "-delete-namespace-on-failure=true",
            "-dump-logs-on-failure=false",
        ])
        .arg(format!(
            "-kubeconfig={}",
            keelson::layout::Layout::new(&options.cluster)?
                .admin_conf()
                .display()
        ))
        .arg(format!(
            "-kubectl-path={}",
            upstream.join("kubectl").display()
        ))
        .arg(format!("-kube-api-content-type={media_type}"))
        .arg(format!("-num-nodes={}", options.nodes))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .context("cannot run ginkgo")?;
    match report::read(&folder.join("report.json")) {
        Ok(ended) => Ok(ended),
        // Every test that no report names counts as failed.
        Err(error) => {
            println!(
                " ✗ ginkgo ended with {status}: {error:#}; see {}",
                log.display()
            );
            Ok(Vec::new())
        }
    }
}

/// Prints what came of it, its last line the count. Returns whether all passed.
fn summary(selection: &Selection, mut ended: Vec<Ended>) -> bool {
    let seen: BTreeSet<&String> = ended.iter().map(|(name, _)| name).collect();
    let silent: Vec<Ended> = selection
        .parallel
        .iter()
        .chain(&selection.serial)
        .filter(|name| !seen.contains(name))
        .map(|name| {
            (
                name.clone(),
                Outcome::Failed("it was not run to its end".into()),
            )
        })
        .collect();
    ended.extend(silent);
    ended.sort_by(|one, two| one.0.cmp(&two.0));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, outcome) in &ended {
        match outcome {
            Outcome::Passed => {
                passed += 1;
                println!(" ✓ {name}");
            }
            Outcome::Skipped(why) => {
                skipped += 1;
                println!(" - {name}\n     {why}");
            }
            Outcome::Failed(_) => failed += 1,
        }
    }
    for (name, outcome) in &ended {
        if let Outcome::Failed(why) = outcome {
            println!(" ✗ {name}\n     {why}");
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed == 0
}

/// The folder of the programs that this one belongs to.
pub fn own_folder() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    exe.parent()
        .map(Path::to_path_buf)
        .context("this program is in no folder")
}
