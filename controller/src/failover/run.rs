//! The failover loop of a site: facts, plan, goal for the core, weights, status. The only choices are the planner's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evergreen_api::{
    Validate,
    resources::{Enforcement, HeadroomStatus, MultiActiveService, TimingProfile},
};
use evergreen_audit::AuditLog;
use evergreen_telemetry::IncidentTracer;
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    answer::Answers,
    assemble::{Known, Sites},
    data_gate::{DataBook, GateClient, Question},
    facts::{Consent, ServiceFacts},
    gather::{self, Name, OwnRoom, Peer},
    incidents::SiteIncidents,
    planner::{Actor, Decision, Verdict, headroom, plan_all},
    record::{Teller, Votes},
    route::Router,
    status::{self, StatusWriter},
};
use crate::{
    consent::{ConsentBook, ConsentWatch, KillSwitch},
    quorum::{Goal, Mono, Standing},
    site::{BootClock, GrantBook, SiteHandle, SiteSnapshot},
    traffic::{TrafficAllow, TrafficContext},
};

/// The world is looked at this often, and at once when the map changes.
const INTERVAL: Duration = Duration::from_millis(500);
/// Status of data centers is compared this often.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// Whether the sites that stay could carry the load of a lost one is looked at this often.
const HEADROOM_INTERVAL: Duration = Duration::from_secs(30);

/// What the loop works with.
pub struct FailoverContext {
    /// Own site.
    pub site: String,
    /// Timing profile of the sites.
    pub profile: TimingProfile,
    /// Client of the own API server.
    pub client: Client,
    /// Member sites, the own one included.
    pub members: Vec<Peer>,
    /// The protocol core.
    pub handle: SiteHandle,
    /// Who holds grants.
    pub book: Arc<GrantBook>,
    /// Spans.
    pub incidents: IncidentTracer,
    /// What people say.
    pub consent: Arc<ConsentWatch>,
    /// What is stopped.
    pub switch: KillSwitch,
    /// What asks data gates.
    pub gates: GateClient,
    /// Where decisions are recorded.
    pub audit: Option<Arc<Mutex<AuditLog>>>,
    /// What actuators outside of the cluster may be connected to.
    pub traffic_allow: TrafficAllow,
}

/// What people said and for how long it has been asked of them.
#[derive(Debug, Default)]
struct Said {
    book: ConsentBook,
    /// By group, the proposal that is open, and since when.
    open: BTreeMap<String, (String, Mono)>,
}

impl Said {
    fn consent(&self, switch: &KillSwitch, group: &str, version: u64, now: Mono) -> Consent {
        let open = self.open.get(group).map(|(id, since)| (id.clone(), now.saturating_sub(*since)));
        Consent {
            paused: switch.group(group),
            request: self.book.request(group, version, now),
            approvals: self.book.approvals(group, version, now),
            open_for: open.into_iter().collect(),
        }
    }

    fn proposed(&mut self, decisions: &[(&ServiceFacts, &Decision)], now: Mono) {
        let proposals: BTreeMap<&str, &str> = decisions
            .iter()
            .filter_map(|(_, decision)| Some((decision.group.as_str(), decision.proposal.as_ref()?.id.as_str())))
            .collect();
        self.open.retain(|group, (id, _)| proposals.get(group.as_str()) == Some(&id.as_str()));
        for (group, id) in proposals {
            self.open.entry(group.to_owned()).or_insert_with(|| (id.to_owned(), now));
        }
    }
}

