//! Rules for what a playbook does: each step by itself, and their order.

use evergreen_api::resources::{
    HttpStep, JobStep, MetadataStep, NotifyStep, PatchStep, PlaybookSpec, RestartStep, ScaleStep, Step, StepKind,
    Verify,
};
use serde_json::{Map, Value};

use super::{SpecError, check_expression, check_timeout, is_dns_name, push, run_scope};
use crate::{expression::Scope, kinds, parse::MAX_NAME, steps as facts};

/// Longest text that a step may send, in characters.
const MAX_TEXT: usize = 4_000;
/// Keys of one label or annotate step, arguments of one Job, leaves of one patch.
const MAX_ENTRIES: usize = 50;
/// Steps that may follow a failure.
const AFTER_FAILURE: &[&str] = &["notify", "http", "label", "annotate", "runPlaybook"];

/// What the steps before have done.
#[derive(Default)]
struct Before {
    cordoned: bool,
    fenced: bool,
    stopped_by: Option<usize>,
}

pub(super) fn check(spec: &PlaybookSpec, errors: &mut Vec<SpecError>) {
    let scope = run_scope(spec);
    let subject = facts::subject_kind(spec);
    let mut before = Before::default();
    for (index, step) in spec.steps.iter().enumerate() {
        let path = format!("spec.steps[{index}]");
        if let Some(by) = before.stopped_by.take() {
            push(errors, path.clone(), format!("unreachable: step {} never ends well", by + 1));
        }
        let Some(kind) = step.kind() else { continue };
        check_step(&path, step, &kind, subject, scope, errors);
        check_order(&path, index, &kind, scope, &mut before, errors);
    }
    if let Some(verify) = &spec.verify {
        if let Some(why) = facts::misplaced(&StepKind::Verify(verify), subject) {
            push(errors, "spec.verify", why);
        } else {
            check_verify("spec.verify", verify, scope, errors);
        }
    }
    check_on_failure(spec, subject, scope, errors);
}

fn check_on_failure(spec: &PlaybookSpec, subject: &str, scope: Scope, errors: &mut Vec<SpecError>) {
    for (index, step) in spec.on_failure.iter().enumerate() {
        let path = format!("spec.onFailure[{index}]");
        let Some(kind) = step.kind() else { continue };
        let action = step.actions().first().copied().unwrap_or_default();
        if !AFTER_FAILURE.contains(&action) {
            push(errors, &path, format!("after a failure there can be {}", AFTER_FAILURE.join(", ")));
            continue;
        }
        if action == "runPlaybook" && index + 1 < spec.on_failure.len() {
            push(errors, &path, "the other playbook begins when this run has ended: put this step last");
        }
        check_step(&path, step, &kind, subject, scope, errors);
    }
}

fn check_step(path: &str, step: &Step, kind: &StepKind<'_>, subject: &str, scope: Scope, errors: &mut Vec<SpecError>) {
    let action = step.actions().first().copied().unwrap_or_default();
    let path = format!("{path}.{action}");
    if let Some(why) = facts::misplaced(kind, subject) {
        push(errors, &path, why);
        return;
    }
    match kind {
        StepKind::Drain(drain) => timeout(&path, drain.timeout, errors),
        StepKind::Evict(evict) => timeout(&path, evict.timeout, errors),
        StepKind::DeletePod(delete) => timeout(&path, delete.timeout, errors),
        StepKind::Fence(fence) => timeout(&path, fence.timeout, errors),
        StepKind::OutOfService(out) => timeout(&path, out.timeout, errors),
        StepKind::Restart(restart) => check_restart(&path, restart, errors),
        StepKind::Scale(scale) => check_scale(&path, scale, errors),
        StepKind::Taint(taint) => {
            check_key(&format!("{path}.key"), &taint.key, errors);
            check_label_value(&format!("{path}.value"), taint.value.as_deref().unwrap_or_default(), errors);
        }
        StepKind::Untaint(untaint) => check_key(&format!("{path}.key"), &untaint.key, errors),
        StepKind::Label(label) => check_metadata(&path, label, true, errors),
        StepKind::Annotate(annotate) => check_metadata(&path, annotate, false, errors),
        StepKind::Patch(patch) => check_patch(&path, patch, subject, errors),
        StepKind::CreateJob(job) => check_job(&path, job, errors),
        StepKind::Http(http) => check_http(&path, http, errors),
        StepKind::Notify(notify) => check_notify(&path, notify, errors),
        StepKind::Approve(approve) => {
            if !(1..=5).contains(&approve.people) {
                push(errors, format!("{path}.people"), "1 to 5 people can be asked");
            }
            if approve.why.trim().is_empty() {
                push(errors, format!("{path}.why"), "say what they are asked");
            }
            timeout(&path, approve.timeout, errors);
        }
        StepKind::RunPlaybook(run) => {
            if run.name.len() > MAX_NAME || !is_dns_name(&run.name) {
                push(errors, format!("{path}.name"), format!("`{}` is no name of a playbook", run.name));
            }
            timeout(&path, run.timeout, errors);
        }
        StepKind::Stop(stop) => {
            let field = format!("{path}.when");
            if check_expression(&field, &stop.when, scope, errors) == Some(false) {
                push(errors, field, "it is always false: leave this step out");
            }
            if stop.why.trim().is_empty() {
                push(errors, format!("{path}.why"), "say why nothing more is to be done then");
            }
        }
        StepKind::Cordon(_) | StepKind::Uncordon(_) | StepKind::Wait(_) | StepKind::Verify(_) => {}
    }
}

