//! Points of one series as bytes: a chunk of the database, and the lines of its journal. Pure.
//!
//! A chunk is three columns packed by `pco`, which is made for numbers: times, values, and the starts of sums where there
//! are any. Every bit of a value comes back as it came.

use pco::{ChunkConfig, standalone::simple_compress, standalone::simple_decompress};

/// Points of a whole chunk; one is filled up until it has half as many.
pub const CHUNK: usize = 240;
/// Packing harder gains under a tenth on power and energy, and takes twice as long.
const LEVEL: usize = 4;

/// A point as it is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stored {
    /// Unix milliseconds.
    pub time_ms: i64,
    /// The value; none where its sender said that there is none any more.
    pub value: Option<f64>,
    /// Unix milliseconds since which a sum counts.
    pub start_ms: Option<i64>,
}

/// Why bytes are no points.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a chunk of points is damaged: {0}")]
pub struct Damaged(String);

impl Damaged {
    fn cut() -> Self {
        Self("it ends too early".into())
    }
}

impl From<Damaged> for rusqlite::Error {
    fn from(damaged: Damaged) -> Self {
        Self::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(damaged))
    }
}

/// Packs points that are in the order of their times, at least one.
pub fn pack(points: &[Stored]) -> Vec<u8> {
    let config = ChunkConfig::default().with_compression_level(LEVEL);
    let times: Vec<i64> = points.iter().map(|point| point.time_ms).collect();
    // No value is NaN: what is not finite is kept as none.
    let values: Vec<f64> = points.iter().map(|point| point.value.unwrap_or(f64::NAN)).collect();
    let mut columns = vec![column(&times, &config), column(&values, &config)];
    if points.iter().any(|point| point.start_ms.is_some()) {
        let starts: Vec<i64> = points.iter().map(|point| point.start_ms.unwrap_or(i64::MIN)).collect();
        columns.push(column(&starts, &config));
    }
    let mut bytes = Vec::with_capacity(columns.iter().map(|column| column.len() + 2).sum());
    for column in columns {
        put_varint(&mut bytes, column.len() as u64);
        bytes.extend_from_slice(&column);
    }
    bytes
}

/// A column that is all one number says it once: most starts, and many gauges.
fn column<T: pco::data_types::Number + Same>(numbers: &[T], config: &ChunkConfig) -> Vec<u8> {
    if let Some(first) = numbers.first()
        && numbers.iter().all(|number| number.bits() == first.bits())
    {
        return first.bits().to_le_bytes().to_vec();
    }
    // It fails on impossible configurations and lengths alone.
    simple_compress(numbers, config).expect("points of a chunk can be packed")
}

/// Numbers of 64 bits, compared by them.
trait Same: Copy {
    fn bits(self) -> u64;
    fn of(bits: u64) -> Self;
}

impl Same for i64 {
    fn bits(self) -> u64 {
        self as u64
    }
    fn of(bits: u64) -> Self {
        bits as Self
    }
}

impl Same for f64 {
    fn bits(self) -> u64 {
        self.to_bits()
    }
    fn of(bits: u64) -> Self {
        Self::from_bits(bits)
    }
}

/// Unpacks `count` points.
///
/// # Errors
/// [`Damaged`] when the bytes are no such chunk.
pub fn unpack(bytes: &[u8], count: usize) -> Result<Vec<Stored>, Damaged> {
    let mut rest = bytes;
    let times: Vec<i64> = take_column(&mut rest, count)?;
    let values: Vec<f64> = take_column(&mut rest, count)?;
    let starts: Option<Vec<i64>> = if rest.is_empty() { None } else { Some(take_column(&mut rest, count)?) };
    Ok((0..count)
        .map(|i| Stored {
            time_ms: times[i],
            value: Some(values[i]).filter(|value| !value.is_nan()),
            start_ms: starts.as_ref().map(|starts| starts[i]).filter(|start| *start != i64::MIN),
        })
        .collect())
}

