//! Health sources that are asked every few seconds, and what their figures mean by the thresholds of the rules.
//!
//! Each source is present, or absent with its reason; one that is absent neither raises nor ends anything. Sources only
//! measure; what is a problem is said in data ([`thresholds`]), and what may become one is followed in [`series`].
//!
//! [`series`]: crate::sources::series

mod catalog;
mod certificates;
mod cgroups;
mod clock;
mod counters;
mod disks;
mod gpu;
mod hardware;
mod limits;
mod links;
mod mounts;
mod own;
mod patient;
mod sensors;
mod services;
mod smart;
pub mod source;
mod stack;
pub mod thresholds;
mod turn;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use evergreen_api::resources::SourceStatus;
use http::Uri;
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

pub use self::catalog::{abouts, all};
use self::{
    source::Source,
    thresholds::{Figure, Watch},
    turn::{Answer, Slot, Turn},
};
use crate::{
    clock::boot_ms,
    host::Root,
    rules::Rulebook,
    shared::Shared,
    signal::Signal,
    sources::{
        Sample,
        series::{Reading, Readings},
    },
};

/// What is asked beyond the host's own files.
#[derive(Clone, Debug, Default, Args)]
pub struct ProbeArgs {
    /// Where the kubelet says whether it is well; http://127.0.0.1:10248/healthz when left out and the host has a kubelet.
    #[arg(long, env = "EVERGREEN_KUBELET_HEALTHZ", value_name = "URL")]
    pub kubelet_healthz: Option<Uri>,
    /// Socket of the container runtime, below --root; containerd's or CRI-O's usual one when left out.
    #[arg(long, env = "EVERGREEN_RUNTIME_SOCKET", value_name = "PATH")]
    pub runtime_socket: Option<PathBuf>,
    /// A name that must resolve; several times, or with commas. In a pod kubernetes.default.svc when left out.
    #[arg(long, env = "EVERGREEN_DNS_NAME", value_name = "NAME", value_delimiter = ',')]
    pub dns_name: Vec<String>,
    /// A file of certificates in PEM whose end is watched, below --root; several times, or with commas. The kubelet's
    /// and a control plane's own when left out.
    #[arg(long, env = "EVERGREEN_CERTIFICATE", value_name = "PATH", value_delimiter = ',')]
    pub certificate: Vec<PathBuf>,
    /// The command smartctl, which asks disks for their health; the installed one when left out and --root is /.
    #[arg(long, env = "EVERGREEN_SMARTCTL", value_name = "FILE")]
    pub smartctl: Option<PathBuf>,
    /// NVIDIA's library; set by the flag of the energy sources, which read the same one.
    #[arg(skip)]
    pub nvml_library: Option<PathBuf>,
}

impl ProbeArgs {
    /// With what a pod has by itself.
    fn in_pod(mut self) -> Self {
        if self.dns_name.is_empty() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            self.dns_name.push("kubernetes.default.svc".into());
        }
        self
    }
}

/// What one pass over all sources gave.
#[derive(Debug, Default)]
pub struct Pass {
    /// What thresholds say.
    pub signals: Vec<Signal>,
    /// Series.
    pub readings: Readings,
    /// How each source went.
    pub sources: Vec<SourceStatus>,
    /// How often each source met something that is not what it should be, by name; only those that did.
    pub errors: Vec<(&'static str, u64)>,
}

/// All sources of one host.
pub struct Probes {
    root: Root,
    settings: Arc<ProbeArgs>,
    slots: Vec<Slot>,
    watch: Watch,
}

impl Probes {
    /// Sources that were not asked yet.
    pub fn new(root: Root, settings: ProbeArgs) -> Self {
        Self::of(root, settings, all())
    }

    fn of(root: Root, settings: ProbeArgs, sources: Vec<Box<dyn Source>>) -> Self {
        let slots = sources.into_iter().map(Slot::new).collect();
        Self { root, settings: Arc::new(settings.in_pod()), slots, watch: Watch::default() }
    }

    /// Asks all sources once, on this thread. `sample` is what the collector read last.
    pub fn ask(&mut self, sample: Option<Arc<Sample>>, rules: &Rulebook, now_ms: u64) -> Pass {
        let (root, settings) = (self.root.clone(), Arc::clone(&self.settings));
        let turn = Turn { root, settings, sample, now_ms };
        let answers = self.slots.iter().map(|slot| slot.ask(&turn)).collect();
        self.conclude(answers, rules, now_ms)
    }

