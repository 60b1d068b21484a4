//! The very loop that drives the core in production, on simulated API servers, in simulated time: one thread, a clock that
//! jumps to the next thing that happens, and a seed that decides what goes wrong. Calls go through the real clients.
//!
//!   EVERGREEN_DRIVER_SEEDS   how many fleets (default 6)
//!   EVERGREEN_SEED_FROM      the first of them
//!   EVERGREEN_SEED           only this one

mod edge;
mod network;
mod world;

use std::time::Duration;

use self::world::{Outcome, World};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs one fleet from a seed in simulated time.
fn play(seed: u64, late_edge: Duration) -> Outcome {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(async { World::start(seed, late_edge).await.play().await })
}

#[test]
fn the_loop_never_makes_two_writers() {
    let first = number("EVERGREEN_SEED").or_else(|| number("EVERGREEN_SEED_FROM")).unwrap_or(0);
    let count = number("EVERGREEN_SEED").map_or_else(|| number("EVERGREEN_DRIVER_SEEDS").unwrap_or(6), |_| 1);
    let (begin, mut served, mut moves, mut requests) = (std::time::Instant::now(), Duration::ZERO, 0, 0);
    for seed in first..first + count {
        let outcome = play(seed, Duration::ZERO);
        assert_eq!(outcome.two_writers, None, "two writers with seed {seed}; replay it with EVERGREEN_SEED={seed}");
        assert!(outcome.served_after, "seed {seed}: nobody serves a minute after the faults ended");
        served += outcome.served;
        moves += outcome.moves;
        requests += outcome.requests;
    }
    println!(
        "{count} fleets from seed {first} in {:.1} s: 0 with two writers; {requests} requests, {moves} moves, served {} s",
        begin.elapsed().as_secs_f64(),
        served.as_secs()
    );
    assert!(count < 6 || moves > 0, "nothing ever moved");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (one, other) = (play(3, Duration::ZERO), play(3, Duration::ZERO));
    assert_eq!(one, other);
    assert_ne!(one.digest, play(4, Duration::ZERO).digest);
}

#[test]
fn an_edge_that_stops_too_late_is_seen() {
    let seen = (0..8).find(|seed| play(*seed, Duration::from_secs(6)).two_writers.is_some());
    assert!(seen.is_some(), "an edge that acts on for six seconds went unnoticed");
}
