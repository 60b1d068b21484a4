//! What is to be expected of the node: when something is full, which errors become more, which series is unlike itself.
//!
//! Each series has a state of its own, small and of fixed size ([`limit`], [`trend`], [`unusual`]); what is followed is
//! said in data ([`rules`]); the [`book`] holds all of them and says what is predicted now; [`task`] feeds it from the
//! agent's readings and tells the rest of the agent. All but the task are pure: readings and a time in, predictions out.
//! `docs/prediction.md` says how the methods work and how far they can be trusted.

pub mod book;
pub mod course;
pub mod forecast;
pub mod limit;
pub mod metrics;
mod quantile;
pub mod rules;
pub mod task;
pub mod trend;
pub mod unusual;
mod window;
mod words;

use evergreen_api::{
    ProblemKind,
    resources::{NodePrediction, PredictionBasis, PredictionSamples},
};
use serde::{Deserialize, Serialize};

/// A moment, by the two clocks that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that counts on through sleep, reboots and restarts, and never jumps.
    pub clock_ms: u64,
    /// Unix milliseconds; only ever shown.
    pub wall_ms: i64,
}

/// A prediction as it was last stated; times are Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// When it was first made.
    pub made_ms: i64,
    /// When it is expected.
    pub expected_ms: Option<i64>,
    /// Not sooner than this.
    pub earliest_ms: Option<i64>,
    /// Nor later than this.
    pub latest_ms: Option<i64>,
    /// How it was concluded.
    pub method: String,
    /// Figures that support it.
    pub evidence: Vec<String>,
    /// First reading that it rests on.
    pub from_ms: i64,
    /// Last one.
    pub to_ms: i64,
    /// How many.
    pub samples: u64,
}

impl Told {
    fn shown(
        &self,
        kind: ProblemKind,
        basis: PredictionBasis,
        subject: &str,
        summary: String,
        series: &str,
    ) -> NodePrediction {
        NodePrediction {
            kind,
            basis,
            subject: subject.to_owned(),
            summary,
            method: self.method.clone(),
            made_at: words::rfc3339(self.made_ms),
            expected_at: self.expected_ms.map(words::rfc3339),
            earliest: self.earliest_ms.map(words::rfc3339),
            latest: self.latest_ms.map(words::rfc3339),
            evidence: self.evidence.clone(),
            samples: PredictionSamples {
                series: series.to_owned(),
                from: words::rfc3339(self.from_ms),
                to: words::rfc3339(self.to_ms),
                count: self.samples,
            },
        }
    }
}
