//! Plays the runs of a playbook's tests: a simulated data center in virtual time, healed by the controller's own code.
//!
//! - [`world`]: the data center of a test, and what happens in it
//! - [`judge`]: whether the run ended as the test says

mod judge;
mod world;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use evergreen_api::resources::{Playbook, PlaybookRun, PlaybookSpec, RunPhase, StepKind};
use evergreen_controller::healing::{self, AlertInbox, Endpoints, HealingContext, HealingOptions};
use evergreen_playbooks::testing::RunCase;
use evergreen_telemetry::IncidentTracer;
use evergreen_twin::Twin;
use http::{Request, Response};
use kube::client::Body;
use tokio_util::sync::CancellationToken;

/// A run that has not begun so long after the last happening never will.
const NEVER_BEGAN: Duration = Duration::from_secs(2 * 3600);
/// No run is followed for longer after the last happening.
const NEVER_ENDED: Duration = Duration::from_secs(48 * 3600);
/// After something changed every second is looked at for so long, then every ten, every minute, every five.
const CLOSE: Duration = Duration::from_secs(30);
const NEAR: Duration = Duration::from_secs(300);
const FAR: Duration = Duration::from_secs(1800);

/// Plays one run; returns why it did not end as the test says, if so.
///
/// # Errors
/// What is wrong, in some lines, the steps that were done among them.
///
/// # Panics
/// Never: a runtime without I/O can always be made.
pub fn play(playbook: &Playbook, run: &RunCase) -> Result<(), String> {
    run.check(&playbook.spec)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O needs nothing of the system").block_on(act(playbook, run))
}

/// Plays all runs of a playbook; returns what failed, one block each, with the line of the test file.
pub fn play_all(playbook: &Playbook, runs: &[RunCase]) -> Vec<String> {
    let played = runs.iter().filter_map(|run| {
        let wrong = play(playbook, run).err()?;
        Some(format!("line {}: {}: {}", run.line, run.name, wrong.replace('\n', "\n    ")))
    });
    played.collect()
}

/// Names of the endpoints that were asked, in order.
type Asked = Arc<Mutex<Vec<String>>>;

