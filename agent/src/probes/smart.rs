//! What disks say about their own health, by smartctl where it is installed: it needs a disk's device and the right to
//! send it commands, which a container without privilege does not have. Each call has a bound on its time and on what it
//! says; a disk that hangs is left alone until its call returns.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    patient::Patient,
    source::{About, Findings, Look, Source, absent},
};
use crate::sources::series::{Reading, SeriesName};

/// Where the command is looked for.
const PLACES: [&str; 3] = ["/usr/sbin/smartctl", "/usr/local/sbin/smartctl", "/sbin/smartctl"];
/// A disk answers within a second; one that wakes up or resets takes longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// What disks count changes slowly, and asking wakes nobody but costs them a moment.
const ASK_EVERY_MS: u64 = 600_000;
/// Disks that are asked in one pass, so that a shelf of them does not hold up the other sources.
const AT_A_TIME: usize = 2;
/// Most that is read of an answer: about forty times a usual one.
const MAX_ANSWER: u64 = 1 << 20;
/// Disks that are asked.
const MAX_DISKS: usize = 128;

/// What one disk says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Health {
    passed: Option<bool>,
    critical_warning: Option<u64>,
    /// Share of its life, 0 to 1, may be above.
    worn: Option<f64>,
    /// Spare blocks left over the least that there should be.
    spare: Option<(u64, u64)>,
    celsius: Option<u64>,
    /// Errors by what they are called in series.
    counts: Vec<(&'static str, u64)>,
}

/// Attributes of ATA disks that precede their failure, and what their series are called.
const ATA: [(u64, &str); 5] = [
    (5, "reallocated_sectors"),
    (187, "uncorrectable_errors"),
    (197, "pending_sectors"),
    (198, "unreadable_sectors"),
    (199, "cable_errors"),
];

/// Reads an answer of `smartctl --json`.
fn parse(text: &str) -> Result<Health, String> {
    let answer: Value = serde_json::from_str(text).map_err(|_| "smartctl did not answer in JSON".to_owned())?;
    let number = |path: &str| answer.pointer(path).and_then(Value::as_u64);
    let mut health = Health {
        passed: answer.pointer("/smart_status/passed").and_then(Value::as_bool),
        critical_warning: number("/nvme_smart_health_information_log/critical_warning"),
        worn: number("/nvme_smart_health_information_log/percentage_used").map(|percent| percent as f64 / 100.0),
        spare: number("/nvme_smart_health_information_log/available_spare")
            .zip(number("/nvme_smart_health_information_log/available_spare_threshold")),
        celsius: number("/temperature/current").filter(|celsius| *celsius <= 150),
        counts: Vec::new(),
    };
    for (path, what) in [
        ("/nvme_smart_health_information_log/media_errors", "media_errors"),
        ("/scsi_grown_defect_list", "grown_defects"),
        ("/scsi_error_counter_log/read/total_uncorrected_errors", "read_errors"),
        ("/scsi_error_counter_log/write/total_uncorrected_errors", "write_errors"),
    ] {
        health.counts.extend(number(path).map(|count| (what, count)));
    }
    for attribute in answer.pointer("/ata_smart_attributes/table").and_then(Value::as_array).into_iter().flatten() {
        let known = ATA.into_iter().find(|(id, _)| attribute.get("id").and_then(Value::as_u64) == Some(*id));
        let raw = attribute.pointer("/raw/value").and_then(Value::as_u64);
        health.counts.extend(known.zip(raw).map(|((_, what), raw)| (what, raw)));
    }
    if health == Health::default() {
        let said = answer.pointer("/smartctl/messages/0/string").and_then(Value::as_str).unwrap_or("it says nothing");
        return Err(crate::text::printable(said.as_bytes(), 120));
    }
    Ok(health)
}

