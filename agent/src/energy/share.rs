//! From the energy of an interval to slices that the ledger divides: what of it is idle, and by which use the rest goes.

use super::{
    choose::sum_of,
    idle::{IdleBook, Look},
    ledger::{Interval, Origin, Slice, divide},
    memory::Traffic,
    model::PowerModel,
    processes::Processes,
    source::{Part, PartKind, Users},
};

/// What the machine took in an interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// By which source.
    pub origin: Origin,
    /// Length of the interval without sleep, milliseconds; more than 0.
    pub awake_ms: u64,
    /// Share of CPU time that was busy.
    pub utilization: f64,
    /// Energy of the whole machine, microjoules; the parts are all there is when it is absent.
    pub whole: Option<u64>,
    /// Energy of metered parts.
    pub parts: Vec<Part>,
    /// Who used parts that CPU time says nothing about.
    pub users: Vec<Users>,
    /// Energy that wraps nobody saw may hide at most, microjoules.
    pub unsure_microjoules: u64,
}

impl Moment {
    /// All energy, microjoules.
    pub fn microjoules(&self) -> u64 {
        self.whole.unwrap_or_else(|| self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.microjoules)))
    }

    /// Mean power, watts.
    pub fn watts(&self) -> f64 {
        self.to_watts(self.microjoules())
    }

    fn to_watts(&self, microjoules: u64) -> f64 {
        microjoules as f64 / self.awake_ms.max(1) as f64 / 1_000.0
    }

    /// Energy of processors with memory, and of accelerators, microjoules.
    pub fn processor_and_cards(parts: &[Part]) -> (u64, u64) {
        let cards = sum_of(parts, PartKind::Gpu);
        (sum_of(parts, PartKind::Cpu).saturating_add(sum_of(parts, PartKind::Memory)), cards)
    }
}

/// Who used the machine.
pub struct Sharing<'a> {
    /// UIDs of pods.
    pub pods: &'a [String],
    /// CPU time of each, microseconds.
    pub pods_us: &'a [u64],
    /// CPU time outside of pods, microseconds.
    pub system_us: u64,
    /// Memory traffic, where it is known.
    pub traffic: Option<&'a Traffic>,
    /// The power model, for the shape of power over load.
    pub model: Option<&'a PowerModel>,
    /// Regime of frequency.
    pub regime: &'a str,
}

