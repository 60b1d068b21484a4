//! FailoverDrill: a scheduled exercise (演练) that moves services away from one site and back, and its scorecards.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use crate::{FieldError, HumanDuration, Validate};

/// What is drilled, when, and what must hold meanwhile.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evergreen.dev",
    version = "v1alpha1",
    kind = "FailoverDrill",
    plural = "failoverdrills",
    shortname = "drill",
    status = "FailoverDrillStatus",
    derive = "PartialEq",
    doc = "An exercise that moves services away from a data center and back, and its scorecards.",
    printcolumn = r#"{"name":"Site","type":"string","jsonPath":".spec.site"}"#,
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Last","type":"string","jsonPath":".status.lastResult"}"#,
    printcolumn = r#"{"name":"Next","type":"date","jsonPath":".status.nextRun"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailoverDrillSpec {
    /// Site that services leave for the time of the drill. One site at a time, always.
    pub site: String,
    /// Services that leave it; empty: all that it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<DrillService>,
    /// Whether anything is moved. Default: tabletop.
    #[serde(default)]
    pub mode: DrillMode,
    /// When a ticket is opened by itself; none: only when a person asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<DrillSchedule>,
    /// When a drill may start and must have ended, in the time zone of the schedule (UTC without one). Empty: at any time,
    /// which only agile services may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<DrillWindow>,
    /// How long services stay away. Default: 30m.
    #[serde(default = "half_an_hour")]
    pub hold_for: HumanDuration,
    /// How long moving away, and moving back, may take each. Default: 5m.
    #[serde(default = "five_minutes")]
    pub move_within: HumanDuration,
    /// What must hold meanwhile; a breach aborts the drill and brings the services back.
    #[serde(default)]
    pub objectives: DrillObjectives,
    /// An address of the service as its clients use it, asked five times a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<DrillProbe>,
    /// Recovery class of JR/T 0044 that the result is compared with: 1, 2 or 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_class: Option<u8>,
    /// A ticket that nobody started within this time is closed. Default: 24h.
    #[serde(default = "a_day")]
    pub ticket_lasts: HumanDuration,
    /// No ticket is opened while set.
    #[serde(default)]
    pub suspend: bool,
    /// Breaks a drill off, as `evergreen drill abort` writes it: what was moved comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<DrillAbort>,
    /// What the business side says after a drill.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sign_offs: Vec<DrillSignOff>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillService {
    /// Namespace.
    pub namespace: String,
    /// Name of the MultiActiveService.
    pub name: String,
}

/// Whether anything is moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DrillMode {
    /// 桌面演练: checks, decides, records; moves nothing.
    #[default]
    Tabletop,
    /// 实战演练: services move away and back as in a planned switchover.
    Switchover,
}

/// Five fields of cron in a time zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillSchedule {
    /// Minute, hour, day of month, month, day of week (0 or 7 is Sunday), as in `0 2 * * 6`.
    pub cron: String,
    /// Time zone, as in Asia/Shanghai.
    pub time_zone: String,
}

/// Hours of days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillWindow {
    /// Days on which it begins: mon, tue, wed, thu, fri, sat, sun; empty: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<String>,
    /// First minute, `HH:MM`.
    pub from: String,
    /// Minute after the last, `HH:MM`; not later than `from`: the next day.
    pub to: String,
}

/// What must hold during a drill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillObjectives {
    /// Longest time without service of one move, as probes see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<HumanDuration>,
    /// Largest loss of data, as the data gates measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<HumanDuration>,
    /// Largest share of failed probes in five seconds, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_error_percent: Option<u8>,
}

/// What is asked all the time. The controller's `--traffic-allow` must list it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillProbe {
    /// Address; an answer of 2xx within a second is a success.
    pub url: String,
    /// Secret in evergreen-system whose `ca.crt` the certificate of an https address comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<String>,
}

/// A person breaks a drill off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillAbort {
    /// Ticket that is broken off; another one is not concerned.
    pub ticket: String,
    /// Who.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What the business side says about a drill that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrillSignOff {
    /// Ticket.
    pub ticket: String,
    /// Who confirms.
    pub by: String,
    /// When the business side confirmed, RFC 3339.
    pub confirmed_at: String,
    /// Result of the reconciliation (对账).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciliation: Option<String>,
    /// Customers affected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customers_affected: Option<u64>,
    /// Incident grade, in the words of the institution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident_grade: Option<String>,
    /// What is to be mended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remediation: Vec<Remediation>,
}

/// Something to be mended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Remediation {
    /// What.
    pub what: String,
    /// Who does it.
    pub owner: String,
    /// Until when, as a date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// When it was closed, as a date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
}

fn half_an_hour() -> HumanDuration {
    HumanDuration::seconds(1_800)
}

fn five_minutes() -> HumanDuration {
    HumanDuration::seconds(300)
}

fn a_day() -> HumanDuration {
    HumanDuration::seconds(86_400)
}

/// Where a drill is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DrillPhase {
    /// Nothing is asked for.
    #[default]
    Idle,
    /// A ticket is open.
    Waiting,
    /// Services are moving away.
    Moving,
    /// They are away.
    Holding,
    /// They are moving back.
    Returning,
}

/// How a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DrillResult {
    /// Moved, held, came back, met its objectives.
    Passed,
    /// Came back, and missed an objective.
    Failed,
    /// An objective was breached: it was broken off and the services brought back.
    Aborted,
    /// A real incident came: the drill let go at once.
    Interrupted,
    /// It was not begun.
    Refused,
}

