//! `evergreen status`: sites, quorum, services, who may write, headroom, and what is held and why.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use evergreen_api::{
    names::{PAUSE, SYSTEM_NAMESPACE},
    resources::{Condition, ConditionStatus, DataCenter, MultiActiveService, Scorecard},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt, api::ListParams};
use serde::Serialize;

use crate::{
    commands::{
        block_on, drill,
        failover::sites::{CALL, Site, SitesArgs},
    },
    exit::{Failure, Outcome},
};

/// Show sites, quorum, services and what is held.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen status\n  \
    evergreen status --kubeconfig dc-a.kubeconfig,dc-b.kubeconfig --json\n\n\
    Exit codes: 0 every site is in quorum and every service is ready, 1 not, 2 wrong use, 3 nobody answers.")]
pub struct StatusArgs {
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
    #[command(flatten)]
    sites: SitesArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    sites: Vec<SiteLine>,
    services: Vec<ServiceLine>,
    /// The last drill that began, of each FailoverDrill.
    last_drills: Vec<DrillLine>,
    stopped: BTreeMap<String, String>,
    not_reached: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DrillLine {
    name: String,
    ticket: String,
    ended_at: Option<String>,
    result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rto_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SiteLine {
    name: String,
    role: String,
    in_quorum: bool,
    epoch: Option<u64>,
    lease_left: Option<String>,
    tolerance: Option<String>,
    /// What `tolerance` means, where nothing more may be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    coordinator: Option<String>,
    message: String,
    /// Free CPU in thousandths of a core and free memory in bytes, as the site published them.
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<(u64, u64)>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceLine {
    name: String,
    mode: String,
    enforcement: String,
    may_write: Vec<String>,
    ready: bool,
    message: String,
    headroom: String,
    shortages: BTreeMap<String, String>,
    plan: Vec<String>,
    proposal: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When something is not well, or nobody answers.
pub fn run(args: &StatusArgs) -> Outcome {
    block_on(show(args))
}

async fn show(args: &StatusArgs) -> Outcome {
    let sites = args.sites.connect().await?;
    let mut status = Status {
        sites: Vec::new(),
        services: Vec::new(),
        last_drills: Vec::new(),
        stopped: BTreeMap::new(),
        not_reached: sites.missed.iter().cloned().collect(),
    };
    let mut lines: BTreeMap<String, SiteLine> = BTreeMap::new();
    for site in &sites.reached {
        for line in data_centers(site).await.map_err(Failure::unreachable)? {
            // The room is known at the site itself only; the rest as the first data center sees it.
            match lines.get_mut(&line.name) {
                Some(known) => known.free = known.free.or(line.free),
                None => drop(lines.insert(line.name.clone(), line)),
            }
        }
        status.stopped.extend(stopped(site).await);
    }
    status.sites = lines.into_values().collect();
    if let Some(first) = sites.reached.first() {
        status.services = first.services.iter().map(service).collect();
    }
    status.last_drills = drill::last(&sites).await.into_iter().map(last_drill).collect();
    let well = status.sites.iter().all(|site| site.in_quorum) && status.services.iter().all(|service| service.ready);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status).map_err(Failure::no)?);
    } else {
        print(&status);
    }
    if well { Ok(()) } else { Err(Failure::no("not everything is well; see above")) }
}

fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

async fn data_centers(site: &Site) -> Result<Vec<SiteLine>, String> {
    let api: Api<DataCenter> = Api::all(site.client.clone());
    let list = tokio::time::timeout(CALL, api.list(&ListParams::default()))
        .await
        .map_err(|_| format!("{} gave no answer in time", site.name))?
        .map_err(|error| format!("{}: {error}", site.name))?;
    let line = |center: DataCenter| {
        let known = center.status.clone().unwrap_or_default();
        let quorum = condition(&known.conditions, "InQuorum");
        SiteLine {
            name: center.name_any(),
            role: format!("{:?}", center.spec.role).to_lowercase(),
            in_quorum: quorum.is_some_and(|condition| condition.status == ConditionStatus::True),
            epoch: known.epoch,
            lease_left: known.lease_left,
            tolerance: known.tolerance,
            warning: condition(&known.conditions, "Tolerant")
                .filter(|found| found.status == ConditionStatus::False)
                .map(|found| found.message.clone()),
            coordinator: known.coordinator,
            // Why its register is not used says more than that its lease is not fresh.
            message: condition(&known.conditions, "Register")
                .filter(|found| found.status == ConditionStatus::False)
                .or(quorum)
                .map_or_else(|| "no controller has looked at it".into(), |found| found.message.clone()),
            free: known.room.map(|room| {
                let cpu = room.cpu_millis.saturating_sub(room.cpu_requested_millis);
                (cpu, room.memory_bytes.saturating_sub(room.memory_requested_bytes))
            }),
        }
    };
    Ok(list.items.into_iter().map(line).collect())
}

async fn stopped(site: &Site) -> BTreeMap<String, String> {
    let api: Api<ConfigMap> = Api::namespaced(site.client.clone(), SYSTEM_NAMESPACE);
    match tokio::time::timeout(CALL, api.get_opt(PAUSE)).await {
        Ok(Ok(found)) => found.and_then(|map| map.data).unwrap_or_default(),
        _ => BTreeMap::new(),
    }
}

fn last_drill((name, card): (String, Scorecard)) -> DrillLine {
    DrillLine {
        name,
        ticket: card.ticket,
        ended_at: card.ended_at,
        result: card.result.map(|result| format!("{result:?}")).unwrap_or_default(),
        rto_ms: card.rto_ms,
    }
}

fn service(service: &MultiActiveService) -> ServiceLine {
    let status = service.status.clone().unwrap_or_default();
    let accepted = condition(&status.conditions, "Accepted").filter(|found| found.status == ConditionStatus::False);
    let ready = condition(&status.conditions, "Ready");
    let held = accepted.or(ready);
    let cells = status.cells.iter().map(|cell| format!("{}@{}", cell.name, cell.site.as_deref().unwrap_or("-")));
    let holders = status.holders.iter().map(|holder| format!("{} (epoch {})", holder.site, holder.epoch));
    let headroom = status.headroom.unwrap_or_default();
    ServiceLine {
        name: format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any()),
        mode: format!("{:?}", service.spec.mode),
        enforcement: format!("{:?}", service.spec.enforcement).to_lowercase(),
        may_write: if status.cells.is_empty() { holders.collect() } else { cells.collect() },
        ready: accepted.is_none() && ready.is_some_and(|found| found.status == ConditionStatus::True),
        message: held.map_or_else(|| "no controller has looked at it".into(), |found| found.message.clone()),
        headroom: if headroom.summary.is_empty() { "not known".into() } else { headroom.summary },
        shortages: headroom.short,
        plan: status.plan,
        proposal: status.proposal.map(|proposal| proposal.id),
    }
}

