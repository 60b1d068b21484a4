//! What was said and counts now: verified statements, until they are void or old.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::{
    names::DRILL_GROUP_PREFIX,
    resources::{ConsentPhase, ConsentSpec, DrillEvidence},
};
use sha2::{Digest, Sha256};

use super::{
    keyring::Keyring,
    statement::{DrillPass, Statement, What, run_group},
};
use crate::{
    failover::{Approved, DrillMark, MoveRequest},
    quorum::Mono,
};

/// A statement counts for so long after it was first seen here.
const LIFE: Mono = Mono::from_secs(3_600);
/// Statements remembered at most; more is garbage.
const MOST: usize = 10_000;

/// One statement that was looked at.
#[derive(Clone, Debug)]
struct Entry {
    read: Result<(Statement, bool), String>,
    by: String,
    first_seen: Mono,
    order: u64,
}

/// The book.
#[derive(Debug, Default)]
pub struct ConsentBook {
    entries: BTreeMap<String, Entry>,
    keyring: Keyring,
    orders: u64,
}

/// Digest of a signed statement.
fn digest(spec: &ConsentSpec) -> String {
    let mut hash = Sha256::new();
    for part in [Some(&spec.statement), spec.signer.as_ref(), spec.signature.as_ref()].into_iter().flatten() {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..16])
}

