//! The file format of rules: what a person writes, and its checks. A file is refused as a whole, with line and column,
//! when anything in it is wrong.

use std::collections::HashSet;

use evergreen_api::{ProblemKind, Severity};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{FORMAT, Pattern, Rule, Threshold, compile};
use crate::{
    conditions::{ConditionType, MAX_NAME},
    places::{RulesError, duration, from_yaml, why_no_expression},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: Spanned<String>,
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRule {
    id: Spanned<String>,
    kind: Spanned<String>,
    severity: Spanned<String>,
    crash_type: Option<String>,
    report: Option<Spanned<String>>,
    #[serde(rename = "match")]
    matches: Vec<Spanned<String>>,
    #[serde(default)]
    unless: Vec<Spanned<String>>,
    #[serde(default)]
    cancel: Vec<Spanned<String>>,
    rank: Option<i32>,
    #[serde(default)]
    refine: Vec<RawRefine>,
    threshold: Option<RawThreshold>,
    clear_after: Option<Spanned<String>>,
    condition: Option<bool>,
    name: Option<Spanned<String>>,
    summary: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRefine {
    #[serde(rename = "match")]
    matches: Spanned<String>,
    crash_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawThreshold {
    count: Spanned<u32>,
    within: Spanned<String>,
}

/// One rules file, checked and not yet compiled.
#[derive(Debug, Default)]
pub struct Part {
    pub(super) rules: Vec<Rule>,
    pub(super) cancel: Vec<(String, usize)>,
}

impl Part {
    /// Rules of the file.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Reads a rules file.
    ///
    /// # Errors
    /// Everything that is wrong; a file whose shape is wrong yields that error alone.
    pub fn check(text: &str) -> Result<Self, Vec<RulesError>> {
        let file: File = from_yaml(text).map_err(|error| vec![error])?;
        let mut errors = Vec::new();
        if file.format.value != FORMAT {
            let message = format!("format `{}` is not known; write `{FORMAT}`", file.format.value);
            errors.push(RulesError::at(&file.format, message));
        }
        let mut names = HashSet::new();
        let mut rules = Vec::with_capacity(file.rules.len());
        let mut cancel = Vec::new();
        for raw in file.rules {
            if !names.insert(raw.id.value.clone()) {
                errors.push(RulesError::at(&raw.id, format!("rule `{}` is there twice; ids are unique", raw.id.value)));
            }
            for pattern in &raw.cancel {
                check_pattern(pattern, &mut errors);
                cancel.push((pattern.value.clone(), rules.len()));
            }
            rules.push(raw.into_rule(&mut errors));
        }
        if errors.is_empty() { Ok(Self { rules, cancel }) } else { Err(errors) }
    }
}

fn check_pattern(pattern: &Spanned<String>, errors: &mut Vec<RulesError>) {
    if let Err(error) = compile(&pattern.value) {
        errors.push(RulesError::at(pattern, why_no_expression(&pattern.value, &error)));
    }
}

impl RawRule {
    fn into_rule(self, errors: &mut Vec<RulesError>) -> Rule {
        let kind = self.kind.value.parse::<ProblemKind>().unwrap_or_else(|error| {
            let known: Vec<_> = ProblemKind::ALL.iter().map(|kind| kind.condition_type()).collect();
            errors.push(RulesError::at(&self.kind, format!("{error}; known are {}", known.join(", "))));
            ProblemKind::Custom
        });
        let severity = match self.severity.value.as_str() {
            "info" => Severity::Info,
            "warning" => Severity::Warning,
            "degraded" => Severity::Degraded,
            "fatal" => Severity::Fatal,
            other => {
                let message = format!("severity `{other}` is not known; write info, warning, degraded or fatal");
                errors.push(RulesError::at(&self.severity, message));
                Severity::Info
            }
        };
        let crash = match self.report.as_ref().map(|report| report.value.as_str()) {
            None | Some("event") => false,
            Some("crash") => true,
            Some(other) => {
                let place = self.report.as_ref().unwrap_or(&self.id);
                errors.push(RulesError::at(place, format!("report `{other}` is not known; write crash or event")));
                false
            }
        };
        if self.matches.is_empty() {
            errors.push(RulesError::at(
                &self.id,
                format!("rule `{}` matches nothing; give `match` an expression", self.id.value),
            ));
        }
        let refine_patterns = self.refine.iter().map(|refine| &refine.matches);
        self.matches.iter().chain(&self.unless).chain(refine_patterns).for_each(|p| check_pattern(p, errors));
        let names: HashSet<String> = self
            .matches
            .iter()
            .filter_map(|pattern| compile(&pattern.value).ok())
            .flat_map(|regex| regex.capture_names().flatten().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        for name in placeholders(&self.summary.value) {
            if name != "0" && !names.contains(name) {
                errors.push(RulesError::at(
                    &self.summary,
                    format!("no expression of `match` has a group named `{name}`"),
                ));
            }
        }
        let threshold = self.threshold.map(|raw| {
            if raw.count.value == 0 || raw.count.value > 1000 {
                errors.push(RulesError::at(&raw.count, "count is between 1 and 1000"));
            }
            Threshold { count: raw.count.value, within: duration(&raw.within, errors) }
        });
        let about = match &self.name {
            Some(name) if kind != ProblemKind::Custom => {
                errors.push(RulesError::at(name, format!("only a rule of kind Custom has a name; the kind is {kind}")));
                ConditionType::Kind(kind)
            }
            Some(name) if !ConditionType::is_valid(&name.value) => {
                let message = format!("a name has letters and digits, a letter first, {MAX_NAME} at most");
                errors.push(RulesError::at(name, message));
                ConditionType::Kind(kind)
            }
            Some(name) => ConditionType::named(&name.value),
            None => ConditionType::Kind(kind),
        };
        let clear_after = self.clear_after.as_ref().map(|text| duration(text, errors));
        let patterns = |list: Vec<Spanned<String>>| list.into_iter().map(|p| Pattern::new(p.value)).collect();
        Rule {
            id: self.id.value,
            kind,
            severity,
            crash_type: self.crash_type,
            crash,
            rank: self.rank.unwrap_or(50),
            threshold,
            clear_after,
            condition: self.condition.unwrap_or(true),
            about,
            summary: self.summary.value,
            patterns: patterns(self.matches),
            unless: patterns(self.unless),
            refine: self.refine.into_iter().map(|r| (Pattern::new(r.matches.value), r.crash_type)).collect(),
        }
    }
}

fn placeholders(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).filter_map(|part| part.split_once('}').map(|(name, _)| name))
}
