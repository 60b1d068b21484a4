//! The network mesh of a data center: who probes whom, and who is to blame when paths fail.
//!
//! [`plan`] and [`blame`] are pure, [`matrix`] and [`stable`] too; [`exchange`] meets the other sites; here they are put
//! together. It runs only while this replica leads. It tells, by Events, metrics, incidents and a word to the agent of a
//! node that is to blame, which raises the condition of that node; it never acts.

pub mod blame;
pub mod exchange;
pub mod matrix;
pub mod place;
pub mod plan;
pub mod stable;
mod tell;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::{
    mesh::{MeshVerdict, PathReport, PeerList},
    telemetry::mesh as names,
};
use evergreen_telemetry::{IncidentTracer, KeyValue, Meter};
use kube::Client;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::{
    blame::{Culprit, Fault},
    exchange::Others,
    matrix::{Matrix, Remote},
    plan::{Candidate, Plan},
    stable::Stable,
};
use crate::{
    nodes::{NodeWatch, events::Events},
    site::{BootClock, Register},
};

/// How often is looked.
const LOOK: Duration = Duration::from_secs(5);
/// Sites are read, and told, every so many looks.
const EXCHANGE_EVERY: u64 = 6;

/// The mesh of this replica, when it leads. Shared by the site endpoint and the leader's work.
#[derive(Clone, Debug, Default)]
pub struct MeshWatch {
    state: Arc<Mutex<Option<State>>>,
}

#[derive(Debug, Default)]
struct State {
    site: String,
    lists: Plan,
    matrix: Matrix,
    stable: Stable,
    verdicts: BTreeMap<String, MeshVerdict>,
}

impl MeshWatch {
    /// Whom a node should probe. `None` when this replica does not lead; nobody for a node that is not heard yet.
    pub fn peers(&self, node: &str) -> Option<PeerList> {
        let state = self.state.lock();
        let state = state.as_ref()?;
        Some(PeerList { site: state.site.clone(), peers: state.lists.get(node).cloned().unwrap_or_default() })
    }

    /// Takes in what a node's agent found; answers what there is to say about that node itself.
    pub fn heard(&self, node: &str, paths: &[PathReport]) -> Option<MeshVerdict> {
        let mut state = self.state.lock();
        let state = state.as_mut()?;
        state.matrix.tell(node, paths, BootClock.now());
        state.verdicts.get(node).cloned()
    }

    /// Registers the faults that stand, observed while this replica leads.
    pub fn register(&self, meter: &Meter) {
        let watch = self.clone();
        meter
            .u64_observable_gauge(names::FAULT)
            .with_description("1 for each part of the network that is to blame for paths that fail")
            .with_callback(move |observer| {
                let state = watch.state.lock();
                for fault in state.iter().flat_map(|state| state.stable.raised()) {
                    let labels = [
                        KeyValue::new(names::FAULT_KIND, fault.culprit.kind()),
                        KeyValue::new(names::FAULT_SUBJECT, fault.culprit.subject()),
                    ];
                    observer.observe(1, &labels);
                }
            })
            .build();
    }
}

/// What the leader's part needs.
#[derive(Clone)]
pub struct MeshContext {
    /// Client of this data center's API server.
    pub client: Client,
    /// Name of this data center.
    pub site: String,
    /// Registers of all data centers.
    pub registers: Vec<Arc<Register>>,
    /// Spans of incidents.
    pub incidents: IncidentTracer,
    /// Nodes that are heard.
    pub nodes: NodeWatch,
    /// Where peers are asked for and figures arrive.
    pub watch: MeshWatch,
}

/// Looks for as long as the term lasts.
pub async fn run(context: MeshContext, term: CancellationToken) {
    *context.watch.state.lock() = Some(State { site: context.site.clone(), ..State::default() });
    let (events, queue) = Events::new(&context.site);
    let work = async {
        tokio::join!(look(&context, events), queue.write(context.client.clone()));
    };
    term.run_until_cancelled(work).await;
    *context.watch.state.lock() = None;
}

