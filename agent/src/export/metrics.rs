//! Instruments of the node, observed from the latest view whenever a reader collects: both readers see the same figures.

use std::sync::{Arc, atomic::Ordering};

use evergreen_api::telemetry::{attribute, metric};
use evergreen_telemetry::{KeyValue, Meter};
use opentelemetry::metrics::AsyncInstrument;

use crate::{
    energy::{Account, Origin},
    shared::{Shared, View},
};

/// Microjoules of a joule.
const MICROJOULES: f64 = 1e6;

/// Microjoules as joules, as OpenTelemetry counts energy.
pub fn joules(microjoules: u64) -> f64 {
    microjoules as f64 / MICROJOULES
}

/// Registers the node's instruments. They live as long as the meter's provider.
pub fn register(meter: &Meter, shared: &Arc<Shared>) {
    energy(meter, shared);
    resources(meter, shared);
    health(meter, shared);
}

fn gauge(
    meter: &Meter,
    shared: &Arc<Shared>,
    name: &'static str,
    unit: &'static str,
    says: &'static str,
    observe: impl Fn(&View, &dyn AsyncInstrument<f64>) + Send + Sync + 'static,
) {
    let shared = Arc::clone(shared);
    meter
        .f64_observable_gauge(name)
        .with_unit(unit)
        .with_description(says)
        .with_callback(move |instrument| shared.with(|view| observe(view, instrument)))
        .build();
}

fn counter(
    meter: &Meter,
    shared: &Arc<Shared>,
    name: &'static str,
    unit: &'static str,
    says: &'static str,
    observe: impl Fn(&Shared, &View, &dyn AsyncInstrument<f64>) + Send + Sync + 'static,
) {
    let shared = Arc::clone(shared);
    meter
        .f64_observable_counter(name)
        .with_unit(unit)
        .with_description(says)
        .with_callback(move |instrument| shared.with(|view| observe(&shared, view, instrument)))
        .build();
}

fn origin(origin: &Origin) -> [KeyValue; 2] {
    [
        KeyValue::new(attribute::PROVENANCE, origin.provenance.clone()),
        KeyValue::new(attribute::ENERGY_SOURCE, origin.source.clone()),
    ]
}

fn energy(meter: &Meter, shared: &Arc<Shared>) {
    counter(meter, shared, metric::HOST_ENERGY, "J", "Energy that the node took.", |_, view, instrument| {
        for (from, account) in view.energy.ledger.accounts() {
            instrument.observe(joules(account.node_microjoules), &origin(from));
        }
    });
    counter(
        meter,
        shared,
        metric::NODE_ENERGY,
        "J",
        "Energy of the node by consumer; pods, system and idle sum to all of it.",
        |_, view, instrument| {
            for (from, account) in view.energy.ledger.accounts() {
                for (consumer, microjoules) in consumers(account) {
                    let [provenance, source] = origin(from);
                    instrument.observe(
                        joules(microjoules),
                        &[KeyValue::new(attribute::CONSUMER, consumer), provenance, source],
                    );
                }
            }
        },
    );
    gauge(meter, shared, metric::HOST_POWER, "W", "Power that the node takes now.", |view, instrument| {
        if let (Some(watts), Some(from)) = (view.energy.watts, &view.energy.origin) {
            instrument.observe(watts, &origin(from));
        }
    });
    counter(meter, shared, "evergreen.energy.gap", "s", "Time of which no energy is known.", |_, view, instrument| {
        instrument.observe(view.energy.ledger.gap_ms as f64 / 1000.0, &[]);
    });
    counter(
        meter,
        shared,
        "hw.energy",
        "J",
        "Energy by part of the machine, by its own meter.",
        |_, view, instrument| {
            for (id, part) in view.energy.ledger.parts() {
                let Some(kind) = part.kind.hw_type() else { continue };
                let mut attributes = vec![
                    KeyValue::new("hw.type", kind),
                    KeyValue::new("hw.id", id.clone()),
                    KeyValue::new(attribute::ENERGY_SOURCE, part.source.clone()),
                ];
                if let Some((parent, _)) = id.rsplit_once('/').filter(|_| part.inside) {
                    attributes.push(KeyValue::new("hw.parent", parent.to_owned()));
                }
                instrument.observe(joules(part.microjoules), &attributes);
            }
        },
    );
    counter(
        meter,
        shared,
        "evergreen.energy.unsure",
        "J",
        "Energy that wraps nobody saw may hide at most; in no other figure.",
        |_, view, instrument| instrument.observe(joules(view.energy.ledger.unsure_microjoules), &[]),
    );
    counter(
        meter,
        shared,
        "evergreen.energy.sensor.faults",
        "{fault}",
        "Readings of an energy sensor that cannot be true.",
        |_, view, instrument| {
            for ((source, fault), count) in &view.energy.faults {
                let attributes = [KeyValue::new(attribute::ENERGY_SOURCE, *source), KeyValue::new("fault", *fault)];
                instrument.observe(*count as f64, &attributes);
            }
        },
    );
    gauge(
        meter,
        shared,
        "evergreen.energy.conflicts",
        "{source}",
        "Energy sources that are not used because a better one contradicts them.",
        |view, instrument| instrument.observe(view.energy.conflicts.len() as f64, &[]),
    );
}

