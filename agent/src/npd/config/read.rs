//! Reads and checks the configurations. What is not understood is an error with line and column; keys that are unknown
//! are let pass, as node-problem-detector does.

use std::{path::PathBuf, time::Duration};

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use super::{Config, CustomConfig, CustomRule, Effect, LogConfig, LogPlugin, LogRule, Promise, go_duration};
use crate::{
    conditions::ConditionType,
    places::{RulesError, from_json, why_no_expression},
};

/// Largest compiled expression.
const MAX_COMPILED: usize = 1 << 20;
/// Lines that a multi-line expression may span at most.
const MAX_BUFFER: usize = 256;
/// How often custom plugins run when the file does not say.
const INVOKE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a custom plugin may take when the file does not say.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Characters of a plugin's output that are kept when the file does not say.
const MAX_OUTPUT: usize = 80;
/// Plugins that run at a time when the file does not say.
const CONCURRENCY: usize = 3;

#[derive(Deserialize)]
struct Raw {
    plugin: Option<String>,
    #[serde(rename = "pluginConfig", default)]
    plugin_config: serde_json::Map<String, serde_json::Value>,
    #[serde(rename = "logPath", default)]
    log_path: String,
    #[serde(default)]
    lookback: String,
    #[serde(rename = "bufferSize", default)]
    buffer_size: usize,
    #[serde(default)]
    source: String,
    #[serde(default)]
    conditions: Vec<RawCondition>,
    #[serde(default)]
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
struct RawCondition {
    #[serde(rename = "type")]
    about: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct RawRule {
    #[serde(rename = "type")]
    lasting: String,
    #[serde(default)]
    condition: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    pattern: String,
    #[serde(rename = "patternGeneratedMessageSuffix", default)]
    suffix: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    timeout: String,
}

/// Reads a configuration.
///
/// # Errors
/// Everything that is wrong with it, with places.
pub fn parse(text: &str) -> Result<Config, Vec<RulesError>> {
    let text = text.trim_start_matches('\u{feff}');
    let raw: Raw = from_json(text).map_err(|error| vec![error])?;
    let mut reader = Reader { text, errors: Vec::new() };
    let config = reader.config(raw);
    match config {
        Some(config) if reader.errors.is_empty() => Ok(config),
        _ => Err(reader.errors),
    }
}

struct Reader<'a> {
    text: &'a str,
    errors: Vec<RulesError>,
}

impl Reader<'_> {
    fn refuse(&mut self, path: &[&str], message: impl Into<String>) {
        self.errors.push(RulesError::in_json(self.text, path, message));
    }

    fn config(&mut self, mut raw: Raw) -> Option<Config> {
        let Some(plugin) = raw.plugin.take() else {
            self.refuse(
                &[],
                "`plugin` is missing; a system log monitor has kmsg, filelog or journald, a custom plugin monitor \
                 custom. The metrics of a system-stats-monitor are given by this agent without a configuration.",
            );
            return None;
        };
        if raw.source.is_empty() {
            self.refuse(&["source"], "`source` is missing: the name of the monitor");
        }
        let defaults = self.defaults(std::mem::take(&mut raw.conditions));
        if raw.rules.is_empty() {
            self.refuse(&["rules"], "there are no rules");
        }
        if plugin == "custom" {
            return Some(Config::Custom(self.custom(raw, defaults)));
        }
        let plugin = self.log_plugin(&plugin, &raw)?;
        let lookback = if raw.lookback.is_empty() {
            Duration::ZERO
        } else {
            let lookback = raw.lookback.clone();
            self.duration(&["lookback"], &lookback).unwrap_or_default()
        };
        if raw.buffer_size > MAX_BUFFER {
            self.refuse(&["bufferSize"], format!("at most {MAX_BUFFER} lines are kept"));
        }
        let rules = std::mem::take(&mut raw.rules);
        let rules = rules
            .into_iter()
            .enumerate()
            .filter_map(|(index, rule)| self.log_rule(index, rule, &defaults, raw.buffer_size))
            .collect();
        Some(Config::Log(LogConfig {
            source: raw.source,
            path: PathBuf::from(if raw.log_path.is_empty() { "/dev/kmsg" } else { &raw.log_path }),
            plugin,
            lookback,
            buffer: raw.buffer_size.max(1),
            defaults,
            rules,
        }))
    }

    fn log_plugin(&mut self, plugin: &str, raw: &Raw) -> Option<LogPlugin> {
        match plugin {
            "kmsg" => Some(LogPlugin::Kmsg),
            "journald" => {
                let identifier = raw.plugin_config.get("source").and_then(serde_json::Value::as_str);
                let identifier = identifier.filter(|name| !name.is_empty());
                if identifier.is_none() {
                    let message = "`pluginConfig` of journald needs the text `source`, as in kernel or kubelet";
                    self.refuse(&["pluginConfig", "source"], message);
                }
                Some(LogPlugin::Journald { identifier: identifier.unwrap_or_default().to_owned() })
            }
            "filelog" => {
                if raw.log_path.is_empty() {
                    self.refuse(&["logPath"], "`logPath` is missing: the file that is read");
                }
                let mut setting = |name: &str| {
                    let value = raw.plugin_config.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
                    if value.is_empty() {
                        self.refuse(
                            &["pluginConfig", name],
                            format!("`pluginConfig` of filelog needs the text `{name}`"),
                        );
                    }
                    value.to_owned()
                };
                let (timestamp, message, layout) =
                    (setting("timestamp"), setting("message"), setting("timestampFormat"));
                for (name, pattern) in [("timestamp", &timestamp), ("message", &message)] {
                    self.pattern(&["pluginConfig", name], pattern);
                }
                Some(LogPlugin::File { timestamp, message, layout })
            }
            other => {
                self.refuse(
                    &["plugin"],
                    format!("plugin `{other}` is not known; write kmsg, filelog, journald or custom"),
                );
                None
            }
        }
    }