impl ConsentBook {
    /// Takes in who may sign and everything that lies at the sites now.
    pub fn observe<'a>(&mut self, keyring: &Keyring, all: impl Iterator<Item = &'a ConsentSpec>, now: Mono) {
        if self.keyring != *keyring {
            // Everything is looked at again: who is no longer in the ring has no say any more.
            self.keyring = keyring.clone();
            self.entries.values_mut().for_each(|entry| entry.read = Err("to be read again".into()));
        }
        let mut here = BTreeSet::new();
        for spec in all.filter(|spec| !spec.dry_run).take(MOST) {
            let id = digest(spec);
            here.insert(id.clone());
            let known = self.entries.get(&id);
            if known.is_some_and(|entry| entry.read.is_ok()) {
                continue;
            }
            let (first_seen, order) = known.map_or((now, self.orders), |entry| (entry.first_seen, entry.order));
            self.orders += u64::from(known.is_none());
            let by = spec.signer.clone().unwrap_or_default();
            self.entries.insert(id, Entry { read: read(spec, keyring), by, first_seen, order });
        }
        // A statement that was taken back, or whose site cannot be read any more, stops to count; it counts again when it
        // is seen again, but not for longer.
        self.entries.retain(|id, entry| here.contains(id) || now.saturating_sub(entry.first_seen) < LIFE);
        self.entries.iter_mut().filter(|(id, _)| !here.contains(*id)).for_each(|(_, entry)| {
            entry.read = Err("it is gone".into());
        });
    }

    fn counting(
        &self,
        group: &str,
        version: u64,
        now: Mono,
    ) -> impl Iterator<Item = (&String, &Entry, &Statement, bool)> {
        self.entries.iter().filter_map(move |(id, entry)| {
            let (statement, break_glass) = entry.read.as_ref().ok()?;
            let young = now.saturating_sub(entry.first_seen) < LIFE;
            (young && statement.group == group && statement.version == version).then_some((
                id,
                entry,
                statement,
                *break_glass,
            ))
        })
    }

    /// The newest request for a group whose entry has this version.
    pub fn request(&self, group: &str, version: u64, now: Mono) -> Option<MoveRequest> {
        let requests = self.counting(group, version, now).filter(|(_, _, s, _)| matches!(s.what, What::Request { .. }));
        // What people ask for goes before what a drill does, and its moves before its wish that nothing moves.
        let newest = |(_, entry, statement, _): &(&String, &Entry, &Statement, bool)| {
            let rank = match &statement.what {
                What::Request { drill: Some(pass), .. } => u8::from(!pass.hold),
                _ => 2,
            };
            (rank, entry.order)
        };
        let (id, entry, statement, break_glass) = requests.max_by_key(newest)?;
        let What::Request { to, from, accept_loss, accept_shortage, drill, .. } = &statement.what else { return None };
        Some(MoveRequest {
            id: id.clone(),
            by: entry.by.clone(),
            to: to.clone(),
            from: from.clone(),
            accept_loss: accept_loss.map(Into::into),
            accept_shortage: *accept_shortage,
            break_glass,
            drill: drill.as_ref().map(|pass| DrillMark {
                name: pass.name.clone(),
                ticket: pass.ticket.clone(),
                hold: pass.hold,
                traceparent: pass.traceparent.clone(),
                approved_by: pass.approvals.iter().map(|approval| approval.by.clone()).collect(),
            }),
        })
    }

    /// Approvals for a group whose entry has this version.
    pub fn approvals(&self, group: &str, version: u64, now: Mono) -> BTreeSet<Approved> {
        self.counting(group, version, now)
            .filter_map(|(_, entry, statement, _)| match &statement.what {
                What::Approve { proposal } => Some(Approved { proposal: proposal.clone(), by: entry.by.clone() }),
                What::Request { .. } | What::ApproveRun { .. } => None,
            })
            .collect()
    }

    /// Who approves a run whose spec has this digest, and for which of its steps. A break-glass key is one person here.
    pub fn run_approvals(&self, run: &str, digest: &str, now: Mono) -> BTreeSet<(String, Option<u32>)> {
        let group = run_group(run);
        self.counting(&group, 0, now)
            .filter_map(|(_, entry, statement, _)| match &statement.what {
                What::ApproveRun { run: named, digest: seen, step } if named == run && seen == digest => {
                    Some((entry.by.clone(), *step))
                }
                _ => None,
            })
            .collect()
    }

    /// Approvals of a ticket of a drill with their signatures, for its record.
    pub fn evidence<'a>(
        &self,
        ticket: &str,
        all: impl Iterator<Item = &'a ConsentSpec>,
        now: Mono,
    ) -> Vec<DrillEvidence> {
        let approves = |spec: &&ConsentSpec| {
            let entry = self.entries.get(&digest(spec));
            entry.filter(|entry| now.saturating_sub(entry.first_seen) < LIFE).is_some_and(|entry| {
                matches!(&entry.read, Ok((Statement { what: What::Approve { proposal }, .. }, _)) if proposal == ticket)
            })
        };
        let mut found: Vec<DrillEvidence> = all
            .filter(approves)
            .filter_map(|spec| {
                let (by, signature) = (spec.signer.clone()?, spec.signature.clone()?);
                Some(DrillEvidence { by, statement: spec.statement.clone(), signature })
            })
            .collect();
        found.sort_by(|a, b| a.by.cmp(&b.by));
        found.dedup_by(|a, b| a.by == b.by);
        found
    }

    /// How a statement stands, its group, and its request's id if it is one.
    pub fn standing(&self, spec: &ConsentSpec, version_of: impl Fn(&str) -> u64, now: Mono) -> (ConsentPhase, String) {
        let Some(entry) = self.entries.get(&digest(spec)) else { return (ConsentPhase::Pending, String::new()) };
        match &entry.read {
            Err(why) => (ConsentPhase::Refused, why.clone()),
            Ok((statement, _)) if version_of(&statement.group) > statement.version => {
                (ConsentPhase::Over, "the group's entry changed since".into())
            }
            Ok((statement, _)) if version_of(&statement.group) < statement.version => {
                (ConsentPhase::Pending, "the group's entry has not come to that version yet".into())
            }
            Ok(_) if now.saturating_sub(entry.first_seen) >= LIFE => (ConsentPhase::Over, "it is older than 1h".into()),
            Ok((_, true)) => (ConsentPhase::Valid, format!("BREAK-GLASS, signed by {}", entry.by)),
            Ok(_) => (ConsentPhase::Valid, format!("signed by {}", entry.by)),
        }
    }
}

/// Reads and verifies a statement; the flag says that a break-glass key signed it.
fn read(spec: &ConsentSpec, keyring: &Keyring) -> Result<(Statement, bool), String> {
    let (Some(signer), Some(signature)) = (&spec.signer, &spec.signature) else {
        return Err("it is not signed".into());
    };
    let person = keyring.verify(signer, signature, &spec.statement)?;
    let statement: Statement =
        serde_json::from_str(&spec.statement).map_err(|error| format!("it cannot be read: {error}"))?;
    match (&statement.what, person.drill) {
        (What::Request { drill: Some(pass), accept_loss: None, accept_shortage: false, .. }, true) => {
            pass.approvals.iter().try_for_each(|approval| verify(approval, pass, keyring))?;
        }
        (_, true) => return Err("the key of drills asks for moves of drills and for nothing else".into()),
        (What::Request { drill: Some(_), .. }, false) => return Err("only the key of drills may say that".into()),
        _ => {}
    }
    Ok((statement, person.break_glass))
}

