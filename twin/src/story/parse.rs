//! Reads a story. Whatever is wrong with it is told with its place and with the sentences that would be understood.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use super::{GIVEN, THEN, WHEN, possible};

/// Largest file of a story, in bytes.
pub const MAX_FILE: usize = 256 << 10;
/// Values in a story's file.
const MAX_VALUES: usize = 20_000;
/// Longest story.
const MAX_TIME: Duration = Duration::from_secs(7 * 86_400);

/// A story.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    /// What it is about.
    pub title: String,
    /// What there is at its beginning.
    pub given: Vec<Setting>,
    /// Events and facts in the order of their times; at one time the events come first.
    pub steps: Vec<(Duration, Sentence)>,
}

/// An event or a fact, with its words.
#[derive(Debug, Clone, PartialEq)]
pub enum Sentence {
    /// Something happens.
    When(Event, String),
    /// Something is the case.
    Then(Fact, String),
}

/// Something that there is.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the fields are the words of the sentence")]
pub enum Setting {
    DataCenter { name: String, nodes: u32, zones: Vec<String> },
    NodeSize { cores: u32, gibibytes: u64 },
    Deployment { name: String, replicas: u32, millicores: u32 },
    StatefulSet { name: String, replicas: u32 },
    DaemonSet { name: String },
    Patience { name: String, seconds: u32 },
    Budget { name: String, keeps: u32, of: String },
    DemoTime,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the fields are the words of the sentence")]
pub enum Event {
    NodePower { node: String, on: bool },
    ZonePower { zone: String, on: bool },
    SitePower { on: bool },
    Cordon { node: String, on: bool },
    Taint { node: String, key: String, value: String, effect: String },
    SaysNotReady { node: String },
    Scale { deployment: String, replicas: u32 },
    Evict { of: String },
    Delete { of: String },
    Reach { everybody: bool },
    Forget,
    Answers { count: u32, verb: String, resource: String, status: u16 },
}

/// Something that is the case.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the fields are the words of the sentence")]
pub enum Fact {
    Ready { of: String, count: u32, at_least: bool },
    Pending { of: String, count: u32 },
    Count { of: String, count: u32 },
    NotOnNode { of: String, node: String },
    NotInZone { of: String, zone: String },
    Node { node: String, status: &'static str },
    ReadyNodes { count: u32 },
    DrivenOut { count: u32 },
    Budget { name: String, allows: i64 },
    LastEviction { granted: bool },
}

/// What is wrong with a story, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {place}: {reason}")]
pub struct StoryError {
    /// Line, counted from 1.
    pub line: u64,
    /// As `when, sentence 2`.
    pub place: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    story: Spanned<String>,
    given: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    when: Vec<Spanned<Value>>,
    then: Vec<Spanned<Value>>,
}

/// Reads YAML within bounds, so that no file can eat the memory.
fn read(text: &str) -> Result<File, StoryError> {
    let wrong = |line: u64, reason: String| StoryError { line, place: "the file".to_owned(), reason };
    if text.len() > MAX_FILE {
        let reason = format!("it has {} bytes; a story has at most {MAX_FILE}: split it into several", text.len());
        return Err(wrong(1, reason));
    }
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_nodes: MAX_VALUES,
            max_events: 4 * MAX_VALUES,
            max_depth: 8,
            flow_nesting_limit: 8,
            max_documents: 1,
            max_aliases: 0,
            max_anchors: 0,
            max_total_scalar_bytes: MAX_FILE,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let told = error.to_string();
        let what = told.split(" at line ").next().unwrap_or(&told).trim();
        wrong(line, format!("{what}; a story has the keys story, given, when and then, and no anchors or aliases"))
    })
}

