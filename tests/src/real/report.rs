//! What a run of the suite measured and counted, against the targets.

use std::{collections::BTreeMap, time::Duration};

use super::measure::Distribution;

/// Targets of the design: name of the measurement and what its p99 may be at most.
const TARGETS: [(&str, Duration); 3] =
    [(DETECT, Duration::from_secs(3)), (STATELESS, Duration::from_secs(10)), (WRITER, Duration::from_secs(20))];

/// From the fault to a survivor's suspicion.
pub const DETECT: &str = "site death to suspicion";
/// From the fault to the last failed request of the service without state.
pub const STATELESS: &str = "stateless service at the gateway: site death to the last failed request";
/// From the fault to the first write that another site did.
pub const WRITER: &str = "single writer at the gateway: site death to the first write elsewhere";

/// Measurements and counts by name.
#[derive(Clone, Debug, Default)]
pub struct Report {
    times: BTreeMap<String, Distribution>,
    counts: BTreeMap<String, (u64, u64)>,
}

impl Report {
    /// Adds a measurement.
    pub fn time(&mut self, name: &str, measured: Duration) {
        self.times.entry(name.to_owned()).or_default().add(measured);
    }

    /// Adds `bad` out of `all` to a count that should be zero.
    pub fn count(&mut self, name: &str, bad: u64, all: u64) {
        let count = self.counts.entry(name.to_owned()).or_default();
        *count = (count.0 + bad, count.1 + all);
    }

    /// Rows: what, measured, target.
    pub fn rows(&self) -> Vec<[String; 3]> {
        let target = |name: &str| TARGETS.iter().find(|(target, _)| *target == name).map(|(_, most)| *most);
        let times = self.times.iter().map(|(name, times)| {
            let target = target(name).map_or_else(|| "-".to_owned(), |most| format!("p99 <= {}", most.as_secs()));
            [format!("{name}, p50 / p99 / max, s"), times.text(), target]
        });
        let counts =
            self.counts.iter().map(|(name, (bad, all))| [name.clone(), format!("{bad} of {all}"), "0".to_owned()]);
        times.chain(counts).collect()
    }

    /// Targets that were missed.
    pub fn missed(&self) -> Vec<String> {
        let late = TARGETS.iter().filter_map(|(name, most)| {
            let p99 = self.times.get(*name)?.percentile(99)?;
            (p99 > *most).then(|| format!("{name}: p99 {:.2} s, target {} s", p99.as_secs_f64(), most.as_secs()))
        });
        let bad = self.counts.iter().filter(|(_, (bad, _))| *bad > 0);
        late.chain(bad.map(|(name, (bad, all))| format!("{name}: {bad} of {all}"))).collect()
    }

    /// The table, for people.
    pub fn table(&self) -> String {
        let rows = self.rows();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (first, second) = (width(0), width(1));
        rows.iter()
            .map(|[what, measured, target]| format!("  {what:first$}  {measured:>second$}  {target}\n"))
            .collect()
    }

    /// The rows of a Markdown table with a fourth column, the command.
    pub fn markdown(&self, command: &str) -> String {
        self.rows()
            .iter()
            .map(|[what, measured, target]| format!("| {what} | {measured} | {target} | {command} |\n"))
            .collect()
    }
}
