//! Where such designs break, each as a story with a name.

use super::{
    super::{mutants::Mutant, *},
    fleet::{Fault, Fence, Fleet, GROUP},
};

/// Runs some ticks; never two writers, never a stale write.
fn run(fleet: &mut Fleet, first: Option<Fault>, ticks: u64) {
    for tick in 0..ticks {
        fleet.step(first.filter(|_| tick == 0));
        assert!(fleet.effective.len() <= 1, "two writers at tick {}", fleet.tick);
        assert!(!fleet.stale_write, "a stale write at tick {}", fleet.tick);
    }
}

fn standing(fleet: &Fleet, site: usize) -> Standing {
    fleet.sites[site].core.standing(fleet.local(site))
}

#[test]
fn hazard_01_register_amnesia() {
    for fault in
        [Fault::Restore { register: 1 }, Fault::Wipe { register: 1 }, Fault::LoseRecord { register: 1, site: 2 }]
    {
        let mut fleet = Fleet::new(3, 0).warmed();
        run(&mut fleet, None, 3);
        run(&mut fleet, Some(fault), 8);
        let excluded = fleet.sites.iter().all(|site| site.core.quarantined().iter().any(|(at, _)| *at == "dc-b"));
        assert!(excluded, "{fault:?}: everybody excludes the register");
        run(&mut fleet, None, 16);
        assert_eq!(fleet.registers[1].generation(), 1, "{fault:?}: the others make it anew");
        assert!(fleet.sites.iter().all(|site| site.core.quarantined().is_empty()), "{fault:?}: and trust it again");
        assert_eq!(fleet.effective, [0], "{fault:?}: the holder serves on");
    }
}

#[test]
fn hazard_01_without_a_majority_that_remembers_nothing_goes_on() {
    let mut fleet = Fleet::new(3, 0).warmed();
    run(&mut fleet, Some(Fault::Wipe { register: 1 }), 1);
    run(&mut fleet, Some(Fault::Wipe { register: 2 }), 30);
    assert!(fleet.effective.is_empty(), "single writers fail closed");
    let Standing::Out(why) = standing(&fleet, 0) else { panic!("no quorum") };
    assert!(why.contains("a person has to say"), "{why}");
    assert!(fleet.registers[1..].iter().all(|register| register.generation() == 0), "nobody guesses");
}

#[test]
fn hazard_02_a_process_that_was_restarted_observes_again_from_zero() {
    let mut fleet = Fleet::new(2, 1).warmed();
    run(&mut fleet, Some(Fault::Isolate { site: 0, ticks: 20 }), 2);
    // Two ticks of silence were seen; the next leader has to see three of its own.
    run(&mut fleet, Some(Fault::Crash { site: 1 }), 3);
    assert_eq!(fleet.moves, 0);
    run(&mut fleet, None, 12);
    assert_eq!(fleet.moves, 1, "then it takes over");
}

#[test]
fn hazard_03_the_controller_is_dead_and_the_workload_healthy() {
    let mut fleet = Fleet::new(3, 0).warmed();
    run(&mut fleet, Some(Fault::Pause { site: 0, ticks: 30 }), 3);
    assert!(!fleet.effective.contains(&0), "the grant ended on the node, without anybody's help");
    run(&mut fleet, None, 9);
    assert!(matches!(fleet.effective[..], [1 | 2]), "{:?}", fleet.effective);
}

#[test]
fn hazard_04_a_pause_between_check_and_write_is_stopped_at_the_resource() {
    let pause = Fault::StallWriter { site: 0, ticks: 5 * 3 };
    let story = |fence| {
        let mut fleet = Fleet::new(3, 0).warmed().fenced(fence);
        fleet.step(Some(pause));
        fleet.step(Some(Fault::Isolate { site: 0, ticks: 20 }));
        (0..18).for_each(|_| fleet.step(None));
        assert_eq!(fleet.moves, 1);
        fleet.stale_write
    };
    assert!(!story(Fence::Sound));
    assert!(story(Fence::None), "a lease alone cannot stop it");
}

#[test]
fn hazard_05_a_time_out_is_an_unknown_and_is_read_again() {
    let mut fleet = Fleet::new(3, 0).warmed();
    let before = fleet.registers[1].clone();
    run(&mut fleet, Some(Fault::LoseAnswers { site: 0, register: 1, ticks: 4 }), 4);
    assert_ne!(fleet.registers[1], before, "what was asked happened");
    run(&mut fleet, Some(Fault::RepeatRequests { site: 0, register: 1, ticks: 3 }), 8);
    assert_eq!((fleet.effective.as_slice(), fleet.moves), (&[0][..], 0));
}

