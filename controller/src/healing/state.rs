//! What healing knows right now: the last state of every object that it watches, and which runs it drives itself.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use evergreen_api::{
    TraceParent,
    resources::{ChangeWindow, NodePrediction, Playbook, PlaybookRun, PlaybookRunSpec, Windows},
};
use evergreen_playbooks::{
    board::{AlertView, Board, EventView},
    planner::{CompiledPlaybook, Facts, RunView},
    view::{NodeView, ObjectView, PodView},
    windows::Window,
};
use jiff::Timestamp;
use kube::runtime::watcher::Event;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{
    trim::{self, TrimmedNode},
    watch::{Observed, Read},
};

/// Whether an observation may change the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Touched {
    Nothing,
    Plan,
}

/// The state, and who waits for a change of which node.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    waiting: Mutex<HashMap<String, watch::Sender<u64>>>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes an observation in and wakes the driver of the node that it is about.
    pub(crate) fn apply(&self, observed: Observed, now: Timestamp) -> Touched {
        let mut nodes = Vec::new();
        let touched = self.lock().apply(observed, now, &mut nodes);
        self.wake(&nodes);
        touched
    }

    /// Takes in a node as an answer to an own call showed it, without waiting for the watch.
    pub(crate) fn node_answered(&self, node: TrimmedNode, now: Timestamp) {
        self.lock().put_node(node, now);
    }

    /// Changes whenever a node or its pods change.
    pub(crate) fn changes_of(&self, node: &str) -> watch::Receiver<u64> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, sender| !sender.is_closed());
        waiting.entry(node.to_owned()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    fn wake(&self, nodes: &[String]) {
        let waiting = self.waiting.lock();
        let waiters = nodes.iter().filter_map(|node| waiting.get(node));
        waiters.for_each(|waiter| waiter.send_modify(|changes| *changes += 1));
    }
}

#[derive(Default)]
pub(crate) struct State {
    nodes: HashMap<String, NodeEntry>,
    pods: HashMap<String, PodView>,
    pods_of: HashMap<String, HashSet<String>>,
    playbooks: BTreeMap<String, Arc<CompiledPlaybook>>,
    runs: BTreeMap<String, RunEntry>,
    /// Runs that this process drives, or is about to create.
    driven: BTreeMap<String, RunView>,
    board: Board,
    windows: BTreeMap<String, WindowEntry>,
    /// UIDs of the objects of a kind that were seen.
    objects: HashMap<(String, String), HashSet<String>>,
    storms: BTreeMap<String, Timestamp>,
    synced: Synced,
    relisted: Relisted,
}

struct NodeEntry {
    view: Arc<NodeView>,
    version: String,
    traces: BTreeMap<String, TraceParent>,
}

enum WindowEntry {
    Understood(Arc<Window>),
    /// It says something that cannot be understood: nothing is changed until it is repaired, because it may say just that.
    Wrong(String),
}

enum RunEntry {
    Readable(RunView),
    Unreadable,
}

#[derive(Default)]
struct Synced {
    nodes: bool,
    pods: bool,
    playbooks: bool,
    runs: bool,
    windows: bool,
}

/// Keys seen since a watch began to list again; what is not among them at the end is gone.
#[derive(Default)]
struct Relisted {
    nodes: HashSet<String>,
    pods: HashSet<String>,
    playbooks: HashSet<String>,
    runs: HashSet<String>,
    windows: HashSet<String>,
    objects: HashMap<(String, String), HashSet<String>>,
}

