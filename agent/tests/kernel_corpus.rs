//! The kernel log detector on labelled logs: what it must find, and what it must leave alone.
//!
//! The corpus is not part of the tree. It is looked for in `EVERGREEN_CORPORA`, else beside the checkout; without it the
//! tests say that they are skipped.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use evergreen_agent::{
    detect,
    kernel::{Format, RuleSet},
};
use evergreen_api::{Detection, ProblemKind};

/// Types that a node meets in production.
const CORE: [&str; 5] = ["HANG", "DoS", "BUG", "NULL-POINTER-DEREFERENCE", "MEMORY_SAFETY_BUG"];

fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("EVERGREEN_CORPORA")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora"))
        .join("kernel-logs");
    if folder.join("reports").is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no kernel logs in {}; set EVERGREEN_CORPORA to the folder that holds them", folder.display());
    None
}

fn rules() -> Arc<RuleSet> {
    static RULES: LazyLock<Arc<RuleSet>> = LazyLock::new(|| Arc::new(RuleSet::built_in()));
    Arc::clone(&RULES)
}

fn detect(log: &[u8]) -> Vec<Detection> {
    let mut output = Vec::new();
    let input = std::io::Cursor::new(log.to_vec());
    detect::run(input, &mut output, Format::Auto, rules()).expect("memory can be read and written");
    output
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).expect("each line is a detection"))
        .collect()
}

/// Header and log of a report: the header ends at the first empty line, the log at a line `REPORT:` behind another.
fn split(report: &[u8]) -> (Option<String>, Option<String>, Vec<u8>) {
    let lines: Vec<&[u8]> =
        report.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    let end = lines.iter().position(|line| line.is_empty()).unwrap_or(lines.len());
    let field = |name: &str| {
        let value = lines[..end]
            .iter()
            .find_map(|line| String::from_utf8_lossy(line).strip_prefix(name).map(|v| v.trim().to_owned()));
        value.filter(|value| !value.is_empty())
    };
    let log = &lines[(end + 1).min(lines.len())..];
    let stop = (1..log.len()).find(|at| log[*at] == b"REPORT:" && log[at - 1].is_empty()).unwrap_or(log.len());
    (field("TITLE:"), field("TYPE:"), log[..stop].join(&b'\n'))
}

#[test]
fn crashes_are_found_named_and_told_once_and_logs_without_a_crash_stay_silent() {
    let Some(folder) = corpus() else { return };
    let (mut core, mut core_found, mut named, mut titled, mut titled_found, mut once) = (0, 0, 0, 0, 0, 0);
    let mut false_alarms = Vec::new();
    for entry in fs::read_dir(folder.join("reports")).unwrap().flatten() {
        let (title, kind, log) = split(&fs::read(entry.path()).unwrap());
        let found = detect(&log);
        if title.is_none() {
            if !found.is_empty() {
                false_alarms.push(entry.file_name());
            }
            continue;
        }
        titled += 1;
        titled_found += usize::from(!found.is_empty());
        once += usize::from(found.len() == 1);
        if kind.as_deref().is_some_and(|kind| CORE.contains(&kind)) {
            core += 1;
            core_found += usize::from(!found.is_empty());
            named += usize::from(found.first().is_some_and(|first| first.crash_type == kind));
        }
    }
    eprintln!("core {core_found}/{core}, named {named}, all {titled_found}/{titled}, told once {once}");
    assert!(false_alarms.is_empty(), "{false_alarms:?}");
    assert!(core_found * 100 >= core * 97, "{core_found} of {core} core crashes found");
    assert!(titled_found * 100 >= titled * 92, "{titled_found} of {titled} crashes found");
    assert!(named * 100 >= core_found * 90, "{named} of {core_found} named rightly");
    assert!(once * 100 >= titled_found * 97, "{once} of {titled_found} told once");
}

#[test]
fn samples_of_other_agents_raise_what_their_labels_say() {
    let Some(folder) = corpus() else { return };
    use ProblemKind::{
        FileDescriptorsExhausted, FilesystemReadOnly, GpuFault, HungTask, KernelDeadlock, KernelOops, KernelPanic,
        OutOfMemory,
    };
    let expected: [(&str, &[ProblemKind]); 16] = [
        ("node-problem-detector/aufs_umount_hung", &[HungTask]),
        ("node-problem-detector/divide_zero", &[KernelOops]),
        ("node-problem-detector/docker_hung", &[HungTask]),
        ("node-problem-detector/null_pointer", &[KernelOops]),
        ("node-problem-detector/oom_kill", &[OutOfMemory]),
        ("node-problem-detector/readonly_filesystem", &[FilesystemReadOnly]),
        ("node-problem-detector/unregister_netdevice", &[KernelDeadlock]),
        ("gpud/dmesg-with-xid-119.log", &[GpuFault]),
        ("gpud/kmsg.1.log", &[]),
        ("gpud/kmsg.2.peermem.log", &[GpuFault]),
        ("gpud/memory-dmesg.decode.iso.log", &[GpuFault, OutOfMemory]),
        ("gpud/os-dmesg.decode.iso.log", &[FileDescriptorsExhausted]),
        ("gpud/pstore-dmesg-erst-7530486857247752193", &[KernelPanic]),
        ("gpud/pstore-dmesg-erst-7530486857247752194", &[]),
        ("gpud/pstore-dmesg-erst.txt", &[KernelOops]),
        ("gpud/pstore-dmesg.txt", &[KernelPanic]),
    ];
    for (file, kinds) in expected {
        let found = detect(&fs::read(folder.join("samples").join(file)).unwrap());
        assert_eq!(found.iter().map(|problem| problem.kind).collect::<Vec<_>>(), kinds, "{file}");
    }
}

#[test]
fn an_ordinary_log_raises_nothing() {
    assert_eq!(detect(include_bytes!("logs/ordinary.log")), []);
}