/// Reads a story.
///
/// # Errors
/// The first thing that is wrong, with its line and place.
pub fn parse(text: &str) -> Result<Story, StoryError> {
    let wrong = |line: u64, place: &str, reason: String| StoryError { line, place: place.to_owned(), reason };
    let file = read(text)?;
    let mut given: Vec<Setting> = Vec::new();
    for (index, sentence) in file.given.value.iter().enumerate() {
        let (line, place) = (sentence.defined.line(), format!("given, sentence {}", index + 1));
        let setting = setting(&words(&sentence.value));
        let setting = setting.ok_or_else(|| wrong(line, &place, not_understood(&sentence.value, GIVEN)))?;
        possible::setting(&setting, &given).map_err(|reason| wrong(line, &place, reason))?;
        given.push(setting);
    }
    let centers = given.iter().filter(|s| matches!(s, Setting::DataCenter { .. })).count();
    if centers != 1 {
        let reason = format!("a story has one data center, this one has {centers}: \"{}\"", GIVEN[0]);
        return Err(wrong(file.given.defined.line(), "given", reason));
    }
    let mut steps = Vec::new();
    for (list, name, known) in [(&file.when, "when", WHEN), (&file.then, "then", THEN)] {
        let mut before = Duration::ZERO;
        for (index, item) in list.iter().enumerate() {
            let (line, place) = (item.defined.line(), format!("{name}, sentence {}", index + 1));
            let (time, sentence) = timed(&item.value).map_err(|reason| wrong(line, &place, reason))?;
            if time < before {
                let reason =
                    format!("the time goes back from {before:?} to {time:?}; put the sentences in their order");
                return Err(wrong(line, &place, reason));
            }
            before = time;
            let spoken = words(&sentence);
            let step = match name {
                "when" => event(&spoken).map(|e| Sentence::When(e, sentence.clone())),
                _ => fact(&spoken).map(|f| Sentence::Then(f, sentence.clone())),
            };
            let step = step.ok_or_else(|| wrong(line, &place, not_understood(&sentence, known)))?;
            check_names(&step, &given).map_err(|reason| wrong(line, &place, reason))?;
            steps.push((time, step, line, place));
        }
    }
    // At one time, what happens comes before what is then the case.
    steps.sort_by_key(|(time, step, ..)| (*time, matches!(step, Sentence::Then(..))));
    let mut state = possible::State::default();
    for (_, step, line, place) in &steps {
        state.follow(step).map_err(|reason| wrong(*line, place, reason))?;
    }
    let steps = steps.into_iter().map(|(time, step, ..)| (time, step)).collect();
    Ok(Story { title: file.story.value, given, steps })
}

fn not_understood(sentence: &str, known: &[&str]) -> String {
    format!("\"{sentence}\" is not understood; sentences here are:\n  {}", known.join("\n  "))
}

/// `- 1m 30s: sentence`.
fn timed(item: &Value) -> Result<(Duration, String), String> {
    let wanted = "a time and a sentence are expected, as in \"1m 30s: node dc-a-1 loses power\"";
    let map = item.as_object().filter(|m| m.len() == 1).ok_or(wanted)?;
    let (time, sentence) = map.iter().next().ok_or(wanted)?;
    let sentence = sentence.as_str().ok_or(wanted)?;
    Ok((duration(time)?, sentence.to_owned()))
}

fn duration(text: &str) -> Result<Duration, String> {
    let why = || format!("\"{text}\" is no time; times are written as 0s, 90s, 1m 30s, 2h");
    let mut total = Duration::ZERO;
    for part in text.split_whitespace() {
        let split = part.find(|c: char| !c.is_ascii_digit()).ok_or_else(why)?;
        let number: u64 = part[..split].parse().map_err(|_| why())?;
        let unit = match &part[split..] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(why()),
        };
        total = total.checked_add(Duration::from_secs(number.checked_mul(unit).ok_or_else(why)?)).ok_or_else(why)?;
    }
    if text.trim().is_empty() {
        return Err(why());
    }
    if total > MAX_TIME {
        return Err(format!("{text} is longer than a story may last (7 days)"));
    }
    Ok(total)
}

fn words(sentence: &str) -> Vec<&str> {
    sentence.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty()).collect()
}

fn number<T: std::str::FromStr>(word: &str) -> Option<T> {
    match word {
        "no" => "0",
        "one" => "1",
        "two" => "2",
        "three" => "3",
        other => other,
    }
    .parse()
    .ok()
}

