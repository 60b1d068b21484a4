//! From OTLP messages to what the plane keeps. Pure: no clock but the `now_ms` it is given, no I/O.
//!
//! What cannot be kept is counted and named in the partial-success answer, never dropped in silence.

use evergreen_api::telemetry::attribute;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    logs::v1::ResourceLogs,
    resource::v1::Resource,
    trace::v1::ResourceSpans,
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use super::decode_metrics::metrics;
use crate::model::{Batch, Labels, LogRecord, Span, SpanEvent, SpanStatus};

/// A point or span later than this beyond the plane's clock is refused, milliseconds: kept, it would outlive
/// every retention and stand as "newest" for years.
pub(super) const MAX_FUTURE_MS: i64 = 24 * 3_600_000;

/// What a request holds after decoding.
#[derive(Debug, Default, PartialEq)]
pub struct Decoded {
    /// What can be kept.
    pub batch: Batch,
    /// How many things cannot.
    pub rejected: i64,
    /// Why the first of them cannot.
    pub message: String,
}

impl Decoded {
    pub(super) fn reject(&mut self, count: usize, why: impl FnOnce() -> String) {
        if self.message.is_empty() && count > 0 {
            self.message = why();
        }
        self.rejected += i64::try_from(count).unwrap_or(i64::MAX);
    }
}

/// Who sent it.
pub(super) struct Sender {
    pub(super) service: String,
    pub(super) site: Option<String>,
    pub(super) node: Option<String>,
    pub(super) labels: Labels,
}

impl Sender {
    /// Takes the identifying attributes of a resource. Left out is what changes with every start of the same sender
    /// (process, SDK, version, and the instance of one that is known by its node): a counter goes on across a restart.
    pub(super) fn of(resource: Option<&Resource>) -> Self {
        let attributes = resource.map(|r| r.attributes.as_slice()).unwrap_or_default();
        let mut labels: Labels = attributes
            .iter()
            .filter(|kv| !is_volatile(&kv.key))
            .map(|kv| (kv.key.clone(), text(kv.value.as_ref())))
            .collect();
        if labels.contains_key(attribute::NODE) {
            labels.remove("service.instance.id");
        }
        Self {
            service: labels.get("service.name").cloned().unwrap_or_default(),
            site: labels.get(attribute::SITE).cloned(),
            node: labels.get(attribute::NODE).cloned(),
            labels,
        }
    }
}

fn is_volatile(key: &str) -> bool {
    key == "service.version" || ["telemetry.", "process.", "os."].iter().any(|prefix| key.starts_with(prefix))
}

/// Decodes spans.
pub fn spans(resources: Vec<ResourceSpans>, now_ms: i64) -> Decoded {
    let mut decoded = Decoded::default();
    for resource_spans in resources {
        let sender = Sender::of(resource_spans.resource.as_ref());
        for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let (Ok(trace_id), Ok(span_id)) =
                (<[u8; 16]>::try_from(&span.trace_id[..]), <[u8; 8]>::try_from(&span.span_id[..]))
            else {
                decoded.reject(1, || format!("span `{}`: a trace id has 16 bytes and a span id 8", span.name));
                continue;
            };
            if trace_id == [0; 16] || span_id == [0; 8] {
                decoded.reject(1, || format!("span `{}`: an id is all zero", span.name));
                continue;
            }
            let (start_ns, end_ns) = (nanos(span.start_time_unix_nano), nanos(span.end_time_unix_nano));
            if start_ns == 0 || start_ns / 1_000_000 > now_ms + MAX_FUTURE_MS {
                decoded
                    .reject(1, || format!("span `{}`: its start is zero or more than a day in the future", span.name));
                continue;
            }
            let attributes = object(&span.attributes);
            let status = span.status.unwrap_or_default();
            decoded.batch.spans.push(Span {
                trace_id,
                span_id,
                parent: <[u8; 8]>::try_from(&span.parent_span_id[..]).ok().filter(|id| *id != [0; 8]),
                name: span.name,
                service: sender.service.clone(),
                site: own(&attributes, attribute::SITE).or_else(|| sender.site.clone()),
                node: own(&attributes, attribute::NODE).or_else(|| sender.node.clone()),
                start_ns,
                end_ns: end_ns.max(start_ns),
                status: SpanStatus::from_code(status.code.into()),
                status_message: status.message,
                attributes,
                events: span
                    .events
                    .into_iter()
                    .map(|event| SpanEvent {
                        time_ns: nanos(event.time_unix_nano),
                        name: event.name,
                        attributes: object(&event.attributes),
                    })
                    .collect(),
            });
        }
    }
    decoded
}

/// Decodes log records. A record without a time gets the time it was observed, or `now_ms`.
pub fn logs(resources: Vec<ResourceLogs>, now_ms: i64) -> Decoded {
    let mut decoded = Decoded::default();
    for resource_logs in resources {
        let sender = Sender::of(resource_logs.resource.as_ref());
        for record in resource_logs.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            let observed = nanos(record.observed_time_unix_nano);
            let time_ns = match nanos(record.time_unix_nano) {
                0 if observed == 0 => now_ms.saturating_mul(1_000_000),
                0 => observed,
                time => time,
            };
            if time_ns / 1_000_000 > now_ms + MAX_FUTURE_MS {
                decoded.reject(1, || "log record: its time is more than a day in the future".to_owned());
                continue;
            }
            let attributes = object(&record.attributes);
            let mut log = LogRecord {
                hash: [0; 16],
                time_ns,
                severity: record.severity_number,
                service: sender.service.clone(),
                site: own(&attributes, attribute::SITE).or_else(|| sender.site.clone()),
                node: own(&attributes, attribute::NODE).or_else(|| sender.node.clone()),
                body: text(record.body.as_ref()),
                attributes,
                trace_id: <[u8; 16]>::try_from(&record.trace_id[..]).ok().filter(|id| *id != [0; 16]),
                span_id: <[u8; 8]>::try_from(&record.span_id[..]).ok().filter(|id| *id != [0; 8]),
            };
            let digest = Sha256::digest(format!("{log:?}").as_bytes());
            log.hash.copy_from_slice(&digest[..16]);
            decoded.batch.logs.push(log);
        }
    }
    decoded
}

