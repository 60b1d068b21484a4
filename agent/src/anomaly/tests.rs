//! The detector as a whole.

use proptest::prelude::*;

use super::*;

/// A noise that is the same in every run, in 0..1.
fn noise(row: u64) -> f64 {
    let mut bits = row.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn trained(series: impl Fn(u64) -> f64, rows: u64) -> Detector {
    let mut detector = Detector::new();
    for row in 0..rows {
        detector.push(None, series(row));
    }
    // Whatever was learned last, it is rested from.
    detector.rest = 0;
    detector
}

/// A day of 288 rows with a high plateau in its middle third.
fn day(row: u64) -> f64 {
    if (96..192).contains(&(row % 288)) { 80.0 + 5.0 * noise(row) } else { 20.0 + 2.0 * noise(row) }
}

#[test]
fn a_value_outside_of_all_that_is_remembered_is_an_alarm_at_once() {
    let mut detector = trained(noise, 2000);
    let reading = detector.push(None, 2.0);
    assert!(reading.is_alarm());
    assert_eq!(reading.voice, Voice::Value);
    assert!(reading.bounds.is_some_and(|bounds| bounds.low >= 0.0 && bounds.high <= 1.0));
    assert!(trained(noise, 2000).push(None, -1.0).is_alarm(), "below as well as above");
}

#[test]
fn a_level_that_holds_is_an_alarm_though_every_value_was_seen_before() {
    let spiky = |row| if row % 20 == 0 { 10.0 } else { noise(row) };
    let mut detector = trained(spiky, 2000);
    let voices: Vec<_> =
        (0..80).map(|_| detector.push(None, 9.0)).filter(Reading::is_alarm).map(|reading| reading.voice).collect();
    assert!(!voices.is_empty() && !voices.contains(&Voice::Value), "{voices:?}");
}

#[test]
fn a_known_value_in_an_unknown_course_is_an_alarm_of_shape() {
    let saw = |row: u64| (row % 16) as f64 + noise(row) / 10.0;
    let mut detector = trained(saw, 2000);
    let voices: Vec<_> = (0..30)
        .map(|row| detector.push(None, (row % 2 * 15) as f64))
        .filter(Reading::is_alarm)
        .map(|r| r.voice)
        .collect();
    assert_eq!(voices, [Voice::Shape]);
}

#[test]
fn a_peak_that_does_not_come_is_an_alarm_of_the_daily_voice() {
    let mut detector = Detector::new();
    for row in 0..10 * 288 {
        detector.push(Some(row as i64 * 300), day(row));
    }
    let alarms: Vec<_> = (10 * 288..11 * 288)
        .filter_map(|row| {
            let reading = detector.push(Some(row as i64 * 300), 20.0 + 2.0 * noise(row));
            reading.is_alarm().then_some((row % 288, reading.voice))
        })
        .collect();
    assert_eq!(alarms, [(96, Voice::Daily)], "in the first row of the peak, and once");
}

#[test]
fn a_daily_course_that_goes_on_raises_few_alarms_and_ever_fewer() {
    let mut detector = Detector::new();
    let alarms: Vec<u64> = (0..20 * 288).filter(|row| detector.push(None, day(*row)).is_alarm()).collect();
    assert!(alarms.len() <= 6, "{alarms:?}");
    assert!(alarms.iter().filter(|row| **row > 10 * 288).count() <= 2, "{alarms:?}");
}

#[test]
fn after_an_alarm_there_is_none_for_the_rest_period() {
    let mut detector = trained(noise, 2000);
    let scores: Vec<_> =
        (1..=u64::from(REST_ROWS) + 2).map(|row| detector.push(None, 10f64.powi(row as i32 / 3 + 1))).collect();
    assert!(scores[0].is_alarm());
    assert!(scores[1..=REST_ROWS as usize].iter().all(|reading| reading.score == 0.0));
    assert!(scores.iter().skip(2).step_by(3).all(|reading| reading.strangeness >= 1.0), "it is strange all the same");
}

#[test]
fn nothing_is_said_before_the_warm_up_is_over() {
    let mut detector = Detector::new();
    assert!((0..WARM_UP_ROWS).all(|row| detector.push(None, f64::from(1 << (row % 30))).score == 0.0));
}

#[test]
fn direction_and_unit_do_not_matter() {
    let series = |row: u64| day(row) + if row == 3000 { 200.0 } else { 0.0 };
    let alarms = |map: &dyn Fn(f64) -> f64| {
        let mut detector = Detector::new();
        (0..4000).filter(|row| detector.push(None, map(series(*row))).is_alarm()).collect::<Vec<u64>>()
    };
    let plain = alarms(&|value| value);
    assert!(plain.contains(&3000));
    assert_eq!(alarms(&|value| -value), plain);
    assert_eq!(alarms(&|value| value * 1024.0), plain);
}

#[test]
fn state_is_at_most_64_kib() {
    assert!(Detector::new().bytes() <= 64 * 1024, "{}", Detector::new().bytes());
}

#[test]
fn a_row_without_a_number_changes_nothing() {
    let mut with = trained(noise, 500);
    let mut without = with.clone();
    assert_eq!(with.push(None, f64::NAN), Reading::QUIET);
    for row in 500..700 {
        assert_eq!(with.push(None, noise(row)), without.push(None, noise(row)));
    }
}

proptest! {
    #[test]
    fn no_input_brings_a_score_outside_of_zero_to_one_nor_more_state(
        values in proptest::collection::vec(
            (prop_oneof![
                any::<f64>(),
                Just(0.0),
                Just(f64::MAX),
                Just(f64::MIN),
                Just(f64::INFINITY),
                Just(f64::NEG_INFINITY),
                Just(f64::NAN),
                Just(f64::MIN_POSITIVE),
                -1e3..1e3f64,
            ], proptest::option::of(any::<i64>())),
            0..1500,
        )
    ) {
        let mut detector = Detector::new();
        let bytes = detector.bytes();
        for (value, time_s) in values {
            let reading = detector.push(time_s, value);
            prop_assert!((0.0..=1.0).contains(&reading.score), "{reading:?}");
            prop_assert!((0.0..=STRANGEST).contains(&reading.strangeness), "{reading:?}");
            prop_assert_eq!(detector.bytes(), bytes);
        }
    }
}
