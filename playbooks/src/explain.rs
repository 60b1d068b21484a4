//! What a playbook would do, in words: for dry runs, for `mode: observe`, for goldens.

use evergreen_api::resources::{
    Amount, FailureDomain, MetadataStep, PlaybookSpec, RestartStep, Rollback, ScaleStep, Step, StepKind, Trigger,
    Verify, WhenStopped, Windows,
};

use crate::steps::{Inverse, inverse, subject_kind};

/// The steps, the verification and what happens on failure, one line each.
pub fn steps(spec: &PlaybookSpec) -> Vec<String> {
    let mut lines: Vec<String> = spec.steps.iter().map(|one| step(one, spec)).collect();
    if let Some(verified) = &spec.verify {
        lines.push(verify(verified));
    }
    lines.push(match spec.rollback {
        Rollback::Automatic => "if a step fails: undo what was done, last step first".into(),
        Rollback::Never => "if a step fails: leave everything as it is for a person".into(),
    });
    lines.extend(spec.on_failure.iter().map(|one| format!("then: {}", step(one, spec))));
    lines
}

/// What starts it, one line each.
pub fn triggers(spec: &PlaybookSpec) -> Vec<String> {
    spec.matches.iter().map(trigger).collect()
}

fn trigger(trigger: &Trigger) -> String {
    let mut line = if let Some(condition) = &trigger.node_condition {
        format!("a node whose condition {} is {} for {}", condition.type_, condition.status, condition.for_)
    } else if let Some(event) = &trigger.event {
        let reasons = event.reasons.join(" or ");
        format!(
            "an Event {reasons} ({}) about a {}, {} times, not older than {}",
            event.type_, event.kind, event.count, event.within
        )
    } else if let Some(prediction) = &trigger.prediction {
        let within = prediction.within.map_or_else(String::new, |within| format!(" within {within}"));
        format!("a node for which {} is predicted{within}", prediction.kind)
    } else if let Some(alert) = &trigger.alert {
        let labels: Vec<String> = alert.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("an alert with {}, firing for {}", labels.join(", "), alert.for_)
    } else if let Some(schedule) = &trigger.schedule {
        format!("the time {} in {}", schedule.cron, schedule.time_zone)
    } else if let Some(object) = &trigger.object {
        let place = object.namespace.as_ref().map_or_else(String::new, |namespace| format!(" in {namespace}"));
        format!("a {} ({}){place} for {}", object.kind, object.api_version, object.for_)
    } else {
        "nothing".to_owned()
    };
    if let Some(when) = &trigger.when {
        line.push_str(&format!(", when {when}"));
    }
    line
}

/// The names of the steps and of the verification, for one short line.
pub fn actions(spec: &PlaybookSpec) -> Vec<&'static str> {
    spec.steps.iter().flat_map(Step::actions).chain(spec.verify.as_ref().map(|_| "verify")).collect()
}

/// The bounds within which it acts, one line each.
pub fn guards(spec: &PlaybookSpec) -> Vec<String> {
    let guards = &spec.guards;
    let per = match guards.budget.per {
        FailureDomain::Zone => "zone",
        FailureDomain::Rack => "rack",
        FailureDomain::Pool => "pool",
        FailureDomain::DataCenter => "data center",
    };
    let mut lines = match subject_kind(spec) {
        "Node" => vec![
            format!("at most {} nodes of a {per} out of service at once", amount(guards.budget.max_unavailable)),
            format!("at least {} nodes of a {per} healthy", amount(guards.budget.min_healthy)),
        ],
        _ => vec![format!("at most {} runs at once in a {per}", guards.budget.max_unavailable.of_at_least_one(0))],
    };
    let what = if subject_kind(spec) == "Node" { "a node" } else { "an object" };
    lines.extend([
        format!("at most {} attempts {what} within {}", guards.attempts.max, guards.attempts.window),
        format!("at least {} between two attempts", guards.cooldown),
        format!("nothing when more than {} of all nodes are unhealthy", amount(guards.storm.max_unhealthy)),
    ]);
    if !guards.storm.resume_after.get().is_zero() {
        lines.push(format!("nothing until it has been calm for {}", guards.storm.resume_after));
    }
    if guards.attempts.then_quarantine {
        lines.push("a node whose attempts are used up is put into quarantine".to_owned());
    }
    let approvals = &guards.approvals;
    if approvals.steady + approvals.agile > 0 {
        lines.push(format!(
            "{} people approve what is steady, {} what is agile, within {}",
            approvals.steady, approvals.agile, approvals.timeout
        ));
    }
    if approvals.steady == 0 && crate::steps::approvals(spec, false) > 0 {
        lines.push("what cannot be undone is approved by a person where things are steady".to_owned());
    }
    if crate::steps::any_destructive(spec) {
        lines.push(format!("at least {} between two runs on one rack", guards.rack_pause));
    }
    lines.push(match (guards.windows, guards.when_stopped) {
        (Windows::Ignore, _) => "change freezes do not stop it".to_owned(),
        (Windows::Honour, WhenStopped::Park) => "a change freeze stops it; it waits between two steps".to_owned(),
        (Windows::Honour, WhenStopped::RollBack) => "a change freeze stops it; what was done is undone".to_owned(),
    });
    lines
}

