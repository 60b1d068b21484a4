//! Rules that need more than the shape of a playbook: expressions, order of steps, waits that can never end.

mod steps;
mod triggers;

pub(crate) use triggers::scope_of;

use evergreen_api::{
    FieldError, Validate,
    resources::{DATA_CENTER, PlaybookSpec},
};

use crate::{
    expression::{Expression, ExpressionError, MAX_LENGTH, Scope},
    steps as facts,
};

/// Steps in one playbook. A run keeps up to two log records a step in one object.
pub const MAX_STEPS: usize = 50;
/// Steps of `onFailure` in one playbook.
pub const MAX_ON_FAILURE: usize = 5;
/// Most people that a run can need: more are never found in time.
const MAX_APPROVALS: u32 = 5;
/// Least cooldown where a run may itself change what started it.
const MIN_COOLDOWN_SECONDS: u64 = 30;
/// Triggers in one playbook.
pub const MAX_TRIGGERS: usize = 20;
/// Longest wait that a playbook may ask for, of anything: a run that takes longer is a job for a person.
pub const MAX_WAIT_SECONDS: u64 = 7 * 86_400;

/// An error at a field; with the place inside the field's text when it is in an expression.
pub(crate) struct SpecError {
    pub(crate) field: FieldError,
    pub(crate) offset: Option<usize>,
}

impl From<FieldError> for SpecError {
    fn from(field: FieldError) -> Self {
        Self { field, offset: None }
    }
}

/// Everything that is wrong with a spec, in the order of its fields.
pub(crate) fn check(spec: &PlaybookSpec) -> Vec<SpecError> {
    let mut errors: Vec<SpecError> = spec.validate().into_iter().map(SpecError::from).collect();
    check_sizes(spec, &mut errors);
    triggers::check(spec, &mut errors);
    steps::check(spec, &mut errors);
    check_approvals(spec, &mut errors);
    errors
}

fn push(errors: &mut Vec<SpecError>, path: impl Into<String>, message: impl Into<String>) {
    errors.push(FieldError::new(path, message).into());
}

fn check_sizes(spec: &PlaybookSpec, errors: &mut Vec<SpecError>) {
    if spec.summary.chars().count() > MAX_LENGTH {
        push(errors, "spec.summary", format!("too long: at most {MAX_LENGTH} characters"));
    }
    for (path, count, most) in [
        ("spec.match", spec.matches.len(), MAX_TRIGGERS),
        ("spec.steps", spec.steps.len(), MAX_STEPS),
        ("spec.onFailure", spec.on_failure.len(), MAX_ON_FAILURE),
    ] {
        if count > most {
            push(errors, path, format!("{count} entries are too many: at most {most}"));
        }
    }
    let guards = &spec.guards;
    for (path, duration) in [
        ("spec.guards.cooldown", guards.cooldown),
        ("spec.guards.attempts.window", guards.attempts.window),
        ("spec.guards.storm.resumeAfter", guards.storm.resume_after),
        ("spec.guards.approvals.timeout", guards.approvals.timeout),
        ("spec.guards.rackPause", guards.rack_pause),
    ] {
        if duration.get().as_secs() > 52 * MAX_WAIT_SECONDS {
            push(errors, path, format!("{duration} is too long: at most 364d"));
        }
    }
    if guards.attempts.window.get().is_zero() {
        push(errors, "spec.guards.attempts.window", "0s counts nothing: give the time that attempts are counted over");
    }
}

/// Nobody asks for more people than there are; and nothing may start itself again at once.
fn check_approvals(spec: &PlaybookSpec, errors: &mut Vec<SpecError>) {
    let approvals = &spec.guards.approvals;
    for (field, people) in [("steady", approvals.steady), ("agile", approvals.agile)] {
        if people > MAX_APPROVALS {
            push(
                errors,
                format!("spec.guards.approvals.{field}"),
                format!("at most {MAX_APPROVALS} people can be asked"),
            );
        }
    }
    check_timeout("spec.guards.approvals.timeout", approvals.timeout.get().as_secs(), errors);
    let changes_its_cause = spec
        .matches
        .iter()
        .any(|trigger| trigger.object.is_some() || trigger.event.is_some() || trigger.alert.is_some());
    if changes_its_cause && spec.guards.cooldown.get().as_secs() < MIN_COOLDOWN_SECONDS {
        let message = format!(
            "{} is too short: a run may change what started it and would start itself again; give at least \
             {MIN_COOLDOWN_SECONDS}s",
            spec.guards.cooldown
        );
        push(errors, "spec.guards.cooldown", message);
    }
}

/// Which variables the steps of a playbook see.
pub(crate) fn run_scope(spec: &PlaybookSpec) -> Scope {
    match facts::subject_kind(spec) {
        "Node" | DATA_CENTER => Scope::NodeRun,
        _ => Scope::ObjectRun,
    }
}

fn check_timeout(path: &str, seconds: u64, errors: &mut Vec<SpecError>) {
    if seconds == 0 {
        push(errors, path, "less than a second can never be met: give at least 1s");
    }
    check_wait(path, seconds, errors);
}

fn check_wait(path: &str, seconds: u64, errors: &mut Vec<SpecError>) {
    if seconds > MAX_WAIT_SECONDS {
        push(errors, path, "too long: at most 7d");
    }
}

/// Returns the value that it always has, if any.
fn check_expression(path: &str, source: &str, scope: Scope, errors: &mut Vec<SpecError>) -> Option<bool> {
    match Expression::compile(source, scope) {
        Ok(expression) => expression.constant(),
        Err(ExpressionError { offset, message }) => {
            errors.push(SpecError { field: FieldError::new(path, message), offset: Some(offset) });
            None
        }
    }
}

/// Whether a text is a DNS-1123 name as Kubernetes objects have.
pub(crate) fn is_dns_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253 && name.chars().all(inner) && edge(name.chars().next()) && edge(name.chars().last())
}
