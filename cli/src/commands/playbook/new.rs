//! `evergreen playbook new`: a commented playbook to begin with. It asks nothing.

use clap::Args;

use crate::exit::{Failure, Outcome};

/// Begin a playbook.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  evergreen playbook new my-playbook > my-playbook.yaml")]
pub struct NewArgs {
    /// Name of the playbook.
    #[arg(value_name = "NAME")]
    name: String,
}

const TEMPLATE: &str = r#"# WHAT IS WRONG: what is done about it.
#
# Use it when ...
#
# Do not use it when ...
apiVersion: evergreen.dev/v1alpha1
kind: Playbook
metadata:
  name: NAME
  annotations:
    evergreen.dev/summary.zh-CN: 一句话：出了什么问题，做什么处理。
spec:
  summary: "One sentence: what is wrong and what is done."
  # observe only says what would be done; enforce does it.
  mode: observe
  # Any of these starts it: nodeCondition, event, prediction, alert, schedule, object.
  match:
    - nodeCondition: {type: KernelOops, for: 30s}
      # CEL that must hold too.
      when: node.metadata.labels['pool'] != 'quarantine'
  guards:
    # How much of a failure domain may be out of service at once: zone, rack, pool or dataCenter.
    budget: {per: zone, maxUnavailable: 10%, minHealthy: 70%}
    cooldown: 30m
    attempts: {max: 2, window: 24h, thenQuarantine: true}
    storm: {maxUnhealthy: 40%, resumeAfter: 10m}
    # ChangeWindows are honoured; a run that one stops waits (park) or undoes what it did (rollBack).
    windows: honour
    whenStopped: park
  steps:
    - cordon: {}
    - drain: {timeout: 10m}
    - wait: {until: "node.ready && node.bootID != before.node.bootID", timeout: 2h}
    - uncordon: {}
  verify: {that: "node.ready && !node.condition('KernelOops')", for: 2m}
  # automatic undoes what was done, from what was recorded before each step; never leaves it for a person.
  rollback: never
"#;

pub(super) fn new(args: &NewArgs) -> Outcome {
    let text = TEMPLATE.replace("NAME", &args.name);
    if let Err(errors) = evergreen_playbooks::lint_file(&text) {
        let why: Vec<String> = errors.iter().map(|error| error.message.clone()).collect();
        return Err(Failure::usage(why.join("; ")).remedy("a name of lower-case letters, digits and dashes"));
    }
    print!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_writes_is_a_good_playbook() {
        assert!(new(&NewArgs { name: "my-playbook".into() }).is_ok());
        assert_eq!(new(&NewArgs { name: "No Name".into() }).unwrap_err().code(), 2);
    }
}
