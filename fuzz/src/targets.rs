//! What is fuzzed: every reader of bytes from outside, as a plain function that may neither panic nor hang nor grow.
//!
//! Used twice: by the fuzz targets of cargo-fuzz, and by the agent's own tests with the driver beside this.

use std::{io::Cursor, path::Path, sync::Arc, time::Duration};

use evergreen_agent::{
    anomaly_rows,
    conditions::ConditionBook,
    detect,
    energy::{cgroups::PodCpu, powercap::Powercap},
    grants::GrantBook,
    host::Root,
    kernel::{Detector, Format, RuleSet, line, position::Position},
    npd::{
        config::{self, Config},
        layout::Layout,
        monitor::Monitor,
    },
    places,
    probes::thresholds,
    rules::Content,
    sources::Collector,
    text,
};

/// A target: its name, what it does with some bytes, and bytes to begin with.
pub struct Target {
    /// Name, also of its folder of seeds.
    pub name: &'static str,
    /// Takes bytes.
    pub run: fn(&[u8]),
    /// Bytes to begin with.
    pub seeds: &'static [&'static [u8]],
}

/// A log with most shapes of lines, and crashes.
const LOG: &[u8] = include_bytes!("../seeds/kernel.log");
const RULES: &[u8] = include_bytes!("../seeds/rules.yaml");
const MONITOR: &[u8] = include_bytes!("../seeds/monitor.json");
const CHECKS: &[u8] = include_bytes!("../seeds/checks.json");
const TREE: &[u8] = include_bytes!("../seeds/tree.txt");

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "kernel_lines", run: kernel_lines, seeds: &[LOG] },
    Target { name: "detector", run: detector, seeds: &[LOG] },
    Target { name: "detect_command", run: detect_command, seeds: &[LOG] },
    Target { name: "kernel_rules", run: kernel_rules, seeds: &[RULES] },
    Target { name: "any_rules", run: any_rules, seeds: &[RULES, MONITOR, CHECKS, thresholds::BUILT_IN.as_bytes()] },
    Target { name: "monitor", run: monitor, seeds: &[MONITOR, CHECKS] },
    Target { name: "monitor_lines", run: monitor_lines, seeds: &[LOG] },
    Target { name: "check_output", run: check_output, seeds: &[b"disk is \x1b[31mfull\x1b[0m\n\xe5\xb8\xb8\xe9\x9d\x92\xff\n"] },
    Target { name: "times", run: times, seeds: &[b"2006-01-02T15:04:05.999999999-07:00\n2026-02-03T04:05:06.7Z", b"Jan _2 15:04:05\nFeb  3 04:05:06"] },
    Target { name: "anomaly_rows", run: rows, seeds: &[b"timestamp,value\n2026-01-01 00:00:00,1.5\n2026-01-01 00:05:00,NaN\n,,\n"] },
    Target { name: "kept_states", run: kept_states, seeds: &[br#"{"boot_id":"b","problems":{},"cleared":{"HungTask":{"at":"x","why":"y","traceparent":null}},"retired":["Own"]}"#, br#"{"boot_id":"b","next_sequence":7,"file":[1,2],"cursor":null}"#] },
    Target { name: "grants", run: grants, seeds: &[br#"{"grants":[{"group":"g","fence":3,"ttl_ms":4000,"node":"n"}],"signature":"AA==","public_key":"AA=="}"#] },
    Target { name: "tree", run: tree, seeds: &[TREE] },
];

fn built_in() -> Arc<RuleSet> {
    static RULES: std::sync::LazyLock<Arc<RuleSet>> = std::sync::LazyLock::new(|| Arc::new(RuleSet::built_in()));
    Arc::clone(&RULES)
}

fn kernel_lines(data: &[u8]) {
    for line in data.split(|b| *b == b'\n') {
        for format in [Format::Auto, Format::Kmsg, Format::Dmesg, Format::Syslog] {
            let found = line::messages(line, format);
            assert!(found.len() <= 16, "one line became {} messages", found.len());
            assert!(found.iter().all(|message| message.text.len() <= line::MAX_LINE));
        }
        assert!(line::unescape(line).len() <= line.len());
    }
}

fn detector(data: &[u8]) {
    let rules = built_in();
    let most = 1 + rules.rules().len();
    let mut detector = Detector::new(rules);
    for line in data.split(|b| *b == b'\n') {
        for message in line::messages(line, Format::Auto) {
            assert!(detector.push(&message).len() <= 2 * most);
        }
    }
    for news in detector.close_all() {
        let evergreen_agent::kernel::detector::News::Closed(report) = news else { continue };
        let evidence = &report.detection.evidence;
        assert!(evidence.len() <= 12 && evidence.iter().all(|line| line.chars().count() <= 241));
    }
}

fn detect_command(data: &[u8]) {
    let mut output = Vec::new();
    let found = detect::run(Cursor::new(data.to_vec()), &mut output, Format::Auto, built_in());
    let lines = output.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let count = lines.inspect(|line| drop(serde_json::from_slice::<serde_json::Value>(line).expect("JSON"))).count();
    assert_eq!(found.expect("memory can be read") as usize, count);
}

fn kernel_rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match RuleSet::check(&text) {
        Ok(rules) => {
            if let Some(rule) = rules.classify(b"BUG: x in y") {
                rules.rule(rule).summarize(b"BUG: x in y");
            }
        }
        Err(errors) => {
            let lines = text.split(['\n', '\r']).count() as u64 + 1;
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|error| error.line <= lines && !error.message.is_empty()), "{errors:?}");
        }
    }
}

