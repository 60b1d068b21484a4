//! Exponential histograms as cumulative buckets with upper bounds, so that they are read like any other histogram. Pure.

use opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint;

/// Finest scale that is kept: bounds are powers of 2^(1/4). SDKs change the scale of a running histogram as values spread;
/// bounds of one fixed scale keep its buckets the same series.
const SCALE: i32 = 2;
/// Most buckets of a point: SDKs have 160 for each sign; empty ones in between are filled in.
const MOST: i64 = 1_000;
/// Coarsest scale of the specification.
const COARSEST: i32 = -10;

/// Upper bounds and how many values are at or below each, ascending, ending with `+Inf`. None when the buckets cannot be:
/// indices beyond what a double holds, or more of them than anybody sends.
pub fn buckets(point: &ExponentialHistogramDataPoint) -> Option<Vec<(String, u64)>> {
    let shift = u32::try_from((point.scale - SCALE).max(0)).ok()?;
    let scale = point.scale.min(SCALE);
    if scale < COARSEST || shift > 30 {
        return None;
    }
    let base = |index: i64| (index as f64 * 2_f64.powi(-scale)).exp2();
    let merge =
        |buckets: Option<&opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets>| {
            let mut merged: Vec<(i64, u64)> = Vec::new();
            for (at, count) in buckets
                .into_iter()
                .flat_map(|b| b.bucket_counts.iter().enumerate().map(|(i, c)| (i64::from(b.offset) + i as i64, *c)))
            {
                let index = at >> shift;
                match merged.last_mut() {
                    Some((last, sum)) if *last == index => *sum = sum.saturating_add(count),
                    _ => merged.push((index, count)),
                }
            }
            let begin = merged.iter().position(|(_, count)| *count > 0).unwrap_or(merged.len());
            let end = merged.iter().rposition(|(_, count)| *count > 0).map_or(begin, |last| last + 1);
            merged.drain(..begin);
            merged.truncate(end - begin);
            merged
        };
    let (negative, positive) = (merge(point.negative.as_ref()), merge(point.positive.as_ref()));
    let wide = |side: &[(i64, u64)]| match (side.first(), side.last()) {
        (Some(first), Some(last)) => last.0 - first.0 + 1,
        _ => 0,
    };
    if wide(&negative) > MOST || wide(&positive) > MOST {
        return None;
    }
    let mut below = 0_u64;
    let mut out = Vec::new();
    // The bucket with index i holds values from -base^(i+1) up to, not including, -base^i.
    for (index, count) in negative.iter().rev() {
        below = below.saturating_add(*count);
        out.push((bound(-base(*index))?, below));
    }
    below = below.saturating_add(point.zero_count);
    out.push((bound(point.zero_threshold.max(0.0))?, below));
    // Where positive values begin, so that the first of their buckets has a lower bound too.
    if let Some((index, _)) = positive.first() {
        let lower = base(*index);
        if lower > point.zero_threshold {
            out.push((bound(lower)?, below));
        }
    }
    for (index, count) in &positive {
        below = below.saturating_add(*count);
        out.push((bound(base(index + 1))?, below));
    }
    out.push(("+Inf".to_owned(), point.count.max(below)));
    Some(out)
}

fn bound(value: f64) -> Option<String> {
    (value.is_finite()).then(|| if value == 0.0 { "0".to_owned() } else { value.to_string() })
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;

    use super::*;

    fn point(scale: i32, offset: i32, counts: &[u64]) -> ExponentialHistogramDataPoint {
        ExponentialHistogramDataPoint {
            scale,
            count: counts.iter().sum(),
            positive: Some(Buckets { offset, bucket_counts: counts.to_vec() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_change_of_scale_keeps_the_bounds() {
        let fine = buckets(&point(5, 64, &[1; 32])).unwrap();
        let coarse = buckets(&point(2, 8, &[8; 4])).unwrap();
        assert_eq!(fine.iter().map(|b| &b.0).collect::<Vec<_>>(), coarse.iter().map(|b| &b.0).collect::<Vec<_>>());
        assert_eq!(fine, coarse);
    }

    #[test]
    fn negative_values_come_first_and_counts_only_grow() {
        let mut both = point(0, 0, &[5]);
        both.negative = Some(Buckets { offset: 0, bucket_counts: vec![1, 2] });
        both.count = 8;
        let expected = [("-2", 2), ("-1", 3), ("0", 3), ("1", 3), ("2", 8), ("+Inf", 8)];
        assert_eq!(buckets(&both).unwrap(), expected.map(|(le, n)| (le.to_owned(), n)));
    }

    #[test]
    fn what_no_double_can_hold_is_refused() {
        assert_eq!(buckets(&point(-10, 10, &[1])), None);
        assert_eq!(buckets(&point(40, 0, &[1])), None);
        assert_eq!(buckets(&point(0, i32::MAX, &[1])), None);
    }
}
