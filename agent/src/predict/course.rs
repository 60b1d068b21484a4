//! The course of one series, from the last minutes to the last weeks, in a small state of fixed size.
//!
//! The course is kept in scales. Each scale divides time into blocks, four times as long as those of the scale before,
//! and keeps the lowest and the highest value of its last [`BLOCKS`] blocks. Blocks are numbered by a clock that counts
//! through sleep and never jumps, so that a gap is blocks without values. May not judge.

use serde::{Deserialize, Serialize};

/// Blocks that a scale remembers.
pub const BLOCKS: usize = 24;
/// Longest block that grows by fours; behind it comes the day, because the habits of a node are daily.
const LONGEST_MS: u64 = 6 * 3_600_000;
const DAY_MS: u64 = 24 * 3_600_000;
/// Shortest block, so that no clock makes a thousand scales.
const SHORTEST_MS: u64 = 100;

/// Lowest and highest value of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// Lowest.
    pub low: f64,
    /// Highest.
    pub high: f64,
}

/// One scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Length of a block, milliseconds.
    pub block_ms: u64,
    /// Number of the block under way; nothing before the first value.
    now: Option<u64>,
    /// What it has so far.
    open: Option<(f32, f32)>,
    /// Finished blocks, the oldest first; `None` where nothing was read.
    #[serde(with = "packed")]
    done: Vec<Option<(f32, f32)>>,
}

impl Scale {
    fn new(block_ms: u64) -> Self {
        Self { block_ms, now: None, open: None, done: Vec::with_capacity(BLOCKS) }
    }

    fn push(&mut self, at_ms: u64, value: f32) {
        let number = at_ms / self.block_ms;
        let passed = self.now.map_or(0, |now| number.saturating_sub(now));
        if passed > 0 {
            let ended = self.open.take();
            self.finish(ended);
            // What was slept through has no values; longer than the memory, it is the whole memory.
            for _ in 1..passed.min(BLOCKS as u64 + 1) {
                self.finish(None);
            }
        }
        self.now = Some(self.now.map_or(number, |now| now.max(number)));
        self.open = Some(self.open.map_or((value, value), |(low, high)| (low.min(value), high.max(value))));
    }

    fn finish(&mut self, block: Option<(f32, f32)>) {
        if self.done.len() == BLOCKS {
            self.done.remove(0);
        }
        self.done.push(block);
    }

    /// The last `count` finished blocks, the oldest first; nothing while there are fewer.
    pub fn last(&self, count: usize) -> Option<impl Iterator<Item = Option<Block>>> {
        let from = self.done.len().checked_sub(count)?;
        Some(
            self.done[from..]
                .iter()
                .map(|block| block.map(|(low, high)| Block { low: f64::from(low), high: f64::from(high) })),
        )
    }

    /// Finished blocks.
    pub fn finished(&self) -> usize {
        self.done.len()
    }

    /// The block under way.
    pub fn current(&self) -> Option<Block> {
        self.open.map(|(low, high)| Block { low: f64::from(low), high: f64::from(high) })
    }

    /// When the block under way began, milliseconds.
    pub fn begun_ms(&self) -> u64 {
        self.now.unwrap_or(0) * self.block_ms
    }
}

/// The course of one series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Course {
    scales: Vec<Scale>,
    last: Option<(u64, f64)>,
    first_ms: u64,
    samples: u64,
}

impl Course {
    /// A course without values, of a series that is read every so often, milliseconds.
    pub fn new(interval_ms: u64) -> Self {
        // Six readings make a block whose highest value means something.
        let mut block_ms = interval_ms.saturating_mul(6).clamp(SHORTEST_MS, DAY_MS);
        let mut scales = Vec::new();
        while block_ms <= LONGEST_MS {
            scales.push(Scale::new(block_ms));
            block_ms = block_ms.saturating_mul(4);
        }
        scales.push(Scale::new(DAY_MS));
        Self { scales, last: None, first_ms: 0, samples: 0 }
    }

    /// Takes one finite value at milliseconds. A time that does not advance is left out.
    pub fn push(&mut self, at_ms: u64, value: f64) {
        if !value.is_finite() || self.last.is_some_and(|(last, _)| at_ms <= last) {
            return;
        }
        if self.last.is_none() {
            self.first_ms = at_ms;
        }
        self.last = Some((at_ms, value));
        self.samples = self.samples.saturating_add(1);
        self.scales.iter_mut().for_each(|scale| scale.push(at_ms, value as f32));
    }

