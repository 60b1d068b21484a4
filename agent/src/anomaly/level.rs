//! The floor and the ceiling of the last few rows: what the series did not fall below, and did not rise above.
//!
//! A floor higher than ever, or a ceiling lower than ever, is a level that holds, where single values said nothing: the
//! spikes of a healthy series reach it, and its rest does not stay there. May not judge.

/// Floor and ceiling of the last `ROWS` rows.
#[derive(Clone, Debug)]
pub struct Level<const ROWS: usize> {
    rows: [f64; ROWS],
    next: usize,
    filled: usize,
}

impl<const ROWS: usize> Default for Level<ROWS> {
    fn default() -> Self {
        Self { rows: [0.0; ROWS], next: 0, filled: 0 }
    }
}

impl<const ROWS: usize> Level<ROWS> {
    /// Takes one finite value; the floor and the ceiling with it.
    pub fn push(&mut self, value: f64) -> (f64, f64) {
        self.rows[self.next] = value;
        self.next = (self.next + 1) % ROWS;
        self.filled = (self.filled + 1).min(ROWS);
        self.rows[..self.filled]
            .iter()
            .fold((value, value), |(floor, ceiling), row| (floor.min(*row), ceiling.max(*row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_and_ceiling_are_those_of_the_last_rows() {
        let mut level = Level::<3>::default();
        let told: Vec<_> = [5.0, 1.0, 2.0, 3.0, 4.0].into_iter().map(|value| level.push(value)).collect();
        assert_eq!(told, [(5.0, 5.0), (1.0, 5.0), (1.0, 5.0), (1.0, 3.0), (2.0, 4.0)]);
    }
}
