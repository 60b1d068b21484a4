//! When a series reaches its limit: an expected time, and an interval that holds it nine times out of ten.
//!
//! **Which past speaks.** The longest window of blocks that nothing contradicts: its late blocks grow as its earlier ones
//! do, and what is read now lies where the window says. A habit that is known for days (logs that fill and rotate, a
//! daily course) so speaks before the rise of the last hours, and a leak that began an hour ago contradicts the quiet
//! days before it.
//!
//! **What it says.** Growth over n blocks has the mean n m and the variance V (n + n²/K) + L: m is the slope of Theil and
//! Sen over the K block maxima, V the variance that growth gathers with time, L what of its variance does not gather
//! (noise on the level, the swing of a usual day). n²/K is the doubt about m itself. The bounds are where the mean, and
//! the mean by Student's quantile of that deviation either way, meet the limit; the slope of the later half, where it
//! differs, widens them. No window speaks farther ahead than [`REACH`] of its own length.
//!
//! Pure: values in, a forecast or none out. May not decide whether somebody wants to hear it.

use super::{
    course::{Course, Scale},
    quantile::{median, student},
    window::{Growth, Window, theil_sen},
};

/// Blocks of a window, the long one first.
const WINDOWS: [usize; 2] = [16, 8];
/// Fewest blocks with values that a window needs.
const FEWEST: usize = 6;
/// The day is long: this many blocks of it are enough.
const FEWEST_DAYS: usize = 4;
const DAY_MS: u64 = 24 * 3_600_000;
/// How many of its own lengths a window speaks ahead.
pub const REACH: f64 = 4.0;
/// The same of a series whose days are not known yet: its rise may be its morning.
const REACH_OF_A_STRANGER: f64 = 1.0;
/// Until a series was watched for so long, its days are not known.
const ACQUAINTED_MS: u64 = 2 * DAY_MS;
/// Share of the limit below which differences are rounding.
const ROUNDING: f64 = 1e-6;
/// A rise that ended so far below the limit, in its own size, was harmless.
const LEEWAY: f64 = 0.1;
/// Days whose swing counts.
const SWING_DAYS: usize = 6;

/// When a series reaches its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Milliseconds from now until then.
    pub expected_ms: u64,
    /// The limit is not reached sooner than this, nineteen times out of twenty.
    pub earliest_ms: u64,
    /// Nor later than this; `None`: so far ahead that the window does not say.
    pub latest_ms: Option<u64>,
    /// Growth in an hour, in the unit of the series.
    pub per_hour: f64,
    /// Length of the window that speaks, milliseconds.
    pub window_ms: u64,
    /// Blocks of it with values.
    pub blocks: usize,
}

/// What is the same for all windows.
struct Look {
    now_ms: u64,
    value: f64,
    limit: f64,
    /// Time between readings.
    pace_ms: u64,
    /// How far a usual day goes from its lowest to its highest.
    swing: f64,
    reach: f64,
}

/// When a series that rises reaches `limit`; nothing while no window tells a rise.
pub fn forecast(course: &Course, limit: f64) -> Option<Forecast> {
    let (now_ms, value) = course.last()?;
    if value >= limit {
        let (window_ms, blocks) = (course.finest_ms(), 1);
        return Some(Forecast { expected_ms: 0, earliest_ms: 0, latest_ms: Some(0), per_hour: 0.0, window_ms, blocks });
    }
    let is_stranger = now_ms.saturating_sub(course.first_ms()) < ACQUAINTED_MS;
    let look = Look {
        now_ms,
        value,
        limit,
        pace_ms: course.finest_ms() / 6,
        swing: daily_swing(course),
        reach: if is_stranger { REACH_OF_A_STRANGER } else { REACH },
    };
    for scale in course.scales().iter().rev() {
        for length in WINDOWS {
            match speak(scale, length, &look) {
                Verdict::Silent => {}
                Verdict::Still => return None,
                Verdict::Rises(forecast) => return Some(forecast),
            }
        }
    }
    None
}

fn daily_swing(course: &Course) -> f64 {
    let day = course.scales().last().filter(|scale| scale.finished() >= 2);
    let days = day.and_then(|scale| scale.last(scale.finished().min(SWING_DAYS)));
    let mut swings: Vec<f64> = days.into_iter().flatten().flatten().map(|block| block.high - block.low).collect();
    median(&mut swings).unwrap_or(0.0)
}

enum Verdict {
    /// Too short, or contradicted.
    Silent,
    /// It holds, and the limit is not in its reach.
    Still,
    Rises(Forecast),
}

fn speak(scale: &Scale, length: usize, look: &Look) -> Verdict {
    let is_days = scale.block_ms >= DAY_MS;
    let length = if is_days { length.min(scale.finished()).max(1) } else { length };
    let (Some(blocks), Some(current)) = (scale.last(length), scale.current()) else { return Verdict::Silent };
    let Some(mut window) =
        Window::of(blocks).filter(|window| window.highs.len() >= if is_days { FEWEST_DAYS } else { FEWEST })
    else {
        return Verdict::Silent;
    };
    let block_ms = scale.block_ms as f64;
    let last = window.highs[window.highs.len() - 1];
    let ended = window.mend_fall();
    // When within a block its last reading comes is not known better than by the pace of readings.
    let Some(slope) = theil_sen(&window.highs) else { return Verdict::Silent };
    let rounding = look.limit.abs().max(look.value.abs()) * ROUNDING;
    let floor = rounding.max(slope.abs() * look.pace_ms as f64 / block_ms).powi(2);
    let Some(mut growth) = Growth::of(&window.highs, floor) else { return Verdict::Silent };
    if scale.block_ms * length as u64 <= DAY_MS {
        growth.stays = growth.stays.max((look.swing / 2.0).powi(2));
    }
    // The end of the last block with values, in blocks before now.
    let since = look.now_ms.saturating_sub(scale.begun_ms()) as f64 / block_ms + (length as f64 - 1.0 - last.0);
    if !window.holds(&growth, current.high, look.value, since, floor) {
        return Verdict::Silent;
    }
    // A rise like this one ended by itself, or somebody ended it, well below the limit.
    if ended.is_some_and(|(top, bottom)| current.high < top && top + (top - bottom) * LEEWAY < look.limit) {
        return Verdict::Still;
    }
    let (from, ahead) = if current.high >= last.1 { (current.high, 0.0) } else { (last.1, since) };
    let way = look.limit - from;
    let reach = look.reach * length as f64 + ahead;
    let expected = way / growth.slope;
    if growth.slope <= 0.0 || expected > reach {
        return Verdict::Still;
    }
    let deviations = student(growth.independent());
    // A block whose values swing reaches its highest at any time within it.
    let unclear = (median(&mut window.swings).unwrap_or(0.0) / growth.slope - 1.0).clamp(0.0, 1.0);
    // The later half may grow more slowly than the whole, or faster, before that is a contradiction.
    let late = theil_sen(&window.highs[window.highs.len() / 2..]).unwrap_or(growth.slope);
    let (fast, slow) = (growth.with(growth.slope.max(late)), growth.with(growth.slope.min(late)));
    let ms = |n: f64| ((n - ahead).max(0.0) * block_ms) as u64;
    Verdict::Rises(Forecast {
        expected_ms: ms(expected),
        earliest_ms: ms(fast.meets(way, deviations, expected).unwrap_or(expected) - unclear),
        latest_ms: slow.meets(way, -deviations, 2.0 * reach).map(|n| ms(n + unclear)),
        per_hour: growth.slope * 3_600_000.0 / block_ms,
        window_ms: length as u64 * scale.block_ms,
        blocks: window.highs.len(),
    })
}
