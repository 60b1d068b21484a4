//! Predictions as a metric: one point each, with everything that is said of it in its attributes. They change seldom, so
//! that a prediction is few series.

use std::sync::Arc;

use evergreen_api::{resources::NodePrediction, telemetry::prediction};
use evergreen_telemetry::{KeyValue, Meter};

use crate::shared::Shared;

/// Registers the instrument. It lives as long as the meter's provider.
pub fn register(meter: &Meter, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    meter
        .f64_observable_gauge(prediction::NODE_PREDICTION)
        .with_unit("s")
        .with_description("Something is predicted of the node; when, Unix time, or 0 where no time is known.")
        .with_callback(move |instrument| {
            shared.with(|view| {
                for told in &view.predictions {
                    instrument.observe(expected(told), &attributes(told));
                }
            });
        })
        .build();
}

fn expected(told: &NodePrediction) -> f64 {
    let moment = told.expected_at.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    moment.map_or(0.0, |moment| moment.as_second() as f64)
}

fn attributes(told: &NodePrediction) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new(prediction::BASIS, told.basis.as_str()),
        KeyValue::new(prediction::KIND, told.kind.condition_type()),
        KeyValue::new(prediction::SUBJECT, told.subject.clone()),
        KeyValue::new(prediction::SUMMARY, told.summary.clone()),
        KeyValue::new(prediction::METHOD, told.method.clone()),
        KeyValue::new(prediction::MADE, told.made_at.clone()),
        KeyValue::new(prediction::EVIDENCE, told.evidence.join("\n")),
        KeyValue::new(prediction::SERIES, told.samples.series.clone()),
        KeyValue::new(prediction::FROM, told.samples.from.clone()),
        KeyValue::new(prediction::TO, told.samples.to.clone()),
        KeyValue::new(prediction::COUNT, told.samples.count.to_string()),
    ];
    let bounds = [(prediction::EARLIEST, &told.earliest), (prediction::LATEST, &told.latest)];
    attributes.extend(bounds.into_iter().filter_map(|(name, time)| Some(KeyValue::new(name, time.clone()?))));
    attributes
}

#[cfg(test)]
mod tests {
    use evergreen_api::{
        ProblemKind,
        resources::{PredictionBasis, PredictionSamples},
    };

    use super::*;

    #[test]
    fn a_point_says_when_and_one_without_a_time_says_zero() {
        let mut told = NodePrediction {
            kind: ProblemKind::DiskPressurePredicted,
            basis: PredictionBasis::TimeToLimit,
            subject: "/var".into(),
            summary: "/var will be full".into(),
            method: "m".into(),
            made_at: "2024-01-01T00:00:00Z".into(),
            expected_at: Some("2024-01-01T05:00:00Z".into()),
            earliest: Some("2024-01-01T04:00:00Z".into()),
            latest: None,
            evidence: vec!["a".into(), "b".into()],
            samples: PredictionSamples::default(),
        };
        assert_eq!(expected(&told), 1_704_085_200.0);
        let names: Vec<_> = attributes(&told).iter().map(|pair| pair.key.to_string()).collect();
        assert!(names.contains(&prediction::EARLIEST.to_owned()) && !names.contains(&prediction::LATEST.to_owned()));
        told.expected_at = None;
        assert_eq!(expected(&told), 0.0);
    }
}