/// Follows the steps in order and finds those that can never do anything.
fn check_order(
    path: &str,
    index: usize,
    kind: &StepKind<'_>,
    scope: Scope,
    before: &mut Before,
    errors: &mut Vec<SpecError>,
) {
    match kind {
        StepKind::Cordon(_) if before.cordoned => {
            push(errors, format!("{path}.cordon"), "the node is cordoned already: leave this step out");
        }
        StepKind::Cordon(_) => before.cordoned = true,
        StepKind::Uncordon(_) if !before.cordoned => push(
            errors,
            format!("{path}.uncordon"),
            "it gives back only what this playbook cordoned: put `- cordon: {}` before it, or leave it out",
        ),
        StepKind::Uncordon(_) => before.cordoned = false,
        StepKind::Drain(_) if !before.cordoned => push(
            errors,
            format!("{path}.drain"),
            "the scheduler would put pods back while they are moved: put `- cordon: {}` before it",
        ),
        StepKind::Fence(_) => before.fenced = true,
        StepKind::OutOfService(_) if !before.fenced => push(
            errors,
            format!("{path}.outOfService"),
            "its volumes would be written from two nodes if it still ran: put `- fence: {}` before it",
        ),
        StepKind::Wait(wait) => {
            let field = format!("{path}.wait.until");
            match check_expression(&field, &wait.until, scope, errors) {
                Some(false) => {
                    push(errors, field, "it is always false: this wait never ends well");
                    before.stopped_by = Some(index);
                }
                Some(true) => push(errors, field, "it is always true: leave this step out"),
                None => {}
            }
            timeout(&format!("{path}.wait"), wait.timeout, errors);
        }
        StepKind::Verify(verify) => {
            before.stopped_by = check_verify(&format!("{path}.verify"), verify, scope, errors).then_some(index);
        }
        StepKind::Stop(stop)
            if crate::expression::Expression::compile(&stop.when, scope).is_ok_and(|e| e.constant() == Some(true)) =>
        {
            before.stopped_by = Some(index);
        }
        _ => {}
    }
}

fn timeout(path: &str, timeout: evergreen_api::HumanDuration, errors: &mut Vec<SpecError>) {
    check_timeout(&format!("{path}.timeout"), timeout.get().as_secs(), errors);
}

/// Returns whether it can never end well.
fn check_verify(path: &str, verify: &Verify, scope: Scope, errors: &mut Vec<SpecError>) -> bool {
    let field = format!("{path}.that");
    let constant = check_expression(&field, &verify.that, scope, errors);
    match constant {
        Some(true) => push(errors, field, "it is always true: it verifies nothing"),
        Some(false) => push(errors, field, "it is always false: it never ends well"),
        None => {}
    }
    let impossible = verify.for_ > verify.timeout;
    if impossible {
        let message = format!(
            "can never be met: {} does not fit into the timeout of {}; make `timeout` longer",
            verify.for_, verify.timeout
        );
        push(errors, format!("{path}.for"), message);
    }
    timeout(path, verify.timeout, errors);
    impossible || constant == Some(false)
}

