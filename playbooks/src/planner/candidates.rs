//! Matches: a playbook and an object that it would run for, because of a condition of a node, a signal, or another run.

use std::{collections::BTreeMap, sync::Arc};

use evergreen_api::resources::{ChainLink, Subject};
use jiff::Timestamp;

use super::{BlockedBy, CompiledPlaybook, Planning, Refusal, RunView, Signal, facts::CompiledTrigger, later};
use crate::view::NodeView;

/// What another run asked for that long ago is not done any more.
const ASK_EXPIRES: std::time::Duration = std::time::Duration::from_secs(3_600);
/// Longest chain of playbooks that run each other.
const MAX_CHAIN: usize = 5;

/// A playbook that matches an object.
pub(super) struct Candidate<'a> {
    pub(super) playbook: &'a Arc<CompiledPlaybook>,
    pub(super) subject: Subject,
    /// The node that the object is, or is on.
    pub(super) node: Option<&'a Arc<NodeView>>,
    pub(super) raised_at: Timestamp,
    /// Whether it starts one run only.
    pub(super) once: bool,
    /// Whether its source sets the pace by itself.
    pub(super) paced: bool,
    pub(super) condition: String,
    pub(super) text: String,
    /// Name that its run must have.
    pub(super) run: Option<String>,
    pub(super) chain: Vec<ChainLink>,
    pub(super) requested_by: Option<String>,
}

