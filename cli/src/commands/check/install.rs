//! `evergreen check install`: a line for everything a release needs, what is wrong with it, and what to do.

use std::time::Duration;

use clap::Args;
use evergreen_api::{HumanDuration, resources::ConditionStatus};
use kube::ResourceExt;
use serde::Serialize;
use tokio::time::Instant;

use super::facts::{Facts, WhereArgs};
use crate::exit::{Failure, Outcome};

/// Older API servers lack what the definitions need.
const OLDEST: (u32, u32) = (1, 20);
const PAUSE: Duration = Duration::from_secs(2);

/// Check a release.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen check install --site dc-a\n  \
    evergreen check install --site dc-a --wait 3m      after `helm install`; `helm test` does this\n  \
    evergreen check install --site dc-a --json\n\n\
    Exit codes: 0 all is well, 1 something is not, 2 wrong use, 3 the API server does not answer.")]
pub struct InstallArgs {
    /// Name of the data center, as in `site.name` of the release.
    #[arg(long, env = "EVERGREEN_SITE", value_name = "NAME")]
    site: String,
    /// Look again until all is well, for so long.
    #[arg(long, env = "EVERGREEN_WAIT", value_name = "DURATION", default_value = "0s")]
    wait: HumanDuration,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
    #[command(flatten)]
    place: WhereArgs,
}

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: String,
    ok: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

impl Finding {
    fn ok(what: impl Into<String>) -> Self {
        Self { what: what.into(), ok: true, why: String::new(), remedy: String::new() }
    }

    fn bad(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), ok: false, why: why.into(), remedy: remedy.into() }
    }
}

/// Checks.
///
/// # Errors
/// When something is not as it should be, or cannot be read.
pub async fn run(args: &InstallArgs) -> Outcome {
    let client = args.place.client().await?;
    let end = Instant::now() + args.wait.get();
    let findings = loop {
        let findings = Facts::read(&client).await.map(|facts| judge(&facts, &args.site));
        let well = findings.as_ref().is_ok_and(|findings| findings.iter().all(|finding| finding.ok));
        if well || Instant::now() + PAUSE > end {
            break findings?;
        }
        tokio::time::sleep(PAUSE).await;
    };
    let bad = findings.iter().filter(|finding| !finding.ok).count();
    if args.json {
        println!("{}", serde_json::json!({"ok": bad == 0, "findings": findings}));
    } else {
        for finding in &findings {
            if finding.ok {
                println!("ok    {}", finding.what);
            } else {
                println!("WRONG {}: {}\n      try: {}", finding.what, finding.why, finding.remedy);
            }
        }
    }
    if bad == 0 {
        Ok(())
    } else {
        Err(Failure::no(format_args!("{bad} of {} are not as they should be", findings.len())))
    }
}

/// What is wrong with what there is; every check tells, so that the list is the same on every look.
fn judge(facts: &Facts, site: &str) -> Vec<Finding> {
    let mut findings = vec![server(facts), definitions(facts), releases(facts)];
    findings.extend(facts.workloads.iter().map(|workload| {
        if workload.ready >= workload.wanted {
            Finding::ok(format!("{}: {} ready", workload.name, workload.ready))
        } else {
            let why = format!("{} of {} pods are ready", workload.ready, workload.wanted);
            Finding::bad(
                &workload.name,
                why,
                "kubectl -n evergreen-system get pods; kubectl -n evergreen-system describe pods",
            )
        }
    }));
    findings.push(if facts.register {
        Finding::ok("register evergreen-assignments")
    } else {
        let remedy = "the first installation makes it (bootstrap.create). Was it deleted? docs/operations.md says how it comes back";
        Finding::bad("register evergreen-assignments", "the ConfigMap is not there", remedy)
    });
    findings.push(own(facts, site));
    findings.extend(facts.data_centers.iter().filter(|one| one.name_any() != site).map(|peer| {
        let what = format!("data center {}", peer.name_any());
        let conditions = peer.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        match conditions.iter().find(|condition| condition.type_ == "Register") {
            Some(condition) if condition.status == ConditionStatus::True => Finding::ok(what),
            Some(condition) => Finding::bad(what, &condition.message, "evergreen datacenter join --help"),
            None => Finding::bad(what, "the controller has said nothing of it yet", "wait; kubectl get datacenters"),
        }
    }));
    findings
}

fn server(facts: &Facts) -> Finding {
    let (major, minor) = facts.server;
    let what = format!("Kubernetes {major}.{minor}");
    if facts.server >= OLDEST {
        Finding::ok(what)
    } else {
        Finding::bad(what, "1.20 is the oldest that the definitions are written for", "upgrade the cluster")
    }
}

