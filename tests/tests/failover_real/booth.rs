//! The live test list of the booth cluster ticket manager, under 30 % loss and 100 ms each way.

use std::time::Duration;

use evergreen_tests::{
    real::{
        fleet::{Fleet, REGISTER, SITES},
        links::Quality,
        objects,
    },
    wait::eventually,
};

use crate::Stage;

/// A lease, its margins, and a network that loses every third segment.
const MOVED: Duration = Duration::from_secs(60);
/// Longer than any lease: what has not happened by then does not happen.
const SETTLED: Duration = Duration::from_secs(12);

fn spoil(fleet: &Fleet) {
    fleet.between_sites(|quality| {
        (quality.delay, quality.loss_percent) = (Quality::BAD.delay, Quality::BAD.loss_percent);
    });
}

/// Waits until exactly one site, which is not `not`, grants the register.
async fn one_other(fleet: &Fleet, not: &str) -> &'static str {
    eventually("exactly one other site holds the register", MOVED, || async {
        let granted = fleet.granted(REGISTER).await;
        match granted.keys().copied().collect::<Vec<_>>()[..] {
            [one] if one != not => Ok(one),
            _ => Err(format!("{granted:?}")),
        }
    })
    .await
}

pub async fn a_split_leader_loses_to_exactly_one_new_holder(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let holder = stage.fleet.holder().await;
    let clients = stage.fleet.register_clients(1, 2);
    spoil(stage.fleet);
    let cut = clients.now();
    stage.fleet.cut_off(holder);
    let new = one_other(stage.fleet, holder).await;
    clients.served_since(cut, MOVED, |record| record.done_by() == Some(new)).await.expect("the new holder serves");
    tokio::time::sleep(SETTLED).await;
    assert_eq!(stage.fleet.holder().await, new, "the new holder stays the only one");
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    assert_eq!(violations, []);
}

pub async fn a_split_follower_changes_nothing(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let before = stage.fleet.granted(REGISTER).await;
    let holder = stage.fleet.holder().await;
    let clients = stage.fleet.register_clients(1, 1);
    spoil(stage.fleet);
    stage.fleet.cut_off(Fleet::others(holder)[0]);
    tokio::time::sleep(SETTLED * 2).await;
    // The holder needs every answer of the one register that is left: at some moments it has no grant.
    let after = eventually("the register is granted", SETTLED, || async {
        let granted = stage.fleet.granted(REGISTER).await;
        if granted.is_empty() { Err("no grant".to_owned()) } else { Ok(granted) }
    })
    .await;
    assert!(after.keys().eq(before.keys()), "the holder is the same: {before:?}, then {after:?}");
    let anew = u64::from(after != before);
    stage.report.count("split followers under loss after which the same holder was granted anew", anew, 1);
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    assert_eq!(violations, []);
}

pub async fn a_restarted_granted_site_is_served_again(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let holder = stage.fleet.holder().await;
    let clients = stage.fleet.register_clients(2, 0);
    spoil(stage.fleet);
    let restarted = clients.now();
    let site = stage.fleet.site_mut(holder);
    (site.controller, site.agent) = (None, None);
    stage.fleet.start_agent(holder).expect("an agent starts");
    stage.fleet.start_controller(holder).expect("a controller starts");
    let served = clients.served_since(restarted + Duration::from_secs(4), MOVED, |_| true).await.expect("it is served");
    stage.report.time("granted site restarts under loss: served again after", served.ended - restarted);
    tokio::time::sleep(SETTLED).await;
    let after = stage.fleet.holder().await;
    println!("    held by {holder} before its restart, by {after} afterwards");
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    assert_eq!(violations, []);
}

pub async fn a_failed_prerequisite_leaves_nobody(stage: &mut Stage<'_>) {
    let holder = stage.fleet.holder().await;
    for other in Fleet::others(holder) {
        objects::ready(&stage.fleet.site(other).plane.client, REGISTER, 0).await;
    }
    spoil(stage.fleet);
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.fleet.site_dies(holder);
    tokio::time::sleep(SETTLED * 2).await;
    let granted = stage.fleet.granted(REGISTER).await;
    assert!(granted.is_empty(), "no site has a ready workload, yet {granted:?}");
    // The prerequisite holds again at one site: it gets the group, the others do not.
    let ready = Fleet::others(holder)[1];
    objects::ready(&stage.fleet.site(ready).plane.client, REGISTER, 2).await;
    assert_eq!(one_other(stage.fleet, holder).await, ready);
    stage.fleet.site_returns(holder).expect("it starts");
}

pub async fn a_replugged_cable_gives_no_second_grant(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let holder = stage.fleet.holder().await;
    let clients = stage.fleet.register_clients(1, 2);
    spoil(stage.fleet);
    stage.fleet.cut_off(holder);
    let new = one_other(stage.fleet, holder).await;
    stage.fleet.replug();
    let end = tokio::time::Instant::now() + SETTLED * 2;
    while tokio::time::Instant::now() < end {
        let granted = stage.fleet.granted(REGISTER).await;
        assert!(granted.len() <= 1, "two grants after the cable was plugged in again: {granted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(stage.fleet.holder().await, new, "the old holder does not take it back by itself");
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    assert_eq!(violations, []);
}

pub async fn a_restart_in_a_minority_lets_the_grant_expire(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let holder = stage.fleet.holder().await;
    let clients = stage.fleet.register_clients(0, 2);
    spoil(stage.fleet);
    // Nobody has a majority: every site is alone.
    for site in SITES {
        stage.fleet.cut_off(site);
    }
    stage.fleet.site_mut(holder).controller = None;
    stage.fleet.start_controller(holder).expect("a controller starts");
    eventually("every grant has ended", SETTLED, || async {
        let granted = stage.fleet.granted(REGISTER).await;
        if granted.is_empty() { Ok(()) } else { Err(format!("{granted:?}")) }
    })
    .await;
    let end = tokio::time::Instant::now() + SETTLED;
    while tokio::time::Instant::now() < end {
        let granted = stage.fleet.granted(REGISTER).await;
        assert!(granted.is_empty(), "granted in a minority: {granted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.fleet.replug();
    stage.fleet.holder().await;
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    assert_eq!(violations, []);
}
