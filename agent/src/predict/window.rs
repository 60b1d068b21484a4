//! One window of blocks: how it grows, and whether it grows evenly. Robust: one block that is unlike the others changes
//! little. May not look at more than its own blocks.

use super::{course::Block, quantile::median};

/// Blocks over which growth gathers its variance: long enough that noise on the level has cancelled out.
const LAG: usize = 3;
/// Noise on the level alone makes the variance of single steps this many times the one that gathers ([`LAG`] times).
const CANCELS: f64 = 2.0;
/// Deviations at which what is read contradicts a window.
const CONTRADICTION: f64 = 4.0;
/// A step down that is so many times as far from the usual step as any other one is a fall.
const FALL: f64 = 3.0;
/// Steps that the earlier part of a window has at least, when it is compared with the later one.
const EARLY: usize = 3;

/// Blocks with values.
#[derive(Clone, Debug)]
pub struct Window {
    /// Highest values, with the number of their block in the window.
    pub highs: Vec<(f64, f64)>,
    /// How far each block goes from its lowest to its highest.
    pub swings: Vec<f64>,
    /// Lowest values of the last two blocks: that of the block in which a disk was cleaned is that of the clean disk.
    lows: [f64; 2],
}

impl Window {
    /// Of blocks, the oldest first; nothing when none has a value.
    pub fn of(blocks: impl Iterator<Item = Option<Block>>) -> Option<Self> {
        let (mut highs, mut swings, mut lows) = (Vec::with_capacity(24), Vec::with_capacity(24), None::<[f64; 2]>);
        for (index, block) in blocks.enumerate() {
            if let Some(block) = block {
                highs.push((index as f64, block.high));
                swings.push(block.high - block.low);
                lows = Some([lows.map_or(block.low, |[_, last]| last), block.low]);
            }
        }
        lows.map(|lows| Self { highs, swings, lows })
    }

    /// Takes one fall out of the window: what was cleaned once was not the course. Two falls are a habit and stay. Answers
    /// the values around it, before and after.
    pub fn mend_fall(&mut self) -> Option<(f64, f64)> {
        let highs = &mut self.highs;
        let mut steps: Vec<f64> = highs.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
        let place = (0..steps.len()).min_by(|a, b| steps[*a].total_cmp(&steps[*b]))?;
        let fall = steps.swap_remove(place);
        let usual = median(&mut steps)?;
        let widest = steps.iter().map(|step| (step - usual).abs()).fold(0.0, f64::max);
        if fall >= 0.0 || usual - fall < FALL * widest {
            return None;
        }
        let around = (highs[place].1, highs[place + 1].1);
        highs[..=place].iter_mut().for_each(|(_, high)| *high += fall - usual);
        Some(around)
    }

    /// Whether what is read now, `since` blocks behind the last one, lies where the window says; also by its blocks but
    /// the last, which may have changed already.
    pub fn holds(&self, growth: &Growth, high: f64, value: f64, since: f64, floor: f64) -> bool {
        let highs = &self.highs;
        let [.., before, last] = highs[..] else { return false };
        let [low_before, low] = self.lows;
        if value < low + growth.at(since, -CONTRADICTION)
            || value < low_before + growth.at(since + last.0 - before.0, -CONTRADICTION)
            || !is_even(highs, floor)
        {
            return false;
        }
        let earlier = Growth::of(&highs[..highs.len() - 1], floor).unwrap_or(*growth);
        high <= before.1 + earlier.at(since + last.0 - before.0, CONTRADICTION)
    }
}

/// How a window grows, in blocks.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// In a block.
    pub slope: f64,
    /// Variance that gathers in a block.
    pub gathers: f64,
    /// Variance that does not.
    pub stays: f64,
    blocks: usize,
}

impl Growth {
    /// Of highest values; no variance is taken to be below `floor`.
    pub fn of(highs: &[(f64, f64)], floor: f64) -> Option<Self> {
        let slope = theil_sen(highs)?;
        let spread = |lag: usize| {
            let squares: Vec<f64> = highs
                .windows(lag + 1)
                .filter_map(|part| {
                    let ((from, low), (to, high)) = (part.first()?, part.last()?);
                    Some(((high - low) - (to - from) * slope).powi(2) / (to - from))
                })
                .collect();
            squares.iter().sum::<f64>() / squares.len().max(1) as f64
        };
        let (step, far) = (spread(1), spread(LAG.min(highs.len() - 1)));
        // Few blocks tell a variance badly. Unless it is plain that noise on the level cancels out, the larger one counts.
        let gathers = if step > CANCELS * far { far } else { far.max(step) }.max(floor);
        Some(Self { slope, gathers, stays: (step - gathers).max(0.0), blocks: highs.len() })
    }

    /// The same with another slope.
    pub fn with(self, slope: f64) -> Self {
        Self { slope, ..self }
    }

