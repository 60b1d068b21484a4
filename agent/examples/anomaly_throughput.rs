//! Points a second through the anomaly detector, on one core: `cargo run --release --example anomaly_throughput`.
//!
//! Many series take turns, as on a node, so that state does not stay in the nearest cache. Prints the ratio to the
//! limit of 200,000 points a second.

use std::{hint::black_box, time::Instant};

use evergreen_agent::anomaly::Detector;

const SERIES: usize = 64;
const ROWS: u32 = 20_000;
const LIMIT: f64 = 200_000.0;

fn main() {
    let courses: [(&str, fn(u32) -> f64); 3] = [
        ("noise", noise),
        ("day and noise", |row| f64::from(row % 288).mul_add(0.1, noise(row))),
        ("random spikes", |row| if noise(row) > 0.98 { 100.0 * noise(row + 1) } else { 0.0 }),
    ];
    for (name, course) in courses {
        let mut detectors = vec![Detector::new(); SERIES];
        let started = Instant::now();
        let mut alarms = 0u64;
        for row in 0..ROWS {
            for (offset, detector) in (0..).zip(&mut detectors) {
                alarms += u64::from(
                    black_box(detector.push(Some(i64::from(row) * 10), course(row + 7919 * offset))).is_alarm(),
                );
            }
        }
        let rate = SERIES as f64 * f64::from(ROWS) / started.elapsed().as_secs_f64();
        println!(
            "{name:14} {rate:>10.0} points/s = {:.1} x the limit; {} bytes a series, {alarms} alarms",
            rate / LIMIT,
            detectors[0].bytes()
        );
    }
}

fn noise(row: u32) -> f64 {
    let bits = row.wrapping_add(1).wrapping_mul(0x9e37_79b9);
    let bits = (bits ^ (bits >> 15)).wrapping_mul(0x85eb_ca6b);
    f64::from(bits ^ (bits >> 13)) / f64::from(u32::MAX)
}