    /// The latest value, and when it was read.
    pub fn last(&self) -> Option<(u64, f64)> {
        self.last
    }

    /// When the first value was read, milliseconds.
    pub fn first_ms(&self) -> u64 {
        self.first_ms
    }

    /// Values, ever.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Scales, the finest first.
    pub fn scales(&self) -> &[Scale] {
        &self.scales
    }

    /// Length of the shortest block, milliseconds.
    pub fn finest_ms(&self) -> u64 {
        self.scales[0].block_ms
    }

    /// Bytes of state, at most.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.scales.len() * (size_of::<Scale>() + BLOCKS * size_of::<Option<(f32, f32)>>())
    }

    /// Values since then, about: readings come at an even pace.
    pub fn samples_since(&self, first_ms: u64) -> u64 {
        let Some((last, _)) = self.last.filter(|(last, _)| *last > self.first_ms) else { return self.samples };
        let share = last.saturating_sub(first_ms) as f64 / (last - self.first_ms) as f64;
        ((self.samples as f64 * share.min(1.0)).round() as u64).max(1)
    }
}

/// Blocks as one flat list of numbers, a third as long as a list of pairs; a block without values is two nulls.
mod packed {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::BLOCKS;

    pub fn serialize<S: Serializer>(blocks: &[Option<(f32, f32)>], serializer: S) -> Result<S::Ok, S::Error> {
        let flat: Vec<Option<f32>> =
            blocks.iter().flat_map(|block| [block.map(|(low, _)| low), block.map(|(_, high)| high)]).collect();
        flat.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Option<(f32, f32)>>, D::Error> {
        let flat = Vec::<Option<f32>>::deserialize(deserializer)?;
        let (pairs, _) = flat.as_chunks::<2>();
        let from = pairs.len().saturating_sub(BLOCKS);
        Ok(pairs[from..].iter().map(|[low, high]| low.zip(*high)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(course: &mut Course, range: std::ops::Range<u64>, value: impl Fn(u64) -> f64) {
        range.for_each(|minute| course.push(minute * 60_000, value(minute)));
    }

    #[test]
    fn every_scale_keeps_the_bounds_of_its_last_blocks() {
        let mut course = Course::new(10_000);
        assert_eq!(course.scales().iter().map(|s| s.block_ms / 60_000).collect::<Vec<_>>(), [1, 4, 16, 64, 256, 1440]);
        minutes(&mut course, 0..1000, |minute| minute as f64);
        let scale = &course.scales()[1];
        let last: Vec<_> = scale.last(2).unwrap().flatten().collect();
        assert_eq!(last, [Block { low: 988.0, high: 991.0 }, Block { low: 992.0, high: 995.0 }]);
        assert_eq!(scale.current(), Some(Block { low: 996.0, high: 999.0 }));
        assert!(scale.last(BLOCKS).is_some() && scale.last(BLOCKS + 1).is_none());
    }

    #[test]
    fn a_gap_is_blocks_without_values_and_not_a_jump() {
        let mut course = Course::new(10_000);
        minutes(&mut course, 0..30, |_| 1.0);
        minutes(&mut course, 40..45, |_| 2.0);
        let blocks: Vec<_> = course.scales()[0].last(16).unwrap().collect();
        assert_eq!(blocks.iter().filter(|block| block.is_none()).count(), 10);
        minutes(&mut course, 1_000_000..1_000_002, |_| 3.0);
        assert!(course.scales()[0].last(2).unwrap().next().unwrap().is_none(), "the memory is all gap");
        assert_eq!(course.scales()[0].finished(), BLOCKS);
    }

    #[test]
    fn state_is_bounded_whatever_the_clock_does() {
        for interval in [0, 1, 10_000, u64::MAX] {
            let mut course = Course::new(interval);
            for at_ms in [0, 5, 3, u64::MAX, 7, u64::MAX - 1, 100_000] {
                course.push(at_ms, 1.0);
            }
            course.push(8, f64::NAN);
            assert!(course.bytes() <= 4096, "{} bytes at {interval} ms", course.bytes());
        }
    }

    #[test]
    fn what_is_kept_reads_back() {
        let mut course = Course::new(10_000);
        minutes(&mut course, 0..30, |minute| minute as f64);
        minutes(&mut course, 40..45, |minute| minute as f64);
        let text = serde_json::to_string(&course).unwrap();
        assert!(text.len() < 4096, "{}", text.len());
        assert_eq!(serde_json::from_str::<Course>(&text).unwrap(), course);
    }
}
