//! Pauses between check and write, which only the resource itself can stop.

use std::time::Duration;

use evergreen_tests::{
    http::Http,
    real::{
        fleet::Fleet,
        logs::{LogMark, seen},
    },
    register::{
        check::Violation,
        clients::outcome,
        history::Outcome,
        store::{Store, StoreError},
    },
};
use futures::{StreamExt, stream};

use crate::Stage;

/// Five leases of 6 s.
const PAUSE: Duration = Duration::from_secs(30);
const STALE: u64 = 100_000;

pub async fn no_stale_token_is_accepted_in_100_000_attempts(stage: &mut Stage<'_>) {
    // The servers would write meanwhile; they start anew on an empty store afterwards.
    stage.fleet.fence(true).await.expect("the store answers");
    for site in evergreen_tests::real::fleet::SITES {
        stage.fleet.site_mut(site).register = None;
    }
    let store: &Store = &stage.fleet.store;
    let newest = 1_000_000;
    store.raise(newest).await.expect("the store answers");
    store.write(newest, "dc-a", "newest").await.expect("the newest token writes");
    let attempts = stream::iter(0..STALE).map(|attempt| async move {
        // Far below, just below; raising and writing, by turns.
        let token = if attempt % 3 == 0 { newest - 1 } else { attempt % newest };
        if attempt % 2 == 0 {
            store.raise(token).await.map(drop)
        } else {
            store.write(token, "dc-b", &format!("stale-{attempt}")).await
        }
    });
    let answers: Vec<Result<(), StoreError>> = attempts.buffer_unordered(16).collect().await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
    let unknown = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Unknown(_)))).count();
    assert_eq!(store.value().await.expect("the store answers"), "newest");
    assert_eq!(store.effective().await.expect("the store answers").len(), 1, "a stale write took effect");
    assert!(unknown < 1_000, "{unknown} attempts had no answer");
    stage.report.count("stale tokens accepted at the resource (etcd transactions)", accepted, STALE);
    assert_eq!(accepted, 0);
    stage.fleet.fence(true).await.expect("the store answers");
}

/// Freezes the holder's register server between its check and its write for five leases, meanwhile another site takes
/// over and writes; answers what became of the late write.
async fn pause_between_check_and_write(fleet: &mut Fleet, value: &str) -> Outcome {
    let holder = fleet.holder().await;
    let clients = fleet.register_clients(1, 1);
    let before = clients.now();
    clients.served_since(before, Duration::from_secs(20), |_| true).await.expect("it is served");
    let mark = LogMark::end_of(fleet.site(holder).register.as_ref().expect("it runs").log());
    let url = format!("{}/write?value={value}&announce=true", fleet.register_url(holder));
    let late = tokio::spawn(async move { Http::new(PAUSE * 3).post(&url, String::new()).await });
    seen(&[mark], &["checked", value], Duration::from_secs(10)).await.expect("the write passes its check");
    // All that is left of the site's own view of time stands still: server, agent and controller.
    let site = fleet.site(holder);
    for process in site.register.iter().chain(&site.agent).chain(&site.controller) {
        process.freeze();
    }
    let frozen = clients.now();
    let moved = clients.served_since(frozen, PAUSE, |record| record.done_by().is_some_and(|by| by != holder));
    moved.await.expect("another site takes over");
    tokio::time::sleep((frozen + PAUSE).saturating_sub(clients.now())).await;
    let site = fleet.site(holder);
    for process in site.register.iter().chain(&site.agent).chain(&site.controller) {
        process.thaw();
    }
    let answer = outcome(late.await.expect("the client lives"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    clients.stop().await;
    answer
}

pub async fn a_pause_of_five_leases_between_check_and_write_is_fenced(stage: &mut Stage<'_>) {
    let late = pause_between_check_and_write(stage.fleet, "late-fenced").await;
    assert_eq!(late, Outcome::Refused("stale".into()));
    let effective = stage.fleet.store.effective().await.expect("the store answers");
    assert!(effective.iter().all(|write| write.value != "late-fenced"), "the late write took effect");
}

/// Shows that the checker sees what the fence prevents.
pub async fn without_a_fence_the_checker_sees_the_same_pause(stage: &mut Stage<'_>) {
    stage.fleet.fence(false).await.expect("the store answers");
    let late = pause_between_check_and_write(stage.fleet, "late-unfenced").await;
    assert!(matches!(late, Outcome::Ok { .. }), "{late:?}");
    let effective = stage.fleet.store.effective().await.expect("the store answers");
    let violations = evergreen_tests::register::check::check(&[], &effective, "");
    let found = violations.iter().any(|violation| matches!(violation, Violation::StaleWrite { .. }));
    assert!(found, "the checker is blind: {violations:?}");
}
