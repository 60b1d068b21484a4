use super::*;

const GOOD: &str = r#"apiVersion: evergreen.dev/v1alpha1
kind: Playbook
metadata: {name: node-oops}
spec:
  summary: A kernel oops: move the pods, wait, give the node back.
  mode: enforce
  match:
    - nodeCondition: {type: KernelOops, for: 30s}
      when: node.metadata.labels['pool'] != 'quarantine'
  guards:
    budget: {per: zone, maxUnavailable: 10%, minHealthy: 70%}
  steps:
    - cordon: {}
    - drain: {timeout: 10m}
    - wait: {until: "node.ready && node.bootID != before.node.bootID", timeout: 10m}
    - uncordon: {}
  verify: {that: "node.ready && !node.condition('KernelOops')", for: 2m}
"#;

fn good() -> String {
    // A plain scalar may not hold `: `; people trip over it, so one test keeps the trap.
    GOOD.replace("A kernel oops: move", "\"A kernel oops: move").replace("node back.", "node back.\"")
}

fn errors(text: &str) -> Vec<Diagnostic> {
    lint_file(text).expect_err("the file is wrong")
}

/// Replaces text in the good file and expects one error at a place.
#[track_caller]
fn refused(from: &str, to: &str, line: u64, column: u64, says: &str) {
    assert!(good().contains(from), "{from}");
    let found = errors(&good().replacen(from, to, 1));
    assert!(
        found.iter().any(|d| (d.line, d.column) == (line, column) && d.message.contains(says)),
        "expected {line}:{column} `{says}`, found {found:#?}"
    );
}

#[test]
fn a_good_file_is_read_completely() {
    let playbook = lint_file(&good()).unwrap();
    assert_eq!(playbook.metadata.name.as_deref(), Some("node-oops"));
    assert_eq!(playbook.spec.steps.len(), 4);
    assert!(check_spec(&playbook.spec).is_empty());
}

#[test]
fn unknown_fields_are_refused_with_the_likely_name() {
    refused("maxUnavailable:", "maxUnavailabel:", 11, 25, "did you mean `maxUnavailable`?");
    refused("- drain:", "- drian:", 14, 7, "did you mean `drain`?");
    refused("- uncordon: {}", "- reboot: {}", 16, 7, "known here: cordon, drain");
    refused("metadata: {name: node-oops}", "metadata: {name: node-oops, colour: red}", 3, 29, "unknown field `colour`");
}

#[test]
fn wrong_types_and_values_are_refused_where_they_stand() {
    refused("timeout: 10m}\n    - wait", "timeout: 10}\n    - wait", 14, 24, "no duration");
    refused("maxUnavailable: 10%", "maxUnavailable: 110%", 11, 41, "percentage from 0% to 100%");
    refused("mode: enforce", "mode: enforced", 6, 9, "did you mean `enforce`?");
    refused("per: zone", "per: row", 11, 19, "known here: zone, rack, pool, dataCenter");
    refused("evergreen.dev/v1alpha1", "evergreen.dev/v2", 1, 13, "write evergreen.dev/v1alpha1");
    refused("name: node-oops", "name: Node_Oops", 3, 18, "no name for a playbook");
}

#[test]
fn budgets_and_holds_that_can_never_be_met_are_refused() {
    refused("maxUnavailable: 10%", "maxUnavailable: 0", 11, 41, "can never be met");
    refused("minHealthy: 70%", "minHealthy: 100%", 11, 58, "can never be met");
    refused("for: 2m}", "for: 2m, timeout: 1m}", 17, 70, "does not fit into the timeout");
    refused("timeout: 10m}\n    - wait", "timeout: 0s}\n    - wait", 14, 24, "at least 1s");
}

#[test]
fn bad_expressions_are_refused_with_the_place_in_the_file() {
    refused("node.bootID != before", "node.bootId != before", 15, 41, "did you mean `bootID`?");
    refused("node.metadata.labels", "nod.metadata.labels", 9, 13, "did you mean `node`?");
    refused("node.condition('KernelOops')", "node.condtion('KernelOops')", 17, 39, "did you mean `condition`?");
    refused("['pool'] != 'quarantine'", "['pool'] !== 'quarantine'", 9, 44, "not an expression");
}

#[test]
fn steps_that_can_never_do_anything_are_refused() {
    refused("    - cordon: {}\n", "", 13, 7, "put `- cordon: {}` before it");
    refused("    - uncordon: {}", "    - cordon: {}", 16, 7, "cordoned already");
    refused("\"node.ready && node.bootID != before.node.bootID\"", "\"1 > 2\"", 16, 7, "unreachable: step 3");
    refused("{that: \"node.ready && !node.condition('KernelOops')\"", "{that: \"true\"", 17, 18, "verifies nothing");
}

#[test]
fn a_slip_in_a_condition_type_is_refused_and_a_foreign_type_is_not() {
    refused("type: KernelOops", "type: KernelOop", 8, 29, "did you mean `KernelOops`?");
    assert!(lint_file(&good().replacen("type: KernelOops", "type: ReadonlyFilesystem", 1)).is_ok());
}

#[test]
fn what_keeps_a_file_from_being_understood_is_said() {
    assert_eq!(errors(GOOD)[0].line, 5);
    assert!(errors("")[0].message.len() > 5);
    refused("  mode: enforce", "  mode: enforce\n  mode: observe", 7, 3, "duplicate");
    let two = format!("{}---\n{}", good(), good());
    assert!(errors(&two)[0].message.contains("one playbook a file") || errors(&two)[0].message.contains("document"));
    assert!(errors(&"x".repeat(MAX_FILE_BYTES + 1))[0].message.contains("bytes"));
    refused("  summary:", "\t summary:", 5, 3, "tab");
}

#[test]
fn yaml_bombs_are_contained() {
    let laughs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n";
    assert_eq!(errors(laughs).len(), 1);
    assert_eq!(errors(&"[".repeat(20_000)).len(), 1);
    assert_eq!(errors(&"- a\n".repeat(10_000)).len(), 1);
}

#[test]
fn several_errors_are_all_reported_in_one_go() {
    let text = good().replace("maxUnavailable: 10%", "maxUnavailable: 0").replace("node.ready &&", "node.redy &&");
    let found = errors(&text);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found.iter().all(|d| d.path.as_deref().is_some_and(|path| path.starts_with("spec."))));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", cut in 0_usize..700) {
        let _ = lint_file(&text);
        let good = good();
        let cut = good.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(good.len());
        let _ = lint_file(&good[..cut]);
    }
}
