//! What the plane keeps, free of OTLP and of SQLite: series, points, spans and log records.
//! No I/O and no clock here.

use std::{collections::BTreeMap, sync::Arc};

use evergreen_api::telemetry::attribute;
use serde_json::{Map, Value};

/// How the values of a series follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeriesKind {
    /// A value now.
    Gauge,
    /// A sum since its start that only grows.
    Counter,
    /// A sum since its start that may shrink.
    UpDown,
    /// What was added since the point before.
    Delta,
}

impl SeriesKind {
    /// The number it has in the database.
    pub const fn code(self) -> i64 {
        match self {
            Self::Gauge => 0,
            Self::Counter => 1,
            Self::UpDown => 2,
            Self::Delta => 3,
        }
    }

    /// The kind of a number in the database; an unknown one reads as a gauge.
    pub const fn from_code(code: i64) -> Self {
        match code {
            1 => Self::Counter,
            2 => Self::UpDown,
            3 => Self::Delta,
            _ => Self::Gauge,
        }
    }
}

/// Labels of a series, in the order of their names.
pub type Labels = BTreeMap<String, String>;

/// A series as its sender describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// First 16 bytes of the SHA-256 of name, kind and identifying labels: what makes it the same series. A pod is
    /// identified by its UID; its name may be learned later and only describes it.
    pub hash: [u8; 16],
    /// Metric name.
    pub name: String,
    /// Unit as sent.
    pub unit: String,
    /// How its values follow one another.
    pub kind: SeriesKind,
    /// Attributes of the point and the identifying ones of its resource.
    pub labels: Labels,
}

impl Series {
    /// A series with its hash.
    pub fn new(name: String, unit: String, kind: SeriesKind, labels: Labels) -> Self {
        use sha2::{Digest, Sha256};
        let mut digest = Sha256::new();
        let mut feed = |text: &str| {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        };
        feed(&name);
        let is_pod = labels.contains_key(attribute::POD_UID);
        let describes = |key: &str| is_pod && (key == attribute::POD || key == attribute::NAMESPACE);
        for (key, value) in labels.iter().filter(|(key, _)| !describes(key)) {
            feed(key);
            feed(value);
        }
        digest.update([kind.code() as u8]);
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest.finalize()[..16]);
        Self { hash, name, unit, kind, labels }
    }
}

/// One value of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Index into [`Batch::series`].
    pub series: usize,
    /// Unix milliseconds.
    pub time_ms: i64,
    /// Unix milliseconds since which a sum counts.
    pub start_ms: Option<i64>,
    /// The value; none where the sender said that it has none any more.
    pub value: Option<f64>,
}

/// One span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Trace it belongs to.
    pub trace_id: [u8; 16],
    /// Its own id.
    pub span_id: [u8; 8],
    /// Its parent, if it has one.
    pub parent: Option<[u8; 8]>,
    /// Name.
    pub name: String,
    /// `service.name` of its resource.
    pub service: String,
    /// Site it speaks of.
    pub site: Option<String>,
    /// Node it speaks of.
    pub node: Option<String>,
    /// Unix nanoseconds.
    pub start_ns: i64,
    /// Unix nanoseconds.
    pub end_ns: i64,
    /// How it ended.
    pub status: SpanStatus,
    /// What the status says.
    pub status_message: String,
    /// Attributes.
    pub attributes: Map<String, Value>,
    /// Events as `[{"name","time_ns","attributes"}]`.
    pub events: Vec<SpanEvent>,
}

/// Something that happened during a span.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SpanEvent {
    /// Unix nanoseconds.
    pub time_ns: i64,
    /// Name.
    pub name: String,
    /// Attributes.
    pub attributes: Map<String, Value>,
}

/// How a span ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanStatus {
    /// Nothing was said.
    Unset,
    /// It went well.
    Ok,
    /// It failed.
    Error,
}

impl SpanStatus {
    /// The number of OTLP and of the database.
    pub const fn code(self) -> i64 {
        match self {
            Self::Unset => 0,
            Self::Ok => 1,
            Self::Error => 2,
        }
    }

    /// The status of a number.
    pub const fn from_code(code: i64) -> Self {
        match code {
            1 => Self::Ok,
            2 => Self::Error,
            _ => Self::Unset,
        }
    }
}

/// One log record.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    /// First 16 bytes of the SHA-256 of all the rest: the same record twice is one record.
    pub hash: [u8; 16],
    /// Unix nanoseconds.
    pub time_ns: i64,
    /// OTLP severity number, 0 when unknown.
    pub severity: i32,
    /// `service.name` of its resource.
    pub service: String,
    /// Site it speaks of.
    pub site: Option<String>,
    /// Node it speaks of.
    pub node: Option<String>,
    /// Text.
    pub body: String,
    /// Attributes.
    pub attributes: Map<String, Value>,
    /// Trace it belongs to.
    pub trace_id: Option<[u8; 16]>,
    /// Span it belongs to.
    pub span_id: Option<[u8; 8]>,
}

/// What one request brought.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Series its points speak of.
    pub series: Vec<Arc<Series>>,
    /// Points.
    pub points: Vec<Point>,
    /// Spans.
    pub spans: Vec<Span>,
    /// Log records.
    pub logs: Vec<LogRecord>,
}

impl Batch {
    /// How many things it brings.
    pub fn len(&self) -> usize {
        self.points.len() + self.spans.len() + self.logs.len()
    }

    /// Whether it brings nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_stays_one_series_when_its_name_is_learned() {
        let series = |pairs: &[(&str, &str)]| {
            let labels = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Series::new("k8s.pod.energy".into(), "J".into(), SeriesKind::Counter, labels).hash
        };
        let uid = (attribute::POD_UID, "u1");
        assert_eq!(series(&[uid]), series(&[uid, (attribute::POD, "p"), (attribute::NAMESPACE, "n")]));
        assert_ne!(series(&[uid]), series(&[(attribute::POD_UID, "u2")]));
        assert_ne!(series(&[(attribute::POD, "p")]), series(&[(attribute::POD, "q")]));
    }
}
