//! Fast node-death detection: heartbeats of the agents and what peers see, into the Node condition `NodeLost`.
//!
//! [`detector`] decides and knows neither clock nor cluster; [`peers`] says who looks; [`record`] writes what was decided.
//! It runs only while this replica leads: a new leader begins to listen from nothing, and takes over what stands in the
//! Nodes' conditions. It never does anything about a lost node; what follows is a playbook.

pub mod detector;
pub(crate) mod events;
pub mod peers;
mod record;

use std::{sync::Arc, time::Duration};

use evergreen_api::heartbeat::{Heartbeat, HeartbeatAnswer};
use evergreen_telemetry::{IncidentTracer, KeyValue, Meter};
use kube::Client;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::detector::{Detector, Event, Settings, Standing};
use crate::{
    mesh::{self, MeshContext, MeshWatch, plan::Candidate},
    site::{BootClock, Register},
};

/// The detector is ticked this often.
const TICK: Duration = Duration::from_millis(100);

/// The detector of this replica, when it leads. Shared by the site endpoint and the leader's work.
#[derive(Clone, Debug, Default)]
pub struct NodeWatch {
    listening: Arc<Mutex<Option<Listening>>>,
    /// The network between the nodes.
    pub mesh: MeshWatch,
}

#[derive(Debug)]
struct Listening {
    detector: Detector,
    /// Told by heartbeats since the last tick; at most a few for each node.
    events: Vec<Event>,
}

impl NodeWatch {
    /// Takes a checked heartbeat in. `None` when this replica does not lead: the agent has to find the one that does.
    pub fn heartbeat(&self, beat: &Heartbeat) -> Option<HeartbeatAnswer> {
        let probe = {
            let mut listening = self.listening.lock();
            let Listening { detector, events } = listening.as_mut()?;
            detector.heartbeat(beat, BootClock.now(), events)
        };
        let unreachable = self.mesh.heard(&beat.node, &beat.paths);
        Some(HeartbeatAnswer { probe, unreachable, ..HeartbeatAnswer::default() })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Detector) -> T) -> Option<T> {
        self.listening.lock().as_mut().map(|listening| act(&mut listening.detector))
    }

    /// Nodes that live, or are merely suspected; nobody when this replica does not lead.
    pub fn members(&self) -> Vec<Candidate> {
        let members = |detector: &mut Detector| {
            let candidate = |(node, place, address): (&str, &_, &str)| Candidate {
                node: node.to_owned(),
                place: Clone::clone(place),
                address: address.to_owned(),
            };
            detector.members().map(candidate).collect()
        };
        self.with(members).unwrap_or_default()
    }

    fn tick(&self) -> Vec<Event> {
        let mut listening = self.listening.lock();
        let Some(Listening { detector, events }) = listening.as_mut() else { return Vec::new() };
        detector.tick(BootClock.now(), events);
        std::mem::take(events)
    }

    /// Registers the number of nodes by standing, observed while this replica leads.
    pub fn register(&self, meter: &Meter) {
        self.mesh.register(meter);
        let watch = self.clone();
        meter
            .u64_observable_gauge("evergreen.site.nodes")
            .with_description("Nodes whose agents send heartbeats, by standing")
            .with_callback(move |observer| {
                let seen: Option<(Vec<Standing>, usize)> =
                    watch.with(|d| (d.standings().map(|(_, s)| s).collect(), d.unheard()));
                let Some((standings, unheard)) = seen else { return };
                observer.observe(unheard as u64, &[KeyValue::new("evergreen.node.standing", "unheard")]);
                for (standing, name) in [
                    (Standing::Alive, "alive"),
                    (Standing::Suspected, "suspected"),
                    (Standing::Lost, "lost"),
                    (Standing::Left, "left"),
                ] {
                    let count = standings.iter().filter(|s| **s == standing).count();
                    observer.observe(count as u64, &[KeyValue::new("evergreen.node.standing", name)]);
                }
            })
            .build();
    }
}

/// What the leader's part needs.
#[derive(Clone)]
pub struct NodesContext {
    /// Client of this data center's API server.
    pub client: Client,
    /// Name of this data center.
    pub site: String,
    /// Spans of incidents.
    pub incidents: IncidentTracer,
    /// Where heartbeats arrive.
    pub watch: NodeWatch,
    /// Registers of all data centers: their nodes are probed too.
    pub registers: Vec<Arc<Register>>,
}

/// Listens for as long as the term lasts.
pub async fn run(context: NodesContext, term: CancellationToken) {
    let fresh = Listening { detector: Detector::new(Settings::default()), events: Vec::new() };
    *context.watch.listening.lock() = Some(fresh);
    let work = async {
        let (events, queue) = events::Events::new(&context.site);
        let recorder = record::Recorder::new(context.clone(), events);
        let told = queue.write(context.client.clone());
        tokio::join!(listen(&context.watch, &recorder), recorder.write(), recorder.follow_nodes(), told);
    };
    let meshed = MeshContext {
        client: context.client.clone(),
        site: context.site.clone(),
        registers: context.registers.clone(),
        incidents: context.incidents.clone(),
        nodes: context.watch.clone(),
        watch: context.watch.mesh.clone(),
    };
    tokio::join!(term.run_until_cancelled(work), mesh::run(meshed, term.clone()));
    *context.watch.listening.lock() = None;
}

async fn listen(watch: &NodeWatch, recorder: &record::Recorder) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for event in watch.tick() {
            tell(&event);
            recorder.take(event);
        }
    }
}

fn tell(event: &Event) {
    match event {
        Event::Suspected { node, silent_for } => tracing::info!(node, ?silent_for, "no heartbeat; peers look"),
        Event::Cleared { node, silent_for } => tracing::info!(node, ?silent_for, "heard again; it was never lost"),
        Event::Unheard { node, silent_for } => {
            tracing::warn!(node, ?silent_for, "not heard here, but peers reach it: it is not lost");
        }
        Event::Lost { node, evidence } => {
            tracing::warn!(node, silent_for = ?evidence.silent_for, witnesses = ?evidence.witnesses, "node lost");
        }
        Event::Returned { node, rebooted } => tracing::info!(node, rebooted, "a lost node is back"),
        Event::Rebooted { node } => tracing::info!(node, "node was started anew"),
        Event::Guarded { silent, known } => tracing::error!(
            silent,
            known,
            "most nodes fell silent together: this controller may be the one that is cut off, so no node is declared lost"
        ),
        Event::Unguarded => tracing::info!("most nodes are heard again; nodes can be declared lost"),
    }
}