    /// Asks all sources once for somebody who waits for it, as [`run`] does again and again.
    ///
    /// # Errors
    /// When this process may not even have a timer.
    pub fn ask_once(&mut self, sample: &Sample, rules: &Rulebook) -> std::io::Result<Pass> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        Ok(runtime.block_on(self.ask_apart(Some(Arc::new(sample.clone())), rules, boot_ms())))
    }

    /// Asks all sources once, on threads of their own: a source that does not come back is left behind with its thread,
    /// and the others are asked all the same.
    async fn ask_apart(&mut self, sample: Option<Arc<Sample>>, rules: &Rulebook, now_ms: u64) -> Pass {
        let (root, settings) = (self.root.clone(), Arc::clone(&self.settings));
        let turn = Arc::new(Turn { root, settings, sample, now_ms });
        let answers = turn::ask_all(&self.slots, &turn, turn::BACK_WITHIN).await;
        self.conclude(answers, rules, now_ms)
    }

    fn conclude(&mut self, answers: Vec<Answer>, rules: &Rulebook, now_ms: u64) -> Pass {
        let (mut figures, mut missing, mut troubled): (Vec<Figure>, Vec<&str>, Vec<&str>) = Default::default();
        let mut readings: Vec<Reading> = Vec::new();
        let mut pass = Pass::default();
        for (slot, answer) in self.slots.iter().zip(answers) {
            let about = slot.about;
            let mut errors = answer.trouble.count;
            let (present, reason) = match answer.outcome {
                Ok(found) => {
                    figures.extend(found.figures);
                    readings.extend(found.readings);
                    (true, answer.trouble.first.map(|first| format!("left out: {first}")))
                }
                Err(error) => {
                    missing.extend_from_slice(about.measures);
                    errors += u64::from(source::is_trouble(&error) && errors == 0);
                    let reason = match answer.trouble.first {
                        Some(first) if error.kind() == std::io::ErrorKind::NotFound => {
                            format!("nothing of it can be used: {first}")
                        }
                        Some(first) if !error.to_string().starts_with(first.as_str()) => format!("{error} ({first})"),
                        _ => error.to_string(),
                    };
                    (false, Some(reason))
                }
            };
            if errors > 0 {
                troubled.extend_from_slice(about.measures);
                pass.errors.push((about.name, errors));
            }
            pass.sources.push(SourceStatus { name: about.name.to_owned(), present, reason });
        }
        figures.retain(|figure| figure.value.is_finite());
        pass.signals = self.watch.take(&rules.thresholds, &figures, &missing, &troubled, now_ms);
        pass.readings = Readings::new(now_ms, readings);
        pass
    }
}

