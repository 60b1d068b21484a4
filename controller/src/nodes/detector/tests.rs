use evergreen_api::{
    heartbeat::{Heartbeat, ProbeOutcome, ProbeRequest, ProbeResult},
    mesh::PathReport,
};

use super::{
    simulation::{Network, Random, Site},
    *,
};

const LOSSY: Network = Network { loss_percent: 30, delay_ms: 300 };
const CLEAN: Network = Network { loss_percent: 0, delay_ms: 20 };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() * percent).div_ceil(100).clamp(1, sorted.len()) - 1]
}

/// Virtual node-hours that are simulated. The target is stated for 1,000 and more, which take minutes in a development
/// build: EVERGREEN_NODE_HOURS=1000.
fn node_hours() -> u64 {
    std::env::var("EVERGREEN_NODE_HOURS").ok().and_then(|hours| hours.parse().ok()).unwrap_or(100)
}

#[test]
fn no_living_node_is_declared_lost_in_hours_of_thirty_percent_loss() {
    let (nodes, seeds) = (50_u64, [1_u64, 2, 3, 4]);
    let hours = node_hours().div_ceil(nodes * seeds.len() as u64);
    let runs = seeds.map(|seed| {
        std::thread::spawn(move || {
            let mut site = Site::new(nodes as usize, LOSSY, seed);
            site.run(seconds(hours * 3_600));
            let count = |wanted: fn(&Event) -> bool| site.told.iter().filter(|(_, event)| wanted(event)).count();
            let suspected = count(|event| matches!(event, Event::Suspected { .. }));
            let guarded = count(|event| matches!(event, Event::Guarded { .. }));
            println!(
                "seed {seed}: {} node-hours, {} heartbeats heard, {suspected} suspicions, {} probes, {guarded} guards, {} false deaths",
                nodes * hours, site.beats, site.probes, site.lost().len()
            );
            site.lost().len()
        })
    });
    let false_deaths: usize = runs.into_iter().map(|run| run.join().unwrap()).sum();
    assert_eq!(false_deaths, 0);
}

#[test]
fn a_killed_node_is_confirmed_within_five_seconds_at_thirty_percent_loss() {
    for (name, network) in [("30 % loss, 300 ms", LOSSY), ("no loss, 20 ms", CLEAN)] {
        let mut times = Vec::new();
        let seeds = node_hours().div_ceil(25).min(40);
        for seed in 1..=seeds {
            let mut site = Site::new(20, network, seed);
            let mut random = Random::new(seed + 1_000);
            site.run(seconds(10));
            for _ in 0..50 {
                let victim = usize::try_from(random.below(20)).unwrap();
                site.run(Duration::from_millis(random.below(3_000)));
                let (killed, told) = (site.now, site.told.len());
                site.kill(victim);
                site.run(seconds(15));
                let victim_name = site.name(victim).to_owned();
                let lost: Vec<_> = site.lost().into_iter().filter(|(at, _)| *at > killed).collect();
                assert_eq!(lost.len(), 1, "seed {seed}: {:?}", &site.told[told..]);
                assert_eq!(lost[0].1, victim_name, "seed {seed}");
                times.push(lost[0].0 - killed);
                site.boot(victim);
                site.run(seconds(5));
                assert_ne!(site.detector.standing(&victim_name), Some(Standing::Lost), "seed {seed}");
            }
        }
        times.sort_unstable();
        let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
        println!(
            "{name}: {} deaths (seeds 1-{seeds}), confirmed after p50 {p50} ms, p99 {p99} ms, longest {} ms",
            times.len(),
            times[times.len() - 1]
        );
        assert!(p99 <= 5_000, "{name}: p99 {p99} ms");
    }
}

#[test]
fn a_controller_cut_off_from_half_of_its_nodes_declares_nobody_lost() {
    for seed in 1..=6 {
        for cut in [10, 11, 20] {
            let mut site = Site::new(20, LOSSY, seed);
            site.run(seconds(10));
            site.cut_from_controller[..cut].fill(true);
            site.run(seconds(120));
            assert_eq!(site.lost(), [], "seed {seed}, {cut} cut");
            let guarded = site.told.iter().any(|(_, event)| matches!(event, Event::Guarded { .. }));
            assert!(guarded || cut == 10, "seed {seed}: most nodes are silent, and nobody says so");
            site.cut_from_controller.fill(false);
            site.run(seconds(20));
            let all_alive = site.detector.standings().all(|(_, standing)| standing != Standing::Lost);
            assert!(all_alive, "seed {seed}, {cut} cut: {:?}", site.told.last());
        }
    }
}

