//! Stories: what a data center is given, what happens to it when, and what is then the case, in sentences.
//!
//! A story is a small YAML file whose sentences come from a fixed list ([`GIVEN`], [`WHEN`], [`THEN`]). It is played on a
//! twin in virtual time, so hours take a moment and every run is the same. What was seen is told line by line.

mod parse;
mod play;
mod possible;

pub use parse::{Event, Fact, MAX_FILE, Sentence, Setting, Story, StoryError, parse};
pub use play::{Told, play};

/// The sentences of `given`.
pub const GIVEN: &[&str] = &[
    "data center NAME with N nodes",
    "data center NAME with N nodes in zones A, B and C",
    "nodes of N cores and N GiB",
    "deployment NAME with N replicas",
    "deployment NAME with N replicas of N millicores",
    "stateful set NAME with N replicas",
    "daemon set NAME",
    "pods of NAME bear a lost node for N seconds",
    "budget NAME keeps N pods of NAME",
    "the time of the demo",
];

/// The sentences of `when`.
pub const WHEN: &[&str] = &[
    "node NAME loses power",
    "node NAME gets power again",
    "zone NAME loses power",
    "zone NAME gets power again",
    "the data center loses power",
    "the data center gets power again",
    "node NAME is cordoned",
    "node NAME is uncordoned",
    "node NAME is tainted KEY=VALUE:EFFECT",
    "node NAME says it is not ready",
    "deployment NAME is scaled to N",
    "a pod of NAME is evicted",
    "a pod of NAME is deleted",
    "nobody reaches the API server",
    "everybody reaches the API server",
    "the API server forgets its past",
    "the next N requests to VERB RESOURCE are answered STATUS",
];

/// The sentences of `then`.
pub const THEN: &[&str] = &[
    "N pods of NAME are ready",
    "at least N pods of NAME are ready",
    "N pods of NAME are pending",
    "there are N pods of NAME",
    "no pod of NAME is on node NAME",
    "no pod of NAME is in zone NAME",
    "node NAME is ready",
    "node NAME is not ready",
    "node NAME is unknown",
    "N nodes are ready",
    "N nodes drive their pods out",
    "budget NAME allows N disruptions",
    "the last eviction was refused",
    "the last eviction was granted",
];
