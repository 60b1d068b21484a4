//! Lives of problems, one a row: what happens, and what is known in the end.
//!
//! Steps are separated by `|`:
//!
//! ```text
//! see RULE TYPE [quiet=TIME] [SEVERITY] [report=N] [count=N] [told] [watched] [says=WORD]
//! wait TIME              the time passes; what was quiet for its time ends
//! restart                the agent ends and begins anew, with the same rules, in the same boot
//! reboot                 the node is started anew, and the agent with it
//! boot                   the agent notices another boot while it runs
//! rules RULE...          these rules are left
//! over RULE              a line in the log, or who watches it, says that the cause is over
//! promise TYPE...        what node-problem-detector's configurations show from the beginning
//! adopt RULE TYPE TIME [watched]   it is on the Node since that time before the boot, and nobody remembers it
//! ```

use evergreen_api::{Detection, HumanDuration, Severity};

use super::*;
use crate::clock::Moment;

const LIVES: &[(&str, &str, &str)] = &[
    // ---- Beginning
    ("nothing is known of a node where nothing happened", "wait 1h", ""),
    ("what is seen is raised", "see a HungTask", "HungTask warning x1 by a"),
    ("evidence comes with it", "see a HungTask says=first", "HungTask warning x1 by a: first"),
    (
        "a run of lines in one report is counted once",
        "see a HungTask count=1 | see a HungTask count=7",
        "HungTask warning x7 by a",
    ),
    (
        "two reports are added",
        "see a HungTask report=1 count=3 | see a HungTask report=2 count=4",
        "HungTask warning x7 by a",
    ),
    (
        "a growing report refreshes its evidence",
        "see a HungTask says=one | see a HungTask count=2 says=two",
        "HungTask warning x2 by a: two",
    ),
    (
        "another report leaves the first evidence",
        "see a HungTask says=one | see a HungTask report=2 says=two",
        "HungTask warning x2 by a: one",
    ),
    (
        "a name of the user's lives as a kind does",
        "see a DiskShelfGone quiet=60s | wait 61s",
        "DiskShelfGone over: not seen for 1m",
    ),
    (
        "two names are two problems",
        "see a DiskShelfGone | see b ClockWrong",
        "ClockWrong warning x1 by b; DiskShelfGone warning x1 by a",
    ),
    // ---- Getting worse, getting better
    (
        "it gets worse",
        "see a DiskFailing | see b DiskFailing fatal report=2 says=smoke",
        "DiskFailing fatal x2 by b: smoke",
    ),
    (
        "a log does not tell that it gets better",
        "see a DiskFailing fatal | see a DiskFailing report=2",
        "DiskFailing fatal x2 by a",
    ),
    (
        "who watches the cause does",
        "see w DiskFailing fatal watched | see w DiskFailing watched",
        "DiskFailing warning x1 by w",
    ),
    (
        "what was only told becomes a condition",
        "see a OutOfMemory told | see b OutOfMemory report=2",
        "OutOfMemory warning x2 by b",
    ),
    ("and stays one", "see a OutOfMemory | see b OutOfMemory told report=2", "OutOfMemory warning x2 by a"),
    // ---- Ending
    ("it ends when it was quiet for its time", "see a HungTask quiet=60s | wait 60s", "HungTask over: not seen for 1m"),
    ("and not before", "see a HungTask quiet=60s | wait 59s", "HungTask warning x1 by a"),
    (
        "each sighting begins its time anew",
        "see a HungTask quiet=60s | wait 59s | see a HungTask quiet=60s count=2 | wait 59s",
        "HungTask warning x2 by a",
    ),
    ("without a time only a boot ends it", "see a KernelOops | wait 1000h", "KernelOops warning x1 by a"),
    (
        "a boot that the agent lives through ends it",
        "see a KernelOops | boot",
        "KernelOops over: the node was started anew",
    ),
    ("a boot ends it", "see a KernelOops | reboot", "KernelOops over: the node was started anew"),
    (
        "a remount that was seen ends it at once",
        "see ro FilesystemReadOnly | over ro",
        "FilesystemReadOnly over: it said so",
    ),
    (
        "the end of another rule is not its end",
        "see ro FilesystemReadOnly | over rw",
        "FilesystemReadOnly warning x1 by ro",
    ),
    (
        "of two causes of one type the longer quiet time counts",
        "see a DiskFailing quiet=10s | see b DiskFailing quiet=60s report=2 | wait 30s",
        "DiskFailing warning x2 by a",
    ),
    (
        "a cause that only a boot ends is not shortened",
        "see a DiskFailing | see b DiskFailing quiet=10s report=2 | wait 30s",
        "DiskFailing warning x2 by a",
    ),
    (
        "who watches the cause ends what the log began",
        "see a DiskFailing | see w DiskFailing watched report=2 | over w",
        "DiskFailing over: it said so",
    ),
    (
        "one ends and the other goes on",
        "see a HungTask quiet=10s | see b KernelOops | wait 10s",
        "HungTask over: not seen for 10s; KernelOops warning x1 by b",
    ),
    // ---- Returning
    (
        "what returns is raised anew and counted anew",
        "see a HungTask quiet=1s count=5 | wait 2s | see a HungTask report=2 count=2",
        "HungTask warning x2 by a",
    ),
    (
        "a report that goes on behind its end counts what is new",
        "see a HungTask quiet=1s count=5 | wait 2s | see a HungTask count=6",
        "HungTask warning x1 by a",
    ),
    // ---- Restarts of the agent
    (
        "a restart forgets nothing",
        "see a HungTask quiet=60s count=3 says=one | restart",
        "HungTask warning x3 by a: one",
    ),
    (
        "counts go on over restarts, though reports are numbered anew",
        "see a HungTask count=3 | restart | see a HungTask count=2",
        "HungTask warning x5 by a",
    ),
    (
        "a quiet time goes on over a restart",
        "see a HungTask quiet=60s | wait 30s | restart | wait 30s",
        "HungTask over: not seen for 1m",
    ),
    (
        "an end is remembered with its reason",
        "see a HungTask quiet=10s | wait 10s | restart | wait 1h",
        "HungTask over: not seen for 10s",
    ),
    (
        "ten restarts are as one",
        "see a HungTask count=3 | restart | restart | restart | restart | see a HungTask",
        "HungTask warning x4 by a",
    ),
    // ---- Boots
    (
        "a cause that is watched may outlive a boot",
        "see w DiskPressureSoon watched | reboot",
        "DiskPressureSoon warning x1 by w",
    ),
    (
        "and its watcher ends it",
        "see w DiskPressureSoon watched | reboot | over w",
        "DiskPressureSoon over: it said so",
    ),
    (
        "a quiet time behind a boot is counted on the new clock",
        "wait 5h | see w ClockWrong watched quiet=60s | reboot | wait 59s",
        "ClockWrong warning x1 by w",
    ),
    (
        "what returns behind a boot is raised anew",
        "see a KernelOops count=4 | reboot | see a KernelOops",
        "KernelOops warning x1 by a",
    ),
    (
        "an end by a boot is told until it returns",
        "see a KernelOops | reboot | reboot | wait 1h",
        "KernelOops over: the node was started anew",
    ),
    // ---- Rules
    ("a problem goes with its rule", "see a HungTask | rules b", "HungTask gone"),
    (
        "and one of a rule that stays, stays",
        "see a HungTask | see b KernelOops | rules b",
        "HungTask gone; KernelOops warning x1 by b",
    ),
    ("its rule may go while the agent is away", "see a HungTask | rules a | restart | rules b", "HungTask gone"),
    ("an end goes with its rule as well", "see a HungTask quiet=1s | wait 1s | rules b", "HungTask gone"),
    (
        "a rule that comes back raises anew",
        "see a HungTask count=3 | rules b | rules a | see a HungTask report=2",
        "HungTask warning x1 by a",
    ),
    (
        "a worse cause takes the problem over from a rule that goes",
        "see a DiskFailing | see b DiskFailing fatal report=2 | rules b",
        "DiskFailing fatal x2 by b",
    ),
    // ---- Promises of node-problem-detector's configurations
    ("a promised condition is there while nothing is wrong", "promise KernelDeadlock", "KernelDeadlock well"),
    ("is raised", "promise KernelDeadlock | see a KernelDeadlock", "KernelDeadlock warning x1 by a"),
    (
        "and says its end",
        "promise KernelDeadlock | see a KernelDeadlock | reboot",
        "KernelDeadlock over: the node was started anew",
    ),
    (
        "its rule may go and the promise stay",
        "promise KernelDeadlock | see a KernelDeadlock | rules b",
        "KernelDeadlock well",
    ),
    ("a promise that is taken back goes from the Node", "promise KernelDeadlock | promise", "KernelDeadlock gone"),
    // ---- A Node that knows more than the agent
    ("a condition of an earlier agent is taken up", "wait 2h | adopt a KernelOops -1h", "KernelOops warning x1 by a"),
    (
        "unless it is older than this boot",
        "wait 2h | adopt a KernelOops 1h",
        "KernelOops over: the node was started anew",
    ),
    ("but a cause that is watched may be", "wait 2h | adopt w KernelOops 1h watched", "KernelOops warning x1 by w"),
    (
        "what is remembered is not taken up again",
        "see a KernelOops count=3 | adopt b KernelOops -1s",
        "KernelOops warning x3 by a",
    ),
];

