//! node-problem-detector's JSON configurations, read as they are: system log monitors (kernel, docker, abrt, read-only,
//! systemd) and custom plugin monitors. What is not understood is an error with line and column; keys that are unknown
//! are let pass, as there.

use std::{path::PathBuf, time::Duration};

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use super::place::locate;
use crate::{conditions::ConditionType, kernel::rules::RulesError};

/// Largest compiled expression.
const MAX_COMPILED: usize = 1 << 20;
/// Lines that a multi-line expression may span at most.
const MAX_BUFFER: usize = 256;
/// Longest configuration file.
const MAX_FILE: usize = 1 << 20;
/// How often custom plugins run when the file does not say.
const INVOKE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a custom plugin may take when the file does not say.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Characters of a plugin's output that are kept when the file does not say.
const MAX_OUTPUT: usize = 80;
/// Plugins that run at a time when the file does not say.
const CONCURRENCY: usize = 3;

/// A configuration file.
#[derive(Clone, Debug)]
pub enum Config {
    /// Watches a log.
    Log(LogConfig),
    /// Runs commands.
    Custom(CustomConfig),
}

/// A condition that the Node shows from the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Type.
    pub about: ConditionType,
    /// Reason while nothing is wrong.
    pub reason: String,
    /// Message while nothing is wrong.
    pub message: String,
}

/// What a match or a failed check becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Type of the condition; of a temporary problem its reason.
    pub about: ConditionType,
    /// Whether it is a condition of the Node, until the next boot or until the check succeeds.
    pub permanent: bool,
    /// Reason.
    pub reason: String,
}

/// Which log a monitor watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPlugin {
    /// The kernel log.
    Kmsg,
    /// A file.
    File {
        /// Expression whose last group is the time of a line.
        timestamp: String,
        /// Expression whose last group is what the line says.
        message: String,
        /// Layout of the time, by Go's reference time.
        layout: String,
    },
    /// journald, which this agent does not read.
    Journald,
}

/// A system log monitor.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Name.
    pub source: String,
    /// Log.
    pub plugin: LogPlugin,
    /// Path of the log.
    pub path: PathBuf,
    /// How old lines may be when the agent starts.
    pub lookback: Duration,
    /// Lines that an expression may span.
    pub buffer: usize,
    /// What the Node shows while nothing is wrong.
    pub defaults: Vec<Promise>,
    /// Rules.
    pub rules: Vec<LogRule>,
}

/// One rule of a system log monitor.
#[derive(Clone, Debug)]
pub struct LogRule {
    /// What a match becomes.
    pub effect: Effect,
    /// Expression; a match ends with the last line read.
    pub pattern: Regex,
    /// Its text, closed with the end of the log.
    pub closed: String,
    /// What is added to the message.
    pub suffix: String,
}

