//! `evergreen datacenter join`: every data center gets a kubeconfig of every other, with the rights of its peer account.

use std::collections::BTreeMap;

use clap::Args;
use evergreen_api::{
    HumanDuration,
    names::{ASSIGNMENTS, KUBECONFIG_KEY, SYSTEM_NAMESPACE},
};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use super::{
    kubeconfig,
    place::{Place, Reached, why},
};
use crate::{
    commands::failover::sites::CALL,
    exit::{Failure, Outcome},
};

/// Who writes the Secrets, for the API server.
const FIELD_MANAGER: &str = "evergreen-datacenter-join";
/// When the token in a Secret ends, RFC 3339.
const EXPIRES: &str = "evergreen.dev/expires";

/// Make and store what data centers reach each other by.
#[derive(Debug, Args)]
#[command(after_help = "\
At each data center the release must be there (with `peers`; at a witness with site.role=witness): its account
<release>-peer is what the others come as. For each pair a token of that account is put into a kubeconfig, tried, and
stored as the Secret that the DataCenter resource names. Run it again before the tokens end: controllers take up the
new ones by themselves.

Examples:
  evergreen datacenter join dc-a=a.kubeconfig dc-b=b.kubeconfig witness=w.kubeconfig --dry-run
  evergreen datacenter join dc-a=fleet.yaml#a dc-b=fleet.yaml#b --server dc-b=https://10.2.0.1:6443

Exit codes: 0 done, 1 something is not as it must be, 2 wrong use, 3 a data center does not answer. Nothing is written
anywhere unless every data center answers and every token works.")]
pub struct JoinArgs {
    /// Data centers and an administrator's kubeconfig of each, as NAME=FILE or NAME=FILE#CONTEXT.
    #[arg(required = true, num_args = 2.., value_name = "NAME=FILE")]
    places: Vec<Place>,
    /// Name of the Helm release.
    #[arg(long, env = "EVERGREEN_RELEASE", value_name = "NAME", default_value = "evergreen")]
    release: String,
    /// How the others reach an API server, where that is not what the administrator's kubeconfig says: NAME=URL.
    #[arg(long, env = "EVERGREEN_SERVER", value_name = "NAME=URL", value_delimiter = ',')]
    server: Vec<String>,
    /// How long the tokens are valid; an API server may make it less.
    #[arg(long, env = "EVERGREEN_LIFETIME", value_name = "DURATION", default_value = "365d")]
    lifetime: HumanDuration,
    /// Say what would be written, and write nothing.
    #[arg(long, env = "EVERGREEN_DRY_RUN")]
    dry_run: bool,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

/// A kubeconfig that works.
struct Pass {
    site: String,
    text: String,
    expires: String,
}

/// One Secret to write.
struct Delivery<'a> {
    at: &'a Reached,
    pass: &'a Pass,
    secret: String,
}

/// Joins.
///
/// # Errors
/// When a data center does not answer, is not prepared, is another one than said, or a token does not give the rights.
pub async fn run(args: &JoinArgs) -> Outcome {
    let servers = servers(args)?;
    let mut reached = Vec::new();
    for place in &args.places {
        reached.push(place.reach().await?);
    }
    let mut clusters: BTreeMap<&str, &str> = BTreeMap::new();
    for site in &reached {
        if let Some(other) = clusters.insert(&site.cluster, &site.name) {
            return Err(Failure::no(format_args!("{other} and {} are one and the same cluster", site.name))
                .remedy("each data center has a cluster of its own; check the kubeconfigs"));
        }
    }
    // Before any token is made: what each has to know of the others.
    for at in reached.iter().filter(|at| !at.known.is_empty()) {
        for other in reached.iter().filter(|other| other.name != at.name) {
            secret_name(at, &other.name)?;
        }
    }
    let mut passes = Vec::new();
    for site in &reached {
        let server = servers.get(site.name.as_str()).map_or(site.server.as_str(), |url| url);
        passes.push(pass(args, site, server).await?);
    }
    let mut deliveries = Vec::new();
    for at in reached.iter().filter(|at| !at.known.is_empty()) {
        for pass in passes.iter().filter(|pass| pass.site != at.name) {
            deliveries.push(Delivery { at, pass, secret: secret_name(at, &pass.site)? });
        }
    }
    if !args.dry_run {
        for delivery in &deliveries {
            deliver(delivery).await?;
        }
    }
    print(args, &reached, &deliveries);
    Ok(())
}

fn servers(args: &JoinArgs) -> Outcome<BTreeMap<&str, &str>> {
    let mut servers = BTreeMap::new();
    for text in &args.server {
        let known = |name: &str| args.places.iter().any(|place| place.name == name);
        match text.split_once('=') {
            Some((name, url)) if known(name) && url.starts_with("https://") => servers.insert(name, url),
            _ => {
                return Err(Failure::usage(format_args!(
                    "--server {text}: no data center named here with an https URL"
                ))
                .remedy("--server dc-b=https://10.2.0.1:6443"));
            }
        };
    }
    Ok(servers)
}

