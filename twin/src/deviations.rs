//! In what a twin differs from a cluster, as data: what it leaves out by design, and what the differential suite found.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::DEVIATIONS;

/// Where a deviation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// The twin leaves it out, or does it more simply, on purpose.
    Design,
    /// The differential suite found that a real API server answers otherwise.
    Found,
    /// The real API server of the suite is older than the Kubernetes that the twin follows.
    Version,
}

/// One deviation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deviation {
    /// Where it comes from.
    pub origin: Origin,
    /// What differs and why, in one sentence.
    pub what: String,
    /// Differences of the suite that it explains; 0 for [`Origin::Design`].
    #[serde(default)]
    pub differences: usize,
    /// One of them; none for [`Origin::Design`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<Example>,
}

/// One difference between the answers to one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Sequence, number of the step, verb and path.
    pub request: String,
    /// `status` or a JSON pointer into the answer.
    pub at: String,
    /// What the real API server answers there.
    pub real: String,
    /// What the twin answers there.
    pub twin: String,
}

/// What the differential suite has measured, as it writes it to `twin/src/deviations.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Version of the real API server.
    pub server: String,
    /// Sequences of requests.
    pub sequences: usize,
    /// Requests whose answers were compared.
    pub requests: usize,
    /// Answers that are the same.
    pub equal: usize,
    /// What the others differ in.
    pub deviations: Vec<Deviation>,
}

/// What the differential suite measured when it was last written down.
pub fn measured() -> &'static Measured {
    static KEPT: LazyLock<Measured> = LazyLock::new(|| {
        serde_json::from_str(include_str!("deviations.json")).expect("deviations.json is written by the suite")
    });
    &KEPT
}

/// All known deviations: those by design first, then those that the suite found, the most frequent first.
pub fn deviations() -> Vec<Deviation> {
    let design = DEVIATIONS.iter().map(|what| Deviation {
        origin: Origin::Design,
        what: (*what).to_owned(),
        differences: 0,
        example: None,
    });
    design.chain(measured().deviations.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_measurement_is_readable_and_adds_up() {
        let kept = measured();
        assert!(kept.equal <= kept.requests && kept.sequences > 100, "{kept:?}");
        let all = deviations();
        assert_eq!(all.len(), DEVIATIONS.len() + kept.deviations.len());
        for found in &kept.deviations {
            assert!(found.origin != Origin::Design && found.differences > 0 && found.example.is_some(), "{found:?}");
        }
    }
}
