use std::{fs, path::Path};

use proptest::prelude::*;

use super::*;

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn cpu(busy_us: u64, total_us: u64) -> Option<CpuTimes> {
    Some(CpuTimes { busy_us, total_us, cpus: 2 })
}

/// The two clocks on a machine that never slept.
fn at(milliseconds: u64) -> Now {
    Now { boot_ms: milliseconds, awake_ms: milliseconds }
}

fn host(energy: Option<u64>) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write(
        directory.path(),
        "proc/cpuinfo",
        "processor : 0\nvendor_id : GenuineIntel\ncpu family : 6\nmodel : 106\nflags : fpu hypervisor\n",
    );
    write(directory.path(), "proc/sys/kernel/random/boot_id", "boot-1\n");
    if let Some(energy) = energy {
        zone(directory.path(), energy);
    }
    directory
}

fn zone(root: &Path, energy: u64) {
    write(root, "sys/class/powercap/intel-rapl:0/name", "package-0\n");
    write(root, "sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n");
    write(root, "sys/class/powercap/intel-rapl:0/energy_uj", &format!("{energy}\n"));
}

fn wall(root: &Path, watts: u64) {
    write(root, "sys/class/hwmon/hwmon0/name", "power_meter\n");
    write(root, "sys/class/hwmon/hwmon0/power1_average", &format!("{}\n", watts * 1_000_000));
}

struct Bench {
    host: tempfile::TempDir,
    book: SourceBook,
    meter: Meter,
    milliseconds: u64,
    busy_us: u64,
}

impl Bench {
    fn new(host: tempfile::TempDir, store: &Store) -> Self {
        let mut book = SourceBook::default();
        let meter = Meter::new(Root::new(host.path()), store, EnergyArgs::default(), at(0), &mut book);
        Self { host, book, meter, milliseconds: 0, busy_us: 0 }
    }

    /// One sample a second later, in which a share of the CPU time was busy.
    fn second(&mut self, utilization: f64) {
        self.later(1_000, utilization);
    }

    fn later(&mut self, milliseconds: u64, utilization: f64) {
        self.milliseconds += milliseconds;
        self.busy_us += (utilization * milliseconds as f64 * 1_000.0) as u64;
        let times = cpu(self.busy_us, self.milliseconds * 1_000);
        self.meter.sample(at(self.milliseconds), times, &mut self.book);
    }

    fn origins(&self) -> Vec<(String, u64)> {
        let accounts = self.meter.view().ledger.accounts().iter();
        accounts.map(|(origin, account)| (origin.source.clone(), account.node_microjoules)).collect()
    }
}

#[test]
fn a_readable_counter_is_measured_and_told_as_such() {
    let mut bench = Bench::new(host(Some(1_000)), &Store::none());
    bench.second(0.0);
    zone(bench.host.path(), 50_001_000);
    bench.second(0.5);
    let view = bench.meter.view();
    assert_eq!(view.watts, Some(50.0));
    let (origin, account) = view.ledger.accounts().iter().next().unwrap();
    assert_eq!(origin.provenance, "measured");
    assert_eq!((account.node_microjoules, account.residual()), (50_000_000, 0));
    assert!(view.reason.contains("does not see power supplies, fans and disks"), "{}", view.reason);
    assert_eq!(view.ledger.parts()["package-0"].microjoules, 50_000_000);
}

#[test]
fn without_a_counter_the_model_estimates_and_says_why() {
    let mut bench = Bench::new(host(None), &Store::none());
    bench.second(0.0);
    bench.second(0.5);
    let view = bench.meter.view();
    assert_eq!(view.origin.as_ref().unwrap().provenance, "estimated");
    assert!(view.reason.contains("virtual machine"), "{}", view.reason);
    assert!(view.watts.unwrap() > view.idle_watts.unwrap());
}

#[test]
fn counters_go_on_after_a_restart_and_the_time_between_is_a_gap() {
    let host = host(None);
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let mut book = SourceBook::default();
    let mut first = Meter::new(Root::new(host.path()), &store, EnergyArgs::default(), at(0), &mut book);
    first.sample(at(1_000), cpu(0, 1_000_000), &mut book);
    first.sample(at(2_000), cpu(500_000, 2_000_000), &mut book);
    let shown = first.view().ledger.clone();
    drop(first);
    let mut second = Meter::new(Root::new(host.path()), &store, EnergyArgs::default(), at(7_000), &mut book);
    assert_eq!(second.view().ledger.accounts(), shown.accounts(), "a scrape before the first sample sees no reset");
    second.sample(at(7_000), cpu(500_000, 7_000_000), &mut book);
    second.sample(at(8_000), cpu(600_000, 8_000_000), &mut book);
    let ledger = &second.view().ledger;
    assert_eq!((ledger.gaps, ledger.gap_ms), (1, 5_000));
    let origin = shown.accounts().keys().next().unwrap();
    assert!(ledger.accounts()[origin].node_microjoules > shown.accounts()[origin].node_microjoules);
    assert_eq!(ledger.accounts()[origin].residual(), 0);
}