fn check_restart(path: &str, step: &RestartStep, errors: &mut Vec<SpecError>) {
    let names = [
        ("deployment", step.deployment.as_deref()),
        ("statefulSet", step.stateful_set.as_deref()),
        ("daemonSet", step.daemon_set.as_deref()),
    ];
    check_workload(path, step.namespace.as_deref(), &names, errors);
    timeout(path, step.timeout, errors);
}

fn check_scale(path: &str, step: &ScaleStep, errors: &mut Vec<SpecError>) {
    let names = [("deployment", step.deployment.as_deref()), ("statefulSet", step.stateful_set.as_deref())];
    check_workload(path, step.namespace.as_deref(), &names, errors);
    match (step.to, step.by) {
        (Some(_), Some(_)) | (None, None) => push(errors, path, "set either `to` or `by`"),
        (None, Some(0)) => push(errors, format!("{path}.by"), "0 changes nothing: leave this step out"),
        _ => {}
    }
    if step.min > step.max {
        push(errors, format!("{path}.min"), format!("{} is more than `max`, {}", step.min, step.max));
    }
}

fn check_workload(path: &str, namespace: Option<&str>, names: &[(&str, Option<&str>)], errors: &mut Vec<SpecError>) {
    let named: Vec<(&str, &str)> = names.iter().filter_map(|(field, name)| Some((*field, (*name)?))).collect();
    let fields = namespace.map(|namespace| ("namespace", namespace));
    for (field, name) in fields.into_iter().chain(named.iter().copied()) {
        if !is_dns_name(name) {
            push(errors, format!("{path}.{field}"), format!("`{name}` is no Kubernetes name"));
        }
    }
    if named.len() > 1 {
        push(errors, path, format!("name one workload; here: {}", named.len()));
    }
    match (namespace, named.is_empty()) {
        (None, false) => push(errors, path, "the workload's `namespace` is missing"),
        (Some(_), true) => push(errors, path, "a namespace alone names no workload: add `deployment: NAME`"),
        _ => {}
    }
}

fn check_metadata(path: &str, step: &MetadataStep, values_are_labels: bool, errors: &mut Vec<SpecError>) {
    let count = step.set.len() + step.remove.len();
    if count == 0 || count > MAX_ENTRIES {
        push(errors, path, format!("`set` or `remove` 1 to {MAX_ENTRIES} keys"));
    }
    for key in step.set.keys().chain(&step.remove) {
        check_key(path, key, errors);
    }
    for (key, value) in &step.set {
        if step.remove.contains(key) {
            push(errors, path, format!("`{key}` is both set and removed"));
        }
        if values_are_labels {
            check_label_value(path, value, errors);
        } else if value.chars().count() > MAX_TEXT {
            push(errors, path, format!("the value of `{key}` is longer than {MAX_TEXT} characters"));
        }
    }
}

/// Keys that say who an object belongs to: nobody takes them over by a playbook.
fn check_key(path: &str, key: &str, errors: &mut Vec<SpecError>) {
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
    let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let well = (prefix.is_empty() || is_dns_name(prefix))
        && name.len() <= 63
        && name.chars().all(inner)
        && ends_well(name.chars().next())
        && ends_well(name.chars().last());
    if !well {
        push(errors, path, format!("`{key}` is no key: write it as in example.com/name"));
    } else if prefix == evergreen_api::names::GROUP {
        push(errors, path, format!("`{key}` belongs to the product itself: take a prefix of your own"));
    }
}

fn check_label_value(path: &str, value: &str, errors: &mut Vec<SpecError>) {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if value.len() > 63 || !value.chars().all(inner) || !edge(value.chars().next()) || !edge(value.chars().last()) {
        push(errors, path, format!("`{value}` is no value: at most 63 letters, digits, `-`, `_` and `.`"));
    }
}

