//! The command line: what may be said, and what is assumed when nothing is.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use evergreen_api::HumanDuration;
use http::Uri;

use crate::kernel::Format;

const LONG_ABOUT: &str = "\
The Evergreen node agent: reads one node's health and energy, and tells.

  evergreen-agent --standalone             watch this machine in a live table, no cluster needed
  evergreen-agent --once --json            print one sample and end
  dmesg | evergreen-agent detect           name the problems in a kernel log, one JSON object each
  evergreen-agent estimate < FILE          estimate servers' power, one JSON object a line
  evergreen-agent anomaly < rows.csv       score the rows of a series as they come
  evergreen-agent rules check my.yaml      check a rules file; errors come with line and column
  evergreen-agent --kubeconfig FILE        publish the node's conditions to its cluster
                                           (inside a pod no kubeconfig is needed)

Every flag can also be given as EVERGREEN_<FLAG> in the environment. Telemetry goes to OTEL_EXPORTER_OTLP_ENDPOINT
(OTLP over gRPC) when that is set; RUST_LOG sets what is logged.

Exit codes: 0 all well, 1 the answer is no, 2 wrong use, 3 something could not be reached.";

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(name = "evergreen-agent", version, about = "The Evergreen node agent", long_about = LONG_ABOUT, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do instead of running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Read a kernel log on standard input and print one JSON object for each problem.
    Detect {
        /// How the lines look.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Rules instead of the built-in ones, or configurations of node-problem-detector beside them; several times.
        #[arg(long, value_name = "FILE", env = "EVERGREEN_RULES", value_delimiter = ',')]
        rules: Vec<PathBuf>,
    },
    /// Estimate a server's power: machine descriptions on standard input, watts on standard output, one JSON object a line.
    Estimate,
    /// Read rows `timestamp,value` of one series on standard input and answer each with its anomaly score, at once.
    ///
    /// Scores are in 0..1; an alarm is a score of 0.5 or more. A heading is not answered.
    Anomaly,
    /// Work with rules: those of the kernel log detector, and node-problem-detector's configurations.
    Rules {
        /// What to do with them.
        #[command(subcommand)]
        command: RulesCommand,
    },
}

