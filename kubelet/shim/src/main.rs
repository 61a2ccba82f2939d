//! `keelson-shim <pod directory>`: the parent of a pod's containers.
//!
//! One process a pod, single-threaded. It makes the pod's namespaces, starts containers, holds their streams, writes
//! their logs, reaps them, records how they ended, and does what the kubelet asks over a socket. It outlives the kubelet.
//! Networks, images and what a pod should look like are the kubelet's business.

mod clock;
mod container;
mod devices;
mod exec;
mod identity;
mod jobs;
mod launch;
mod log;
mod lookup;
mod process;
mod requests;
mod rootfs;
mod sandbox;
mod server;
mod streams;
mod trace;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keelson_shim::{SANDBOX, Sandbox};

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: keelson-shim <pod directory>");
        return ExitCode::from(2);
    };
    match run(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // The kubelet reads this from the pipe that is our standard error until we are ready.
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path) -> Result<(), String> {
    let file = directory.join(SANDBOX);
    let text = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let sandbox: Sandbox =
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    // SAFETY: plain prctls: our name, the adoption of what our children leave behind, and huge pages, which the kubelet
    // has switched off for itself, for those who want them.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"keelson-shim".as_ptr());
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::prctl(libc::PR_SET_THP_DISABLE, 0, 0, 0, 0);
    }
    // A session of our own: a terminal or a service manager that ends the kubelet does not end us.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/").map_err(|error| error.to_string())?;
    sandbox::enter(&sandbox)?;
    let mut server = server::Server::bind(directory)?;
    if sandbox.shared_pid {
        let empty = directory.join("pause");
        std::fs::create_dir_all(&empty).map_err(|error| error.to_string())?;
        server.set_pause(sandbox::pause(&sandbox, &empty)?);
    }
    ready(directory)?;
    server.run();
    Ok(())
}

/// Tells the kubelet that the socket is there, over the pipe that standard output is, and lets go of it.
fn ready(directory: &Path) -> Result<(), String> {
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| error.to_string())?;
    print!("ready");
    std::io::Write::flush(&mut std::io::stdout()).map_err(|error| error.to_string())?;
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("shim.log"))
        .map_err(|error| error.to_string())?;
    for (file, number) in [(&null, 0), (&null, 1), (&log, 2)] {
        process::install(file.as_fd(), number).map_err(|error| error.to_string())?;
    }
    Ok(())
}