fn take_column<T: pco::data_types::Number + Same>(rest: &mut &[u8], count: usize) -> Result<Vec<T>, Damaged> {
    let length = usize::try_from(take_varint(rest)?).map_err(|_| Damaged::cut())?;
    if rest.len() < length {
        return Err(Damaged::cut());
    }
    let (column, tail) = rest.split_at(length);
    *rest = tail;
    if let Ok(bits) = <[u8; 8]>::try_from(column) {
        return Ok(vec![T::of(u64::from_le_bytes(bits)); count]);
    }
    let numbers = simple_decompress::<T>(column).map_err(|error| Damaged(error.to_string()))?;
    if numbers.len() == count {
        Ok(numbers)
    } else {
        Err(Damaged(format!("{} points instead of {count}", numbers.len())))
    }
}

/// Adds a point of a series to a line of the journal. `before` are time and start of the point before it in the line.
pub fn put(line: &mut Vec<u8>, series: i64, point: &Stored, before: &mut (i64, i64)) {
    put_varint(line, zigzag(series));
    put_varint(line, zigzag(point.time_ms.wrapping_sub(before.0)));
    line.extend_from_slice(&point.value.unwrap_or(f64::NAN).to_bits().to_le_bytes());
    let start = point.start_ms.unwrap_or(i64::MIN);
    put_varint(line, zigzag(start.wrapping_sub(before.1)));
    *before = (point.time_ms, start);
}

/// The points of a line of the journal, each with its series.
///
/// # Errors
/// [`Damaged`] when the bytes are no such line.
pub fn line(bytes: &[u8]) -> Result<Vec<(i64, Stored)>, Damaged> {
    let (mut rest, mut before, mut points) = (bytes, (0_i64, 0_i64), Vec::new());
    while !rest.is_empty() {
        let series = unzigzag(take_varint(&mut rest)?);
        before.0 = before.0.wrapping_add(unzigzag(take_varint(&mut rest)?));
        let Some((value, tail)) = rest.split_first_chunk::<8>() else { return Err(Damaged::cut()) };
        rest = tail;
        before.1 = before.1.wrapping_add(unzigzag(take_varint(&mut rest)?));
        points.push((
            series,
            Stored {
                time_ms: before.0,
                value: Some(f64::from_le_bytes(*value)).filter(|value| !value.is_nan()),
                start_ms: Some(before.1).filter(|start| *start != i64::MIN),
            },
        ));
    }
    Ok(points)
}

fn put_varint(bytes: &mut Vec<u8>, number: u64) {
    prost::encoding::encode_varint(number, bytes);
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, Damaged> {
    prost::encoding::decode_varint(rest).map_err(|error| Damaged(error.to_string()))
}

const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point() -> impl Strategy<Value = Stored> {
        let value = prop::option::of(any::<f64>().prop_filter("finite", |value| value.is_finite()));
        (any::<i64>(), value, prop::option::of(0_i64..i64::MAX)).prop_map(|(time_ms, value, start_ms)| Stored {
            time_ms,
            value,
            start_ms,
        })
    }

    proptest! {
        #[test]
        fn points_come_back_bit_by_bit(points in prop::collection::vec(point(), 1..300)) {
            prop_assert_eq!(unpack(&pack(&points), points.len()).unwrap(), points.clone());
            let (mut bytes, mut before) = (Vec::new(), (0, 0));
            for (i, point) in points.iter().enumerate() {
                put(&mut bytes, i as i64, point, &mut before);
            }
            let read: Vec<Stored> = line(&bytes).unwrap().into_iter().map(|(_, point)| point).collect();
            prop_assert_eq!(read, points);
        }

        #[test]
        fn bytes_that_are_no_points_are_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0_usize..300) {
            let _ = unpack(&bytes, count);
            let _ = line(&bytes);
        }
    }

    #[test]
    fn an_hour_of_a_power_counter_takes_a_few_bytes_a_point() {
        let points: Vec<Stored> = (0..CHUNK as i64)
            .map(|i| {
                let joules = (0..i).map(|j| 1_000.0 + (j * 7_919 % 997) as f64 / 10.0).sum::<f64>();
                let time_ms = 1_700_000_000_000 + i * 10_000 + i * 31 % 7;
                Stored { time_ms, value: Some((joules * 1e6).round() / 1e6), start_ms: Some(1_699_000_000_000) }
            })
            .collect();
        let bytes = pack(&points).len();
        assert!(bytes < 6 * CHUNK, "{bytes} bytes for {CHUNK} points of 24");
    }
}