/// What to do with rules.
#[derive(Clone, Debug, Subcommand)]
pub enum RulesCommand {
    /// Check a rules file; exit code 1 and the places when it has errors.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print the built-in rules, as a start for your own.
    Print {
        /// Print the thresholds of the health sources instead.
        #[arg(long)]
        thresholds: bool,
        /// Print what is predicted instead.
        #[arg(long, conflicts_with = "thresholds")]
        predictions: bool,
    },
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// How to run.
#[derive(Clone, Debug, ClapArgs)]
pub struct RunArgs {
    /// Name of the Node; the host's name when left out.
    #[arg(long, env = "EVERGREEN_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Name of the data center; the Node's label evergreen.dev/site when left out, else `local`.
    #[arg(long, env = "EVERGREEN_SITE", value_name = "NAME")]
    pub site: Option<String>,
    /// Where the host's proc, sys and dev are found.
    #[arg(long, env = "EVERGREEN_ROOT", value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// How to reach the node's cluster; as a pod when left out, and no cluster outside of one.
    #[arg(long, env = "EVERGREEN_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Use no cluster, keep no state, and show a live table.
    #[arg(long, env = "EVERGREEN_STANDALONE")]
    pub standalone: bool,
    /// Take one sample, print it, and end.
    #[arg(long, env = "EVERGREEN_ONCE")]
    pub once: bool,
    /// Print JSON instead of a table.
    #[arg(long, env = "EVERGREEN_JSON")]
    pub json: bool,
    /// Where metrics, health and grants are served.
    #[arg(long, env = "EVERGREEN_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:9464")]
    pub listen: SocketAddr,
    /// Rules of the kernel log detector, thresholds or predictions instead of the built-in ones, or JSON configurations of
    /// node-problem-detector beside them; several times, or with commas. Read again when they change.
    #[arg(long, env = "EVERGREEN_RULES", value_name = "FILE", value_delimiter = ',')]
    pub rules: Vec<PathBuf>,
    /// What outlives a restart: conditions, the energy ledger, the place in the kernel log. Default
    /// /var/lib/evergreen-agent; with --standalone nothing is kept unless this is given.
    #[arg(long, env = "EVERGREEN_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Most telemetry that waits on disk, in the state directory, while its receiver is away (plain bytes, or KiB, MiB,
    /// GiB); the oldest goes first and is counted. A node writes about 1 MiB an hour.
    #[arg(long, env = "EVERGREEN_SPOOL_SIZE", value_name = "BYTES", default_value = "64MiB", value_parser = evergreen_api::size::parse_size)]
    pub spool_size: u64,
    /// Where peers can ask this agent's /healthz when the site's controller hears nothing from it, IP or IP:PORT. Default:
    /// the address of --listen, or the Node's InternalIP when that is any.
    #[arg(long, env = "EVERGREEN_HEARTBEAT_ADDRESS", value_name = "ADDR")]
    pub heartbeat_address: Option<crate::heartbeat::HeartbeatTarget>,
    /// The site's controller, asked for grants and sent heartbeats; without it the node holds no grants.
    #[arg(long, env = "EVERGREEN_SITE_ENDPOINT", value_name = "URL")]
    pub site_endpoint: Option<Uri>,
    /// Certificate authority of the site endpoint, PEM.
    #[arg(long, env = "EVERGREEN_SITE_CA", value_name = "FILE")]
    pub site_ca: Option<PathBuf>,
    /// Client certificate for the site endpoint, PEM.
    #[arg(long, env = "EVERGREEN_SITE_CERT", value_name = "FILE", requires = "site_key")]
    pub site_cert: Option<PathBuf>,
    /// Key of that certificate, PEM.
    #[arg(long, env = "EVERGREEN_SITE_KEY", value_name = "FILE", requires = "site_cert")]
    pub site_key: Option<PathBuf>,
    /// ServiceAccount token that goes along, read at each request.
    #[arg(long, env = "EVERGREEN_SITE_TOKEN_FILE", value_name = "FILE")]
    pub site_token_file: Option<PathBuf>,
    /// Public key that grants must be signed with, base64 Ed25519; the first one seen when left out.
    #[arg(long, env = "EVERGREEN_SITE_PUBLIC_KEY", value_name = "KEY")]
    pub site_public_key: Option<String>,
    /// How often CPU, memory, pressure and energy are read.
    #[arg(long, env = "EVERGREEN_SAMPLE_INTERVAL", value_name = "TIME", default_value = "1s")]
    pub sample_interval: HumanDuration,
    /// How often filesystems and processes are looked at.
    #[arg(long, env = "EVERGREEN_HEALTH_INTERVAL", value_name = "TIME", default_value = "10s")]
    pub health_interval: HumanDuration,
    /// How often metrics of the node go out over OTLP.
    #[arg(long, env = "EVERGREEN_OTLP_INTERVAL", value_name = "TIME", default_value = "10s")]
    pub otlp_interval: HumanDuration,
    /// How often metrics of pods go out over OTLP.
    #[arg(long, env = "EVERGREEN_POD_INTERVAL", value_name = "TIME", default_value = "60s")]
    pub pod_interval: HumanDuration,
    /// No condition stays longer than this after its cause was last seen, whatever its rule says; for demonstrations.
    #[arg(long, env = "EVERGREEN_CLEAR_AFTER_AT_MOST", value_name = "TIME")]
    pub clear_after_at_most: Option<HumanDuration>,
    /// Where energy is read.
    #[command(flatten)]
    pub energy: crate::energy::EnergyArgs,
    /// What else is asked for health.
    #[command(flatten)]
    pub probes: crate::probes::ProbeArgs,
    /// How log lines look.
    #[arg(long, env = "EVERGREEN_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_run_flag_has_a_twin_in_the_environment() {
        for argument in Args::command()
            .get_arguments()
            .filter(|argument| argument.get_id() != "help" && argument.get_id() != "version")
        {
            let flag = argument.get_long().unwrap();
            let twin = format!("EVERGREEN_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|env| env.to_str()), Some(twin.as_str()), "{flag}");
        }
    }
}