struct World {
    book: ConditionBook,
    boot_ms: u64,
    booted_ms: i64,
    boots: u64,
    rules: Option<Vec<String>>,
    promised: Vec<(ConditionType, String, String)>,
}

impl World {
    fn now(&self) -> Moment {
        let wall = self.booted_ms + self.boot_ms as i64;
        Moment { boot_ms: self.boot_ms, wall: jiff::Timestamp::from_millisecond(wall).unwrap() }
    }

    fn restart(&mut self) {
        let kept = serde_json::to_string(&self.book).unwrap();
        let book: ConditionBook = serde_json::from_str(&kept).unwrap();
        let rules = self.rules.clone();
        let knows = |rule: &str| rules.as_ref().is_none_or(|rules| rules.iter().any(|known| known == rule));
        let now = self.now();
        self.book = book.resume(&format!("boot-{}", self.boots), knows, &now).0;
        self.book.promise(self.promised.clone(), &now);
    }

    fn step(&mut self, step: &str) {
        let words: Vec<&str> = step.split_whitespace().collect();
        let time = |word: &str| word.parse::<HumanDuration>().unwrap().get();
        let now = self.now();
        match words[0] {
            "see" => {
                self.book.observe(sighting(&words[1..]), &now);
            }
            "wait" => {
                self.boot_ms += time(words[1]).as_millis() as u64;
                let now = self.now();
                self.book.expire(&now);
            }
            "restart" => self.restart(),
            "reboot" => {
                self.booted_ms += self.boot_ms as i64 + 60_000;
                (self.boot_ms, self.boots) = (0, self.boots + 1);
                self.restart();
            }
            "boot" => {
                self.boots += 1;
                self.book.boot(&format!("boot-{}", self.boots), &now);
            }
            "rules" => {
                self.rules = Some(words[1..].iter().map(|word| (*word).to_owned()).collect());
                self.book.keep_rules(|rule| words[1..].contains(&rule));
            }
            "over" => {
                self.book.cancel(words[1], "it said so", &now);
            }
            "promise" => {
                let promised =
                    |name: &&str| (ConditionType::named(name), format!("No{name}"), "all is well".to_owned());
                self.promised = words[1..].iter().map(promised).collect();
                self.book.promise(self.promised.clone(), &now);
            }
            "adopt" => {
                let before = words[3].trim_start_matches('-');
                let far = i64::try_from(time(before).as_millis()).unwrap();
                let since = if before == words[3] { self.booted_ms - far } else { now.wall.as_millisecond() - far };
                let foster = Foster {
                    rule: words[1].to_owned(),
                    severity: Severity::Warning,
                    crash_type: None,
                    clear_after: None,
                    watched: words.contains(&"watched"),
                };
                let adopted = Adopted {
                    about: ConditionType::named(words[2]),
                    message: "m".into(),
                    since: Some(jiff::Timestamp::from_millisecond(since).unwrap()),
                    traceparent: "00-a".into(),
                };
                self.book.adopt(adopted, foster, &now);
            }
            other => panic!("no step `{other}`"),
        }
    }

