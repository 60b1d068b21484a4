//! Keeping order: finished runs that nobody needs any more go, nodes whose attempts are used up are marked.

use std::time::Duration;

use evergreen_api::names;
use evergreen_playbooks::planner::{Facts, Quarantine, RunView};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    Parts,
    calls::{CallError, Pause, call},
    run_object,
};

/// How often finished runs are looked through.
pub(crate) const INTERVAL: Duration = Duration::from_secs(600);
/// Runs deleted at a time; the rest follows at the next look.
const AT_A_TIME: usize = 200;
/// Tries of a mark.
const MAX_TRIES: usize = 5;

/// Which finished runs are kept: the newest, and none that is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// So many.
    pub count: usize,
    /// So long after their end.
    pub for_: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { count: 1_000, for_: Duration::from_secs(30 * 86_400) }
    }
}

/// Finished runs to delete: too old or too many, and no guard counts them any more.
pub(crate) fn expired(facts: &Facts, keep: &Keep, now: Timestamp) -> Vec<String> {
    let long_ago = |at: Timestamp, by: Duration| {
        SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).is_some_and(|end| end <= now)
    };
    let counted = |run: &RunView| {
        let guards = facts.playbooks.iter().find(|playbook| playbook.name == run.playbook).map(|p| &p.spec.guards);
        let window = guards.map_or(Duration::ZERO, |guards| guards.attempts.window.get().max(guards.cooldown.get()));
        // An hour is the least: other guards look back that far, whatever the playbook says.
        !long_ago(run.finished_at.unwrap_or(run.created_at).max(run.created_at), window.max(Duration::from_secs(3_600)))
    };
    let mut finished: Vec<&RunView> = facts.runs.iter().filter(|run| run.phase.is_final()).collect();
    finished.sort_by_key(|run| std::cmp::Reverse(run.finished_at.unwrap_or(run.created_at)));
    let old = |(index, run): &(usize, &RunView)| {
        *index >= keep.count || run.finished_at.is_some_and(|end| long_ago(end, keep.for_))
    };
    let expired = finished.into_iter().enumerate().filter(|one| old(one) && !counted(one.1));
    expired.map(|(_, run)| run.name.clone()).take(AT_A_TIME).collect()
}

/// Deletes runs.
pub(crate) async fn delete(client: Client, names: Vec<String>) {
    for name in &names {
        if let Err(error) = run_object::delete(&client, name).await {
            tracing::warn!(run = %name, error = %error.describe(), "an old run was not deleted");
            return;
        }
    }
    tracing::info!(runs = names.len(), "old runs deleted");
}

/// Labels and taints a node. Doing it twice has the effect of doing it once.
pub(crate) async fn quarantine(parts: Parts, quarantine: Quarantine) {
    let mut pause = Pause::default();
    for _ in 0..MAX_TRIES {
        match mark(&parts.client, &quarantine).await {
            Ok(()) => {
                parts.announcer.quarantined(&quarantine);
                return;
            }
            Err(error) => {
                tracing::warn!(node = %quarantine.node.name, error = %error.describe(), "not in quarantine yet");
                pause.wait().await;
            }
        }
    }
}

async fn mark(client: &Client, quarantine: &Quarantine) -> Result<(), CallError> {
    let api = Api::<Node>::all(client.clone());
    let name = &quarantine.node.name;
    let Some(node) = call(format!("get node {name}"), api.get_opt(name)).await? else { return Ok(()) };
    if node.uid().as_deref() != Some(&quarantine.node.uid) || node.labels().contains_key(names::LABEL_QUARANTINE) {
        return Ok(());
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut taints: Vec<serde_json::Value> = taints
        .into_iter()
        .filter(|taint| taint.key != names::LABEL_QUARANTINE)
        .filter_map(|taint| serde_json::to_value(taint).ok())
        .collect();
    taints.push(json!({"key": names::LABEL_QUARANTINE, "value": quarantine.playbook, "effect": "NoSchedule"}));
    let patch = json!({
        "metadata": {
            "resourceVersion": node.resource_version(), "labels": {names::LABEL_QUARANTINE: quarantine.playbook}
        },
        "spec": {"taints": taints},
    });
    let what = format!("put node {name} into quarantine");
    call(what, api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}

#[cfg(test)]
mod tests {
    use evergreen_api::resources::{RunPhase, Subject};

    use super::*;

    fn run(name: &str, ended_hours_ago: i64, phase: RunPhase) -> RunView {
        let at = now() - SignedDuration::from_hours(ended_hours_ago);
        RunView {
            name: name.into(),
            playbook: "p".into(),
            subject: Subject::default(),
            node: None,
            attempt: 1,
            acts: true,
            destructive: false,
            phase,
            created_at: at,
            finished_at: phase.is_final().then_some(at),
            chain: Vec::new(),
            asks: None,
            requested_by: None,
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    #[test]
    fn old_runs_go_and_those_that_count_stay() {
        let runs = vec![
            run("old", 48, RunPhase::Succeeded),
            run("under-way", 48, RunPhase::Parked),
            run("new", 2, RunPhase::Failed),
            run("newest", 0, RunPhase::Succeeded),
        ];
        let facts = Facts { runs, ..Facts::default() };
        let keep = |count, hours: u64| Keep { count, for_: Duration::from_secs(hours * 3_600) };
        assert_eq!(expired(&facts, &keep(10, 24), now()), ["old"]);
        assert_eq!(expired(&facts, &keep(0, 1_000), now()), ["new", "old"], "the newest still counts for guards");
        assert!(expired(&facts, &keep(10, 1_000), now()).is_empty());
    }
}
