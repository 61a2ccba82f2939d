//! `make diff`: the corpus sent to upstream's API server and to ours; prints what differs and ends with `N passed, N failed, N skipped`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use keelson_e2e::diff::run::{self, Outcome, Pair};
use keelson_e2e::diff::scenario::Scenario;
use keelson_e2e::diff::servers::Ground;
use keelson_e2e::diff::{corpus, keys, resources, suite, surface};
use regex::Regex;

#[derive(Debug, Parser)]
#[command(about)]
struct Flags {
    /// Only scenarios whose name matches this regular expression.
    #[arg(long)]
    only: Option<Regex>,
    /// Write every difference as a line of JSON into this file.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Scenarios that run beside each other.
    #[arg(long, default_value_t = 12)]
    workers: usize,
    /// Upstream's kube-apiserver; built by e2e/upstream/build.
    #[arg(long)]
    upstream: Option<PathBuf>,
    /// Our kube-apiserver; beside this program.
    #[arg(long)]
    ours: Option<PathBuf>,
    /// etcd.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Keep the servers' logs and certificates and say where.
    #[arg(long)]
    keep: bool,
    /// How many requests that differ are printed; the report has all.
    #[arg(long, default_value_t = 200)]
    print: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match diff(Flags::parse()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("✗ {error:#}");
            ExitCode::from(2)
        }
    }
}

fn programs(flags: &Flags) -> Result<(PathBuf, PathBuf)> {
    let beside = std::env::current_exe()?.with_file_name("kube-apiserver");
    let ours = flags.ours.clone().unwrap_or(beside);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.build/upstream/bin/kube-apiserver");
    let upstream = flags.upstream.clone().unwrap_or(built);
    for (path, mend) in [
        (&ours, "make build"),
        (&upstream, "e2e/upstream/build kube-apiserver"),
    ] {
        ensure!(path.is_file(), "no {} ({mend})", path.display());
    }
    Ok((upstream, ours))
}

async fn diff(flags: Flags) -> Result<usize> {
    let (upstream, ours) = programs(&flags)?;
    let ground = Ground::prepare()?;
    let (theirs, our) = tokio::try_join!(
        ground.start("upstream", &upstream, &flags.etcd),
        ground.start("ours", &ours, &flags.etcd),
    )?;
    let known = resources::discover(&theirs.client).await?;
    let (mut scenarios, mut skipped) = (Vec::new(), 0);
    for (name, file) in corpus::read()? {
        let resource = file.resource(&known);
        scenarios.extend(file.written(&name, resource));
        match resource {
            Some(resource) => scenarios.extend(suite::scenarios(&file, resource)),
            None if file.scenarios.is_empty() => {
                eprintln!("SKIPPED: {name}: upstream does not serve its kind");
                skipped += 1;
            }
            None => {}
        }
    }
    scenarios.extend(surface::scenarios(&known));
    scenarios.retain(|s| {
        flags
            .only
            .as_ref()
            .is_none_or(|only| only.is_match(&s.name))
    });
    let requests: usize = scenarios.iter().map(|s| s.steps.len()).sum();
    eprintln!("{} scenarios, {requests} requests", scenarios.len());
    let pair = Pair {
        upstream: theirs.client.clone(),
        ours: our.client.clone(),
    };
    let started = std::time::Instant::now();
    let mut outcomes = run::all(pair, scenarios, flags.workers).await?;
    outcomes.extend(anonymous(&theirs.anonymous, &our.anonymous, &flags).await?);
    let wrong = keys::compare(&theirs.etcd, &our.etcd).await?;
    if let Some(path) = &flags.report {
        report(path, &outcomes)?;
    }
    print(&outcomes, flags.print);
    for line in &wrong {
        println!("✗ etcd keys: {line}");
    }
    println!(
        "{} requests in {:.0} s",
        outcomes.len(),
        started.elapsed().as_secs_f32()
    );
    drop((theirs, our));
    if flags.keep {
        println!("kept {}", ground.keep().display());
    }
    let failed = outcomes
        .iter()
        .filter(|o| !o.differences.is_empty())
        .count()
        + usize::from(!wrong.is_empty());
    println!(
        "{} passed, {failed} failed, {skipped} skipped",
        outcomes.len() + 1 - failed
    );
    Ok(failed)
}

/// What a client without credentials gets.
async fn anonymous(
    upstream: &keelson_e2e::diff::client::Client,
    ours: &keelson_e2e::diff::client::Client,
    flags: &Flags,
) -> Result<Vec<Outcome>> {
    let step = |path: &str| keelson_e2e::diff::scenario::Step::new(path, "GET", path);
    let open = Scenario {
        name: "surface anonymous".into(),
        steps: ["/healthz", "/livez", "/readyz", "/version"]
            .map(step)
            .into(),
        ..Scenario::default()
    };
    if flags
        .only
        .as_ref()
        .is_some_and(|only| !only.is_match(&open.name))
    {
        return Ok(Vec::new());
    }
    let pair = Pair {
        upstream: upstream.clone(),
        ours: ours.clone(),
    };
    run::all(pair, vec![open], 1).await
}

fn print(outcomes: &[Outcome], most: usize) {
    let mut shown = 0;
    let mut by_scenario: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for outcome in outcomes {
        let scenario = outcome.title.split(" › ").next().unwrap_or_default();
        let count = by_scenario.entry(scenario).or_default();
        count.0 += 1;
        if outcome.differences.is_empty() {
            continue;
        }
        count.1 += 1;
        shown += 1;
        if shown > most {
            continue;
        }
        println!("✗ {}\n  {}", outcome.title, outcome.request);
        for d in &outcome.differences {
            println!(
                "    {}\n      upstream: {}\n      ours:     {}",
                d.at, d.upstream, d.ours
            );
        }
    }
    for (scenario, (all, failed)) in by_scenario {
        if failed > 0 {
            println!("  {failed:5} of {all:5}  {scenario}");
        }
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in outcomes.iter().flat_map(|o| &o.reasons) {
        *reasons.entry(reason).or_default() += 1;
    }
    for (reason, count) in reasons {
        println!("• {count} differences explained: {reason}");
    }
}

fn report(path: &Path, outcomes: &[Outcome]) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
    let mut file = std::io::BufWriter::new(file);
    for outcome in outcomes.iter().filter(|o| !o.differences.is_empty()) {
        let differences: Vec<_> = outcome
            .differences
            .iter()
            .map(|d| serde_json::json!({"at": d.at, "upstream": d.upstream, "ours": d.ours}))
            .collect();
        let sent: String = outcome.sent.chars().take(6000).collect();
        let line = serde_json::json!({
            "title": outcome.title, "request": outcome.request, "sent": sent, "differences": differences,
        });
        writeln!(file, "{line}")?;
    }
    Ok(())
}
