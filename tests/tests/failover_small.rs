//! The shortest look at failover on real API servers: a site dies, a site is cut off, and no history shows two writers.
//! `make test-failover` has the rest.

use std::time::Duration;

use evergreen_tests::{
    real::fleet::{Fleet, REGISTER, missing},
    register::history::Operation,
    skip::skipped,
};

/// Twice the target: the machine may be busy with other tests.
const MOVED: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_register_on_real_api_servers_has_one_writer_through_a_partition_and_a_site_s_death() {
    if let Some(what) = missing() {
        skipped("failover on real API servers", &what);
        return;
    }
    let mut fleet = Fleet::start(1).await.expect("a fleet");
    let (initial, first) = (fleet.value().await, fleet.holder().await);
    let clients = fleet.register_clients(2, 2);

    let cut = clients.now();
    fleet.cut_off(first);
    let moved = clients.served_since(cut, MOVED, |record| record.done_by().is_some_and(|by| by != first)).await;
    let second = moved.expect("another site takes over").done_by().unwrap_or_default().to_owned();
    fleet.replug();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let granted = fleet.granted(REGISTER).await;
    assert!(granted.keys().eq([&second.as_str()]), "held by {second}, granted at {granted:?}");

    let died = clients.now();
    fleet.site_dies(&second);
    let moved = clients.served_since(died, MOVED, |record| {
        record.done_by().is_some_and(|by| by != second) && matches!(record.operation, Operation::Write(_))
    });
    moved.await.expect("a third site takes over");

    let (history, violations) = fleet.verdict(clients, &initial).await;
    assert!(history.iter().filter(|record| record.done_by().is_some()).count() > 20, "{} operations", history.len());
    assert_eq!(violations, []);
}
