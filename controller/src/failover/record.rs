//! Tells every decision once, when it or its verdict changes: a log line, and an audit record that holds the facts, so
//! that the decision can be made again from them.

use std::{collections::BTreeMap, sync::Arc};

use evergreen_audit::{AuditLog, Draft};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    facts::ServiceFacts,
    planner::{Decision, Verdict},
};

/// Kind of the audit record of a decision.
pub const DECISION: &str = "failover.decision";

/// Body of the audit record of a decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decided {
    /// Site whose controller decided.
    pub site: String,
    /// Sites whose leases were fresh at a majority, with registers and how many make a majority.
    pub votes: Votes,
    /// Trace that it belongs to.
    pub traceparent: Option<String>,
    /// Everything that it was decided on.
    pub facts: ServiceFacts,
    /// What was decided.
    pub decision: Decision,
}

/// Who was there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Votes {
    /// Sites whose lease was fresh.
    pub fresh: Vec<String>,
    /// Registers that answered.
    pub registers_answering: Vec<String>,
    /// Registers.
    pub registers: usize,
    /// How many make a majority.
    pub majority: usize,
}

/// Tells decisions.
#[derive(Debug)]
pub(super) struct Teller {
    site: String,
    log: Option<Arc<Mutex<AuditLog>>>,
    said: BTreeMap<String, String>,
}

impl Teller {
    pub fn new(site: &str, log: Option<Arc<Mutex<AuditLog>>>) -> Self {
        Self { site: site.to_owned(), log, said: BTreeMap::new() }
    }

    /// Tells what is new. It returns when the records are on the disk: before anything is done.
    pub async fn tell<'a>(
        &mut self,
        all: impl Iterator<Item = (&'a ServiceFacts, &'a Decision, Option<String>)>,
        votes: &Votes,
        at: &str,
    ) {
        let (mut drafts, mut seen) = (Vec::new(), BTreeMap::new());
        for (facts, decision, traceparent) in all {
            let key = key(decision);
            let news = self.said.get(&decision.group) != Some(&key) && !seen.contains_key(&decision.group);
            seen.entry(decision.group.clone()).or_insert(key);
            if !news {
                continue;
            }
            say(decision);
            let body = Decided {
                site: self.site.clone(),
                votes: votes.clone(),
                traceparent,
                facts: facts.clone(),
                decision: decision.clone(),
            };
            match serde_json::to_value(&body) {
                Ok(body) => drafts.push(Draft { at: at.to_owned(), kind: DECISION.into(), body }),
                Err(error) => tracing::error!(%error, "a decision cannot be recorded"),
            }
        }
        self.said = seen;
        self.append(drafts).await;
    }

    /// Appends records. A disk that is full stops no failover; it is told as loudly as can be.
    pub async fn append(&self, drafts: Vec<Draft>) {
        let Some(log) = self.log.clone().filter(|_| !drafts.is_empty()) else { return };
        let written = tokio::task::spawn_blocking(move || log.lock().append(&drafts)).await;
        match written {
            Ok(Ok(hashes)) => {
                if let Some(last) = hashes.last() {
                    // Published with the logs, so that a log that was cut at its end is found.
                    tracing::info!(audit_hash = last, records = hashes.len(), "recorded");
                }
            }
            Ok(Err(error)) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "decisions are made but NOT RECORDED: make room for the audit log"
            ),
            Err(error) => tracing::error!(%error, "the audit log's writer failed"),
        }
    }
}

/// What makes a decision another one. Numbers that run on by themselves are no news.
fn key(decision: &Decision) -> String {
    let sites: Vec<&str> = decision.holders.iter().map(|holder| holder.site.as_str()).collect();
    let verdict = match &decision.verdict {
        Verdict::Act => "act".to_owned(),
        Verdict::Wait(_) => "wait".to_owned(),
        Verdict::Propose(_) => {
            format!("propose {:?}", decision.proposal.as_ref().map(|proposal| (&proposal.id, &proposal.approved_by)))
        }
        Verdict::Hold(why) => format!("hold {}", why.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default()),
    };
    format!("{} {:?} {sites:?} {verdict} {:?}", decision.old.version, decision.cause, decision.request)
}

fn say(decision: &Decision) {
    let sites: Vec<&str> = decision.holders.iter().map(|holder| holder.site.as_str()).collect();
    tracing::info!(
        group = decision.group,
        cause = ?decision.cause,
        verdict = ?decision.verdict,
        holders = sites.join(","),
        rejected = decision.rejected.join("; "),
        notes = decision.notes.join("; "),
        "{}",
        decision.reason
    );
}
