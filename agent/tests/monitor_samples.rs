//! node-problem-detector's sample logs, read by monitors in its own format: what its default rules raise is raised.
//!
//! The samples are not part of the tree; without them the test says that it is skipped. The configuration here is ours.

use std::{fs, io::Cursor, path::PathBuf, sync::Arc};

use evergreen_agent::{
    detect,
    kernel::{Format, RuleSet},
    npd::config::parse,
    rules::Rulebook,
};
use evergreen_api::{Detection, ProblemKind};

const KERNEL: &str = r#"{
  "plugin": "kmsg",
  "logPath": "/dev/kmsg",
  "lookback": "5m",
  "bufferSize": 10,
  "source": "kernel-monitor",
  "conditions": [
    {"type": "KernelDeadlock", "reason": "KernelHasNoDeadlock", "message": "the kernel has no deadlock"},
    {"type": "ReadonlyFilesystem", "reason": "FilesystemIsNotReadOnly", "message": "all filesystems may be written"}
  ],
  "rules": [
    {"type": "temporary", "reason": "OOMKilling", "pattern": "Killed process \\d+ \\(.+\\) total-vm:\\d+kB.*"},
    {"type": "temporary", "reason": "TaskHung", "pattern": "(?:INFO: )?task [\\S ]+:\\w+ blocked for more than \\w+ seconds\\."},
    {"type": "temporary", "reason": "UnregisterNetDevice", "pattern": "unregister_netdevice: waiting for \\w+ to become free\\. Usage count = \\d+"},
    {"type": "temporary", "reason": "KernelOops", "pattern": "BUG: unable to handle kernel NULL pointer dereference at .*"},
    {"type": "temporary", "reason": "KernelOops", "pattern": "divide error: 0000 \\[#\\d+\\] SMP"},
    {"type": "permanent", "condition": "KernelDeadlock", "reason": "AUFSUmountHung", "pattern": "task umount\\.aufs:\\w+ blocked for more than \\w+ seconds\\."},
    {"type": "permanent", "condition": "KernelDeadlock", "reason": "DockerHung", "pattern": "task docker:\\w+ blocked for more than \\w+ seconds\\."},
    {"type": "permanent", "condition": "ReadonlyFilesystem", "reason": "FilesystemIsReadOnly", "pattern": "Remounting filesystem read-only"}
  ]
}"#;

fn detect(log: &[u8]) -> Vec<Detection> {
    let nothing = "format: evergreen.dev/kernel-rules/v1\nrules: []\n";
    let kernel = RuleSet::parse(nothing).expect("a file without rules");
    let book = Rulebook::of(Arc::new(kernel), vec![parse(KERNEL).expect("the configuration above")]);
    let mut output = Vec::new();
    detect::run_with(Cursor::new(log.to_vec()), &mut output, Format::Auto, &book)
        .expect("memory can be read and written");
    let lines = output.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("each line is a detection")).collect()
}

#[test]
fn samples_raise_what_the_default_rules_raise_there() {
    let folder = std::env::var_os("EVERGREEN_CORPORA")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora"))
        .join("kernel-logs/samples/node-problem-detector");
    if !folder.is_dir() {
        eprintln!(
            "skipped: no sample logs in {}; set EVERGREEN_CORPORA to the folder that holds them",
            folder.display()
        );
        return;
    }
    let expected: [(&str, &[&str]); 7] = [
        ("aufs_umount_hung", &["AUFSUmountHung", "TaskHung"]),
        ("docker_hung", &["DockerHung", "TaskHung"]),
        ("divide_zero", &["KernelOops"]),
        ("null_pointer", &["KernelOops"]),
        ("oom_kill", &["OOMKilling"]),
        ("readonly_filesystem", &["FilesystemIsReadOnly"]),
        ("unregister_netdevice", &["UnregisterNetDevice"]),
    ];
    for (file, reasons) in expected {
        let found = detect(&fs::read(folder.join(file)).unwrap());
        let said: Vec<&str> = found.iter().filter_map(|problem| problem.summary.split(' ').next()).collect();
        assert_eq!(said, reasons, "{file}");
    }
}

#[test]
fn a_condition_of_the_taxonomy_is_of_its_kind_and_any_other_is_custom() {
    let found = detect(b"INFO: task docker:1234 blocked for more than 120 seconds.\n");
    assert_eq!(found[0].kind, ProblemKind::KernelDeadlock);
    let found = detect(b"EXT4-fs (sda1): Remounting filesystem read-only\n");
    assert_eq!((found[0].kind, found[0].evidence.len()), (ProblemKind::Custom, 1));
}