#[test]
fn most_nodes_that_vanish_together_are_told_as_that_and_nobody_is_declared_lost() {
    let mut site = Site::new(20, CLEAN, 7);
    site.run(seconds(10));
    (0..11).for_each(|node| site.kill(node));
    site.run(seconds(60));
    assert_eq!(site.lost(), []);
    let told = site.told.iter().any(|(_, event)| matches!(event, Event::Guarded { silent: 11, known: 20 }));
    assert!(told, "{:?}", site.told);
    (0..11).for_each(|node| site.boot(node));
    site.run(seconds(10));
    assert!(site.told.iter().any(|(_, event)| *event == Event::Unguarded));
}

#[test]
fn a_rack_cut_off_from_the_controller_alone_is_not_lost_and_one_cut_off_from_everybody_is() {
    for seed in 1..=20 {
        let rack: Vec<usize> = (0..24).filter(|node| node % 6 == 2).collect();
        let mut site = Site::new(24, LOSSY, seed);
        site.run(seconds(10));
        rack.iter().for_each(|node| site.cut_from_controller[*node] = true);
        site.run(seconds(60));
        assert_eq!(site.lost(), [], "seed {seed}: peers still reach the rack");
        let unheard = site.told.iter().filter(|(_, event)| matches!(event, Event::Unheard { .. })).count();
        assert!(unheard >= 4, "seed {seed}: that they are not heard is told: {:?}", site.told);
        // Now nobody but its own nodes reaches it.
        rack.iter().for_each(|node| site.island[*node] = 1);
        site.run(seconds(20));
        let mut lost: Vec<&str> = site.lost().into_iter().map(|(_, node)| node).collect();
        lost.sort_unstable();
        assert_eq!(lost, ["n002", "n008", "n014", "n020"], "seed {seed}");
        rack.iter().for_each(|node| (site.cut_from_controller[*node], site.island[*node]) = (false, 0));
        site.run(seconds(15));
        let returned = site.told.iter().filter(|(_, event)| matches!(event, Event::Returned { .. })).count();
        assert_eq!(returned, 4, "seed {seed}");
    }
}

#[test]
fn a_network_split_between_peers_is_no_death_while_the_controller_hears_everybody() {
    let mut site = Site::new(20, LOSSY, 3);
    (0..10).for_each(|node| site.island[node] = 1);
    site.run(seconds(600));
    assert_eq!(site.lost(), []);
}

#[test]
fn a_lost_node_returns_after_three_seconds_of_heartbeats_or_at_once_with_a_new_boot() {
    let mut site = Site::new(9, CLEAN, 1);
    site.run(seconds(5));
    site.kill(4);
    site.run(seconds(10));
    assert_eq!(site.detector.standing("n004"), Some(Standing::Lost));
    site.resume(4);
    site.run(seconds(2));
    assert_eq!(site.detector.standing("n004"), Some(Standing::Lost));
    site.run(seconds(2));
    assert_eq!(site.detector.standing("n004"), Some(Standing::Alive));
    site.kill(4);
    site.run(seconds(10));
    site.boot(4);
    site.run(seconds(1));
    assert_eq!(site.detector.standing("n004"), Some(Standing::Alive));
    let returned: Vec<_> = site.told.iter().map(|(_, e)| e).filter(|e| matches!(e, Event::Returned { .. })).collect();
    assert_eq!(
        returned,
        [
            &Event::Returned { node: "n004".into(), rebooted: false },
            &Event::Returned { node: "n004".into(), rebooted: true }
        ]
    );
}

/// A detector that is fed by hand.
struct Hand {
    detector: Detector,
    events: Vec<Event>,
    now: Duration,
    sequence: u64,
}

impl Hand {
    fn new(settings: Settings) -> Self {
        Self { detector: Detector::new(settings), events: Vec::new(), now: seconds(100), sequence: 0 }
    }

    fn beat(&mut self, node: &str) -> Vec<ProbeRequest> {
        self.sequence += 1;
        self.send(&Heartbeat { sequence: self.sequence, ..of(node) })
    }

    fn send(&mut self, beat: &Heartbeat) -> Vec<ProbeRequest> {
        self.detector.heartbeat(beat, self.now, &mut self.events)
    }

