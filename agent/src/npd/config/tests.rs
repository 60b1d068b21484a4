use super::*;

const LOG: &str = r#"{
  "plugin": "kmsg",
  "logPath": "/dev/kmsg",
  "lookback": "5m",
  "bufferSize": 10,
  "source": "kernel-monitor",
  "metricsReporting": true,
  "conditions": [
{ "type": "KernelDeadlock", "reason": "NoDeadlock", "message": "none" },
{ "type": "StorageGone", "reason": "StorageThere", "message": "all there" }
  ],
  "rules": [
{ "type": "temporary", "reason": "MemoryKill", "pattern": "Killed process \\d+.*" },
{ "type": "permanent", "condition": "StorageGone", "reason": "ArrayLost", "pattern": "array \\S+ lost" }
  ]
}"#;

fn log(text: &str) -> LogConfig {
    match parse(text).unwrap() {
        Config::Log(log) => log,
        Config::Custom(_) => panic!("a log monitor"),
    }
}

#[test]
fn a_condition_of_the_taxonomy_keeps_its_kind_and_another_its_name() {
    let log = log(LOG);
    assert_eq!(log.lookback, Duration::from_secs(300));
    assert_eq!(log.defaults[0].about, evergreen_api::ProblemKind::KernelDeadlock);
    assert_eq!(log.defaults[1].about.as_str(), "StorageGone");
    assert_eq!(log.rules[1].effect.about.as_str(), "StorageGone");
    assert_eq!(log.rules[0].effect.about.as_str(), "MemoryKill");
    assert!(!log.rules[0].effect.permanent);
}

#[test]
fn each_mistake_is_told_with_line_and_column() {
    for (from, to, line, says) in [
        ("\"plugin\": \"kmsg\",\n", "", 1, "`plugin` is missing"),
        ("\"kmsg\"", "\"kmesg\"", 2, "plugin `kmesg`"),
        ("\"5m\"", "\"5 minutes\"", 4, "no time"),
        (": 10,", ": \"ten\",", 5, "expected usize"),
        ("\"StorageGone\", \"reason\": \"A", "\"Storage\", \"reason\": \"A", 14, "not among"),
        ("array \\\\S+", "array (", 14, "no regular expression"),
        ("temporary", "sometimes", 13, "type `sometimes`"),
        ("MemoryKill", "memory kill", 13, "cannot be a reason"),
        ("\"none\" },", "\"none\" ", 10, "expected"),
    ] {
        assert!(LOG.contains(from), "{from}");
        let errors = parse(&LOG.replacen(from, to, 1)).unwrap_err();
        assert_eq!(errors[0].line, line, "{errors:?}");
        assert!(errors[0].column > 0 && errors[0].message.contains(says), "{errors:?}");
    }
}

#[test]
fn a_custom_plugin_monitor_has_the_defaults_of_the_protocol() {
    let text = r#"{"plugin": "custom", "pluginConfig": {"invoke_interval": "10s"}, "source": "s",
        "conditions": [{"type": "ClockBad", "reason": "ClockGood", "message": "ok"}],
        "rules": [{"type": "permanent", "condition": "ClockBad", "reason": "Drift", "path": "/bin/check", "timeout": "3s"}]}"#;
    let Config::Custom(custom) = parse(text).unwrap() else { panic!("a custom monitor") };
    assert_eq!((custom.every, custom.max_output, custom.concurrency), (Duration::from_secs(10), 80, 3));
    assert_eq!(custom.rules[0].timeout, Duration::from_secs(3));
    let errors = parse(&text.replace("\"3s\"", "\"6s\"")).unwrap_err();
    assert!(errors[0].message.contains("longer"), "{errors:?}");
}

#[test]
fn times_are_read_as_go_writes_them() {
    assert_eq!(go_duration("1h30m"), Some(Duration::from_secs(5400)));
    assert_eq!(go_duration("300ms"), Some(Duration::from_millis(300)));
    assert_eq!(go_duration("0.5s"), Some(Duration::from_millis(500)));
    assert_eq!((go_duration(""), go_duration("5"), go_duration("s")), (None, None, None));
}
