//! What is true of each kind of step: for which objects it is, and whether it can be undone.

use evergreen_api::resources::{DATA_CENTER, HttpMethod, PlaybookSpec, Step, StepKind};

use crate::kinds;

/// How a step is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inverse {
    /// From what was recorded before it.
    PreImage,
    /// It changes nothing that would have to be undone.
    Nothing,
    /// It cannot be undone.
    Cannot,
}

/// How a step is undone.
pub fn inverse(step: &StepKind<'_>) -> Inverse {
    match step {
        StepKind::Cordon(_)
        | StepKind::Taint(_)
        | StepKind::Untaint(_)
        | StepKind::Label(_)
        | StepKind::Annotate(_)
        | StepKind::Scale(_)
        | StepKind::Patch(_) => Inverse::PreImage,
        // The pods run elsewhere, replaced by their workload, and none of them is worse off than after any rollout.
        StepKind::Drain(_)
        | StepKind::Evict(_)
        | StepKind::Restart(_)
        | StepKind::Wait(_)
        | StepKind::Verify(_)
        | StepKind::Uncordon(_)
        | StepKind::Notify(_)
        | StepKind::Approve(_)
        | StepKind::RunPlaybook(_)
        | StepKind::Stop(_) => Inverse::Nothing,
        StepKind::Http(http) if http.method == HttpMethod::Get => Inverse::Nothing,
        StepKind::DeletePod(_)
        | StepKind::CreateJob(_)
        | StepKind::Http(_)
        | StepKind::Fence(_)
        | StepKind::OutOfService(_) => Inverse::Cannot,
    }
}

/// Whether it takes something away by force, so that two of them on one rack need time between them.
pub fn is_destructive(step: &StepKind<'_>) -> bool {
    matches!(step, StepKind::DeletePod(_) | StepKind::Fence(_) | StepKind::OutOfService(_))
}

/// Whether any step of a playbook is destructive.
pub fn any_destructive(spec: &PlaybookSpec) -> bool {
    spec.steps.iter().filter_map(Step::kind).any(|step| is_destructive(&step))
}

/// Why a step cannot be in a playbook whose runs are for objects of a kind.
pub fn misplaced(step: &StepKind<'_>, subject: &str) -> Option<String> {
    let only = |what: &str| Some(format!("it is for {what}; the runs of this playbook are for a {subject}"));
    let workload_named = |names: &[&Option<String>]| names.iter().any(|name| name.is_some());
    match step {
        StepKind::Cordon(_)
        | StepKind::Uncordon(_)
        | StepKind::Drain(_)
        | StepKind::Taint(_)
        | StepKind::Untaint(_)
        | StepKind::Fence(_)
        | StepKind::OutOfService(_)
            if subject != "Node" =>
        {
            only("Nodes")
        }
        StepKind::Evict(_) | StepKind::DeletePod(_) if subject != "Pod" => only("Pods"),
        StepKind::Restart(restart)
            if !workload_named(&[&restart.deployment, &restart.stateful_set, &restart.daemon_set])
                && subject != "Pod"
                && !kinds::is_workload(subject) =>
        {
            Some(format!("name a workload, as in `deployment: NAME`: a {subject} has none of its own"))
        }
        StepKind::Scale(scale)
            if !workload_named(&[&scale.deployment, &scale.stateful_set])
                && !matches!(subject, "Pod" | "Deployment" | "StatefulSet") =>
        {
            Some(format!("name a workload, as in `deployment: NAME`: a {subject} cannot be scaled"))
        }
        StepKind::Label(_) | StepKind::Annotate(_) if kinds::named(subject).is_none() => {
            Some(format!("objects of kind {subject} are not changed by playbooks"))
        }
        StepKind::Wait(_) | StepKind::Verify(_) | StepKind::Stop(_) if subject == DATA_CENTER => {
            Some("the runs of this playbook are for no single object, so there is nothing that CEL could see".into())
        }
        StepKind::CreateJob(job) if job.on_node && !matches!(subject, "Node" | "Pod") => only("Nodes and Pods"),
        _ => None,
    }
}

/// Kind of the objects that the runs of a playbook are for, by its first trigger.
pub fn subject_kind(spec: &PlaybookSpec) -> &str {
    spec.matches.iter().find_map(|trigger| trigger.subject_kind()).unwrap_or("Node")
}

/// People who must approve a run before its first step. What cannot be undone needs at least one where things are steady,
/// unless the playbook asks for approval itself before it.
pub fn approvals(spec: &PlaybookSpec, agile: bool) -> u32 {
    let asked = &spec.guards.approvals;
    if agile {
        return asked.agile;
    }
    let first = |wanted: fn(&StepKind<'_>) -> bool| {
        spec.steps.iter().position(|step| step.kind().is_some_and(|kind| wanted(&kind)))
    };
    let lasting = first(|kind| inverse(kind) == Inverse::Cannot);
    let approved = first(|kind| matches!(kind, StepKind::Approve(_)));
    let needs = lasting.is_some_and(|lasting| approved.is_none_or(|approved| approved > lasting));
    asked.steady.max(u32::from(needs))
}
