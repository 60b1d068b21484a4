//! Recorded hosts: for each of them, which sources are there and why the others are not, as a golden list. The files in
//! `trees/` are hosts in one text each, `== path` before the content of each file. Also: the reference of sources in
//! `docs/sources.md` is what the code says, and hostile trees are read without harm.
//!
//! `EVERGREEN_WRITE_GOLDEN=1` writes the golden files anew.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use evergreen_agent::{
    host::Root,
    probes::{Pass, ProbeArgs, Probes, abouts, thresholds},
    rules::Rulebook,
    signal::Signal,
    sources::Collector,
};
use proptest::prelude::*;

fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Lays out a recorded host.
fn lay_out(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for part in text.split("\n== ").skip(1) {
        let (path, content) = part.split_once('\n').unwrap_or((part, ""));
        let path = directory.path().join(path.trim());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{content}\n")).unwrap();
    }
    directory
}

fn recorded(name: &str) -> tempfile::TempDir {
    lay_out(&std::fs::read_to_string(manifest(&format!("tests/trees/{name}.txt"))).unwrap())
}

/// All sources of a host, as `--once` asks them.
fn ask(root: &Path) -> (Collector, Pass) {
    let root = Root::new(root);
    let mut collector = Collector::new(root.clone());
    collector.read_fast(Duration::from_secs(1));
    collector.read_slow();
    let sample = Arc::new(collector.sample().clone());
    let mut probes = Probes::new(root, ProbeArgs::default());
    let pass = probes.ask(Some(sample), &Rulebook::built_in(), 1_000_000);
    (collector, pass)
}

/// What a host shows: sources, problems, series.
fn describe(root: &Path) -> String {
    let (collector, pass) = ask(root);
    let mut sources = [collector.sources.statuses(), pass.sources].concat();
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = String::new();
    for source in sources {
        let mark = if source.present { '+' } else { '-' };
        let reason = source.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        writeln!(text, "{mark} {}{reason}", source.name).unwrap();
    }
    for signal in pass.signals {
        // How full this machine's own disks are is no part of a recorded host.
        if let Signal::Seen(sighting) = signal
            && !["FilesystemFull", "InodesExhausted"].contains(&sighting.about.to_string().as_str())
        {
            writeln!(text, "! {} ({}): {}", sighting.about, sighting.detection.severity, sighting.detection.first_line)
                .unwrap();
        }
    }
    for reading in pass.readings.all.iter().filter(|reading| reading.name.kind() != "agent") {
        if reading.name.kind() != "fs" {
            let limit = reading.limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
            writeln!(text, "= {} {}{limit}", reading.name, reading.value).unwrap();
        }
    }
    text.replace(&*root.to_string_lossy(), "")
}

