//! What every daemon's `main` needs around its own work, so that each `main` reads as one page:
//! logging, the crypto provider, signals, health checks, metrics, the secure port, systemd.
//!
//! Nothing here knows what a daemon does; flags that belong to one daemon stay with that daemon.

pub mod flags;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod secure_port;
pub mod shutdown;
pub mod systemd;
pub mod task;
pub mod tls;
pub mod version;

/// Installs the one TLS and crypto provider (aws-lc-rs) of the process. Calling it again does nothing.
pub fn install_crypto() {
    // The only error is that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Builds the process's one async runtime, runs `main` on it and turns its error into exit code 1.
///
/// Worker threads follow the cores, at least two; stacks are 1 MiB, since a daemon has few deep calls.
pub fn run<F>(name: &'static str, main: F) -> std::process::ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    // A daemon's heap is small and sparse: huge pages would make each touched corner of it 2 MiB. Programs that a daemon
    // starts inherit this, so the shim takes it back before it starts a container.
    if let Err(errno) = nix::sys::prctl::set_thp_disable(true) {
        eprintln!("{name}: cannot do without huge pages: {errno}");
    }
    install_crypto();
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 8);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_stack_size(2 << 20)
        .thread_name(name)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: cannot start the async runtime: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(main);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "exiting");
            eprintln!("{name}: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
