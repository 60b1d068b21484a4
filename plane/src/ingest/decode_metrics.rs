//! OTLP metrics to series and points. Histograms become the series `NAME.count`, `NAME.sum` and `NAME.bucket{le}`,
//! summaries `NAME.count`, `NAME.sum` and `NAME{quantile}`. Exponential histograms are kept like the others, with the
//! bounds of scale 2 at the finest: powers of the fourth root of two, 19 % apart. Finer buckets fall into these exactly.

use std::{collections::HashMap, sync::Arc};

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, DataPointFlags, Metric, NumberDataPoint, ResourceMetrics, metric::Data,
        number_data_point,
    },
};

use super::decode::{Decoded, MAX_FUTURE_MS, Sender, nanos, text};
use super::exponential;
use crate::model::{Labels, Point, Series, SeriesKind};

/// Longest metric name; the OpenTelemetry API allows 255.
const MAX_NAME: usize = 255;
/// Most labels of a series; the SDKs' default attribute limit is 128.
const MAX_LABELS: usize = 128;
/// Longest label value in bytes; longer ones are cut, as SDKs do.
const MAX_VALUE: usize = 1_024;

/// Decodes metrics.
pub fn metrics(resources: Vec<ResourceMetrics>, now_ms: i64) -> Decoded {
    let mut builder = Builder { now_ms, decoded: Decoded::default(), index: HashMap::new() };
    for resource_metrics in resources {
        let sender = Sender::of(resource_metrics.resource.as_ref());
        for metric in resource_metrics.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            builder.metric(&sender, metric);
        }
    }
    builder.decoded
}

struct Builder {
    now_ms: i64,
    decoded: Decoded,
    index: HashMap<[u8; 16], usize>,
}

/// One value on its way to a series.
struct Reading<'a> {
    suffix: &'a str,
    extra: Option<(&'a str, String)>,
    kind: SeriesKind,
    start_ns: u64,
    time_ns: u64,
    value: Option<f64>,
}

impl Builder {
    fn metric(&mut self, sender: &Sender, metric: Metric) {
        let points = match &metric.data {
            None => 0,
            Some(Data::Gauge(d)) => d.data_points.len(),
            Some(Data::Sum(d)) => d.data_points.len(),
            Some(Data::Histogram(d)) => d.data_points.len(),
            Some(Data::ExponentialHistogram(d)) => d.data_points.len(),
            Some(Data::Summary(d)) => d.data_points.len(),
        };
        if metric.name.is_empty() || metric.name.len() > MAX_NAME {
            self.decoded.reject(points, || format!("a metric name has 1 to {MAX_NAME} bytes"));
            return;
        }
        match &metric.data {
            None => {}
            Some(Data::Gauge(gauge)) => {
                for point in &gauge.data_points {
                    self.number(sender, &metric, point, SeriesKind::Gauge);
                }
            }
            Some(Data::Sum(sum)) => {
                let kind = sum_kind(sum.aggregation_temporality, sum.is_monotonic);
                for point in &sum.data_points {
                    self.number(sender, &metric, point, kind);
                }
            }
            Some(Data::Histogram(histogram)) => {
                let kind = sum_kind(histogram.aggregation_temporality, true);
                for p in &histogram.data_points {
                    let reading = |suffix, extra, value| Reading {
                        suffix,
                        extra,
                        kind,
                        start_ns: p.start_time_unix_nano,
                        time_ns: p.time_unix_nano,
                        value: (!is_void(p.flags)).then_some(value),
                    };
                    self.push(sender, &metric, &p.attributes, reading(".count", None, p.count as f64));
                    if let Some(sum) = p.sum {
                        self.push(sender, &metric, &p.attributes, reading(".sum", None, sum));
                    }
                    let mut below = 0;
                    for (i, count) in p.bucket_counts.iter().enumerate() {
                        below += count;
                        let le = p.explicit_bounds.get(i).map_or_else(|| "+Inf".to_owned(), f64::to_string);
                        self.push(sender, &metric, &p.attributes, reading(".bucket", Some(("le", le)), below as f64));
                    }
                }
            }
            Some(Data::Summary(summary)) => {
                for p in &summary.data_points {
                    let reading = |suffix, extra, kind, value| Reading {
                        suffix,
                        extra,
                        kind,
                        start_ns: p.start_time_unix_nano,
                        time_ns: p.time_unix_nano,
                        value: (!is_void(p.flags)).then_some(value),
                    };
                    self.push(
                        sender,
                        &metric,
                        &p.attributes,
                        reading(".count", None, SeriesKind::Counter, p.count as f64),
                    );
                    self.push(sender, &metric, &p.attributes, reading(".sum", None, SeriesKind::Counter, p.sum));
                    for q in &p.quantile_values {
                        let quantile = Some(("quantile", q.quantile.to_string()));
                        self.push(sender, &metric, &p.attributes, reading("", quantile, SeriesKind::Gauge, q.value));
                    }
                }
            }
            Some(Data::ExponentialHistogram(histogram)) => {
                let kind = sum_kind(histogram.aggregation_temporality, true);
                for p in &histogram.data_points {
                    let Some(buckets) = exponential::buckets(p) else {
                        self.decoded.reject(1, || {
                            format!("`{}`: an exponential histogram whose buckets are out of every range", metric.name)
                        });
                        continue;
                    };
                    let reading = |suffix, extra, value| Reading {
                        suffix,
                        extra,
                        kind,
                        start_ns: p.start_time_unix_nano,
                        time_ns: p.time_unix_nano,
                        value: (!is_void(p.flags)).then_some(value),
                    };
                    self.push(sender, &metric, &p.attributes, reading(".count", None, p.count as f64));
                    if let Some(sum) = p.sum {
                        self.push(sender, &metric, &p.attributes, reading(".sum", None, sum));
                    }
                    for (le, below) in buckets {
                        self.push(sender, &metric, &p.attributes, reading(".bucket", Some(("le", le)), below as f64));
                    }
                }
            }
        }
    }

