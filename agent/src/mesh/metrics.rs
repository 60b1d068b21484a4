//! Instruments of the mesh, observed whenever a reader collects. Labels are bounded by the number of peers.

use evergreen_api::mesh::PathReport;
use evergreen_api::telemetry::mesh as names;
use evergreen_telemetry::{KeyValue, Meter};

use super::{Entry, Mesh};

/// Registers the instruments. They live as long as the meter's provider.
pub fn register(meter: &Meter, mesh: &Mesh) {
    gauge(
        meter,
        mesh,
        names::LOSS,
        "1",
        "Share of the newest probes of a peer that no echo came back for.",
        |report, _| Some(f64::from(report.lost) / f64::from(report.sent)),
    );
    gauge(
        meter,
        mesh,
        names::LATE,
        "1",
        "Share of the newest probes of a peer whose echo came far too late.",
        |report, _| Some(f64::from(report.late) / f64::from(report.sent)),
    );
    gauge(meter, mesh, names::RTT, "s", "Median time to a peer and back.", |report, _| {
        (report.rtt_us > 0).then(|| f64::from(report.rtt_us) / 1e6)
    });
    gauge(meter, mesh, names::RTT_P99, "s", "Time to a peer and back that 99 % stay within.", |_, entry| {
        entry.path.slowest().map(|time| time.as_secs_f64())
    });
    gauge(meter, mesh, names::MTU, "By", "Largest IP packet that reaches a peer in one piece.", |report, _| {
        (report.mtu > 0).then(|| f64::from(report.mtu))
    });
    let dns = mesh.clone();
    meter
        .f64_observable_gauge(names::DNS)
        .with_unit("s")
        .with_description("Time in which the name of the site's endpoint was resolved last.")
        .with_callback(move |instrument| {
            if let Some(took) = dns.state.lock().lookup.and_then(|lookup| lookup.took) {
                instrument.observe(took.as_secs_f64(), &[]);
            }
        })
        .build();
    let dns = mesh.clone();
    meter
        .u64_observable_counter(names::DNS_FAILURES)
        .with_unit("{lookup}")
        .with_description("Lookups of that name that failed.")
        .with_callback(move |instrument| {
            if let Some(lookup) = dns.state.lock().lookup {
                instrument.observe(lookup.failures, &[]);
            }
        })
        .build();
    let echoes = mesh.clone();
    meter
        .u64_observable_counter(names::ECHOES)
        .with_unit("{probe}")
        .with_description("Probes of other agents, by whether they were echoed.")
        .with_callback(move |instrument| {
            let state = echoes.state.lock();
            instrument.observe(state.echoes, &[KeyValue::new("outcome", "echoed")]);
            instrument.observe(state.refused_echoes, &[KeyValue::new("outcome", "too_many")]);
        })
        .build();
}

fn gauge(
    meter: &Meter,
    mesh: &Mesh,
    name: &'static str,
    unit: &'static str,
    says: &'static str,
    value: impl Fn(&PathReport, &Entry) -> Option<f64> + Send + Sync + 'static,
) {
    let mesh = mesh.clone();
    meter
        .f64_observable_gauge(name)
        .with_unit(unit)
        .with_description(says)
        .with_callback(move |instrument| {
            let now = mesh.now();
            let state = mesh.state.lock();
            for entry in state.paths.values() {
                let report = entry.path.report(&entry.peer.node, &entry.peer.site, now);
                // A path that never carried an echo may never have been one: it is told by its absence.
                if report.sent == 0 || !entry.path.is_known() {
                    continue;
                }
                if let Some(value) = value(&report, entry) {
                    let labels = [
                        KeyValue::new(names::PEER, entry.peer.node.clone()),
                        KeyValue::new(names::PEER_SITE, entry.peer.site.clone()),
                        KeyValue::new(names::SCOPE, entry.peer.scope.as_str()),
                    ];
                    instrument.observe(value, &labels);
                }
            }
        })
        .build();
}
