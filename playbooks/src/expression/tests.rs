use jiff::Timestamp;

use super::*;
use crate::view::ConditionView;

fn node() -> NodeView {
    let condition = |status: &str| ConditionView { status: status.into(), seen_since: Timestamp::UNIX_EPOCH };
    NodeView {
        name: "n1".into(),
        uid: "u1".into(),
        boot_id: "b2".into(),
        unschedulable: true,
        cordoned_by: None,
        labels: [("pool".to_owned(), "db".to_owned())].into(),
        conditions: [("Ready".to_owned(), condition("True")), ("KernelOops".to_owned(), condition("False"))].into(),
        pod_count: 3,
    }
}

fn holds(source: &str) -> bool {
    let mut before = node();
    before.boot_id = "b1".into();
    Expression::compile(source, Scope::NodeRun).unwrap().holds(&node(), Some(&before.to_fields())).unwrap()
}

#[test]
fn sees_the_node_and_what_it_was_before() {
    assert!(holds("node.ready && node.bootID != before.node.bootID"));
    assert!(holds("node.unschedulable && node.podCount == 3 && node.name == 'n1'"));
    assert!(holds("!node.condition('KernelOops') && node.condition('Ready') && !node.condition('Never')"));
    assert!(holds("node.metadata.labels['pool'] == 'db'"));
    assert!(holds("before.node.condition('Ready')"));
}

#[test]
fn an_absent_label_reads_as_the_empty_text_and_membership_stays_true_to_the_labels() {
    assert!(holds("node.metadata.labels['tier'] != 'gold'"));
    assert!(holds("node.metadata.labels['tier'] == ''"));
    assert!(!holds("'tier' in node.metadata.labels && node.metadata.labels['tier'] != 'gold'"));
    assert!(holds("node.metadata.labels.exists(key, key == 'pool')"));
}

#[test]
fn says_what_is_wrong_and_where() {
    for (source, offset, part) in [
        ("node.ready &&", 13, "not an expression"),
        ("nod.ready", 0, "did you mean `node`"),
        ("node.ready && node.bootId == 'x'", 19, "did you mean `bootID`"),
        ("node.conditions['KernelOops'] == 'True'", 5, "node.condition('KernelOops')"),
        ("node.metadata.lables['x'] == 'y'", 14, "did you mean `labels`"),
        ("node.name.startswith('a')", 10, "did you mean `startsWith`"),
        ("now() > 3", 0, "unknown function `now`"),
        ("node.podCount", 0, "true or false is needed"),
        ("node.condition()", 0, "with one type"),
        ("", 0, "empty"),
    ] {
        let error = Expression::compile(source, Scope::NodeRun).expect_err(source);
        assert!(error.message.contains(part), "{source}: {error}");
        if offset > 0 {
            assert_eq!(error.offset, offset, "{source}: {error}");
        }
    }
    let error = Expression::compile("before.node.ready", Scope::NodeTrigger).unwrap_err();
    assert!(error.message.contains("only `node`"), "{error}");
}

#[test]
fn costly_expressions_are_refused() {
    assert!(Expression::compile(&"x".repeat(MAX_LENGTH + 1), Scope::NodeRun).is_err());
    assert!(Expression::compile(&"(".repeat(900), Scope::NodeRun).is_err());
    assert!(Expression::compile(&format!("{}node.ready", "!".repeat(900)), Scope::NodeRun).is_ok());
    let nested = "node.metadata.labels.all(a, node.metadata.labels.all(b, node.metadata.labels.all(c, a == b)))";
    assert!(Expression::compile(nested, Scope::NodeRun).unwrap_err().message.contains("too many loops"));
}

#[test]
fn knows_what_does_not_depend_on_anything() {
    assert_eq!(Expression::compile("1 + 1 == 2", Scope::NodeRun).unwrap().constant(), Some(true));
    assert_eq!(Expression::compile("false", Scope::NodeRun).unwrap().constant(), Some(false));
    assert_eq!(Expression::compile("node.ready", Scope::NodeRun).unwrap().constant(), None);
}

#[test]
fn sees_any_object_and_which_of_its_fields_are_read() {
    let pods =
        "object.status.containerStatuses.exists(c, c.restartCount > 5) && object.metadata.labels['tier'] != 'db'";
    let expression = Expression::compile(pods, Scope::ObjectTrigger).unwrap();
    let paths: Vec<String> = expression.paths().iter().map(|path| path.join(".")).collect();
    assert_eq!(paths, ["metadata.labels.tier", "status.containerStatuses"]);
    let crashing = |restarts: u32| {
        let object = json!({"metadata": {"name": "a"}, "status": {"containerStatuses": [{"restartCount": restarts}]}});
        Variables::from_iter([("object".to_owned(), object)])
    };
    assert_eq!(expression.holds_on(&crashing(6)), Ok(true));
    assert_eq!(expression.holds_on(&crashing(5)), Ok(false));
    let absent = Variables::from_iter([("object".to_owned(), json!({"metadata": {"name": "a"}}))]);
    assert!(expression.holds_on(&absent).unwrap_err().reason.contains("status"));
}

#[test]
fn what_is_too_large_is_not_looked_at() {
    let expression =
        Expression::compile("object.items.all(a, object.items.all(b, a <= b))", Scope::ObjectTrigger).unwrap();
    let of = |count: usize| Variables::from_iter([("object".to_owned(), json!({"items": vec![1; count]}))]);
    assert_eq!(expression.holds_on(&of(MAX_ENTRIES)), Ok(true));
    assert!(expression.holds_on(&of(MAX_ENTRIES + 1)).unwrap_err().reason.contains("at most 256"));
}

#[test]
fn patterns_are_literal_and_small() {
    let good = "event.message.matches('timed? out')";
    assert!(Expression::compile(good, Scope::EventTrigger).is_ok());
    let bomb = "event.message.matches('((a{100}){100}){100}')";
    assert!(Expression::compile(bomb, Scope::EventTrigger).unwrap_err().message.contains("pattern is refused"));
    let computed = "event.message.matches(event.reason + '+')";
    assert!(Expression::compile(computed, Scope::EventTrigger).unwrap_err().message.contains("in quotes"));
}
