//! The real agent's code with a library of our own in NVIDIA's place: energy of cards, and whose it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard},
};

use evergreen_agent::{
    energy::{EnergyArgs, Meter, Now},
    host::Root,
    sources::{CpuTimes, SourceBook},
    store::Store,
};

const UID: &str = "8d1f4a52-0c3e-4f5b-9a55-1c2d3e4f5a6b";

/// The library reads one file for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

struct Stub {
    library: PathBuf,
    figures: PathBuf,
    host: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Stub {
    /// Builds the library; nothing where this machine has no C compiler, as it is then said.
    fn build() -> Option<Self> {
        let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let host = tempfile::tempdir().expect("a folder for this test");
        let library = host.path().join("libnvidia-ml.so.1");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stub-nvml/nvml.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        if !built.is_ok_and(|status| status.success()) {
            skipped("the NVML stub: no C compiler `cc` (apt install gcc)");
            return None;
        }
        let figures = library.with_file_name(FIGURES);
        Some(Self { library, figures, host, _alone: alone })
    }

    fn say(&self, text: &str) {
        fs::write(&self.figures, text).expect("the folder is writable");
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.host.path().join(path);
        fs::create_dir_all(path.parent().expect("a path below the host")).expect("the folder is writable");
        fs::write(path, text).expect("the folder is writable");
    }

    fn settings(&self) -> EnergyArgs {
        EnergyArgs { nvml_library: Some(self.library.clone()) }
    }
}

fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
    if let Some(path) = std::env::var_os("EVERGREEN_SKIPPED") {
        let line = format!("{why}\n");
        let _ = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(Path::new(&path))
            .and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()));
    }
}

const FIGURES: &str = "figures";

fn at(seconds: u64) -> Now {
    Now { boot_ms: seconds * 1_000, awake_ms: seconds * 1_000 }
}

fn cpu(seconds: u64) -> Option<CpuTimes> {
    Some(CpuTimes { busy_us: seconds * 100_000, total_us: seconds * 1_000_000, cpus: 1 })
}

#[test]
fn energy_of_cards_goes_to_the_pods_whose_processes_used_them() {
    let Some(stub) = Stub::build() else { return };
    stub.write("proc/cpuinfo", "processor : 0\nvendor_id : GenuineIntel\n");
    stub.write("sys/class/powercap/intel-rapl:0/name", "package-0\n");
    stub.write("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n");
    stub.write("sys/class/powercap/intel-rapl:0/energy_uj", "0\n");
    stub.write("sys/fs/cgroup/cgroup.controllers", "cpu\n");
    stub.write(&format!("sys/fs/cgroup/kubepods/burstable/pod{UID}/cpu.stat"), "usage_usec 0\n");
    stub.write("proc/4711/cgroup", &format!("0::/kubepods/burstable/pod{UID}/4f1e\n"));
    stub.write("proc/12/cgroup", "0::/system.slice/display.service\n");
    let say = |energy: [u64; 2], busy: u64, at: u64| {
        stub.say(&format!(
            "cards 2\nuuid 0 GPU-aa\nuuid 1 GPU-bb\nenergy 0 {}\nenergy 1 {}\nbusy 0 {busy}\nbusy 1 0\n\
             process 0 4711 60 {at}\nprocess 0 12 20 {at}\n",
            energy[0], energy[1]
        ));
    };
    say([1_000_000, 5_000], 0, 1);
    let mut book = SourceBook::default();
    let mut meter = Meter::new(Root::new(stub.host.path()), &Store::none(), stub.settings(), at(0), &mut book);
    let mut energy = [1_000_000, 5_000];
    // A minute at rest teaches what a card takes when nobody uses it: 50 W and 10 W.
    for second in 1..=60 {
        energy = [energy[0] + 50_000, energy[1] + 10_000];
        say(energy, 0, 1);
        meter.sample(at(second), cpu(second), &mut book);
    }
    let rest = meter.view().ledger.accounts().values().next().unwrap().clone();
    assert_eq!(rest.pods_microjoules(), 0, "nobody used a card: {rest:?}");
    for second in 61..=120 {
        energy = [energy[0] + 250_000, energy[1] + 10_000];
        say(energy, 80, second);
        meter.sample(at(second), cpu(second), &mut book);
    }
    let view = meter.view();
    let origin = view.origin.clone().unwrap();
    assert_eq!((origin.provenance.as_str(), origin.source.as_str()), ("measured", "powercap+nvml"));
    let account = &view.ledger.accounts()[&origin];
    assert_eq!(account.residual(), 0);
    // 200 W beyond rest for a minute, three quarters of the work.
    let pod = account.pods[UID].microjoules as f64 / 1e6;
    assert!((pod - 9_000.0).abs() < 900.0, "{pod} J");
    assert_eq!(view.ledger.parts()["GPU-aa"].microjoules, 59 * 50_000_000 + 60 * 250_000_000);
    assert!(view.reason.contains("Stub Card"), "{}", view.reason);
}

#[test]
fn cards_that_count_no_energy_tell_their_power_and_others_say_why_not() {
    let Some(stub) = Stub::build() else { return };
    stub.write("proc/cpuinfo", "processor : 0\nvendor_id : GenuineIntel\n");
    stub.say("cards 1\nuuid 0 GPU-aa\npower 0 120000\n");
    let mut book = SourceBook::default();
    let mut meter = Meter::new(Root::new(stub.host.path()), &Store::none(), stub.settings(), at(0), &mut book);
    for second in 1..=3 {
        meter.sample(at(second), cpu(second), &mut book);
    }
    let view = meter.view();
    assert_eq!(view.origin.as_ref().unwrap().source, "utilization-model+nvml");
    assert_eq!(view.ledger.parts()["GPU-aa"].microjoules, 240_000_000);
    for (text, word) in [("cards 0\n", "shows no card"), ("cards 1\nuuid 0 GPU-aa\n", "card 0")] {
        stub.say(text);
        let mut book = SourceBook::default();
        let _ = Meter::new(Root::new(stub.host.path()), &Store::none(), stub.settings(), at(0), &mut book);
        let status = book.statuses().into_iter().find(|status| status.name == "nvml").unwrap();
        assert!(status.reason.as_ref().is_some_and(|reason| reason.contains(word)), "{status:?}");
    }
}

#[test]
fn a_library_that_cannot_be_loaded_is_an_absent_source_with_a_remedy() {
    let host = tempfile::tempdir().unwrap();
    let status = |settings: EnergyArgs| {
        let mut book = SourceBook::default();
        let _ = Meter::new(Root::new(host.path()), &Store::none(), settings, at(0), &mut book);
        book.statuses().into_iter().find(|status| status.name == "nvml").unwrap().reason.unwrap()
    };
    assert_eq!(status(EnergyArgs::default()), "no NVIDIA driver on this host");
    let given = EnergyArgs { nvml_library: Some(host.path().join("no-such-library.so")) };
    assert!(status(given).contains("give --nvml-library"));
}
