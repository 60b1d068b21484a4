//! Filling in what a run knows into the texts of a playbook. Only these few names; everything else stays as it is.

use super::RunProgram;

/// `{subject}`, `{namespace}`, `{node}`, `{playbook}`, `{run}` and `{trigger}` filled in.
pub(super) fn filled(template: &str, run: &RunProgram) -> String {
    fill(template, run, |value| value.to_owned())
}

/// The same, escaped so that a value stays inside a JSON text.
pub(super) fn filled_json(template: &str, run: &RunProgram) -> String {
    fill(template, run, |value| {
        let quoted = serde_json::Value::from(value).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    })
}

fn fill(template: &str, run: &RunProgram, escape: impl Fn(&str) -> String) -> String {
    let spec = run.spec();
    let value_of = |name: &str| match name {
        "subject" => Some(spec.subject.name.as_str()),
        "namespace" => Some(spec.subject.namespace.as_deref().unwrap_or_default()),
        "node" => Some(spec.node.as_deref().unwrap_or_default()),
        "playbook" => Some(spec.playbook.as_str()),
        "run" => Some(run.name()),
        "trigger" => Some(spec.trigger.as_str()),
        _ => None,
    };
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    // One pass from left to right: what was filled in is never looked at again.
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        out.push_str(before);
        let named = after[1..].split_once('}').and_then(|(name, after)| Some((value_of(name)?, after)));
        match named {
            Some((value, after)) => {
                out.push_str(&escape(value));
                rest = after;
            }
            None => {
                out.push('{');
                rest = &after[1..];
            }
        }
    }
    out.push_str(rest);
    out
}
