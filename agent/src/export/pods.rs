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
    use super::*;

    #[test]
    fn labels_cannot_break_out() {
        assert_eq!(escape("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