    /// Steps that know nothing of each other, less the slope.
    pub fn independent(&self) -> usize {
        (self.blocks.saturating_sub(1) / LAG).saturating_sub(1).max(2)
    }

    /// Where the growth, `deviations` of its own deviation added, is in `n` blocks.
    pub fn at(&self, n: f64, deviations: f64) -> f64 {
        let variance = self.gathers * (n + n * n / self.blocks as f64) + self.stays;
        n * self.slope + deviations * variance.sqrt()
    }

    /// The last time up to `most` at which the growth goes past `way`, in blocks; nothing when it does not by then.
    pub fn meets(&self, way: f64, deviations: f64, most: f64) -> Option<f64> {
        let (mut before, mut after) = (0.0, most);
        if self.at(after, deviations) < way {
            return None;
        }
        // Sixty halvings of any range are finer than a millisecond.
        for _ in 0..60 {
            let middle = f64::midpoint(before, after);
            if self.at(middle, deviations) < way { before = middle } else { after = middle }
        }
        Some(after)
    }
}

/// The median of the slopes between all pairs; nothing of fewer than two.
pub fn theil_sen(highs: &[(f64, f64)]) -> Option<f64> {
    let mut slopes = Vec::with_capacity(highs.len() * highs.len() / 2);
    for (index, (at, high)) in highs.iter().enumerate() {
        slopes.extend(highs[..index].iter().map(|(before, low)| (high - low) / (at - before)));
    }
    median(&mut slopes)
}

/// Whether the late blocks of a window grow as the earlier ones do, wherever it is cut.
fn is_even(highs: &[(f64, f64)], floor: f64) -> bool {
    let slope = |part: &[(f64, f64)]| {
        let (first, last) = (part[0], part[part.len() - 1]);
        (last.1 - first.1) / (last.0 - first.0)
    };
    let squares = |part: &[(f64, f64)], slope: f64| -> f64 {
        part.windows(2).map(|pair| ((pair[1].1 - pair[0].1) - (pair[1].0 - pair[0].0) * slope).powi(2)).sum()
    };
    let steps = highs.len() - 1;
    (2..highs.len().saturating_sub(EARLY)).all(|late| {
        let cut = steps - late;
        let (early, late) = (&highs[..=cut], &highs[cut..]);
        let (before, after) = (slope(early), slope(late));
        let variance = ((squares(early, before) + squares(late, after)) / (steps - 2) as f64).max(floor);
        let doubt = variance * (1.0 / (early.len() - 1) as f64 + 1.0 / (late.len() - 1) as f64);
        (after - before).powi(2) <= CONTRADICTION.powi(2) * doubt
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(highs: &[f64]) -> Window {
        Window::of(highs.iter().map(|high| Some(Block { low: high - 0.1, high: *high }))).unwrap()
    }

    #[test]
    fn one_block_that_is_unlike_the_others_hardly_changes_the_slope() {
        let mut highs: Vec<f64> = (0..16).map(f64::from).collect();
        highs[7] = 400.0;
        assert!((theil_sen(&window(&highs).highs).unwrap() - 1.0).abs() < 0.05);
        assert_eq!(theil_sen(&[(0.0, 1.0)]), None);
    }

    #[test]
    fn one_fall_is_mended_and_two_are_a_habit() {
        let mut cleaned = window(&[5.0, 6.0, 7.0, 8.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(cleaned.mend_fall(), Some((8.0, 2.0)));
        assert!((theil_sen(&cleaned.highs).unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(window(&[5.0, 6.0, 1.0, 2.0, 3.0, 4.0, -1.0, 0.0]).mend_fall(), None);
        assert_eq!(window(&[1.0; 8]).mend_fall(), None);
    }

    #[test]
    fn a_leak_that_begins_contradicts_the_quiet_before_it() {
        let quiet: Vec<f64> = (0..16).map(|block| f64::from(block % 3) * 0.1).collect();
        assert!(is_even(&window(&quiet).highs, 1e-12));
        let leak: Vec<f64> = (0..16).map(|block| f64::from(block % 3) * 0.1 + f64::from((block - 11).max(0))).collect();
        assert!(!is_even(&window(&leak).highs, 1e-12));
    }

    #[test]
    fn noise_on_the_level_does_not_gather_and_steps_of_chance_do() {
        let wobble: Vec<f64> = (0..16).map(|block| f64::from(block) + f64::from(block % 2)).collect();
        let growth = Growth::of(&window(&wobble).highs, 1e-12).unwrap();
        assert!(growth.gathers < 0.5 && growth.stays > 0.3, "{growth:?}");
        assert!(growth.meets(100.0, 2.0, 200.0).unwrap() < growth.meets(100.0, -2.0, 200.0).unwrap());
        assert_eq!(growth.meets(100.0, -2.0, 50.0), None);
    }
}
