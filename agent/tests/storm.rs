//! Storms in the kernel log: what is lost is told from what was seen, first and last stay, memory stays, the reader lives.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use evergreen_agent::{
    conditions::ConditionType,
    grants::GrantBook,
    health::{Health, HealthConfig},
    host::Root,
    kernel::{RuleSet, kmsg::KernelLog, records::Records, ring::Ring},
    publish::Desired,
    rules::Rulebook,
    shared::Shared,
    signal::Signal,
    store::Store,
    watch,
};
use evergreen_telemetry::IncidentTracer;
use tokio::sync::{mpsc, watch as latest};
use tokio_util::sync::CancellationToken;

const RULES: &str = "format: evergreen.dev/kernel-rules/v1
rules:
  - {id: storm, kind: Custom, name: StormHeard, severity: warning, match: ['^storm (?P<n>\\d+)'], summary: 'storm {n}'}
  - {id: calm, kind: Custom, name: CalmHeard, severity: warning, match: ['^calm'], summary: calm}
";

/// The agent's kernel log side as it runs: the reader's thread, the owner of the problems, what the writer is told.
struct Bench {
    ring: Ring,
    shared: Arc<Shared>,
    desired: latest::Receiver<Desired>,
    cancel: CancellationToken,
    runtime: tokio::runtime::Runtime,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Bench {
    fn new(capacity: usize, wrap: impl Fn(Box<dyn Records>) -> Box<dyn Records> + Send + 'static) -> Self {
        let ring = Ring::new(capacity);
        let book = Arc::new(Rulebook::of(Arc::new(RuleSet::parse(RULES).unwrap()), Vec::new()));
        let shared = Arc::new(Shared::new("n".into(), "s".into(), GrantBook::default(), false));
        let config = HealthConfig { node: "n".into(), site: "s".into(), clear_after_at_most: None };
        let (health, desired) = Health::new(
            config,
            Root::new("/"),
            Store::none(),
            Arc::clone(&book),
            IncidentTracer::unexported(),
            Arc::clone(&shared),
        );
        let (signals, incoming) = mpsc::channel::<Signal>(256);
        let (_, adopted) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(health.run(incoming, adopted, cancel.clone()));
        let records = ring.clone();
        let log = KernelLog::of_records("b", None, move || Ok(wrap(Box::new(records.reader()))));
        let (_, rules) = latest::channel(book);
        let reader = watch::start_on(log, rules, Arc::clone(&shared), signals, cancel.clone()).unwrap();
        let bench = Self { ring, shared, desired, cancel, runtime, reader: Some(reader) };
        // The reader has found the end of the log when it has come by once.
        bench.until("the reader is there", |bench| bench.source().is_some_and(|(present, _)| present));
        bench
    }

    fn source(&self) -> Option<(bool, Option<String>)> {
        self.shared.set_sample(Default::default(), Vec::new(), Default::default());
        self.shared.with(|view| {
            view.sources.iter().find(|source| source.name == "kmsg").map(|s| (s.present, s.reason.clone()))
        })
    }

    fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < Duration::from_secs(30), "{what}: {:?}", self.desired.borrow().problems);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn messages(&self) -> u64 {
        self.shared.kernel_log.messages.load(Ordering::Relaxed)
    }

    fn lost(&self) -> u64 {
        self.shared.kernel_log.lost.load(Ordering::Relaxed)
    }

    /// What exporters see, which counts do not wait for.
    fn problem(&self, name: &str) -> Option<evergreen_api::resources::NodeProblem> {
        self.shared
            .with(|view| view.problems.iter().find(|problem| problem.condition.as_deref() == Some(name)).cloned())
    }

