//! Writes what the controller sees into the status of MultiActiveServices and DataCenters, on change only.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::{
    Validate,
    resources::{
        CellStatus, Condition, ConditionStatus, DatabaseStatus, HeadroomStatus, HolderStatus, MultiActiveService,
        MultiActiveServiceStatus, ProposalStatus, set_condition, spec_hash,
    },
    validate,
};
use futures::StreamExt;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    assemble::Known,
    conditions::{self, Said},
    facts::ServiceFacts,
    gather::Name,
    planner::{DatabaseDuty, Decision, Verdict},
    route::Router,
};
use crate::site::clients::CALL_TIMEOUT;

/// Statuses written at a time.
const AT_A_TIME: usize = 8;
/// How long the writer rests when there was nothing to write.
const REST: Duration = Duration::from_millis(100);

/// A group of a service, decided about.
struct Group<'a> {
    cell: Option<&'a str>,
    facts: &'a ServiceFacts,
    decision: Option<&'a Decision>,
    duty: Option<&'a DatabaseDuty>,
}

/// Everything that a service's status speaks of.
pub(super) struct Look<'a> {
    service: Arc<MultiActiveService>,
    groups: Vec<Group<'a>>,
    headroom: Option<&'a HeadroomStatus>,
    weights: BTreeMap<String, u32>,
    traffic: Option<&'a Said>,
    own: &'a str,
}

impl Look<'_> {
    /// A service whose spec is not understood.
    pub fn refused(service: &Arc<MultiActiveService>) -> Self {
        Look {
            service: service.clone(),
            groups: Vec::new(),
            headroom: None,
            weights: BTreeMap::new(),
            traffic: None,
            own: "",
        }
    }
}

/// Groups put together by service.
pub(super) fn looks<'a>(
    known: &'a [Known],
    facts: &'a [ServiceFacts],
    decided: &'a [Option<Decision>],
    duties: &'a [Option<DatabaseDuty>],
    shortages: &'a BTreeMap<String, HeadroomStatus>,
    router: &'a Router,
    own: &'a str,
) -> Vec<Look<'a>> {
    let mut looks: Vec<Look<'a>> = Vec::new();
    let mut last: Option<&Name> = None;
    for (((known, facts), decision), duty) in known.iter().zip(facts).zip(decided).zip(duties) {
        let group = Group { cell: known.cell.as_deref(), facts, decision: decision.as_ref(), duty: duty.as_ref() };
        let headroom = shortages.get(&facts.group);
        match looks.last_mut().filter(|_| last == Some(&known.name)) {
            Some(look) => {
                look.groups.push(group);
                // Of several cells the first that is short says it.
                if look.headroom.is_none_or(|known| known.short.is_empty()) {
                    look.headroom = headroom;
                }
            }
            None => looks.push(Look {
                service: known.service.clone(),
                groups: vec![group],
                headroom,
                weights: router.applied(&known.name),
                traffic: router.said(&known.name),
                own,
            }),
        }
        last = Some(&known.name);
    }
    looks
}

fn accepted(conditions: &mut Vec<Condition>, service: &MultiActiveService, now: &str) -> bool {
    let errors = service.spec.validate();
    let fine = errors.is_empty();
    let message = if fine { "the spec is understood".to_owned() } else { validate::summary(&errors) };
    let reason = if fine { "Valid" } else { "Invalid" };
    set_condition(conditions, "Accepted", fine.into(), reason, &message, service.metadata.generation, now);
    fine
}

/// Status of a service whose spec is not understood, or while the map is not known.
pub(super) fn of_refused(service: &MultiActiveService, now: &str) -> MultiActiveServiceStatus {
    let mut status = service.status.clone().unwrap_or_default();
    accepted(&mut status.conditions, service, now);
    status.spec_hash = Some(spec_hash(&service.spec));
    status
}

