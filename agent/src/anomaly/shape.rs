//! How far the latest shape of a series is from every shape it is remembered to have had.
//!
//! A shape is the means of the last [`POINTS`] blocks of [`BLOCK_ROWS`] rows. Three of seven are kept, the oldest is
//! forgotten first, and one is compared only after it has passed by in full, so that a shape is never its own
//! neighbour. The idea is that of nearest-neighbour detectors on delay embeddings (KNN-CAD, Burnaev and Ishimtsev
//! 2016; matrix profiles, Yeh and others 2016), with one neighbour and the distance in the series' own unit. May not
//! judge.

/// Rows in a block.
pub const BLOCK_ROWS: usize = 4;
/// Blocks in a shape.
pub const POINTS: usize = 12;
/// Of every [`CYCLE_BLOCKS`] blocks those at these places are remembered. Seven, because it divides neither hours nor days:
/// with a stride that does, most times of the day would never be remembered.
const KEPT: [u64; 3] = [0, 2, 4];
const CYCLE_BLOCKS: usize = 7;
/// With fewer shapes than this, nothing is a near neighbour.
const ENOUGH: usize = 20;

type Shape = [f32; POINTS];

/// Memory of shapes.
#[derive(Clone, Debug)]
pub struct Shapes {
    remembered: Box<[Shape]>,
    filled: usize,
    next: usize,
    /// Means of the last blocks, oldest first: one shape that has passed, then the latest.
    blocks: [f32; 2 * POINTS],
    blocks_seen: u64,
    sum: f64,
    rows_in_block: usize,
}

impl Shapes {
    /// Remembers the shapes of about `rows` rows; all memory is taken at once.
    pub fn new(rows: usize) -> Self {
        let capacity = (rows * KEPT.len() / (CYCLE_BLOCKS * BLOCK_ROWS)).max(ENOUGH);
        Self {
            remembered: vec![[0.0; POINTS]; capacity].into(),
            filled: 0,
            next: 0,
            blocks: [0.0; 2 * POINTS],
            blocks_seen: 0,
            sum: 0.0,
            rows_in_block: 0,
        }
    }

    /// Bytes that this memory takes, full or not.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.remembered)
    }

    /// Takes one finite value; at the end of a block the distance to the nearest remembered shape, summed over the
    /// points, in the unit of the values. Nothing within a block, nor while few shapes are known.
    pub fn push(&mut self, value: f64) -> Option<f64> {
        self.sum += value;
        self.rows_in_block += 1;
        if self.rows_in_block < BLOCK_ROWS {
            return None;
        }
        self.blocks.copy_within(1.., 0);
        self.blocks[2 * POINTS - 1] = (self.sum / BLOCK_ROWS as f64) as f32;
        self.blocks_seen += 1;
        (self.sum, self.rows_in_block) = (0.0, 0);
        let distance = (self.filled >= ENOUGH).then(|| f64::from(self.nearest()));
        self.remember();
        distance
    }

    fn nearest(&self) -> f32 {
        let mut latest = [0.0; POINTS];
        latest.copy_from_slice(&self.blocks[POINTS..]);
        let mut best = f32::INFINITY;
        for shape in &self.remembered[..self.filled] {
            let mut distance = 0.0;
            // In parts: most shapes are farther than the best one before they are read to the end.
            for ([a, b, c, d], [e, f, g, h]) in latest.as_chunks::<4>().0.iter().zip(shape.as_chunks::<4>().0) {
                distance += ((a - e).abs() + (b - f).abs()) + ((c - g).abs() + (d - h).abs());
                if distance >= best {
                    break;
                }
            }
            best = best.min(distance);
        }
        best
    }

    fn remember(&mut self) {
        if self.blocks_seen < 2 * POINTS as u64 || !KEPT.contains(&(self.blocks_seen % CYCLE_BLOCKS as u64)) {
            return;
        }
        self.remembered[self.next].copy_from_slice(&self.blocks[..POINTS]);
        self.next = (self.next + 1) % self.remembered.len();
        self.filled = (self.filled + 1).min(self.remembered.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wave of 40 rows with a little that never repeats.
    fn wave(row: u32) -> f64 {
        f64::from(row % 40).mul_add(1.0, f64::from(row.wrapping_mul(2_654_435_761) >> 28) / 100.0)
    }

    #[test]
    fn a_shape_that_was_seen_is_near_and_one_that_was_not_is_far() {
        let mut shapes = Shapes::new(4000);
        let distances: Vec<_> = (0..2000).filter_map(|row| shapes.push(wave(row))).collect();
        let usual = distances[100..].iter().fold(0.0, |largest: f64, distance| largest.max(*distance));
        // All these values were seen, and never in this order.
        let strange = (0..40).filter_map(|_| shapes.push(20.0)).fold(0.0, f64::max);
        assert!(strange > 3.0 * usual, "{strange} against {usual}");
    }

    #[test]
    fn memory_is_taken_at_once_and_the_oldest_shape_is_forgotten_first() {
        let mut shapes = Shapes::new(400);
        let bytes = shapes.bytes();
        for _ in 0..200 {
            shapes.push(7.0);
        }
        for row in 0..10_000 {
            shapes.push(wave(row));
        }
        assert_eq!(shapes.bytes(), bytes);
        assert!(shapes.remembered.iter().all(|shape| *shape != [7.0; POINTS]));
    }

    #[test]
    fn nothing_is_said_while_few_shapes_are_known() {
        let mut shapes = Shapes::new(4000);
        assert!((0..200).all(|row| shapes.push(wave(row)).is_none()));
    }
}
