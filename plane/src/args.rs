//! What a person may say to `evergreen-plane`, and what it means. Each default stands beside its flag.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::ingest::door::TlsFiles;
use clap::{Parser, ValueEnum};
use evergreen_api::{duration::HumanDuration, size::parse_size};

const EXAMPLES: &str = "\
Examples:
  evergreen-plane --data-dir ./plane-data
      Take OTLP on 4317 (gRPC) and 4318 (HTTP), show the page on http://localhost:8080
  evergreen-plane --data-dir /data --max-size 50GiB --retention-raw 12h
      Keep raw points for twelve hours and never more than 50 GiB altogether
  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 evergreen-agent --standalone
      Send one machine's telemetry to it
  evergreen-plane backup --data-dir /data --to /backup/plane-2026-11-24.db
      Copy everything while the plane runs
  evergreen-plane check --data-dir /data
      Say whether the data is sound

  kubectl exec -n evergreen-system evergreen-plane-0 -- evergreen-plane --print-tokens --data-dir /data
      The tokens with which operator, approver, auditor and admin log in until an --access file says otherwise

What is kept: raw metric points for --retention-raw, spans and logs for --retention-spans, energy by
5 minutes for 35 days and by the hour without end. Beyond --max-size the oldest goes first; /metrics counts it.
Every batch is on disk before its sender is told so: a crash loses nothing that was acknowledged.

Exit codes: 0 stopped cleanly, 2 wrong use, 3 could not open the data directory or a port.";

/// Evergreen's monitoring plane: OTLP in; incidents, fleet and energy out.
#[derive(Parser, Debug, Clone)]
#[command(name = "evergreen-plane", version, about, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Something else than running
    #[command(subcommand)]
    pub command: Option<PlaneCommand>,
    /// Where OTLP over gRPC is taken
    #[arg(long, env = "EVERGREEN_GRPC_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:4317")]
    pub grpc_listen: SocketAddr,
    /// Where OTLP over HTTP (protobuf or JSON) is taken
    #[arg(long, env = "EVERGREEN_HTTP_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:4318")]
    pub http_listen: SocketAddr,
    /// Bearer tokens of which senders must show one, a line each; read again when it changes. Without it anyone may send
    #[arg(long, env = "EVERGREEN_OTLP_TOKEN_FILE", value_name = "FILE")]
    pub otlp_token_file: Option<PathBuf>,
    /// Certificate for TLS on both OTLP ports, PEM; read again when it changes
    #[arg(long, env = "EVERGREEN_OTLP_TLS_CERT", value_name = "FILE", requires = "otlp_tls_key")]
    pub otlp_tls_cert: Option<PathBuf>,
    /// Key of that certificate, PEM
    #[arg(long, env = "EVERGREEN_OTLP_TLS_KEY", value_name = "FILE", requires = "otlp_tls_cert")]
    pub otlp_tls_key: Option<PathBuf>,
    /// Authorities that the certificates of senders must come from, PEM; senders without one are refused then
    #[arg(long, env = "EVERGREEN_OTLP_CLIENT_CA", value_name = "FILE", requires = "otlp_tls_cert")]
    pub otlp_client_ca: Option<PathBuf>,
    /// Where the page, the JSON API and /metrics are served
    #[arg(long, env = "EVERGREEN_WEB_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:8080")]
    pub web_listen: SocketAddr,
    /// Directory of the database; made when absent, used by one process at a time
    #[arg(long, env = "EVERGREEN_DATA_DIR", value_name = "DIR", default_value = "/var/lib/evergreen-plane")]
    pub data_dir: PathBuf,
    /// Most bytes to keep; beyond it the oldest raw points, spans and logs go first (plain bytes, or KiB, MiB, GiB, TiB)
    #[arg(long, env = "EVERGREEN_MAX_SIZE", value_name = "BYTES", default_value = "10GiB", value_parser = parse_size)]
    pub max_size: u64,
    /// How long raw metric points are kept
    #[arg(long, env = "EVERGREEN_RETENTION_RAW", value_name = "DURATION", default_value = "6h")]
    pub retention_raw: HumanDuration,
    /// How long spans, incidents and logs are kept
    #[arg(long, env = "EVERGREEN_RETENTION_SPANS", value_name = "DURATION", default_value = "30d")]
    pub retention_spans: HumanDuration,
    /// Facts of data centers (meters, PUE, certificates, water) for the green data center view; read anew when asked
    #[arg(long, env = "EVERGREEN_ENERGY_FACTS", value_name = "FILE")]
    pub energy_facts: Option<PathBuf>,
    /// Who may do what: roles, tokens, an OpenID Connect provider (docs/access.md). Without it anyone may look
    #[arg(long, env = "EVERGREEN_ACCESS", value_name = "FILE")]
    pub access: Option<PathBuf>,
    /// Print the tokens that the first start made in --data-dir, and end
    #[arg(long, env = "EVERGREEN_PRINT_TOKENS")]
    pub print_tokens: bool,
    /// Form of the log on standard error; RUST_LOG sets what is said
    #[arg(long, env = "EVERGREEN_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// What can be done with a plane's data, also while it runs.
