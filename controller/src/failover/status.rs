//! Writes what the controller sees into the status of MultiActiveServices and DataCenters, on change only.

use std::collections::BTreeMap;

use evergreen_api::{
    Validate,
    resources::{
        ConditionStatus, DataCenter, DataCenterStatus, HolderStatus, MultiActiveService, MultiActiveServiceStatus,
        set_condition, spec_hash,
    },
    validate,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    facts::ServiceFacts,
    planner::{Decision, Verdict},
};
use crate::{
    quorum::Standing,
    site::{SiteSnapshot, clients::CALL_TIMEOUT},
};

/// Status of a service as seen from this site.
pub(super) fn of_service(
    service: &MultiActiveService,
    facts: &ServiceFacts,
    decision: Option<&Decision>,
    weights: &BTreeMap<String, u32>,
    own: &str,
    now: &str,
) -> MultiActiveServiceStatus {
    let mut status = service.status.clone().unwrap_or_default();
    let generation = service.metadata.generation;
    let errors = service.spec.validate();
    let accepted = errors.is_empty();
    let message = if accepted { "the spec is understood".to_owned() } else { validate::summary(&errors) };
    let reason = if accepted { "Valid" } else { "Invalid" };
    set_condition(&mut status.conditions, "Accepted", accepted.into(), reason, &message, generation, now);
    let drift = facts.same_spec_at * 2 <= facts.members;
    let message = format!("{} of {} sites hold this spec", facts.same_spec_at, facts.members);
    let reason = if facts.same_spec_at == facts.members { "Same" } else { "Differs" };
    set_condition(&mut status.conditions, "SpecDrift", drift.into(), reason, &message, generation, now);
    let serving = facts.entry.holders.iter().filter(|holder| facts.can_serve(&holder.site)).count();
    let wanted = facts.spec.min_active as usize;
    let message = format!("{serving} of {wanted} wanted sites serve");
    let reason = if serving >= wanted { "Served" } else { "TooFewSites" };
    let ready = ConditionStatus::from(accepted && serving >= wanted);
    set_condition(&mut status.conditions, "Ready", ready, reason, &message, generation, now);
    let holders = facts.entry.holders.iter();
    status.holders = holders.map(|h| HolderStatus { site: h.site.clone(), epoch: h.epoch }).collect();
    let sites: Vec<&str> = facts.entry.holders.iter().map(|holder| holder.site.as_str()).collect();
    status.active_sites = (!sites.is_empty()).then(|| sites.join(","));
    status.plan = decision.map(describe).unwrap_or_default();
    status.weights = weights.clone();
    status.spec_hash = Some(spec_hash(&service.spec));
    status.ready_replicas = facts.sites.get(own).and_then(|site| site.ready).unwrap_or(0);
    status
}

/// A decision in lines for people. Without running numbers, so that the status changes only when something did.
fn describe(decision: &Decision) -> Vec<String> {
    let verdict = match &decision.verdict {
        Verdict::Act => "being carried out".to_owned(),
        Verdict::Wait(why) => format!("waiting: {why}"),
        Verdict::Hold(why) => format!("not carried out: {why}"),
    };
    let sites: Vec<&str> = decision.holders.iter().map(|holder| holder.site.as_str()).collect();
    let mut lines = vec![format!("{:?}: give it to {} ({verdict})", decision.cause, sites.join(", "))];
    lines.extend(decision.rejected.iter().map(|why| format!("rejected {why}")));
    lines
}

/// Writes a service's status if it differs from what is there.
pub(super) async fn write_service(client: &Client, service: &MultiActiveService, status: &MultiActiveServiceStatus) {
    if service.status.as_ref() == Some(status) {
        return;
    }
    let namespace = service.namespace().unwrap_or_default();
    let api: Api<MultiActiveService> = Api::namespaced(client.clone(), &namespace);
    let patch = Patch::Merge(json!({"status": status}));
    let name = service.name_any();
    let parameters = PatchParams::default();
    let write = api.patch_status(&name, &parameters, &patch);
    report(tokio::time::timeout(CALL_TIMEOUT, write).await, "MultiActiveService", &name);
}

/// Writes the status of every DataCenter as seen from this site.
pub(super) async fn write_data_centers(
    client: &Client,
    snapshot: &SiteSnapshot,
    own: &str,
    coordinator: Option<&str>,
    now: &str,
) {
    let api: Api<DataCenter> = Api::all(client.clone());
    let Ok(Ok(sites)) = tokio::time::timeout(CALL_TIMEOUT, api.list(&ListParams::default())).await else { return };
    for site in sites {
        let name = site.name_any();
        let status = of_data_center(&site, snapshot, own, coordinator, now);
        if site.status.as_ref() != Some(&status) {
            let patch = Patch::Merge(json!({"status": status}));
            let parameters = PatchParams::default();
            let write = api.patch_status(&name, &parameters, &patch);
            report(tokio::time::timeout(CALL_TIMEOUT, write).await, "DataCenter", &name);
        }
    }
}

fn of_data_center(
    site: &DataCenter,
    snapshot: &SiteSnapshot,
    own: &str,
    coordinator: Option<&str>,
    now: &str,
) -> DataCenterStatus {
    let name = site.name_any();
    let mut status = site.status.clone().unwrap_or_default();
    let generation = site.metadata.generation;
    let errors = site.spec.validate();
    let message = if errors.is_empty() { "the spec is understood".to_owned() } else { validate::summary(&errors) };
    let reason = if errors.is_empty() { "Valid" } else { "Invalid" };
    set_condition(&mut status.conditions, "Accepted", errors.is_empty().into(), reason, &message, generation, now);
    let quarantined = snapshot.quarantined.iter().find(|(site, _)| *site == name);
    let fresh = snapshot.fresh.get(&name);
    let (in_quorum, reason, message) = match (&snapshot.standing, fresh, quarantined) {
        (_, _, Some((_, why))) => (false, "RegisterNotTrusted", format!("its register is excluded: {why}")),
        (Standing::Out(why), _, None) if name == own => (false, "NoMajority", why.clone()),
        (_, Some(_), None) => {
            (true, "Renewed", format!("renewed at a majority ({} of {})", snapshot.majority, snapshot.registers))
        }
        (_, None, None) => (false, "Silent", "its lease is not fresh at a majority, as seen from here".to_owned()),
    };
    set_condition(&mut status.conditions, "InQuorum", in_quorum.into(), reason, &message, generation, now);
    status.epoch = fresh.map(|holder| holder.epoch).or(status.epoch);
    status.incarnation = fresh.map(|holder| holder.incarnation.0.clone()).or(status.incarnation);
    status.coordinator = coordinator.map(str::to_owned);
    if name == own {
        status.reachable_registers.clone_from(&snapshot.reachable);
    }
    status.spec_hash = Some(spec_hash(&site.spec));
    status
}

fn report<T>(result: Result<Result<T, kube::Error>, tokio::time::error::Elapsed>, kind: &str, name: &str) {
    match result {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(kind, name, %error, "status could not be written; it will be tried again"),
        Err(_) => tracing::warn!(kind, name, "status could not be written in time; it will be tried again"),
    }
}