    fn told(&self) -> String {
        let mut told: Vec<String> = Vec::new();
        for (about, problem) in self.book.raised() {
            let shown = &problem.shown;
            assert_eq!(shown.condition.as_deref().unwrap_or(shown.kind.condition_type()), about.as_str());
            assert!(!self.book.cleared().contains_key(about) && !self.book.retired().contains(about), "{about}");
            let says = shown.evidence.first().map_or_else(String::new, |line| format!(": {line}"));
            told.push(format!("{about} {} x{} by {}{says}", shown.severity.as_str(), shown.count, problem.rule));
        }
        told.extend(self.book.cleared().iter().map(|(about, cleared)| format!("{about} over: {}", cleared.why)));
        told.extend(self.book.retired().iter().map(|about| format!("{about} gone")));
        let known = |about: &ConditionType| told.iter().any(|line| line.starts_with(&format!("{about} ")));
        let well: Vec<String> =
            self.book.promised().keys().filter(|about| !known(about)).map(|about| format!("{about} well")).collect();
        told.extend(well);
        told.sort();
        told.join("; ")
    }
}

fn sighting(words: &[&str]) -> Sighting {
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = |name: &str| value(name).map_or(1, |number| number.parse::<u64>().unwrap());
    let about = ConditionType::named(words[1]);
    Sighting {
        report: number("report"),
        detection: Detection {
            kind: about.kind(),
            severity: if words.contains(&"fatal") { Severity::Fatal } else { Severity::Warning },
            crash_type: None,
            summary: "s".into(),
            first_line: String::new(),
            evidence: value("says").map(str::to_owned).into_iter().collect(),
            count: number("count"),
            at: String::new(),
        },
        rule: words[0].to_owned(),
        clear_after: value("quiet").map(|time| time.parse::<HumanDuration>().unwrap().get()),
        condition: !words.contains(&"told"),
        about,
        reason: None,
        watched: words.contains(&"watched"),
    }
}

