//! The command behind `make conformance`; see [`keelson_e2e::conformance`].

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use keelson_e2e::conformance::{self, Options, selection::Wanted};

/// Runs upstream's conformance tests against a cluster of its own.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only tests whose full names match.
    #[arg(long, env = "FOCUS")]
    focus: Option<String>,
    /// Only tests of a stage: a prefix of the list's column `stage`.
    #[arg(long, env = "STAGE")]
    stage: Option<String>,
    /// Only tests of this tab-separated list, named in its column `test`.
    #[arg(long, env = "LIST")]
    list: Option<PathBuf>,
    /// What upstream's clients speak: json or protobuf.
    #[arg(long, env = "CONTENT_TYPE", default_value = "protobuf")]
    content_type: String,
    /// Nodes of the cluster.
    #[arg(long, env = "NODES", default_value_t = 2)]
    nodes: u32,
    /// Tests that run beside each other.
    #[arg(long, env = "PARALLEL", default_value_t = 4)]
    parallel: u32,
    /// The cluster's name.
    #[arg(long, env = "CLUSTER", default_value = "conformance")]
    cluster: String,
    /// Leave the cluster running at the end, and use it as it is at the start.
    #[arg(long, env = "KEEP")]
    keep: bool,
    /// Folder of Keelson's programs; this program's own by default.
    #[arg(long)]
    programs: Option<PathBuf>,
}

fn given(text: Option<String>) -> Option<String> {
    text.filter(|t| !t.is_empty())
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let options = Options {
        wanted: Wanted {
            focus: given(arguments.focus),
            stage: given(arguments.stage),
            list: arguments.list.filter(|l| !l.as_os_str().is_empty()),
        },
        content_type: arguments.content_type,
        nodes: arguments.nodes,
        parallel: arguments.parallel,
        cluster: arguments.cluster,
        keep: arguments.keep,
        programs: match arguments.programs {
            Some(folder) => folder,
            None => conformance::own_folder()?,
        },
        workspace: workspace.unwrap_or(Path::new(".")).into(),
    };
    Ok(match conformance::conformance(&options)? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