fn compare(path: &Path, found: &str) {
    if std::env::var_os("EVERGREEN_WRITE_GOLDEN").is_some() {
        std::fs::write(path, found).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(found, golden, "{} differs; EVERGREEN_WRITE_GOLDEN=1 writes it anew", path.display());
}

#[test]
fn recorded_hosts_show_what_they_have_and_say_what_they_lack() {
    for name in ["xeon-bare-metal", "enterprise-3.10", "arm64", "empty-vm"] {
        let tree = recorded(name);
        compare(&manifest(&format!("tests/trees/{name}.golden")), &describe(tree.path()));
    }
}

#[test]
fn hostile_hosts_are_read_and_their_lies_told() {
    let tree = recorded("hostile");
    // What text cannot record: a directory and a pipe in the place of files, a file without end, one of zeros.
    let at = |path: &str| {
        let path = tree.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    std::fs::create_dir_all(at("sys/devices/system/edac/mc/mc1/ce_count")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("sys/class/hwmon/hwmon0/temp3_input")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("proc/vmstat")).unwrap();
    std::os::unix::fs::symlink("mdstat", at("proc/mdstat")).unwrap();
    std::fs::write(at("proc/net/snmp"), vec![0xff_u8; 100_000]).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("proc/net/netstat"), rustix::fs::Mode::RUSR).unwrap();
    compare(&manifest("tests/trees/hostile.golden"), &describe(tree.path()));
    assert!(ask(tree.path()).1.errors.iter().map(|(_, count)| count).sum::<u64>() >= 10);
}

#[test]
fn the_reference_of_sources_is_what_the_code_says() {
    let mut text = String::from(
        "# Sources of a node's health\n\n\
        Read by the agent every `--health-interval` (10 s), below `--root`. Each is reported in NodeHealth, in the metric \
        `evergreen.source.present` and by `evergreen-agent --once` as present, or absent with the reason. What in a source \
        is not what it should be (a file that holds no number, a temperature that no sensor can show) is left out, told in \
        the source's reason and counted in `evergreen.source.errors`; it raises nothing and ends nothing. A source whose \
        reading does not come back is left behind with its thread, six at most, and the others go on.\n\n\
        Measures are held against [thresholds.yaml](../agent/rules/thresholds.yaml); give your own with `--rules`. Series \
        are what predictions follow; a `*` is the thing's name.\n\n\
        Not in this list, because they are read otherwise: the kernel log (`kmsg`), CPU, load, disks and interfaces each \
        second (`cpu`, `memory`, `load`, `pressure`, `disks`, `network`), `filesystems` and `processes`, node-problem-\
        detector's monitors and checks, and the sources of energy.\n\n",
    );
    for about in abouts() {
        let code = |items: &[&str]| items.iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", ");
        writeln!(text, "## {}\n\n{}.\n", about.name, capital(about.says)).unwrap();
        writeln!(text, "- reads: {}", code(about.reads)).unwrap();
        writeln!(text, "- measures: {}", code(about.measures)).unwrap();
        if !about.series.is_empty() {
            writeln!(text, "- series: {}", code(about.series)).unwrap();
        }
        writeln!(text, "- needs: {}\n", about.needs).unwrap();
    }
    text.push_str(include_str!("trees/in-a-pod.md"));
    compare(&manifest("../docs/sources.md"), &text);
    assert!(thresholds::MEASURES.iter().all(|measure| text.contains(&format!("`{measure}`"))));
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

#[test]
fn every_series_has_the_name_that_its_source_says() {
    let said: Vec<&str> = abouts().iter().flat_map(|about| about.series).copied().collect();
    for name in ["xeon-bare-metal", "enterprise-3.10", "arm64"] {
        let tree = recorded(name);
        for reading in ask(tree.path()).1.readings.all {
            let (kind, what) = (reading.name.kind(), reading.name.what());
            let shape =
                if reading.name.thing().is_empty() { format!("{kind}.{what}") } else { format!("{kind}.*.{what}") };
            assert!(said.contains(&shape.as_str()), "{} is not described", reading.name);
        }
    }
}

/// Files of the Xeon, cut anywhere and with noise behind: what a read that races with the kernel gives.
#[test]
fn files_cut_short_or_overwritten_at_any_place_harm_nothing() {
    let text = std::fs::read_to_string(manifest("tests/trees/xeon-bare-metal.txt")).unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 24, ..ProptestConfig::default() });
    let noise = prop_oneof![
        Just("-1".to_owned()),
        Just("18446744073709551616".to_owned()),
        Just("9223372036854775807".to_owned()),
        Just(String::new()),
        Just("\u{0}\u{0}\u{0}".to_owned()),
        "[ -~\n\t]{0,40}",
    ];
    let strategy = (any::<u64>(), noise);
    runner
        .run(&strategy, |(seed, noise)| {
            let mut state = seed | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let mut spoiled = String::new();
            for part in text.split("\n== ").skip(1) {
                let (path, content) = part.split_once('\n').unwrap_or((part, ""));
                let content: String = match next() % 4 {
                    0 => content.chars().take((next() % (content.len() as u64 + 1)) as usize).collect(),
                    1 => noise.clone(),
                    2 => format!("{content}{noise}"),
                    _ => content.to_owned(),
                };
                write!(spoiled, "\n== {path}\n{content}").unwrap();
            }
            let tree = lay_out(&spoiled);
            let (_, pass) = ask(tree.path());
            prop_assert!(pass.readings.all.iter().all(|reading| reading.value.is_finite()));
            prop_assert!(pass.sources.iter().all(|source| source.present || source.reason.is_some()));
            Ok(())
        })
        .unwrap();
}
