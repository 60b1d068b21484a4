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
    advise::Adviser,
    answer::Answers,
    assemble::{Known, Sites},
    data_centers::DataCenters,
    data_gate::{DataBook, GateClient, Question},
    database::HookBook,
    facts::{Consent, ServiceFacts},
    gather::{self, Name, OwnRoom, Peer},
    incidents::SiteIncidents,
    planner::{Actor, DatabaseDuty, Decision, Verdict, duty, headroom, plan_all},
    record::{Teller, Votes},
    route::Router,
    status::{self, StatusWriter},
    window::Window,
};
use crate::{
    consent::{ConsentBook, ConsentWatch, KillSwitch},
    quorum::{Goal, Mono, Standing},
    site::{BootClock, GrantBook, Register, SiteHandle, SiteSnapshot},
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
    /// All registers, those of witnesses included.
    pub registers: Vec<Arc<Register>>,
    /// Data centers that only vote.
    pub witnesses: Vec<String>,
    /// UID of the own cluster.
    pub cluster: String,
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
    /// Where drills look in.
    pub window: Window,
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
    let stores = context.members.iter().map(store).collect();
    let mut sites = Sites::new(&context.site, context.profile, context.witnesses.clone(), stores);
    let room = OwnRoom::start(&context.client, cancel.clone());
    let mut incidents = SiteIncidents::new(&context.site, context.incidents.clone());
    let mut router =
        Router::new(TrafficContext { client: context.client.clone(), allow: context.traffic_allow.clone() });
    let mut teller = Teller::new(&context.site, context.audit.clone());
    let mut answers = Answers::default();
    let writer = StatusWriter::start(context.client.clone(), cancel.clone());
    let data = DataBook::start(context.gates.clone(), cancel.clone());
    let mut adviser = Adviser::start(&context.site, context.client.clone(), cancel.clone());
    let mut hooks = HookBook::new(&context.site, context.gates.clone());
    let data_centers = DataCenters {
        client: context.client.clone(),
        own: context.site.clone(),
        cluster: context.cluster.clone(),
        timing: context.handle.timing,
        registers: context.registers.clone(),
    };
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
        for facts in &mut facts {
            facts.automatic_site.clone_from(&acting);
            facts.database = hooks.facts(facts, now);
        }
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
        let traced = made.iter().map(|(facts, decision)| (*facts, *decision, trace_of(&incidents, facts, decision)));
        teller.tell(traced, &votes(&snapshot), &wall).await;
        let decisions: Vec<Decision> = made.iter().map(|(_, decision)| (*decision).clone()).collect();
        let duties: Vec<Option<DatabaseDuty>> =
            facts.iter().zip(&decided).map(|(facts, decision)| duty(facts, decision.as_ref())).collect();
        context.book.raise(raised(&facts, &duties));
        for (facts, duty) in facts.iter().zip(&duties) {
            hooks.carry_out(facts, duty.as_ref().unwrap_or(&DatabaseDuty::default()), now);
        }
        hooks.retain(&facts);
        context.handle.pursue(goals(&context, &made, coordinating, &incidents, now));
        context.window.show(&snapshot, facts.iter().zip(decided.iter().map(Option::as_ref)), &shortages, now);
        let advice = known.iter().zip(&facts).zip(&decided);
        adviser.advise(advice.map(|((known, facts), decision)| (&*known.service, facts, decision.as_ref())));
        for (known, facts) in known.iter().zip(&facts).filter(|(known, _)| known.cell.is_none()) {
            if facts.spec.enforcement == Enforcement::Enforce {
                router.drive(&context.site, &known.name, facts, coordinating, &incidents);
            }
        }
        for (name, cells) in cells_by_service(&known, &facts) {
            if cells.iter().all(|facts| facts.spec.enforcement == Enforcement::Enforce) {
                router.drive_cells(&context.site, name, &cells, coordinating, &incidents);
            }
        }
        let looks = status::looks(&known, &facts, &decided, &duties, &shortages, &router, &context.site);
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
            data_centers.write(&snapshot, coordinator, room, jiff::Timestamp::now()).await;
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
                epoch: facts.entry.version,
                gate: gate.clone(),
            })
        })
        .collect()
}

/// The cells of each Unitized service, in the order of its spec.
fn cells_by_service<'a>(known: &'a [Known], facts: &'a [ServiceFacts]) -> BTreeMap<&'a Name, Vec<&'a ServiceFacts>> {
    let mut cells: BTreeMap<&Name, Vec<&ServiceFacts>> = BTreeMap::new();
    for (known, facts) in known.iter().zip(facts).filter(|(known, _)| known.cell.is_some()) {
        cells.entry(&known.name).or_default().push(facts);
    }
    cells
}

/// Groups that wait for a database, and the version under which all of their databases were promoted.
fn raised(all: &[ServiceFacts], duties: &[Option<DatabaseDuty>]) -> BTreeMap<String, Option<u64>> {
    let mut raised: BTreeMap<String, Option<u64>> = BTreeMap::new();
    for (facts, duty) in all.iter().zip(duties) {
        let Some(duty) = duty else { continue };
        let known = raised.entry(facts.group.clone()).or_insert(duty.raised);
        *known = known.filter(|version| duty.raised == Some(*version));
    }
    raised
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

/// The goals that this site has to pursue, one for each group: all of them at once, so that a lost site's groups move in
/// one round of the map.
fn goals(
    context: &FailoverContext,
    made: &[(&ServiceFacts, &Decision)],
    coordinating: bool,
    incidents: &SiteIncidents,
    now: Mono,
) -> Vec<Goal> {
    let mine = |(_, decision): &&(&ServiceFacts, &Decision)| {
        decision.verdict == Verdict::Act
            && match &decision.actor {
                Actor::Coordinator => coordinating,
                Actor::Leaver(site) => *site == context.site,
            }
    };
    // Services of one group move together: each of them has to be ready for it.
    let unready: BTreeSet<&str> = made
        .iter()
        .filter(|(_, decision)| decision.verdict != Verdict::Act)
        .map(|(_, decision)| decision.group.as_str())
        .collect();
    let snapshot = context.handle.now();
    let mut named: BTreeSet<&str> = BTreeSet::new();
    let ready = |(_, decision): &&(&ServiceFacts, &Decision)| !unready.contains(decision.group.as_str());
    let whole = made.iter().filter(mine).filter(ready).filter(|(_, decision)| named.insert(&decision.group));
    let goal = |(facts, decision): &(&ServiceFacts, &Decision)| {
        let version = decision.old.version;
        let released = snapshot.released.get(&(decision.group.clone(), version)).copied();
        let drained = released.is_some_and(|released| {
            context.book.drained(&decision.group, version, released, &context.handle.timing, now)
        });
        Goal {
            group: decision.group.clone(),
            old: decision.old.clone(),
            holders: decision.holders.clone(),
            drained,
            traceparent: trace_of(incidents, facts, decision),
        }
    };
    whole.map(goal).collect()
}

/// The trace of the incident or of the drill that a decision belongs to.
fn trace_of(incidents: &SiteIncidents, facts: &ServiceFacts, decision: &Decision) -> Option<String> {
    let drill = facts.request().filter(|request| Some(&request.id) == decision.request.as_ref());
    let drill = drill.and_then(|request| request.drill.as_ref()?.traceparent.clone());
    drill.or_else(|| incidents.traceparent(decision))
}
