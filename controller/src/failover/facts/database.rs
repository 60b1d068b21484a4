//! What is known of the hooks of a service's database: values only.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// What a hook is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookVerb {
    /// Take no writes any more; follow the holder.
    Demote,
    /// Show that no write is taken.
    ProveFenced,
    /// Take writes.
    Promote,
}

impl HookVerb {
    /// The last part of the address that it is asked at.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Demote => "demote",
            Self::ProveFenced => "prove-fenced",
            Self::Promote => "promote",
        }
    }
}

/// What a hook compares: the version of the group's entry first, then the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HookToken {
    /// Version of the group's entry.
    pub epoch: u64,
    /// How often the holder's own wish was turned within that version.
    pub step: u32,
}

/// What a holder wants of its own database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookWish {
    /// Version of the group's entry.
    pub epoch: u64,
    /// Step.
    pub step: u32,
    /// It shall be demoted, because the site leaves.
    pub leaving: bool,
}

impl HookWish {
    /// What its calls carry.
    pub const fn token(self) -> HookToken {
        HookToken { epoch: self.epoch, step: self.step }
    }
}

/// One call to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCall {
    /// Failover group.
    pub group: String,
    /// Site whose database is meant.
    pub site: String,
    /// What is asked for.
    pub verb: HookVerb,
    /// What the hook compares.
    pub token: HookToken,
    /// Site that leads, or shall.
    pub holder: String,
}

/// A yes of a hook, under the very token that it was asked under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookAnswer {
    /// To what.
    pub verb: HookVerb,
    /// Under what.
    pub token: HookToken,
    /// Last position in the log, where it tells one.
    pub position: Option<u64>,
    /// How it knows.
    pub evidence: String,
}

/// Why there is no yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookTrouble {
    /// To what.
    pub verb: HookVerb,
    /// Why.
    pub why: String,
}

/// What is known of the hooks of one service's database for one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// The site that looks.
    pub own: String,
    /// What it wanted of its own database when it looked last.
    pub wish: Option<HookWish>,
    /// Answers under this version of the entry, by site.
    pub answers: BTreeMap<String, Vec<HookAnswer>>,
    /// What the last call of a site came to, if it was no yes.
    pub troubles: BTreeMap<String, HookTrouble>,
    /// For how long a site has been asked under this version without any answer.
    pub silent: BTreeMap<String, Duration>,
}

impl DatabaseFacts {
    /// The yes of a site under exactly this token.
    pub fn answered(&self, site: &str, verb: HookVerb, token: HookToken) -> Option<&HookAnswer> {
        self.answers.get(site)?.iter().find(|answer| answer.verb == verb && answer.token == token)
    }

    /// For how long a site has not answered at all.
    pub fn silent_for(&self, site: &str) -> Option<Duration> {
        self.silent.get(site).copied()
    }

    /// What a call waits for, for people.
    pub fn waiting(&self, site: &str, verb: HookVerb) -> String {
        match self.troubles.get(site).filter(|trouble| trouble.verb == verb) {
            Some(trouble) => format!("{} at {site}: {}", verb.path(), trouble.why),
            None => format!("{} at {site} is asked for", verb.path()),
        }
    }
}