    fn stop(mut self) {
        self.cancel.cancel();
        self.reader.take().unwrap().join().unwrap();
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

#[test]
fn of_a_storm_that_overruns_the_reader_first_last_and_count_are_right() {
    const LINES: u64 = 200_000;
    let bench = Bench::new(1_000, |records| records);
    for n in 0..LINES {
        bench.ring.write(&format!("storm {n}"));
        if n == 0 {
            // The first must be found before the storm is over; its pace is nothing a kernel could keep up.
            bench.until("the first line is read", |bench| bench.messages() > 0);
        }
    }
    bench.until("all lines are read or counted as lost", |bench| bench.messages() + bench.lost() == LINES);
    assert!(bench.lost() > 0, "a ring of 1000 records takes {LINES} lines only by losing some");
    let seen = bench.messages();
    bench.until("the count is told", |bench| bench.problem("StormHeard").is_some_and(|p| p.count == seen));
    let problem = bench.problem("StormHeard").unwrap();
    assert_eq!((problem.summary.as_str(), problem.evidence[0].as_str()), ("storm 0", "storm 0"));
    assert_eq!(problem.evidence.last().unwrap(), &format!("storm {}", LINES - 1));
    bench.until("the loss is told", |bench| bench.problem("KernelLogOverrun").is_some_and(|p| p.count == bench.lost()));
    assert!(bench.shared.kernel_log.overruns.load(Ordering::Relaxed) > 0);
    // A condition of the Node for what was found, none for what was lost.
    let desired = bench.desired.borrow().clone();
    assert!(desired.problems.contains_key(&ConditionType::named("StormHeard")));
    assert!(desired.only_told.contains(&ConditionType::named("KernelLogOverrun")));
    bench.stop();
}

#[test]
fn a_line_in_a_storm_of_five_seconds_becomes_a_condition_in_time() {
    const PER_SECOND: u64 = 10_000;
    let bench = Bench::new(4_000, |records| records);
    let begin = Instant::now();
    let (mut sent, mut calm, mut known) = (0_u64, None, None);
    while begin.elapsed() < Duration::from_secs(5) {
        let due = begin.elapsed().as_millis() as u64 * PER_SECOND / 1000;
        while sent < due {
            bench.ring.write(&format!("storm {sent}"));
            sent += 1;
        }
        if calm.is_none() && begin.elapsed() > Duration::from_secs(2) {
            bench.ring.write("calm");
            sent += 1;
            calm = Some(Instant::now());
        }
        if known.is_none() && bench.desired.borrow().problems.contains_key(&ConditionType::named("CalmHeard")) {
            known = calm.map(|calm| calm.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bench.until("all lines are read or counted as lost", |bench| bench.messages() + bench.lost() == sent);
    // Figures are for `make storm`; here it is enough that it was found while the storm went on.
    eprintln!("{sent} lines, {} lost; line to condition in {known:?}", bench.lost());
    assert!(known.is_some(), "the calm line was not found within the storm");
    bench.stop();
}

/// Fails in every way that a log can, again and again.
struct Unwell(Box<dyn Records>, u64, Arc<AtomicBool>);

impl Records for Unwell {
    fn wait(&mut self, at_most: Duration) -> io::Result<bool> {
        self.0.wait(at_most)
    }

    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        if self.2.swap(false, Ordering::Relaxed) {
            panic!("a fault that the test wants");
        }
        match self.1 % 7 {
            1 => Err(io::Error::from_raw_os_error(rustix::io::Errno::INTR.raw_os_error())),
            3 => Err(io::Error::from_raw_os_error(rustix::io::Errno::AGAIN.raw_os_error())),
            _ => self.0.take(buffer),
        }
    }
}

#[test]
fn a_reader_whose_log_is_unwell_goes_on_and_tells_its_faults() {
    let fault = Arc::new(AtomicBool::new(false));
    let wanted = Arc::clone(&fault);
    let bench = Bench::new(10_000, move |records| Box::new(Unwell(records, 0, Arc::clone(&wanted))));
    (0..500).for_each(|n| bench.ring.write(&format!("storm {n}")));
    bench.until("lines before the fault are read", |bench| bench.messages() == 500);
    fault.store(true, Ordering::Relaxed);
    (500..1000).for_each(|n| bench.ring.write(&format!("storm {n}")));
    bench.until("lines behind the fault are read", |bench| bench.messages() == 1000);
    assert_eq!(bench.shared.kernel_log.faults.load(Ordering::Relaxed), 1);
    bench.stop();
}
