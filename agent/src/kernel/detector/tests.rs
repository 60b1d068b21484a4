use evergreen_api::ProblemKind;
use proptest::prelude::*;

use super::*;
use crate::kernel::line::{Format, messages};

fn rules() -> Arc<RuleSet> {
    static RULES: std::sync::LazyLock<Arc<RuleSet>> = std::sync::LazyLock::new(|| Arc::new(RuleSet::built_in()));
    Arc::clone(&RULES)
}

fn detect(log: &str) -> Vec<Detection> {
    let mut detector = Detector::new(rules());
    let mut news = Vec::new();
    for line in log.lines() {
        for message in messages(line.as_bytes(), Format::Auto) {
            news.extend(detector.push(&message));
        }
    }
    news.extend(detector.close_all());
    news.into_iter()
        .filter_map(|news| match news {
            News::Closed(report) => Some(report.detection),
            _ => None,
        })
        .collect()
}

#[test]
fn all_lines_of_one_crash_are_one_report() {
    let found = detect(
        "[   10.000001] BUG: kernel NULL pointer dereference, address: 0000000000000008\n\
         [   10.000002] #PF: supervisor read access in kernel mode\n\
         [   10.000003] Oops: 0000 [#1] SMP PTI\n\
         [   10.000004] CPU: 1 PID: 12 Comm: app Not tainted 6.1.0\n\
         [   10.000005] Kernel panic - not syncing: Fatal exception\n",
    );
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].kind, ProblemKind::KernelOops);
    assert_eq!(found[0].severity, Severity::Fatal);
    assert_eq!(found[0].crash_type.as_deref(), Some("NULL-POINTER-DEREFERENCE"));
    assert_eq!(found[0].at, "10.000001");
}

#[test]
fn a_list_corruption_names_the_assertion_behind_it() {
    let found = detect(
        "[   10.000001] list_del corruption. prev->next should be ffff, but was 0000\n\
         [   10.000002] ------------[ cut here ]------------\n\
         [   10.000003] kernel BUG at lib/list_debug.c:53!\n",
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].crash_type.as_deref(), Some("MEMORY_SAFETY_BUG"));
}

#[test]
fn tasks_that_hang_one_after_the_other_are_one_report_with_a_count() {
    let log: String = (0..5)
        .map(|n| format!("[  {}.000001] INFO: task app:{n} blocked for more than 120 seconds.\n", 200 + n * 100))
        .collect();
    let found = detect(&log);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].count, 5);
}

#[test]
fn two_crashes_far_apart_are_two_reports() {
    let found = detect(
        "[   10.000001] WARNING: CPU: 0 PID: 1 at net/core/dev.c:1 f+0x1/0x2\n\
         [ 5000.000001] general protection fault: 0000 [#1] SMP\n",
    );
    assert_eq!(found.len(), 2);
}

#[test]
fn an_out_of_memory_kill_in_two_lines_is_one_event() {
    let found = detect(
        "Memory cgroup out of memory: Kill process 1012 (heapster) score 1035 or sacrifice child\n\
         Killed process 1012 (heapster) total-vm:327128kB, anon-rss:306328kB, file-rss:11132kB\n",
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, ProblemKind::OutOfMemory);
}

#[test]
fn a_link_that_goes_down_once_is_no_problem_and_one_that_flaps_is() {
    let down = |at: u32| format!("[ {at}.000001] igb 0000:01:00.0 eth0: igb: eth0 NIC Link is Down\n");
    assert!(detect(&down(100)).is_empty());
    assert!(detect(&format!("{}{}", down(100), down(5000))).is_empty());
    let flapping: String = (0..4).map(|n| down(100 + n * 20)).collect();
    let found = detect(&flapping);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kind, found[0].count), (ProblemKind::NetworkLinkFlapping, 4));
}

#[test]
fn a_storm_keeps_the_count_and_little_else() {
    let mut detector = Detector::new(rules());
    for n in 0..20_000 {
        let line = format!("[  100.{:06}] INFO: task app:{n} blocked for more than 120 seconds.", n % 1_000_000);
        for message in messages(line.as_bytes(), Format::Dmesg) {
            detector.push(&message);
        }
    }
    let news = detector.close_all();
    let [News::Closed(report)] = &news[..] else { panic!("{news:?}") };
    assert_eq!(report.detection.count, 20_000);
    assert!(report.detection.evidence.len() <= MAX_EVIDENCE);
}

proptest! {
    #[test]
    fn any_log_is_read_without_panic_and_within_bounds(lines in proptest::collection::vec(
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            Just(b"[ 1.000001] BUG: x".to_vec()),
            Just(b"Kernel panic - not syncing: y".to_vec()),
            Just(b"[99999999.000001] EXT4-fs error (device sda1): z".to_vec()),
        ], 0..50)) {
        let mut detector = Detector::new(rules());
        for line in &lines {
            for message in messages(line, Format::Auto) {
                detector.push(&message);
            }
        }
        prop_assert!(detector.close_all().len() <= 1 + detector.rules().rules().len());
    }
}