/// The Secret in which `at` expects the kubeconfig of `site`.
fn secret_name(at: &Reached, site: &str) -> Outcome<String> {
    let found = at.known.iter().find(|known| known.name_any() == site);
    found.map(|known| known.spec.api_server.kubeconfig_secret.clone()).ok_or_else(|| {
        Failure::no(format_args!("{} does not know {site}: it has no DataCenter of that name", at.name))
            .remedy(format_args!("name {site} under `peers` of the release at {} and upgrade it", at.name))
    })
}

async fn pass(args: &JoinArgs, site: &Reached, server: &str) -> Outcome<Pass> {
    let account = format!("{}-peer", args.release);
    let name = &site.name;
    let accounts: Api<ServiceAccount> = Api::namespaced(site.client.clone(), SYSTEM_NAMESPACE);
    let seconds = i64::try_from(args.lifetime.get().as_secs()).unwrap_or(i64::MAX);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { expiration_seconds: Some(seconds), ..TokenRequestSpec::default() }),
        ..TokenRequest::default()
    };
    let silent = || Failure::unreachable(format_args!("{name} stopped answering")).remedy("nothing was changed");
    let parameters = PostParams::default();
    let answer = accounts.create_token_request(&account, &parameters, &request);
    let answer = tokio::time::timeout(CALL, answer).await.map_err(|_| silent())?;
    let token = match answer {
        Ok(request) => request.status,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            return Err(Failure::no(format_args!("{name} has no ServiceAccount {account} in {SYSTEM_NAMESPACE}"))
                .remedy(format_args!(
                    "install the release there with `peers`, or as site.role=witness; or --release NAME"
                )));
        }
        Err(error) => {
            return Err(Failure::no(format_args!("{name}: no token for {account}: {}", why(&error)))
                .remedy("use a kubeconfig of an administrator; nothing was changed"));
        }
    };
    let given = token.and_then(|status| Some((status.token?, status.expiration_timestamp?)));
    let (token, expires) = given.ok_or_else(|| Failure::no(format_args!("{name} answered without a token")))?;
    let text = kubeconfig::render(name, server, site.authorities.as_deref(), &token);
    try_out(name, server, &text).await?;
    Ok(Pass { site: name.clone(), text, expires: expires.0.to_string() })
}

/// Whether whoever holds the kubeconfig may do what a controller does at another data center.
async fn try_out(name: &str, server: &str, text: &str) -> Outcome {
    let broken = |error: String| {
        Failure::unreachable(format_args!("{name} cannot be used at {server} with its new token: {error}"))
            .remedy(format_args!("--server {name}=URL, as the other data centers reach it"))
    };
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| broken(error.to_string()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| broken(error.to_string()))?;
    config.default_retry = false;
    let client = Client::try_from(config).map_err(|error| broken(error.to_string()))?;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
    for (group, resource, verb, object) in [
        ("coordination.k8s.io", "leases", "create", None),
        ("coordination.k8s.io", "leases", "update", None),
        ("", "configmaps", "update", Some(ASSIGNMENTS)),
    ] {
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            verb: Some(verb.to_owned()),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            name: object.map(str::to_owned),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), non_resource_attributes: None };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let parameters = PostParams::default();
        let answer = tokio::time::timeout(CALL, reviews.create(&parameters, &review)).await;
        let answer = answer.map_err(|_| broken("no answer in time".into()))?.map_err(|error| broken(why(&error)))?;
        if !answer.status.is_some_and(|status| status.allowed) {
            return Err(Failure::no(format_args!("{name}: its peer account may not {verb} {resource}"))
                .remedy("upgrade the release there: the chart binds the account to what it needs"));
        }
    }
    Ok(())
}

async fn deliver(delivery: &Delivery<'_>) -> Outcome {
    let Delivery { at, pass, secret } = delivery;
    let api: Api<Secret> = Api::namespaced(at.client.clone(), SYSTEM_NAMESPACE);
    let body = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": secret, "annotations": {EXPIRES: pass.expires}},
        "stringData": {KUBECONFIG_KEY: pass.text},
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&body);
    let written = tokio::time::timeout(CALL, api.patch(secret, &parameters, &patch)).await;
    let failed = |error: String| {
        Failure::unreachable(format_args!("{}: Secret {secret} could not be written: {error}", at.name))
            .remedy("run the same command again: what was written already is written anew")
    };
    written.map_err(|_| failed("no answer in time".into()))?.map_err(|error| failed(why(&error)))?;
    Ok(())
}

fn print(args: &JoinArgs, reached: &[Reached], deliveries: &[Delivery<'_>]) {
    if args.json {
        let list: Vec<_> = deliveries
            .iter()
            .map(|d| json!({"at": d.at.name, "secret": d.secret, "reaches": d.pass.site, "expires": d.pass.expires}))
            .collect();
        println!("{}", json!({"written": !args.dry_run, "secrets": list}));
        return;
    }
    for d in deliveries {
        println!("{}: Secret {} reaches {} until {}", d.at.name, d.secret, d.pass.site, d.pass.expires);
    }
    for site in reached.iter().filter(|site| site.known.is_empty()) {
        println!("{}: no DataCenter there, so no controller that needs a kubeconfig (a witness)", site.name);
    }
    if args.dry_run {
        println!("dry run: every token works; nothing was written");
    } else {
        println!("see that a majority is reached: kubectl get datacenters");
    }
}