/// Status of a service as seen from this site.
pub(super) fn of_service(look: &Look, now: &str) -> MultiActiveServiceStatus {
    let service = &look.service;
    let mut status = service.status.clone().unwrap_or_default();
    let generation = service.metadata.generation;
    let accepted = accepted(&mut status.conditions, service, now);
    let Some(first) = look.groups.first() else { return status };
    let (same, members) = (first.facts.same_spec_at, first.facts.members);
    let message = format!("{same} of {members} sites hold this spec");
    let reason = if same == members { "Same" } else { "Differs" };
    let drift = same * 2 <= members;
    set_condition(&mut status.conditions, "SpecDrift", drift.into(), reason, &message, generation, now);
    let facts = || look.groups.iter().map(|group| group.facts);
    let movable = conditions::movable(facts());
    let mut say = |kind: &str, said: &Said| {
        set_condition(&mut status.conditions, kind, said.holds.into(), said.reason, &said.message, generation, now);
    };
    say("Movable", &movable);
    let data = conditions::data(facts());
    data.iter().for_each(|said| say("DataGate", said));
    look.traffic.into_iter().for_each(|said| say("Traffic", said));
    // What is no longer looked at says nothing.
    let known = |kind: &str| match kind {
        "DataGate" => data.is_some(),
        "Traffic" => look.traffic.is_some(),
        _ => true,
    };
    status.conditions.retain(|condition| known(&condition.type_));
    let serving =
        |group: &Group| group.facts.entry.holders.iter().filter(|holder| group.facts.can_serve(&holder.site)).count();
    let wanted = service.spec.min_active as usize;
    let least = look.groups.iter().map(serving).min().unwrap_or(0);
    let message = match look.groups.len() {
        1 => format!("{least} of {wanted} wanted sites serve"),
        cells => {
            let served = look.groups.iter().filter(|group| serving(group) >= wanted).count();
            format!("{served} of {cells} cells are served")
        }
    };
    let unled = look.groups.iter().find(|group| unled(group, look.own)).and_then(|group| group.duty);
    let (reason, message) = match (least >= wanted, unled) {
        (_, Some(duty)) => ("DatabaseNotPromoted", format!("nothing is granted here yet: {}", duty.told)),
        (true, None) => ("Served", message),
        (false, None) => ("TooFewSites", message),
    };
    let ready = ConditionStatus::from(accepted && least >= wanted && unled.is_none());
    set_condition(&mut status.conditions, "Ready", ready, reason, &message, generation, now);
    let cells = first.cell.is_some();
    let holders = || look.groups.iter().flat_map(|group| &group.facts.entry.holders);
    status.holders = match cells {
        false => holders().map(|h| HolderStatus { site: h.site.clone(), epoch: h.epoch }).collect(),
        true => Vec::new(),
    };
    status.entry_version = first.facts.entry.version;
    let sites: std::collections::BTreeSet<&str> = holders().map(|holder| holder.site.as_str()).collect();
    status.active_sites = (!sites.is_empty()).then(|| sites.into_iter().collect::<Vec<_>>().join(","));
    status.cells = look.groups.iter().filter_map(cell).collect();
    status.plan = look.groups.iter().filter_map(|group| group.decision).flat_map(describe).collect();
    status.database = look.groups.iter().filter_map(database).collect();
    status.proposal = look.groups.iter().find_map(proposal);
    status.headroom = look.headroom.cloned();
    status.weights = look.weights.clone();
    status.spec_hash = Some(spec_hash(&service.spec));
    status.ready_replicas = first.facts.sites.get(look.own).and_then(|site| site.ready).unwrap_or(0);
    status
}

/// Whether this site holds the group and its database is not promoted yet.
fn unled(group: &Group, own: &str) -> bool {
    group.facts.entry.at(own).is_some() && group.duty.is_some_and(|duty| duty.raised.is_none())
}

fn database(group: &Group) -> Option<DatabaseStatus> {
    let duty = group.duty?;
    Some(DatabaseStatus {
        group: group.facts.group.clone(),
        entry_version: group.facts.entry.version,
        leads: duty.raised.is_some(),
        message: duty.told.clone(),
    })
}

