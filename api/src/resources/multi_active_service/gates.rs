//! What must hold before a service moves: the data are there, the room is there, the database agrees.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{FieldError, HumanDuration};

/// Where each site's data stand. A site is given the service only if its position meets `objectives.rpo`; a gate that
/// does not answer in time holds. Exactly one source is set.
///
/// `{site}`, `{group}` and `{epoch}` in URLs, queries and statements are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataGate {
    /// A PromQL query that answers the lag in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricGate>,
    /// A statement sent to an SQL-over-HTTP endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_over_http: Option<SqlGate>,
    /// `POST <url>/position` of the database hook contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookEndpoint>,
    /// How long one answer may take. Default: 3s.
    #[serde(default = "three_seconds")]
    pub timeout: HumanDuration,
    /// An answer older than this does not count. Default: 1m.
    #[serde(default = "one_minute")]
    pub max_age: HumanDuration,
}

/// A PromQL query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricGate {
    /// Address of the Prometheus API, as in `http://prometheus.monitoring:9090`.
    pub url: String,
    /// Query that answers one number: the lag of `{site}` in seconds.
    pub query: String,
}

/// A statement for an endpoint that takes `{"sql": ...}` and answers one row with `lag_seconds` and, if it can,
/// `position`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SqlGate {
    /// Address.
    pub url: String,
    /// Statement.
    pub sql: String,
}

/// An HTTP endpoint of the database hook contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HookEndpoint {
    /// Address below which `position`, `demote`, `promote` and `prove-fenced` are asked for. Its host must be in the
    /// controller's `--hook-allow`.
    pub url: String,
}

/// What takes a database from one site to another: it is demoted and proven fenced before its site releases the group, and
/// promoted before anything is granted at the next. docs/database-hooks.md is the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatabaseHooks {
    /// Where the hooks are.
    pub endpoint: HookEndpoint,
    /// How long one answer may take; the same call is repeated until it is answered. Default: 30s.
    #[serde(default = "thirty_seconds")]
    pub timeout: HumanDuration,
}

/// Room for the load of a lost site at those that stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapacityGate {
    /// What to do when the room is too small. Default: hold for planned moves, warn for unplanned ones.
    #[serde(default)]
    pub action: CapacityAction,
    /// Share of a site's allocatable resources that has to stay free after the move, in percent. Default: 0.
    #[serde(default)]
    pub reserve_percent: u8,
    /// Replicas that a site needs to carry the whole service. Default: those that all sites want together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
}

/// What happens when the room is too small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CapacityAction {
    /// Planned moves are held; unplanned ones are made, and the shortage is told: too little is more than nothing.
    #[default]
    HoldPlanned,
    /// Every move is held until a person overrides.
    Hold,
    /// Only told.
    Warn,
}

fn three_seconds() -> HumanDuration {
    HumanDuration::seconds(3)
}

fn thirty_seconds() -> HumanDuration {
    HumanDuration::seconds(30)
}

fn one_minute() -> HumanDuration {
    HumanDuration::seconds(60)
}

impl DataGate {
    /// Finds what is wrong with the gate; `path` is where it stands.
    pub fn validate_at(&self, path: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let sources = [self.metric.is_some(), self.sql_over_http.is_some(), self.hook.is_some()];
        if sources.into_iter().filter(|set| *set).count() != 1 {
            errors.push(FieldError::new(path, "set exactly one of metric, sqlOverHttp, hook"));
        }
        if let Some(metric) = &self.metric {
            errors.extend(url_error(&metric.url, &format!("{path}.metric.url")));
            if metric.query.trim().is_empty() {
                errors.push(FieldError::new(format!("{path}.metric.query"), "needs a PromQL query"));
            }
        }
        if let Some(sql) = &self.sql_over_http {
            errors.extend(url_error(&sql.url, &format!("{path}.sqlOverHttp.url")));
            if sql.sql.trim().is_empty() {
                errors.push(FieldError::new(format!("{path}.sqlOverHttp.sql"), "needs a statement"));
            }
        }
        if let Some(hook) = &self.hook {
            errors.extend(url_error(&hook.url, &format!("{path}.hook.url")));
        }
        if self.timeout.get().is_zero() || self.timeout.get().as_secs() > 60 {
            errors.push(FieldError::new(format!("{path}.timeout"), "must be more than 0 and at most 1m"));
        }
        errors
    }
}

/// What is wrong with an address. Credentials in it would end up in records.
pub(super) fn url_error(url: &str, path: &str) -> Option<FieldError> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let wrong = match rest {
        None => "must begin with http:// or https://",
        Some(rest) if rest.split('/').next().is_none_or(|authority| authority.is_empty()) => "names no host",
        Some(rest) if rest.split('/').next().is_some_and(|authority| authority.contains('@')) => {
            "must not hold credentials: they would be recorded"
        }
        Some(_) => return None,
    };
    Some(FieldError::new(path, wrong))
}
