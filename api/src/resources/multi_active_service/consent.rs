//! Who decides a move, and how much of it is automatic.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::HumanDuration;

/// Whether decisions are acted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// Decide, record, show; do nothing.
    #[default]
    Observe,
    /// Decide, record, and recommend by Event; people act by hand.
    Advise,
    /// Act as `decision` says.
    Enforce,
}

/// Who decides a move: for planned moves (failback, switchover) and unplanned ones (a lost site).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DecisionPolicy {
    /// Planned moves. Default: manual.
    #[serde(default)]
    pub planned: Decision,
    /// Unplanned moves. Default: approve where the service is steady (label `evergreen.dev/stability`, nothing said means
    /// steady), auto where it is agile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unplanned: Option<Decision>,
    /// How `approve` is done.
    #[serde(default)]
    pub approval: Approval,
}

/// Who decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The controller proposes in the status and does nothing until a person asks for the move.
    #[default]
    Manual,
    /// The controller proposes; people other than who asked approve.
    Approve,
    /// The controller acts.
    Auto,
}

/// How a proposal is approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approval {
    /// Different people who must approve, none of them the one who asked. Default: 1.
    #[serde(default = "one_person")]
    pub people: u8,
    /// A proposal is open for so long. Default: 15m.
    #[serde(default = "fifteen_minutes")]
    pub timeout: HumanDuration,
    /// What happens at the time-out. Default: hold.
    #[serde(default)]
    pub on_timeout: OnTimeout,
}

fn one_person() -> u8 {
    1
}

fn fifteen_minutes() -> HumanDuration {
    HumanDuration::seconds(900)
}

impl Default for Approval {
    fn default() -> Self {
        Self { people: one_person(), timeout: fifteen_minutes(), on_timeout: OnTimeout::default() }
    }
}

/// What happens when nobody approved in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// Nothing moves; approvals that come later do not count, a person has to ask anew.
    #[default]
    Hold,
    /// The move is made. Not for kinds flow and account.
    Proceed,
}

/// Whose word counts on who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Authority {
    /// The sites' quorum.
    #[default]
    Evergreen,
    /// The database elects its leader by itself (OceanBase, TiDB, MySQL Group Replication, Patroni); the group follows it
    /// and never races it.
    Database,
    /// A person: every move, planned or not, has to be asked for.
    Person,
}

/// How much change a service bears: label `evergreen.dev/stability`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stability {
    /// 稳态: unplanned moves are approved by people unless the service says otherwise.
    #[default]
    Steady,
    /// 敏态.
    Agile,
}

impl Stability {
    /// The class that labels name: the first that says one counts; nothing said means steady.
    pub fn of_labels<'a>(labels: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        match labels.into_iter().flatten().next() {
            Some("agile") => Self::Agile,
            _ => Self::Steady,
        }
    }
}

impl DecisionPolicy {
    /// Who decides an unplanned move of a service of this class.
    pub fn unplanned_of(&self, stability: Stability) -> Decision {
        self.unplanned.unwrap_or(match stability {
            Stability::Steady => Decision::Approve,
            Stability::Agile => Decision::Auto,
        })
    }
}
