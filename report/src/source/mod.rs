//! Where a ledger comes from: the embedded plane, or a Prometheus-compatible store. Every question is bounded in time
//! and size; answers are added up as they come, so that a year is never in memory.

mod http;
mod plane;
mod prometheus;

use evergreen_api::resources::{EnergyFacts, ReportScope};

use crate::{days::Days, ledger::Ledger};

/// A source of ledgers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The plane's API, as in `http://evergreen-plane:8080`.
    Plane(String),
    /// The HTTP API of Prometheus, Thanos or VictoriaMetrics, as in `http://prometheus:9090`.
    Prometheus(String),
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("plane", url)) => Ok(Self::Plane(url.to_owned())),
            Some(("prometheus", url)) => Ok(Self::Prometheus(url.to_owned())),
            _ => Err(format!("`{text}` is no source: write plane=URL or prometheus=URL")),
        }
    }
}

/// What is asked of a source.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// The period.
    pub days: &'a Days,
    /// What the report is about; pods are only asked for as far as they are in it.
    pub scope: &'a ReportScope,
    /// Namespaces that carry the scope's label, where a cluster told them.
    pub namespaces: &'a [String],
    /// Facts, for the meters that they name.
    pub facts: &'a EnergyFacts,
    /// Whether sums are enough; days are left out then.
    pub sums_only: bool,
}

/// A source did not give a ledger.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The URL is none.
    #[error("`{0}` is no URL that can be asked; write it as http://HOST:PORT")]
    Url(String),
    /// It does not answer.
    #[error("{url} does not answer")]
    Unreachable {
        /// Where it was asked.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It refuses or fails.
    #[error("{url} answered {status}: {body}")]
    Refused {
        /// Where it was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// Beginning of its answer.
        body: String,
    },
    /// It answers something else.
    #[error("{url} answered something that is no {what}")]
    Answer {
        /// Where it was asked.
        url: String,
        /// What it should have been.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An answer is too long, also for the shortest time that is asked for.
    #[error("{url}: the samples of one minute are more than can be read at once; report fewer data centers")]
    TooMuch {
        /// Where it was asked.
        url: String,
    },
    /// A meter that the source cannot have.
    #[error("data center {site}: {what}")]
    Meter {
        /// Data center.
        site: String,
        /// What is wrong and what would be right.
        what: String,
    },
}

impl SourceError {
    /// Whether trying again later may help.
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

impl Source {
    /// The ledger of a period.
    ///
    /// # Errors
    /// When the source cannot be reached, refuses, or answers something else.
    pub async fn ledger(&self, query: &Query<'_>) -> Result<Ledger, SourceError> {
        match self {
            Self::Plane(url) => plane::ledger(url, query).await,
            Self::Prometheus(url) => prometheus::ledger(url, query).await,
        }
    }

    /// What it is, for people; without the address, which may change while the ledger does not.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Plane(_) => "plane",
            Self::Prometheus(_) => "prometheus",
        }
    }
}