fn setting(words: &[&str]) -> Option<Setting> {
    let own = |s: &str| s.to_owned();
    Some(match words {
        ["data", "center", name, "with", n, "nodes" | "node"] => {
            Setting::DataCenter { name: own(name), nodes: number(n)?, zones: Vec::new() }
        }
        ["data", "center", name, "with", n, "nodes", "in", "zones", zones @ ..] if !zones.is_empty() => {
            let zones = zones.iter().filter(|z| **z != "and").map(|z| own(z)).collect();
            Setting::DataCenter { name: own(name), nodes: number(n)?, zones }
        }
        ["nodes", "of", cores, "cores", "and", memory, "GiB"] => {
            Setting::NodeSize { cores: number(cores)?, gibibytes: number(memory)? }
        }
        ["deployment", name, "with", n, "replicas" | "replica"] => {
            Setting::Deployment { name: own(name), replicas: number(n)?, millicores: 100 }
        }
        ["deployment", name, "with", n, "replicas" | "replica", "of", millicores, "millicores"] => {
            Setting::Deployment { name: own(name), replicas: number(n)?, millicores: number(millicores)? }
        }
        ["stateful", "set", name, "with", n, "replicas" | "replica"] => {
            Setting::StatefulSet { name: own(name), replicas: number(n)? }
        }
        ["daemon", "set", name] => Setting::DaemonSet { name: own(name) },
        ["pods", "of", name, "bear", "a", "lost", "node", "for", n, "seconds"] => {
            Setting::Patience { name: own(name), seconds: number(n)? }
        }
        ["budget", name, "keeps", n, "pods" | "pod", "of", of] => {
            Setting::Budget { name: own(name), keeps: number(n)?, of: own(of) }
        }
        ["the", "time", "of", "the", "demo"] => Setting::DemoTime,
        _ => return None,
    })
}

fn event(words: &[&str]) -> Option<Event> {
    let own = |s: &str| s.to_owned();
    Some(match words {
        ["node", node, "loses", "power"] => Event::NodePower { node: own(node), on: false },
        ["node", node, "gets", "power", "again"] => Event::NodePower { node: own(node), on: true },
        ["zone", zone, "loses", "power"] => Event::ZonePower { zone: own(zone), on: false },
        ["zone", zone, "gets", "power", "again"] => Event::ZonePower { zone: own(zone), on: true },
        ["the", "data", "center", "loses", "power"] => Event::SitePower { on: false },
        ["the", "data", "center", "gets", "power", "again"] => Event::SitePower { on: true },
        ["node", node, "is", "cordoned"] => Event::Cordon { node: own(node), on: true },
        ["node", node, "is", "uncordoned"] => Event::Cordon { node: own(node), on: false },
        ["node", node, "is", "tainted", taint] => {
            let (key, rest) = taint.split_once('=')?;
            let (value, effect) = rest.split_once(':')?;
            if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
                return None;
            }
            Event::Taint { node: own(node), key: own(key), value: own(value), effect: own(effect) }
        }
        ["node", node, "says", "it", "is", "not", "ready"] => Event::SaysNotReady { node: own(node) },
        ["deployment", name, "is", "scaled", "to", n] => Event::Scale { deployment: own(name), replicas: number(n)? },
        ["a", "pod", "of", name, "is", "evicted"] => Event::Evict { of: own(name) },
        ["a", "pod", "of", name, "is", "deleted"] => Event::Delete { of: own(name) },
        ["nobody", "reaches", "the", "API", "server"] => Event::Reach { everybody: false },
        ["everybody", "reaches", "the", "API", "server"] => Event::Reach { everybody: true },
        ["the", "API", "server", "forgets", "its", "past"] => Event::Forget,
        ["the", "next", n, "requests" | "request", "to", verb, resource, "are" | "is", "answered", status] => {
            let status = number(status)?;
            if !matches!(status, 409 | 410 | 429 | 500 | 503) {
                return None;
            }
            Event::Answers { count: number(n)?, verb: own(verb), resource: own(resource), status }
        }
        _ => return None,
    })
}

