//! The shape of a playbook; expressions are checked where CEL lives, in the playbooks room.

use super::{Amount, PlaybookSpec, Step};
use crate::{FieldError, Validate};

impl Validate for PlaybookSpec {
    fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.summary.trim().is_empty() {
            errors.push(FieldError::new("spec.summary", "say in one sentence what is wrong and what is done"));
        }
        if self.matches.is_empty() {
            errors.push(FieldError::new(
                "spec.match",
                "name at least one trigger, as in `- nodeCondition: {type: KernelOops}`",
            ));
        }
        for (index, trigger) in self.matches.iter().enumerate() {
            let sources = trigger.sources();
            if sources.len() != 1 {
                let message = format!(
                    "set exactly one trigger: nodeCondition, event, prediction, alert, schedule or object; here: {}",
                    if sources.is_empty() { "none".to_owned() } else { sources.join(", ") }
                );
                errors.push(FieldError::new(format!("spec.match[{index}]"), message));
            }
        }
        if self.steps.is_empty() {
            errors.push(FieldError::new("spec.steps", "name at least one step"));
        }
        one_action_each("spec.steps", &self.steps, &mut errors);
        one_action_each("spec.onFailure", &self.on_failure, &mut errors);
        let budget = &self.guards.budget;
        if matches!(budget.max_unavailable, Amount::Count(0) | Amount::Percent(0)) {
            errors.push(FieldError::new(
                "spec.guards.budget.maxUnavailable",
                "0 can never be met: nothing could ever run",
            ));
        }
        if budget.min_healthy == Amount::Percent(100) {
            errors.push(FieldError::new(
                "spec.guards.budget.minHealthy",
                "100% can never be met: the node that the playbook is for is not healthy",
            ));
        }
        if self.guards.attempts.max == 0 {
            errors.push(FieldError::new("spec.guards.attempts.max", "0 can never be met: nothing could ever run"));
        }
        errors
    }
}

fn one_action_each(path: &str, steps: &[Step], errors: &mut Vec<FieldError>) {
    for (index, step) in steps.iter().enumerate() {
        let actions = step.actions();
        if actions.len() != 1 {
            let message = format!(
                "set exactly one of {}; here: {}",
                Step::NAMES.join(", "),
                if actions.is_empty() { "none".to_owned() } else { actions.join(", ") }
            );
            errors.push(FieldError::new(format!("{path}[{index}]"), message));
        }
    }
}
