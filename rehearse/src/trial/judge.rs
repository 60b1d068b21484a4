//! Whether a run ended as the test says.

use std::collections::BTreeMap;

use evergreen_api::resources::{ObjectName, Playbook, PlaybookRun};
use evergreen_playbooks::{
    expression::{Expression, Scope, Variables},
    steps,
    testing::RunCase,
    view::{ConditionView, NodeView, ObjectView},
};
use evergreen_twin::{Twin, objects::meta};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::world;

pub(super) fn judge(
    twin: &Twin,
    playbook: &Playbook,
    case: &RunCase,
    run: Option<PlaybookRun>,
    asked: &[String],
) -> Result<(), String> {
    let Some(run) = run else {
        let blocked = blocked(twin);
        return Err(format!("no run began{}", if blocked.is_empty() { String::new() } else { format!(": {blocked}") }));
    };
    let status = run.status.clone().unwrap_or_default();
    if status.phase != case.ends {
        return Err(format!(
            "it ended as {:?}, the test says {:?}: {}\n{}",
            status.phase,
            case.ends,
            status.message,
            course(&run)
        ));
    }
    if let Some(then) = &case.then {
        let kind = steps::subject_kind(&playbook.spec);
        let scope = if kind == "Node" { Scope::NodeRun } else { Scope::ObjectRun };
        let mut object = run.spec.subject.object();
        if kind != "Node" && object.api_version == "v1" {
            let known = evergreen_playbooks::kinds::named(&object.kind);
            object.api_version = known.map_or(object.api_version, |kind| kind.api_version.to_owned());
        }
        let mut variables = variables(twin, &object, run.spec.workload.as_ref())?;
        let key = if scope == Scope::NodeRun { "node" } else { "object" };
        variables.insert("before".into(), json!({key: run.spec.before}));
        holds(then, scope, &variables, "then").map_err(|wrong| format!("{wrong}\n{}", course(&run)))?;
    }
    for also in &case.also {
        let scope = if also.of.kind == "Node" { Scope::NodeRun } else { Scope::ObjectRun };
        let variables = variables(twin, &also.of, None)?;
        let what = format!("also: {}", also.of.display());
        holds(&also.that, scope, &variables, &what).map_err(|wrong| format!("{wrong}\n{}", course(&run)))?;
    }
    match &case.told {
        Some(told) if told != asked => Err(format!("told: {asked:?} were asked, the test says {told:?}")),
        _ => Ok(()),
    }
}

fn holds(expression: &str, scope: Scope, variables: &Variables, what: &str) -> Result<(), String> {
    let compiled = Expression::compile(expression, scope).map_err(|error| format!("{what}: {error}"))?;
    match compiled.holds_on(variables) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{what}: `{expression}` does not hold in the end")),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

/// What the run did, as people read it.
fn course(run: &PlaybookRun) -> String {
    let log = run.status.iter().flat_map(|status| &status.log);
    let lines = log.map(|step| {
        let outcome = step.outcome.map_or_else(|| "...".to_owned(), |outcome| format!("{outcome:?}"));
        format!("  {}{}: {outcome} {}", if step.undo { "undo: " } else { "" }, step.action, step.message)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn blocked(twin: &Twin) -> String {
    let events = twin.api().read_all("", "events", None);
    let told = events
        .iter()
        .filter(|event| event["reason"] == "PlaybookBlocked")
        .filter_map(|event| event["note"].as_str().or(event["message"].as_str()).map(ToOwned::to_owned));
    told.collect::<Vec<_>>().join("; ")
}

fn variables(twin: &Twin, name: &ObjectName, workload: Option<&ObjectName>) -> Result<Variables, String> {
    let mut variables = Variables::new();
    let found = world::find(twin, name)?;
    if name.kind == "Node" {
        let object = found.ok_or_else(|| format!("there is no {}", name.display()))?;
        variables.insert("node".into(), node(twin, &object).to_fields().into());
        return Ok(variables);
    }
    variables.insert("gone".into(), found.is_none().into());
    let object = found.unwrap_or_else(|| json!({"metadata": {}}));
    let view = ObjectView::new(&name.api_version, &name.kind, object.clone());
    let workload = match workload {
        Some(workload) => world::find(twin, workload)?
            .and_then(|body| ObjectView::new(&workload.api_version, &workload.kind, body).workload_fields()),
        None => view.workload_fields(),
    };
    variables.insert("object".into(), object);
    variables.insert("workload".into(), workload.unwrap_or_else(|| json!({})));
    Ok(variables)
}

fn node(twin: &Twin, object: &Value) -> NodeView {
    let text = |path: &[&str]| meta::text(object, path).unwrap_or_default().to_owned();
    let conditions = meta::list(object, &["status", "conditions"]).iter().map(|condition| {
        let status = condition["status"].as_str().unwrap_or_default().to_owned();
        let view = ConditionView { status, seen_since: Timestamp::UNIX_EPOCH };
        (condition["type"].as_str().unwrap_or_default().to_owned(), view)
    });
    let on_it = |pod: &&Value| {
        meta::text(pod, &["spec", "nodeName"]) == Some(meta::name(object))
            && !matches!(meta::text(pod, &["status", "phase"]), Some("Succeeded" | "Failed"))
    };
    let pods = twin.api().read_all("", "pods", None);
    NodeView {
        name: meta::name(object).to_owned(),
        uid: meta::uid(object).to_owned(),
        boot_id: text(&["status", "nodeInfo", "bootID"]),
        unschedulable: object["spec"]["unschedulable"] == true,
        labels: object["metadata"]["labels"]
            .as_object()
            .map(|labels| {
                labels
                    .iter()
                    .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
                    .collect::<BTreeMap<_, _>>()
            })
            .unwrap_or_default(),
        conditions: conditions.collect(),
        pod_count: u32::try_from(pods.iter().filter(on_it).count()).unwrap_or(u32::MAX),
        ..NodeView::default()
    }
}
