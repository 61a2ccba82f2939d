//! Structured logs on standard error: klog's verbosity flag mapped to `tracing` levels, text or JSON.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Upstream's logging flags.
#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// Log verbosity: 0-3 information, 4-5 debugging, 6 and above everything.
    #[arg(short = 'v', long = "v", value_name = "LEVEL", default_value_t = 0)]
    pub verbosity: u8,
    /// Form of a log line.
    #[arg(long = "logging-format", value_enum, default_value_t = LogFormat::Text)]
    pub format: LogFormat,
}

/// `--logging-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            verbosity: 0,
            format: LogFormat::Text,
        }
    }
}

/// The filter for a verbosity; the environment variable `RUST_LOG`, where set, wins.
fn directives(verbosity: u8) -> String {
    let level = match verbosity {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    };
    // The transport crates say nothing that helps below warnings, and at `trace` they would print bodies.
    format!(
        "{level},h2=warn,hyper=warn,hyper_util=warn,rustls=warn,tower=warn,kube_client=warn,reqwest=warn,netlink_proto=warn"
    )
}

/// Starts logging. The first call of a process counts.
pub fn init(options: &LogOptions) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(directives(options.verbosity)));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(true);
    // The only error is that a subscriber is set already (tests).
    let _ = match options.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbosity_maps_to_levels() {
        assert!(directives(0).starts_with("info,"));
        assert!(directives(4).starts_with("debug,"));
        assert!(directives(9).starts_with("trace,"));
        assert!(EnvFilter::try_new(directives(9)).is_ok());
    }
}
