//! What is limited and may run out: open files, process ids, tracked connections, memory.

use std::io;

use super::{
    counters::{Counters, MINUTE_MS},
    source::{About, Findings, Look, Source, absent, not_understood},
};
use crate::sources::series::{Reading, SeriesName};

fn share(used: u64, limit: u64) -> f64 {
    if limit == 0 { 0.0 } else { used as f64 / limit as f64 }
}

/// Open files of the whole node.
pub struct FileDescriptors;

impl Source for FileDescriptors {
    fn about(&self) -> &'static About {
        &About {
            name: "file-descriptors",
            reads: &["proc/sys/fs/file-nr", "proc/sys/fs/inode-nr"],
            measures: &["file-descriptors.used"],
            series: &["fd.used", "fd.inodes_cached"],
            says: "open files of the node against the kernel's limit",
            needs: "nothing",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        const PATH: &str = "proc/sys/fs/file-nr";
        let text = look.text(PATH)?;
        let numbers: Vec<u64> = text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [allocated, free, limit] = numbers[..] else { return Err(not_understood(PATH)) };
        let used = allocated.saturating_sub(free);
        let mut found = Findings::default();
        found.figure("file-descriptors.used", "", share(used, limit), format!("{used} of {limit} open files"));
        found.reading(Reading::fills(SeriesName::node("fd", "used"), used, limit));
        if let Ok(text) = look.text("proc/sys/fs/inode-nr") {
            match text.split_ascii_whitespace().next().and_then(|number| number.parse::<u64>().ok()) {
                Some(cached) => found.reading(Reading::level(SeriesName::node("fd", "inodes_cached"), cached as f64)),
                None => look.doubt("proc/sys/fs/inode-nr", "is not understood"),
            }
        }
        Ok(found)
    }
}

/// Ids of tasks.
pub struct Pids;

impl Source for Pids {
    fn about(&self) -> &'static About {
        &About {
            name: "pids",
            reads: &["proc/loadavg", "proc/sys/kernel/pid_max", "proc/sys/kernel/threads-max"],
            measures: &["pids.used"],
            series: &["pids.used"],
            says: "tasks of the node against the smaller of pid_max and threads-max",
            needs: "nothing",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        const LOAD: &str = "proc/loadavg";
        const LIMIT: &str = "proc/sys/kernel/pid_max";
        let ids = look.number(LIMIT).ok_or_else(|| {
            if look.has(LIMIT) {
                not_understood(LIMIT)
            } else {
                absent("the kernel does not tell how many tasks there may be")
            }
        })?;
        let limit = ids.min(look.number("proc/sys/kernel/threads-max").unwrap_or(u64::MAX));
        let load = look.text(LOAD)?;
        let tasks = load.split_ascii_whitespace().nth(3).and_then(|field| field.split_once('/'));
        let tasks: u64 = tasks.and_then(|(_, all)| all.parse().ok()).ok_or_else(|| not_understood(LOAD))?;
        let mut found = Findings::default();
        found.figure("pids.used", "", share(tasks, limit), format!("{tasks} of {limit} tasks"));
        found.reading(Reading::fills(SeriesName::node("pids", "used"), tasks, limit));
        Ok(found)
    }
}

/// Tracked connections.
pub struct Conntrack {
    dropped: Counters,
}

impl Default for Conntrack {
    fn default() -> Self {
        Self { dropped: Counters::new(5 * MINUTE_MS) }
    }
}

/// What `stat/nf_conntrack` counts: entries, and connections that were turned away; a column for each, a row for each
/// CPU, in hexadecimal.
fn conntrack_table(text: &str) -> Option<(u64, u64)> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split_ascii_whitespace().collect();
    let column = |wanted: &str| names.iter().position(|name| *name == wanted);
    let (entries, turned_away) = (column("entries")?, [column("drop"), column("insert_failed"), column("early_drop")]);
    let (mut count, mut dropped) = (None, 0_u64);
    for line in lines.take(4096) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|field| u64::from_str_radix(field, 16).ok());
        // The table's entries are the same in each row.
        count = count.or(number(entries));
        dropped = turned_away.iter().flatten().filter_map(|at| number(*at)).fold(dropped, u64::saturating_add);
    }
    Some((count?, dropped))
}

impl Source for Conntrack {
    fn about(&self) -> &'static About {
        &About {
            name: "conntrack",
            reads: &["proc/1/net/stat/nf_conntrack", "proc/sys/net/netfilter/nf_conntrack_{count,max}"],
            measures: &["conntrack.used", "conntrack.dropped"],
            series: &["conntrack.used", "conntrack.dropped"],
            says: "tracked connections against the table's size, and connections that the full table turned away",
            needs: "a kernel that tracks connections",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let base = "proc/sys/net/netfilter/nf_conntrack";
        let table = look.net("stat/nf_conntrack").ok();
        let table = table.and_then(|text| {
            conntrack_table(&text).or_else(|| {
                look.doubt("proc/net/stat/nf_conntrack", "is not understood");
                None
            })
        });
        // In a container the counter below sys is the container's own.
        let used = match table {
            Some((count, _)) => count,
            None if look.has(format!("{base}_count")) => {
                look.number(format!("{base}_count")).ok_or_else(|| not_understood(format!("{base}_count")))?
            }
            None => return Err(absent("the kernel tracks no connections")),
        };
        let most = look.number(format!("{base}_max"));
        let most = most.ok_or_else(|| absent("the size of the connection tracking table is not told"))?;
        let mut found = Findings::default();
        found.figure("conntrack.used", "", share(used, most), format!("{used} of {most} connections"));
        found.reading(Reading::fills(SeriesName::node("conntrack", "used"), used, most));
        if let Some((_, dropped)) = table {
            let added = self.dropped.add("dropped", dropped, look.now_ms);
            let says = format!("{added} connections were turned away in the last 5 minutes");
            found.figure("conntrack.dropped", "", added as f64, says);
            found.reading(Reading::counts(SeriesName::node("conntrack", "dropped"), dropped));
        }
        Ok(found)
    }
}