fn consumers(account: &Account) -> [(&'static str, u64); 3] {
    [("pods", account.pods_microjoules()), ("system", account.system_microjoules), ("idle", account.idle_microjoules)]
}

fn resources(meter: &Meter, shared: &Arc<Shared>) {
    gauge(meter, shared, metric::CPU_UTILIZATION, "1", "Share of CPU time that is not idle.", |view, instrument| {
        if let Some(share) = view.sample.cpu_utilization {
            instrument.observe(share, &[]);
        }
    });
    gauge(meter, shared, metric::MEMORY_USAGE, "By", "Memory in use.", |view, instrument| {
        if let Some(memory) = view.sample.memory {
            instrument.observe(memory.used() as f64, &[]);
        }
    });
    gauge(meter, shared, metric::MEMORY_LIMIT, "By", "Memory that there is.", |view, instrument| {
        if let Some(memory) = view.sample.memory {
            instrument.observe(memory.total as f64, &[]);
        }
    });
    gauge(meter, shared, metric::FILESYSTEM_UTILIZATION, "1", "Share of a filesystem in use.", |view, instrument| {
        for filesystem in &view.sample.filesystems {
            if let Some(share) = filesystem.utilization {
                instrument
                    .observe(share, &[KeyValue::new("system.filesystem.mountpoint", filesystem.mountpoint.clone())]);
            }
        }
    });
    gauge(meter, shared, metric::PRESSURE, "1", "Share of time that tasks were stalled.", |view, instrument| {
        for pressure in &view.sample.pressure {
            instrument.observe(
                pressure.share,
                &[
                    KeyValue::new("resource", pressure.resource),
                    KeyValue::new("kind", pressure.kind),
                    KeyValue::new("window", pressure.window),
                ],
            );
        }
    });
    gauge(meter, shared, "system.linux.load_average", "{thread}", "Load average.", |view, instrument| {
        for (window, load) in ["1m", "5m", "15m"].into_iter().zip(view.sample.load.into_iter().flatten()) {
            instrument.observe(load, &[KeyValue::new("window", window)]);
        }
    });
    gauge(meter, shared, "system.processes.count", "{process}", "Number of processes.", |view, instrument| {
        if let Some(processes) = view.sample.processes {
            instrument.observe(processes as f64, &[]);
        }
    });
    gauge(meter, shared, "system.disk.utilization", "1", "Share of time that a disk is busy.", |view, instrument| {
        for disk in &view.sample.disks {
            instrument.observe(disk.busy, &[KeyValue::new("system.device", disk.name.clone())]);
        }
    });
    counter(
        meter,
        shared,
        "system.network.errors",
        "{error}",
        "Errors and drops of an interface.",
        |_, view, instrument| {
            for interface in &view.sample.network {
                instrument.observe(
                    interface.errors as f64,
                    &[KeyValue::new("network.interface.name", interface.name.clone())],
                );
            }
        },
    );
}

fn health(meter: &Meter, shared: &Arc<Shared>) {
    gauge(meter, shared, metric::NODE_PROBLEM, "{problem}", "A problem is raised on the node.", |view, instrument| {
        for problem in &view.problems {
            instrument.observe(
                1.0,
                &[
                    KeyValue::new(attribute::PROBLEM_KIND, problem.kind.condition_type()),
                    KeyValue::new(attribute::PROBLEM_SEVERITY, problem.severity.as_str()),
                    KeyValue::new(attribute::PROBLEM_SUMMARY, problem.summary.clone()),
                ],
            );
        }
    });
    gauge(meter, shared, metric::SOURCE_PRESENT, "{source}", "Whether a source can be read.", |view, instrument| {
        for source in &view.sources {
            let mut attributes = vec![KeyValue::new(attribute::SOURCE_NAME, source.name.clone())];
            attributes.extend(source.reason.clone().map(|reason| KeyValue::new(attribute::SOURCE_REASON, reason)));
            instrument.observe(f64::from(u8::from(source.present)), &attributes);
        }
    });
    counter(
        meter,
        shared,
        "evergreen.source.errors",
        "{error}",
        "Times that a source met something that is not what it should be.",
        |shared, _, instrument| {
            for (source, count) in shared.source_errors() {
                instrument.observe(count as f64, &[KeyValue::new(attribute::SOURCE_NAME, source)]);
            }
        },
    );
    gauge(
        meter,
        shared,
        "evergreen.node.ready_sources",
        "{source}",
        "Sources that can be read.",
        |view, instrument| {
            instrument.observe(view.sources.iter().filter(|source| source.present).count() as f64, &[]);
        },
    );
    counter(meter, shared, "evergreen.kmsg.messages", "{message}", "Kernel messages read.", |shared, _, instrument| {
        instrument.observe(shared.kernel_log.messages.load(Ordering::Relaxed) as f64, &[]);
    });
    counter(
        meter,
        shared,
        "evergreen.kmsg.overruns",
        "{overrun}",
        "Times the kernel's ring overran us.",
        |shared, _, instrument| {
            instrument.observe(shared.kernel_log.overruns.load(Ordering::Relaxed) as f64, &[]);
        },
    );
    counter(
        meter,
        shared,
        "evergreen.kmsg.lost",
        "{message}",
        "Kernel messages lost in overruns.",
        |shared, _, instrument| {
            instrument.observe(shared.kernel_log.lost.load(Ordering::Relaxed) as f64, &[]);
        },
    );
    counter(
        meter,
        shared,
        "evergreen.kmsg.reader.faults",
        "{fault}",
        "Times the kernel log's reader was started anew.",
        |shared, _, instrument| {
            instrument.observe(shared.kernel_log.faults.load(Ordering::Relaxed) as f64, &[]);
        },
    );
}
