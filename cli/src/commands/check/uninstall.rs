//! `evergreen check uninstall`: no while a service's grants come from this release.

use clap::Args;
use evergreen_api::resources::{Enforcement, MultiActiveService};
use kube::{Api, ResourceExt, api::ListParams};

use super::facts::{WhereArgs, answer};
use crate::exit::{Failure, Outcome};

/// Check whether the release may go.
#[derive(Debug, Args)]
#[command(
    after_help = "`helm uninstall` asks this first (uninstallGuard.enabled). Nodes answer for grants only while the\n\
    release is there: without it, load balancers that ask for grants take the data center out.\n\n\
    Examples:\n  \
    evergreen check uninstall --site dc-a\n\n\
    Exit codes: 0 it may go, 1 services are enforced here, 2 wrong use, 3 the API server does not answer."
)]
pub struct UninstallArgs {
    /// Name of the data center, as in `site.name` of the release.
    #[arg(long, env = "EVERGREEN_SITE", value_name = "NAME")]
    site: String,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
    #[command(flatten)]
    place: WhereArgs,
}

/// Checks.
///
/// # Errors
/// When services are enforced here, or that cannot be read.
pub async fn run(args: &UninstallArgs) -> Outcome {
    let client = args.place.client().await?;
    let api: Api<MultiActiveService> = Api::all(client);
    let services = answer("MultiActiveServices", api.list(&ListParams::default())).await?;
    let held = enforced(&services.items, &args.site);
    if args.json {
        println!("{}", serde_json::json!({"ok": held.is_empty(), "enforced": held}));
    }
    let Some(first) = held.first() else {
        if !args.json {
            println!("no service is enforced at {}: the release may go", args.site);
        }
        return Ok(());
    };
    let (namespace, name) = first.split_once('/').unwrap_or(("", first));
    Err(Failure::no(format_args!(
        "{} enforced here: {}. Without the release no node of {} answers for grants",
        if held.len() == 1 { "a service is".to_owned() } else { format!("{} services are", held.len()) },
        held.join(", "),
        args.site
    ))
    .remedy(format_args!(
        "evergreen switchover {first} --to ANOTHER, then kubectl -n {namespace} patch multiactiveservice {name} \
         --type=merge -p '{{\"spec\":{{\"enforcement\":\"observe\"}}}}', for each; `helm uninstall --no-hooks` does not ask"
    )))
}

/// Services, as `namespace/name`, that are enforced and may be served by the site.
fn enforced(services: &[MultiActiveService], site: &str) -> Vec<String> {
    let here = |service: &&MultiActiveService| {
        service.spec.enforcement == Enforcement::Enforce && service.spec.sites.iter().any(|name| name == site)
    };
    let name =
        |service: &MultiActiveService| format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any());
    services.iter().filter(here).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, enforcement: &str) -> MultiActiveService {
        let value = serde_json::json!({
            "apiVersion": "evergreen.dev/v1alpha1", "kind": "MultiActiveService",
            "metadata": {"name": name, "namespace": "bank"},
            "spec": {"mode": "ActiveActive", "kind": "flow", "sites": ["dc-a", "dc-b"], "workload": {"deployment": name},
                "traffic": [], "enforcement": enforcement},
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_enforced_services_of_the_site_hold_the_release() {
        let services = [service("ledger", "enforce"), service("web", "observe"), service("mail", "advise")];
        assert_eq!(enforced(&services, "dc-a"), ["bank/ledger"]);
        assert_eq!(enforced(&services, "dc-c"), Vec::<String>::new());
    }
}