    fn number(&mut self, sender: &Sender, metric: &Metric, point: &NumberDataPoint, kind: SeriesKind) {
        let value = match point.value {
            Some(number_data_point::Value::AsDouble(value)) => Some(value),
            Some(number_data_point::Value::AsInt(value)) => Some(value as f64),
            None => None,
        };
        let reading = Reading {
            suffix: "",
            extra: None,
            kind,
            start_ns: point.start_time_unix_nano,
            time_ns: point.time_unix_nano,
            value: value.filter(|_| !is_void(point.flags)),
        };
        self.push(sender, metric, &point.attributes, reading);
    }

    fn push(&mut self, sender: &Sender, metric: &Metric, attributes: &[KeyValue], reading: Reading<'_>) {
        let time_ms = nanos(reading.time_ns) / 1_000_000;
        if time_ms == 0 || time_ms > self.now_ms + MAX_FUTURE_MS {
            self.decoded
                .reject(1, || format!("`{}`: a point's time is zero or more than a day in the future", metric.name));
            return;
        }
        let mut labels: Labels = sender.labels.clone();
        labels.extend(attributes.iter().map(|kv| (kv.key.clone(), cut(text(kv.value.as_ref())))));
        labels.extend(reading.extra.map(|(key, value)| (key.to_owned(), value)));
        if labels.len() > MAX_LABELS {
            self.decoded.reject(1, || format!("`{}`: more than {MAX_LABELS} attributes", metric.name));
            return;
        }
        let series =
            Series::new(format!("{}{}", metric.name, reading.suffix), metric.unit.clone(), reading.kind, labels);
        let batch = &mut self.decoded.batch;
        let index = *self.index.entry(series.hash).or_insert_with(|| {
            batch.series.push(Arc::new(series));
            batch.series.len() - 1
        });
        batch.points.push(Point {
            series: index,
            time_ms,
            start_ms: (reading.kind != SeriesKind::Gauge && reading.start_ns != 0)
                .then(|| nanos(reading.start_ns) / 1_000_000),
            value: reading.value.filter(|v| v.is_finite()),
        });
    }
}

fn is_void(flags: u32) -> bool {
    flags & DataPointFlags::NoRecordedValueMask as u32 != 0
}

