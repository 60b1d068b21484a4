//! What the monitoring plane says, as values: the part of its JSON API that the command line shows.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::http::{Http, HttpError};

/// A query over a month of energy may take a moment on a busy machine; nothing waits longer.
const LIMIT: Duration = Duration::from_secs(5);

/// Client of one plane.
#[derive(Clone, Debug)]
pub struct Plane {
    base: String,
    http: Http,
}

/// `GET /api/v1/fleet`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Fleet {
    /// When the plane answered, RFC 3339.
    #[serde(default)]
    pub generated_at: String,
    /// Data centers.
    #[serde(default)]
    pub sites: Vec<Site>,
    /// Failover groups.
    #[serde(default)]
    pub groups: Vec<Group>,
}

/// One data center.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Site {
    /// Name.
    pub name: String,
    /// Whether it renewed its lease at a majority; absent while unknown.
    #[serde(default)]
    pub in_quorum: Option<bool>,
    /// Epoch of its lease.
    #[serde(default)]
    pub epoch: Option<u64>,
    /// Milliseconds for which it may go on granting.
    #[serde(default)]
    pub lease_remaining_ms: Option<f64>,
    /// Watts now.
    #[serde(default)]
    pub power_w: Option<f64>,
    /// kWh so far.
    #[serde(default)]
    pub energy_kwh: Option<f64>,
    /// Nodes.
    #[serde(default)]
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    /// Name.
    pub name: String,
    /// `ok`, the severity of the worst problem, or `gone`.
    #[serde(default)]
    pub status: String,
    /// CPU utilisation, 0 to 1.
    #[serde(default)]
    pub cpu: Option<f64>,
    /// Memory utilisation, 0 to 1.
    #[serde(default)]
    pub memory: Option<f64>,
    /// Watts now.
    #[serde(default)]
    pub power_w: Option<f64>,
    /// Where its energy figures come from.
    #[serde(default)]
    pub energy_source: Option<String>,
    /// `measured`, `calibrated` or `estimated`.
    #[serde(default)]
    pub provenance: Option<String>,
    /// Problems raised now.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// One problem.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Problem {
    /// Kind.
    pub kind: String,
    /// Severity.
    #[serde(default)]
    pub severity: String,
    /// One line.
    #[serde(default)]
    pub summary: String,
}

/// One failover group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Group {
    /// Name.
    pub group: String,
    /// Who holds it.
    #[serde(default)]
    pub holders: Vec<Holder>,
}

/// One holder.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Holder {
    /// Site.
    pub site: String,
    /// Epoch.
    #[serde(default)]
    pub epoch: Option<u64>,
}

/// `GET /api/v1/energy`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Energy {
    /// One row per key.
    #[serde(default)]
    pub rows: Vec<EnergyRow>,
    /// The sum.
    #[serde(default)]
    pub total: EnergyRow,
}

/// Energy of one key, in microjoules.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EnergyRow {
    /// Site, node, namespace or pod.
    #[serde(default)]
    pub key: String,
    /// All of it.
    #[serde(default)]
    pub microjoules: u64,
    /// Read from a sensor.
    #[serde(default)]
    pub measured_microjoules: u64,
    /// From a model that a sensor calibrated.
    #[serde(default)]
    pub calibrated_microjoules: u64,
    /// From a model.
    #[serde(default)]
    pub estimated_microjoules: u64,
    /// Drawn at zero activity.
    #[serde(default)]
    pub idle_microjoules: Option<u64>,
    /// Milliseconds without samples.
    #[serde(default)]
    pub gap_ms: Option<u64>,
}

/// `GET /api/v1/incidents/{trace_id}`, the part that is shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Incident {
    /// Trace id, hex.
    #[serde(default)]
    pub trace_id: String,
    /// One line.
    #[serde(default)]
    pub title: String,
    /// `open`, `healed`, `failed`, `observed` or `rolled_back`.
    #[serde(default)]
    pub state: String,
    /// Site.
    #[serde(default)]
    pub site: Option<String>,
    /// Node.
    #[serde(default)]
    pub node: Option<String>,
    /// Problem kind, or the name of the span that opened it.
    #[serde(default)]
    pub kind: String,
    /// When the span that opened it began, RFC 3339.
    #[serde(default)]
    pub detected_at: Option<String>,
    /// Spans so far.
    #[serde(default)]
    pub span_count: u64,
}

#[derive(Debug, Default, Deserialize)]
struct Incidents {
    #[serde(default)]
    incidents: Vec<Incident>,
}

impl Plane {
    /// A plane at a base URL, as in `http://127.0.0.1:8080`.
    pub fn new(base: &str, http: Http) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), http }
    }

    /// Base URL.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Whether it is ready.
    pub async fn ready(&self) -> bool {
        matches!(self.http.get(&format!("{}/readyz", self.base), None, LIMIT).await, Ok((status, _)) if status.is_success())
    }

    /// The fleet now.
    ///
    /// # Errors
    /// When the plane does not answer as documented.
    pub async fn fleet(&self) -> Result<Fleet, HttpError> {
        self.http.get_json(&format!("{}/api/v1/fleet", self.base), LIMIT).await
    }

    /// Energy between two moments, by `site`, `node`, `namespace` or `pod`.
    ///
    /// # Errors
    /// When the plane does not answer as documented.
    pub async fn energy(&self, from: Timestamp, to: Timestamp, by: &str) -> Result<Energy, HttpError> {
        self.http.get_json(&format!("{}/api/v1/energy?from={from}&to={to}&by={by}", self.base), LIMIT).await
    }

    /// The newest incidents.
    ///
    /// # Errors
    /// When the plane does not answer as documented.
    pub async fn incidents(&self) -> Result<Vec<Incident>, HttpError> {
        let all: Incidents = self.http.get_json(&format!("{}/api/v1/incidents?limit=50", self.base), LIMIT).await?;
        Ok(all.incidents)
    }
}

/// Address of an incident on the plane's page.
pub fn incident_page(base: &str, trace_id: &str) -> String {
    format!("{}/#/incidents/{trace_id}", base.trim_end_matches('/'))
}
