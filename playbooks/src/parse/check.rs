//! Rules that need more than the shape of a playbook: expressions, order of steps, waits that can never end.

use evergreen_api::{
    FieldError, ProblemKind, Validate,
    resources::{PlaybookSpec, Step, Verify},
};

use super::suggest;
use crate::expression::{Expression, ExpressionError, MAX_LENGTH, Scope};

/// Steps in one playbook. A run keeps up to two log records a step in one object.
pub const MAX_STEPS: usize = 50;
/// Triggers in one playbook.
pub const MAX_TRIGGERS: usize = 20;
/// Longest wait that a playbook may ask for, of anything: a run that takes longer is a job for a person.
pub const MAX_WAIT_SECONDS: u64 = 7 * 86_400;

/// Conditions that Kubernetes itself sets on nodes.
const KUBERNETES_CONDITIONS: &[&str] =
    &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];

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
    check_triggers(spec, &mut errors);
    check_steps(spec, &mut errors);
    if let Some(verify) = &spec.verify {
        check_verify("spec.verify", verify, &mut errors);
    }
    errors
}

fn push(errors: &mut Vec<SpecError>, path: impl Into<String>, message: impl Into<String>) {
    errors.push(FieldError::new(path, message).into());
}

fn check_sizes(spec: &PlaybookSpec, errors: &mut Vec<SpecError>) {
    if spec.summary.chars().count() > MAX_LENGTH {
        push(errors, "spec.summary", format!("too long: at most {MAX_LENGTH} characters"));
    }
    for (path, count, most) in
        [("spec.match", spec.matches.len(), MAX_TRIGGERS), ("spec.steps", spec.steps.len(), MAX_STEPS)]
    {
        if count > most {
            push(errors, path, format!("{count} entries are too many: at most {most}"));
        }
    }
    let guards = &spec.guards;
    for (path, duration) in
        [("spec.guards.cooldown", guards.cooldown), ("spec.guards.attempts.window", guards.attempts.window)]
    {
        if duration.get().as_secs() > 52 * MAX_WAIT_SECONDS {
            push(errors, path, format!("{duration} is too long: at most 364d"));
        }
    }
    if guards.attempts.window.get().is_zero() {
        push(errors, "spec.guards.attempts.window", "0s counts nothing: give the time that attempts are counted over");
    }
}

fn check_triggers(spec: &PlaybookSpec, errors: &mut Vec<SpecError>) {
    for (index, trigger) in spec.matches.iter().enumerate() {
        if let Some(condition) = &trigger.node_condition {
            let path = format!("spec.match[{index}].nodeCondition");
            check_condition_type(&format!("{path}.type"), &condition.type_, errors);
            if !["True", "False", "Unknown"].contains(&condition.status.as_str()) {
                push(errors, format!("{path}.status"), "a condition is \"True\", \"False\" or \"Unknown\"");
            }
            check_wait(&format!("{path}.for"), condition.for_.get().as_secs(), errors);
        }
        if let Some(when) = &trigger.when {
            let path = format!("spec.match[{index}].when");
            match check_expression(&path, when, Scope::Trigger, errors) {
                Some(false) => push(errors, path, "it is always false: this trigger never starts anything"),
                Some(true) => push(errors, path, "it is always true: leave it out"),
                None => {}
            }
        }
    }
}

fn check_condition_type(path: &str, type_: &str, errors: &mut Vec<SpecError>) {
    if type_.is_empty() || !type_.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c)) {
        push(errors, path, "name the type of a Node condition, as in KernelOops");
        return;
    }
    let known: Vec<&str> = ProblemKind::ALL
        .iter()
        .map(|kind| kind.condition_type())
        .chain(KUBERNETES_CONDITIONS.iter().copied())
        .collect();
    // Other detectors set types of their own, so an unknown type is no error; a slip of the finger is.
    let meant = suggest::nearest(type_, &known).filter(|meant| meant.len().abs_diff(type_.len()) <= 2);
    if let Some(meant) = meant.filter(|_| !known.contains(&type_)) {
        push(errors, path, format!("`{type_}` is no known condition: did you mean `{meant}`?"));
    }
}

/// Follows the steps in order and finds those that can never do anything.
fn check_steps(spec: &PlaybookSpec, errors: &mut Vec<SpecError>) {
    let mut cordoned = false;
    let mut stopped_by: Option<usize> = None;
    for (index, step) in spec.steps.iter().enumerate() {
        let path = format!("spec.steps[{index}]");
        if let Some(by) = stopped_by.take() {
            push(errors, path.clone(), format!("unreachable: step {} never ends well", by + 1));
        }
        match step {
            Step { cordon: Some(_), .. } if cordoned => {
                push(errors, format!("{path}.cordon"), "the node is cordoned already: leave this step out");
            }
            Step { cordon: Some(_), .. } => cordoned = true,
            Step { uncordon: Some(_), .. } if !cordoned => push(
                errors,
                format!("{path}.uncordon"),
                "it gives back only what this playbook cordoned: put `- cordon: {}` before it, or leave it out",
            ),
            Step { uncordon: Some(_), .. } => cordoned = false,
            Step { drain: Some(drain), .. } => {
                if !cordoned {
                    push(
                        errors,
                        format!("{path}.drain"),
                        "the scheduler would put pods back while they are moved: put `- cordon: {}` before it",
                    );
                }
                check_timeout(&format!("{path}.drain.timeout"), drain.timeout.get().as_secs(), errors);
            }
            Step { restart: Some(restart), .. } => {
                for (field, name) in [("namespace", &restart.namespace), ("deployment", &restart.deployment)] {
                    if !is_dns_name(name) {
                        push(errors, format!("{path}.restart.{field}"), format!("`{name}` is no Kubernetes name"));
                    }
                }
                check_timeout(&format!("{path}.restart.timeout"), restart.timeout.get().as_secs(), errors);
            }
            Step { wait: Some(wait), .. } => {
                let field = format!("{path}.wait.until");
                match check_expression(&field, &wait.until, Scope::Run, errors) {
                    Some(false) => {
                        push(errors, field, "it is always false: this wait never ends well");
                        stopped_by = Some(index);
                    }
                    Some(true) => push(errors, field, "it is always true: leave this step out"),
                    None => {}
                }
                check_timeout(&format!("{path}.wait.timeout"), wait.timeout.get().as_secs(), errors);
            }
            Step { verify: Some(verify), .. } => {
                stopped_by = check_verify(&format!("{path}.verify"), verify, errors).then_some(index);
            }
            _ => {}
        }
    }
}

/// Returns whether it can never end well.
fn check_verify(path: &str, verify: &Verify, errors: &mut Vec<SpecError>) -> bool {
    let field = format!("{path}.that");
    let constant = check_expression(&field, &verify.that, Scope::Run, errors);
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
    check_timeout(&format!("{path}.timeout"), verify.timeout.get().as_secs(), errors);
    impossible || constant == Some(false)
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