fn sum_kind(temporality: i32, monotonic: bool) -> SeriesKind {
    if temporality == AggregationTemporality::Delta as i32 {
        SeriesKind::Delta
    } else if monotonic {
        SeriesKind::Counter
    } else {
        SeriesKind::UpDown
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_VALUE {
        let mut end = MAX_VALUE;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, ScopeMetrics, Sum,
        exponential_histogram_data_point,
    };

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn decode(data: Data) -> Decoded {
        let metric = Metric { name: "m".into(), data: Some(data), ..Default::default() };
        metrics(
            vec![ResourceMetrics {
                scope_metrics: vec![ScopeMetrics { metrics: vec![metric], ..Default::default() }],
                ..Default::default()
            }],
            NOW,
        )
    }

    fn number(time_ms: u64, value: f64) -> NumberDataPoint {
        NumberDataPoint {
            time_unix_nano: time_ms * 1_000_000,
            value: Some(number_data_point::Value::AsDouble(value)),
            ..Default::default()
        }
    }

    #[test]
    fn points_of_the_same_labels_share_a_series() {
        let decoded = decode(Data::Gauge(Gauge { data_points: vec![number(1_000, 1.0), number(2_000, 2.0)] }));
        assert_eq!(decoded.batch.series.len(), 1);
        assert_eq!(decoded.batch.points.len(), 2);
    }

    #[test]
    fn a_cumulative_sum_keeps_its_start() {
        let mut point = number(2_000, 5.0);
        point.start_time_unix_nano = 1_000_000_000;
        let sum = Sum {
            data_points: vec![point],
            aggregation_temporality: AggregationTemporality::Cumulative as i32,
            is_monotonic: true,
        };
        let decoded = decode(Data::Sum(sum));
        assert_eq!(decoded.batch.series[0].kind, SeriesKind::Counter);
        assert_eq!(decoded.batch.points[0].start_ms, Some(1_000));
    }

    #[test]
    fn a_point_that_says_it_has_no_value_has_none() {
        let mut point = number(2_000, 5.0);
        point.flags = DataPointFlags::NoRecordedValueMask as u32;
        assert_eq!(
            decode(Data::Gauge(Gauge { data_points: vec![point, number(3_000, f64::NAN)] }))
                .batch
                .points
                .iter()
                .filter(|p| p.value.is_none())
                .count(),
            2
        );
    }

    #[test]
    fn a_histogram_becomes_count_sum_and_cumulative_buckets() {
        let point = HistogramDataPoint {
            time_unix_nano: 1_000_000_000,
            count: 3,
            sum: Some(1.5),
            bucket_counts: vec![1, 2],
            explicit_bounds: vec![0.5],
            ..Default::default()
        };
        let decoded = decode(Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality: 2 }));
        let named = |name: &str| -> Vec<f64> {
            let batch = &decoded.batch;
            batch.points.iter().filter(|p| batch.series[p.series].name == name).filter_map(|p| p.value).collect()
        };
        assert_eq!(named("m.count"), [3.0]);
        assert_eq!(named("m.sum"), [1.5]);
        assert_eq!(named("m.bucket"), [1.0, 3.0]);
    }

    #[test]
    fn an_exponential_histogram_becomes_cumulative_buckets_too() {
        let point = ExponentialHistogramDataPoint {
            time_unix_nano: 1_000_000_000,
            count: 6,
            sum: Some(9.0),
            scale: 3,
            zero_count: 1,
            positive: Some(exponential_histogram_data_point::Buckets { offset: 8, bucket_counts: vec![2, 3] }),
            ..Default::default()
        };
        let data = ExponentialHistogram { data_points: vec![point], aggregation_temporality: 2 };
        let decoded = decode(Data::ExponentialHistogram(data));
        let batch = &decoded.batch;
        let buckets: Vec<(&str, f64)> = batch
            .points
            .iter()
            .filter(|p| batch.series[p.series].name == "m.bucket")
            .map(|p| (batch.series[p.series].labels["le"].as_str(), p.value.unwrap()))
            .collect();
        // Buckets 8 and 9 of scale 3 are bucket 4 of scale 2: from 2 to 2 times the fourth root of 2.
        assert_eq!(buckets, [("0", 1.0), ("2", 1.0), ("2.378414230005442", 6.0), ("+Inf", 6.0)]);
        assert_eq!(decoded.rejected, 0);
    }

    #[test]
    fn a_point_from_the_far_future_is_rejected() {
        let decoded = decode(Data::Gauge(Gauge { data_points: vec![number(NOW as u64 + 90_000_000, 1.0)] }));
        assert_eq!((decoded.rejected, decoded.batch.points.len()), (1, 0));
    }

    #[test]
    fn long_label_values_are_cut_between_characters() {
        assert_eq!(cut("绿".repeat(500)).len(), 1_023);
    }
}
