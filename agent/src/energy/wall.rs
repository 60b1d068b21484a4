//! Power of the whole node as its management controller sees it, asked out of band by the site's controller, for nodes
//! that cannot see their own.
//!
//! The figure comes with the answers to heartbeats, a few seconds old; between two figures the last one stands. What is
//! older than half a minute says nothing about now, and the next best source is used.

use std::sync::Arc;

use evergreen_api::heartbeat::WallPower;
use parking_lot::Mutex;

use super::{
    gauge::Gauge,
    source::{EnergySource, Fault, Hints, Reading, Scope},
};
use crate::clock::boot_ms;

/// A reading older than this is not the present, milliseconds: three of the controller's usual intervals.
const STALE_MS: u64 = 30_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Posted {
    milliwatts: u64,
    measured_ms: u64,
    name: &'static str,
}

/// Where the answers to heartbeats leave the figure, and the meter finds it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct WallBoard(Arc<Mutex<Option<Posted>>>);

impl WallBoard {
    /// Takes a checked figure.
    pub fn post(&self, wall: &WallPower) {
        self.post_at(wall, boot_ms());
    }

    fn post_at(&self, wall: &WallPower, now_ms: u64) {
        let name = if wall.source == "redfish" { "redfish" } else { "ipmi-dcmi" };
        let measured_ms = now_ms.saturating_sub(wall.age_ms);
        *self.0.lock() = Some(Posted { milliwatts: wall.milliwatts, measured_ms, name });
    }

    fn age_ms(&self, now_ms: u64) -> Option<(Posted, u64)> {
        (*self.0.lock()).map(|posted| (posted, now_ms.saturating_sub(posted.measured_ms)))
    }

    /// The name of the source behind a figure that is fresh.
    pub fn fresh(&self) -> Option<&'static str> {
        self.age_ms(boot_ms()).filter(|(_, age)| *age <= STALE_MS).map(|(posted, _)| posted.name)
    }
}

/// The source.
pub struct Wall {
    board: WallBoard,
    name: &'static str,
    gauge: Gauge,
}

impl Wall {
    /// A source that reads the board; `name` is that of the figure that is on it.
    pub fn new(board: WallBoard, name: &'static str) -> Self {
        Self { board, name, gauge: Gauge::default() }
    }

    fn advance_at(&mut self, hints: &Hints, now_ms: u64) -> Result<Reading, Fault> {
        match self.board.age_ms(now_ms) {
            Some((posted, age)) if age <= STALE_MS => {
                // Checked to be far below what an i64 holds.
                let microwatts = i64::try_from(posted.milliwatts.saturating_mul(1_000)).unwrap_or(i64::MAX);
                self.gauge.take(microwatts, hints).map(Reading::whole)
            }
            Some((_, age)) => {
                self.gauge.forget();
                Err(Fault::Stale { seconds: age / 1_000 })
            }
            None => Err(Fault::First),
        }
    }
}

impl EnergySource for Wall {
    fn name(&self) -> &'static str {
        self.name
    }

    fn scope(&self) -> Scope {
        Scope::Wall
    }

    fn describes(&self) -> String {
        format!("the management controller's meter, asked out of band by the site over {}", self.name)
    }

    fn advance(&mut self, hints: &Hints) -> Result<Reading, Fault> {
        self.advance_at(hints, boot_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints() -> Hints {
        Hints { elapsed_ms: 1_000, limit_watts: 5_000, utilization: Some(0.2) }
    }

    fn wall(milliwatts: u64, age_ms: u64) -> WallPower {
        WallPower { milliwatts, age_ms, source: "redfish".into() }
    }

    #[test]
    fn the_last_figure_stands_until_the_next_one() {
        let board = WallBoard::default();
        board.post_at(&wall(200_000, 2_000), 100_000);
        let mut source = Wall::new(board.clone(), "redfish");
        assert_eq!(source.advance_at(&hints(), 100_000), Err(Fault::First));
        assert_eq!(source.advance_at(&hints(), 101_000), Ok(Reading::whole(200_000_000)));
        board.post_at(&wall(300_000, 0), 101_500);
        assert_eq!(source.advance_at(&hints(), 102_000), Ok(Reading::whole(250_000_000)));
        assert_eq!((source.name(), source.scope()), ("redfish", Scope::Wall));
    }

    #[test]
    fn an_old_figure_is_no_figure_and_what_follows_begins_anew() {
        let board = WallBoard::default();
        board.post_at(&wall(200_000, 0), 100_000);
        let mut source = Wall::new(board.clone(), "redfish");
        let _ = source.advance_at(&hints(), 100_000);
        assert_eq!(source.advance_at(&hints(), 131_000), Err(Fault::Stale { seconds: 31 }));
        board.post_at(&wall(200_000, 0), 132_000);
        assert_eq!(source.advance_at(&hints(), 132_000), Err(Fault::First));
    }
}
