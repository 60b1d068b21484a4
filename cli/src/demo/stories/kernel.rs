//! Story one: the kernel log of a simulated node shows an oops. Its real agent must see it, the controller must move the
//! pods away within the PodDisruptionBudget, and give the node back once it is repaired.

use std::time::Duration;

use evergreen_api::{
    TraceParent,
    names::SYSTEM_NAMESPACE,
    resources::{PlaybookRun, RunPhase, StepOutcome},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, api::ListParams};
use tokio::time::Instant;

use crate::demo::{
    budget_watch::{BudgetWatch, is_ready},
    kernel_report,
    manifests::{MIN_AVAILABLE, NAMESPACE, SERVICE},
    messages::{self, Text},
    result::StoryResult,
    stage::{Site, Stage},
    timeline::{Chapter, Mark},
    wait::{LOOK_EVERY, until},
};

const CHAPTER: Chapter = Chapter::Kernel;
/// The agent tails the log and writes on change; this is ten times what it needs.
const DETECTION_LIMIT: Duration = Duration::from_secs(10);
/// A controller acts within seconds of a condition.
const RUN_LIMIT: Duration = Duration::from_secs(10);
/// Drain, repair, verification and giving back, each of them seconds in the demo.
const CURE_LIMIT: Duration = Duration::from_secs(45);

/// Plays the story.
pub async fn play(stage: &Stage) -> StoryResult {
    let mut result = StoryResult::begin(CHAPTER, stage.timeline.elapsed());
    let outcome = act(stage, &mut result).await;
    conclude_with_clients(stage, result, outcome)
}

fn conclude_with_clients(stage: &Stage, result: StoryResult, outcome: Result<(), Text>) -> StoryResult {
    let result = super::conclude(stage, result, outcome);
    let mark = if result.clients.errors == 0 { Mark::Good } else { Mark::Note };
    stage.timeline.say(CHAPTER, mark, messages::client_errors(result.clients.errors, result.clients.requests));
    result
}

async fn act(stage: &Stage, result: &mut StoryResult) -> Result<(), Text> {
    let (timeline, site) = (&stage.timeline, &stage.sites[0]);
    let (victim, pods) = busiest_node(site).await?;
    let budget = BudgetWatch::begin(site.client.clone(), NAMESPACE, SERVICE);

    for (priority, line) in kernel_report::OOPS {
        site.world.kernel_log(&victim, *priority, line).map_err(|error| messages::broke(&error.to_string()))?;
    }
    let fault = Instant::now();
    timeline.say(CHAPTER, Mark::Fault, messages::kernel_fault(&victim, pods));

    let nodes: Api<Node> = Api::all(site.client.clone());
    until(timeline, messages::waiting_condition(), DETECTION_LIMIT, || async {
        let node = nodes.get_opt(&victim).await.ok()??;
        has_condition(&node).then_some(())
    })
    .await?;
    result.detected = Some(fault.elapsed());
    timeline.say(CHAPTER, Mark::Step, messages::kernel_condition(kernel_report::CONDITION, fault.elapsed()));

    let run = until(timeline, messages::waiting_run(), RUN_LIMIT, || run_for(&site.client, &victim)).await?;
    let name = run.metadata.name.clone().unwrap_or_default();
    result.trace_id = trace_id(&run);
    timeline.say(CHAPTER, Mark::Step, messages::run_started(&run.spec.playbook, &name));

    let phase = tokio::time::timeout(CURE_LIMIT, follow(stage, site, &victim, &name))
        .await
        .map_err(|_| messages::late(&messages::waiting_step(&name), CURE_LIMIT))??;
    timeline.waiting(None);
    if phase != RunPhase::Succeeded {
        return Err(messages::run_ended(&name, &format!("{phase:?}")));
    }
    let node = nodes.get(&victim).await.map_err(|error| messages::broke(&error.to_string()))?;
    if has_condition(&node) || node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        return Err(messages::node_not_back(&victim));
    }
    result.healed = Some(fault.elapsed());
    timeline.say(CHAPTER, Mark::Good, messages::node_healed(&victim, fault.elapsed()));

    let needed = MIN_AVAILABLE as usize;
    match budget.least() {
        Some(least) if least >= needed => {
            timeline.say(CHAPTER, Mark::Good, messages::budget_kept(least, needed));
            Ok(())
        }
        least => Err(messages::budget_broken(least.unwrap_or(0), needed)),
    }
}

/// The node of a site with the most ready pods of the service, and how many.
async fn busiest_node(site: &Site) -> Result<(String, usize), Text> {
    let pods: Api<Pod> = Api::namespaced(site.client.clone(), NAMESPACE);
    let list = pods
        .list(&ListParams::default().labels(&format!("app={SERVICE}")))
        .await
        .map_err(|error| messages::broke(&error.to_string()))?;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for pod in list.items.iter().filter(|pod| is_ready(pod)) {
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            *counts.entry(node).or_default() += 1;
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).ok_or_else(|| messages::broke("no pod of the service is ready"))
}

/// Follows a run to its end; repairs the node once it is drained, as a person or a reboot step would.
async fn follow(stage: &Stage, site: &Site, victim: &str, run: &str) -> Result<RunPhase, Text> {
    let runs: Api<PlaybookRun> = Api::namespaced(site.client.clone(), SYSTEM_NAMESPACE);
    let (mut told, mut repaired) = (0, false);
    loop {
        let status = runs.get_opt(run).await.ok().flatten().and_then(|run| run.status).unwrap_or_default();
        for step in status.log.iter().skip(told) {
            let Some(outcome) = step.outcome else { break };
            told += 1;
            let mark = if matches!(outcome, StepOutcome::Done | StepOutcome::Skipped) { Mark::Step } else { Mark::Bad };
            stage.timeline.say(CHAPTER, mark, messages::run_step(&step.action, outcome, &step.message));
            if step.action == "drain" && outcome == StepOutcome::Done && !repaired {
                repaired = true;
                stage.timeline.say(CHAPTER, Mark::Act, messages::node_repaired(victim));
                site.world.reboot(victim).await.map_err(|error| messages::broke(&format!("{error:#}")))?;
            }
        }
        if status.phase.is_final() {
            return Ok(status.phase);
        }
        let doing = status.log.last().map_or(status.message.as_str(), |step| step.action.as_str());
        stage.timeline.waiting(Some(messages::waiting_step(doing)));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn run_for(client: &Client, node: &str) -> Option<PlaybookRun> {
    let runs: Api<PlaybookRun> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let list = runs.list(&ListParams::default()).await.ok()?;
    list.items.into_iter().find(|run| run.spec.subject.name == node)
}

fn trace_id(run: &PlaybookRun) -> Option<String> {
    let context: TraceParent = run.spec.traceparent.as_deref()?.parse().ok()?;
    Some(format!("{:032x}", context.trace_id))
}

fn has_condition(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == kernel_report::CONDITION && c.status == "True"))
}
