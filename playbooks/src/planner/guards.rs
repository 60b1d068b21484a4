//! Guards: what must hold before a run starts, in the order in which people want to read it.

use std::collections::BTreeSet;

use evergreen_api::{
    names,
    resources::{Scope, Windows},
};
use jiff::Timestamp;

use super::{BlockedBy, Planning, Refusal, RunView, candidates::Candidate, later};

/// Runs of different playbooks for one object within [`FIGHT_WINDOW`], from which on they are taken to undo each other's
/// work: two full rounds of two playbooks, and one more.
const FIGHT_RUNS: usize = 5;
const FIGHT_WINDOW: std::time::Duration = std::time::Duration::from_secs(3_600);

impl<'a> Planning<'a> {
    /// All guards; the reasons why it may start, or the first that forbids it.
    pub(super) fn guards(&self, candidate: &Candidate<'_>) -> Result<Vec<String>, Refusal> {
        let guards = &candidate.playbook.spec.guards;
        self.not_denied(candidate)?;
        self.not_used_up(candidate)?;
        self.not_stopped(candidate)?;
        self.one_run_at_a_time(candidate)?;
        self.no_fight(candidate)?;
        let mut reasons: Vec<String> = self.one_run_an_incident(candidate)?.into_iter().collect();
        if !candidate.paced {
            reasons.push(self.attempts(candidate)?);
        }
        self.calm(candidate)?;
        self.rack_pause(candidate)?;
        let budget = match (candidate.subject.kind.as_str(), candidate.node) {
            ("Node", Some(node)) => self.service.budget(node, &guards.budget),
            ("Node", None) => Err(format!("node {} is not known", candidate.subject.name)),
            _ => self.service.other_budget(candidate.node.map(|node| node.name.as_str()), &guards.budget),
        };
        reasons.push(budget.map_err(|reason| Refusal::new(BlockedBy::Budget, reason))?);
        Ok(reasons)
    }

    fn not_denied(&self, candidate: &Candidate<'_>) -> Result<(), Refusal> {
        let off =
            candidate.node.filter(|node| node.labels.get(names::LABEL_HEALING).is_some_and(|value| value == "off"));
        match off {
            Some(node) => {
                let reason = format!("node {} is labelled {}=off: nothing acts on it", node.name, names::LABEL_HEALING);
                Err(Refusal::new(BlockedBy::Denied, reason))
            }
            None => Ok(()),
        }
    }

    /// Something that happened starts one run; and what happened in a storm is not made up for.
    fn not_used_up(&self, candidate: &Candidate<'_>) -> Result<(), Refusal> {
        if !candidate.once {
            return Ok(());
        }
        let acts = candidate.playbook.acts();
        let mut runs = self.runs_of(candidate).filter(|run| run.acts == acts);
        if let Some(run) = runs.find(|run| run.created_at >= candidate.raised_at) {
            return Err(Refusal::new(BlockedBy::OtherRun, format!("run {} was started for it", run.name)));
        }
        match self.plan.storms.get(&candidate.playbook.name) {
            Some(storm) if candidate.raised_at <= *storm => {
                let reason = "it happened during a storm, and is not made up for".to_owned();
                Err(Refusal::new(BlockedBy::Storm, reason))
            }
            _ => Ok(()),
        }
    }

    fn not_stopped(&self, candidate: &Candidate<'_>) -> Result<(), Refusal> {
        if !candidate.playbook.acts() {
            return Ok(());
        }
        if let Some(why) = &self.facts.paused {
            return Err(Refusal::new(BlockedBy::Stopped, format!("paused: {why}")));
        }
        if candidate.playbook.spec.guards.windows == Windows::Ignore {
            return Ok(());
        }
        let frozen = self.facts.windows.iter().filter_map(|window| window.frozen(&candidate.playbook.name, self.now));
        match frozen.max_by_key(|frozen| frozen.until) {
            Some(frozen) => Err(Refusal::until(BlockedBy::Stopped, frozen.why, frozen.until)),
            None => Ok(()),
        }
    }

    /// One run an object at a time, or a node, or a data center, as the playbook says. Observing touches nothing, so it
    /// goes on beside a run that acts. A run that asked for this one waits for it.
    fn one_run_at_a_time(&self, candidate: &Candidate<'_>) -> Result<(), Refusal> {
        let acts = candidate.playbook.acts();
        let scope = candidate.playbook.spec.guards.scope;
        let same_node = |run: &RunView| match (scope, candidate.node, &run.node) {
            (Scope::Node, Some(node), Some(other)) => node.name == *other,
            _ => false,
        };
        let under_way = self.facts.runs.iter().filter(|run| !run.phase.is_final()).find(|run| {
            let own = run.playbook == candidate.playbook.name;
            let counts = if acts { run.acts || own } else { own };
            let there =
                run.is_for(&candidate.subject) || (acts && same_node(run)) || (own && scope == Scope::DataCenter);
            counts && there && !candidate.chain.iter().any(|link| link.run == run.name)
        });
        if let Some(run) = under_way {
            let what = match (run.is_for(&candidate.subject), candidate.subject.kind.as_str()) {
                (true, "Node") => "this node".to_owned(),
                (true, _) => "this object".to_owned(),
                (false, _) => run.object_name().display(),
            };
            return Err(Refusal::new(BlockedBy::OtherRun, format!("run {} is under way for {what}", run.name)));
        }
        let taken = self.plan.starts.iter().filter(|start| start.playbook.acts()).find(|start| {
            let same_node = match (scope, candidate.node, &start.node) {
                (Scope::Node, Some(node), Some(other)) => node.name == other.name,
                _ => false,
            };
            let own = start.playbook.name == candidate.playbook.name && scope == Scope::DataCenter;
            same_node
                || own
                || self.taken.get(&candidate.subject.object()).is_some_and(|i| self.plan.starts[*i].run == start.run)
        });
        match taken.filter(|_| acts) {
            Some(start) => {
                let why = "its condition was raised earlier, or its name comes first";
                let reason = format!("playbook {} was chosen: {why}", start.playbook.name);
                Err(Refusal::new(BlockedBy::OtherRun, reason))
            }
            None => Ok(()),
        }
    }