fn check_patch(path: &str, step: &PatchStep, subject: &str, errors: &mut Vec<SpecError>) {
    let kind = match &step.object {
        Some(object) => kinds::find(&object.api_version, &object.kind),
        None => kinds::named(subject),
    };
    if !kind.is_some_and(|kind| kind.patchable) {
        let known: Vec<&str> = kinds::KINDS.iter().filter(|kind| kind.patchable).map(|kind| kind.kind).collect();
        let named = step.object.as_ref().map_or(subject, |object| object.kind.as_str());
        push(errors, path, format!("fields of a {named} are not changed by playbooks, only of {}", known.join(", ")));
    }
    if let Some(object) = &step.object {
        if kind.is_some_and(|kind| kind.namespaced) != object.namespace.is_some() {
            push(errors, format!("{path}.object.namespace"), "name the namespace that it is in");
        }
        for name in object.namespace.iter().chain([&object.name]) {
            if !is_dns_name(name) {
                push(errors, format!("{path}.object"), format!("`{name}` is no Kubernetes name"));
            }
        }
    }
    let fields = format!("{path}.fields");
    if let Some(key) = step.fields.keys().find(|key| *key != "spec") {
        let message =
            format!("`{key}` is not changed by a patch, only `spec` is; there are steps for labels and annotations");
        push(errors, &fields, message);
    }
    let mut leaves = 0;
    if let Err(why) = count_leaves(&step.fields, &mut leaves) {
        push(errors, &fields, why);
    }
    if leaves == 0 || leaves > MAX_ENTRIES {
        push(errors, &fields, format!("name 1 to {MAX_ENTRIES} fields, as in {{spec: {{minReadySeconds: 10}}}}"));
    }
}

fn count_leaves(fields: &Map<String, Value>, leaves: &mut usize) -> Result<(), String> {
    for (key, value) in fields {
        match value {
            Value::Object(inner) => count_leaves(inner, leaves)?,
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                return Err(format!(
                    "`{key}` is a list of objects, which a server merges by rules of its own: it could not be undone"
                ));
            }
            _ => *leaves += 1,
        }
    }
    Ok(())
}

fn check_job(path: &str, job: &JobStep, errors: &mut Vec<SpecError>) {
    let image = &job.image;
    if image.is_empty() || image.len() > 512 || image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        push(errors, format!("{path}.image"), "name an image, as in registry.example/tools/check:1.2");
    }
    let long = |text: &String| text.chars().count() > MAX_TEXT;
    if job.command.len() + job.args.len() > MAX_ENTRIES || job.command.iter().chain(&job.args).any(long) {
        push(errors, path, format!("at most {MAX_ENTRIES} words of at most {MAX_TEXT} characters"));
    }
    timeout(path, job.timeout, errors);
}

fn check_endpoint(path: &str, endpoint: &str, errors: &mut Vec<SpecError>) {
    if !is_dns_name(endpoint) || endpoint.len() > 63 {
        let message = format!("`{endpoint}` is no name of an endpoint: addresses are in the site's list, not here");
        push(errors, format!("{path}.endpoint"), message);
    }
}

fn check_http(path: &str, http: &HttpStep, errors: &mut Vec<SpecError>) {
    check_endpoint(path, &http.endpoint, errors);
    if let Some(below) = &http.path {
        let well = below.starts_with('/')
            && !below.starts_with("//")
            && below.len() <= 1_024
            && !below.split('/').any(|part| part == "..")
            && below.chars().all(|c| c.is_ascii_graphic() && !"#\\@".contains(c));
        if !well {
            push(errors, format!("{path}.path"), "write a path below the endpoint's address, as in /v1/tickets");
        }
    }
    if http.body.as_ref().is_some_and(|body| body.chars().count() > MAX_TEXT) {
        push(errors, format!("{path}.body"), format!("longer than {MAX_TEXT} characters"));
    }
    if http.body.is_some() && http.method == evergreen_api::resources::HttpMethod::Get {
        push(errors, format!("{path}.body"), "a GET has no body");
    }
    // An answer that sends elsewhere is never a success: the other place is not in the site's list.
    if let Some(code) = http.expect.iter().find(|code| !(200..300).contains(*code) && !(400..600).contains(*code)) {
        push(errors, format!("{path}.expect"), format!("{code} cannot mean success: 200 to 299, or 400 to 599"));
    }
    if http.timeout.get().as_secs() > 60 {
        push(errors, format!("{path}.timeout"), "too long: at most 1m; use wait for what takes longer");
    }
    timeout(path, http.timeout, errors);
}

fn check_notify(path: &str, notify: &NotifyStep, errors: &mut Vec<SpecError>) {
    check_endpoint(path, &notify.endpoint, errors);
    if notify.text.trim().is_empty() || notify.text.chars().count() > MAX_TEXT {
        push(errors, format!("{path}.text"), format!("write 1 to {MAX_TEXT} characters"));
    }
}