/// Runs until cancelled.
pub async fn run(context: FailoverContext, cancel: CancellationToken) {
    let store =
        |peer: &Peer| (peer.site.clone(), gather::start(peer.clone(), peer.site == context.site, cancel.clone()));
    let mut sites = Sites::new(&context.site, context.profile, context.members.iter().map(store).collect());
    let room = OwnRoom::start(&context.client, cancel.clone());
    let mut incidents = SiteIncidents::new(&context.site, context.incidents.clone());
    let mut router =
        Router::new(TrafficContext { client: context.client.clone(), allow: context.traffic_allow.clone() });
    let mut teller = Teller::new(&context.site, context.audit.clone());
    let mut answers = Answers::default();
    let writer = StatusWriter::start(context.client.clone(), cancel.clone());
    let data = DataBook::start(context.gates.clone(), cancel.clone());
    let mut said = Said::default();
    let mut acting: Option<String> = None;
    let mut room_now = None;
    let mut shortages: BTreeMap<String, HeadroomStatus> = BTreeMap::new();
    let (mut status_due, mut headroom_due) = (Mono::ZERO, Mono::ZERO);
    let mut snapshots = context.handle.snapshot.clone();
    let mut ballot = 0;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
            () = map_changes(&mut snapshots, ballot) => {}
        }
        if !context.handle.speaks() || !sites.ready() {
            continue;
        }
        let now = BootClock.now();
        let snapshot = context.handle.now();
        ballot = snapshot.map_ballot;
        let coordinator = coordinator(&context, &snapshot);
        let coordinating =
            coordinator == Some(context.site.as_str()) && matches!(snapshot.standing, Standing::InQuorum { .. });
        hear(&context, &mut said.book, now);
        let understood = |service: &MultiActiveService| service.spec.validate().is_empty() && snapshot.map.is_some();
        let consent = |group: &str, version: u64| said.consent(&context.switch, group, version, now);
        let (known, mut facts): (Vec<Known>, Vec<ServiceFacts>) = sites
            .facts(&snapshot, understood, consent, |group, site| data.of(group, site, now), now)
            .into_iter()
            .unzip();
        data.want(questions(&facts));
        // A lost site stays the one that is being replaced until it is back.
        acting = acting.filter(|site| !snapshot.fresh.contains_key(site));
        facts.iter_mut().for_each(|facts| facts.automatic_site.clone_from(&acting));
        let decided = plan_all(&mut facts);
        let automatic = |decision: &Decision| matches!(decision.cause, super::planner::Cause::SiteLost(_));
        if acting.is_none() && decided.iter().flatten().any(|d| automatic(d) && d.verdict == Verdict::Act) {
            acting = facts.iter().find_map(|facts| facts.automatic_site.clone());
        }
        if now >= headroom_due {
            headroom_due = now + HEADROOM_INTERVAL;
            shortages = headroom(&facts);
            room_now = room.now();
        }
        let made: Vec<(&ServiceFacts, &Decision)> =
            facts.iter().zip(&decided).filter_map(|(facts, decision)| Some((facts, decision.as_ref()?))).collect();
        said.proposed(&made, now);
        let wall = jiff::Timestamp::now().to_string();
        let traced = made.iter().map(|(facts, decision)| (*facts, *decision, incidents.traceparent(decision)));
        teller.tell(traced, &votes(&snapshot), &wall).await;
        let decisions: Vec<Decision> = made.iter().map(|(_, decision)| (*decision).clone()).collect();
        context.handle.pursue(goal(&context, &decisions, coordinating, &incidents, now));
        for (known, facts) in known.iter().zip(&facts).filter(|(known, _)| known.cell.is_none()) {
            if facts.spec.enforcement == Enforcement::Enforce {
                router.drive(&context.site, &known.name, facts, coordinating, &incidents);
            }
        }
        let weights_of = |name: &Name| router.applied(name);
        let looks = status::looks(&known, &facts, &decided, &shortages, weights_of, &context.site);
        for look in looks {
            writer.want(status::of_service(&look, &wall), &look);
        }
        for service in sites.not_understood(understood) {
            writer.want(status::of_refused(&service, &wall), &status::Look::refused(&service));
        }
        if let Some(heard) = context.consent.heard.get(&context.site) {
            let groups = facts.iter().zip(&decided).map(|(f, d)| (f.group.as_str(), (f, d.as_ref()))).collect();
            answers.write(&context.client, heard, &said.book, &groups, now).await;
        }
        let members: Vec<String> = context.members.iter().map(|peer| peer.site.clone()).collect();
        let fresh: BTreeSet<&str> = snapshot.fresh.keys().map(String::as_str).collect();
        incidents.observe(&fresh, &members, coordinating, &decisions, &snapshot.goal);
        if now >= status_due {
            status_due = now + STATUS_INTERVAL;
            let room = room_now.as_ref();
            status::write_data_centers(&context.client, &snapshot, &context.site, coordinator, room, &wall).await;
        }
    }
}

/// Takes in the statements of every site.
fn hear(context: &FailoverContext, book: &mut ConsentBook, now: Mono) {
    let all: Vec<_> = context
        .consent
        .heard
        .values()
        .flat_map(|heard| heard.with(|all| all.values().cloned().collect::<Vec<_>>()))
        .collect();
    book.observe(&context.consent.keyring(), all.iter(), now);
}

/// What the data gates are asked: each site of each group that has one.
fn questions(all: &[ServiceFacts]) -> Vec<Question> {
    let gated = all.iter().filter_map(|facts| Some((facts, facts.spec.data_gate.as_ref()?)));
    gated
        .flat_map(|(facts, gate)| {
            facts.candidates.iter().map(|site| Question {
                group: facts.group.clone(),
                site: site.clone(),
                epoch: facts.entry.at(site).map_or(0, |holder| holder.epoch),
                gate: gate.clone(),
            })
        })
        .collect()
}

fn votes(snapshot: &SiteSnapshot) -> Votes {
    Votes {
        fresh: snapshot.fresh.keys().cloned().collect(),
        registers_answering: snapshot.reachable.clone(),
        registers: snapshot.registers,
        majority: snapshot.majority,
    }
}

async fn map_changes(snapshots: &mut watch::Receiver<Arc<SiteSnapshot>>, known: u64) {
    // The sender lives as long as the core; when it is gone the loop is about to be cancelled.
    if snapshots.wait_for(|snapshot| snapshot.map_ballot != known).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The first member, by name, whose lease is fresh: moves the map so that nobody duels.
fn coordinator<'a>(context: &'a FailoverContext, snapshot: &SiteSnapshot) -> Option<&'a str> {
    let mut names: Vec<&str> = context.members.iter().map(|peer| peer.site.as_str()).collect();
    names.sort_unstable();
    names.into_iter().find(|site| snapshot.fresh.contains_key(*site))
}

/// The goal that this site has to pursue, if any: one at a time, in the order of the services' names.
fn goal(
    context: &FailoverContext,
    decisions: &[Decision],
    coordinating: bool,
    incidents: &SiteIncidents,
    now: Mono,
) -> Option<Goal> {
    let mine = |decision: &&Decision| {
        decision.verdict == Verdict::Act
            && match &decision.actor {
                Actor::Coordinator => coordinating,
                Actor::Leaver(site) => *site == context.site,
            }
    };
    decisions.iter().find(mine).map(|decision| {
        let version = decision.old.version;
        let released = context.handle.now().released.get(&(decision.group.clone(), version)).copied();
        let drained = released.is_some_and(|released| {
            context.book.drained(&decision.group, version, released, &context.handle.timing, now)
        });
        Goal {
            group: decision.group.clone(),
            old: decision.old.clone(),
            holders: decision.holders.clone(),
            drained,
            traceparent: incidents.traceparent(decision),
        }
    })
}