impl State {
    /// Whether everything has been listed once.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced.nodes && self.synced.pods && self.synced.playbooks && self.synced.runs && self.synced.windows
    }

    fn apply(&mut self, observed: Observed, now: Timestamp, woken: &mut Vec<String>) -> Touched {
        match observed {
            Observed::Node(event) => self.node_event(event, now, woken),
            Observed::Pod(event) => self.pod_event(event, woken),
            Observed::Playbook(event) => self.playbook_event(event),
            Observed::Run(event) => self.run_event(event),
            Observed::Window(event) => self.window_event(event),
            Observed::NoWindows => {
                self.synced.windows = true;
                Touched::Plan
            }
            Observed::KubeEvent(event) => self.kube_event(event, now),
            Observed::Predictions(event) => self.prediction_event(event, now),
            Observed::Object(kind, event) => self.object_event(kind, event, now),
        }
    }

    fn playbook_list(&self) -> Vec<Arc<CompiledPlaybook>> {
        self.playbooks.values().map(Arc::clone).collect()
    }

    /// Every accepted playbook.
    pub(crate) fn playbooks(&self) -> Vec<Arc<CompiledPlaybook>> {
        self.playbook_list()
    }

    fn kube_event(&mut self, event: Event<EventView>, now: Timestamp) -> Touched {
        match event {
            Event::Apply(event) | Event::InitApply(event) => {
                let playbooks = self.playbook_list();
                touched(self.board.event(&playbooks, &event, now))
            }
            _ => Touched::Nothing,
        }
    }

    fn prediction_event(&mut self, event: Event<(String, Vec<NodePrediction>)>, now: Timestamp) -> Touched {
        let (name, predictions) = match event {
            Event::Apply(health) | Event::InitApply(health) => health,
            Event::Delete((name, _)) => (name, Vec::new()),
            Event::Init | Event::InitDone => return Touched::Nothing,
        };
        let playbooks = self.playbook_list();
        let known = self.nodes.get(&name).map(|entry| Arc::clone(&entry.view));
        let node = known.unwrap_or_else(|| Arc::new(NodeView { name, ..NodeView::default() }));
        touched(self.board.predictions(&playbooks, &node, &predictions, now))
    }

    fn object_event(&mut self, kind: (String, String), event: Event<ObjectView>, now: Timestamp) -> Touched {
        match event {
            Event::Init => {
                self.relisted.objects.insert(kind, HashSet::new());
                Touched::Nothing
            }
            Event::InitDone => {
                let seen = self.relisted.objects.remove(&kind).unwrap_or_default();
                let known = self.objects.insert(kind, seen.clone()).unwrap_or_default();
                let gone = known.difference(&seen).map(|uid| self.board.object_gone(uid));
                touched(gone.fold(false, |any, gone| any | gone))
            }
            Event::Delete(object) => {
                self.objects.entry(kind).or_default().remove(&object.uid);
                touched(self.board.object_gone(&object.uid))
            }
            Event::Apply(object) | Event::InitApply(object) => {
                if let Some(relisted) = self.relisted.objects.get_mut(&kind) {
                    relisted.insert(object.uid.clone());
                }
                self.objects.entry(kind).or_default().insert(object.uid.clone());
                let playbooks = self.playbook_list();
                touched(self.board.object(&playbooks, &object, now))
            }
        }
    }

    /// Takes an alert in.
    pub(crate) fn alert(&mut self, alert: &AlertView, now: Timestamp) -> Touched {
        let playbooks = self.playbook_list();
        touched(self.board.alert(&playbooks, alert, now))
    }

    /// Raises what the time raises; returns when to ask again.
    pub(crate) fn tick(&mut self, now: Timestamp) -> Option<Timestamp> {
        let playbooks = self.playbook_list();
        self.board.tick(&playbooks, now)
    }

    /// Remembers what the plan said about storms.
    pub(crate) fn set_storms(&mut self, storms: BTreeMap<String, Timestamp>) {
        self.storms = storms;
    }

    /// Signals that were dropped because there were too many.
    pub(crate) fn dropped_signals(&self) -> u64 {
        self.board.dropped()
    }

    fn window_event(&mut self, event: Event<Read<ChangeWindow>>) -> Touched {
        match event {
            Event::Init => {
                self.relisted.windows.clear();
                return Touched::Nothing;
            }
            Event::InitDone => {
                self.synced.windows = true;
                let seen = std::mem::take(&mut self.relisted.windows);
                self.windows.retain(|name, _| seen.contains(name));
            }
            Event::Delete(read) => drop(self.windows.remove(&read.name)),
            Event::Apply(read) | Event::InitApply(read) => {
                self.relisted.windows.insert(read.name.clone());
                let window =
                    read.object.map_err(|_| ()).and_then(|window| Window::new(&read.name, window.spec).map_err(drop));
                let entry = match window {
                    Ok(window) => WindowEntry::Understood(Arc::new(window)),
                    Err(()) => WindowEntry::Wrong(format!("ChangeWindow {} cannot be understood", read.name)),
                };
                self.windows.insert(read.name, entry);
            }
        }
        Touched::Plan
    }

    /// ChangeWindows that cannot be understood stop everything.
    fn wrong_window(&self) -> Option<String> {
        self.windows.values().find_map(|entry| match entry {
            WindowEntry::Wrong(why) => Some(why.clone()),
            WindowEntry::Understood(_) => None,
        })
    }

    fn understood_windows(&self) -> impl Iterator<Item = &Arc<Window>> {
        self.windows.values().filter_map(|entry| match entry {
            WindowEntry::Understood(window) => Some(window),
            WindowEntry::Wrong(_) => None,
        })
    }

    /// Why a run may not begin its next step now.
    pub(crate) fn stopped(&self, spec: &PlaybookRunSpec, now: Timestamp) -> Option<String> {
        if spec.plan.guards.windows == Windows::Ignore {
            return None;
        }
        let frozen = self.understood_windows().filter_map(|window| window.frozen(&spec.playbook, now));
        self.wrong_window().or_else(|| frozen.max_by_key(|frozen| frozen.until).map(|frozen| frozen.why))
    }

    fn node_event(&mut self, event: Event<TrimmedNode>, now: Timestamp, woken: &mut Vec<String>) -> Touched {
        match event {
            Event::Init => self.relisted.nodes.clear(),
            Event::InitDone => {
                self.synced.nodes = true;
                let seen = std::mem::take(&mut self.relisted.nodes);
                woken.extend(self.nodes.keys().filter(|name| !seen.contains(*name)).cloned());
                self.nodes.retain(|name, _| seen.contains(name));
                return Touched::Plan;
            }
            Event::Delete(node) => {
                self.nodes.remove(&node.view.name);
                woken.push(node.view.name);
                return Touched::Plan;
            }
            Event::Apply(node) | Event::InitApply(node) => {
                let name = node.view.name.clone();
                self.relisted.nodes.insert(name.clone());
                if self.put_node(node, now) {
                    woken.push(name);
                    return Touched::Plan;
                }
            }
        }
        Touched::Nothing
    }

    /// Returns whether anything changed that decisions depend on.
    fn put_node(&mut self, mut node: TrimmedNode, now: Timestamp) -> bool {
        let known = self.nodes.get(&node.view.name).filter(|known| known.view.uid == node.view.uid);
        for (type_, condition) in &mut node.view.conditions {
            let before = known.and_then(|known| known.view.conditions.get(type_));
            condition.seen_since =
                before.filter(|before| before.status == condition.status).map_or(now, |before| before.seen_since);
        }
        node.view.pod_count = self.pod_count(&node.view.name);
        let changed = known.is_none_or(|known| *known.view != node.view);
        let view = match known {
            Some(known) if !changed => Arc::clone(&known.view),
            _ => Arc::new(node.view),
        };
        let name = view.name.clone();
        self.nodes.insert(name, NodeEntry { view, version: node.version, traces: node.traces });
        changed
    }

    fn pod_count(&self, node: &str) -> u32 {
        let pods = self.pods_on(node).filter(|pod| !pod.finished).count();
        u32::try_from(pods).unwrap_or(u32::MAX)
    }

    fn pod_event(&mut self, event: Event<(String, Option<PodView>)>, woken: &mut Vec<String>) -> Touched {
        // The end of the first list counts too: it may be what the first plan was waiting for.
        let listed_before = self.synced.pods;
        let nodes = match event {
            Event::Init => {
                self.relisted.pods.clear();
                Vec::new()
            }
            Event::InitDone => {
                self.synced.pods = true;
                let seen = std::mem::take(&mut self.relisted.pods);
                let gone: Vec<String> = self.pods.keys().filter(|uid| !seen.contains(*uid)).cloned().collect();
                gone.iter().filter_map(|uid| self.put_pod(uid, None)).collect()
            }
            Event::Delete((uid, _)) => self.put_pod(&uid, None).into_iter().collect(),
            Event::Apply((uid, pod)) | Event::InitApply((uid, pod)) => {
                self.relisted.pods.insert(uid.clone());
                self.put_pod(&uid, pod).into_iter().collect()
            }
        };
        let mut touched = if listed_before { Touched::Nothing } else { Touched::Plan };
        for node in nodes {
            let count = self.pod_count(&node);
            if let Some(entry) = self.nodes.get_mut(&node).filter(|entry| entry.view.pod_count != count) {
                Arc::make_mut(&mut entry.view).pod_count = count;
                // Conditions raise runs, pods do not; a match that waits for fewer pods is asked again.
                if entry.view.conditions.iter().any(|(type_, c)| type_ != "Ready" && c.status == "True") {
                    touched = Touched::Plan;
                }
            }
            woken.push(node);
        }
        touched
    }

    /// Returns the node whose pods changed.
    fn put_pod(&mut self, uid: &str, pod: Option<PodView>) -> Option<String> {
        match pod {
            Some(pod) if self.pods.get(uid) == Some(&pod) => None,
            Some(pod) => {
                let node = pod.node.clone();
                self.pods_of.entry(node.clone()).or_default().insert(uid.to_owned());
                self.pods.insert(uid.to_owned(), pod);
                Some(node)
            }
            None => {
                let node = self.pods.remove(uid)?.node;
                if let Some(pods) = self.pods_of.get_mut(&node) {
                    pods.remove(uid);
                    if pods.is_empty() {
                        self.pods_of.remove(&node);
                    }
                }
                Some(node)
            }
        }
    }

    fn playbook_event(&mut self, event: Event<Read<Playbook>>) -> Touched {
        match event {
            Event::Init => {
                self.relisted.playbooks.clear();
                return Touched::Nothing;
            }
            Event::InitDone => {
                self.synced.playbooks = true;
                let seen = std::mem::take(&mut self.relisted.playbooks);
                let gone: Vec<String> = self.playbooks.keys().filter(|name| !seen.contains(*name)).cloned().collect();
                gone.iter().for_each(|name| self.board.forget(name));
                self.playbooks.retain(|name, _| seen.contains(name));
            }
            Event::Delete(read) => {
                self.board.forget(&read.name);
                self.playbooks.remove(&read.name);
            }
            Event::Apply(read) | Event::InitApply(read) => {
                self.relisted.playbooks.insert(read.name.clone());
                match read.object {
                    Ok(playbook)
                        if self.playbooks.get(&read.name).is_some_and(|known| *known.spec == playbook.spec) =>
                    {
                        return Touched::Nothing;
                    }
                    Ok(playbook) => match self.compiled(&read.name, playbook.spec) {
                        Ok(compiled) => drop(self.playbooks.insert(read.name, Arc::new(compiled))),
                        // What is wrong with it is told by its Accepted condition.
                        Err(_) => drop(self.playbooks.remove(&read.name)),
                    },
                    Err(_) => drop(self.playbooks.remove(&read.name)),
                }
            }
        }
        Touched::Plan
    }

    fn compiled(
        &mut self,
        name: &str,
        spec: evergreen_api::resources::PlaybookSpec,
    ) -> Result<CompiledPlaybook, Vec<evergreen_api::FieldError>> {
        self.board.forget(name);
        CompiledPlaybook::new(name, spec)
    }

    fn run_event(&mut self, event: Event<Read<PlaybookRun>>) -> Touched {
        match event {
            Event::Init => {
                self.relisted.runs.clear();
                return Touched::Nothing;
            }
            Event::InitDone => {
                self.synced.runs = true;
                let seen = std::mem::take(&mut self.relisted.runs);
                self.runs.retain(|name, _| seen.contains(name));
            }
            Event::Delete(read) => {
                self.runs.remove(&read.name);
            }
            Event::Apply(read) | Event::InitApply(read) => {
                self.relisted.runs.insert(read.name.clone());
                let entry = match read.object {
                    Ok(run) => RunEntry::Readable(trim::run(&run)),
                    Err(error) => {
                        tracing::error!(run = %read.name, %error, "a run cannot be read; nothing new is started");
                        RunEntry::Unreadable
                    }
                };
                self.runs.insert(read.name, entry);
            }
        }
        Touched::Plan
    }

    /// Everything that the planner sees.
    pub(crate) fn facts(&self) -> Facts {
        let mut runs: BTreeMap<&str, &RunView> = self
            .runs
            .iter()
            .filter_map(|(name, entry)| match entry {
                RunEntry::Readable(view) => Some((name.as_str(), view)),
                RunEntry::Unreadable => None,
            })
            .collect();
        runs.extend(self.driven.iter().map(|(name, view)| (name.as_str(), view)));
        let unreadable = self.runs.iter().filter(|(_, entry)| matches!(entry, RunEntry::Unreadable));
        let mut nodes: Vec<_> = self.nodes.values().map(|entry| Arc::clone(&entry.view)).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Facts {
            nodes,
            playbooks: self.playbooks.values().cloned().collect(),
            runs: runs.into_values().cloned().collect(),
            unreadable_runs: unreadable.map(|(name, _)| name.clone()).collect(),
            signals: self.board.signals(),
            storms: self.storms.clone(),
            windows: self.understood_windows().map(Arc::clone).collect(),
            paused: self.wrong_window(),
        }
    }

    /// The node of a run, with the version that was looked at; `None` when it is gone or another one has its name.
    pub(crate) fn node(&self, name: &str, uid: &str) -> Option<(NodeView, String)> {
        let entry = self.nodes.get(name).filter(|entry| entry.view.uid == uid)?;
        Some(((*entry.view).clone(), entry.version.clone()))
    }

    /// Trace context of a condition of a node.
    pub(crate) fn trace(&self, node: &str, condition: &str) -> Option<TraceParent> {
        self.nodes.get(node)?.traces.get(condition).copied()
    }

    /// Pods on a node.
    pub(crate) fn pods_on(&self, node: &str) -> impl Iterator<Item = &PodView> {
        self.pods_of.get(node).into_iter().flatten().filter_map(|uid| self.pods.get(uid))
    }

    /// Counts a run that is about to be created, or driven, from now on.
    pub(crate) fn reserve(&mut self, view: RunView) {
        self.driven.insert(view.name.clone(), view);
    }

    /// Nobody drives it any more; its last state counts until the watch says otherwise.
    pub(crate) fn release(&mut self, name: &str, last: Option<RunView>) {
        self.driven.remove(name);
        if let Some(view) = last {
            self.runs.insert(name.to_owned(), RunEntry::Readable(view));
        }
    }

    /// Runs that are under way and driven by nobody; from now on they count as driven.
    pub(crate) fn take_undriven(&mut self) -> Vec<String> {
        let undriven: Vec<RunView> = self
            .runs
            .values()
            .filter_map(|entry| match entry {
                RunEntry::Readable(view) if !view.phase.is_final() && !self.driven.contains_key(&view.name) => {
                    Some(view.clone())
                }
                _ => None,
            })
            .collect();
        let names = undriven.iter().map(|view| view.name.clone()).collect();
        undriven.into_iter().for_each(|view| self.reserve(view));
        names
    }
}

const fn touched(changed: bool) -> Touched {
    if changed { Touched::Plan } else { Touched::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends the first list of a watch.
    fn listed(state: &mut State, watch: &str) -> Touched {
        let observed = match watch {
            "nodes" => Observed::Node(Event::InitDone),
            "pods" => Observed::Pod(Event::InitDone),
            "playbooks" => Observed::Playbook(Event::InitDone),
            "windows" => Observed::Window(Event::InitDone),
            _ => Observed::Run(Event::InitDone),
        };
        state.apply(observed, Timestamp::UNIX_EPOCH, &mut Vec::new())
    }

    #[test]
    fn whichever_list_ends_last_the_first_plan_is_made() {
        let watches = ["nodes", "pods", "playbooks", "runs", "windows"];
        for last in watches {
            let mut state = State::default();
            for first in watches.into_iter().filter(|watch| *watch != last) {
                listed(&mut state, first);
                assert!(!state.is_synced());
            }
            assert_eq!(listed(&mut state, last), Touched::Plan, "{last} came last and nothing was planned");
            assert!(state.is_synced());
        }
    }
}
