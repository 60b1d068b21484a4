//! Command line of the controller; each default beside its flag.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};
use evergreen_api::HumanDuration;

/// One data center's controller: keeps its services alive across data centers, heals what breaks, reports energy.
///
/// It talks to the API server of its own data center and, through the DataCenter resources there, to those of the
/// others. It needs no hub. Every flag can also be given as EVERGREEN_<FLAG>; OTEL_EXPORTER_OTLP_ENDPOINT says where
/// traces, metrics and logs go.
///
/// Example: evergreen-controller --site shanghai-1 --kubeconfig ~/.kube/config
#[derive(Debug, Parser)]
#[command(
    name = "evergreen-controller",
    version,
    verbatim_doc_comment,
    after_help = "Exit status: 0 stopped cleanly, 2 wrong use, 3 something that must be there at start is not."
)]
pub struct Args {
    /// Name of the data center that this controller runs in; a DataCenter of that name must exist.
    #[arg(long, env = "EVERGREEN_SITE")]
    pub site: String,
    /// Kubeconfig of the own API server; without it the pod's service account is used.
    #[arg(long, env = "EVERGREEN_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Where agents pull grants, over TLS with client certificates.
    #[arg(long, env = "EVERGREEN_LISTEN", default_value = "0.0.0.0:9443")]
    pub listen: SocketAddr,
    /// Certificate of the site endpoint, PEM. Without the three TLS files the site endpoint is not served.
    #[arg(long, env = "EVERGREEN_TLS_CERT", requires_all = ["tls_key", "tls_client_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// Key of the site endpoint, PEM.
    #[arg(long, env = "EVERGREEN_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Authority that agents' certificates must come from, PEM.
    #[arg(long, env = "EVERGREEN_TLS_CLIENT_CA", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Demand of every agent whose certificate names no node the ServiceAccount token of its own pod, and let it speak for
    /// the node of that pod only. The API server reviews the tokens.
    #[arg(long, env = "EVERGREEN_REQUIRE_AGENT_TOKEN")]
    pub require_agent_token: bool,
    /// ServiceAccount of the agents, in the namespace evergreen-system.
    #[arg(long, env = "EVERGREEN_AGENT_SERVICE_ACCOUNT", default_value = "evergreen-agent")]
    pub agent_service_account: String,
    /// Where metrics and health are served.
    #[arg(long, env = "EVERGREEN_METRICS_LISTEN", default_value = "0.0.0.0:9465")]
    pub metrics_listen: SocketAddr,
    /// Monitoring plane whose energy figures EnergyReports are made from, as in http://evergreen-plane:8080.
    #[arg(long, env = "EVERGREEN_PLANE_URL")]
    pub plane_url: Option<String>,
    /// Networks in which the management controllers (BMCs) of this site's nodes may be, as in 10.20.0.0/24; may be given
    /// more than once. Only addresses in them are ever connected to; without any, no BMC is asked. Which node has which
    /// BMC stands in the ConfigMap evergreen-bmc.
    #[arg(long, env = "EVERGREEN_BMC_ALLOW", value_name = "NETWORK", value_delimiter = ',')]
    pub bmc_allow: Vec<String>,
    /// How often each BMC is asked for the power of its node.
    #[arg(long, env = "EVERGREEN_BMC_INTERVAL", default_value = "10s", value_parser = bmc_interval)]
    pub bmc_interval: HumanDuration,
    /// How many BMCs are asked at a time.
    #[arg(long, env = "EVERGREEN_BMC_AT_A_TIME", default_value = "32", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub bmc_at_a_time: u16,
    /// What traffic actuators may connect to outside of the cluster: networks (10.9.0.0/24), names with their port
    /// (lb.bank.example:443), sockets of this machine (unix:///run/haproxy/admin.sock); may be given more than once. Without
    /// any, DNS servers, PowerDNS, HAProxy and webhooks are not connected to.
    #[arg(long, env = "EVERGREEN_TRAFFIC_ALLOW", value_name = "TARGET", value_delimiter = ',')]
    pub traffic_allow: Vec<String>,
    /// Where the ledger of EnergyReports is, instead of the plane: plane=URL or prometheus=URL.
    #[arg(long, env = "EVERGREEN_ENERGY_SOURCE", value_name = "KIND=URL")]
    pub energy_source: Option<evergreen_report::source::Source>,
    /// Folder of the audit log: every decision with its facts, each record chained to the one before. Keep it on a volume
    /// that outlives the pod. Without it decisions are only traced and logged.
    #[arg(long, env = "EVERGREEN_AUDIT_DIR", value_name = "FOLDER")]
    pub audit_dir: Option<PathBuf>,
    /// Folder in which telemetry waits while its receiver is away; one process a folder. Without it telemetry waits in
    /// memory and ends with the process.
    #[arg(long, env = "EVERGREEN_SPOOL_DIR", value_name = "FOLDER")]
    pub spool_dir: Option<PathBuf>,
    /// Most telemetry that waits (plain bytes, or KiB, MiB, GiB); the oldest goes first and is counted.
    #[arg(long, env = "EVERGREEN_SPOOL_SIZE", value_name = "BYTES", default_value = "64MiB", value_parser = evergreen_api::size::parse_size)]
    pub spool_size: u64,
    /// While this file exists moves, new playbook runs and drills of this site are stopped, API server or not. Lines of
    /// `fleet`, `site.<name>` or `group.<name>`, followed by who and why, narrow it. SIGUSR1 does the same, until SIGUSR2.
    #[arg(long, env = "EVERGREEN_PAUSE_FILE", value_name = "FILE", default_value = "/run/evergreen/pause")]
    pub pause_file: Option<PathBuf>,
    /// Host (or host:port) that data gates of services may be asked at, as in patroni.bank.svc:8008; may be given more than
    /// once. Other hosts are never asked, whatever a service says.
    #[arg(long, env = "EVERGREEN_HOOK_ALLOW", value_name = "HOST", value_delimiter = ',')]
    pub hook_allow: Vec<String>,
    /// Authorities that the certificates of https data gates must come from, PEM.
    #[arg(long, env = "EVERGREEN_HOOK_CA", value_name = "FILE")]
    pub hook_ca: Option<PathBuf>,
    /// File with the endpoints that playbooks may reach (steps http and notify): a list of name, url, shape and headers.
    #[arg(long, env = "EVERGREEN_PLAYBOOK_ENDPOINTS", value_name = "FILE")]
    pub playbook_endpoints: Option<PathBuf>,
    /// Image that playbooks may run (step createJob); everything below it when it ends with a slash. May be given often.
    #[arg(long, env = "EVERGREEN_PLAYBOOK_IMAGE", value_name = "IMAGE", value_delimiter = ',')]
    pub playbook_image: Vec<String>,
    /// File with the bearer token of Alertmanager's webhook, POST /alerts on --metrics-listen. Without it there is none.
    #[arg(long, env = "EVERGREEN_ALERT_TOKEN_FILE", value_name = "FILE")]
    pub alert_token_file: Option<PathBuf>,
    /// Finished playbook runs that are kept, the newest.
    #[arg(long, env = "EVERGREEN_KEEP_RUNS", default_value = "1000")]
    pub keep_runs: usize,
    /// How long finished playbook runs are kept.
    #[arg(long, env = "EVERGREEN_KEEP_RUNS_FOR", default_value = "30d")]
    pub keep_runs_for: HumanDuration,
    /// Name of this replica in the leader election. Default: host name and process id.
    #[arg(long, env = "EVERGREEN_REPLICA")]
    pub replica: Option<String>,
    /// How log lines look.
    #[arg(long, env = "EVERGREEN_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// Faster is of no use and a burden: many BMCs refresh their sensors every few seconds.
fn bmc_interval(text: &str) -> Result<HumanDuration, String> {
    let interval = text.parse::<HumanDuration>().map_err(|error| error.to_string())?;
    if (1..=300).contains(&interval.get().as_secs()) { Ok(interval) } else { Err("1s to 5m".into()) }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

impl From<LogFormat> for evergreen_telemetry::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}
