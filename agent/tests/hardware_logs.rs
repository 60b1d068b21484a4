//! What single kernel messages mean, whatever kernel, daemon or console put in front of them; what means nothing; and
//! reports that were cut.

use std::{
    io::Cursor,
    sync::{Arc, LazyLock},
};

use evergreen_agent::{
    detect,
    kernel::{Format, RuleSet},
};
use evergreen_api::{Detection, ProblemKind};

static RULES: LazyLock<Arc<RuleSet>> = LazyLock::new(|| Arc::new(RuleSet::built_in()));

fn detect(log: &str) -> Vec<Detection> {
    let mut output = Vec::new();
    let input = Cursor::new(log.to_owned().into_bytes());
    detect::run(input, &mut output, Format::Auto, Arc::clone(&RULES)).expect("memory can be read and written");
    let lines = output.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("each line is a detection")).collect()
}

/// What stands in front of a message: consoles, dmesg, /dev/kmsg, syslog daemons, journalctl, old and new kernels.
const FRONTS: [&str; 11] = [
    "",
    "[   12.345678] ",
    "[123456.789012][  T123] ",
    "[   12.345678][    C1] ",
    "<3>[   12.345678] ",
    "3,1234,12345678,-;",
    "3,1234,12345678,-,caller=C1;",
    "[Sun Feb 23 16:24:18 2025] ",
    "kern  :err   : 2025-01-21T04:41:44,283302+00:00 ",
    "Nov  3 10:00:00 node-1 kernel: [   12.345678] ",
    "2025-01-21T04:41:44.283302+00:00 node-1 kernel: ",
];

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty())
}

#[test]
fn each_message_means_the_same_behind_every_front() {
    let mut wrong = Vec::new();
    let table = include_str!("logs/meanings.txt");
    assert!(lines(table).count() > 150);
    for line in lines(table) {
        let (kind, message) = line.split_once('\t').expect("kind, tab, message");
        let kind: ProblemKind = kind.parse().expect("a kind");
        for front in FRONTS {
            let found: Vec<ProblemKind> =
                detect(&format!("{front}{message}\n")).iter().map(|found| found.kind).collect();
            if found != [kind] {
                wrong.push(format!("{found:?} instead of {kind}: {front}{message}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn ordinary_messages_mean_nothing_behind_any_front() {
    let mut wrong = Vec::new();
    for message in lines(include_str!("logs/quiet.txt")) {
        for front in FRONTS {
            if let Some(found) = detect(&format!("{front}{message}\n")).first() {
                wrong.push(format!("{}: {front}{message}", found.kind));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_programs_write_into_the_same_log_means_nothing() {
    for line in lines(include_str!("logs/meanings.txt")) {
        let message = line.split_once('\t').expect("kind, tab, message").1;
        for front in ["Nov  3 10:00:00 node-1 app[12]: ", "2025-01-21T04:41:44.283302+00:00 node-1 containerd: "] {
            assert_eq!(detect(&format!("{front}{message}\n")), [], "{front}{message}");
        }
    }
}

const CRASH: &str = "\
[  100.000001][  T731] BUG: unable to handle page fault for address: ffffc90000a1f000
[  100.000002][  T731] #PF: supervisor write access in kernel mode
[  100.000003][  T731] #PF: error_code(0x0002) - not-present page
[  100.000010][  T731] Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI
[  100.000011][    C1] rcu: INFO: rcu_preempt self-detected stall on CPU
[  100.000012][  T731] CPU: 3 UID: 0 PID: 731 Comm: kworker/3:2 Tainted: G        W          6.12.4 #1
[  100.000013][  T731] Hardware name: Dell Inc. PowerEdge R640/0W23H8, BIOS 2.10.2 02/24/2021
[  100.000014][  T731] RIP: 0010:memcpy_orig+0x29/0x110
[  100.000015][  T731] Call Trace:
[  100.000016][  T731]  <TASK>
[  100.000017][  T731]  ? __die+0x24/0x70
[  100.000018][  T731]  process_one_work+0x1c4/0x3d0
[  100.000019][  T731]  </TASK>
[  100.000020][  T731] ---[ end trace 0000000000000000 ]---
[  100.000021][  T731] Kernel panic - not syncing: Fatal exception
[  100.000022][  T731] ---[ end Kernel panic - not syncing: Fatal exception ]---
";

#[test]
fn a_crash_of_several_processors_is_one_report_named_by_its_cause() {
    let found = detect(CRASH);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].kind, found[0].crash_type.as_deref()), (ProblemKind::KernelOops, Some("MEMORY_SAFETY_BUG")));
    assert!(found[0].first_line.starts_with("BUG: unable to handle page fault"));
}

#[test]
fn a_crash_that_was_cut_anywhere_is_one_report_or_none_but_never_two() {
    let lines: Vec<&str> = CRASH.lines().collect();
    for begin in 0..lines.len() {
        for end in begin..=lines.len() {
            let log = lines[begin..end].join("\n");
            assert!(detect(&log).len() <= 1, "{log}");
            // Cut within a line as well.
            let bytes = &log.as_bytes()[log.len().min(begin * 3)..];
            assert!(detect(&String::from_utf8_lossy(bytes)).len() <= 1, "{log}");
        }
    }
    let from = |text: &str| &CRASH[CRASH.find(text).expect("it is there")..];
    // The end alone tells that there was something.
    let cut = from("[  100.000014]");
    assert_eq!(detect(cut)[0].kind, ProblemKind::KernelPanic);
    let end = lines[7..14].join("\n");
    assert_eq!(detect(&end)[0].summary, "the end of a kernel report whose beginning is missing");
}
