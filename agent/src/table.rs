//! The live table of `--standalone`, for people at a terminal.

use comfy_table::{Cell, Color, Table, presets};
use evergreen_api::{Severity, resources::SourceStatus};

use crate::shared::View;

/// Draws the view.
pub fn draw(node: &str, view: &View, listen: Option<&str>) -> String {
    let sample = &view.sample;
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let mut row = |name: &str, value: String, note: String| {
        table.add_row(vec![name.to_owned(), value, note]);
    };
    let absent = || "absent".to_owned();
    row("CPU", sample.cpu_utilization.map_or_else(absent, percent), format!("{} CPUs", sample.cpus));
    if let Some(memory) = sample.memory {
        row(
            "memory",
            percent(memory.used() as f64 / memory.total.max(1) as f64),
            format!("{} of {}", bytes(memory.used()), bytes(memory.total)),
        );
    }
    if let Some([one, five, fifteen]) = sample.load {
        row("load", format!("{one:.2}"), format!("{five:.2} over 5 min, {fifteen:.2} over 15 min"));
    }
    row("processes", sample.processes.map_or_else(absent, |count| count.to_string()), String::new());
    let stalled: Vec<String> = sample
        .pressure
        .iter()
        .filter(|pressure| pressure.kind == "some" && pressure.window == "10s")
        .map(|pressure| format!("{} {}", pressure.resource, percent(pressure.share)))
        .collect();
    row("pressure", stalled.first().cloned().unwrap_or_else(absent), stalled.get(1..).unwrap_or_default().join(", "));
    for filesystem in sample.filesystems.iter().take(6) {
        let note = filesystem
            .trouble
            .clone()
            .or_else(|| Some(format!("{} free", bytes(filesystem.available?))))
            .unwrap_or_default();
        let read_only = if filesystem.read_only { " (read-only)" } else { "" };
        row(&filesystem.mountpoint, filesystem.utilization.map_or_else(absent, percent), format!("{note}{read_only}"));
    }
    for disk in sample.disks.iter().take(4) {
        let rates = format!(
            "read {}/s, write {}/s",
            bytes(disk.read_bytes_per_second as u64),
            bytes(disk.written_bytes_per_second as u64)
        );
        row(&disk.name, percent(disk.busy), rates);
    }
    for interface in sample.network.iter().take(4) {
        let rates = format!(
            "in {}/s, out {}/s",
            bytes(interface.received_bytes_per_second as u64),
            bytes(interface.sent_bytes_per_second as u64)
        );
        row(&interface.name, format!("{} errors", interface.errors), rates);
    }
    let origin =
        view.energy.origin.as_ref().map(|o| format!("{} by {}", o.provenance, o.source)).unwrap_or_else(absent);
    row("power", view.energy.watts.map_or_else(absent, |watts| format!("{watts:.1} W")), origin);
    for (origin, account) in view.energy.ledger.accounts() {
        let joules = |microjoules: u64| format!("{:.1} J", microjoules as f64 / 1e6);
        row(
            "energy",
            joules(account.node_microjoules),
            format!(
                "pods {}, system {}, idle {} ({})",
                joules(account.pods_microjoules()),
                joules(account.system_microjoules),
                joules(account.idle_microjoules),
                origin.provenance
            ),
        );
    }
    let mut text = format!("evergreen-agent {} on {node}: {}\n{table}\n", env!("CARGO_PKG_VERSION"), view.verdict);
    if view.problems.is_empty() {
        text.push_str("no problems\n");
    } else {
        let mut problems = Table::new();
        problems.load_style(presets::UTF8_BORDERS_ONLY);
        for problem in &view.problems {
            let color = if problem.severity >= Severity::Degraded { Color::Red } else { Color::Yellow };
            problems.add_row(vec![
                Cell::new(problem.kind).fg(color),
                Cell::new(problem.severity),
                Cell::new(problem.count),
                Cell::new(&problem.summary),
            ]);
        }
        text.push_str(&format!("{problems}\n"));
    }
    for told in &view.predictions {
        let times = match (&told.expected_at, &told.earliest, &told.latest) {
            (Some(expected), Some(earliest), Some(latest)) => format!(" at about {expected} ({earliest} to {latest})"),
            (Some(expected), ..) => format!(" at about {expected}"),
            _ => String::new(),
        };
        let why = told.evidence.first().map(String::as_str).unwrap_or_default();
        text.push_str(&format!("expected: {}{times}: {why}\n", told.summary));
    }
    text.push_str(&sources(&view.sources));
    if let Some(listen) = listen {
        text.push_str(&format!("metrics: http://{listen}/metrics   stop: Ctrl-C\n"));
    }
    text
}

/// Sources that are there in a line or two, and those that are not, or not whole, each with its reason.
fn sources(all: &[SourceStatus]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let whole: Vec<&str> = all
        .iter()
        .filter(|source| source.present && source.reason.is_none())
        .map(|source| source.name.as_str())
        .collect();
    let mut text = format!("sources: {} of {} are read", all.iter().filter(|source| source.present).count(), all.len());
    let mut width = usize::MAX;
    for name in whole {
        if width.saturating_add(name.len()) > 110 {
            text.push_str("\n  ");
            width = 0;
        }
        text.push_str(name);
        text.push(' ');
        width += name.len() + 1;
    }
    text.push('\n');
    for source in all.iter().filter(|source| source.reason.is_some() || !source.present) {
        let mark = if source.present { "in part" } else { "absent" };
        let reason = source.reason.as_deref().unwrap_or("unknown");
        text.push_str(&format!("  {mark:<7} {:<18} {reason}\n", source.name));
    }
    text
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_has_read_nothing_draws_a_table_all_the_same() {
        let text = draw("n", &View::default(), None);
        assert!(text.contains("absent") && text.contains("no problems"));
    }

    #[test]
    fn sources_are_listed_and_those_that_are_absent_or_partial_say_why() {
        let source = |name: &str, present, reason: Option<&str>| SourceStatus {
            name: name.into(),
            present,
            reason: reason.map(Into::into),
        };
        let text = sources(&[
            source("cpu", true, None),
            source("edac", false, Some("no driver")),
            source("hwmon", true, Some("left out: x")),
        ]);
        assert_eq!(
            text,
            "sources: 2 of 3 are read\n  cpu \n  absent  edac               no driver\n  in part hwmon              left out: x\n"
        );
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }
}