#[test]
fn what_is_shown_was_on_the_disk_before() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let mut bench = Bench::new(host(None), &store);
    for n in 0..40 {
        bench.second(f64::from(n % 10) / 10.0);
        let mut kept = Durable::new(Some(state.path().to_owned()));
        if let Found::Whole(on_disk) = kept.load::<Kept>() {
            assert_eq!(on_disk.ledger, *bench.meter.view().ledger);
        }
    }
    assert!(!bench.origins().is_empty());
}

#[test]
fn sleep_is_a_gap_of_its_length_and_no_energy() {
    let mut bench = Bench::new(host(Some(0)), &Store::none());
    bench.second(0.1);
    zone(bench.host.path(), 10_000_000);
    // Ten hours on the clock that counts sleep, one second on the other.
    let now = Now { boot_ms: 36_001_000, awake_ms: 2_000 };
    bench.meter.sample(now, cpu(200_000, 2_000_000), &mut bench.book);
    let ledger = &bench.meter.view().ledger;
    assert_eq!((ledger.gaps, ledger.gap_ms, ledger.unsure_microjoules), (1, 35_999_000, 0));
    assert_eq!(bench.meter.view().watts, Some(10.0), "the power of the second that it was awake");
}

#[test]
fn wraps_that_nobody_saw_are_told_with_their_bound() {
    let mut bench = Bench::new(host(Some(0)), &Store::none());
    bench.second(0.1);
    zone(bench.host.path(), 10_000_000);
    bench.later(1_000_000, 0.1);
    let ledger = &bench.meter.view().ledger;
    assert_eq!(bench.origins(), [("powercap".to_owned(), 10_000_000)], "the least that it can have been");
    assert!(ledger.unsure_microjoules > 262_143_328_850 && ledger.unsure_microjoules.is_multiple_of(262_143_328_851));
}

#[test]
fn a_meter_at_the_wall_is_used_and_its_parts_divide_it() {
    let host = host(Some(0));
    wall(host.path(), 100);
    let mut bench = Bench::new(host, &Store::none());
    for n in 1..=3 {
        bench.second(0.3);
        zone(bench.host.path(), n * 60_000_000);
    }
    let view = bench.meter.view();
    assert_eq!(view.origin.as_ref().unwrap().source, "acpi-power-meter");
    assert_eq!(view.watts, Some(100.0));
    assert_eq!(view.ledger.parts()["package-0"].source, "powercap");
    assert!(view.ledger.accounts().values().all(|account| account.residual() == 0));
}

#[test]
fn a_meter_at_the_wall_that_is_gone_has_calibrated_the_others() {
    let host = host(Some(0));
    wall(host.path(), 100);
    let mut bench = Bench::new(host, &Store::none());
    let mut energy = 0;
    for n in 0..700_u64 {
        // 40 W beside the package and 1.1 W a watt of it.
        let package = 40 + n % 40;
        energy += package * 1_000_000;
        zone(bench.host.path(), energy);
        write(
            bench.host.path(),
            "sys/class/hwmon/hwmon0/power1_average",
            &format!("{}\n", 40_000_000 + 1_100_000 * package),
        );
        bench.second((n % 40) as f64 / 40.0);
    }
    fs::remove_dir_all(bench.host.path().join("sys/class/hwmon/hwmon0")).unwrap();
    for _ in 0..20 {
        energy += 60_000_000;
        zone(bench.host.path(), energy);
        bench.second(0.5);
    }
    let view = bench.meter.view();
    let origin = view.origin.clone().unwrap();
    assert_eq!((origin.provenance.as_str(), origin.source.as_str()), ("calibrated", "powercap+wall-line"));
    assert!((view.watts.unwrap() - 106.0).abs() < 1.0, "{:?}", view.watts);
    assert!(view.reason.contains("a line that acpi-power-meter taught: 40 W and 1.1"), "{}", view.reason);
    // Without the counter as well, the model knows the machine.
    fs::remove_dir_all(bench.host.path().join("sys/class/powercap/intel-rapl:0")).unwrap();
    for _ in 0..80 {
        bench.second(0.5);
    }
    let view = bench.meter.view();
    let origin = view.origin.clone().unwrap();
    assert_eq!((origin.provenance.as_str(), origin.source.as_str()), ("calibrated", "utilization-model"));
    assert!((view.watts.unwrap() - 106.0).abs() < 15.0, "{:?}", view.watts);
    assert!(view.ledger.accounts().values().all(|account| account.residual() == 0));
}