/// A custom plugin monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomConfig {
    /// Name.
    pub source: String,
    /// How often the commands run.
    pub every: Duration,
    /// Characters of output that are kept.
    pub max_output: usize,
    /// Commands that run at a time.
    pub concurrency: usize,
    /// What the Node shows while nothing is wrong.
    pub defaults: Vec<Promise>,
    /// Commands.
    pub rules: Vec<CustomRule>,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomRule {
    /// What failing becomes.
    pub effect: Effect,
    /// Program; no shell.
    pub path: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

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

/// Whether a text is one of these files rather than rules of ours: they are JSON objects.
pub fn is_json(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').trim_start().starts_with('{')
}

/// Reads a configuration.
///
/// # Errors
/// Everything that is wrong with it, with places.
pub fn parse(text: &str) -> Result<Config, Vec<RulesError>> {
    if text.len() > MAX_FILE {
        let message = format!("the file has {} bytes; at most {MAX_FILE} are read", text.len());
        return Err(vec![RulesError { line: 0, column: 0, message }]);
    }
    let text = text.trim_start_matches('\u{feff}');
    let raw: Raw = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        vec![RulesError { line: error.line() as u64, column: error.column() as u64, message }]
    })?;
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
        let (line, column) = locate(self.text, path);
        self.errors.push(RulesError { line, column, message: message.into() });
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
            "journald" => Some(LogPlugin::Journald),
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
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
                self.refuse(path, format!("`{pattern}` is no regular expression: {reason}"));
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

/// A duration as Go writes it: `1h30m`, `0.5s`, `300ms`.
pub fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, scale) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        seconds += number * scale;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{
  "plugin": "kmsg",
  "logPath": "/dev/kmsg",
  "lookback": "5m",
  "bufferSize": 10,
  "source": "kernel-monitor",
  "metricsReporting": true,
  "conditions": [
    { "type": "KernelDeadlock", "reason": "NoDeadlock", "message": "none" },
    { "type": "StorageGone", "reason": "StorageThere", "message": "all there" }
  ],
  "rules": [
    { "type": "temporary", "reason": "MemoryKill", "pattern": "Killed process \\d+.*" },
    { "type": "permanent", "condition": "StorageGone", "reason": "ArrayLost", "pattern": "array \\S+ lost" }
  ]
}"#;

    fn log(text: &str) -> LogConfig {
        match parse(text).unwrap() {
            Config::Log(log) => log,
            Config::Custom(_) => panic!("a log monitor"),
        }
    }

    #[test]
    fn a_condition_of_the_taxonomy_keeps_its_kind_and_another_its_name() {
        let log = log(LOG);
        assert_eq!(log.lookback, Duration::from_secs(300));
        assert_eq!(log.defaults[0].about, evergreen_api::ProblemKind::KernelDeadlock);
        assert_eq!(log.defaults[1].about.as_str(), "StorageGone");
        assert_eq!(log.rules[1].effect.about.as_str(), "StorageGone");
        assert_eq!(log.rules[0].effect.about.as_str(), "MemoryKill");
        assert!(!log.rules[0].effect.permanent);
    }

    #[test]
    fn each_mistake_is_told_with_line_and_column() {
        for (from, to, line, says) in [
            ("\"plugin\": \"kmsg\",\n", "", 1, "`plugin` is missing"),
            ("\"kmsg\"", "\"kmesg\"", 2, "plugin `kmesg`"),
            ("\"5m\"", "\"5 minutes\"", 4, "no time"),
            (": 10,", ": \"ten\",", 5, "expected usize"),
            ("\"StorageGone\", \"reason\": \"A", "\"Storage\", \"reason\": \"A", 14, "not among"),
            ("array \\\\S+", "array (", 14, "no regular expression"),
            ("temporary", "sometimes", 13, "type `sometimes`"),
            ("MemoryKill", "memory kill", 13, "cannot be a reason"),
            ("\"none\" },", "\"none\" ", 10, "expected"),
        ] {
            assert!(LOG.contains(from), "{from}");
            let errors = parse(&LOG.replacen(from, to, 1)).unwrap_err();
            assert_eq!(errors[0].line, line, "{errors:?}");
            assert!(errors[0].column > 0 && errors[0].message.contains(says), "{errors:?}");
        }
    }

    #[test]
    fn a_custom_plugin_monitor_has_the_defaults_of_the_protocol() {
        let text = r#"{"plugin": "custom", "pluginConfig": {"invoke_interval": "10s"}, "source": "s",
            "conditions": [{"type": "ClockBad", "reason": "ClockGood", "message": "ok"}],
            "rules": [{"type": "permanent", "condition": "ClockBad", "reason": "Drift", "path": "/bin/check", "timeout": "3s"}]}"#;
        let Config::Custom(custom) = parse(text).unwrap() else { panic!("a custom monitor") };
        assert_eq!((custom.every, custom.max_output, custom.concurrency), (Duration::from_secs(10), 80, 3));
        assert_eq!(custom.rules[0].timeout, Duration::from_secs(3));
        let errors = parse(&text.replace("\"3s\"", "\"6s\"")).unwrap_err();
        assert!(errors[0].message.contains("longer"), "{errors:?}");
    }

    #[test]
    fn times_are_read_as_go_writes_them() {
        assert_eq!(go_duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(go_duration("300ms"), Some(Duration::from_millis(300)));
        assert_eq!(go_duration("0.5s"), Some(Duration::from_millis(500)));
        assert_eq!((go_duration(""), go_duration("5"), go_duration("s")), (None, None, None));
    }
}
