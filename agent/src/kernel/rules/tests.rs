use super::*;

const GOOD: &str = "format: evergreen.dev/kernel-rules/v1
rules:
  - id: a
    kind: HungTask
    severity: degraded
    match: ['^a (?P<x>.*)']
    summary: 'x is {x}'
";

#[test]
fn the_built_in_rules_are_sound() {
    let rules = RuleSet::check(BUILT_IN).unwrap();
    assert!(rules.rules().len() > 50);
}

#[test]
fn a_rule_fills_its_summary_from_the_match() {
    let rules = RuleSet::parse(GOOD).unwrap();
    let rule = rules.classify(b"a b c").unwrap();
    assert_eq!(rules.rule(rule).summarize(b"a b c"), "x is b c");
}

#[test]
fn each_mistake_is_told_with_line_and_column() {
    for (from, to, line, says) in [
        ("HungTask", "HungTusk", 4, "no problem kind"),
        ("degraded", "bad", 5, "severity `bad`"),
        ("'^a (?P<x>.*)'", "'^a ('", 6, "no regular expression"),
        ("{x}", "{y}", 7, "group named `y`"),
        ("severity:", "severty:", 5, "severty"),
        ("kernel-rules/v1", "kernel-rules/v9", 1, "is not known"),
        ("id: a", "id: [a]", 3, ""),
    ] {
        let error = RuleSet::parse(&GOOD.replace(from, to)).unwrap_err();
        assert_eq!(error.line, line, "{error}");
        assert!(error.column > 0 && error.message.contains(says), "{error}");
    }
}

#[test]
fn the_same_id_twice_is_refused() {
    let twice = format!("{GOOD}{}", &GOOD[GOOD.find("  - id").unwrap()..]);
    assert!(RuleSet::parse(&twice).unwrap_err().message.contains("twice"));
}

#[test]
fn the_highest_rank_names_a_message() {
    let rules = RuleSet::built_in();
    let named = |text: &str| rules.classify(text.as_bytes()).map(|rule| rules.rule(rule).id.as_str());
    assert_eq!(named("BUG: KASAN: use-after-free in f+0x1/0x2"), Some("kasan-use-after-free"));
    assert_eq!(named("BUG: something new"), Some("other-bug"));
    assert_eq!(named("Kernel panic - not syncing: hung_task: blocked tasks"), Some("hung-task-panic"));
    assert_eq!(named("traps: app[12] general protection fault ip:1 sp:2 error:0"), None);
}