    fn pass(&mut self, millis: u64, beating: &[&str]) {
        for step in 0..millis / 100 {
            self.now += Duration::from_millis(100);
            if step % 5 == 0 {
                beating.iter().for_each(|node| drop(self.beat(node)));
            }
            self.detector.tick(self.now, &mut self.events);
        }
    }

    fn standing(&self, node: &str) -> Option<Standing> {
        self.detector.standing(node)
    }
}

fn of(node: &str) -> Heartbeat {
    Heartbeat { node: node.into(), boot_id: "b".into(), address: "10.0.0.1:1".into(), ..Heartbeat::default() }
}

fn failed(node: &str, number: u64, round: u64) -> ProbeResult {
    ProbeResult { node: node.into(), number, round, outcome: ProbeOutcome::Silent, tries: 6 }
}

#[test]
fn silence_alone_is_a_suspicion_for_ever() {
    let mut hand = Hand::new(Settings::default());
    hand.pass(1_000, &["a", "b", "c"]);
    hand.pass(60_000, &["a", "b"]);
    assert_eq!(hand.standing("c"), Some(Standing::Suspected));
    let suspected = Event::Suspected { node: "c".into(), silent_for: Duration::from_millis(2_000) };
    assert_eq!(hand.events, [suspected]);
}

#[test]
fn one_peer_is_not_enough_where_two_live_and_the_second_one_decides() {
    let mut hand = Hand::new(Settings::default());
    hand.pass(1_000, &["a", "b", "c", "d"]);
    hand.pass(4_000, &["b", "c", "d"]);
    let ask = hand.beat("b").pop().unwrap();
    assert_eq!((ask.node.as_str(), ask.address.as_str()), ("a", "10.0.0.1:1"));
    for (number, peer) in [(1, "b"), (2, "b")] {
        hand.sequence += 1;
        let beat = Heartbeat { sequence: hand.sequence, probes: vec![failed("a", number, ask.round)], ..of(peer) };
        hand.send(&beat);
        // Told twice, counted once.
        hand.sequence += 1;
        hand.send(&Heartbeat { sequence: hand.sequence, ..beat });
    }
    hand.pass(1_000, &["b", "c", "d"]);
    assert_eq!(hand.standing("a"), Some(Standing::Suspected));
    hand.sequence += 1;
    hand.send(&Heartbeat { sequence: hand.sequence, probes: vec![failed("a", 1, ask.round)], ..of("c") });
    hand.pass(100, &[]);
    let Some(Event::Lost { node, evidence }) = hand.events.last() else { panic!("{:?}", hand.events) };
    assert_eq!(node, "a");
    let witness = |peer: &str, tries| Witness { peer: peer.into(), tries, refused: false };
    assert_eq!(evidence.witnesses, [witness("b", 12), witness("c", 6)]);
}

#[test]
fn one_peer_that_reached_it_begins_the_evidence_anew() {
    let mut hand = Hand::new(Settings::default());
    hand.pass(1_000, &["a", "b", "c", "d"]);
    hand.pass(3_500, &["b", "c", "d"]);
    let round = hand.beat("b").pop().unwrap().round;
    let tell = |hand: &mut Hand, peer: &str, result: ProbeResult| {
        hand.sequence += 1;
        hand.send(&Heartbeat { sequence: hand.sequence, probes: vec![result], ..of(peer) });
    };
    tell(&mut hand, "b", failed("a", 1, round));
    tell(&mut hand, "d", ProbeResult { outcome: ProbeOutcome::Answered, ..failed("a", 1, round) });
    // Told late: it failed before the other one reached it.
    tell(&mut hand, "c", failed("a", 1, round));
    hand.pass(1_000, &["b", "c", "d"]);
    assert_eq!(hand.standing("a"), Some(Standing::Suspected));
    let next = hand.beat("b").pop().unwrap().round;
    assert_ne!(next, round);
    tell(&mut hand, "b", failed("a", 3, next));
    tell(&mut hand, "c", failed("a", 3, next));
    hand.pass(2_500, &["b", "c", "d"]);
    assert_eq!(hand.standing("a"), Some(Standing::Suspected), "it was reached less than four seconds ago");
    hand.pass(800, &["b", "c", "d"]);
    assert_eq!(hand.standing("a"), Some(Standing::Lost));
}