/// Whether a person approved exactly this ticket of this drill.
fn verify(approval: &DrillEvidence, pass: &DrillPass, keyring: &Keyring) -> Result<(), String> {
    let wrong = |why: String| format!("the approval of the drill by {}: {why}", approval.by);
    let person = keyring.verify(&approval.by, &approval.signature, &approval.statement).map_err(wrong)?;
    let said: Statement =
        serde_json::from_str(&approval.statement).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let of = said.group.strip_prefix(DRILL_GROUP_PREFIX) == Some(&pass.name);
    match said.what {
        What::Approve { proposal } if of && proposal == pass.ticket && !person.drill => Ok(()),
        _ => Err(wrong("it is not about this ticket".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::consent::{new_key, public_key, sign};

    fn ring(people: &[(&str, &[u8])]) -> Keyring {
        Keyring::read(&people.iter().map(|(name, key)| ((*name).to_owned(), public_key(key).unwrap())).collect())
    }

    fn said(by: &str, key: &[u8], version: u64, what: What) -> ConsentSpec {
        let statement = Statement { nonce: by.into(), at: "now".into(), group: "g".into(), version, what };
        let text = serde_json::to_string(&statement).unwrap();
        let signature = sign(key, &text).unwrap();
        ConsentSpec { statement: text, signer: Some(by.into()), signature: Some(signature), dry_run: false }
    }

    fn request(to: &str) -> What {
        What::Request {
            to: Some(to.into()),
            from: None,
            accept_loss: None,
            accept_shortage: false,
            reason: "test".into(),
            drill: None,
        }
    }

    #[test]
    fn what_is_signed_counts_for_its_version_until_it_is_taken_back_or_old() {
        let key = new_key().unwrap();
        let keyring = ring(&[("li", &key)]);
        let mut book = ConsentBook::default();
        let at = Duration::from_secs;
        let asked = said("li", &key, 3, request("b"));
        book.observe(&keyring, [&asked].into_iter(), at(0));
        assert_eq!(book.request("g", 3, at(1)).unwrap().to.as_deref(), Some("b"));
        assert_eq!(book.request("g", 4, at(1)), None, "void once the entry changed");
        assert_eq!(book.request("h", 3, at(1)), None);
        book.observe(&keyring, std::iter::empty(), at(2));
        assert_eq!(book.request("g", 3, at(2)), None, "taken back");
        book.observe(&keyring, [&asked].into_iter(), at(3));
        assert!(book.request("g", 3, at(3_599)).is_some());
        assert_eq!(book.request("g", 3, at(3_600)), None, "an hour after it was first seen");
    }

    #[test]
    fn nobody_speaks_for_another_and_who_left_the_ring_has_no_say() {
        let (li, mallory) = (new_key().unwrap(), new_key().unwrap());
        let keyring = ring(&[("li", &li)]);
        let mut book = ConsentBook::default();
        let forged = said("li", &mallory, 1, request("b"));
        let mut unsigned = said("li", &li, 1, request("c"));
        unsigned.signature = None;
        book.observe(&keyring, [&forged, &unsigned].into_iter(), Duration::ZERO);
        assert_eq!(book.request("g", 1, Duration::ZERO), None);
        assert_eq!(book.standing(&forged, |_| 1, Duration::ZERO).0, ConsentPhase::Refused);
        let good = said("li", &li, 1, What::Approve { proposal: "p".into() });
        book.observe(&keyring, [&good].into_iter(), Duration::ZERO);
        assert_eq!(book.approvals("g", 1, Duration::ZERO).len(), 1);
        book.observe(&Keyring::default(), [&good].into_iter(), Duration::ZERO);
        assert!(book.approvals("g", 1, Duration::ZERO).is_empty());
    }
}
