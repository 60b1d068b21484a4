//! Faults by chance, several at a time, from a seed.

use std::time::Duration;

use evergreen_tests::{
    real::fleet::{Fleet, REGISTER, SITES},
    register::history::Operation,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{Stage, setting};

pub async fn random_faults_leave_one_writer(stage: &mut Stage<'_>) {
    let seconds = setting("EVERGREEN_FAILOVER_CHAOS", 90);
    let mut chance = StdRng::seed_from_u64(stage.seed);
    let initial = stage.fleet.value().await;
    let clients = stage.fleet.register_clients(2, 3);
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    while tokio::time::Instant::now() < end {
        disturb(stage.fleet, &mut chance);
        let granted = stage.fleet.granted(REGISTER).await;
        // Two fresh grants are no crime of themselves while the fence holds, but the protocol promises that there are
        // none.
        assert!(granted.len() <= 1, "two grants: {granted:?}");
        tokio::time::sleep(Duration::from_millis(chance.random_range(200..3_000))).await;
    }
    stage.fleet.restore().await;
    let since = clients.now();
    clients.served_since(since, Duration::from_secs(20), |_| true).await.expect("it is served when all is well again");
    let (history, violations) = stage.fleet.verdict(clients, &initial).await;
    let done = history.iter().filter(|r| r.done_by().is_some() && matches!(r.operation, Operation::Write(_))).count();
    stage.report.count("violations in chaos, of acknowledged writes", violations.len() as u64, done as u64);
    println!("    {} operations, {done} acknowledged writes", history.len());
    assert_eq!(violations, []);
    assert!(done > 0, "nothing was ever written");
}

fn disturb(fleet: &mut Fleet, chance: &mut StdRng) {
    let site = SITES[chance.random_range(0..SITES.len())];
    match chance.random_range(0..12) {
        0 => fleet.cut_off(site),
        1 | 2 => fleet.replug(),
        3 => {
            let (delay, loss) = (chance.random_range(0..300), chance.random_range(0..30));
            fleet.between_sites(|quality| {
                (quality.delay, quality.loss_percent) = (Duration::from_millis(delay), loss);
            });
        }
        4 => {
            let there = chance.random_bool(0.5);
            let own = format!("controller:{site}");
            fleet.links.set(
                |from, to| from == own && !to.ends_with(site),
                |quality| (quality.cut_there, quality.cut_back) = (there, !there),
            );
        }
        5 => {
            fleet.site_mut(site).controller = None;
            fleet.start_controller(site).expect("a controller starts");
        }
        6 => {
            fleet.site_mut(site).agent = None;
            fleet.start_agent(site).expect("an agent starts");
        }
        7 => fleet.site(site).controller.iter().for_each(|process| process.freeze()),
        8 => fleet.site(site).agent.iter().for_each(|process| process.freeze()),
        9 => fleet.site(site).plane.freeze(),
        _ => {
            for site in fleet.sites.values() {
                site.plane.thaw();
                site.controller.iter().chain(&site.agent).for_each(|process| process.thaw());
            }
        }
    }
}