#[derive(clap::Subcommand, Debug, Clone)]
pub enum PlaneCommand {
    /// Read the whole database and say what is wrong with it: pages, chunks of points, the journal, sums of energy.
    /// Exit codes: 0 nothing, 1 something, 3 it cannot be read
    Check(CheckArgs),
    /// Copy the database as it is at this moment to a new file, while the plane goes on; put it as plane.db into an empty
    /// data directory to restore
    Backup(BackupArgs),
}

/// Arguments of `check`.
#[derive(clap::Args, Debug, Clone)]
pub struct CheckArgs {
    /// Directory of the database
    #[arg(long, env = "EVERGREEN_DATA_DIR", value_name = "DIR", default_value = "/var/lib/evergreen-plane")]
    pub data_dir: PathBuf,
    /// Print JSON
    #[arg(long, env = "EVERGREEN_JSON")]
    pub json: bool,
}

/// Arguments of `backup`.
#[derive(clap::Args, Debug, Clone)]
pub struct BackupArgs {
    /// Directory of the database
    #[arg(long, env = "EVERGREEN_DATA_DIR", value_name = "DIR", default_value = "/var/lib/evergreen-plane")]
    pub data_dir: PathBuf,
    /// File to write; it must not be there yet
    #[arg(long, env = "EVERGREEN_TO", value_name = "FILE")]
    pub to: PathBuf,
    /// Print JSON
    #[arg(long, env = "EVERGREEN_JSON")]
    pub json: bool,
}

/// How log lines are written.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the arguments mean once they are checked against each other.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of OTLP over gRPC.
    pub grpc_listen: SocketAddr,
    /// Address of OTLP over HTTP.
    pub http_listen: SocketAddr,
    /// Tokens of senders.
    pub otlp_tokens: Option<PathBuf>,
    /// TLS of the OTLP ports.
    pub otlp_tls: Option<TlsFiles>,
    /// Address of the page and the API.
    pub web_listen: SocketAddr,
    /// Directory of the database.
    pub data_dir: PathBuf,
    /// Bounds of what is kept.
    pub retention: Retention,
    /// Facts of data centers.
    pub energy_facts: Option<PathBuf>,
    /// Who may do what.
    pub access: Option<PathBuf>,
}

/// Bounds of what the store keeps.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Most bytes of live database pages.
    pub max_bytes: u64,
    /// Age at which raw points go.
    pub raw: Duration,
    /// Age at which spans, incidents and logs go.
    pub spans: Duration,
}

/// Smallest database that can hold an hour of a small fleet; below it eviction would eat what just came.
const SMALLEST_SIZE: u64 = 16 << 20;
/// Energy is rolled up half an hour behind; raw points must live longer than that.
const SHORTEST_RAW: Duration = Duration::from_secs(3_600);

impl Args {
    /// Checks the arguments against each other.
    ///
    /// # Errors
    /// A sentence that names the flag, what is wrong with it and what would be right.
    pub fn settings(self) -> Result<Settings, String> {
        if self.max_size < SMALLEST_SIZE {
            return Err(format!("--max-size {} is too small: give at least 16MiB", self.max_size));
        }
        if self.retention_raw.get() < SHORTEST_RAW {
            return Err(format!(
                "--retention-raw {} is too short: energy is rolled up from raw points half an hour later, give at least 1h",
                self.retention_raw
            ));
        }
        if self.retention_spans.get() < SHORTEST_RAW {
            return Err(format!("--retention-spans {} is too short: give at least 1h", self.retention_spans));
        }
        Ok(Settings {
            grpc_listen: self.grpc_listen,
            http_listen: self.http_listen,
            otlp_tokens: self.otlp_token_file,
            otlp_tls: self.otlp_tls_cert.zip(self.otlp_tls_key).map(|(certificate, key)| TlsFiles {
                certificate,
                key,
                client_ca: self.otlp_client_ca,
            }),
            web_listen: self.web_listen,
            data_dir: self.data_dir,
            energy_facts: self.energy_facts,
            access: self.access,
            retention: Retention {
                max_bytes: self.max_size,
                raw: self.retention_raw.get(),
                spans: self.retention_spans.get(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_that_would_eat_fresh_data_are_refused_with_the_flag() {
        let args = |flags: &[&str]| Args::try_parse_from([&["evergreen-plane"], flags].concat()).unwrap().settings();
        assert!(args(&["--max-size", "1MiB"]).is_err_and(|e| e.contains("--max-size")));
        assert!(args(&["--retention-raw", "5m"]).is_err_and(|e| e.contains("--retention-raw")));
        assert!(args(&[]).is_ok());
    }

    #[test]
    fn the_help_teaches_by_example() {
        use clap::CommandFactory;
        let help = Args::command().render_long_help().to_string();
        for word in ["Examples:", "Exit codes:", "--data-dir", "EVERGREEN_MAX_SIZE"] {
            assert!(help.contains(word), "{word}");
        }
    }
}
