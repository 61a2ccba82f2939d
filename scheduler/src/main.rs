//! `kube-scheduler`: parse, then run until a signal or the loss of leadership.

use std::process::ExitCode;

use clap::Parser;
use kube_scheduler::{daemon, options::Options};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options = Options::parse();
    keelson_daemon::logging::init(&options.log);
    keelson_daemon::run("kube-scheduler", daemon::run(options))
}