fn fact(words: &[&str]) -> Option<Fact> {
    let own = |s: &str| s.to_owned();
    Some(match words {
        ["at", "least", n, "pods" | "pod", "of", of, "are" | "is", "ready"] => {
            Fact::Ready { of: own(of), count: number(n)?, at_least: true }
        }
        [n, "pods" | "pod", "of", of, "are" | "is", "ready"] => {
            Fact::Ready { of: own(of), count: number(n)?, at_least: false }
        }
        [n, "pods" | "pod", "of", of, "are" | "is", "pending"] => Fact::Pending { of: own(of), count: number(n)? },
        ["there", "are" | "is", n, "pods" | "pod", "of", of] => Fact::Count { of: own(of), count: number(n)? },
        ["no", "pod", "of", of, "is", "on", "node", node] => Fact::NotOnNode { of: own(of), node: own(node) },
        ["no", "pod", "of", of, "is", "in", "zone", zone] => Fact::NotInZone { of: own(of), zone: own(zone) },
        ["node", node, "is", "ready"] => Fact::Node { node: own(node), status: "True" },
        ["node", node, "is", "not", "ready"] => Fact::Node { node: own(node), status: "False" },
        ["node", node, "is", "unknown"] => Fact::Node { node: own(node), status: "Unknown" },
        [n, "nodes" | "node", "are" | "is", "ready"] => Fact::ReadyNodes { count: number(n)? },
        [n, "nodes" | "node", "drive" | "drives", "their" | "its", "pods", "out"] => {
            Fact::DrivenOut { count: number(n)? }
        }
        ["budget", name, "allows", n, "disruptions" | "disruption"] => {
            Fact::Budget { name: own(name), allows: number(n)? }
        }
        ["the", "last", "eviction", "was", "refused"] => Fact::LastEviction { granted: false },
        ["the", "last", "eviction", "was", "granted"] => Fact::LastEviction { granted: true },
        _ => return None,
    })
}

