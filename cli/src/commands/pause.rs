//! `evergreen pause | resume`: the kill switch, at every data center that answers.

use clap::Args;
use evergreen_api::names::{PAUSE, SYSTEM_NAMESPACE};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    commands::{
        block_on,
        failover::sites::{CALL, SitesArgs},
    },
    exit::{Failure, Outcome},
};

/// What stops, and what does not.
const STOPS: &str = "\
stops:   moves of services, also those that people ask for or approved; the kill switch is stronger than break-glass;
         playbooks (scopes fleet and site): no run begins, and those under way stop between two steps
goes on: site leases, grants of the sites that hold a group, the return of a restarted controller to what its site held,
         ends of grants that are not renewed, health, energy, reports";

/// Stop, or let go on, what moves services.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen pause --reason 'storage is being moved, CHG-1207'             the whole fleet\n  \
    evergreen pause --scope site.dc-a --reason 'fire drill'\n  \
    evergreen pause --scope group.shop.checkout --reason 'looks odd'\n  \
    evergreen resume\n\n\
    Without an API server: create the controller's --pause-file, or send its process SIGUSR1 (SIGUSR2 lets it go on).\n\n\
    Exit codes: 0 told to every data center given, 2 wrong use, 3 at least one could not be told.")]
pub struct PauseArgs {
    /// What is meant: fleet, site.NAME or group.NAME.
    #[arg(long, env = "EVERGREEN_SCOPE", value_name = "SCOPE", default_value = "fleet", value_parser = scope)]
    scope: String,
    /// Who and why; needed to stop.
    #[arg(long, env = "EVERGREEN_REASON", value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
    #[command(flatten)]
    sites: SitesArgs,
}

fn scope(text: &str) -> Result<String, String> {
    let named = ["site.", "group."].iter().any(|prefix| text.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()));
    if named || text == "fleet" { Ok(text.to_owned()) } else { Err("write fleet, site.NAME or group.NAME".into()) }
}

/// Stops.
///
/// # Errors
/// When a data center could not be told.
pub fn pause(args: &PauseArgs) -> Outcome {
    let Some(reason) = args.reason.clone().filter(|reason| !reason.trim().is_empty()) else {
        return Err(Failure::usage("say who stops it and why").remedy("--reason 'li: storage is being moved'"));
    };
    block_on(tell(args, Some(reason)))
}

/// Lets go on.
///
/// # Errors
/// When a data center could not be told.
pub fn resume(args: &PauseArgs) -> Outcome {
    block_on(tell(args, None))
}

async fn tell(args: &PauseArgs, reason: Option<String>) -> Outcome {
    let sites = args.sites.connect().await?;
    let (mut told, mut missed) = (Vec::new(), sites.missed.clone());
    for site in &sites.reached {
        match write(&site.client, &args.scope, reason.as_deref()).await {
            Ok(()) => told.push(site.name.clone()),
            Err(why) => missed.push((site.name.clone(), why)),
        }
    }
    let verb = if reason.is_some() { "paused" } else { "resumed" };
    if args.json {
        let missed: Vec<Value> = missed.iter().map(|(site, why)| json!({"site": site, "why": why})).collect();
        println!("{}", json!({"scope": args.scope, "state": verb, "told": told, "missed": missed}));
    } else {
        println!("{} {verb} at {}", args.scope, told.join(", "));
        if reason.is_some() {
            println!("{STOPS}");
        }
    }
    if missed.is_empty() {
        return Ok(());
    }
    let missed: Vec<String> = missed.iter().map(|(site, why)| format!("{site} ({why})")).collect();
    Err(Failure::unreachable(format_args!("not told: {}", missed.join("; ")))
        .remedy("the controller's --pause-file or SIGUSR1 there, which need no API server"))
}

/// Without knowing what else is said there: a merge patch sets or removes one key.
async fn write(client: &Client, scope: &str, reason: Option<&str>) -> Result<(), String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let body = json!({"data": {scope: reason}});
    let parameters = PatchParams::default();
    let write = async {
        match api.patch(PAUSE, &parameters, &Patch::Merge(&body)).await {
            Err(kube::Error::Api(status)) if status.code == 404 && reason.is_none() => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let data = reason.map(|reason| [(scope.to_owned(), reason.to_owned())].into());
                let metadata = kube::api::ObjectMeta { name: Some(PAUSE.to_owned()), ..Default::default() };
                let map = ConfigMap { metadata, data, ..ConfigMap::default() };
                api.create(&Default::default(), &map).await.map(|_| ())
            }
            other => other.map(|_| ()),
        }
    };
    tokio::time::timeout(CALL, write)
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|error: kube::Error| error.to_string())
}
