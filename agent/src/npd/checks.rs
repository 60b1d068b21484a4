//! Checks by commands, by node-problem-detector's custom plugin protocol: exit status 0 all is well, 1 there is a
//! problem, anything else nobody knows; what the command prints is the message.
//!
//! No shell. A command that takes too long is killed with everything it started; its output is bounded, the rest thrown
//! away. A check that nobody knows the answer of changes nothing, and is told as an absent source.

use std::{collections::BTreeMap, process::Stdio, sync::Arc, time::Duration};

use evergreen_api::{Detection, Severity};
use futures::StreamExt;
use tokio::{
    io::AsyncReadExt,
    process::Command,
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    config::{CustomConfig, CustomRule},
    monitor::rule_id,
};
use crate::{
    conditions::{ConditionType, Sighting},
    kernel::detector::next_report,
    rules::Rulebook,
    shared::Shared,
    signal::Signal,
    text::printable,
};

/// Leave for what a command has printed to arrive when it has ended; something it started may hold the pipe open.
const DRAIN: Duration = Duration::from_millis(200);

/// How a check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Well(String),
    /// There is a problem.
    Problem(String),
    /// Nobody knows.
    Unknown(String),
}

/// Runs one check.
pub async fn check(rule: &CustomRule, max_output: usize) -> Outcome {
    let mut command = Command::new(&rule.path);
    command.args(&rule.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Outcome::Unknown(format!("{} cannot be run: {error}", rule.path.display())),
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let mut kept = Vec::new();
    let mut stdout = child.stdout.take();
    // Four bytes a character, and a bit for blanks that are cut.
    let room = max_output * 4 + 64;
    let mut read = async || {
        let Some(stdout) = &mut stdout else { return };
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stdout.read(&mut buffer).await {
            let free = room.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..count.min(free)]);
        }
    };
    let work = async {
        tokio::select! {
            status = child.wait() => {
                // What is still in the pipe.
                let _ = tokio::time::timeout(DRAIN, read()).await;
                status
            }
            // The pipe was closed first; the command may live on.
            status = async { read().await; std::future::pending::<std::io::Result<std::process::ExitStatus>>().await } => status,
        }
    };
    let status = tokio::time::timeout(rule.timeout, work).await;
    if let Some(group) = group {
        // The group outlives its leader when the command left something behind; else there is nobody to kill.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    if status.is_err() {
        // Killed above; waited for so that no zombie stays.
        let _ = child.wait().await;
    }
    let message = printable(kept.trim_ascii(), max_output);
    match status {
        Err(_) => Outcome::Unknown(format!("{} took longer than {:?}", rule.path.display(), rule.timeout)),
        Ok(Err(error)) => Outcome::Unknown(format!("{} cannot be waited for: {error}", rule.path.display())),
        Ok(Ok(status)) => match status.code() {
            Some(0) => Outcome::Well(message),
            Some(1) => Outcome::Problem(message),
            _ => Outcome::Unknown(format!("{}: {status}: {message}", rule.path.display())),
        },
    }
}

/// Remembers what a monitor's checks said, and turns it into signals.
#[derive(Debug)]
pub struct Verdicts {
    config: Arc<CustomConfig>,
    /// Report of each problem that is raised.
    raised: BTreeMap<ConditionType, u64>,
    /// Those whose first good answer was told, so that what an earlier agent raised ends.
    settled: std::collections::BTreeSet<ConditionType>,
}

impl Verdicts {
    /// Of a monitor that has checked nothing.
    pub fn new(config: Arc<CustomConfig>) -> Self {
        Self { config, raised: BTreeMap::new(), settled: std::collections::BTreeSet::new() }
    }

    /// Takes one round of all checks. Several checks of one condition are one verdict: the first that fails.
    pub fn take(&mut self, outcomes: &[Outcome]) -> Vec<Signal> {
        let mut by_type: BTreeMap<ConditionType, Vec<(&CustomRule, &Outcome)>> = BTreeMap::new();
        for (rule, outcome) in self.config.rules.iter().zip(outcomes) {
            by_type.entry(rule.effect.about).or_default().push((rule, outcome));
        }
        let mut signals = Vec::new();
        for (about, answers) in by_type {
            let id = rule_id(&self.config.source, about.as_str());
            let failed = answers.iter().find_map(|(rule, outcome)| match outcome {
                Outcome::Problem(message) => Some((*rule, message)),
                _ => None,
            });
            if let Some((rule, message)) = failed {
                let report = *self.raised.entry(about).or_insert_with(next_report);
                signals.push(Signal::Seen(self.sighting(report, id, rule, message)));
                continue;
            }
            if answers.iter().any(|(_, outcome)| !matches!(outcome, Outcome::Well(_))) {
                continue;
            }
            if self.raised.remove(&about).is_some() | self.settled.insert(about) {
                let message = answers.iter().find_map(|(_, outcome)| match outcome {
                    Outcome::Well(message) if !message.is_empty() => Some(message.as_str()),
                    _ => None,
                });
                let why = message.unwrap_or("the check succeeds");
                signals.push(Signal::Over { rule: id, why: why.to_owned() });
            }
        }
        signals
    }

    fn sighting(&self, report: u64, id: String, rule: &CustomRule, message: &str) -> Sighting {
        let effect = &rule.effect;
        Sighting {
            report,
            detection: Detection {
                kind: effect.about.kind(),
                severity: if effect.permanent { Severity::Degraded } else { Severity::Warning },
                crash_type: None,
                summary: format!("{} ({})", effect.reason, self.config.source),
                first_line: message.to_owned(),
                evidence: vec![message.to_owned()],
                count: 1,
                at: String::new(),
            },
            rule: id,
            clear_after: None,
            condition: effect.permanent,
            about: effect.about,
            reason: Some(effect.reason.clone()),
            watched: true,
        }
    }
}