fn own(attributes: &Map<String, Value>, key: &str) -> Option<String> {
    attributes.get(key).and_then(Value::as_str).map(str::to_owned)
}

pub(super) fn nanos(unix_nano: u64) -> i64 {
    i64::try_from(unix_nano).unwrap_or(i64::MAX)
}

/// Attributes as a JSON object; a key that comes twice keeps its last value.
pub(super) fn object(attributes: &[KeyValue]) -> Map<String, Value> {
    attributes.iter().map(|kv| (kv.key.clone(), json(kv.value.as_ref()))).collect()
}

/// An attribute as JSON; bytes become hexadecimal text.
fn json(value: Option<&AnyValue>) -> Value {
    match value.and_then(|v| v.value.as_ref()) {
        None => Value::Null,
        Some(any_value::Value::StringValue(text)) => Value::from(text.as_str()),
        Some(any_value::Value::BoolValue(b)) => Value::from(*b),
        Some(any_value::Value::IntValue(i)) => Value::from(*i),
        Some(any_value::Value::DoubleValue(d)) => Value::from(*d),
        Some(any_value::Value::BytesValue(bytes)) => Value::from(hex::encode(bytes)),
        Some(any_value::Value::ArrayValue(array)) => array.values.iter().map(|v| json(Some(v))).collect(),
        Some(any_value::Value::KvlistValue(list)) => Value::Object(object(&list.values)),
        // A reference into a dictionary that only the profiles signal has.
        Some(any_value::Value::StringValueStrindex(_)) => Value::Null,
    }
}

/// An attribute as the text of a label.
pub(super) fn text(value: Option<&AnyValue>) -> String {
    match json(value) {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        logs::v1::{LogRecord as OtlpLog, ScopeLogs},
        trace::v1::{ScopeSpans, Span as OtlpSpan},
    };

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn string(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.into())) }),
            ..Default::default()
        }
    }

    fn resource(attributes: &[(&str, &str)]) -> Option<Resource> {
        Some(Resource { attributes: attributes.iter().map(|(k, v)| string(k, v)).collect(), ..Default::default() })
    }

    fn request(spans: Vec<OtlpSpan>) -> Vec<ResourceSpans> {
        vec![ResourceSpans {
            resource: resource(&[
                ("service.name", "evergreen-agent"),
                (attribute::SITE, "dc-a"),
                (attribute::NODE, "a1"),
            ]),
            scope_spans: vec![ScopeSpans { spans, ..Default::default() }],
            ..Default::default()
        }]
    }

    #[test]
    fn a_span_takes_site_and_node_from_its_sender_unless_it_names_its_own() {
        let span = |attributes| OtlpSpan {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            start_time_unix_nano: 5_000_000,
            end_time_unix_nano: 4_000_000,
            attributes,
            ..Default::default()
        };
        let decoded = spans(request(vec![span(vec![]), span(vec![string(attribute::SITE, "dc-b")])]), NOW);
        assert_eq!(decoded.batch.spans[0].site.as_deref(), Some("dc-a"));
        assert_eq!(decoded.batch.spans[1].site.as_deref(), Some("dc-b"));
        assert_eq!(decoded.batch.spans[0].end_ns, 5_000_000, "an end before the start is the start");
    }

    #[test]
    fn a_span_without_proper_ids_or_time_is_rejected_and_named() {
        let wrong = vec![
            OtlpSpan {
                name: "short".into(),
                trace_id: vec![1; 3],
                span_id: vec![2; 8],
                start_time_unix_nano: 1,
                ..Default::default()
            },
            OtlpSpan { name: "timeless".into(), trace_id: vec![1; 16], span_id: vec![2; 8], ..Default::default() },
        ];
        let decoded = spans(request(wrong), NOW);
        assert!(decoded.batch.spans.is_empty());
        assert_eq!(decoded.rejected, 2);
        assert!(decoded.message.contains("short"), "{}", decoded.message);
    }

    #[test]
    fn the_same_log_record_twice_has_one_hash() {
        let record = OtlpLog {
            time_unix_nano: 7,
            body: Some(AnyValue { value: Some(any_value::Value::StringValue("cordoned".into())) }),
            ..Default::default()
        };
        let other = OtlpLog { time_unix_nano: 8, ..record.clone() };
        let request = vec![ResourceLogs {
            scope_logs: vec![ScopeLogs { log_records: vec![record.clone(), record, other], ..Default::default() }],
            ..Default::default()
        }];
        let logs = logs(request, NOW).batch.logs;
        assert_eq!(logs[0].hash, logs[1].hash);
        assert_ne!(logs[0].hash, logs[2].hash);
        assert_eq!(logs[0].body, "cordoned");
    }

    #[test]
    fn a_restarted_sender_of_a_node_keeps_its_identity() {
        let labels = |instance, version| {
            let attributes = [
                (attribute::NODE, "a1"),
                ("service.instance.id", instance),
                ("service.version", version),
                ("process.pid", instance),
            ];
            Sender::of(resource(&attributes).as_ref()).labels
        };
        assert_eq!(labels("1", "0.1"), labels("2", "0.2"));
        let replica = |instance| Sender::of(resource(&[("service.instance.id", instance)]).as_ref()).labels;
        assert_ne!(replica("1"), replica("2"), "replicas without a node stay apart");
    }
}
