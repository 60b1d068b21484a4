//! How a pod behaves: what its probes add to its start, and what its annotations say that goes wrong.
//!
//! | annotation (`twin.evergreen.dev/...`) | meaning |
//! |---|---|
//! | `never-ready: "true"` | its readiness probe never succeeds |
//! | `start-after: 30s` | time from binding to running containers |
//! | `ready-after: 60s` | time from running to ready |
//! | `run-for: 5m` | time from ready to the end of a container that is not restarted for ever |
//! | `crash-after: 20s` | its first container ends with an error so long after each start |
//! | `exit-code: "137"` | the exit code of that end (1), or of the end of its run (0) |

use std::time::Duration;

use serde_json::Value;

use super::Timing;
use crate::objects::meta;

const PREFIX: &str = "twin.evergreen.dev/";
/// First and longest wait before a crashed container is started again, and the run after which it starts over.
const BACK_OFF: Duration = Duration::from_secs(10);
const MOST_BACK_OFF: Duration = Duration::from_secs(300);
const GOOD_RUN: Duration = Duration::from_secs(600);

/// What is set for one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Behaviour {
    pub(crate) start: Duration,
    pub(crate) ready: Option<Duration>,
    pub(crate) run: Duration,
    pub(crate) crash: Option<Duration>,
    pub(crate) exit_code: i64,
    /// Its containers are not started again whatever their end.
    pub(crate) never_restarts: bool,
}

impl Behaviour {
    /// Reads annotations and probes. A wrong duration counts as none. Readiness comes after the longest sum of a
    /// container's initial delays of startup and readiness probe, and after the twin's own `pod_ready`.
    pub(crate) fn of(metadata: &Value, spec: &Value, timing: &Timing) -> Self {
        let text = |name: &str| metadata["annotations"][format!("{PREFIX}{name}")].as_str();
        let time = |name: &str| text(name).and_then(duration);
        let delays = meta::list(spec, &["containers"]).iter().map(|c| {
            let delay = |probe: &str| c[probe]["initialDelaySeconds"].as_u64().unwrap_or(0);
            delay("startupProbe") + delay("readinessProbe")
        });
        let probes = Duration::from_secs(delays.max().unwrap_or(0));
        let crash = time("crash-after");
        Behaviour {
            start: time("start-after").unwrap_or(timing.pod_start),
            ready: (text("never-ready") != Some("true"))
                .then(|| time("ready-after").unwrap_or_else(|| timing.pod_ready.max(probes))),
            run: time("run-for").unwrap_or(timing.pod_run),
            crash,
            exit_code: text("exit-code").and_then(|c| c.parse().ok()).unwrap_or(i64::from(crash.is_some())),
            never_restarts: spec["restartPolicy"] == "Never",
        }
    }
}

/// Whether annotations say how a pod behaves.
pub(crate) fn is_peculiar(metadata: &Value) -> bool {
    metadata["annotations"].as_object().is_some_and(|a| a.keys().any(|k| k.starts_with(PREFIX)))
}

/// The wait before the start after so many crashes in a row: none after the first, then 10 s, doubled up to 5 min.
pub(crate) fn back_off(crashes: u32) -> Duration {
    match crashes {
        0 | 1 => Duration::ZERO,
        n => BACK_OFF.saturating_mul(1u32.checked_shl(n - 2).unwrap_or(u32::MAX)).min(MOST_BACK_OFF),
    }
}

/// Whether a container ran so long that its crashes before do not count any more.
pub(crate) fn ran_well(run: Duration) -> bool {
    run >= GOOD_RUN
}

/// `90s`, `5m`, `2h`, `250ms`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..split].parse().ok()?;
    Some(match &text[split..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_crash_loop_waits_twice_as_long_each_time_up_to_five_minutes() {
        let waits: Vec<u64> = (1..=8).map(|n| back_off(n).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(back_off(u32::MAX), MOST_BACK_OFF);
    }

    #[test]
    fn probes_delay_readiness_and_annotations_overrule_them() {
        let spec = json!({"containers": [{"readinessProbe": {"initialDelaySeconds": 20}, "startupProbe": {"initialDelaySeconds": 5}}]});
        let of = |annotations: Value| Behaviour::of(&json!({"annotations": annotations}), &spec, &Timing::kubernetes());
        assert_eq!(of(json!({})).ready, Some(Duration::from_secs(25)));
        assert_eq!(of(json!({"twin.evergreen.dev/ready-after": "90s"})).ready, Some(Duration::from_secs(90)));
        assert_eq!(of(json!({"twin.evergreen.dev/never-ready": "true"})).ready, None);
        let crash = of(json!({"twin.evergreen.dev/crash-after": "1m"}));
        assert_eq!((crash.crash, crash.exit_code), (Some(Duration::from_secs(60)), 1));
        assert_eq!(of(json!({"twin.evergreen.dev/start-after": "soon"})).start, Timing::kubernetes().pod_start);
    }
}
