//! What a playbook would do, in words: for dry runs, for `mode: observe`, for goldens.

use evergreen_api::resources::{Amount, PlaybookSpec, Rollback, Step, Verify};

/// The steps, the verification and what happens on failure, one line each.
pub fn steps(spec: &PlaybookSpec) -> Vec<String> {
    let mut lines: Vec<String> = spec.steps.iter().map(step).collect();
    if let Some(verified) = &spec.verify {
        lines.push(verify(verified));
    }
    lines.push(match spec.rollback {
        Rollback::Automatic => "if a step fails: undo what was done, last step first".into(),
        Rollback::Never => "if a step fails: leave everything as it is for a person".into(),
    });
    lines
}

/// The names of the steps and of the verification, for one short line.
pub fn actions(spec: &PlaybookSpec) -> Vec<&'static str> {
    spec.steps.iter().flat_map(Step::actions).chain(spec.verify.as_ref().map(|_| "verify")).collect()
}

/// The bounds within which it acts, one line each.
pub fn guards(spec: &PlaybookSpec) -> Vec<String> {
    let guards = &spec.guards;
    let per = match guards.budget.per {
        evergreen_api::resources::FailureDomain::Zone => "zone",
        evergreen_api::resources::FailureDomain::DataCenter => "data center",
    };
    vec![
        format!("at most {} nodes of a {per} out of service at once", amount(guards.budget.max_unavailable)),
        format!("at least {} nodes of a {per} healthy", amount(guards.budget.min_healthy)),
        format!("at most {} attempts a node within {}", guards.attempts.max, guards.attempts.window),
        format!("at least {} between two attempts", guards.cooldown),
        format!("nothing when more than {} of all nodes are unhealthy", amount(guards.storm.max_unhealthy)),
    ]
}

fn step(step: &Step) -> String {
    if step.cordon.is_some() {
        "cordon the node".into()
    } else if let Some(drain) = &step.drain {
        format!("drain it within {}, respecting disruption budgets", drain.timeout)
    } else if let Some(restart) = &step.restart {
        format!("restart Deployment {}/{} within {}", restart.namespace, restart.deployment, restart.timeout)
    } else if let Some(wait) = &step.wait {
        format!("wait up to {} until {}", wait.timeout, wait.until)
    } else if let Some(verified) = &step.verify {
        verify(verified)
    } else if step.uncordon.is_some() {
        "give the node back if this run cordoned it".into()
    } else {
        "nothing".into()
    }
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