#[test]
fn a_conflict_is_told_and_the_better_source_used() {
    let host = host(Some(0));
    wall(host.path(), 20);
    let mut bench = Bench::new(host, &Store::none());
    for n in 1..130_u64 {
        zone(bench.host.path(), n * 60_000_000);
        bench.second(0.3);
    }
    let view = bench.meter.view();
    assert_eq!(view.origin.as_ref().unwrap().source, "powercap", "a machine takes no less than its processor");
    assert_eq!(view.conflicts.len(), 1);
    assert!(view.reason.contains("parts of the machine alone take 60 W"), "{}", view.reason);
    let status = bench.book.statuses().into_iter().find(|status| status.name == "acpi-power-meter").unwrap();
    assert!(!status.present && status.reason.unwrap().contains("conflict"));
}

#[test]
fn lying_sensors_never_make_energy() {
    for (text, word) in
        [("0", "zero"), ("-5000000", "negative"), ("9999999999999", "absurd"), ("garbage", "unreadable")]
    {
        let host = host(None);
        wall(host.path(), 100);
        let mut bench = Bench::new(host, &Store::none());
        bench.second(0.1);
        bench.second(0.1);
        let before = bench.origins();
        write(bench.host.path(), "sys/class/hwmon/hwmon0/power1_average", &format!("{text}\n"));
        for _ in 0..5 {
            bench.second(0.9);
        }
        assert_eq!(bench.origins(), before, "{word}");
        assert_eq!(bench.meter.view().faults[&("acpi-power-meter", word)], 5);
        assert_eq!(bench.meter.view().ledger.gap_ms, 5_000, "{word}");
        for _ in 0..10 {
            bench.second(0.9);
        }
        assert_eq!(bench.meter.view().origin.as_ref().unwrap().source, "utilization-model", "{word}");
    }
}

#[test]
fn setting_the_clock_of_people_changes_nothing() {
    // There is no such clock in what the meter is given; this holds it to that.
    let Now { boot_ms, awake_ms } = Now::read();
    assert!(awake_ms <= boot_ms + 1, "time awake is a part of the time since boot");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_node_is_the_sum_of_its_parts_through_wraps_and_resets(counters in proptest::collection::vec(0_u64..262_143_328_850, 2..30)) {
        let mut bench = Bench::new(host(Some(counters[0])), &Store::none());
        for counter in &counters {
            zone(bench.host.path(), *counter);
            bench.second(0.3);
            for account in bench.meter.view().ledger.accounts().values() {
                prop_assert_eq!(account.residual(), 0);
            }
        }
    }

    #[test]
    fn the_node_is_the_sum_of_its_parts_while_pods_and_sources_come_and_go(
        steps in proptest::collection::vec((0_u64..400, 0_u64..400, 0_u8..16, 0_u64..2_000_000, any::<bool>()), 2..40),
    ) {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        let mut bench = Bench::new(host(Some(0)), &store);
        write(bench.host.path(), "sys/fs/cgroup/cgroup.controllers", "cpu\n");
        let (mut energy, mut shown) = (0, 0_u64);
        for (package, at_wall, pods, used, restart) in steps {
            energy += package * 1_000_000;
            zone(bench.host.path(), energy);
            wall(bench.host.path(), at_wall);
            for n in 0..4_u8 {
                let folder = format!("sys/fs/cgroup/kubepods/pod{n}123456789abcdef0123456789abcdef");
                if pods & (1 << n) == 0 {
                    let _ = fs::remove_dir_all(bench.host.path().join(&folder));
                } else {
                    write(bench.host.path(), &format!("{folder}/cpu.stat"), &format!("usage_usec {}\n", used * u64::from(n)));
                }
            }
            if restart {
                let mut book = SourceBook::default();
                let root = Root::new(bench.host.path());
                bench.meter = Meter::new(root, &store, EnergyArgs::default(), at(bench.milliseconds), &mut book);
            }
            bench.second(0.3);
            let ledger = &bench.meter.view().ledger;
            for account in ledger.accounts().values() {
                prop_assert_eq!(account.residual(), 0);
            }
            let now = ledger.accounts().values().map(|account| account.node_microjoules).sum();
            prop_assert!(now >= shown, "a counter never goes back, over a restart either");
            shown = now;
        }
    }
}