/// Memory that is left, and time lost to waiting for memory and disks, as the collector read them.
pub struct Saturation;

impl Source for Saturation {
    fn about(&self) -> &'static About {
        &About {
            name: "saturation",
            reads: &["proc/meminfo", "proc/pressure/{cpu,memory,io}"],
            measures: &["memory.left", "memory.stalled", "io.stalled"],
            series: &["mem.available_bytes", "pressure.*.some", "pressure.*.full", "load.one"],
            says: "memory that programs could still get, and the share of time in which all tasks waited for memory or disks",
            needs: "Linux 4.20 for the waiting (PSI), which some distributions switch off",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let sample = look.sample.ok_or_else(|| absent("memory and pressure were not read yet"))?;
        let mut found = Findings::default();
        if let Some(memory) = sample.memory {
            let left = share(memory.available, memory.total);
            let says = format!("{:.1} % of the memory could still be had", left * 100.0);
            found.figure("memory.left", "", left, says);
            found.reading(Reading::drains(SeriesName::node("mem", "available_bytes"), memory.available, 0));
        }
        if let Some([one, ..]) = sample.load {
            found.reading(Reading::level(SeriesName::node("load", "one"), one));
        }
        for pressure in sample.pressure.iter().filter(|pressure| pressure.window == "60s") {
            let name = SeriesName::of("pressure", pressure.resource, pressure.kind);
            found.reading(Reading::level(name, pressure.share));
            let measure = match (pressure.resource, pressure.kind) {
                ("memory", "full") => "memory.stalled",
                ("io", "full") => "io.stalled",
                _ => continue,
            };
            let says =
                format!("all tasks waited for {} {:.0} % of a minute", pressure.resource, pressure.share * 100.0);
            found.figure(measure, "", pressure.share, says);
        }
        found.or_absent("neither memory nor pressure can be read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        probes::tests::{Host, value},
        sources::{Memory, Pressure, Sample},
    };

    #[test]
    fn shares_are_read_from_a_recorded_tree() {
        let host = Host::of(&[
            ("proc/sys/fs/file-nr", "9000\t0\t10000\n"),
            ("proc/sys/kernel/pid_max", "32768\n"),
            ("proc/sys/kernel/threads-max", "1000\n"),
            ("proc/loadavg", "0.50 0.40 0.30 1/950 5678\n"),
            ("proc/sys/net/netfilter/nf_conntrack_count", "250\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "1000\n"),
        ]);
        assert_eq!(value(&host.read(&mut FileDescriptors).unwrap(), "file-descriptors.used"), 0.9);
        assert_eq!(value(&host.read(&mut Pids).unwrap(), "pids.used"), 0.95);
        let found = host.read(&mut Conntrack::default()).unwrap();
        assert_eq!(found.figures[0].says, "250 of 1000 connections");
        assert_eq!(found.readings[0].limit, Some(1000.0));
    }

    #[test]
    fn the_hosts_own_table_of_connections_counts_and_not_the_containers() {
        let mut host = Host::of(&[
            (
                "proc/1/net/stat/nf_conntrack",
                "entries  clashres found drop early_drop\n0000ff00  0 0 00000001 0\n0000ff00  0 0 00000002 1\n",
            ),
            ("proc/sys/net/netfilter/nf_conntrack_count", "3\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "65536\n"),
        ]);
        let mut source = Conntrack::default();
        assert_eq!(value(&host.read(&mut source).unwrap(), "conntrack.used"), 65280.0 / 65536.0);
        host.put("proc/1/net/stat/nf_conntrack", "entries drop\n0000ff00 00000013\n");
        host.now_ms += 10_000;
        assert_eq!(value(&host.read(&mut source).unwrap(), "conntrack.dropped"), 15.0);
    }

    #[test]
    fn files_that_lie_or_are_cut_are_reasons() {
        let host = Host::of(&[
            ("proc/sys/fs/file-nr", "-9000\t0"),
            ("proc/sys/kernel/pid_max", "99999999999999999999999\n"),
            ("proc/loadavg", "0.50 0.40"),
            ("proc/1/net/stat/nf_conntrack", "what"),
        ]);
        assert!(host.read(&mut FileDescriptors).is_err() && host.read(&mut Pids).is_err());
        assert!(host.read(&mut Conntrack::default()).unwrap_err().to_string().contains("tracks no connections"));
    }

    #[test]
    fn memory_and_waiting_come_from_what_was_sampled() {
        let mut host = Host::of(&[]);
        assert!(host.read(&mut Saturation).is_err());
        let pressure = |resource, kind, share| Pressure { resource, kind, window: "60s", share };
        host.sample = Some(std::sync::Arc::new(Sample {
            memory: Some(Memory { total: 1000, available: 20 }),
            pressure: vec![pressure("memory", "full", 0.3), pressure("io", "some", 0.9)],
            ..Sample::default()
        }));
        let found = host.read(&mut Saturation).unwrap();
        assert_eq!(value(&found, "memory.left"), 0.02);
        assert_eq!(value(&found, "memory.stalled"), 0.3);
        assert!(found.figures.iter().all(|figure| figure.measure != "io.stalled"));
        assert!(found.readings.iter().any(|reading| reading.name.as_str() == "pressure.io.some"));
    }
}
