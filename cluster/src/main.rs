//! The `keelson` command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use keelson::failure::Failure;
use keelson::layout::{DEFAULT_NAME, Layout};
use keelson::{
    check, down, images, kubeconfig, netns, nodes, secrets, status, supervisor, support, uninstall,
    up,
};

/// Keelson: a Kubernetes cluster on this machine.
#[derive(Debug, Parser)]
#[command(name = "keelson", version = keelson_daemon::version::GIT_VERSION)]
struct Arguments {
    /// Which cluster: any other than the default has folders, cgroups and a network namespace of its own.
    #[arg(long, global = true, default_value = DEFAULT_NAME)]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the cluster up; a second time changes nothing.
    Up {
        /// Do not apply the guide's example.
        #[arg(long)]
        no_example: bool,
        /// Do not touch ~/.kube/config.
        #[arg(long)]
        no_kubeconfig: bool,
        /// Folder of the daemons; the folder of this program by default.
        #[arg(long)]
        programs: Option<PathBuf>,
        /// How many nodes: further ones live in network namespaces of their own. As many as there are by default, or 1.
        #[arg(long)]
        nodes: Option<u32>,
        /// Where the nodes ask for images instead of a registry: `registry=url`, `*=url` for all; repeated.
        #[arg(long)]
        registry_mirror: Vec<String>,
    },
    /// Stop the daemons and all containers; what is stored stays.
    Down,
    /// Show what runs and whether it is healthy.
    Status,
    /// Look at the host: what is missing, and the command that mends it.
    Check,
    /// Print the administrator's kubeconfig.
    Kubeconfig,
    /// Images of the node's store.
    Images {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Run a command in the cluster's network namespace with its kubeconfig.
    Exec {
        /// The command.
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Encryption of Secrets in etcd.
    Secrets {
        #[command(subcommand)]
        command: SecretsCommand,
    },
    /// Write an archive for a bug report, without secrets.
    Support {
        /// Where to.
        #[arg(default_value = "keelson-support.tar.gz")]
        file: PathBuf,
    },
    /// Stop the cluster and remove everything of it from this machine.
    Uninstall,
    /// Keep the daemons alive (started by `up`).
    #[command(hide = true)]
    Supervise,
    /// Run a program on a further node (used by `up` for the node's daemons).
    #[command(hide = true)]
    OnNode {
        /// Which node, counted from 1.
        #[arg(long)]
        node: u32,
        /// The first node's address.
        #[arg(long)]
        gateway: IpAddr,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum SecretsCommand {
    /// Show the keys, and how many Secrets lie in etcd under each.
    Status,
    /// Make a new key, write every Secret with it and drop the old keys.
    Rotate,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Import an OCI layout or a docker archive (tar).
    Import {
        /// The archive.
        archive: PathBuf,
    },
    /// List the images.
    List,
    /// Remove an image.
    Rm {
        /// Name or id.
        image: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(" ✗ {error:#}");
            match error.downcast_ref::<Failure>() {
                Some(failure) => {
                    eprintln!("   mend: {}", failure.mend);
                    ExitCode::from(failure.exit_code)
                }
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let layout = Layout::new(&arguments.name)?;
    match &arguments.command {
        Command::Supervise => return supervisor::supervise(&layout),
        Command::Check => return Ok(check::run(&layout)?),
        Command::Kubeconfig => {
            print!("{}", kubeconfig::show(&layout)?);
            return Ok(());
        }
        Command::Exec { command } => return exec(&layout, command),
        Command::OnNode {
            node,
            gateway,
            command,
        } => {
            let node = layout.of_node(*node);
            // After a reboot the unit is started before anybody made the namespace again.
            nodes::connect(&node, *gateway)?;
            return nodes::exec(&node, command);
        }
        Command::Up { .. } => {
            if let Some(failure) = check::first_failure(&layout) {
                return Err(failure.into());
            }
            if let Some(name) = layout.netns() {
                netns::ensure(&name)?;
            }
        }
        _ => {}
    }
    // Threads inherit the namespace of the one that starts them: enter it before there are any.
    let leaves_namespace = matches!(arguments.command, Command::Down | Command::Uninstall);
    if let Some(name) = layout.netns().filter(|name| netns::exists(name))
        && !leaves_namespace
    {
        netns::enter(&name)?;
    }
    keelson_daemon::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match arguments.command {
            Command::Up {
                no_example,
                no_kubeconfig,
                programs,
                nodes,
                registry_mirror,
            } => {
                let options = up::Options {
                    example: !no_example,
                    merge_kubeconfig: !no_kubeconfig,
                    programs,
                    nodes,
                    mirrors: registry_mirror,
                };
                up::run(&layout, &options).await
            }
            Command::Down => down::run(&layout).await,
            Command::Status => status::run(&layout).await,
            Command::Images { command } => match command {
                ImageCommand::Import { archive } => images::import(&layout, &archive).await,
                ImageCommand::List => images::list(&layout),
                ImageCommand::Rm { image } => images::remove(&layout, &image),
            },
            Command::Secrets { command } => match command {
                SecretsCommand::Status => secrets::status(&layout).await,
                SecretsCommand::Rotate => secrets::rotate(&layout).await,
            },
            Command::Support { file } => support::run(&layout, &file).await,
            Command::Uninstall => uninstall::run(&layout).await,
            Command::Supervise
            | Command::Check
            | Command::Kubeconfig
            | Command::Exec { .. }
            | Command::OnNode { .. } => Ok(()),
        }
    })
}

/// Replaces this process by the command, inside the cluster's namespace.
fn exec(layout: &Layout, command: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    if let Some(name) = layout.netns() {
        netns::enter(&name)?;
    }
    let error = std::process::Command::new(&command[0])
        .args(&command[1..])
        .env("KUBECONFIG", layout.admin_conf())
        .exec();
    Err(Failure::new(
        format!("cannot run {}: {error}", command[0]),
        "check that it is on the PATH",
    )
    .exit(127)
    .into())
}