    /// Two playbooks that undo each other's work start each other for ever: then nothing more is done for the object.
    fn no_fight(&self, candidate: &Candidate<'_>) -> Result<(), Refusal> {
        if !candidate.playbook.acts() || candidate.paced {
            return Ok(());
        }
        let recent: Vec<&RunView> = self
            .facts
            .runs
            .iter()
            .filter(|run| run.acts && run.chain.is_empty() && run.is_for(&candidate.subject))
            .filter(|run| later(run.created_at, FIGHT_WINDOW) > self.now)
            .collect();
        let playbooks: BTreeSet<&str> = recent.iter().map(|run| run.playbook.as_str()).collect();
        if recent.len() < FIGHT_RUNS || playbooks.len() < 2 {
            return Ok(());
        }
        let names: Vec<&str> = playbooks.into_iter().collect();
        let reason = format!(
            "playbooks {} ran {} times for it within an hour: they seem to undo each other's work",
            names.join(" and "),
            recent.len()
        );
        let due = recent.iter().map(|run| later(run.created_at, FIGHT_WINDOW)).min();
        Err(Refusal { by: BlockedBy::Fight, reason, until: due })
    }

    /// Cooldown and attempts. Observed runs count among themselves: promotion starts afresh.
    fn attempts(&self, candidate: &Candidate<'_>) -> Result<String, Refusal> {
        let guards = &candidate.playbook.spec.guards;
        let acts = candidate.playbook.acts();
        let runs = || self.runs_of(candidate).filter(|run| run.acts == acts);
        if let Some(end) = runs().filter_map(|run| run.finished_at.or(Some(run.created_at))).max() {
            // An end in the future is another machine's clock: the cooldown then counts from now.
            let due = later(end.min(self.now), guards.cooldown.get());
            if due > self.now {
                let reason = format!("cooldown: {} after the last run", guards.cooldown);
                return Err(Refusal::until(BlockedBy::Cooldown, reason, due));
            }
        }
        let window = guards.attempts.window;
        let recent: Vec<Timestamp> =
            runs().map(|run| run.created_at).filter(|at| later(*at, window.get()) > self.now).collect();
        let max = guards.attempts.max as usize;
        if recent.len() >= max {
            let due = recent.iter().min().map(|oldest| later(*oldest, window.get()));
            let reason = format!("quarantine: {} of {max} attempts within {window} are used", recent.len());
            return Err(Refusal { by: BlockedBy::Attempts, reason, until: due });
        }
        Ok(format!("attempt {} of {max} within {window}", recent.len() + 1))
    }

    fn calm(&self, candidate: &Candidate<'_>) -> Result<(), Refusal> {
        let guard = &candidate.playbook.spec.guards.storm;
        if let Some(storm) = self.service.storm(guard.max_unhealthy) {
            return Err(Refusal::new(BlockedBy::Storm, storm));
        }
        if let Some(last) = self.plan.storms.get(&candidate.playbook.name) {
            let due = later(*last, guard.resume_after.get());
            if due > self.now {
                let reason = format!("the storm is over, but not yet for {}", guard.resume_after);
                return Err(Refusal::until(BlockedBy::Storm, reason, due));
            }
        }
        Ok(())
    }

    /// One destructive act a rack at a time, with a pause after it.
    fn rack_pause(&self, candidate: &Candidate<'_>) -> Result<(), Refusal> {
        let rack_of = |name: &str| {
            let node = self.facts.nodes.iter().find(|node| node.name == name)?;
            node.labels.get(names::LABEL_RACK)
        };
        let pause = candidate.playbook.spec.guards.rack_pause;
        let rack = candidate.node.and_then(|node| node.labels.get(names::LABEL_RACK));
        let Some(rack) = rack.filter(|_| candidate.playbook.destructive && candidate.playbook.acts()) else {
            return Ok(());
        };
        let on_rack = |node: Option<&str>| node.and_then(rack_of) == Some(rack);
        let before = self.facts.runs.iter().filter(|run| run.acts && run.destructive && on_rack(run.node.as_deref()));
        let before = before.map(|run| run.created_at);
        let now = self.plan.starts.iter().filter(|start| {
            let on = start.node.as_ref().map(|node| node.name.as_str());
            start.playbook.destructive && start.playbook.acts() && on_rack(on)
        });
        let last = before.chain(now.map(|_| self.now)).max();
        match last.map(|last| later(last.min(self.now), pause.get())).filter(|due| *due > self.now) {
            Some(due) => {
                let reason = format!("something was taken away by force on rack {rack} less than {pause} ago");
                Err(Refusal::until(BlockedBy::Budget, reason, due))
            }
            None => Ok(()),
        }
    }

    pub(super) fn runs_of(&self, candidate: &Candidate<'_>) -> impl Iterator<Item = &'a RunView> {
        let (playbook, subject) = (candidate.playbook.name.clone(), candidate.subject.clone());
        self.facts.runs.iter().filter(move |run| run.playbook == playbook && run.is_for(&subject))
    }
}
