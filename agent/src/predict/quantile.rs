//! Quantiles that intervals are made of. Tables and closed forms only; no random source.

/// What is left out on either side of an interval: intervals are 90 % intervals.
pub const TAIL: f64 = 0.05;

/// 95 % quantiles of Student's t for 1 to 30 degrees of freedom (any statistics table has them).
const STUDENT: [f64; 30] = [
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753, 1.746,
    1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
];
/// The same of the normal distribution.
const NORMAL: f64 = 1.645;

/// The 95 % quantile of Student's t.
pub fn student(degrees: usize) -> f64 {
    match degrees {
        0 => STUDENT[0],
        1..=30 => STUDENT[degrees - 1],
        _ => NORMAL,
    }
}

/// The middle of numbers, which are sorted by this; nothing of none.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_fall_towards_the_normal_one() {
        assert!((1..40).all(|degrees| student(degrees + 1) <= student(degrees)));
        assert_eq!(student(1000), NORMAL);
        assert_eq!(student(0), student(1));
    }

    #[test]
    fn the_middle_is_of_what_is_there() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&mut []), None);
    }
}
