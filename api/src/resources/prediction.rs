//! What an agent expects of its node: part of a NodeHealth's status.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ProblemKind;

/// One prediction. It is withdrawn when it no longer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePrediction {
    /// Problem that is to be expected; `Custom` where something is only unlike itself.
    pub kind: ProblemKind,
    /// What it is concluded from.
    pub basis: PredictionBasis,
    /// What it is about, as in `/var` or `mc0`.
    pub subject: String,
    /// One line for people.
    pub summary: String,
    /// How it was concluded.
    pub method: String,
    /// When it was first made, RFC 3339.
    pub made_at: String,
    /// When it is expected, RFC 3339; absent where no time is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_at: Option<String>,
    /// It is not expected sooner than this, nineteen times out of twenty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earliest: Option<String>,
    /// Nor later than this, nineteen times out of twenty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<String>,
    /// Figures that support it, bounded.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// Readings that it rests on.
    pub samples: PredictionSamples,
}

/// What a prediction is concluded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PredictionBasis {
    /// Something fills to its limit.
    TimeToLimit,
    /// Errors become more.
    ErrorTrend,
    /// A series is unlike itself.
    Anomaly,
}

impl PredictionBasis {
    /// Name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TimeToLimit => "timeToLimit",
            Self::ErrorTrend => "errorTrend",
            Self::Anomaly => "anomaly",
        }
    }
}

/// Readings that a prediction rests on, as they were when it was last stated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PredictionSamples {
    /// Name of the series, as in `fs./var.used_bytes`.
    pub series: String,
    /// The first one, RFC 3339.
    pub from: String,
    /// The last one, RFC 3339.
    pub to: String,
    /// How many.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_basis_has_the_name_that_json_gives_it() {
        for basis in [PredictionBasis::TimeToLimit, PredictionBasis::ErrorTrend, PredictionBasis::Anomaly] {
            assert_eq!(serde_json::to_value(basis).unwrap(), basis.as_str());
        }
    }
}
