//! Starts a container's first process with libcontainer.
//!
//! libcontainer runs in a forked helper, not in the shim: it blocks, clears the dumpable flag and sets its caller's OOM
//! score. The process it makes is the shim's child all the same (`as_sibling`). All of create and start happens here,
//! so whatever prevents the program from running is an error of starting, as with CRI.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use keelson_shim::Start;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::unistd::Pid;

use crate::devices;
use crate::identity;
use crate::process::{self, Report};
use crate::rootfs;
use crate::trace;

/// Directory of libcontainer's own state, in the bundle.
const STATE: &str = "oci";

/// The container's ends of its streams.
pub struct ChildIo {
    /// Read end of stdin, or /dev/null.
    pub stdin: OwnedFd,
    /// Write end of stdout, or /dev/null.
    pub stdout: OwnedFd,
    /// Write end of stderr, or /dev/null.
    pub stderr: OwnedFd,
}

/// Forks the helper. Reports come over the returned channel; its end means that the program runs.
pub fn launch(start: &Start, io: Option<ChildIo>) -> nix::Result<(Pid, OwnedFd)> {
    let (ours, theirs) = process::channel()?;
    let helper = process::fork_with(|| {
        let result = run(start, io, theirs.as_fd());
        if let Err(message) = &result {
            Report::Failed(message.clone()).send(theirs.as_fd(), &[]);
        }
        i32::from(result.is_err())
    })?;
    Ok((helper, ours))
}

fn run(start: &Start, io: Option<ChildIo>, channel: BorrowedFd<'_>) -> Result<(), String> {
    trace::install(channel.as_raw_fd());
    let root = rootfs::prepare(start)?;
    let spec = adapt_spec(start, &root)?;
    let state = start.bundle.join(STATE);
    if state.exists() {
        std::fs::remove_dir_all(&state).map_err(|error| format!("{}: {error}", state.display()))?;
    }
    std::fs::create_dir_all(&state).map_err(|error| format!("{}: {error}", state.display()))?;
    let console = start
        .tty
        .then(|| Console::listen(&start.bundle))
        .transpose()?;
    let mut builder = ContainerBuilder::new(start.container.clone(), SyscallType::default())
        .with_executor(Program {
            channel: channel.as_raw_fd(),
        })
        .with_root_path(&state)
        .map_err(|error| error.to_string())?;
    if let Some(console) = &console {
        builder = builder.with_console_socket(Some(console.path.clone()));
    }
    if let Some(io) = io {
        builder = builder
            .with_stdin(io.stdin)
            .with_stdout(io.stdout)
            .with_stderr(io.stderr);
    }
    let mut container = builder
        .as_init(&start.bundle)
        .with_systemd(false)
        .as_sibling(true)
        .with_detach(true)
        .build()
        .map_err(|error| error.to_string())?;
    let pid = container
        .pid()
        .ok_or_else(|| "libcontainer told no pid".to_owned())?;
    Report::Pid(pid.as_raw()).send(channel, &[]);
    if let Some(console) = console {
        let master = console.receive()?;
        Report::Terminal.send(channel, &[master.as_fd()]);
    }
    devices::confine(&spec, &start.cgroups)?;
    container.start().map_err(|error| error.to_string())
}

/// Writes into the bundle's config.json what only the root filesystem tells: users, groups, home.
fn adapt_spec(start: &Start, root: &Path) -> Result<Spec, String> {
    let path = start.bundle.join("config.json");
    let mut spec = Spec::load(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let identity = identity::resolve(root, &start.user)?;
    let mut process = spec
        .process()
        .clone()
        .ok_or_else(|| "config.json has no process".to_owned())?;
    identity::make_directory(root, process.cwd())
        .map_err(|errno| format!("mkdir {}: {errno}", process.cwd().display()))?;
    let mut user = process.user().clone();
    user.set_uid(identity.uid)
        .set_gid(identity.gid)
        .set_additional_gids(Some(identity.groups));
    process.set_user(user);
    // libcontainer would ask the name service of the container for a missing HOME, and so run the container's own
    // libraries with the host's descriptors still open.
    let mut environment = process.env().clone().unwrap_or_default();
    environment.retain(|entry| entry != "HOME=");
    if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
        environment.push(format!("HOME={}", identity.home));
    }
    process.set_env(Some(environment));
    spec.set_process(Some(process));
    spec.save(&path)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(spec)
}

/// Runs the program at the end of libcontainer's preparations.
#[derive(Clone)]
struct Program {
    channel: RawFd,
}

impl Program {
    fn report(&self, message: &str) {
        // SAFETY: the channel stays open until exec in every process that libcontainer makes.
        let channel = unsafe { BorrowedFd::borrow_raw(self.channel) };
        Report::Failed(message.to_owned()).send(channel, &[]);
    }
}

fn arguments(spec: &Spec) -> (Vec<String>, Vec<String>) {
    let process = spec.process().as_ref();
    let arguments = process
        .and_then(|process| process.args().clone())
        .unwrap_or_default();
    let environment = process
        .and_then(|process| process.env().clone())
        .unwrap_or_default();
    (arguments, environment)
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (arguments, environment) = arguments(spec);
        match process::exec(&arguments, &environment) {
            Ok(never) => match never {},
            Err(message) => {
                self.report(&message);
                Err(ExecutorError::Other(message))
            }
        }
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let (arguments, environment) = arguments(spec);
        let first = arguments.first().map(String::as_str).unwrap_or_default();
        match crate::lookup::program(first, &environment) {
            Ok(_) => Ok(()),
            Err(message) => {
                self.report(&message);
                Err(ExecutorValidationError::ArgValidationError(message))
            }
        }
    }

    fn setup_envs(
        &self,
        _: std::collections::HashMap<String, String>,
    ) -> Result<(), libcontainer::workload::ExecutorSetEnvsError> {
        Ok(()) // exec gets its environment in the order of the specification
    }
}

/// The socket over which libcontainer hands out a terminal's master.
struct Console {
    path: std::path::PathBuf,
    listener: std::os::unix::net::UnixListener,
}

impl Console {
    fn listen(bundle: &Path) -> Result<Self, String> {
        let path = bundle.join("console.sock");
        let _ = std::fs::remove_file(&path);
        // Bound by a short relative name, as socket paths are bounded.
        std::env::set_current_dir(bundle).map_err(|error| error.to_string())?;
        let listener = std::os::unix::net::UnixListener::bind("console.sock");
        std::env::set_current_dir("/").map_err(|error| error.to_string())?;
        Ok(Self {
            path,
            listener: listener.map_err(|error| format!("console socket: {error}"))?,
        })
    }

    fn receive(&self) -> Result<OwnedFd, String> {
        use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
        let (stream, _) = self.listener.accept().map_err(|error| error.to_string())?;
        let mut buffer = [0_u8; 256];
        let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!([RawFd; 1]);
        let message = recvmsg::<()>(
            stream.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .map_err(|errno| format!("receive terminal: {errno}"))?;
        let _ = std::fs::remove_file(&self.path);
        for part in message.cmsgs().map_err(|errno| errno.to_string())? {
            if let ControlMessageOwned::ScmRights(fds) = part
                && let Some(fd) = fds.first()
            {
                // SAFETY: the kernel has just made this descriptor for us.
                return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
            }
        }
        Err("libcontainer sent no terminal".to_owned())
    }
}
