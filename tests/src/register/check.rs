//! The checker: a history of clients and the store's own order of writes, and everything in them that must not be.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    history::{Operation, Outcome, Record},
    store::Effective,
};

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A write under an older token took effect after one under a newer token: two sites wrote at once.
    StaleWrite {
        /// The late write.
        late: Effective,
        /// Token that had been used before it.
        after: u64,
    },
    /// Two sites wrote under one token.
    SharedToken {
        /// The token.
        token: u64,
        /// The sites.
        sites: (String, String),
    },
    /// A client was told that its write is done; the store does not have it.
    LostWrite(String),
    /// No single order of all operations explains what the clients saw.
    NotLinearizable(String),
}

/// All violations; `initial` is what the register held before the first operation.
pub fn check(history: &[Record], effective: &[Effective], initial: &str) -> Vec<Violation> {
    let mut violations = one_writer(effective);
    let there: BTreeSet<&str> = effective.iter().map(|write| write.value.as_str()).collect();
    for record in history {
        if let (Operation::Write(value), Some(_)) = (&record.operation, record.done_by())
            && !there.contains(value.as_str())
        {
            violations.push(Violation::LostWrite(value.clone()));
        }
    }
    violations.extend(linearizable(history, initial));
    violations
}

fn one_writer(effective: &[Effective]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let (mut newest, mut writers) = (0, BTreeMap::<u64, &str>::new());
    for write in effective {
        if write.token < newest {
            violations.push(Violation::StaleWrite { late: write.clone(), after: newest });
        }
        newest = newest.max(write.token);
        let first = writers.entry(write.token).or_insert(&write.site);
        if *first != write.site {
            let sites = ((*first).to_owned(), write.site.clone());
            let shared = Violation::SharedToken { token: write.token, sites };
            // Once is enough, however much was written.
            if !violations.contains(&shared) {
                violations.push(shared);
            }
        }
    }
    violations
}

/// The operations on one value: its write and the reads that found it.
#[derive(Debug)]
struct Cluster {
    written: Option<Duration>,
    first_end: Duration,
    last_begin: Duration,
    read: bool,
}

