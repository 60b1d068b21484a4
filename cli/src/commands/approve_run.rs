//! Approval of runs of playbooks: which wait, what they would do, and one's own yes to exactly one.

use evergreen_api::{
    names::SYSTEM_NAMESPACE,
    resources::{PlaybookRun, RunPhase, spec_hash},
};
use evergreen_controller::consent::{What, run_group};
use evergreen_playbooks::explain;
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use super::failover::{
    say::{self, SignerArgs},
    sites::{CALL, Site, Sites},
};
use crate::exit::{Failure, Outcome};

/// A run that waits for people.
pub struct Waiting {
    site: String,
    run: PlaybookRun,
    /// The `approve` step that it stands at; `None`: its beginning.
    step: Option<u32>,
}

/// Runs that wait for approval, at every data center that answers.
pub async fn waiting(sites: &Sites) -> Vec<Waiting> {
    let mut found = Vec::new();
    for site in &sites.reached {
        match tokio::time::timeout(CALL, api(site).list(&ListParams::default())).await {
            Ok(Ok(runs)) => {
                let name = site.name.clone();
                found.extend(runs.items.into_iter().filter_map(move |run| of(&name, run)));
            }
            Ok(Err(error)) => eprintln!("runs of {} cannot be listed: {error}", site.name),
            Err(_) => eprintln!("runs of {} cannot be listed: no answer in time", site.name),
        }
    }
    found
}

fn api(site: &Site) -> Api<PlaybookRun> {
    Api::namespaced(site.client.clone(), SYSTEM_NAMESPACE)
}

/// A run, if it waits for people.
fn of(site: &str, run: PlaybookRun) -> Option<Waiting> {
    let status = run.status.clone().unwrap_or_default();
    if status.phase.is_final() {
        return None;
    }
    let open = status.log.last().filter(|record| record.outcome.is_none() && record.action == "approve");
    let at_gate = run.spec.approvals > 0 && status.phase == RunPhase::Parked && open.is_none();
    let step = open.map(|record| record.index);
    (at_gate || step.is_some()).then(|| Waiting { site: site.to_owned(), run, step })
}

/// As JSON.
pub fn described(waiting: &Waiting) -> Value {
    let spec = &waiting.run.spec;
    json!({
        "run": waiting.run.name_any(), "dataCenter": waiting.site, "digest": spec_hash(spec), "playbook": spec.playbook,
        "object": spec.subject.display(), "trigger": spec.trigger, "step": waiting.step,
        "requestedBy": spec.requested_by, "steps": explain::steps(&spec.plan),
        "message": waiting.run.status.as_ref().map(|status| status.message.clone()),
    })
}

/// For people.
pub fn show(waiting: &Waiting) {
    let spec = &waiting.run.spec;
    println!(
        "run/{}  playbook {} for {} at {}",
        waiting.run.name_any(),
        spec.playbook,
        spec.subject.display(),
        waiting.site
    );
    println!("  because of {}; digest {}", spec.trigger, spec_hash(spec));
    if let Some(by) = &spec.requested_by {
        println!("  asked for by {by}, who cannot approve it");
    }
    match waiting.step.and_then(|step| spec.plan.steps.get(step as usize)?.approve.as_ref()) {
        Some(approve) => println!("  {} people are asked: {}", approve.people, approve.why),
        None => println!("  {} people must approve before its next step", spec.approvals),
    }
    explain::steps(&spec.plan).iter().enumerate().for_each(|(index, line)| println!("  {}. {line}", index + 1));
}

/// Signs a yes to one run.
///
/// # Errors
/// When no single run of that name waits, or the approval could not be put anywhere.
pub async fn approve(sites: &Sites, name: &str, signer: &SignerArgs, as_json: bool) -> Outcome {
    let waiting = waiting(sites).await;
    let found: Vec<&Waiting> = waiting.iter().filter(|waiting| waiting.run.name_any() == name).collect();
    let [waiting] = found.as_slice() else {
        let why = format!("{} runs named `{name}` wait for approval", found.len());
        return Err(Failure::no(why).remedy("evergreen approve; name one data center with --kubeconfig"));
    };
    let spec = &waiting.run.spec;
    if spec.requested_by.is_some() && spec.requested_by == signer.signer {
        return Err(Failure::no("you asked for this run, so somebody else has to approve it"));
    }
    if !as_json {
        show(waiting);
    }
    let what = What::ApproveRun { run: name.to_owned(), digest: spec_hash(spec), step: waiting.step };
    let consent = say::put(sites, &signer.signed(say::statement(&run_group(name), 0, what)?)?).await?;
    if as_json {
        println!("{}", json!({"approved": name, "consent": consent}));
    } else {
        println!("approved as {consent}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(approvals: u32, status: Value) -> PlaybookRun {
        let plan = json!({
            "summary": "s", "match": [{"nodeCondition": {"type": "KernelOops"}}],
            "steps": [{"cordon": {}}, {"approve": {"people": 2, "why": "go on?"}}]
        });
        serde_json::from_value(json!({
            "apiVersion": "evergreen.dev/v1alpha1", "kind": "PlaybookRun", "metadata": {"name": "r"},
            "spec": {
                "playbook": "p", "plan": plan, "trigger": "t", "attempt": 1, "approvals": approvals, "before": {},
                "subject": {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}
            },
            "status": status
        }))
        .unwrap()
    }

    #[test]
    fn only_runs_that_stand_before_people_are_shown() {
        let record = json!({
            "index": 1, "action": "approve", "undo": false, "key": "k", "intendedAt": "2026-01-01T00:00:00Z",
            "preImage": {}, "message": "under way"
        });
        let step = |run| of("dc-a", run).map(|waiting| waiting.step);
        assert_eq!(step(run(2, json!({"phase": "Parked", "message": "waiting for approval"}))), Some(None));
        assert_eq!(step(run(0, json!({"phase": "Running", "log": [record]}))), Some(Some(1)));
        assert_eq!(step(run(0, json!({"phase": "Parked", "message": "frozen"}))), None);
        assert_eq!(step(run(2, json!({"phase": "Succeeded"}))), None);
    }
}
