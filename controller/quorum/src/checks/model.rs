//! Exhaustive exploration: every placement of a bounded number of faults over a bounded time, over the very core that
//! production runs. `EVERGREEN_MODEL=deep` explores further.

use stateright::{Checker, Model, Property};

use super::{
    super::mutants::{self, Mutant},
    agent::Careless,
    fleet::{Fault, Fence, Fleet},
};

/// What is explored.
#[derive(Clone)]
struct Exploration {
    begin: Fleet,
    /// Faults to choose from at every tick.
    faults: Vec<Fault>,
    /// How many of them happen, at most.
    budget: usize,
    /// Length of a run.
    ticks: u64,
    mutants: &'static [Mutant],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Explored {
    fleet: Fleet,
    faults: usize,
}

impl Model for Exploration {
    type State = Explored;
    type Action = Option<Fault>;

    fn init_states(&self) -> Vec<Explored> {
        vec![Explored { fleet: self.begin.clone(), faults: 0 }]
    }

    fn actions(&self, state: &Explored, actions: &mut Vec<Option<Fault>>) {
        if state.fleet.tick >= self.begin.tick + self.ticks {
            return;
        }
        actions.push(None);
        if state.faults < self.budget {
            actions.extend(self.faults.iter().copied().map(Some));
        }
    }

    fn next_state(&self, state: &Explored, action: Option<Fault>) -> Option<Explored> {
        let mut next = state.clone();
        next.faults += usize::from(action.is_some());
        mutants::with(self.mutants, || next.fleet.step(action));
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(TWO_WRITERS, |_, state: &Explored| {
                state.fleet.effective.len() <= 1 && state.fleet.paired.as_ref().is_none_or(|paired| paired.len() <= 1)
            }),
            Property::always(STALE_WRITE, |_, state: &Explored| !state.fleet.stale_write),
            Property::sometimes(GRANT, |_, state: &Explored| state.fleet.effective.len() == 1),
            Property::sometimes(FAILOVER, |_, state: &Explored| state.fleet.moves > 0),
            Property::sometimes(ANEW, |_, state: &Explored| {
                state.fleet.registers.iter().any(|register| register.generation() > 0)
            }),
        ]
    }
}

const TWO_WRITERS: &str = "never two effective writers of one group";
const STALE_WRITE: &str = "no write of an older holder is accepted after a newer one came";
const GRANT: &str = "a grant happens";
const FAILOVER: &str = "a failover happens";
const ANEW: &str = "a register is made anew";

fn deep() -> bool {
    std::env::var("EVERGREEN_MODEL").is_ok_and(|value| value == "deep")
}

/// Faults that concern who holds the group: what is said to and by the first site, and to who takes over.
fn faults(fleet: &Fleet, rich: bool) -> Vec<Fault> {
    let (sites, registers) = (fleet.sites.len(), fleet.registers.len());
    let mut faults = Vec::new();
    for site in 0..sites {
        let lengths: &[u64] = if rich { &[1, 2, 3, 4, 7] } else { &[2, 7] };
        faults.extend(lengths.iter().map(|ticks| Fault::Isolate { site, ticks: *ticks }));
        faults.extend(lengths.iter().map(|ticks| Fault::Pause { site, ticks: *ticks }));
        faults.push(Fault::Crash { site });
        faults.push(Fault::LateAnswers { site, ticks: 3 });
        faults.push(Fault::LateGrants { site, ticks: 2 });
        faults.push(Fault::Want { site });
        for register in 0..registers {
            let lengths: &[u64] = if rich { &[1, 4, 8] } else { &[4] };
            for ticks in lengths.iter().copied() {
                faults.push(Fault::DelayRequests { site, register, ticks });
                faults.push(Fault::RepeatRequests { site, register, ticks });
                if site != register {
                    faults.push(Fault::LoseAnswers { site, register, ticks });
                }
            }
            if rich && site != register {
                faults.push(Fault::LoseRequests { site, register, ticks: 4 });
            }
            if rich {
                faults.push(Fault::LoseRecord { register, site });
            }
        }
        faults.push(Fault::StallWriter { site, ticks: 8 });
    }
    for register in 0..registers {
        faults.push(Fault::Restore { register });
        faults.push(Fault::Wipe { register });
    }
    faults
}

fn explore(members: usize, witnesses: usize, budget: usize, ticks: u64, rich: bool) {
    explore_from(Fleet::new(members, witnesses).warmed(), budget, ticks, rich);
}