fn print(status: &Status) {
    let table = |head: &[&str]| {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header(head.to_vec());
        table
    };
    let mut sites = table(&["site", "role", "quorum", "epoch", "lease left", "tolerance", "coordinator", "free", ""]);
    for site in &status.sites {
        let free = site.free.map(|(cpu, memory)| format!("{:.1} CPU, {} GiB", cpu as f64 / 1_000.0, memory >> 30));
        sites.add_row([
            site.name.clone(),
            site.role.clone(),
            if site.in_quorum { "in".into() } else { "OUT".to_owned() },
            site.epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
            site.lease_left.clone().unwrap_or_default(),
            site.tolerance.clone().unwrap_or_default(),
            site.coordinator.clone().unwrap_or_default(),
            free.unwrap_or_default(),
            site.message.clone(),
        ]);
    }
    println!("{sites}");
    let warnings: BTreeSet<&String> = status.sites.iter().filter_map(|site| site.warning.as_ref()).collect();
    warnings.into_iter().for_each(|warning| println!("{warning}"));
    let mut services = table(&["service", "mode", "enforcement", "may write", "ready", "headroom", ""]);
    for service in &status.services {
        services.add_row([
            service.name.clone(),
            service.mode.clone(),
            service.enforcement.clone(),
            service.may_write.join(", "),
            if service.ready { "yes".into() } else { "NO".to_owned() },
            service.headroom.clone(),
            service.message.clone(),
        ]);
    }
    println!("{services}");
    for service in status.services.iter().filter(|service| !service.plan.is_empty() || !service.shortages.is_empty()) {
        println!("{}", service.name);
        service.plan.iter().for_each(|line| println!("  {line}"));
        service.shortages.iter().for_each(|(site, why)| println!("  without {site}: {why}"));
        if let Some(proposal) = &service.proposal {
            println!("  approve with: evergreen approve {proposal}");
        }
    }
    for drill in &status.last_drills {
        let rto = drill.rto_ms.map_or_else(|| "RTO not measured".to_owned(), |ms| format!("RTO {ms} ms"));
        let ended = drill.ended_at.as_deref().unwrap_or_default();
        println!("last drill {}: {}, {rto}, {ended} ({})", drill.name, drill.result, drill.ticket);
    }
    status.stopped.iter().for_each(|(scope, why)| println!("STOPPED {scope}: {why}"));
    status.not_reached.iter().for_each(|(site, why)| println!("not reached: {site}: {why}"));
}
