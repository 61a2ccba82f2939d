//! `make bench`: whole daemons measured as processes, ours beside upstream's in one run.
//!
//! `UPSTREAM=` names upstream's kube-apiserver (built by `e2e/upstream/build` by default; `none` measures ours alone), `ETCD=` the
//! etcd both are put on, `OBJECTS=` how many objects are listed, `WATCHERS=` how many watch, `ONLY=` a section. Both servers run one
//! after the other, never beside each other, each on an etcd of its own, with the same flags and the same requests. Printed are
//! medians, and processor seconds of the server (without etcd) per operation.

mod lists;
mod load;
mod process;
mod table;
mod watches;
mod writes;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use keelson_e2e::diff::servers::{Ground, Side};
use tokio::time::{Duration, Instant};

use process::Process;
use table::Table;

/// Measures our API server beside upstream's.
#[derive(Debug, Parser)]
struct Flags {
    /// Upstream's kube-apiserver, or `none`.
    #[arg(long, env = "UPSTREAM")]
    upstream: Option<PathBuf>,
    /// Our kube-apiserver; beside this program by default.
    #[arg(long, env = "OURS")]
    ours: Option<PathBuf>,
    /// etcd.
    #[arg(long, env = "ETCD", default_value = "etcd")]
    etcd: PathBuf,
    /// Objects that are listed.
    #[arg(long, env = "OBJECTS", default_value_t = 10_000)]
    objects: usize,
    /// Watchers.
    #[arg(long, env = "WATCHERS", default_value_t = 200)]
    watchers: usize,
    /// Writes of one measurement.
    #[arg(long, env = "WRITES", default_value_t = 3_000)]
    writes: usize,
    /// Only sections whose name contains this: start, write, list, watch.
    #[arg(long, env = "ONLY", default_value = "")]
    only: String,
}

impl Flags {
    fn wants(&self, section: &str) -> bool {
        section.contains(&self.only)
    }
}

/// One server under measurement.
struct Measured<'a> {
    side: &'a Side,
    server: Process,
    load: load::Load,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(bench(&flags))
}

async fn bench(flags: &Flags) -> Result<()> {
    let own = std::env::current_exe()?.with_file_name("kube-apiserver");
    let ours = flags.ours.clone().unwrap_or(own);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.build/upstream/bin/kube-apiserver");
    let upstream = flags.upstream.clone().unwrap_or(built);
    let mut sides = vec![("ours", ours)];
    if upstream.as_os_str() != "none" {
        sides.push(("upstream", upstream));
    }
    let mut table = Table::default();
    for (name, program) in sides {
        eprintln!(" • {name}: {}", program.display());
        side(flags, name, &program, &mut table)
            .await
            .with_context(|| name.to_owned())?;
    }
    table.print();
    Ok(())
}

/// Everything of one server.
async fn side(flags: &Flags, name: &'static str, program: &Path, table: &mut Table) -> Result<()> {
    let ground = Ground::prepare()?;
    let began = Instant::now();
    let side = ground.start(name, program, &flags.etcd).await?;
    let ready = began.elapsed();
    let measured = Measured {
        server: Process::new(side.server_pid().context("the server has no pid")?),
        load: load::Load::new(&ground, &side)?,
        side: &side,
    };
    if flags.wants("start") {
        // With its etcd, which is the same for both.
        table.put(
            "start to ready, etcd included",
            "s",
            name,
            ready.as_secs_f64(),
        );
        tokio::time::sleep(Duration::from_secs(10)).await;
        table.put(
            "memory, idle 10 s after the start",
            "MB",
            name,
            measured.server.memory()?,
        );
    }
    if flags.wants("write") {
        writes::run(&measured, flags.writes, table).await?;
    }
    if flags.wants("list") {
        lists::run(&measured, flags.objects, table).await?;
    }
    if flags.wants("watch") {
        watches::run(&measured, flags.watchers, table).await?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    table.put(
        "memory, 5 s after all load",
        "MB",
        name,
        measured.server.memory()?,
    );
    table.put("memory, at its most", "MB", name, measured.server.peak()?);
    Ok(())
}