async fn look(context: &MeshContext, events: Events) {
    let others = Arc::new(tokio::sync::Mutex::new((Others::default(), 0_u64)));
    let mut remotes: BTreeMap<String, Remote> = BTreeMap::new();
    let mut exchange: Option<tokio::task::JoinHandle<()>> = None;
    let mut teller = tell::Teller::new(context.incidents.clone(), context.site.clone(), events);
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = 0_u64;
    loop {
        ticks.tick().await;
        let members = context.nodes.members();
        let candidates: Vec<Candidate> = members.iter().filter(|node| !node.address.is_empty()).cloned().collect();
        if context.registers.len() > 1 {
            if looks.is_multiple_of(EXCHANGE_EVERY) && exchange.as_ref().is_none_or(|running| running.is_finished()) {
                let views = context.watch.state.lock().as_ref().map(|s| s.matrix.views(&s.site)).unwrap_or_default();
                let gateways = plan::gateways(&candidates);
                let (context, others) = (context.clone(), Arc::clone(&others));
                // Beside the looks: a site that does not answer holds nothing up.
                exchange = Some(tokio::spawn(async move {
                    let mut others = others.lock().await;
                    others.1 = others.1.wrapping_add(1).max(BootClock.now().as_secs());
                    if let Err(error) = exchange::write(&context.client, others.1, &gateways, views).await {
                        tracing::debug!(error, "the mesh cannot be told to the other sites");
                    }
                    others.0.read(&context.registers, &context.site, BootClock.now()).await;
                }));
            }
            if let Ok(others) = others.try_lock() {
                remotes = others.0.remotes(BootClock.now());
            }
        }
        let changes = {
            let mut state = context.watch.state.lock();
            let Some(state) = state.as_mut() else { return };
            let gateways = remotes.iter().map(|(site, remote)| (site.clone(), remote.gateways.clone())).collect();
            state.lists = plan::plan(&context.site, &candidates, &gateways);
            state.matrix.forget(BootClock.now());
            let living = members.into_iter().map(|node| (node.node, node.place)).collect();
            let (ends, paths) = state.matrix.paths(&context.site, &living, &remotes);
            let changes = state.stable.look(blame::blame(&ends, &paths));
            state.verdicts = verdicts(&context.site, state.stable.raised());
            changes
        };
        changes.into_iter().for_each(|change| teller.tell(change));
        looks += 1;
    }
}

/// What agents of this site are told about their own nodes.
fn verdicts<'a>(own: &str, faults: impl Iterator<Item = &'a Fault>) -> BTreeMap<String, MeshVerdict> {
    let about = |fault: &Fault| match &fault.culprit {
        Culprit::Node { site, node } if site == own => {
            Some((node.clone(), MeshVerdict::new(&fault.summary(), fault.evidence.iter().cloned())))
        }
        _ => None,
    };
    faults.filter_map(about).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_of_the_own_site_are_told_about_themselves() {
        let fault = |culprit| Fault {
            culprit,
            paths: 6,
            loss: 1.0,
            late: 0.0,
            background: 0.0,
            evidence: vec!["dc-a/n1 -> dc-a/n2: 30 of 30 lost".into()],
        };
        let node = |site: &str| Culprit::Node { site: site.into(), node: "n1".into() };
        let link = Culprit::Link { a: ("dc-a".into(), "n1".into()), b: ("dc-a".into(), "n2".into()) };
        let faults = [fault(node("dc-a")), fault(node("dc-b")), fault(link)];
        let told = verdicts("dc-a", faults.iter());
        assert_eq!(told.keys().collect::<Vec<_>>(), ["n1"]);
        assert!(told["n1"].summary.contains("100 % lost on 6 paths"), "{}", told["n1"].summary);
    }

    #[test]
    fn a_replica_that_does_not_lead_names_no_peers() {
        let watch = MeshWatch::default();
        assert_eq!(watch.peers("n1"), None);
        assert_eq!(watch.heard("n1", &[]), None);
        *watch.state.lock() = Some(State { site: "dc-a".into(), ..State::default() });
        assert_eq!(watch.peers("n1"), Some(PeerList { site: "dc-a".into(), peers: Vec::new() }));
    }
}