#[test]
fn hazard_06_a_minority_raises_no_epoch() {
    for ticks in [6, 12, 20] {
        let mut fleet = Fleet::new(3, 0).warmed();
        let epoch = |fleet: &Fleet, site: &str| fleet.sites[1].core.record(1, site).map(|record| record.epoch);
        let (b, c) = (epoch(&fleet, "dc-b"), epoch(&fleet, "dc-c"));
        run(&mut fleet, Some(Fault::Isolate { site: 0, ticks }), ticks);
        assert_eq!((b, c), (epoch(&fleet, "dc-b"), epoch(&fleet, "dc-c")), "whom the cut-off site cannot reach");
        assert!(matches!(standing(&fleet, 0), Standing::Out(_)));
        run(&mut fleet, None, 12);
        assert_eq!(fleet.effective.len(), 1, "after the cable is back there is exactly one");
    }
}

#[test]
fn hazard_06_half_open_links_end_the_lease_like_broken_ones() {
    let mut fleet = Fleet::new(3, 0).warmed();
    fleet.step(Some(Fault::LoseAnswers { site: 0, register: 1, ticks: 30 }));
    run(&mut fleet, Some(Fault::LoseAnswers { site: 0, register: 2, ticks: 30 }), 16);
    assert!(!fleet.effective.contains(&0), "its requests arrive, but it does not know");
}

#[test]
fn hazard_07_of_two_data_centers_the_one_with_the_witness_stays() {
    let mut fleet = Fleet::new(2, 1).warmed();
    run(&mut fleet, Some(Fault::Isolate { site: 1, ticks: 20 }), 20);
    assert_eq!((fleet.effective.as_slice(), fleet.moves), (&[0][..], 0));
    let mut fleet = Fleet::new(2, 1).warmed();
    run(&mut fleet, Some(Fault::Isolate { site: 0, ticks: 20 }), 14);
    assert_eq!(fleet.effective, [1]);
}

#[test]
fn hazard_07_without_a_witness_nothing_moves_by_itself() {
    let mut fleet = Fleet::new(2, 0).warmed();
    run(&mut fleet, Some(Fault::Isolate { site: 0, ticks: 40 }), 30);
    assert_eq!(fleet.moves, 0);
    assert!(fleet.effective.is_empty(), "neither side is a majority");
}

#[test]
fn hazard_08_when_all_are_cut_off_single_writers_stop_and_the_map_stays() {
    let mut fleet = Fleet::new(3, 0).warmed();
    for site in 0..3 {
        fleet.step(Some(Fault::Isolate { site, ticks: 12 }));
    }
    run(&mut fleet, None, 7);
    assert!(fleet.effective.is_empty());
    let holder = |fleet: &Fleet| fleet.sites[0].core.map().map(|(map, _)| map.entry(GROUP).holders);
    assert!(holder(&fleet).is_some_and(|holders| holders[0].site == "dc-a"), "who served last is still known");
    run(&mut fleet, None, 25);
    assert_eq!(fleet.effective.len(), 1);
}

#[test]
fn hazard_09_an_answer_that_comes_after_its_time_out_counts_for_nothing() {
    let mut fleet = Fleet::new(3, 0).warmed();
    run(&mut fleet, Some(Fault::Isolate { site: 0, ticks: 9 }), 2);
    // Answers would now come late: the clients do not wait for them and do not retry by themselves.
    run(&mut fleet, Some(Fault::LateAnswers { site: 0, ticks: 9 }), 14);
    assert_eq!(fleet.moves, 1);
}

#[test]
fn hazard_10_the_core_moves_nothing_that_nobody_asked_for() {
    // The quorum says who may write, not who has the data: without a goal a group waits, however long.
    let mut fleet = Fleet::new(3, 0).warmed();
    for _ in 0..20 {
        fleet.tick += 1;
        for site in 1..3 {
            let now = fleet.local(site);
            fleet.sites[site].core.pursue(Default::default());
            for request in fleet.sites[site].core.tick(now) {
                let answer = fleet.registers[request.register].apply(&request.operation);
                fleet.sites[site].core.answer(request.register, request.id, answer, now);
            }
        }
    }
    let map = fleet.sites[1].core.map().map(|(map, _)| map.entry(GROUP));
    assert!(map.is_some_and(|entry| entry.holders[0].site == "dc-a"));
}

/// The stories have to be able to fail.
#[test]
fn the_stories_notice_a_core_without_rules() {
    let story = || {
        let mut fleet = Fleet::new(3, 0).warmed();
        fleet.step(Some(Fault::Want { site: 1 }));
        (0..8).any(|_| {
            fleet.step(None);
            fleet.effective.len() > 1
        })
    };
    assert!(!story());
    assert!(mutants::with(&[Mutant::MapFirst], story));
}
