//! The kill switch: stops what moves services by itself, for the fleet, a site or a group.
//!
//! It is on while any of three says so: ConfigMap `evergreen-pause`; the file given with `--pause-file`; the signal
//! SIGUSR1, until SIGUSR2. File and signal need no API server. What the ConfigMap said last stands while it cannot be read.
//!
//! Stops: moves of services, also those that people ask for; playbook runs, also those under way, between two steps; drills. Goes on: leases, grants of the
//! sites that hold a group, the return of a restarted controller to what its site held, health, energy, reports.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use parking_lot::RwLock;

/// One reason why something is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// `fleet`, `site.<name>` or `group.<name>`.
    pub scope: String,
    /// Who and why, as they wrote it.
    pub why: String,
}

#[derive(Debug, Default)]
struct State {
    object: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
    signal: bool,
}

/// The switch; clones share it.
#[derive(Clone, Debug)]
pub struct KillSwitch {
    site: String,
    state: Arc<RwLock<State>>,
}

impl KillSwitch {
    /// A switch that is off.
    pub fn new(site: &str) -> Self {
        Self { site: site.to_owned(), state: Arc::default() }
    }

    /// What the ConfigMap says now.
    pub fn object(&self, data: BTreeMap<String, String>) {
        self.tell(|state| std::mem::replace(&mut state.object, data.clone()) != data, "ConfigMap evergreen-pause");
    }

    /// The signal.
    pub fn signal(&self, on: bool) {
        self.tell(|state| std::mem::replace(&mut state.signal, on) != on, "a signal");
    }

    /// Reads the file, if there is one: lines of `<scope> <who and why>`; a file without such a line stops the site.
    pub fn look_at_file(&self, path: &PathBuf) {
        let file = match std::fs::read_to_string(path) {
            Ok(text) => self.lines(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            // Somebody wanted to say something: stop rather than guess.
            Err(error) => {
                BTreeMap::from([(format!("site.{}", self.site), format!("the pause file cannot be read: {error}"))])
            }
        };
        self.tell(|state| std::mem::replace(&mut state.file, file.clone()) != file, "the pause file");
    }

    fn lines(&self, text: &str) -> BTreeMap<String, String> {
        let scoped = |line: &str| {
            let (scope, why) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            is_scope(scope).then(|| (scope.to_owned(), why.trim().to_owned()))
        };
        let known: BTreeMap<String, String> = text.lines().filter_map(scoped).collect();
        if known.is_empty() {
            return BTreeMap::from([(format!("site.{}", self.site), text.trim().chars().take(200).collect())]);
        }
        known
    }

    fn tell(&self, change: impl FnOnce(&mut State) -> bool, by: &str) {
        let changed = change(&mut self.state.write());
        if changed {
            let stops = self.stops();
            if stops.is_empty() {
                tracing::warn!(by, "kill switch off: moves, playbooks and drills go on as their specs say");
            }
            for stop in stops {
                tracing::warn!(
                    by,
                    scope = stop.scope,
                    why = stop.why,
                    "kill switch on: moves, playbook runs and drills are stopped; leases, grants and health go on"
                );
            }
        }
    }

    /// Everything that is stopped.
    pub fn stops(&self) -> Vec<Stop> {
        let state = self.state.read();
        let stop = |(scope, why): (&String, &String)| Stop { scope: scope.clone(), why: why.clone() };
        let said = state.object.iter().chain(&state.file).filter(|(scope, _)| is_scope(scope)).map(stop);
        let signal = state.signal.then(|| Stop { scope: format!("site.{}", self.site), why: "SIGUSR1".into() });
        said.chain(signal).collect()
    }

    /// Why a group is stopped here, if it is.
    pub fn group(&self, group: &str) -> Option<String> {
        self.first(|scope| scope == format!("group.{group}"))
    }

    /// Why everything at this site is stopped, if it is.
    pub fn everything(&self) -> Option<String> {
        self.first(|_| false)
    }

    fn first(&self, also: impl Fn(&str) -> bool) -> Option<String> {
        let own = format!("site.{}", self.site);
        let stop =
            self.stops().into_iter().find(|stop| stop.scope == "fleet" || stop.scope == own || also(&stop.scope))?;
        Some(if stop.why.is_empty() { stop.scope } else { format!("{}: {}", stop.scope, stop.why) })
    }
}

fn is_scope(text: &str) -> bool {
    text == "fleet"
        || ["site.", "group."].iter().any(|prefix| text.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(scope: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(scope.to_owned(), "li: storage is being moved".to_owned())])
    }

    #[test]
    fn each_scope_stops_what_it_names() {
        let switch = KillSwitch::new("dc-a");
        assert_eq!(switch.group("g"), None);
        switch.object(object("group.g"));
        assert!(switch.group("g").is_some() && switch.group("h").is_none() && switch.everything().is_none());
        switch.object(object("site.dc-b"));
        assert_eq!(switch.group("g"), None);
        switch.object(object("site.dc-a"));
        assert!(switch.group("h").is_some_and(|why| why.contains("storage")) && switch.everything().is_some());
        switch.object(object("fleet"));
        assert!(switch.everything().is_some());
        switch.object(object("nonsense"));
        assert_eq!(switch.everything(), None);
    }

    #[test]
    fn a_file_and_a_signal_stop_without_an_api_server_and_each_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        let switch = KillSwitch::new("dc-a");
        switch.look_at_file(&path);
        assert_eq!(switch.everything(), None);
        std::fs::write(&path, "something is wrong\n").unwrap();
        switch.look_at_file(&path);
        assert_eq!(switch.everything().as_deref(), Some("site.dc-a: something is wrong"));
        std::fs::write(&path, "group.g li: looks odd\n").unwrap();
        switch.look_at_file(&path);
        assert!(switch.everything().is_none() && switch.group("g").is_some());
        switch.signal(true);
        std::fs::remove_file(&path).unwrap();
        switch.look_at_file(&path);
        assert!(switch.everything().is_some(), "the signal still says so");
        switch.signal(false);
        assert_eq!(switch.group("g"), None);
    }
}
