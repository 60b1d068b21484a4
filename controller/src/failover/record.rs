//! Tells every decision once, when it or its verdict changes: a log line, and an audit record that holds the facts, so
//! that the decision can be made again from them.

use std::{collections::BTreeMap, sync::Arc};

use evergreen_audit::{AuditLog, Draft};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    facts::{MoveRequest, ServiceFacts},
    planner::{Decision, Verdict},
};
use crate::quorum::Holder;

/// Kind of the audit record of a decision.
pub const DECISION: &str = "failover.decision";

/// Kind of the audit record of a move that a break-glass key asks for.
pub const BREAK_GLASS: &str = "failover.break-glass";

/// Body of the audit record of a break-glass request: written when it first counts and whenever its verdict changes, beside
/// the record of the decision, so that every use of the emergency's key is found without reading decisions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokenGlass {
    /// Site whose controller took it in.
    pub site: String,
    /// Failover group.
    pub group: String,
    /// Who: the name of the key.
    pub by: String,
    /// Digest of the signed statement.
    pub request: String,
    /// What was asked for.
    pub asked: MoveRequest,
    /// Sites that hold the group.
    pub from: Vec<String>,
    /// Sites that shall hold it.
    pub to: Vec<String>,
    /// What became of it.
    pub verdict: Verdict,
}

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
            if let Some(broken) = broken_glass(&self.site, facts, decision) {
                tracing::error!(group = broken.group, by = broken.by, verdict = ?broken.verdict, "BREAK-GLASS key used");
                match serde_json::to_value(&broken) {
                    Ok(body) => drafts.push(Draft { at: at.to_owned(), kind: BREAK_GLASS.into(), body }),
                    Err(error) => tracing::error!(%error, "the use of a break-glass key cannot be recorded"),
                }
            }
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

/// What is recorded of the emergency's key, if this decision answers it.
fn broken_glass(site: &str, facts: &ServiceFacts, decision: &Decision) -> Option<BrokenGlass> {
    let asked =
        facts.request().filter(|request| request.break_glass && decision.request.as_ref() == Some(&request.id))?;
    let names = |holders: &[Holder]| holders.iter().map(|holder| holder.site.clone()).collect();
    Some(BrokenGlass {
        site: site.to_owned(),
        group: decision.group.clone(),
        by: asked.by.clone(),
        request: asked.id.clone(),
        asked: asked.clone(),
        from: names(&decision.old.holders),
        to: names(&decision.holders),
        verdict: decision.verdict.clone(),
    })
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

#[cfg(test)]
mod tests {
    use evergreen_api::resources::Decision as Policy;

    use super::*;
    use crate::failover::planner::{
        plan,
        testing::{lost, request, single},
    };

    #[tokio::test]
    async fn the_use_of_a_break_glass_key_has_a_record_of_its_own_and_an_ordinary_request_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(Mutex::new(AuditLog::open(folder.path(), "2026-11-01T00:00:00Z").unwrap()));
        let mut teller = Teller::new("dc-b", Some(log));
        let mut facts = single("account", &["a"]);
        facts.spec.decision.unplanned = Some(Policy::Approve);
        facts.sites.insert("a".into(), lost());
        facts.consent.request = Some(request(Some("b")));
        let waits = plan(&facts).unwrap();
        assert!(matches!(waits.verdict, Verdict::Propose(_)), "{:?}", waits.verdict);
        teller.tell([(&facts, &waits, None)].into_iter(), &Votes::default(), "2026-11-01T00:00:00Z").await;

        facts.consent.request = Some(MoveRequest { id: "r2".into(), break_glass: true, ..request(Some("b")) });
        let acts = plan(&facts).unwrap();
        assert_eq!(acts.verdict, Verdict::Act);
        for _ in 0..2 {
            teller.tell([(&facts, &acts, None)].into_iter(), &Votes::default(), "2026-11-01T00:00:01Z").await;
        }

        let mut kinds = Vec::new();
        let mut bodies = Vec::new();
        evergreen_audit::read(folder.path(), |record| {
            let record = record.unwrap();
            if record.kind == BREAK_GLASS {
                bodies.push(serde_json::from_value::<BrokenGlass>(record.body.clone()).unwrap());
            }
            kinds.push(record.kind);
        })
        .unwrap();
        assert_eq!(kinds, [DECISION, BREAK_GLASS, DECISION], "once, and only for that key");
        assert_eq!((bodies[0].by.as_str(), bodies[0].request.as_str()), ("zhang", "r2"));
        assert_eq!((bodies[0].from.as_slice(), bodies[0].to.as_slice()), (&["a".into()][..], &["b".into()][..]));
    }
}
