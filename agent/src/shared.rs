//! What the exporters show: the latest of everything, behind one lock that is never held over a wait.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use evergreen_api::resources::{EnergyProvenance, NodePrediction, NodeProblem, SourceStatus};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::{
    clock::boot_ms,
    conditions::ConditionBook,
    energy::{EnergyView, WallBoard},
    grants::GrantBook,
    kernel::position::{Losses, Position},
    publish::pods::{PodName, PodNames},
    sources::{Sample, series::Readings},
};

/// The latest of everything.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Sources that are sampled.
    pub sample: Sample,
    /// Which sources are there.
    pub sources: Vec<SourceStatus>,
    /// Energy.
    pub energy: EnergyView,
    /// Raised problems.
    pub problems: Vec<NodeProblem>,
    /// `ok`, or the severity of the worst problem.
    pub verdict: String,
    /// What is to be expected.
    pub predictions: Vec<NodePrediction>,
    /// When it was sampled, milliseconds since boot; 0 before the first sample.
    pub sampled_ms: u64,
}

/// State of the kernel log's reader.
#[derive(Debug, Default)]
pub struct KernelLogState {
    outcome: RwLock<Option<Result<(), String>>>,
    /// Messages read.
    pub messages: AtomicU64,
    /// Overruns of the kernel's ring.
    pub overruns: AtomicU64,
    /// Records that were lost in them.
    pub lost: AtomicU64,
    /// Times the reader met a fault of its own and was started anew.
    pub faults: AtomicU64,
    /// When the reader last came by, milliseconds since boot.
    alive_ms: AtomicU64,
}

/// A reader that was not seen for so long hangs.
const READER_HANGS_MS: u64 = 30_000;

impl KernelLogState {
    /// Notes that the reader came by.
    pub fn is_alive(&self) {
        self.alive_ms.store(boot_ms().max(1), Ordering::Relaxed);
    }

    /// Notes how a step of reading went.
    pub fn note(&self, outcome: Result<(), String>, losses: &Losses) {
        self.overruns.store(losses.overruns, Ordering::Relaxed);
        self.lost.store(losses.lost_records, Ordering::Relaxed);
        self.is_alive();
        if self.outcome.read().as_ref() == Some(&outcome) {
            return;
        }
        match &outcome {
            Ok(()) => tracing::info!("reading the kernel log"),
            Err(reason) => tracing::warn!(%reason, "the kernel log cannot be read"),
        }
        *self.outcome.write() = Some(outcome);
    }

    fn status(&self) -> SourceStatus {
        let outcome = self.outcome.read().clone();
        let seen = self.alive_ms.load(Ordering::Relaxed);
        let away = boot_ms().saturating_sub(seen);
        let reason = match outcome {
            Some(_) if seen > 0 && away > READER_HANGS_MS => {
                Some(format!("its reader has not come back for {} s", away / 1000))
            }
            Some(Ok(())) => None,
            Some(Err(reason)) => Some(reason),
            None => Some("not read yet".into()),
        };
        SourceStatus { name: "kmsg".into(), present: reason.is_none(), reason }
    }
}

/// Shared between the parts of the agent.
pub struct Shared {
    /// Name of the node.
    pub node: String,
    /// Name of its site.
    pub site: String,
    view: RwLock<View>,
    /// Kernel log reader.
    pub kernel_log: KernelLogState,
    /// Sources that are read by others than the collector.
    others: RwLock<BTreeMap<String, SourceStatus>>,
    /// How often each source met something that is not what it should be.
    source_errors: RwLock<BTreeMap<String, u64>>,
    /// The vital series as the health sources read them last; whoever predicts subscribes.
    pub readings: watch::Sender<Arc<Readings>>,
    /// Where logs of monitors were read up to by the agent before this one.
    pub log_positions: Mutex<BTreeMap<String, Position>>,
    /// Names of pods.
    pub pod_names: PodNames,
    /// Power of the node as the site's controller asked its management controller for it.
    pub wall: WallBoard,
    /// Grants of the site.
    pub grants: Arc<Mutex<GrantBook>>,
    /// Whether the state was written to the cluster once, or there is none.
    pub published: Arc<AtomicBool>,
}

impl Shared {
    /// State of an agent that has read nothing.
    pub fn new(node: String, site: String, grants: GrantBook, has_cluster: bool) -> Self {
        Self {
            node,
            site,
            view: RwLock::default(),
            kernel_log: KernelLogState::default(),
            others: RwLock::default(),
            log_positions: Mutex::default(),
            source_errors: RwLock::default(),
            readings: watch::Sender::default(),
            pod_names: Arc::new(RwLock::new(HashMap::new())),
            wall: WallBoard::default(),
            grants: Arc::new(Mutex::new(grants)),
            published: Arc::new(AtomicBool::new(!has_cluster)),
        }
    }

    /// Runs something on the latest view.
    pub fn with<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read())
    }

    /// Takes over a new sample.
    pub fn set_sample(&self, sample: Sample, mut sources: Vec<SourceStatus>, energy: EnergyView) {
        sources.push(self.kernel_log.status());
        sources.extend(self.others.read().values().cloned());
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        let mut view = self.view.write();
        view.sample = sample;
        view.sources = sources;
        view.energy = energy;
        view.sampled_ms = boot_ms().max(1);
    }

    /// Notes how reading a source went that the collector does not read.
    pub fn note_source(&self, name: &str, outcome: Result<(), String>) {
        self.note_status(SourceStatus { name: name.to_owned(), present: outcome.is_ok(), reason: outcome.err() });
    }

    /// Notes how a source is; one that is there may have a reason too: what of it was left out.
    pub fn note_status(&self, status: SourceStatus) {
        if self.others.read().get(&status.name) == Some(&status) {
            return;
        }
        match &status.reason {
            Some(reason) if status.present => tracing::info!(source = status.name, reason, "source is there in part"),
            Some(reason) => tracing::info!(source = status.name, reason, "source is absent"),
            None => {}
        }
        self.others.write().insert(status.name.clone(), status);
    }

    /// Counts trouble with a source.
    pub fn count_source_errors(&self, source: &str, count: u64) {
        let mut errors = self.source_errors.write();
        let all = errors.entry(source.to_owned()).or_default();
        *all = all.saturating_add(count);
    }

    /// Trouble with sources so far, by name.
    pub fn source_errors(&self) -> BTreeMap<String, u64> {
        self.source_errors.read().clone()
    }

    /// Forgets sources whose names begin so: nobody reads them any more.
    pub fn forget_sources(&self, prefix: &str) {
        self.others.write().retain(|name, _| !name.starts_with(prefix));
    }

    /// Takes over the problems.
    pub fn set_problems(&self, book: &ConditionBook) {
        let mut view = self.view.write();
        view.problems = book.problems().cloned().collect();
        view.verdict = book.verdict().to_owned();
    }

    /// Takes over what is predicted.
    pub fn set_predictions(&self, predictions: Vec<NodePrediction>) {
        self.view.write().predictions = predictions;
    }

    /// Sources and energy source as the NodeHealth shows them.
    pub fn provenance(&self) -> (Vec<SourceStatus>, Option<EnergyProvenance>) {
        self.with(|view| {
            let energy = view.energy.origin.as_ref().map(|origin| EnergyProvenance {
                source: origin.source.clone(),
                provenance: origin.provenance.clone(),
                reason: view.energy.reason.clone(),
            });
            (view.sources.clone(), energy)
        })
    }

    /// Name of a pod, when it is known.
    pub fn pod_name(&self, uid: &str) -> Option<PodName> {
        self.pod_names.read().get(uid).cloned()
    }
}