/// Cuts an interval into slices; also gives the idle power, watts.
pub fn interval_of(
    moment: &Moment,
    sharing: &Sharing<'_>,
    idle: &mut IdleBook,
    processes: &mut Processes,
) -> (Interval, f64) {
    let cards: Vec<&Part> = moment.parts.iter().filter(|part| part.kind == PartKind::Gpu).collect();
    let mut amounts = vec![sum_of(&moment.parts, PartKind::Cpu), sum_of(&moment.parts, PartKind::Memory)];
    amounts.extend(cards.iter().map(|card| card.microjoules));
    let whole = moment.microjoules();
    let known = amounts.iter().fold(0_u64, |sum, amount| sum.saturating_add(*amount));
    let rest = whole.saturating_sub(known);
    if known > whole {
        // Meters are read one after another; over one interval the parts may seem to take more than the whole.
        amounts = divide(whole, &amounts);
    }
    let model = sharing.model;
    let load = model.map_or(moment.utilization, |model| model.shape(moment.utilization));
    let ratio = model.map_or(0.5, |model| model.idle_ratio(moment.utilization));
    let look = |watts, modelled| Look { utilization: moment.utilization, load, watts, idle_ratio: ratio, modelled };
    let microjoules_of = |idle_watts: f64, most: u64| {
        ((idle_watts * moment.awake_ms as f64 * 1_000.0).round().max(0.0) as u64).min(most)
    };
    let mut idle_of = |kind: &str, microjoules: u64, look: Look| -> u64 {
        if microjoules == 0 {
            return 0;
        }
        microjoules_of(idle.of(kind, sharing.regime).learn(look), microjoules)
    };
    let idle_processor = idle_of("cpu", amounts[0], look(moment.to_watts(amounts[0]), false));
    let idle_memory = idle_of("memory", amounts[1], look(moment.to_watts(amounts[1]), false));
    // Idle power of the whole node without accelerators is what the model knows best; the rest of it is no part's.
    let cards_microjoules = amounts.iter().skip(2).fold(0_u64, |sum, amount| sum.saturating_add(*amount));
    let node = whole.saturating_sub(cards_microjoules);
    let idle_rest = match (moment.whole, model) {
        (None, _) => 0,
        // A model's idle power is known, not learned.
        (Some(_), Some(model)) if moment.origin.provenance != "measured" && amounts[0] == 0 => {
            microjoules_of(model.idle_watts, rest)
        }
        (Some(_), _) => {
            let idle_node = idle_of("node", node, look(moment.to_watts(node), true));
            idle_node.saturating_sub(idle_processor).saturating_sub(idle_memory).min(rest)
        }
    };
    let by_cpu = |microjoules, idle_microjoules| Slice {
        microjoules,
        idle_microjoules,
        pods: sharing.pods_us.to_vec(),
        system: sharing.system_us,
    };
    let mut slices = Vec::with_capacity(3 + cards.len());
    slices.push(by_cpu(amounts[0], idle_processor));
    slices.push(by_cpu(rest, idle_rest));
    let memory = by_cpu(amounts[1], idle_memory);
    slices.push(match sharing.traffic {
        Some(traffic) => by_traffic(memory, traffic, sharing),
        None => memory,
    });
    for (card, microjoules) in cards.iter().zip(amounts.iter().skip(2)) {
        let users = moment.users.iter().find(|users| users.id == card.id);
        let busy = users.map_or(0.0, |users| f64::from(users.busy_percent.min(100)) / 100.0);
        // A card that nobody used took its idle power.
        let ratio = if busy > 0.0 { 0.5 } else { 1.0 };
        let watts = moment.to_watts(*microjoules);
        let look = Look { utilization: busy, load: busy, watts, idle_ratio: ratio, modelled: false };
        let idle_microjoules = idle_of(&card.id, *microjoules, look);
        let (pods, system) = by_process(users, sharing.pods, processes);
        slices.push(Slice { microjoules: *microjoules, idle_microjoules, pods, system });
    }
    slices.retain(|slice| slice.microjoules > 0);
    let idle_microjoules = slices.iter().fold(0_u64, |sum, slice| sum.saturating_add(slice.idle_microjoules));
    (Interval { pods: sharing.pods.to_vec(), slices }, moment.to_watts(idle_microjoules))
}

/// Divides memory by traffic; what has no group of its own shares the rest of it by CPU time.
fn by_traffic(slice: Slice, traffic: &Traffic, sharing: &Sharing<'_>) -> Slice {
    let own: Vec<Option<u64>> = sharing.pods.iter().map(|uid| traffic.pods.get(uid).copied()).collect();
    let unknown: Vec<u64> =
        own.iter().zip(sharing.pods_us).map(|(own, us)| if own.is_some() { 0 } else { *us }).collect();
    let mut weights = unknown;
    weights.push(sharing.system_us);
    let mut others = divide(traffic.others, &weights);
    let system = others.pop().unwrap_or(0);
    let pods = own.into_iter().zip(others).map(|(own, other)| own.unwrap_or(other)).collect();
    Slice { pods, system, ..slice }
}

/// Work of each pod and of everybody else on an accelerator.
fn by_process(users: Option<&Users>, pods: &[String], processes: &mut Processes) -> (Vec<u64>, u64) {
    let (mut of_pods, mut system) = (vec![0_u64; pods.len()], 0_u64);
    for (pid, work) in users.into_iter().flat_map(|users| &users.processes) {
        let place = processes.pod_of(*pid).and_then(|uid| pods.iter().position(|pod| pod == uid));
        let sum = place.map_or(&mut system, |place| &mut of_pods[place]);
        *sum = sum.saturating_add(*work);
    }
    (of_pods, system)
}