/// Gibbons and Korach, "Testing shared memories" (1997), for a register whose values are all different: in its zone,
/// from the first end to the last begin of its operations, a value must be there; two such zones may not overlap, and
/// no value may have to come and go inside the zone of another.
fn linearizable(history: &[Record], initial: &str) -> Vec<Violation> {
    let mut clusters = BTreeMap::<&str, Cluster>::new();
    let empty = || Cluster { written: None, first_end: Duration::MAX, last_begin: Duration::ZERO, read: false };
    // It was there before anybody asked.
    clusters.insert(initial, Cluster { written: Some(Duration::ZERO), first_end: Duration::ZERO, ..empty() });
    for record in history {
        let (value, end) = match (&record.operation, &record.outcome) {
            (Operation::Write(value), Outcome::Ok { .. }) => (value, record.ended),
            (Operation::Write(value), Outcome::Unknown(_)) => (value, Duration::MAX),
            (Operation::Read, Outcome::Ok { value, .. }) => (value, record.ended),
            _ => continue,
        };
        let cluster = clusters.entry(value).or_insert_with(empty);
        match &record.operation {
            Operation::Write(_) => cluster.written = Some(record.invoked),
            Operation::Read => cluster.read = true,
        }
        cluster.first_end = cluster.first_end.min(end);
        cluster.last_begin = cluster.last_begin.max(record.invoked);
    }
    let mut violations = Vec::new();
    for (value, cluster) in &clusters {
        match cluster.written {
            None => violations.push(format!("`{value}` was read and never written")),
            Some(begin) if cluster.first_end < begin => {
                violations.push(format!("`{value}` was read before it was written"));
            }
            Some(_) => {}
        }
    }
    // A write of which nobody knows and that nobody read need not have been.
    clusters.retain(|_, cluster| cluster.read || cluster.first_end < Duration::MAX);
    let (mut zones, points): (Vec<_>, Vec<_>) =
        clusters.into_iter().partition(|(_, cluster)| cluster.first_end < cluster.last_begin);
    zones.sort_by_key(|(_, zone)| zone.first_end);
    for pair in zones.windows(2) {
        let ((a, first), (b, second)) = (&pair[0], &pair[1]);
        if second.first_end < first.last_begin {
            let at = second.first_end;
            violations.push(format!("at {at:?} both `{a}` and `{b}` must be there"));
        }
    }
    for (value, point) in &points {
        // The last zone that began before: the others ended before it began, or overlap and are told already.
        let at = zones.partition_point(|(_, zone)| zone.first_end < point.last_begin);
        if let Some((other, zone)) = at.checked_sub(1).and_then(|at| zones.get(at))
            && point.first_end < zone.last_begin
        {
            violations.push(format!("`{value}` came and went while `{other}` was there"));
        }
    }
    violations.into_iter().map(Violation::NotLinearizable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn record(operation: Operation, invoked: u64, ended: u64, outcome: Outcome) -> Record {
        Record { client: 0, operation, invoked: at(invoked), ended: at(ended), outcome }
    }

    fn ok(value: &str) -> Outcome {
        Outcome::Ok { site: "a".into(), token: 1, value: value.into() }
    }

    fn write(value: &str, invoked: u64, ended: u64) -> Record {
        record(Operation::Write(value.into()), invoked, ended, ok(""))
    }

    fn read(value: &str, invoked: u64, ended: u64) -> Record {
        record(Operation::Read, invoked, ended, ok(value))
    }

    fn effect(value: &str, token: u64, site: &str) -> Effective {
        Effective { value: value.into(), token, site: site.into(), revision: 1 }
    }

    #[test]
    fn a_history_with_one_order_passes() {
        let history = [
            read("", 0, 5),
            write("x", 10, 20),
            write("y", 15, 30),
            read("x", 16, 25),
            read("y", 26, 40),
            record(Operation::Write("z".into()), 50, 60, Outcome::Unknown(String::new())),
            read("z", 70, 80),
        ];
        let effective = [effect("x", 1, "a"), effect("y", 1, "a"), effect("z", 2, "b")];
        assert_eq!(check(&history, &effective, ""), []);
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [write("x", 0, 10), write("y", 20, 30), read("x", 40, 50)];
        assert_eq!(linearizable(&history, "").len(), 1);
        let history = [write("x", 0, 10), write("y", 20, 30), read("y", 25, 35), read("x", 40, 50)];
        assert!(!linearizable(&history, "").is_empty());
        let history = [write("x", 1, 10), read("", 20, 30)];
        assert_eq!(linearizable(&history, "").len(), 1);
    }

    #[test]
    fn a_value_that_was_never_written_or_read_too_early_is_found() {
        assert_eq!(linearizable(&[read("x", 0, 10)], "").len(), 1);
        assert_eq!(linearizable(&[read("x", 0, 10), write("x", 20, 30)], "").len(), 1);
    }

    #[test]
    fn a_refused_write_that_is_read_is_found() {
        let refused = record(Operation::Write("x".into()), 0, 10, Outcome::Refused(String::new()));
        assert_eq!(linearizable(&[refused, read("x", 20, 30)], "").len(), 1);
    }

    #[test]
    fn a_write_that_the_store_does_not_have_is_lost() {
        assert_eq!(check(&[write("x", 0, 10)], &[], ""), [Violation::LostWrite("x".into())]);
    }

    #[test]
    fn two_writers_are_found_in_the_order_of_the_store() {
        let effective = [effect("x", 1, "a"), effect("y", 2, "b"), effect("z", 1, "a")];
        assert!(matches!(one_writer(&effective)[..], [Violation::StaleWrite { after: 2, .. }]));
        let effective = [effect("x", 1, "a"), effect("y", 1, "b")];
        assert!(matches!(one_writer(&effective)[..], [Violation::SharedToken { token: 1, .. }]));
    }
}