impl<'a> Planning<'a> {
    /// Matches whose hold is over, the longest raised first; the others are blocked right away.
    pub(super) fn candidates(&mut self) -> Vec<Candidate<'a>> {
        let mut found = Vec::new();
        for playbook in &self.facts.playbooks {
            if playbook.triggers.is_empty() {
                continue;
            }
            for node in self.facts.nodes.iter().filter(|node| playbook.is_for(node)) {
                match self.triggered(playbook, node) {
                    Ok(Some(candidate)) => found.push(candidate),
                    Ok(None) => {}
                    Err(refusal) => self.push_blocked(&playbook.name, node.subject(), refusal),
                }
            }
        }
        self.signalled(&mut found);
        self.asked(&mut found);
        found.sort_by(|a, b| {
            (a.raised_at, &a.subject.namespace, &a.subject.name, &a.playbook.name).cmp(&(
                b.raised_at,
                &b.subject.namespace,
                &b.subject.name,
                &b.playbook.name,
            ))
        });
        found
    }

    fn triggered(
        &self,
        playbook: &'a Arc<CompiledPlaybook>,
        node: &'a Arc<NodeView>,
    ) -> Result<Option<Candidate<'a>>, Refusal> {
        let mut refusal = None;
        for CompiledTrigger { condition: trigger, when } in playbook.triggers.iter().filter(|t| t.is_raised(node)) {
            match when.as_ref().map_or(Ok(true), |when| when.holds(node, None)) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    refusal = Some(Refusal::new(BlockedBy::Expression, error.to_string()));
                    continue;
                }
            }
            let Some(condition) = node.conditions.get(&trigger.type_) else { continue };
            let due = later(condition.seen_since, trigger.for_.get());
            if due > self.now {
                let reason = format!("{} has not been seen for {} yet", trigger.type_, trigger.for_);
                refusal = Some(Refusal::until(BlockedBy::Hold, reason, due));
                continue;
            }
            return Ok(Some(Candidate {
                playbook,
                subject: node.subject(),
                node: Some(node),
                raised_at: condition.seen_since,
                once: false,
                paced: false,
                condition: trigger.type_.clone(),
                text: format!("{}={}", trigger.type_, trigger.status),
                run: None,
                chain: Vec::new(),
                requested_by: None,
            }));
        }
        refusal.map_or(Ok(None), Err)
    }

    fn signalled(&mut self, found: &mut Vec<Candidate<'a>>) {
        let facts = self.facts;
        if facts.signals.is_empty() {
            return;
        }
        let playbooks: BTreeMap<&str, &Arc<CompiledPlaybook>> =
            facts.playbooks.iter().map(|p| (p.name.as_str(), p)).collect();
        let nodes: BTreeMap<&str, &Arc<NodeView>> = facts.nodes.iter().map(|n| (n.name.as_str(), n)).collect();
        for signal in facts.signals.iter().map(Arc::as_ref) {
            let Some(playbook) = playbooks.get(signal.playbook.as_str()) else { continue };
            if let Some(expires) = signal.expires_at {
                if expires <= self.now {
                    continue;
                }
                self.recheck(expires);
            }
            match self.signal(playbook, signal, &nodes) {
                Ok(candidate) => found.push(candidate),
                Err(refusal) => self.push_blocked(&playbook.name, signal.subject.clone(), refusal),
            }
        }
    }

    fn signal(
        &self,
        playbook: &'a Arc<CompiledPlaybook>,
        signal: &'a Signal,
        nodes: &BTreeMap<&str, &'a Arc<NodeView>>,
    ) -> Result<Candidate<'a>, Refusal> {
        if let Some(why) = &signal.untold {
            return Err(Refusal::new(BlockedBy::Expression, why.clone()));
        }
        let due = later(signal.raised_at, signal.hold);
        if due > self.now {
            let reason = format!("{} has not been seen for {}s yet", signal.text, signal.hold.as_secs());
            return Err(Refusal::until(BlockedBy::Hold, reason, due));
        }
        let mut subject = signal.subject.clone();
        let on = if subject.kind == "Node" { Some(subject.name.as_str()) } else { signal.node.as_deref() };
        let node = on.and_then(|name| nodes.get(name)).copied();
        if let ("Node", Some(node)) = (subject.kind.as_str(), node) {
            subject.uid.clone_from(&node.uid);
        }
        let trigger = playbook.spec.matches.get(signal.trigger);
        let source = trigger.and_then(|trigger| trigger.sources().first().copied()).unwrap_or_default();
        Ok(Candidate {
            playbook,
            subject,
            node,
            raised_at: signal.raised_at,
            once: signal.once,
            paced: source == "schedule",
            condition: source.to_owned(),
            text: signal.text.clone(),
            run: None,
            chain: Vec::new(),
            requested_by: None,
        })
    }

    /// Runs that other runs ask for.
    fn asked(&mut self, found: &mut Vec<Candidate<'a>>) {
        let facts = self.facts;
        for run in &facts.runs {
            let Some(ask) = run.asks.as_ref().filter(|ask| facts.runs.iter().all(|known| known.name != ask.run)) else {
                continue;
            };
            let raised_at = run.finished_at.unwrap_or(run.created_at);
            if run.phase.is_final() && later(raised_at, ASK_EXPIRES) <= self.now {
                continue;
            }
            match self.ask(run, &ask.playbook) {
                Ok(playbook) => {
                    let node = run.node.as_ref().and_then(|name| facts.nodes.iter().find(|node| node.name == *name));
                    let mut chain = run.chain.clone();
                    chain.push(ChainLink { run: run.name.clone(), playbook: run.playbook.clone() });
                    found.push(Candidate {
                        playbook,
                        subject: run.subject.clone(),
                        node,
                        raised_at,
                        once: false,
                        paced: false,
                        condition: "runPlaybook".to_owned(),
                        text: format!("asked for by run {}", run.name),
                        run: Some(ask.run.clone()),
                        chain,
                        requested_by: run.requested_by.clone(),
                    });
                }
                Err(reason) => {
                    let refusal = Refusal::new(BlockedBy::Chain, reason);
                    self.push_blocked(&ask.playbook, run.subject.clone(), refusal);
                }
            }
        }
    }

    fn ask(&self, run: &RunView, playbook: &str) -> Result<&'a Arc<CompiledPlaybook>, String> {
        let chain = || run.chain.iter().map(|link| link.playbook.as_str()).chain([run.playbook.as_str()]);
        if chain().any(|known| known == playbook) {
            let names: Vec<&str> = chain().collect();
            return Err(format!("endless loop of playbooks: {} -> {playbook}", names.join(" -> ")));
        }
        if run.chain.len() + 1 > MAX_CHAIN {
            return Err(format!("run {} asks for it at the end of a chain of {MAX_CHAIN} playbooks", run.name));
        }
        let found = self.facts.playbooks.iter().find(|known| known.name == playbook);
        let found =
            found.ok_or_else(|| format!("run {} asks for it, and no playbook of that name is accepted", run.name))?;
        let kind = crate::steps::subject_kind(&found.spec);
        if kind != run.subject.kind {
            return Err(format!("run {} is for a {}, this playbook for a {kind}", run.name, run.subject.kind));
        }
        Ok(found)
    }
}
