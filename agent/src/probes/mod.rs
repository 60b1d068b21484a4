//! Health sources that are asked every few seconds, and what their figures mean by the thresholds of the rules.
//!
//! Each source is present, or absent with its reason; one that is absent neither raises nor ends anything. Sources only
//! measure; what is a problem is said in data ([`thresholds`]).

mod counters;
mod hardware;
mod limits;
mod services;
pub mod thresholds;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use http::Uri;
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use self::{
    hardware::Hardware,
    limits::Mounts,
    services::Patient,
    thresholds::{Figure, Watch},
};
use crate::{clock::boot_ms, health::Signal, host::Root, rules::Rulebook, shared::Shared, sources::Filesystem};

/// What is asked beyond the host's own files.
#[derive(Clone, Debug, Default, Args)]
pub struct ProbeArgs {
    /// Where the kubelet says whether it is well; http://127.0.0.1:10248/healthz when left out and the host has a kubelet.
    #[arg(long, env = "EVERGREEN_KUBELET_HEALTHZ", value_name = "URL")]
    pub kubelet_healthz: Option<Uri>,
    /// Socket of the container runtime, below --root; containerd's or CRI-O's usual one when left out.
    #[arg(long, env = "EVERGREEN_RUNTIME_SOCKET", value_name = "PATH")]
    pub runtime_socket: Option<PathBuf>,
    /// A name that must resolve; several times, or with commas.
    #[arg(long, env = "EVERGREEN_DNS_NAME", value_name = "NAME", value_delimiter = ',')]
    pub dns_name: Vec<String>,
    /// A file of certificates in PEM whose end is watched, below --root; several times, or with commas. The kubelet's
    /// own when left out.
    #[arg(long, env = "EVERGREEN_CERTIFICATE", value_name = "PATH", value_delimiter = ',')]
    pub certificate: Vec<PathBuf>,
}

/// How one source went.
type Read = (&'static str, &'static [&'static str], io::Result<Vec<Figure>>);

/// All sources of one host.
#[derive(Debug)]
pub struct Probes {
    root: Root,
    settings: ProbeArgs,
    hardware: Hardware,
    mounts: Mounts,
    kubelet: Patient,
    runtime: Patient,
    names: Vec<Patient>,
    watch: Watch,
}

impl Probes {
    /// Sources that were not asked yet.
    pub fn new(root: Root, settings: ProbeArgs) -> Self {
        Self {
            root,
            settings,
            hardware: Hardware::default(),
            mounts: Mounts::default(),
            kubelet: Patient::default(),
            runtime: Patient::default(),
            names: Vec::new(),
            watch: Watch::default(),
        }
    }

    /// Asks all sources once. `filesystems` are what the collector read last, with its own bound on mounts that hang.
    pub fn ask(
        &mut self,
        filesystems: Option<&[Filesystem]>,
        rules: &Rulebook,
        now_ms: u64,
        mut note: impl FnMut(&'static str, Result<(), String>),
    ) -> Vec<Signal> {
        let (root, settings) = (&self.root, &self.settings);
        let mounts = filesystems.map(|filesystems| self.mounts.figures(root, filesystems));
        let mounts = mounts.ok_or_else(|| io::Error::other("the mounts were not read yet"));
        let reads: [Read; 12] = [
            ("file-descriptors", &["file-descriptors.used"], limits::file_descriptors(root)),
            ("pids", &["pids.used"], limits::pids(root)),
            ("conntrack", &["conntrack.used"], limits::conntrack(root)),
            ("mounts", &["filesystem.inodes.used", "filesystem.remounted", "filesystem.silent"], mounts),
            (
                "edac",
                &["edac.corrected.per-hour", "edac.corrected.trend", "edac.uncorrected"],
                self.hardware.memory_errors(root, now_ms),
            ),
            ("thermal-throttle", &["thermal.throttles"], self.hardware.heat(root, now_ms)),
            ("mdstat", &["raid.missing"], hardware::arrays(root)),
            ("links", &["link.changes"], self.hardware.links(root, now_ms)),
            ("clock", &["clock.unsynchronised"], services::clock(root)),
            (
                "kubelet",
                &["kubelet.failing"],
                services::kubelet(root, settings.kubelet_healthz.as_ref(), &mut self.kubelet),
            ),
            (
                "container-runtime",
                &["runtime.failing"],
                services::runtime(root, settings.runtime_socket.as_deref(), &mut self.runtime),
            ),
            ("dns", &["dns.failing"], services::dns(&settings.dns_name, &mut self.names)),
        ];
        let certificates = services::certificates(root, &settings.certificate, jiff::Timestamp::now());
        let certificates: Read = ("certificates", &["certificate.days"], certificates);
        let (mut figures, mut missing) = (Vec::new(), Vec::new());
        for (name, measures, outcome) in reads.into_iter().chain([certificates]) {
            match outcome {
                Ok(found) => {
                    figures.extend(found);
                    note(name, Ok(()));
                }
                Err(reason) => {
                    missing.extend_from_slice(measures);
                    note(name, Err(reason.to_string()));
                }
            }
        }
        self.watch.take(&rules.thresholds, &figures, &missing, now_ms)
    }
}

/// Asks all sources every so often, until cancelled. Off the runtime's own threads, because files and names may block.
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
        let noted = Arc::clone(&shared);
        let asked = tokio::task::spawn_blocking(move || {
            let filesystems = noted.with(|view| {
                view.sources
                    .iter()
                    .any(|source| source.name == "filesystems" && source.present)
                    .then(|| view.sample.filesystems.clone())
            });
            let note = |name: &'static str, outcome| noted.note_source(name, outcome);
            let found = probes.ask(filesystems.as_deref(), &book, boot_ms(), note);
            (probes, found)
        });
        let found = match asked.await {
            Ok((back, found)) => {
                probes = back;
                found
            }
            Err(error) => {
                tracing::error!(%error, "health sources are no longer asked");
                return;
            }
        };
        for signal in found {
            if signals.send(signal).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use evergreen_api::ProblemKind;

    use super::*;

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
        let mut absent = Vec::new();
        let mut probes = Probes::new(root, ProbeArgs::default());
        let found = probes.ask(None, &Rulebook::built_in(), 0, |name, outcome| absent.push((name, outcome)));
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(absent.len(), 13);
        assert!(
            absent.iter().all(|(_, outcome)| outcome.as_ref().is_err_and(|reason| !reason.is_empty())),
            "{absent:?}"
        );
    }

    #[test]
    fn a_problem_is_raised_at_its_threshold_and_ends_below_it() {
        let (kept, root) = tree(&[("proc/sys/fs/file-nr", "9500 0 10000")]);
        let mut probes = Probes::new(root, ProbeArgs::default());
        let rules = Rulebook::built_in();
        let mut ask = |now| told(&probes.ask(None, &rules, now, |_, _| ()));
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
    fn conditions_of_thresholds_have_a_rule_that_is_known_and_a_foster() {
        let rules = Rulebook::built_in();
        let about = ProblemKind::PidsExhausted.into();
        assert!(rules.knows(&thresholds::rule_id(about)));
        assert!(rules.foster(about).unwrap().watched);
    }
}
