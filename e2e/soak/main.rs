//! `make soak`: a cluster of its own under load and under fire. First traffic through every kind of rollout, then every daemon killed
//! (-9) at random instants of a rollout, and etcd stopped for a minute. Prints a table and ends with one line that counts.
//!
//! `ROUNDS` (10) kills a daemon, `SEED` repeats a run's random instants, `RATE` (200) requests a second.

mod kills;
mod rollout;
mod traffic;
mod writes;

use anyhow::{Context, Result};
use keelson::layout::Layout;
use keelson_e2e::cluster::Cluster;

/// Name of the cluster, and of its network namespace, folders and cgroups.
const NAME: &str = "soak";

/// What was looked at and whether it was as it must be.
#[derive(Debug, Default)]
pub struct Findings {
    passed: usize,
    failed: usize,
}

impl Findings {
    /// Notes one statement and prints it.
    pub fn note(&mut self, good: bool, statement: &str) {
        let sign = if good { "✓" } else { "✗" };
        println!(" {sign} {statement}");
        if good {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name}={text} is no number")),
        Err(_) => Ok(default),
    }
}

fn main() -> Result<()> {
    let (rounds, rate) = (setting("ROUNDS", 10)?, setting("RATE", 200)?);
    let seed = setting("SEED", u64::from(std::process::id()))?;
    println!("soak: {rounds} rounds, {rate} requests/s, SEED={seed}");
    let cluster = Cluster::start(NAME, &[])?;
    let layout = Layout::new(NAME)?;
    // Before there are threads: they inherit the namespace.
    if let Some(netns) = layout.netns() {
        keelson::netns::enter(&netns)?;
    }
    keelson_daemon::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut findings = Findings::default();
    let outcome = runtime.block_on(async {
        let client = keelson::up::client(&layout).await?;
        traffic::run(&cluster, &client, rate, &mut findings)
            .await
            .context("traffic")?;
        kills::run(&client, &layout, rounds, seed, &mut findings)
            .await
            .context("kills")
    });
    if let Err(error) = outcome {
        findings.note(false, &format!("{error:#}"));
        eprintln!("{}", cluster.logs());
    }
    drop(cluster);
    println!("{} passed, {} failed", findings.passed, findings.failed);
    std::process::exit(i32::from(findings.failed > 0));
}