#[test]
fn a_silent_node_that_echoes_probes_of_the_mesh_is_unheard_and_not_lost() {
    let mut hand = Hand::new(Settings::default());
    hand.pass(1_000, &["a", "b", "c", "d"]);
    let tell = |hand: &mut Hand, answered_ms: u32| {
        hand.sequence += 1;
        let path = PathReport { node: "a".into(), answered_ms: Some(answered_ms), ..PathReport::default() };
        hand.send(&Heartbeat { sequence: hand.sequence, paths: vec![path], ..of("b") });
    };
    // Probes of /healthz fail, as when the agent's web server hangs, or a firewall lets only some packets through.
    let mut number = 0;
    let mut second = |hand: &mut Hand| {
        hand.pass(1_000, &["b", "c", "d"]);
        number += 1;
        for peer in ["b", "c", "d"] {
            let Some(round) = hand.beat(peer).pop().map(|ask| ask.round) else { continue };
            hand.sequence += 1;
            let beat = Heartbeat { sequence: hand.sequence, probes: vec![failed("a", number, round)], ..of(peer) };
            hand.send(&beat);
        }
    };
    for _ in 0..10 {
        second(&mut hand);
        tell(&mut hand, 300);
    }
    assert_eq!(hand.standing("a"), Some(Standing::Suspected));
    let unheard = hand.events.iter().filter(|event| matches!(event, Event::Unheard { .. })).count();
    assert_eq!((unheard, hand.detector.unheard()), (1, 1), "told once: {:?}", hand.events);
    // Now the echoes end, too.
    for _ in 0..4 {
        second(&mut hand);
    }
    assert_eq!(hand.standing("a"), Some(Standing::Lost));
    assert_eq!(hand.detector.unheard(), 0);
}

#[test]
fn old_and_repeated_heartbeats_are_no_sign_of_life() {
    let mut hand = Hand::new(Settings::default());
    hand.pass(1_000, &["a", "b", "c"]);
    let old = Heartbeat { sequence: 1, ..of("c") };
    for _ in 0..30 {
        hand.pass(100, &["a", "b"]);
        hand.send(&old);
    }
    assert_eq!(hand.standing("c"), Some(Standing::Suspected));
}

#[test]
fn a_reboot_is_told_and_what_the_former_boot_had_sent_counts_no_more() {
    let mut hand = Hand::new(Settings::default());
    hand.send(&Heartbeat { sequence: 50, ..of("a") });
    hand.send(&Heartbeat { boot_id: "c".into(), sequence: 1, ..of("a") });
    hand.send(&Heartbeat { sequence: 51, ..of("a") });
    hand.send(&Heartbeat { boot_id: "c".into(), sequence: 2, ..of("a") });
    assert_eq!(hand.events, [Event::Rebooted { node: "a".into() }]);
}

#[test]
fn a_node_that_was_never_heard_or_said_farewell_is_never_lost() {
    let mut hand = Hand::new(Settings::default());
    hand.pass(1_000, &["a", "b", "c", "d"]);
    hand.sequence += 1;
    hand.send(&Heartbeat { sequence: hand.sequence, leaving: true, ..of("d") });
    hand.pass(60_000, &["a", "b", "c"]);
    assert_eq!(hand.standing("d"), Some(Standing::Left));
    assert_eq!(hand.standing("e"), None);
    assert_eq!(hand.events, []);
    hand.beat("d");
    assert_eq!(hand.standing("d"), Some(Standing::Alive));
}

#[test]
fn a_detector_that_slept_itself_suspects_nobody_for_it() {
    let mut hand = Hand::new(Settings::default());
    hand.pass(1_000, &["a", "b", "c"]);
    hand.now += seconds(30);
    hand.pass(1_500, &["a"]);
    assert_eq!(hand.events, []);
}

#[test]
fn a_loss_that_an_earlier_detector_told_ends_when_the_node_is_heard_again() {
    let mut hand = Hand::new(Settings::default());
    hand.detector.adopt_lost("a", hand.now);
    hand.pass(1_000, &["b"]);
    assert_eq!(hand.standing("a"), Some(Standing::Lost));
    hand.pass(4_000, &["a", "b"]);
    assert_eq!(hand.events, [Event::Returned { node: "a".into(), rebooted: false }]);
}

#[test]
fn memory_is_bounded_and_who_is_too_many_is_counted() {
    let mut hand = Hand::new(Settings { max_nodes: 2, ..Settings::default() });
    for node in ["a", "b", "c", "c"] {
        hand.beat(node);
    }
    assert_eq!((hand.standing("c"), hand.detector.refused()), (None, 2));
    hand.detector.forget("a");
    hand.beat("c");
    assert_eq!(hand.standing("c"), Some(Standing::Alive));
}