/// A sentence may only speak of what there is.
fn check_names(step: &Sentence, given: &[Setting]) -> Result<(), String> {
    let (mut nodes, mut zones, mut workloads, mut budgets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for setting in given {
        match setting {
            Setting::DataCenter { name, nodes: count, zones: named } => {
                nodes.extend((1..=*count).map(|n| format!("{name}-{n}")));
                zones.extend(if named.is_empty() { vec![name.clone()] } else { named.clone() });
            }
            Setting::Deployment { name, .. } | Setting::StatefulSet { name, .. } | Setting::DaemonSet { name } => {
                workloads.push(name.clone());
            }
            Setting::Budget { name, .. } => budgets.push(name.clone()),
            _ => {}
        }
    }
    let known = |what: &str, name: &str, all: &[String]| {
        if all.iter().any(|a| a == name) {
            return Ok(());
        }
        let mut some = all.iter().take(6).cloned().collect::<Vec<_>>().join(", ");
        if all.len() > 6 {
            some.push_str(", ...");
        }
        Err(format!(
            "there is no {what} \"{name}\" in this story; there is: {}",
            if some.is_empty() { "none" } else { &some }
        ))
    };
    let on_node = |name: &str| known("node", name, &nodes);
    let of = |name: &str| known("workload", name, &workloads);
    match step {
        Sentence::When(event, _) => match event {
            Event::NodePower { node, .. }
            | Event::Cordon { node, .. }
            | Event::Taint { node, .. }
            | Event::SaysNotReady { node } => on_node(node),
            Event::ZonePower { zone, .. } => known("zone", zone, &zones),
            Event::Scale { deployment, .. } => of(deployment),
            Event::Evict { of: name } | Event::Delete { of: name } => of(name),
            _ => Ok(()),
        },
        Sentence::Then(fact, _) => match fact {
            Fact::Ready { of: name, .. } | Fact::Pending { of: name, .. } | Fact::Count { of: name, .. } => of(name),
            Fact::NotOnNode { of: name, node } => of(name).and_then(|()| on_node(node)),
            Fact::NotInZone { of: name, zone } => of(name).and_then(|()| known("zone", zone, &zones)),
            Fact::Node { node, .. } => on_node(node),
            Fact::Budget { name, .. } => known("budget", name, &budgets),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STORY: &str = "story: One node\ngiven:\n- data center dc-a with 2 nodes\n- deployment shop with 2 replicas\n";

    fn error(rest: &str) -> String {
        parse(&format!("{STORY}{rest}")).unwrap_err().to_string()
    }

    #[test]
    fn steps_come_in_the_order_of_their_times_and_events_before_facts() {
        let story = parse(&format!(
            "{STORY}when:\n- 1m 30s: node dc-a-1 loses power\nthen:\n- 5s: two pods of shop are ready\n- 90s: node dc-a-1 is ready\n"
        ))
        .unwrap();
        let times: Vec<u64> = story.steps.iter().map(|(t, _)| t.as_secs()).collect();
        assert_eq!(times, [5, 90, 90]);
        assert!(matches!(story.steps[1].1, Sentence::When(..)));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_what_would_be_right() {
        let then = "then:\n- 1s: two pods of shop are ready\n";
        for (rest, parts) in [
            (
                format!("when:\n- 1s: node dc-a-1 catches fire\n{then}"),
                vec!["when, sentence 1", "node NAME loses power"],
            ),
            (format!("when:\n- 1s: node dc-b-1 loses power\n{then}"), vec!["when, sentence 1", "dc-a-1, dc-a-2"]),
            (format!("when:\n- soon: node dc-a-1 loses power\n{then}"), vec!["\"soon\" is no time", "1m 30s"]),
            ("then:\n- two pods of shop are ready\n".to_owned(), vec!["then, sentence 1", "a time and a sentence"]),
            ("then:\n- 1s: two pods of bank are ready\n".to_owned(), vec!["no workload \"bank\""]),
            ("then:\n- 900h: two pods of shop are ready\n".to_owned(), vec!["longer than a story may last"]),
            ("than:\n- 1s: x\n".to_owned(), vec!["5: the file", "than"]),
            (
                "then:\n- 9s: two pods of shop are ready\n- 5s: two pods of shop are ready\n".to_owned(),
                vec!["7: then, sentence 2", "the time goes back from 9s to 5s", "order"],
            ),
            (
                format!("when:\n- 1s: node dc-a-1 gets power again\n{then}"),
                vec!["6: when, sentence 1", "has power", "loses power"],
            ),
            (
                format!("when:\n- 1s: the data center loses power\n- 2s: node dc-a-1 loses power\n{then}"),
                vec!["7: when, sentence 2", "has no power"],
            ),
            (
                "then:\n- 1s: the last eviction was refused\n".to_owned(),
                vec!["6: then", "no eviction before", "is evicted"],
            ),
            ("then:\n- 99999999999999999999s: two pods of shop are ready\n".to_owned(), vec!["is no time"]),
            ("then:\n- 1s: [two]\n".to_owned(), vec!["a time and a sentence"]),
            ("then: &a\n- 1s: two pods of shop are ready\nwhen: *a\n".to_owned(), vec!["the file", "aliases"]),
        ] {
            let told = error(&rest);
            parts.iter().for_each(|part| assert!(told.contains(part), "{part} in {told}"));
        }
        assert!(parse("story: x\ngiven: []\nthen: []\n").unwrap_err().to_string().contains("one data center"));
        for (given, part) in [
            ("data center dc-b with 2 nodes", "one data center"),
            ("deployment shop with 3 replicas", "second workload \"shop\""),
            ("deployment bank with 4000000000 replicas", "at most"),
            ("nodes of 0 cores and 1 GiB", "at least one core"),
            ("budget b keeps 1 pod of bank", "no workload \"bank\""),
            ("pods of bank bear a lost node for 3 seconds", "no workload \"bank\""),
            ("a lamp", "deployment NAME with N replicas"),
        ] {
            let told = parse(&format!("{STORY}- {given}\nthen: []\n")).unwrap_err();
            assert!(told.reason.contains(part), "{part} in {told}");
            assert!(told.line == 5 || part == "one data center", "{told}");
        }
        let many = parse("story: x\ngiven:\n- data center dc-a with 9000 nodes\nthen: []\n").unwrap_err();
        assert!(many.to_string().contains("3: given, sentence 1: a data center has 1 to 5000 nodes"), "{many}");
    }

    #[test]
    fn files_that_would_eat_the_memory_are_refused_at_once() {
        let begun = std::time::Instant::now();
        let huge = format!("{STORY}# {}\n", "x".repeat(10 << 20));
        let why = parse(&huge).unwrap_err().to_string();
        assert!(why.contains("at most") && why.contains("split"), "{why}");
        let mut bomb = "story: x\na: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (this, before) in ('b'..='i').zip('a'..='h') {
            bomb.push_str(&format!(
                "{this}: &{this} [*{before}, *{before}, *{before}, *{before}, *{before}, *{before}]\n"
            ));
        }
        let why = parse(&bomb).unwrap_err();
        assert_eq!(why.place, "the file", "{why}");
        let deep = format!("story: x\ngiven: {}{}\nthen: []\n", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(parse(&deep).unwrap_err().line, 2);
        let wide = format!("{STORY}then:\n{}", "- {}\n".repeat(30_000));
        parse(&wide).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z0-9:\\- \n]{0,200}", sentence in "[a-z0-9 ]{0,60}") {
            let _ = parse(&text);
            let _ = parse(&format!("{STORY}then:\n- 1s: \"{sentence}\"\n"));
        }
    }
}