/// Asks all sources every so often, until cancelled.
pub async fn run(
    mut probes: Probes,
    every: Duration,
    mut rules: watch::Receiver<Arc<Rulebook>>,
    shared: Arc<Shared>,
    signals: mpsc::Sender<Signal>,
    cancel: CancellationToken,
) {
    let mut tick = tokio::time::interval(every.max(Duration::from_millis(100)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        if rules.has_changed().unwrap_or(false) {
            probes.watch.change_thresholds();
        }
        let book = Arc::clone(&rules.borrow_and_update());
        let sample = shared.with(|view| (view.sampled_ms > 0).then(|| Arc::new(view.sample.clone())));
        let pass = tokio::select! {
            () = cancel.cancelled() => return,
            pass = probes.ask_apart(sample, &book, boot_ms()) => pass,
        };
        pass.sources.into_iter().for_each(|status| shared.note_status(status));
        pass.errors.into_iter().for_each(|(source, count)| shared.count_source_errors(source, count));
        shared.readings.send_replace(Arc::new(pass.readings));
        for signal in pass.signals {
            if signals.send(signal).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{cell::RefCell, io, path::Path};

    use evergreen_api::ProblemKind;

    use super::{
        source::{Findings, Look, Trouble},
        *,
    };

    /// A recorded tree of files.
    pub(crate) fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        files.iter().for_each(|(path, text)| put(directory.path(), path, text));
        let root = Root::new(directory.path());
        (directory, root)
    }

    pub(crate) fn put(base: &Path, path: &str, text: &str) {
        let path = base.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A recorded host, for tests of one source.
    pub(crate) struct Host {
        kept: tempfile::TempDir,
        pub root: Root,
        pub settings: ProbeArgs,
        pub sample: Option<Arc<Sample>>,
        pub now_ms: u64,
        trouble: RefCell<Trouble>,
    }

    impl Host {
        pub(crate) fn of(files: &[(&str, &str)]) -> Self {
            let (kept, root) = tree(files);
            Self { kept, root, settings: ProbeArgs::default(), sample: None, now_ms: 0, trouble: RefCell::default() }
        }

        pub(crate) fn put(&mut self, path: &str, text: &str) {
            put(self.kept.path(), path, text);
        }

        pub(crate) fn read(&self, source: &mut dyn Source) -> io::Result<Findings> {
            let look = Look::new(&self.root, &self.settings, self.sample.as_ref(), self.now_ms);
            let found = source.read(&look);
            let (told, mut all) = (look.trouble(), self.trouble.borrow_mut());
            all.count += told.count;
            all.first = all.first.take().or(told.first);
            found
        }

        /// All trouble so far.
        pub(crate) fn trouble(&self) -> Trouble {
            self.trouble.borrow().clone()
        }
    }

    pub(crate) fn value(found: &Findings, measure: &str) -> f64 {
        found.figures.iter().find(|figure| figure.measure == measure).unwrap().value
    }

    fn told(signals: &[Signal]) -> Vec<String> {
        let tell = |signal: &Signal| match signal {
            Signal::Seen(sighting) => format!("{}: {}", sighting.about, sighting.detection.evidence.join("; ")),
            Signal::Over { rule, .. } => format!("over {rule}"),
            other => panic!("{other:?}"),
        };
        signals.iter().map(tell).collect()
    }

    #[test]
    fn an_empty_tree_has_sources_with_reasons_and_no_problems() {
        let (_kept, root) = tree(&[]);
        let mut probes = Probes::new(root, ProbeArgs::default());
        let pass = probes.ask(None, &Rulebook::built_in(), 0);
        assert!(pass.signals.iter().all(|signal| matches!(signal, Signal::Over { .. })), "{:?}", pass.signals);
        let absent: Vec<_> = pass.sources.iter().filter(|source| !source.present).collect();
        assert_eq!(absent.len(), pass.sources.len() - 1, "only the agent itself is there: {:?}", pass.sources);
        assert!(absent.iter().all(|source| source.reason.as_ref().is_some_and(|reason| !reason.is_empty())));
        assert!(pass.errors.is_empty(), "what is not there is no error: {:?}", pass.errors);
    }

    #[test]
    fn a_problem_is_raised_at_its_threshold_and_ends_below_it() {
        let (kept, root) = tree(&[("proc/sys/fs/file-nr", "9500 0 10000")]);
        let mut probes = Probes::of(root, ProbeArgs::default(), vec![Box::new(limits::FileDescriptors)]);
        let rules = Rulebook::built_in();
        let mut ask = |now| {
            let told = told(&probes.ask(None, &rules, now).signals);
            told.into_iter().filter(|signal| signal.contains("FileDescriptors")).collect::<Vec<_>>()
        };
        let raised = ["FileDescriptorsExhausted: 9500 of 10000 open files"];
        assert_eq!(ask(0), raised);
        put(kept.path(), "proc/sys/fs/file-nr", "8500 0 10000");
        assert_eq!(ask(10_000).len(), 1, "between the two figures it stays");
        std::fs::remove_file(kept.path().join("proc/sys/fs/file-nr")).unwrap();
        assert!(ask(20_000).is_empty(), "what cannot be read ends nothing");
        put(kept.path(), "proc/sys/fs/file-nr", "1000 0 10000");
        assert_eq!(ask(30_000), ["over threshold/FileDescriptorsExhausted"]);
        assert!(ask(40_000).is_empty());
    }

    #[test]
    fn a_source_that_lies_in_part_is_present_with_a_reason_and_counted() {
        let mc = "sys/devices/system/edac/mc";
        let (_kept, root) = tree(&[(&format!("{mc}/mc0/ce_count"), "-7"), (&format!("{mc}/mc1/ce_count"), "3")]);
        let mut probes = Probes::of(root, ProbeArgs::default(), vec![Box::<hardware::MemoryErrors>::default()]);
        let pass = probes.ask(None, &Rulebook::built_in(), 0);
        assert!(pass.sources[0].present);
        let reason = "left out: sys/devices/system/edac/mc/mc0/ce_count holds no number that it may";
        assert_eq!(pass.sources[0].reason.as_deref(), Some(reason));
        assert_eq!(pass.errors, [("edac", 1)]);
        assert_eq!(pass.readings.all.len(), 1);
    }

    #[test]
    fn conditions_of_thresholds_have_a_rule_that_is_known_and_a_foster() {
        let rules = Rulebook::built_in();
        let about = ProblemKind::PidsExhausted.into();
        assert!(rules.knows(&thresholds::rule_id(about)));
        assert!(rules.foster(about).unwrap().watched);
    }
}
