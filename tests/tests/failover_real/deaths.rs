//! Sites, API servers and controllers that die.

use std::time::Duration;

use evergreen_tests::{
    real::{
        fleet::{Fleet, REGISTER, SITES},
        logs::seen,
        report::{DETECT, STATELESS, WRITER},
    },
    register::history::{Operation, outage},
    wait::eventually,
};

use crate::{Stage, setting};

/// Twice the target of a single writer, so that a miss is measured and not only told.
const MOVED: Duration = Duration::from_secs(40);
/// How long a grant may outlive what it rests on: less than the lease of 6 s.
const EXPIRED: Duration = Duration::from_secs(6);

pub async fn a_dead_site_is_replaced_within_the_targets(stage: &mut Stage<'_>) {
    for cycle in 0..setting("EVERGREEN_FAILOVER_CYCLES", 6) {
        if cycle > 0 {
            stage.fleet.restore().await;
        }
        let (initial, holder) = (stage.fleet.value().await, stage.fleet.holder().await);
        let (clients, web) = (stage.fleet.register_clients(2, 1), stage.fleet.web_clients(2));
        // At any moment between two renewals.
        tokio::time::sleep(Duration::from_millis(1_500 + 137 * (cycle % 8))).await;
        let logs = stage.fleet.controller_logs();
        let (died, web_died) = (clients.now(), web.now());
        let begin = std::time::Instant::now();
        stage.fleet.site_dies(holder);
        let line = ["suspected".to_owned(), format!("site=\"{holder}\"")];
        let line = line.each_ref().map(String::as_str);
        let (suspected, moved) = tokio::join!(
            seen(&logs, &line, MOVED),
            clients.served_since(died, MOVED, |record| {
                record.done_by().is_some_and(|by| by != holder) && matches!(record.operation, Operation::Write(_))
            })
        );
        let moved = moved.unwrap_or_else(|why| panic!("nobody took over from {holder}: {why}"));
        stage.report.time(WRITER, moved.ended - died);
        let suspected = suspected.unwrap_or_else(|| panic!("no survivor suspected {holder}"));
        stage.report.time(DETECT, suspected - begin);
        tokio::time::sleep(Duration::from_secs(3)).await;
        if let Some(last) = outage(&web.stop().await, web_died, |_| true).last_failure {
            stage.report.time(STATELESS, last);
        }
        let (history, violations) = stage.fleet.verdict(clients, &initial).await;
        let writes = history.iter().filter(|record| matches!(record.operation, Operation::Write(_))).count();
        stage.report.count("violations in checked histories, of operations", violations.len() as u64, writes as u64);
        assert_eq!(violations, []);
        stage.fleet.site_returns(holder).expect("it starts");
    }
}

/// Patroni's failsafe mode: while all members answer, the loss of the consensus store demotes nobody.
pub async fn a_dead_api_server_of_the_holder_stays_while_the_others_answer(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let before = stage.fleet.granted(REGISTER).await;
    let holder = stage.fleet.holder().await;
    let clients = stage.fleet.register_clients(1, 1);
    stage.fleet.site_mut(holder).plane.kill();
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while tokio::time::Instant::now() < end {
        assert_eq!(stage.fleet.granted(REGISTER).await, before, "the other two API servers are a majority");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    assert_eq!(violations, []);
}

/// Patroni's failsafe mode: with one member missing, the leader demotes itself.
pub async fn a_dead_api_server_and_one_more_missing_ends_the_grant(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let holder = stage.fleet.holder().await;
    let clients = stage.fleet.register_clients(1, 1);
    stage.fleet.site_mut(holder).plane.kill();
    stage.fleet.site_mut(Fleet::others(holder)[0]).plane.kill();
    eventually("the grant has ended", EXPIRED, || async {
        let granted = stage.fleet.granted(REGISTER).await;
        if granted.is_empty() { Ok(()) } else { Err(format!("{granted:?}")) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(stage.fleet.granted(REGISTER).await.is_empty(), "one API server of three is no majority");
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    assert_eq!(violations, []);
}

pub async fn all_controllers_killed_at_once_end_every_grant_and_come_back(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let clients = stage.fleet.register_clients(1, 2);
    for site in SITES {
        stage.fleet.site_mut(site).controller = None;
    }
    eventually("every grant has ended", EXPIRED, || async {
        let granted = stage.fleet.granted(REGISTER).await;
        if granted.is_empty() { Ok(()) } else { Err(format!("{granted:?}")) }
    })
    .await;
    let started = clients.now();
    for site in SITES {
        stage.fleet.start_controller(site).expect("a controller starts");
    }
    let served = clients.served_since(started, MOVED, |_| true).await.expect("it is served again");
    stage.report.time("all controllers killed with -9: served again after their start", served.ended - started);
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    assert_eq!(violations, []);
}