/// Runs the checks of the rules of now until cancelled; those of unchanged files go on undisturbed when others change.
pub async fn run(
    mut rules: watch::Receiver<Arc<Rulebook>>,
    shared: Arc<Shared>,
    signals: mpsc::Sender<Signal>,
    cancel: CancellationToken,
) {
    let mut running: Vec<(Arc<CustomConfig>, CancellationToken)> = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let book = Arc::clone(&rules.borrow_and_update());
        running.retain(|(config, token)| {
            let stays = book.checks.iter().any(|wanted| wanted == config);
            if !stays {
                token.cancel();
                shared.forget_sources(&source_name(&config.source));
            }
            stays
        });
        for config in &book.checks {
            if !running.iter().any(|(known, _)| known == config) {
                let token = cancel.child_token();
                tasks.spawn(repeat(Arc::clone(config), Arc::clone(&shared), signals.clone(), token.clone()));
                running.push((Arc::clone(config), token));
            }
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = rules.changed() => if changed.is_err() { break },
            Some(_) = tasks.join_next() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn source_name(source: &str) -> String {
    format!("check/{source}")
}

async fn repeat(
    config: Arc<CustomConfig>,
    shared: Arc<Shared>,
    signals: mpsc::Sender<Signal>,
    cancel: CancellationToken,
) {
    let mut verdicts = Verdicts::new(Arc::clone(&config));
    let mut tick = tokio::time::interval(config.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        let checks = futures::stream::iter(0..config.rules.len()).map(|index| {
            let config = Arc::clone(&config);
            async move { check(&config.rules[index], config.max_output).await }
        });
        let outcomes = tokio::select! {
            () = cancel.cancelled() => return,
            outcomes = checks.buffered(config.concurrency).collect::<Vec<_>>() => outcomes,
        };
        let unknown = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Unknown(reason) => Some(reason.clone()),
            _ => None,
        });
        shared.note_source(&source_name(&config.source), unknown.map_or(Ok(()), Err));
        for signal in verdicts.take(&outcomes) {
            if signals.send(signal).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::npd::config::{Config, Effect, parse};

    fn rule(script: &str, timeout_ms: u64) -> CustomRule {
        CustomRule {
            effect: Effect { about: ConditionType::named("ClockBad"), permanent: true, reason: "Drift".into() },
            path: PathBuf::from("/bin/sh"),
            args: vec!["-c".into(), script.into()],
            timeout: Duration::from_millis(timeout_ms),
        }
    }

    #[tokio::test]
    async fn the_exit_status_is_the_answer_and_the_output_the_message() {
        assert_eq!(check(&rule("echo fine", 5000), 80).await, Outcome::Well("fine".into()));
        assert_eq!(check(&rule("echo it drifts; exit 1", 5000), 80).await, Outcome::Problem("it drifts".into()));
        assert!(matches!(check(&rule("exit 2", 5000), 80).await, Outcome::Unknown(_)));
        assert!(matches!(check(&rule("kill -9 $$", 5000), 80).await, Outcome::Unknown(_)));
        let missing = CustomRule { path: "/nowhere/at/all".into(), ..rule("", 5000) };
        assert!(matches!(check(&missing, 80).await, Outcome::Unknown(_)));
    }

    #[tokio::test]
    async fn output_is_bounded_and_does_not_stop_the_command() {
        let Outcome::Well(message) = check(&rule("head -c 300000 /dev/zero | tr '\\0' x", 10_000), 8).await else {
            panic!("it ends well");
        };
        assert_eq!(message, "xxxxxxxx…");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        assert!(matches!(check(&rule(&script, 1000), 80).await, Outcome::Unknown(_)));
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        // Gone, or a zombie that nobody has waited for; a busy machine takes a moment to deliver the signal.
        for _ in 0..200 {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            if state.is_empty() || state.contains(") Z") || state.contains(") X") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("process {pid} still runs");
    }

    #[test]
    fn a_condition_is_raised_by_any_of_its_checks_and_ends_when_all_are_well() {
        let text = r#"{"plugin": "custom", "source": "s", "conditions": [{"type": "ClockBad", "reason": "Good", "message": "m"}],
            "rules": [{"type": "permanent", "condition": "ClockBad", "reason": "Drift", "path": "/a"},
                      {"type": "permanent", "condition": "ClockBad", "reason": "Gone", "path": "/b"}]}"#;
        let Config::Custom(config) = parse(text).unwrap() else { panic!("a custom monitor") };
        let mut verdicts = Verdicts::new(Arc::new(config));
        let (well, bad, unknown) =
            (Outcome::Well(String::new()), Outcome::Problem("x".into()), Outcome::Unknown("?".into()));
        let mut round = |a: &Outcome, b: &Outcome| match verdicts.take(&[a.clone(), b.clone()]).as_slice() {
            [] => String::new(),
            [Signal::Seen(sighting)] => sighting.reason.clone().unwrap_or_default(),
            [Signal::Over { rule, .. }] => format!("over {rule}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(round(&well, &bad), "Gone");
        assert_eq!(round(&well, &unknown), "");
        assert_eq!(round(&well, &well), "over s/ClockBad");
        assert_eq!(round(&well, &well), "");
    }
}