    fn defaults(&mut self, conditions: Vec<RawCondition>) -> Vec<Promise> {
        let mut defaults = Vec::new();
        for (index, condition) in conditions.into_iter().enumerate() {
            let index = index.to_string();
            if !ConditionType::is_valid(&condition.about) {
                let message = format!(
                    "`{}` cannot be the type of a Node condition: letters and digits, 50 at most",
                    condition.about
                );
                self.refuse(&["conditions", &index, "type"], message);
                continue;
            }
            defaults.push(Promise {
                about: ConditionType::named(&condition.about),
                reason: condition.reason,
                message: condition.message,
            });
        }
        defaults
    }

    fn effect(&mut self, index: &str, rule: &RawRule, defaults: &[Promise]) -> Option<Effect> {
        if !ConditionType::is_valid(&rule.reason) {
            let message = format!("`{}` cannot be a reason: letters and digits, 50 at most", rule.reason);
            self.refuse(&["rules", index, "reason"], message);
            return None;
        }
        let permanent = match rule.lasting.as_str() {
            "temporary" => false,
            "permanent" => true,
            other => {
                let message = format!("type `{other}` is not known; write temporary or permanent");
                self.refuse(&["rules", index, "type"], message);
                return None;
            }
        };
        let name = if permanent { &rule.condition } else { &rule.reason };
        let about = ConditionType::named(name);
        if permanent && !defaults.iter().any(|default| default.about.as_str() == name) {
            let message = format!("condition `{name}` is not among `conditions`; a permanent rule names one of them");
            self.refuse(&["rules", index, "condition"], message);
            return None;
        }
        Some(Effect { about, permanent, reason: rule.reason.clone() })
    }

    fn log_rule(&mut self, index: usize, rule: RawRule, defaults: &[Promise], buffer: usize) -> Option<LogRule> {
        let index = index.to_string();
        let effect = self.effect(&index, &rule, defaults);
        let place = ["rules", index.as_str(), "pattern"];
        if rule.pattern.is_empty() {
            self.refuse(&place, "`pattern` is missing: the regular expression of the rule");
            return None;
        }
        if buffer == 0 {
            self.refuse(&["bufferSize"], "`bufferSize` is missing: how many lines a pattern may span");
            return None;
        }
        let pattern = self.pattern(&place, &rule.pattern)?;
        Some(LogRule { effect: effect?, pattern, closed: format!("(?:{})\\z", rule.pattern), suffix: rule.suffix })
    }

    fn custom(&mut self, mut raw: Raw, defaults: Vec<Promise>) -> CustomConfig {
        let settings = std::mem::take(&mut raw.plugin_config);
        let time = |reader: &mut Self, name: &str, or: Duration| match settings.get(name) {
            None => or,
            Some(value) => {
                let text = value.as_str().unwrap_or_default().to_owned();
                reader.duration(&["pluginConfig", name], &text).filter(|time| !time.is_zero()).unwrap_or(or)
            }
        };
        let every = time(self, "invoke_interval", INVOKE_INTERVAL).max(Duration::from_secs(1));
        let timeout = time(self, "timeout", TIMEOUT);
        let count = |reader: &mut Self, name: &str, or: usize| match settings.get(name) {
            None => or,
            Some(value) => {
                value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|c| *c > 0).unwrap_or_else(|| {
                    reader.refuse(&["pluginConfig", name], format!("`{name}` is a number above 0"));
                    or
                })
            }
        };
        let max_output = count(self, "max_output_length", MAX_OUTPUT).min(4096);
        let concurrency = count(self, "concurrency", CONCURRENCY).min(32);
        let rules = std::mem::take(&mut raw.rules).into_iter().enumerate();
        let rules = rules.filter_map(|(index, rule)| {
            let index = index.to_string();
            let effect = self.effect(&index, &rule, &defaults);
            if rule.path.is_empty() {
                self.refuse(&["rules", &index, "path"], "`path` is missing: the program to run");
                return None;
            }
            let mut own = timeout;
            if !rule.timeout.is_empty() {
                own = self.duration(&["rules", &index, "timeout"], &rule.timeout).unwrap_or(timeout);
                if own > timeout {
                    self.refuse(&["rules", &index, "timeout"], "longer than the `timeout` of `pluginConfig`");
                }
            }
            Some(CustomRule { effect: effect?, path: PathBuf::from(rule.path), args: rule.args, timeout: own })
        });
        let rules = rules.collect();
        CustomConfig { source: raw.source, every, max_output, concurrency, defaults, rules }
    }

    fn pattern(&mut self, path: &[&str], pattern: &str) -> Option<Regex> {
        // The end belongs to the whole: without the group, `a|b` would be closed at `b` alone.
        match RegexBuilder::new(&format!("(?:{pattern})")).unicode(false).size_limit(MAX_COMPILED).build() {
            Ok(regex) => Some(regex),
            Err(error) => {
                self.refuse(path, why_no_expression(pattern, &error));
                None
            }
        }
    }

    fn duration(&mut self, path: &[&str], text: &str) -> Option<Duration> {
        match go_duration(text) {
            Some(time) => Some(time),
            None => {
                self.refuse(path, format!("`{text}` is no time; write as in 30s, 5m or 1h30m"));
                None
            }
        }
    }
}