#[test]
fn problems_live_as_the_table_says() {
    let mut wrong = Vec::new();
    for (says, steps, end) in LIVES {
        let mut world = World {
            book: ConditionBook::new("boot-0"),
            boot_ms: 0,
            booted_ms: 1_700_000_000_000,
            boots: 0,
            rules: None,
            promised: Vec::new(),
        };
        steps.split('|').for_each(|step| world.step(step.trim()));
        let told = world.told();
        if told != *end {
            wrong.push(format!("{says}\n    {steps}\n    should be: {end}\n    is:        {told}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} lives went otherwise:\n{}", wrong.len(), LIVES.len(), wrong.join("\n"));
}

#[test]
fn what_must_be_written_at_once_is_told_from_what_may_wait() {
    let now = Moment { boot_ms: 0, wall: jiff::Timestamp::UNIX_EPOCH };
    let mut book = ConditionBook::new("b");
    let mut see = |words: &str| book.observe(sighting(&words.split(' ').collect::<Vec<_>>()), &now).is_urgent();
    assert!(see("a OutOfMemory"), "new");
    assert!(!see("a OutOfMemory count=2"), "counted");
    assert!(see("a OutOfMemory fatal report=2"), "worse");
    assert!(book.expire(&Moment { boot_ms: u64::MAX, ..now }).is_empty(), "without a quiet time it stays for ever");
    assert_eq!(book.verdict(), "fatal");
    book.set_trace(ConditionType::named("OutOfMemory"), "00-x".into());
    assert_eq!(book.cancel("a", "over", &now), [Change::Cleared(ConditionType::named("OutOfMemory"))]);
    assert_eq!(book.cleared()[&ConditionType::named("OutOfMemory")].traceparent.as_deref(), Some("00-x"));
    assert_eq!(book.verdict(), "ok");
}

#[test]
fn a_state_of_an_earlier_version_is_understood() {
    let kept = r#"{"boot_id": "b", "problems": {}, "retired": [],
        "cleared": {"HungTask": {"at": "2026-01-01T00:00:00Z", "why": "quiet", "traceparent": null}}}"#;
    let book: ConditionBook = serde_json::from_str(kept).unwrap();
    let (book, _) = book.resume("b", |_| false, &Moment { boot_ms: 0, wall: jiff::Timestamp::UNIX_EPOCH });
    assert_eq!(book.cleared().len(), 1);
    assert!(book.promised().is_empty());
}
