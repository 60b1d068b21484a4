//! Each kind of step: what to record before it, how to see that it is done, and how to undo it.

mod control;
mod fields;
mod node;
mod outbound;
mod pods;
mod power;
mod restart;

use evergreen_api::resources::{ObjectName, StepKind, StepRecord, spec_hash};

use super::{Image, Look, RunProgram, World, step_key};
use crate::kinds;

/// Name of the run that a runPlaybook step, or a failure, asks for: the same whoever starts it.
pub fn child_name(playbook: &str, key: &str) -> String {
    format!("{playbook}-{}", &spec_hash(&key)[..10])
}

/// What is there before a step, or what has to be looked at to know.
pub(super) fn pre_image(
    run: &RunProgram,
    step: Option<StepKind<'_>>,
    index: usize,
    world: &World,
) -> Result<Image, Look> {
    let Some(step) = step else { return Ok(Image::new()) };
    match step {
        StepKind::Cordon(_) | StepKind::Uncordon(_) => Ok(node::image(world)),
        StepKind::Drain(_) => Ok(node::drain_image(world)),
        StepKind::Fence(_) => Ok(power::fence_image(world)),
        StepKind::OutOfService(_) => {
            looked(world, &run.subject()).map(|node| power::out_of_service_image(node.as_ref()))
        }
        StepKind::Restart(restart) => match restart::workload(run, restart) {
            Some(object) => looked(world, &object).map(|found| restart::image(found.as_ref())),
            None => Ok(Image::new()),
        },
        StepKind::Evict(_) | StepKind::DeletePod(_) => {
            looked(world, &run.subject()).map(|pod| pods::image(run, pod.as_ref()))
        }
        StepKind::RunPlaybook(other) => {
            let key = step_key(run.name(), index, false, "runPlaybook");
            Ok(Image::from_iter([("run".to_owned(), child_name(&other.name, &key).into())]))
        }
        step => match fields::target(run, &step) {
            Some(object) => looked(world, &object).map(|found| fields::image(run, &step, found.as_ref())),
            None => Ok(Image::new()),
        },
    }
}

/// What is there before a step is undone, or what has to be looked at to know.
pub(super) fn undo_image(run: &RunProgram, record: &StepRecord, world: &World) -> Result<Image, Look> {
    let step = run.spec().plan.steps.get(record.index as usize).and_then(|step| step.kind());
    match step.and_then(|step| fields::target(run, &step)) {
        Some(object) => looked(world, &object).map(|found| fields::undo_image(record, found.as_ref())),
        None => Ok(node::image(world)),
    }
}

/// Name of what undoes a step.
pub(super) fn undo_action(action: &str) -> &str {
    match action {
        "cordon" => "uncordon",
        "taint" => "untaint",
        "untaint" => "taint",
        other => other,
    }
}

fn looked<'a>(world: &'a World, object: &ObjectName) -> Result<&'a Option<crate::view::ObjectView>, Look> {
    world.objects.get(object).ok_or_else(|| Look::Object(object.clone()))
}

/// A workload by the names in a step, or the run's own.
fn workload_named(
    run: &RunProgram,
    namespace: Option<&String>,
    names: &[(&str, Option<&String>)],
) -> Option<ObjectName> {
    let named = names.iter().find_map(|(kind, name)| Some((*kind, (*name)?)));
    match named {
        Some((kind, name)) => Some(ObjectName {
            api_version: "apps/v1".to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.cloned(),
            name: name.clone(),
        }),
        None => run.spec().workload.clone().or_else(|| Some(run.subject()).filter(|own| kinds::is_workload(&own.kind))),
    }
}