fn any_rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(content) = Content::parse(&text) {
        content.describe();
    }
    let _ = thresholds::parse(&text);
    let _ = places::from_yaml::<Anything>(&text);
    let _ = places::from_json::<Anything>(&text);
    places::locate(&text, &["rules", "0", "pattern"]);
}

/// Any shape.
#[derive(serde::Deserialize)]
struct Anything(#[allow(dead_code)] serde_json::Value);

fn monitor(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match config::parse(&text) {
        Ok(Config::Log(log)) => {
            let mut monitor = Monitor::new(Arc::new(log));
            for line in ["task a:1 blocked", "", "x"] {
                monitor.push(line.as_bytes(), "", |sighting| assert!(sighting.detection.evidence.len() <= 12));
            }
        }
        Ok(Config::Custom(custom)) => assert!(custom.concurrency <= 32 && custom.max_output <= 4096),
        Err(errors) => assert!(!errors.is_empty()),
    }
}

fn monitor_lines(data: &[u8]) {
    static CONFIG: std::sync::LazyLock<Config> =
        std::sync::LazyLock::new(|| config::parse(&String::from_utf8_lossy(MONITOR)).expect("the seed is a monitor"));
    let Config::Log(log) = &*CONFIG else { return };
    let mut monitor = Monitor::new(Arc::new(log.clone()));
    for line in data.split(|b| *b == b'\n').take(200) {
        monitor.push(line, "", |sighting| assert!(sighting.detection.evidence.len() <= 12));
    }
}

fn check_output(data: &[u8]) {
    for limit in [0, 1, 80, 4096] {
        let line = text::printable(data, limit);
        assert!(line.chars().count() <= limit + 1 && !line.contains(char::is_control));
    }
}

fn times(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (layout, time) = text.split_once('\n').unwrap_or((&text, ""));
    let bounded: String = layout.chars().take(200).collect();
    let _ = Layout::new(&bounded).parse(time, jiff::Timestamp::UNIX_EPOCH);
    let _ = config::go_duration(time);
}

fn rows(data: &[u8]) {
    let mut output = Vec::new();
    if anomaly_rows::run(Cursor::new(data), &mut output).is_ok() {
        for line in String::from_utf8_lossy(&output).lines() {
            let score: f64 = line.trim().rsplit([',', ' ']).next().unwrap_or_default().parse().expect("a score a row");
            assert!((0.0..=1.0).contains(&score), "{line}");
        }
    }
}

fn kept_states(data: &[u8]) {
    let _ = serde_json::from_slice::<Position>(data);
    if let Ok(book) = serde_json::from_slice::<ConditionBook>(data) {
        let now = evergreen_agent::clock::Moment { boot_ms: 5, wall: jiff::Timestamp::UNIX_EPOCH };
        let (mut book, _) = book.resume("other", |_| true, &now);
        book.expire(&now);
    }
}

fn grants(data: &[u8]) {
    let Ok(list) = serde_json::from_slice(data) else { return };
    let mut book = GrantBook::default();
    let _ = book.apply(&list, 0, u64::MAX);
    let _ = book.fresh(u64::MAX).count();
}

/// Files of a host: `@PATH` begins one, and what follows to the next is in it.
fn tree(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut path = None;
    let mut content = Vec::new();
    let mut lines = data.split(|b| *b == b'\n').take(2_000);
    loop {
        let line = lines.next();
        let next = line.and_then(|line| line.strip_prefix(b"@")).map(|name| String::from_utf8_lossy(name).into_owned());
        if next.is_some() || line.is_none() {
            if let Some(path) = path.take() {
                put(folder.path(), path, &content);
            }
            content.clear();
            path = next;
        } else if let Some(line) = line {
            content.extend_from_slice(line);
            content.push(b'\n');
        }
        if line.is_none() {
            break;
        }
    }
    let root = Root::new(folder.path());
    let mut collector = Collector::new(root.clone());
    for _ in 0..2 {
        collector.read_fast(Duration::from_secs(1));
        collector.read_slow();
    }
    serde_json::to_string(collector.sample()).expect("a sample is JSON");
    let _ = Powercap::discover(&root).map(|powercap| powercap.names().len());
    if let Ok(mut cgroups) = PodCpu::discover(&root) {
        let _ = cgroups.advance();
    }
}

fn put(root: &Path, name: String, content: &[u8]) {
    let name = name.trim();
    let fine = |part: &str| !part.is_empty() && part != ".." && part != "." && part.len() < 100 && !part.contains('\0');
    if name.len() > 300 || !name.split('/').all(fine) || name.split('/').count() > 12 {
        return;
    }
    let path = root.join(name);
    if let Some(parent) = path.parent()
        && std::fs::create_dir_all(parent).is_ok()
    {
        let _ = std::fs::write(path, content);
    }
}