async fn act(playbook: &Playbook, run: &RunCase) -> Result<(), String> {
    let twin = world::make(playbook, run)?;
    let cancel = CancellationToken::new();
    let (alerts, asked) = (AlertInbox::default(), Asked::default());
    let options = HealingOptions {
        endpoints: endpoints(&playbook.spec, run, &asked),
        alerts: alerts.clone(),
        ..HealingOptions::default()
    };
    let context = HealingContext {
        client: twin.client("evergreen-controller"),
        site: twin.site().to_owned(),
        incidents: IncidentTracer::unexported(),
        meter: opentelemetry::global::meter("evergreen.rehearsal"),
        began: twin.api().clock().now(),
        options,
    };
    let healing = tokio::spawn(healing::run(context, cancel.clone()));
    let ended = follow(&twin, playbook, run, &alerts).await;
    cancel.cancel();
    let _ = healing.await;
    judge::judge(&twin, playbook, run, ended?, &asked.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Lets time pass, with what happens in it, until the playbook's run has ended and no other begins.
async fn follow(
    twin: &Twin,
    playbook: &Playbook,
    run: &RunCase,
    alerts: &AlertInbox,
) -> Result<Option<PlaybookRun>, String> {
    // The healer has seen everything before anything happens.
    pass(twin, Duration::from_secs(2)).await;
    let mut happens: Vec<_> = run.happens.iter().collect();
    happens.sort_by_key(|happening| happening.at);
    let mut happens = happens.into_iter().peekable();
    let last = run.happens.iter().map(|happening| happening.at.get()).max().unwrap_or_default();
    let (mut time, mut changed, mut seen) = (Duration::ZERO, Duration::ZERO, String::new());
    let mut ended: Option<(PlaybookRun, Duration)> = None;
    loop {
        while let Some(happening) = happens.next_if(|happening| happening.at.get() <= time) {
            world::happen(twin, happening, alerts)?;
            changed = time;
        }
        let runs = runs(twin, playbook);
        let stand = runs.iter().map(|run| run.metadata.resource_version.clone().unwrap_or_default()).collect();
        if stand != seen {
            (seen, changed) = (stand, time);
        }
        let first = runs.first();
        let is_over = |run: &&PlaybookRun| run.status.as_ref().is_some_and(|status| status.phase.is_final());
        if ended.is_none()
            && let Some(first) = first.filter(is_over)
        {
            ended = Some((first.clone(), time));
        }
        if let Some((first, since)) = &ended {
            let healed = first.status.as_ref().is_some_and(|status| status.phase == RunPhase::Succeeded);
            if !healed || run.ends != RunPhase::Succeeded {
                return Ok(Some(first.clone()));
            }
            if runs.len() > 1 {
                let second = runs[1].spec.trigger.clone();
                return Err(format!("it started again after it had ended well ({second}): it matches its own effects"));
            }
            // What a success leaves behind must not start it again once the cooldown is over.
            let watched = playbook.spec.guards.cooldown.get() + CLOSE;
            if happens.peek().is_none() && time >= *since + watched {
                return Ok(Some(first.clone()));
            }
        }
        let over = if runs.is_empty() { NEVER_BEGAN } else { NEVER_ENDED };
        if ended.is_none() && time >= last + over {
            return Ok(first.cloned());
        }
        let quiet = time.saturating_sub(changed);
        let step = match quiet {
            quiet if quiet < CLOSE => 1,
            quiet if quiet < NEAR => 10,
            quiet if quiet < FAR => 60,
            _ => 300,
        };
        let next = happens.peek().map_or(Duration::MAX, |happening| happening.at.get().saturating_sub(time));
        let step = Duration::from_secs(step).min(next.max(Duration::from_secs(1)));
        pass(twin, step).await;
        time += step;
    }
}

/// Two clocks, one step: the data center's, and the one that its controller lives by.
async fn pass(twin: &Twin, time: Duration) {
    twin.advance(time);
    tokio::time::sleep(time).await;
}

/// The playbook's runs, the oldest first.
fn runs(twin: &Twin, playbook: &Playbook) -> Vec<PlaybookRun> {
    let all = twin.api().read_all("evergreen.dev", "playbookruns", None);
    let mut runs: Vec<PlaybookRun> = all.into_iter().filter_map(|run| serde_json::from_value(run).ok()).collect();
    runs.retain(|run| Some(&run.spec.playbook) == playbook.metadata.name.as_ref());
    runs.sort_by_key(|run| (run.metadata.creation_timestamp.as_ref().map(|time| time.0), run.metadata.name.clone()));
    runs
}

/// Endpoints that the playbook names, answered here, and the images that its Jobs run.
fn endpoints(spec: &PlaybookSpec, run: &RunCase, asked: &Asked) -> Endpoints {
    let (mut names, mut images) = (run.endpoints.keys().cloned().collect::<Vec<_>>(), Vec::new());
    for step in spec.steps.iter().chain(&spec.on_failure).filter_map(|step| step.kind()) {
        match step {
            StepKind::Http(http) => names.push(http.endpoint.clone()),
            StepKind::Notify(notify) => names.push(notify.endpoint.clone()),
            StepKind::CreateJob(job) => images.push(job.image.clone()),
            _ => {}
        }
    }
    names.sort();
    names.dedup();
    let clients = names.into_iter().map(|name| {
        let code = run.endpoints.get(&name).copied().unwrap_or(200);
        let (asked, told) = (Arc::clone(asked), name.clone());
        let service = tower::service_fn(move |_: Request<Body>| {
            asked.lock().unwrap_or_else(PoisonError::into_inner).push(told.clone());
            std::future::ready(Response::builder().status(code).body(Body::empty()))
        });
        (name, kube::Client::new(service, "default"))
    });
    Endpoints::answered_by(clients, images)
}

#[cfg(test)]
mod tests {
    use evergreen_playbooks::{library, testing};

    use super::*;

    /// The whole library in one process: two runs or more of each playbook.
    #[test]
    fn every_run_of_the_library_ends_as_its_test_says() {
        let half = |odd: usize| {
            let mine = library::all().iter().enumerate().filter(move |(index, _)| index % 2 == odd);
            let failed = mine.flat_map(|(_, shipped)| {
                let playbook = shipped.playbook().unwrap();
                let tests = testing::parse(shipped.tests).unwrap();
                let failures = play_all(&playbook, &tests.runs);
                failures.into_iter().map(|failure| format!("{}: {failure}", shipped.file)).collect::<Vec<_>>()
            });
            failed.collect::<Vec<_>>()
        };
        let failed = std::thread::scope(|scope| {
            let other = scope.spawn(move || half(1));
            let mut failed = half(0);
            failed.extend(other.join().unwrap());
            failed
        });
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    #[test]
    fn a_run_that_ends_otherwise_or_never_begins_is_told_with_its_line_and_its_steps() {
        let shipped = library::all().iter().find(|shipped| shipped.file == "soft-lockup.yaml").unwrap();
        let playbook = shipped.playbook().unwrap();
        let text = r#"cases: []
dryRun: []
runs:
  - name: it is said to heal
    happens: [{conditions: {SoftLockup: "True"}}]
    ends: Succeeded
  - name: nothing is wrong
    happens: [{conditions: {SoftLockup: "False"}}]
    ends: Succeeded
  - name: a slip
    happens: [{at: 1s}]
    ends: Succeeded
    then: node.redy
"#;
        let tests = testing::parse(text).unwrap();
        let failures = play_all(&playbook, &tests.runs);
        assert_eq!(failures.len(), 3, "{failures:#?}");
        assert!(failures[0].starts_with("line 4: it is said to heal: it ended as RolledBack"), "{}", failures[0]);
        assert!(failures[0].contains("cordon: Done") && failures[0].contains("undo: "), "{}", failures[0]);
        assert!(failures[1].starts_with("line 7: nothing is wrong: no run began"), "{}", failures[1]);
        assert!(failures[2].contains("line 10: a slip: then: ") && failures[2].contains("ready"), "{}", failures[2]);
    }
}
