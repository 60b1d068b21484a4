//! Energy of pods: a slow meter for OTLP, and an encoder of its own for Prometheus, because a series of the SDK costs
//! more than a kilobyte and a node may have hundreds of pods.

use std::{fmt::Write, sync::Arc};

use evergreen_api::telemetry::{attribute, metric};
use evergreen_telemetry::{KeyValue, Meter};

use super::metrics::joules;
use crate::shared::Shared;

/// Registers the pods' counter on a meter that is read rarely.
pub fn register(meter: &Meter, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    meter
        .f64_observable_counter(metric::POD_ENERGY)
        .with_unit("J")
        .with_description("Energy that a pod took beyond the idle node.")
        .with_callback(move |instrument| {
            shared.with(|view| {
                for (origin, account) in view.energy.ledger.accounts() {
                    for (uid, pod) in &account.pods {
                        let mut attributes = vec![
                            KeyValue::new(attribute::POD_UID, uid.clone()),
                            KeyValue::new(attribute::PROVENANCE, origin.provenance.clone()),
                            KeyValue::new(attribute::ENERGY_SOURCE, origin.source.clone()),
                        ];
                        if let Some(name) = shared.pod_name(uid) {
                            attributes.push(KeyValue::new(attribute::POD, name.name));
                            attributes.push(KeyValue::new(attribute::NAMESPACE, name.namespace));
                        }
                        instrument.observe(joules(pod.microjoules), &attributes);
                    }
                }
            });
        })
        .build();
}

/// The pods' counter in the Prometheus text format.
pub fn prometheus_text(shared: &Shared) -> String {
    let mut text = String::new();
    shared.with(|view| {
        let accounts = view.energy.ledger.accounts();
        if accounts.values().all(|account| account.pods.is_empty()) {
            return;
        }
        text.push_str("# HELP k8s_pod_energy_joules_total Energy that a pod took beyond the idle node.\n");
        text.push_str("# TYPE k8s_pod_energy_joules_total counter\n");
        for (origin, account) in accounts {
            for (uid, pod) in &account.pods {
                let name = shared.pod_name(uid);
                let (namespace, name) = name.as_ref().map_or(("", ""), |name| (&name.namespace, &name.name));
                // Writing into a String does not fail.
                let _ = writeln!(
                    text,
                    "k8s_pod_energy_joules_total{{evergreen_energy_provenance=\"{}\",evergreen_energy_source=\"{}\",\
                     k8s_namespace_name=\"{}\",k8s_pod_name=\"{}\",k8s_pod_uid=\"{}\"}} {}",
                    escape(&origin.provenance),
                    escape(&origin.source),
                    escape(namespace),
                    escape(name),
                    escape(uid),
                    joules(pod.microjoules),
                );
            }
        }
    });
    text
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        energy::{
            EnergyView, Ledger, Origin,
            ledger::{Interval, Slice},
        },
        grants::GrantBook,
        sources::Sample,
    };

    fn shared(ledger: Ledger) -> Shared {
        let shared = Shared::new("n1".into(), "s1".into(), GrantBook::default(), false);
        let energy = EnergyView { ledger: Arc::new(ledger), ..EnergyView::default() };
        shared.set_sample(Sample::default(), Vec::new(), energy);
        shared
    }

    fn enter(ledger: &mut Ledger, source: &str, pods: usize, microjoules: u64) {
        let origin = Origin { provenance: "measured".into(), source: source.into() };
        let pods: Vec<String> = (0..pods).map(|n| format!("{n:032}")).collect();
        let slice = Slice { microjoules, idle_microjoules: 0, pods: vec![1; pods.len()], system: 0 };
        ledger.record(&origin, &Interval { pods, slices: vec![slice] });
    }

    /// Series and their values, as a scraper reads them.
    fn scrape(shared: &Shared) -> HashMap<String, f64> {
        prometheus_text(shared)
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                (series.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    #[test]
    fn labels_cannot_break_out() {
        assert_eq!(escape("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }

    #[test]
    fn a_pod_has_at_most_twelve_series_and_a_process_none_whatever_sources_come_and_go() {
        let mut ledger = Ledger::default();
        for n in 0..50 {
            enter(&mut ledger, &format!("source-{n}"), 3, 1_000);
        }
        let series = scrape(&shared(ledger));
        for pod in 0..3 {
            let of_pod = series.keys().filter(|series| series.contains(&format!("{pod:032}"))).count();
            assert!((1..=12).contains(&of_pod), "{of_pod}");
        }
        assert!(!series.keys().any(|series| series.contains("pid") || series.contains("process")));
        assert!((series.values().sum::<f64>() - 50.0 * 1_000.0 / 1e6).abs() < 1e-9, "nothing is left out");
    }

    proptest! {
        #[test]
        fn what_scrapers_count_is_what_the_ledger_counted_whatever_their_interval(
            samples in proptest::collection::vec((0_u64..400_000_000, any::<bool>(), any::<bool>()), 1..60),
        ) {
            let mut ledger = Ledger::default();
            let mut seen: HashMap<String, (f64, f64)> = HashMap::new();
            let mut look = |ledger: &Ledger| {
                for (series, value) in scrape(&shared(ledger.clone())) {
                    let (last, sum) = seen.entry(series).or_default();
                    // As rate() and increase() do it: a fall is a reset.
                    *sum += if value >= *last { value - *last } else { value };
                    *last = value;
                }
                seen.values().map(|(_, sum)| sum).sum::<f64>()
            };
            for (microjoules, scraped, restarted) in samples {
                enter(&mut ledger, "powercap", 5, microjoules);
                if restarted {
                    let text = serde_json::to_string(&ledger).unwrap();
                    ledger = serde_json::from_str(&text).unwrap();
                }
                if scraped {
                    look(&ledger);
                }
            }
            let counted = look(&ledger);
            let account = ledger.accounts().values().next().unwrap();
            prop_assert!((counted - account.pods_microjoules() as f64 / 1e6).abs() < 1e-5);
        }
    }
}
