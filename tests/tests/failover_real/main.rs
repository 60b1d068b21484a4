//! Failover on real parts: three API servers with etcd, controllers, agents, HAProxy and a register with clients, put
//! through what breaks such systems. `make test-failover` runs it; names of scenarios select some of them.
//!
//!   EVERGREEN_FAILOVER_SEED    which segments are lost and what chaos does; printed, so that a run can be repeated
//!   EVERGREEN_FAILOVER_CYCLES  site deaths that are measured (default 6)
//!   EVERGREEN_FAILOVER_SHORT   short partitions that must move nothing (default 12)
//!   EVERGREEN_FAILOVER_CHAOS   seconds of chaos (default 90)
//!   EVERGREEN_FAILOVER_ONLY    parts of names, with spaces between them: only the scenarios whose name holds one
//!   EVERGREEN_FAILOVER_REPORT  file for the table's rows in Markdown
//!   EVERGREEN_FAILOVER_DIR     folder in which logs and data are kept

mod booth;
mod chaos;
mod deaths;
mod drills;
mod fences;
mod memory;
mod network;
mod plans;

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use evergreen_tests::{
    real::{
        fleet::{Fleet, missing},
        report::Report,
    },
    skip::skipped,
};
use libtest_mimic::{Arguments, Failed, Trial};

/// What a scenario works with.
pub struct Stage<'a> {
    /// The fleet, whole.
    pub fleet: &'a mut Fleet,
    /// Where measurements go.
    pub report: &'a mut Report,
    /// Where chance begins.
    pub seed: u64,
}

type Scenario = for<'a> fn(&'a mut Stage<'_>) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! scenarios {
    ($($module:ident :: $name:ident),* $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($name)), (|stage| Box::pin($module::$name(stage))) as Scenario)),*]
    };
}

struct Shared {
    runtime: tokio::runtime::Runtime,
    state: Mutex<(Option<Fleet>, Report)>,
    seed: u64,
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One fleet, one disturbance at a time, and all processes belong to this thread.
    arguments.test_threads = Some(1);
    if let Some(what) = missing() {
        skipped("failover on real parts", &what);
        return ExitCode::SUCCESS;
    }
    let seed = setting("EVERGREEN_FAILOVER_SEED", u64::from(std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads can be started");
    let shared = Arc::new(Shared { runtime, state: Mutex::default(), seed });
    let all = scenarios![
        fences::no_stale_token_is_accepted_in_100_000_attempts,
        deaths::a_dead_site_is_replaced_within_the_targets,
        booth::a_split_leader_loses_to_exactly_one_new_holder,
        booth::a_split_follower_changes_nothing,
        booth::a_restarted_granted_site_is_served_again,
        booth::a_failed_prerequisite_leaves_nobody,
        booth::a_replugged_cable_gives_no_second_grant,
        booth::a_restart_in_a_minority_lets_the_grant_expire,
        network::loss_and_delay_alone_move_nothing,
        network::short_partitions_under_loss_move_nothing,
        network::a_partition_of_43_seconds_needs_no_repair,
        network::one_way_cuts_leave_one_writer,
        network::a_site_that_its_own_agent_cannot_reach_stops,
        deaths::a_dead_api_server_of_the_holder_stays_while_the_others_answer,
        deaths::a_dead_api_server_and_one_more_missing_ends_the_grant,
        deaths::all_controllers_killed_at_once_end_every_grant_and_come_back,
        plans::a_delayed_enactor_does_not_apply_an_older_plan,
        plans::the_last_endpoint_is_never_removed,
        drills::a_drill_loses_no_acknowledged_write,
        drills::a_real_incident_interrupts_a_drill,
        drills::a_manual_shift_interrupts_a_drill,
        memory::a_majority_that_forgot_gives_no_token_out_twice,
        memory::a_register_restored_from_an_old_snapshot_makes_no_second_writer,
        fences::a_pause_of_five_leases_between_check_and_write_is_fenced,
        fences::without_a_fence_the_checker_sees_the_same_pause,
        chaos::random_faults_leave_one_writer,
    ];
    let only = std::env::var("EVERGREEN_FAILOVER_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.trim().is_empty() || only.split_whitespace().any(|part| name.contains(part));
    let trials = all.into_iter().filter(|(name, _)| wanted(name)).map(|(name, scenario)| {
        let shared = Arc::clone(&shared);
        Trial::test(name, move || shared.run(name, scenario))
    });
    let begin = Instant::now();
    println!("seed {seed} (EVERGREEN_FAILOVER_SEED={seed} repeats it)");
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    shared.tell(begin.elapsed());
    conclusion.exit_code()
}

impl Shared {
    fn run(&self, name: &str, scenario: Scenario) -> Result<(), Failed> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (fleet, report) = &mut *state;
        let _inside = self.runtime.enter();
        let begin = Instant::now();
        let played = catch_unwind(AssertUnwindSafe(|| {
            self.runtime.block_on(async {
                let fleet = match fleet {
                    Some(fleet) => fleet,
                    None => fleet.insert(Fleet::start(self.seed).await.expect("a fleet")),
                };
                fleet.restore().await;
                println!("  {name}: ready after {:.1} s", begin.elapsed().as_secs_f64());
                scenario(&mut Stage { fleet, report, seed: self.seed }).await;
            });
        }));
        println!("  {name}: {:.1} s, load {}", begin.elapsed().as_secs_f64(), load());
        // After each scenario: a run that is cut short has measured something too.
        keep(report);
        played.map_err(|panic| {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let logs = fleet.as_ref().map(Fleet::logs).unwrap_or_default();
            // Nothing of a fleet that is in an unknown state is used again.
            *fleet = None;
            Failed::from(format!("{}\n{logs}", why.unwrap_or_default()))
        })
    }

    fn tell(&self, took: Duration) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0 = None;
        let report = &state.1;
        println!("\nMeasured in {:.0} s, load {}:\n{}", took.as_secs_f64(), load(), report.table());
        for missed in report.missed() {
            println!("MISSED: {missed}");
        }
    }
}

/// Writes the rows to the file that EVERGREEN_FAILOVER_REPORT names.
fn keep(report: &Report) {
    if let Some(file) = std::env::var_os("EVERGREEN_FAILOVER_REPORT").filter(|file| !file.is_empty()) {
        std::fs::write(&file, report.markdown("`make bench-failover`")).expect("the report's file can be written");
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