fn step(step: &Step, spec: &PlaybookSpec) -> String {
    let Some(kind) = step.kind() else { return "nothing".into() };
    let thing = match subject_kind(spec) {
        "Node" => "the node",
        "Pod" => "the pod",
        _ => "the object",
    };
    let line = match kind {
        StepKind::Cordon(_) => "cordon the node".into(),
        StepKind::Drain(drain) => format!("drain it within {}, respecting disruption budgets", drain.timeout),
        StepKind::Restart(restart) => format!("restart {} within {}", restarted(restart), restart.timeout),
        StepKind::Wait(wait) => format!("wait up to {} until {}", wait.timeout, wait.until),
        StepKind::Verify(verified) => verify(verified),
        StepKind::Uncordon(_) => "give the node back if this run cordoned it".into(),
        StepKind::Taint(taint) => {
            let value = taint.value.as_ref().map_or_else(String::new, |value| format!("={value}"));
            format!("taint the node with {}{value}:{}", taint.key, taint.effect.as_str())
        }
        StepKind::Untaint(untaint) => {
            format!("take the taint {}:{} off the node", untaint.key, untaint.effect.as_str())
        }
        StepKind::Label(label) => metadata("label", thing, label),
        StepKind::Annotate(annotate) => metadata("annotate", thing, annotate),
        StepKind::Evict(evict) => format!("evict the pod within {}, respecting disruption budgets", evict.timeout),
        StepKind::DeletePod(delete) => format!("delete the pod within {}", delete.timeout),
        StepKind::Scale(scale) => scaled(scale),
        StepKind::Patch(patch) => {
            let object = patch.object.as_ref().map_or_else(|| thing.to_owned(), |object| object.display());
            format!("set in {object}: {}", serde_json::Value::from(patch.fields.clone()))
        }
        StepKind::CreateJob(job) => format!("run a Job with image {} within {}", job.image, job.timeout),
        StepKind::Http(http) => {
            format!(
                "{} {}{} within {}",
                http.method.as_str(),
                http.endpoint,
                http.path.as_deref().unwrap_or_default(),
                http.timeout
            )
        }
        StepKind::Notify(notify) => format!("tell {}: {}", notify.endpoint, notify.text),
        StepKind::Approve(approve) => {
            format!("wait up to {} for {} people to approve: {}", approve.timeout, approve.people, approve.why)
        }
        StepKind::RunPlaybook(run) => format!("run playbook {} and wait up to {} for its end", run.name, run.timeout),
        StepKind::Stop(stop) => format!("end here when {}: {}", stop.when, stop.why),
        StepKind::Fence(fence) => format!("power the node off within {}, and see that it is off", fence.timeout),
        StepKind::OutOfService(out) => {
            format!("have its pods and volumes given up at once, within {}; then take the taint off", out.timeout)
        }
    };
    match inverse(&kind) {
        Inverse::Cannot => format!("{line} (cannot be undone)"),
        _ => line,
    }
}

fn restarted(step: &RestartStep) -> String {
    let named =
        [("Deployment", &step.deployment), ("StatefulSet", &step.stateful_set), ("DaemonSet", &step.daemon_set)];
    workload(step.namespace.as_deref(), &named)
}

fn scaled(step: &ScaleStep) -> String {
    let named = [("Deployment", &step.deployment), ("StatefulSet", &step.stateful_set)];
    let name = workload(step.namespace.as_deref(), &named);
    match (step.to, step.by) {
        (Some(to), _) => format!("scale {name} to {to}"),
        (None, by) => {
            format!("scale {name} by {:+}, to {} at least and {} at most", by.unwrap_or(0), step.min, step.max)
        }
    }
}

fn workload(namespace: Option<&str>, named: &[(&str, &Option<String>)]) -> String {
    let name = named.iter().find_map(|(kind, name)| Some(format!("{kind} {}/{}", namespace?, name.as_ref()?)));
    name.unwrap_or_else(|| "its workload".to_owned())
}

fn metadata(verb: &str, thing: &str, step: &MetadataStep) -> String {
    let set = step.set.iter().map(|(key, value)| format!("{key}={value}"));
    let removed = step.remove.iter().map(|key| format!("without {key}"));
    format!("{verb} {thing}: {}", set.chain(removed).collect::<Vec<_>>().join(", "))
}

fn verify(verify: &Verify) -> String {
    format!("verify for {} within {} that {}", verify.for_, verify.timeout, verify.that)
}

fn amount(amount: Amount) -> String {
    match amount {
        Amount::Count(count) => count.to_string(),
        Amount::Percent(percent) => format!("{percent}%"),
    }
}
