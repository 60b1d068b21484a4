//! Decides who shall hold a group. Pure: the same facts give the same decision, bit by bit.
//!
//! A plan is made in two steps: the mode says what the map should be (`active_active`, `single_writer`), then `verdict`
//! says whether that is carried out, from people's consent and the gates. `fleet` adds what only shows over all groups.

mod active_active;
mod candidates;
mod capacity;
#[cfg(test)]
mod checks;
mod data;
mod database;
mod dependencies;
mod fleet;
mod proposal;
mod single_writer;
#[cfg(test)]
pub(super) mod testing;
mod verdict;

use serde::{Deserialize, Serialize};

pub(super) use self::verdict::ADVISED;
pub use self::{
    capacity::headroom,
    database::{DatabaseDuty, duty},
    fleet::plan_all,
    proposal::Proposal,
};
use super::facts::ServiceFacts;
use crate::quorum::{Entry, Holder};

/// Who carries a decision out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// The coordinator: the first site, by name, whose lease is fresh.
    Coordinator,
    /// The site that leaves the group: only it can release without being revoked.
    Leaver(String),
}

/// Why the map should change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The group has no holder yet.
    FirstPlacement,
    /// A holder's site came back as a new incarnation.
    Restarted(String),
    /// A holder's site is lost.
    SiteLost(String),
    /// Fewer sites hold it than wanted.
    TooFew,
    /// A better site is back.
    Failback(String),
    /// More sites hold it than wanted: the least preferred one leaves.
    TooMany(String),
    /// The database, which elects its leader by itself, leads at this site.
    DatabaseLed(String),
    /// A person asked for it.
    Asked(String),
}

impl Cause {
    /// Planned moves can wait for people; unplanned ones restore service.
    pub fn is_planned(&self) -> bool {
        matches!(self, Self::Failback(_) | Self::TooMany(_) | Self::Asked(_))
    }
}

/// Whether a decision is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Carry it out.
    Act,
    /// Not yet; it will be carried out by itself.
    Wait(String),
    /// People are asked to approve.
    Propose(String),
    /// Not at all, until somebody changes something.
    Hold(String),
}

/// A wanted change of a group's entry, with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Failover group.
    pub group: String,
    /// Why.
    pub cause: Cause,
    /// The entry that it was decided on.
    pub old: Entry,
    /// Holders that it shall have; the old ones when nothing can be done.
    pub holders: Vec<Holder>,
    /// Who carries it out.
    pub actor: Actor,
    /// Whether it is carried out.
    pub verdict: Verdict,
    /// One sentence for people.
    pub reason: String,
    /// Sites that were considered and why they were not taken.
    pub rejected: Vec<String>,
    /// What the verdict has to add: shortages told, losses accepted and by whom.
    pub notes: Vec<String>,
    /// What people are asked to approve, or approved.
    pub proposal: Option<Proposal>,
    /// Request that it answers.
    pub request: Option<String>,
    /// Nothing else is in the way: the database of the site that leaves has to be demoted first.
    #[serde(default)]
    pub demotes: bool,
}

impl Decision {
    /// Holders that leave.
    pub fn leaving(&self) -> impl Iterator<Item = &Holder> {
        self.old.holders.iter().filter(|old| self.holders.iter().all(|new| new.site != old.site))
    }

    /// Holders that come in.
    pub fn entering(&self) -> impl Iterator<Item = &Holder> {
        self.holders.iter().filter(|new| self.old.holders.iter().all(|old| new.site != old.site))
    }
}

/// What a mode wants, before anybody is asked.
#[derive(Clone, Debug, PartialEq)]
struct Draft {
    cause: Cause,
    holders: Vec<Holder>,
    actor: Actor,
    reason: String,
    rejected: Vec<String>,
}

/// Decides about one group; none when everything is as it should be.
pub fn plan(facts: &ServiceFacts) -> Option<Decision> {
    let draft =
        if facts.spec.mode.single_writer() { single_writer::draft(facts) } else { active_active::draft(facts) }?;
    Some(verdict::judge(facts, draft))
}

fn sorted(holders: impl IntoIterator<Item = Holder>) -> Vec<Holder> {
    let mut holders: Vec<Holder> = holders.into_iter().collect();
    holders.sort();
    holders
}

fn names(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "none".into();
    }
    holders.iter().map(|holder| holder.site.as_str()).collect::<Vec<_>>().join(", ")
}
