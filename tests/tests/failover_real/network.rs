//! Networks that lose, delay and part.

use std::time::Duration;

use evergreen_tests::{
    real::{
        fleet::{Fleet, REGISTER, SITES, WEB},
        links::Quality,
    },
    register::history::Operation,
    wait::eventually,
};

use crate::{Stage, setting};

/// Entries of both services by version: they change with every move.
async fn entries(fleet: &Fleet) -> Vec<u64> {
    let mut versions = Vec::new();
    for service in [REGISTER, WEB] {
        versions.push(fleet.granted(service).await.into_values().max().unwrap_or(0));
    }
    versions
}

fn spoil(fleet: &Fleet) {
    fleet.between_sites(|quality| {
        (quality.delay, quality.loss_percent) = (Quality::BAD.delay, Quality::BAD.loss_percent);
    });
}

pub async fn loss_and_delay_alone_move_nothing(stage: &mut Stage<'_>) {
    let before = entries(stage.fleet).await;
    spoil(stage.fleet);
    let (mut looks, mut gaps) = (0, 0);
    let end = tokio::time::Instant::now() + Duration::from_secs(45);
    while tokio::time::Instant::now() < end {
        gaps += u64::from(stage.fleet.granted(REGISTER).await.is_empty());
        looks += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.report.count("looks at 30 % loss and 100 ms that found no grant", gaps, looks);
    stage.fleet.links.mend();
    eventually("both services are granted", Duration::from_secs(30), || async {
        let after = entries(stage.fleet).await;
        if after.contains(&0) { Err(format!("{after:?}")) } else { Ok(()) }
    })
    .await;
    assert_eq!(entries(stage.fleet).await, before, "loss alone moved something");
}

pub async fn short_partitions_under_loss_move_nothing(stage: &mut Stage<'_>) {
    let count = setting("EVERGREEN_FAILOVER_SHORT", 12);
    spoil(stage.fleet);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut known = entries(stage.fleet).await;
    let mut moved = 0;
    for turn in 0..count {
        let site = SITES[usize::try_from(turn % 3).unwrap_or(0)];
        stage.fleet.cut_off(site);
        // 0.5 to 1.95 s.
        tokio::time::sleep(Duration::from_millis(500 + (turn * 389 + stage.seed) % 1_450)).await;
        stage.fleet.replug();
        tokio::time::sleep(Duration::from_secs(4)).await;
        let now = entries(stage.fleet).await;
        moved += u64::from(now.iter().zip(&known).any(|(now, known)| *now != 0 && now != known));
        known = now.iter().zip(&known).map(|(now, known)| if *now == 0 { *known } else { *now }).collect();
    }
    stage.report.count("false failovers in partitions shorter than 2 s under 30 % loss", moved, count);
    assert_eq!(moved, 0, "short partitions moved something");
}

/// GitHub, October 2018: 43 seconds apart, then a day of repair.
pub async fn a_partition_of_43_seconds_needs_no_repair(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let holder = stage.fleet.holder().await;
    // Clients beside the cut-off site go on writing to it.
    let clients = stage.fleet.register_clients(2, 3);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cut = clients.now();
    stage.fleet.cut_off(holder);
    tokio::time::sleep(Duration::from_secs(43)).await;
    let healed = clients.now();
    stage.fleet.replug();
    let served = clients.served_since(healed, Duration::from_secs(10), |_| true).await.expect("it is served");
    stage.report.time("43 s partition: first operation after it healed", served.ended - healed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (history, violations) = stage.fleet.verdict(clients, &initial).await;
    assert_eq!(violations, [], "nothing has to be repaired");
    let mut writers: Vec<&str> = history
        .iter()
        .filter(|record| record.invoked > cut && matches!(record.operation, Operation::Write(_)))
        .filter_map(|record| record.done_by())
        .collect();
    writers.dedup();
    assert!(writers.len() <= 2, "the writer changed more than once: {writers:?}");
    assert_ne!(writers.last(), Some(&holder), "the cut-off site wrote last");
}

pub async fn one_way_cuts_leave_one_writer(stage: &mut Stage<'_>) {
    for there in [true, false] {
        stage.fleet.restore().await;
        let initial = stage.fleet.value().await;
        let holder = stage.fleet.holder().await;
        let clients = stage.fleet.register_clients(1, 2);
        let own = format!("controller:{holder}");
        // What the holder's controller asks of the other sites gets there and its answers do not, or the other way.
        stage.fleet.links.set(
            |from, to| from == own && to.starts_with("api:") && !to.ends_with(holder),
            |quality| (quality.cut_there, quality.cut_back) = (there, !there),
        );
        let cut = clients.now();
        let moved = clients.served_since(cut, Duration::from_secs(40), |r| r.done_by().is_some_and(|by| by != holder));
        moved.await.expect("another site takes over");
        stage.fleet.links.mend();
        tokio::time::sleep(Duration::from_secs(8)).await;
        let (_, violations) = stage.fleet.verdict(clients, &initial).await;
        assert_eq!(violations, []);
    }
}

pub async fn a_site_that_its_own_agent_cannot_reach_stops(stage: &mut Stage<'_>) {
    let initial = stage.fleet.value().await;
    let holder = stage.fleet.holder().await;
    let clients = stage.fleet.register_clients(1, 1);
    let agent = format!("agent:{holder}");
    stage.fleet.links.set(|from, _| from == agent, |quality| *quality = Quality::CUT);
    eventually("the agent stops by itself", Duration::from_secs(5), || async {
        let granted = stage.fleet.granted(REGISTER).await;
        if granted.is_empty() { Ok(()) } else { Err(format!("{granted:?}")) }
    })
    .await;
    stage.fleet.links.mend();
    stage.fleet.holder().await;
    let (_, violations) = stage.fleet.verdict(clients, &initial).await;
    assert_eq!(violations, []);
}