/// Runs the command for one disk.
fn ask(command: &Path, device: &Path) -> Result<Health, String> {
    let told = |error: io::Error| format!("{}: {error}", command.display());
    let mut child = Command::new(command)
        // A disk that sleeps is not woken.
        .args(["--json", "--health", "--attributes", "--nocheck=standby"])
        .arg(device)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(told)?;
    let output = child.stdout.take();
    let reader = std::thread::Builder::new().name("smartctl".into()).stack_size(64 << 10).spawn(move || {
        let mut text = String::new();
        output.map(|output| output.take(MAX_ANSWER).read_to_string(&mut text));
        text
    });
    let until = Instant::now() + ANSWER_WITHIN;
    loop {
        match child.try_wait().map_err(told)? {
            Some(_) => break,
            None if Instant::now() >= until => {
                // One that waits for the disk inside the kernel does not even die; this thread then waits for it.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("smartctl did not end within {ANSWER_WITHIN:?}"));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    let text = reader.map_err(told)?.join().map_err(|_| "smartctl's answer could not be read".to_owned())?;
    parse(&text)
}

#[derive(Default)]
struct Disk {
    patient: Patient<Health>,
    asked_ms: Option<u64>,
    outcome: Option<Result<Health, String>>,
}

/// Disks' own word.
#[derive(Default)]
pub struct Smart {
    disks: BTreeMap<String, Disk>,
}

impl Source for Smart {
    fn about(&self) -> &'static About {
        &About {
            name: "smart",
            reads: &["smartctl --json of each disk, every 10 minutes"],
            measures: &["smart.failing", "smart.worn", "smart.spare-gone"],
            series: &[
                "smart.*.media_errors",
                "smart.*.reallocated_sectors",
                "smart.*.pending_sectors",
                "smart.*.unreadable_sectors",
                "smart.*.uncorrectable_errors",
                "smart.*.cable_errors",
                "smart.*.grown_defects",
                "smart.*.read_errors",
                "smart.*.write_errors",
                "smart.*.percentage_used",
                "smart.*.celsius",
            ],
            says: "what disks say about their own health",
            needs: "smartctl 7, the disks' devices and CAP_SYS_RAWIO (SATA, SCSI) or CAP_SYS_ADMIN (NVMe): not in the chart",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let named = look.settings.smartctl.clone();
        if named.is_none() && !look.root.is_this_machine() {
            return Err(absent(
                "disks are not asked through a mounted or recorded tree; name the command with --smartctl",
            ));
        }
        let command = named.or_else(|| PLACES.iter().map(PathBuf::from).find(|path| path.exists()));
        let command = command.ok_or_else(|| absent("smartctl is not installed; name it with --smartctl"))?;
        let names = look.list("sys/block").into_iter().filter(|name| {
            ["sd", "nvme", "hd"].iter().any(|prefix| name.starts_with(prefix))
                && look.has(format!("sys/block/{name}/device"))
        });
        let names: Vec<String> = names.take(MAX_DISKS).collect();
        self.disks.retain(|name, _| names.contains(name));
        let mut asked = 0;
        for name in names {
            let disk = self.disks.entry(name.clone()).or_default();
            let due = disk.asked_ms.is_none_or(|asked| look.now_ms.saturating_sub(asked) >= ASK_EVERY_MS);
            if due && asked < AT_A_TIME {
                asked += 1;
                disk.asked_ms = Some(look.now_ms);
                let (command, device) = (command.clone(), look.path(format!("dev/{name}")));
                disk.outcome = Some(disk.patient.ask(ANSWER_WITHIN * 2, move || ask(&command, &device)));
            }
        }
        let mut found = Findings::default();
        let mut reason = None;
        for (name, disk) in &self.disks {
            match &disk.outcome {
                Some(Ok(health)) => tell(name, health, &mut found),
                Some(Err(why)) => {
                    look.doubt(format!("dev/{name}"), &format!("does not tell: {why}"));
                    reason.get_or_insert_with(|| format!("{name}: {why}"));
                }
                None => {}
            }
        }
        match reason {
            Some(reason) if found.figures.is_empty() => Err(io::Error::other(reason)),
            _ if self.disks.is_empty() => Err(absent("no disks that smartctl knows")),
            _ => Ok(found),
        }
    }
}

fn tell(name: &str, health: &Health, found: &mut Findings) {
    let warned = health.critical_warning.is_some_and(|bits| bits != 0);
    let failing = warned || health.passed == Some(false);
    let says = match health.critical_warning.filter(|bits| *bits != 0) {
        Some(bits) => format!("{name}: the disk warns of itself (critical warning {bits:#04x})"),
        None => format!("{name}: the disk says that it fails"),
    };
    found.figure("smart.failing", name, f64::from(u8::from(failing)), says);
    if let Some(worn) = health.worn {
        found.figure("smart.worn", name, worn, format!("{name}: {:.0} % of its life is used", worn * 100.0));
        let series = SeriesName::of("smart", name, "percentage_used");
        found.reading(Reading::fills(series, (worn * 100.0) as u64, 100));
    }
    if let Some((left, least)) = health.spare {
        let says = format!("{name}: {left} % of the spare blocks are left, {least} % should be");
        found.figure("smart.spare-gone", name, f64::from(u8::from(left < least)), says);
    }
    if let Some(celsius) = health.celsius {
        found.reading(Reading::level(SeriesName::of("smart", name, "celsius"), celsius as f64));
    }
    for (what, count) in &health.counts {
        found.reading(Reading::counts(SeriesName::of("smart", name, what), *count));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;
    use crate::probes::tests::{Host, value};

    const NVME: &str = r#"{"smart_status":{"passed":true},"temperature":{"current":41},"nvme_smart_health_information_log":{"critical_warning":4,"available_spare":8,"available_spare_threshold":10,"percentage_used":97,"media_errors":12}}"#;
    const SATA: &str = r#"{"smart_status":{"passed":false},"ata_smart_attributes":{"table":[{"id":5,"raw":{"value":16}},{"id":9,"raw":{"value":1}},{"id":199,"raw":{"value":-4}}]}}"#;

    fn with_command(script: &str) -> Host {
        let mut host =
            Host::of(&[("sys/block/nvme0n1/device/x", ""), ("sys/block/loop0/device/x", ""), ("smartctl", script)]);
        let path = host.root.join("smartctl");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        host.settings.smartctl = Some(path);
        host
    }

    #[test]
    fn a_disk_that_warns_of_itself_is_told_with_its_counters() {
        let mut host = with_command(&format!("#!/bin/sh\necho '{NVME}'\nexit 8\n"));
        let mut source = Smart::default();
        let found = host.read(&mut source).unwrap();
        assert_eq!((value(&found, "smart.failing"), value(&found, "smart.worn")), (1.0, 0.97));
        assert_eq!(value(&found, "smart.spare-gone"), 1.0);
        assert!(found.readings.iter().any(|r| r.name.as_str() == "smart.nvme0n1.media_errors" && r.value == 12.0));
        host.put("smartctl", "#!/bin/sh\nexit 1\n");
        host.now_ms = 10_000;
        assert_eq!(host.read(&mut source).unwrap().figures.len(), 3, "not asked again before its time");
        host.now_ms = ASK_EVERY_MS;
        assert!(host.read(&mut source).unwrap_err().to_string().contains("JSON"));
    }

    #[test]
    fn answers_of_sata_disks_are_understood_and_refusals_are_reasons() {
        let health = parse(SATA).unwrap();
        assert_eq!((health.passed, health.counts), (Some(false), vec![("reallocated_sectors", 16)]));
        let refused = parse(r#"{"smartctl":{"messages":[{"string":"Permission denied"}]}}"#);
        assert_eq!(refused.unwrap_err(), "Permission denied");
        assert!(parse("").is_err() && parse("[]").is_err());
    }

    #[test]
    fn a_host_without_the_command_or_seen_through_a_tree_says_so() {
        let host = Host::of(&[]);
        assert!(host.read(&mut Smart::default()).unwrap_err().to_string().contains("--smartctl"));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(cut in 0_usize..300, noise in "[ -~]{0,40}") {
            for text in [NVME, SATA] {
                let _ = parse(&format!("{}{noise}", text.chars().take(cut).collect::<String>()));
            }
        }
    }
}