fn definitions(facts: &Facts) -> Finding {
    let what = format!("{} definitions of evergreen.dev", facts.definitions.len());
    let missing: Vec<&str> =
        facts.definitions.iter().filter(|(_, d)| d.is_none()).map(|(name, _)| name.as_str()).collect();
    if !missing.is_empty() {
        let remedy = "helm upgrade with crds.install=true, or: evergreen crds | kubectl apply --server-side -f -";
        return Finding::bad(what, format!("missing: {}", missing.join(", ")), remedy);
    }
    let known = facts.definitions.iter().filter_map(|(name, definition)| Some((name, definition.as_ref()?)));
    for (name, definition) in known {
        if !definition.established {
            return Finding::bad(what, format!("{name} is not served"), format!("kubectl describe crd {name}"));
        }
        let newer = definition.release.as_deref().and_then(numbers) > numbers(env!("CARGO_PKG_VERSION"));
        if newer {
            let why = format!(
                "{name} came with release {}, newer than this {}",
                definition.release.as_deref().unwrap_or_default(),
                env!("CARGO_PKG_VERSION")
            );
            return Finding::bad(
                what,
                why,
                "use the newer release everywhere; fields that this one does not know would be lost",
            );
        }
    }
    Finding::ok(what)
}

/// `1.2.3` in comparable form; what follows the numbers does not count.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let core = version.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

fn releases(facts: &Facts) -> Finding {
    let names: Vec<&str> = facts.releases.iter().map(String::as_str).collect();
    match names.as_slice() {
        [] => Finding::bad(
            "release",
            "no workload of Evergreen is in evergreen-system",
            "helm install evergreen charts/evergreen",
        ),
        [one] => Finding::ok(format!("release {one}")),
        several => Finding::bad(
            "release",
            format!("{} releases act on the same objects: {}", several.len(), several.join(", ")),
            "keep one: helm uninstall the others",
        ),
    }
}

fn own(facts: &Facts, site: &str) -> Finding {
    let what = format!("data center {site}");
    let Some(own) = facts.data_centers.iter().find(|one| one.name_any() == site) else {
        return Finding::bad(
            what,
            "there is no DataCenter of this name, so the controller waits",
            "kubectl get datacenters",
        );
    };
    let conditions = own.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    match conditions.iter().find(|condition| condition.type_ == "InQuorum") {
        Some(condition) if condition.status == ConditionStatus::True => Finding::ok(format!("{what} is in quorum")),
        Some(condition) => Finding::bad(what, &condition.message, "kubectl get datacenters -o wide"),
        None => Finding::bad(
            what,
            "the controller has said nothing yet",
            "kubectl -n evergreen-system logs deploy/evergreen-controller",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::commands::check::facts::{Definition, Workload};

    fn well() -> Facts {
        let definition = Definition { established: true, release: Some(env!("CARGO_PKG_VERSION").into()) };
        let own = serde_json::json!({
            "apiVersion": "evergreen.dev/v1alpha1", "kind": "DataCenter", "metadata": {"name": "dc-a"},
            "spec": {"apiServer": {"kubeconfigSecret": "dc-a-kubeconfig"}},
            "status": {"conditions": [{"type": "InQuorum", "status": "True", "reason": "Majority", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        Facts {
            server: (1, 30),
            releases: ["evergreen".to_owned()].into(),
            definitions: BTreeMap::from([("datacenters.evergreen.dev".to_owned(), Some(definition))]),
            workloads: vec![Workload { name: "DaemonSet evergreen-agent".into(), wanted: 3, ready: 3 }],
            register: true,
            data_centers: vec![serde_json::from_value(own).unwrap()],
        }
    }

    fn wrong(facts: &Facts) -> Vec<Finding> {
        judge(facts, "dc-a").into_iter().filter(|finding| !finding.ok).collect()
    }

    #[test]
    fn all_is_well_when_it_is() {
        assert_eq!(wrong(&well()), []);
    }

    #[test]
    fn each_fault_is_one_finding_with_a_remedy() {
        let newer = Definition { established: true, release: Some("99.0.0".into()) };
        let faults: [(&str, Box<dyn Fn(&mut Facts)>); 8] = [
            ("1.20 is the oldest", Box::new(|facts| facts.server = (1, 19))),
            (
                "missing: datacenters",
                Box::new(|facts| _ = facts.definitions.insert("datacenters.evergreen.dev".into(), None)),
            ),
            ("newer than this", Box::new(move |facts| _ = facts.definitions.insert("x".into(), Some(newer.clone())))),
            ("2 releases act", Box::new(|facts| _ = facts.releases.insert("second".into()))),
            ("no workload", Box::new(|facts| facts.releases.clear())),
            ("2 of 3 pods", Box::new(|facts| facts.workloads[0].ready = 2)),
            ("ConfigMap is not there", Box::new(|facts| facts.register = false)),
            ("no DataCenter of this name", Box::new(|facts| facts.data_centers.clear())),
        ];
        for (said, fault) in faults {
            let mut facts = well();
            fault(&mut facts);
            let wrong = wrong(&facts);
            assert_eq!(wrong.len(), 1, "{said}: {wrong:?}");
            assert!(wrong[0].why.contains(said) && !wrong[0].remedy.is_empty(), "{said}: {wrong:?}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(numbers("0.10.0") > numbers("0.9.9"));
        assert_eq!(numbers("1.2.3-rc.1"), Some((1, 2, 3)));
        assert_eq!(numbers("latest"), None);
    }
}
