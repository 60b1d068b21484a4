//! What agents predict of their nodes, as the page shows it. Pure.

use evergreen_api::telemetry::prediction;
use serde::Serialize;

use crate::{clock::rfc3339_ms, fleet::Fleet, live::Latest};

/// A prediction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Kind of the problem to be expected.
    pub kind: String,
    /// timeToLimit, errorTrend or anomaly.
    pub basis: String,
    /// What it is about.
    pub subject: String,
    /// One line.
    pub summary: String,
    /// How it was concluded.
    pub method: String,
    /// When it was first made, RFC 3339, as all times here.
    pub made: Option<String>,
    /// When it is expected.
    pub expected: Option<String>,
    /// Not sooner than this.
    pub earliest: Option<String>,
    /// Nor later than this.
    pub latest: Option<String>,
    /// Figures that support it.
    pub evidence: Vec<String>,
    /// Readings that it rests on.
    pub samples: Samples,
}

/// Readings that a prediction rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Samples {
    /// Name of the series.
    pub series: String,
    /// The first one, RFC 3339.
    pub from: Option<String>,
    /// The last one.
    pub to: Option<String>,
    /// How many.
    pub count: Option<u64>,
}

/// A prediction and where it was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Placed {
    /// Data center.
    pub site: String,
    /// Node.
    pub node: String,
    /// The prediction.
    #[serde(flatten)]
    pub prediction: Prediction,
}

impl Prediction {
    /// Out of the newest point of its series.
    pub fn of(latest: &Latest) -> Self {
        let label = |key: &str| latest.labels.get(key).cloned().unwrap_or_default();
        let time = |key: &str| latest.labels.get(key).filter(|text| !text.is_empty()).cloned();
        // A point without a time is worth nothing; one beyond what milliseconds hold is garbage.
        let expected = latest.value.filter(|seconds| *seconds > 0.0 && *seconds < 1e11);
        Self {
            kind: label(prediction::KIND),
            basis: label(prediction::BASIS),
            subject: label(prediction::SUBJECT),
            summary: label(prediction::SUMMARY),
            method: label(prediction::METHOD),
            made: time(prediction::MADE),
            expected: expected.map(|seconds| rfc3339_ms((seconds * 1000.0) as i64)),
            earliest: time(prediction::EARLIEST),
            latest: time(prediction::LATEST),
            evidence: label(prediction::EVIDENCE).lines().map(str::to_owned).collect(),
            samples: Samples {
                series: label(prediction::SERIES),
                from: time(prediction::FROM),
                to: time(prediction::TO),
                count: latest.labels.get(prediction::COUNT).and_then(|text| text.parse().ok()),
            },
        }
    }
}

/// Sorts: what comes first is first, what has no time is last.
pub fn sort(predictions: &mut [Prediction]) {
    predictions.sort_by(|a, b| key(a).cmp(&key(b)));
}

fn key(prediction: &Prediction) -> (bool, Option<&str>, &str, &str) {
    (prediction.expected.is_none(), prediction.expected.as_deref(), &prediction.kind, &prediction.subject)
}

/// Everything that is predicted in a fleet, what comes first is first. A node that is not heard predicts nothing.
pub fn list(fleet: Fleet) -> Vec<Placed> {
    let mut all: Vec<Placed> = fleet
        .sites
        .into_iter()
        .flat_map(|site| {
            let name = site.name;
            site.nodes.into_iter().flat_map(move |node| {
                let (site, at) = (name.clone(), node.name);
                node.predictions.into_iter().map(move |prediction| Placed {
                    site: site.clone(),
                    node: at.clone(),
                    prediction,
                })
            })
        })
        .collect();
    all.sort_by(|a, b| key(&a.prediction).cmp(&key(&b.prediction)).then_with(|| a.node.cmp(&b.node)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(expected: Option<&str>, subject: &str) -> Prediction {
        Prediction {
            kind: "DiskPressurePredicted".into(),
            basis: "timeToLimit".into(),
            subject: subject.into(),
            summary: String::new(),
            method: String::new(),
            made: None,
            expected: expected.map(str::to_owned),
            earliest: None,
            latest: None,
            evidence: Vec::new(),
            samples: Samples { series: String::new(), from: None, to: None, count: None },
        }
    }

    #[test]
    fn what_comes_first_is_first_and_what_has_no_time_is_last() {
        let mut all = [at(None, "a"), at(Some("2024-01-02"), "b"), at(Some("2024-01-01"), "c")];
        sort(&mut all);
        assert_eq!(all.iter().map(|p| p.subject.as_str()).collect::<Vec<_>>(), ["c", "b", "a"]);
    }
}