fn cell(group: &Group) -> Option<CellStatus> {
    let holder = group.facts.entry.holders.first();
    Some(CellStatus {
        name: group.cell?.to_owned(),
        site: holder.map(|holder| holder.site.clone()),
        epoch: holder.map(|holder| holder.epoch),
        entry_version: group.facts.entry.version,
    })
}

fn proposal(group: &Group) -> Option<ProposalStatus> {
    let decision = group.decision.filter(|decision| matches!(decision.verdict, Verdict::Propose(_)))?;
    let proposal = decision.proposal.as_ref()?;
    Some(ProposalStatus {
        id: proposal.id.clone(),
        group: decision.group.clone(),
        entry_version: decision.old.version,
        summary: proposal.summary.clone(),
        people: proposal.people,
        approved_by: proposal.approved_by.clone(),
        then: proposal.then.clone(),
    })
}

/// A decision in lines for people. Without running numbers, so that the status changes only when something did.
pub(super) fn describe(decision: &Decision) -> Vec<String> {
    let verdict = match &decision.verdict {
        Verdict::Act => "being carried out".to_owned(),
        Verdict::Wait(why) => format!("waiting: {why}"),
        Verdict::Propose(why) => format!("proposed: {why}"),
        Verdict::Hold(why) => format!("not carried out: {why}"),
    };
    let sites: Vec<&str> = decision.holders.iter().map(|holder| holder.site.as_str()).collect();
    let mut lines = vec![format!("{:?}: give it to {} ({verdict})", decision.cause, sites.join(", "))];
    lines.extend(decision.notes.iter().cloned());
    lines.extend(decision.rejected.iter().map(|why| format!("rejected {why}")));
    lines
}

/// Statuses that shall be written, the newest of each service.
type Wanted = BTreeMap<Name, MultiActiveServiceStatus>;

/// Writes statuses beside the loop: an API server that is slow delays no decision.
#[derive(Clone, Debug, Default)]
pub(super) struct StatusWriter {
    wanted: Arc<Mutex<Wanted>>,
    written: Arc<Mutex<Wanted>>,
}

impl StatusWriter {
    pub fn start(client: Client, cancel: CancellationToken) -> Self {
        let writer = Self::default();
        let own = writer.clone();
        tokio::spawn(async move {
            loop {
                let batch = std::mem::take(&mut *own.wanted.lock());
                if batch.is_empty() {
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = tokio::time::sleep(REST) => {}
                    }
                    continue;
                }
                let writes = futures::stream::iter(batch).map(|(name, status)| own.write(&client, name, status));
                writes.buffer_unordered(AT_A_TIME).collect::<Vec<()>>().await;
            }
        });
        writer
    }

    /// Wants a status written if it differs from what is there and from what was written last.
    pub fn want(&self, status: MultiActiveServiceStatus, look: &Look) {
        let name = (look.service.namespace().unwrap_or_default(), look.service.name_any());
        let written = self.written.lock();
        // The watch may still show what was there before the last write.
        let known = written.get(&name).or(look.service.status.as_ref());
        if known != Some(&status) {
            self.wanted.lock().insert(name, status);
        }
    }

    async fn write(&self, client: &Client, name: Name, status: MultiActiveServiceStatus) {
        let api: Api<MultiActiveService> = Api::namespaced(client.clone(), &name.0);
        let patch = Patch::Merge(json!({"status": status}));
        let parameters = PatchParams::default();
        let answer = tokio::time::timeout(CALL_TIMEOUT, api.patch_status(&name.1, &parameters, &patch)).await;
        let done = matches!(answer, Ok(Ok(_)));
        report(answer, "MultiActiveService", &name.1);
        let mut written = self.written.lock();
        if done {
            written.insert(name, status);
        } else {
            written.remove(&name);
        }
    }
}

pub(super) fn report<T>(result: Result<Result<T, kube::Error>, tokio::time::error::Elapsed>, kind: &str, name: &str) {
    match result {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(kind, name, %error, "status could not be written; it will be tried again"),
        Err(_) => tracing::warn!(kind, name, "status could not be written in time; it will be tried again"),
    }
}