/// What the controller says about a drill.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverDrillStatus {
    /// Conditions: Accepted.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Where it is.
    #[serde(default)]
    pub phase: DrillPhase,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When the next ticket is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run: Option<String>,
    /// Up to when the schedule was looked at; what it fired after that opens a ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<String>,
    /// Tickets that were ever opened. A request names this number, so that it opens one ticket and no second.
    #[serde(default)]
    pub tickets: u64,
    /// What people are asked to approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<super::ProposalStatus>,
    /// What a drill would do now, and what would keep it from that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preview: Vec<String>,
    /// The open ticket or the drill under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Scorecard>,
    /// Result of the last drill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_result: Option<DrillResult>,
    /// Drills that have ended, the newest first.
    #[serde(default)]
    pub history: Vec<Scorecard>,
}

/// An approval, as it was signed: each controller verifies it by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrillEvidence {
    /// Who.
    pub by: String,
    /// The statement, exactly as it was signed.
    pub statement: String,
    /// The signature, base64.
    pub signature: String,
}

/// A failover group of a drill, and where it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrilledService {
    /// Failover group.
    pub name: String,
    /// Sites that held it before.
    pub before: Vec<String>,
    /// Sites that held it while it was away.
    #[serde(default)]
    pub away: Vec<String>,
}

/// One thing that was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrillStep {
    /// When, RFC 3339.
    pub at: String,
    /// Who: a person's name, or `controller`.
    pub by: String,
    /// What.
    pub what: String,
}

/// Record of one drill, with the fields that JR/T 0044 and JR/T 0208 ask for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scorecard {
    /// Ticket.
    pub ticket: String,
    /// Who asked: a person, or `schedule`.
    pub requested_by: String,
    /// When the ticket was opened.
    pub opened_at: String,
    /// Digest of what shall be done: approvals name it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Who approved.
    #[serde(default)]
    pub approvers: Vec<String>,
    /// Their signatures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<DrillEvidence>,
    /// W3C trace context of the drill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Services and where they were.
    #[serde(default)]
    pub services: Vec<DrilledService>,
    /// When it began: the exercise's fault. None while it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When the controllers took the request in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_at: Option<String>,
    /// When the move was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<String>,
    /// When the last service had moved away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_at: Option<String>,
    /// When moving back began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returning_at: Option<String>,
    /// When the last service was back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<DrillResult>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Measured time without service, in milliseconds: from the first failed probe to the first good one after the last
    /// failed one, of the worse of both moves; none without a probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
    /// Measured loss of data, in milliseconds; none without a data gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_ms: Option<u64>,
    /// Time from the first failed probe of a breach (or from the look that showed a breach of another objective) until
    /// moving back was asked for, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_ms: Option<u64>,
    /// Probes sent.
    #[serde(default)]
    pub probes: u64,
    /// Probes that failed.
    #[serde(default)]
    pub probes_failed: u64,
    /// Room at the sites that stay, as the capacity gates said when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,
    /// What was done, in order.
    #[serde(default)]
    pub steps: Vec<DrillStep>,
}

impl Scorecard {
    /// Steps that people did.
    pub fn steps_by_people(&self) -> usize {
        self.steps.iter().filter(|step| step.by != "controller").count()
    }
}

/// Days of a week, as windows name them.
pub const DRILL_DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl DrillWindow {
    /// Minutes of the day at which it begins and ends; none when one is no time.
    pub fn minutes(&self) -> Option<(u32, u32)> {
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        Some((minute(&self.from)?, minute(&self.to)?))
    }
}

impl Validate for FailoverDrillSpec {
    fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.site.is_empty() {
            errors.push(FieldError::new("spec.site", "name the site that services leave"));
        }
        if let Some(schedule) = &self.schedule
            && schedule.cron.split_whitespace().count() != 5
        {
            errors.push(FieldError::new("spec.schedule.cron", "must have five fields, as in `0 2 * * 6`"));
        }
        for (index, window) in self.windows.iter().enumerate() {
            let path = format!("spec.windows[{index}]");
            if window.minutes().is_none() {
                errors.push(FieldError::new(format!("{path}.from"), "from and to must be HH:MM, as in 02:00"));
            }
            for day in window.days.iter().filter(|day| !DRILL_DAYS.contains(&day.as_str())) {
                errors.push(FieldError::new(
                    format!("{path}.days"),
                    format!("`{day}` is none of {}", DRILL_DAYS.join(", ")),
                ));
            }
        }
        if self.hold_for.get() > std::time::Duration::from_secs(86_400) {
            errors.push(FieldError::new("spec.holdFor", "must be at most 1d"));
        }
        if !(10..=3_600).contains(&self.move_within.get().as_secs()) {
            errors.push(FieldError::new("spec.moveWithin", "must be between 10s and 1h"));
        }
        if self.objectives.max_error_percent.is_some() && self.probe.is_none() {
            errors.push(FieldError::new("spec.probe", "maxErrorPercent needs a probe to be measured with"));
        }
        if self.objectives.max_error_percent.is_some_and(|percent| percent > 100) {
            errors.push(FieldError::new("spec.objectives.maxErrorPercent", "must be at most 100"));
        }
        if self.recovery_class.is_some_and(|class| !(1..=3).contains(&class)) {
            errors.push(FieldError::new("spec.recoveryClass", "must be 1, 2 or 3"));
        }
        errors
    }
}
