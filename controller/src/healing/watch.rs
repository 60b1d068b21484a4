//! Watches of everything that healing looks at, cut down before it is kept, into one bounded queue.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use evergreen_api::resources::{ChangeWindow, NodePrediction, Playbook, PlaybookRun};
use evergreen_playbooks::{
    board::EventView,
    view::{ObjectView, PodView},
};
use futures::{StreamExt, stream::BoxStream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::mpsc, task::JoinSet};

use super::trim::{self, TrimmedNode};
use evergreen_api::names;

/// Something that a watch saw.
#[derive(Debug)]
pub(crate) enum Observed {
    Node(Event<TrimmedNode>),
    /// By UID, whether it is on a node or not.
    Pod(Event<(String, Option<PodView>)>),
    Playbook(Event<Read<Playbook>>),
    Run(Event<Read<PlaybookRun>>),
    Window(Event<Read<ChangeWindow>>),
    /// The kind ChangeWindow is not installed, so there is none.
    NoWindows,
    /// An Event of Kubernetes.
    KubeEvent(Event<EventView>),
    /// What is predicted for a node, by its name.
    Predictions(Event<(String, Vec<NodePrediction>)>),
    /// An object of a kind that triggers name, cut down to what they read.
    Object((String, String), Event<ObjectView>),
}

/// An object that may not be readable.
#[derive(Clone, Debug)]
pub(crate) struct Read<K> {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) generation: Option<i64>,
    pub(crate) object: Result<Box<K>, String>,
}

/// Starts all watches; dropping the set ends them.
pub(crate) fn start(client: &Client, queue: &mpsc::Sender<Observed>) -> JoinSet<()> {
    let mut watches = JoinSet::new();
    let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default());
    // The time of a condition is set when it is taken in; here any will do.
    let nodes = trimmed(nodes.default_backoff(), |node| trim::node(&node, Timestamp::UNIX_EPOCH));
    watches.spawn(forward("nodes", nodes, Observed::Node, queue.clone()));
    let pods = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default());
    let pods = trimmed(pods.default_backoff(), |pod| (pod.uid().unwrap_or_default(), trim::pod(&pod)));
    watches.spawn(forward("pods", pods, Observed::Pod, queue.clone()));
    let playbooks = watcher(Api::<DeserializeGuard<Playbook>>::all(client.clone()), watcher::Config::default());
    watches.spawn(forward("playbooks", trimmed(playbooks.default_backoff(), read), Observed::Playbook, queue.clone()));
    let runs = Api::<DeserializeGuard<PlaybookRun>>::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let runs = watcher(runs, watcher::Config::default());
    watches.spawn(forward("playbook runs", trimmed(runs.default_backoff(), read), Observed::Run, queue.clone()));
    let windows = watcher(Api::<DeserializeGuard<ChangeWindow>>::all(client.clone()), watcher::Config::default());
    let windows = trimmed(windows.default_backoff(), read);
    let windows = told_when_absent(windows, queue.clone());
    watches.spawn(forward("change windows", windows, Observed::Window, queue.clone()));
    watches
}

/// Where the kind is not installed nobody can have written a freeze: healing goes on without, and says so.
fn told_when_absent(
    windows: Trimmed<Read<ChangeWindow>>,
    queue: mpsc::Sender<Observed>,
) -> Trimmed<Read<ChangeWindow>> {
    let (queue, told) = (Arc::new(queue), Arc::new(AtomicBool::new(false)));
    let looked = windows.then(move |event| {
        let (queue, told) = (queue.clone(), told.clone());
        async move {
            if event.as_ref().is_err_and(is_absent) && !told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "the kind ChangeWindow is not installed here: change freezes are not known, and playbooks run at any \
                     time; `evergreen crds | kubectl apply -f -` installs it"
                );
                // A queue that is closed ends the watch at its next event.
                let _ = queue.send(Observed::NoWindows).await;
            }
            event
        }
    });
    looked.boxed()
}

fn is_absent(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

fn read<K: Resource<DynamicType = ()>>(guarded: DeserializeGuard<K>) -> Read<K> {
    let meta = guarded.meta();
    Read {
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        generation: meta.generation,
        object: guarded.0.map(Box::new).map_err(|invalid| invalid.error),
    }
}

pub(crate) type Trimmed<T> = BoxStream<'static, Result<Event<T>, watcher::Error>>;

pub(crate) fn trimmed<K: Send + 'static, T: 'static>(
    events: impl futures::Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static,
    trim: impl Fn(K) -> T + Send + 'static,
) -> Trimmed<T> {
    let trimmed = events.map(move |event| {
        event.map(|event| match event {
            Event::Apply(object) => Event::Apply(trim(object)),
            Event::Delete(object) => Event::Delete(trim(object)),
            Event::Init => Event::Init,
            Event::InitApply(object) => Event::InitApply(trim(object)),
            Event::InitDone => Event::InitDone,
        })
    });
    trimmed.boxed()
}

pub(crate) async fn forward<T: Send + 'static>(
    what: &'static str,
    mut events: Trimmed<T>,
    observed: fn(Event<T>) -> Observed,
    queue: mpsc::Sender<Observed>,
) {
    let mut broken = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if broken {
                    tracing::info!("watching {what} again");
                }
                broken = false;
                if queue.send(observed(event)).await.is_err() {
                    return;
                }
            }
            // The watcher backs off and tries again by itself; one line a breakage is enough.
            Err(error) => {
                if !broken {
                    tracing::warn!(%error, "{what} cannot be watched; trying again until it works");
                }
                broken = true;
            }
        }
    }
}