fn explore_from(begin: Fleet, budget: usize, ticks: u64, rich: bool) {
    let members = begin.sites.len();
    let witnesses = begin.registers.len() - members;
    let faults = faults(&begin, rich);
    let exploration = Exploration { begin, faults, budget, ticks, mutants: &[] };
    let started = std::time::Instant::now();
    let checker = exploration.checker().spawn_bfs().join();
    println!(
        "{members} sites and {witnesses} witnesses, {budget} faults in {ticks} ticks: {} states in {:?}",
        checker.unique_state_count(),
        started.elapsed()
    );
    let discoveries = checker.discoveries();
    for always in [TWO_WRITERS, STALE_WRITE] {
        let how = discoveries.get(always).map(|path| path.clone().into_actions());
        assert!(how.is_none(), "{always}: {how:?}");
    }
    for sometimes in [GRANT, FAILOVER] {
        assert!(discoveries.contains_key(sometimes), "the model never shows that {sometimes}");
    }
    assert!(ticks < 20 || discoveries.contains_key(ANEW), "the model never shows that {ANEW}");
}

#[test]
fn model_of_three_sites() {
    explore(3, 0, if deep() { 2 } else { 1 }, 22, true);
}

/// Two groups that move in the same rounds: neither ever has two writers.
#[test]
fn model_of_three_sites_with_two_groups() {
    explore_from(Fleet::new(3, 0).paired().warmed(), if deep() { 2 } else { 1 }, 22, deep());
}

#[test]
fn model_of_two_sites_and_a_witness() {
    explore(2, 1, if deep() { 2 } else { 1 }, 22, deep());
}

#[test]
fn model_of_three_sites_and_a_witness() {
    explore(3, 1, if deep() { 2 } else { 1 }, if deep() { 22 } else { 14 }, deep());
}

#[test]
fn model_of_two_sites_and_a_witness_with_three_faults() {
    if deep() {
        explore(2, 1, 3, 14, false);
    }
}

/// What is left out, and the faults that show it.
struct Case {
    what: &'static str,
    mutants: &'static [Mutant],
    careless: Option<Careless>,
    fence: Fence,
    faults: Vec<Fault>,
    budget: usize,
    ticks: u64,
}

const SOUND: Case =
    Case { what: "", mutants: &[], careless: None, fence: Fence::Sound, faults: Vec::new(), budget: 2, ticks: 12 };

/// The faults are few, so that each is found within seconds; the exploration above has them all.
fn cases() -> Vec<Case> {
    let cut = Fault::Isolate { site: 0, ticks: 9 };
    let want = |site| Fault::Want { site };
    let case = |what, mutants, budget, ticks, faults| Case { what, mutants, faults, budget, ticks, ..SOUND };
    let late = vec![cut, Fault::LateAnswers { site: 0, ticks: 3 }];
    let late_grants = vec![cut, Fault::LateGrants { site: 0, ticks: 2 }];
    let stall = vec![cut, Fault::StallWriter { site: 0, ticks: 12 }];
    vec![
        case("counted from its answer", &[Mutant::CountFromReceipt], 2, 12, late),
        case("no wait", &[Mutant::NoWait], 1, 8, vec![want(1)]),
        case("the map first", &[Mutant::MapFirst], 1, 8, vec![want(1)]),
        case("no allowance for slow clocks", &[Mutant::NoSlowClocks], 1, 12, vec![cut]),
        case("no drain", &[Mutant::ReleaseWithoutDrain], 1, 8, vec![want(2)]),
        Case { what: "an agent counts from the answer", careless: COUNTS_LATE, faults: late_grants, ..SOUND },
        Case { what: "an unfenced resource", fence: Fence::None, faults: stall.clone(), ticks: 18, ..SOUND },
        Case { what: "a fence raised late", fence: Fence::RaisedLate, faults: stall, ticks: 18, ..SOUND },
    ]
}

const COUNTS_LATE: Option<Careless> = Some(Careless::CountsFromReceipt);

/// A guard that looks at one of two entries would do for one group.
#[test]
fn the_model_of_two_groups_sees_a_rule_that_is_left_out() {
    let begin = Fleet::new(3, 0).paired().warmed();
    let faults = vec![Fault::Want { site: 1 }];
    let exploration = Exploration { begin, faults, budget: 1, ticks: 8, mutants: &[Mutant::MapFirst] };
    assert!(exploration.checker().spawn_bfs().join().discoveries().contains_key(TWO_WRITERS));
}

#[test]
fn the_model_sees_every_rule_that_is_left_out() {
    let mut unnoticed = Vec::new();
    for case in cases() {
        let begin = Fleet::new(3, 0).warmed().careless(case.careless).fenced(case.fence);
        let (faults, budget, ticks) = (case.faults, case.budget, case.ticks);
        let exploration = Exploration { begin, faults, budget, ticks, mutants: case.mutants };
        let checker = exploration.checker().spawn_bfs().join();
        let found = checker.discoveries();
        let how = found.get(TWO_WRITERS).or(found.get(STALE_WRITE)).map(|path| path.clone().into_actions());
        println!("{}: {} states, {:?}", case.what, checker.unique_state_count(), how);
        if how.is_none() {
            unnoticed.push(case.what);
        }
    }
    assert!(unnoticed.is_empty(), "went unnoticed: {unnoticed:?}");
}
