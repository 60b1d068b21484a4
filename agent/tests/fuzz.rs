//! Every reader of bytes from outside, fed with changed seeds: no panic, no hang, no memory without end.
//!
//! A second or two each; `EVERGREEN_FUZZ_SECONDS` gives them longer (`make fuzz`), `EVERGREEN_FUZZ_NUMBER` repeats one input.
//! The same targets are there for cargo-fuzz in the folder fuzz.

#[path = "../../fuzz/src/driver.rs"]
#[allow(missing_docs)]
mod driver;
#[path = "../../fuzz/src/targets.rs"]
#[allow(missing_docs)]
mod targets;

use std::time::{Duration, SystemTime};

fn fuzz(name: &str) {
    let target = targets::TARGETS.iter().find(|target| target.name == name).expect("the target is in the list");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(number) = number("EVERGREEN_FUZZ_NUMBER") {
        driver::drive(target, number, None);
        return;
    }
    let seconds = number("EVERGREEN_FUZZ_SECONDS").unwrap_or(1);
    // The seeds as they are, a fixed beginning, and then where nobody was before.
    for number in 0..20 {
        driver::drive(target, number, None);
    }
    let first = SystemTime::UNIX_EPOCH.elapsed().map_or(1_000, |time| time.as_secs() << 20);
    let count = driver::drive(target, first, Some(Duration::from_secs(seconds)));
    eprintln!("{name}: {count} inputs from number {first} on");
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),*];
            let known: Vec<&str> = targets::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(known, run);
        }
    };
}

targets!(
    kernel_lines,
    detector,
    detect_command,
    kernel_rules,
    any_rules,
    monitor,
    monitor_lines,
    check_output,
    times,
    anomaly_rows,
    kept_states,
    grants,
    tree
);
