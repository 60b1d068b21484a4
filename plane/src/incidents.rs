//! What an incident is: a trace with a span that says `evergreen.incident = true`. Its record is computed from all of
//! its spans, which come from several processes and in any order. Pure.

use evergreen_api::telemetry::{attribute, span};
use serde_json::Value;

use crate::model::Span;

/// How an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not closed yet.
    Open,
    /// Verified cured.
    Healed,
    /// Tried, not cured.
    Failed,
    /// Seen, nothing was to be done.
    Observed,
    /// Tried, undone.
    RolledBack,
}

impl State {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Open, Self::Healed, Self::Failed, Self::Observed, Self::RolledBack];

    /// Its name in the database and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Healed => "healed",
            Self::Failed => "failed",
            Self::Observed => "observed",
            Self::RolledBack => "rolled_back",
        }
    }

    /// The state of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// The record of an incident.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// Its trace.
    pub trace_id: [u8; 16],
    /// What it is called.
    pub title: String,
    /// fatal, degraded, warning or info, if said.
    pub severity: Option<String>,
    /// Where.
    pub site: Option<String>,
    /// On which node, if on one.
    pub node: Option<String>,
    /// Problem kind, or the name of the span that opened it.
    pub kind: String,
    /// How it stands.
    pub state: State,
    /// Start of its earliest span, Unix nanoseconds.
    pub started_ns: i64,
    /// Start of the span that opened it, Unix nanoseconds.
    pub detected_ns: i64,
    /// End of the span that closed it, Unix nanoseconds.
    pub ended_ns: Option<i64>,
    /// How many spans it has so far.
    pub span_count: i64,
}

/// Whether a span opens an incident.
pub fn is_root(span: &Span) -> bool {
    match span.attributes.get(attribute::INCIDENT) {
        Some(Value::Bool(flag)) => *flag,
        Some(Value::String(text)) => text == "true",
        _ => false,
    }
}

/// The record of a trace, if it is an incident. The order of the spans does not matter.
pub fn derive(spans: &[Span]) -> Option<Incident> {
    let root = spans.iter().filter(|s| is_root(s)).min_by_key(|s| (s.start_ns, s.span_id))?;
    let close = spans
        .iter()
        .filter(|s| s.name == span::INCIDENT_CLOSE)
        .filter_map(|s| Some((s, State::parse(text(s, attribute::INCIDENT_VERDICT)?.as_str())?)))
        .max_by_key(|(s, _)| (s.end_ns, s.span_id));
    let kind = text(root, attribute::PROBLEM_KIND).unwrap_or_else(|| root.name.clone());
    Some(Incident {
        trace_id: root.trace_id,
        title: text(root, attribute::INCIDENT_TITLE).unwrap_or_else(|| kind.clone()),
        severity: text(root, attribute::PROBLEM_SEVERITY),
        site: root.site.clone(),
        node: root.node.clone(),
        kind,
        state: close.map_or(State::Open, |(_, state)| state),
        started_ns: spans.iter().map(|s| s.start_ns).min().unwrap_or(root.start_ns),
        detected_ns: root.start_ns,
        ended_ns: close.map(|(s, _)| s.end_ns),
        span_count: spans.len() as i64,
    })
}

fn text(span: &Span, key: &str) -> Option<String> {
    span.attributes.get(key).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::SpanStatus;

    fn span_of(id: u8, name: &str, start_ns: i64, attributes: Value) -> Span {
        Span {
            trace_id: [7; 16],
            span_id: [id; 8],
            parent: None,
            name: name.into(),
            service: "evergreen-agent".into(),
            site: Some("dc-a".into()),
            node: Some("a1".into()),
            start_ns,
            end_ns: start_ns + 10,
            status: SpanStatus::Ok,
            status_message: String::new(),
            attributes: attributes.as_object().cloned().unwrap_or_default(),
            events: vec![],
        }
    }

    fn story() -> Vec<Span> {
        vec![
            span_of(
                1,
                span::PROBLEM_DETECTED,
                100,
                json!({attribute::INCIDENT: true, attribute::INCIDENT_TITLE: "Hung task on a1", attribute::PROBLEM_KIND: "HungTask", attribute::PROBLEM_SEVERITY: "degraded"}),
            ),
            span_of(2, span::CONDITION_WRITE, 110, json!({})),
            span_of(3, "step.cordon", 200, json!({})),
            span_of(4, span::INCIDENT_CLOSE, 300, json!({attribute::INCIDENT_VERDICT: "healed"})),
        ]
    }

    #[test]
    fn a_closed_incident_has_its_verdict_and_its_end() {
        let incident = derive(&story()).unwrap();
        assert_eq!((incident.state, incident.ended_ns), (State::Healed, Some(310)));
        assert_eq!((incident.started_ns, incident.span_count), (100, 4));
        assert_eq!(incident.title, "Hung task on a1");
    }

    #[test]
    fn without_a_close_it_is_open_and_without_a_root_it_is_none() {
        let spans = story();
        assert_eq!(derive(&spans[..3]).unwrap().state, State::Open);
        assert_eq!(derive(&spans[1..]), None);
    }

    #[test]
    fn a_verdict_nobody_knows_closes_nothing() {
        let mut spans = story();
        spans[3].attributes[attribute::INCIDENT_VERDICT] = json!("splendid");
        assert_eq!(derive(&spans).unwrap().state, State::Open);
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_does_not_matter(order in Just((0..4).collect::<Vec<usize>>()).prop_shuffle()) {
            let spans = story();
            let shuffled: Vec<_> = order.into_iter().map(|i| spans[i].clone()).collect();
            prop_assert_eq!(derive(&shuffled), derive(&spans));
        }
    }
}
