//! The node's vital series: every figure that is worth following over time, by one stable name, read once each health
//! interval. Who predicts or looks for the unusual reads these and opens no file of its own.
//!
//! A name has three parts: what kind of thing, which one, and what of it, as in `edac.mc0.ce`, `net.eth0.rx_crc`,
//! `fs./var.used_bytes`; things of which a node has one have two parts, as in `mem.available_bytes`. Names do not change
//! between restarts as long as the thing is called the same.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// Readings of one pass; behind that, the last ones are left out. A node with more has virtual devices by the thousand.
pub const MAX_READINGS: usize = 1024;

/// Name of a series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SeriesName(Arc<str>);

impl SeriesName {
    /// Name of something that the node has one of: `mem`, `available_bytes`.
    pub fn node(kind: &str, what: &str) -> Self {
        Self(format!("{kind}.{what}").into())
    }

    /// Name of something that the node has several of: `net`, `eth0`, `rx_crc`.
    pub fn of(kind: &str, thing: &str, what: &str) -> Self {
        Self(format!("{kind}.{thing}.{what}").into())
    }

    /// A name that was written out.
    pub fn parse(name: &str) -> Self {
        Self(name.into())
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What kind of thing, as in `net`.
    pub fn kind(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(kind, _)| kind)
    }

    /// Which one, as in `eth0`; empty where the node has one only. May itself have dots in it, as in `eth0.100`.
    pub fn thing(&self) -> &str {
        let rest = self.0.split_once('.').map_or("", |(_, rest)| rest);
        rest.rsplit_once('.').map_or("", |(thing, _)| thing)
    }

    /// What of it, as in `rx_crc`.
    pub fn what(&self) -> &str {
        self.0.rsplit_once('.').map_or(&self.0, |(_, what)| what)
    }
}

impl fmt::Display for SeriesName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a series goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// What is used of something: trouble is when it grows to its limit.
    Fills,
    /// What is left of something: trouble is when it falls to its limit, which is the floor.
    Drains,
    /// Errors or events since a device came up: it only grows, and begins anew with its device. Trouble is when it grows
    /// faster.
    Counts,
    /// A level that has no bad side: trouble is when it is unlike itself.
    Level,
}

/// One figure of one series at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// Which series.
    pub name: SeriesName,
    /// The figure, finite, in the unit that the name says.
    pub value: f64,
    /// Where it ends: the most of what fills, the floor of what drains; absent where there is none.
    pub limit: Option<f64>,
    /// How it goes wrong.
    pub direction: Direction,
}

impl Reading {
    /// Something that fills to a limit.
    pub fn fills(name: SeriesName, used: u64, limit: u64) -> Self {
        Self { name, value: used as f64, limit: Some(limit as f64), direction: Direction::Fills }
    }

    /// Something that drains to a floor.
    pub fn drains(name: SeriesName, left: u64, floor: u64) -> Self {
        Self { name, value: left as f64, limit: Some(floor as f64), direction: Direction::Drains }
    }

    /// A counter of errors or events.
    pub fn counts(name: SeriesName, count: u64) -> Self {
        Self { name, value: count as f64, limit: None, direction: Direction::Counts }
    }

    /// A level; a limit that nothing is known to happen at is not told.
    pub fn level(name: SeriesName, value: f64) -> Self {
        Self { name, value, limit: None, direction: Direction::Level }
    }
}

/// All series of one pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Readings {
    /// When, milliseconds since boot, time asleep included.
    pub at_ms: u64,
    /// The readings, sorted by name, each name once.
    pub all: Vec<Reading>,
}

impl Readings {
    /// Takes readings as sources give them: figures that are none are dropped, of two with one name the first counts.
    pub fn new(at_ms: u64, mut all: Vec<Reading>) -> Self {
        all.retain(|reading| reading.value.is_finite() && reading.limit.is_none_or(f64::is_finite));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|b, a| a.name == b.name);
        all.truncate(MAX_READINGS);
        Self { at_ms, all }
    }

    /// The reading of a series.
    pub fn get(&self, name: &str) -> Option<&Reading> {
        self.all.binary_search_by(|reading| reading.name.as_str().cmp(name)).ok().map(|index| &self.all[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_kind_thing_and_what() {
        let name = SeriesName::of("net", "eth0.100", "rx_crc");
        assert_eq!((name.as_str(), name.kind(), name.thing()), ("net.eth0.100.rx_crc", "net", "eth0.100"));
        assert_eq!(name.what(), "rx_crc");
        let name = SeriesName::node("mem", "available_bytes");
        assert_eq!((name.kind(), name.thing(), name.what()), ("mem", "", "available_bytes"));
        assert_eq!(SeriesName::of("fs", "/srv/a.b", "used_bytes").thing(), "/srv/a.b");
    }

    #[test]
    fn readings_are_sorted_finite_and_each_name_is_there_once() {
        let name = |what| SeriesName::node("x", what);
        let readings = Readings::new(
            7,
            vec![
                Reading::counts(name("b"), 2),
                Reading::fills(name("a"), 1, 9),
                Reading::counts(name("b"), 3),
                Reading::level(name("c"), f64::NAN),
            ],
        );
        assert_eq!(readings.all.iter().map(|r| r.name.what()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(readings.get("x.b").unwrap().value, 2.0);
        assert!(readings.get("x.c").is_none());
    }

    #[test]
    fn there_is_a_most_that_one_pass_gives() {
        let many = (0..3000).map(|n| Reading::counts(SeriesName::of("net", &format!("veth{n}"), "rx"), n)).collect();
        assert_eq!(Readings::new(0, many).all.len(), MAX_READINGS);
    }
}
