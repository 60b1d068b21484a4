//! What is predicted, in data: which series have a limit worth knowing the time of, which count errors, and which are
//! watched for the unusual. This only reads the file; it decides nothing.

use std::time::Duration;

use evergreen_api::ProblemKind;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::{
    conditions::ConditionType,
    places::{self, RulesError},
    sources::series::SeriesName,
};

/// The rules that are built in.
pub const BUILT_IN: &str = include_str!("../../rules/predictions.yaml");
/// `format` that this version reads.
pub const FORMAT: &str = "evergreen.dev/predictions/v1";
/// How the names of rules begin that predictions have in conditions.
pub const RULE_PREFIX: &str = "prediction/";
/// Where the subject stands in a summary.
const SUBJECT: &str = "{subject}";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: Spanned<String>,
    #[serde(default)]
    limits: Vec<RawLimit>,
    #[serde(default)]
    trends: Vec<RawTrend>,
    #[serde(default)]
    unusual: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimit {
    series: Spanned<String>,
    kind: Spanned<String>,
    summary: String,
    horizon: Spanned<String>,
    window: Spanned<String>,
    full: Option<Spanned<f64>>,
    #[serde(default)]
    reserve: f64,
    #[serde(default)]
    condition: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTrend {
    series: Spanned<String>,
    kind: Spanned<String>,
    summary: String,
}

/// Names of series, as `KIND.*.WHAT` or `KIND.WHAT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    kind: String,
    what: String,
    of_things: bool,
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('.').collect();
        let (kind, what, of_things) = match parts[..] {
            [kind, "*", what] => (kind, what, true),
            [kind, what] => (kind, what, false),
            _ => return None,
        };
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (is_word(kind) && is_word(what)).then(|| Self { kind: kind.to_owned(), what: what.to_owned(), of_things })
    }

    /// Whether a series has such a name.
    pub fn matches(&self, name: &SeriesName) -> bool {
        name.kind() == self.kind && name.what() == self.what && name.thing().is_empty() != self.of_things
    }
}

/// Something with a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitRule {
    /// Which series.
    pub series: Pattern,
    /// Problem to be expected.
    pub kind: ProblemKind,
    /// One line, with `{subject}`.
    pub summary: String,
    /// How far ahead it is told.
    pub horizon: Duration,
    /// For how long a rise was seen at least.
    pub window: Duration,
    /// Share of the limit that counts as full.
    pub full: f64,
    /// What counts as nothing left.
    pub reserve: f64,
    /// Whether it is a condition of the Node.
    pub condition: bool,
}

/// A counter of errors.
#[derive(Clone, Debug, PartialEq)]
pub struct TrendRule {
    /// Which series.
    pub series: Pattern,
    /// Problem to be expected.
    pub kind: ProblemKind,
    /// One line, with `{subject}`.
    pub summary: String,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PredictionRules {
    /// What has a limit.
    pub limits: Vec<LimitRule>,
    /// What counts errors.
    pub trends: Vec<TrendRule>,
    /// What is watched for the unusual.
    pub unusual: Vec<Pattern>,
}

impl PredictionRules {
    /// The built-in ones.
    pub fn built_in() -> Self {
        parse(BUILT_IN).expect("the built-in predictions are checked by a test")
    }

    /// Adds the rules of another file.
    pub fn extend(&mut self, more: Self) {
        self.limits.extend(more.limits);
        self.trends.extend(more.trends);
        self.unusual.extend(more.unusual);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.limits.len() + self.trends.len() + self.unusual.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Types of Node conditions that predictions may become.
    pub fn conditions(&self) -> impl Iterator<Item = ConditionType> {
        self.limits.iter().filter(|rule| rule.condition).map(|rule| rule.kind.into())
    }
}

/// Name of the rule that a condition of predictions has.
pub fn rule_id(about: ConditionType) -> String {
    format!("{RULE_PREFIX}{about}")
}

/// A summary with its subject.
pub fn summary(text: &str, subject: &str) -> String {
    text.replace(SUBJECT, subject)
}

/// Reads rules.
///
/// # Errors
/// Everything that is wrong, with places.
pub fn parse(text: &str) -> Result<PredictionRules, Vec<RulesError>> {
    let file: File = places::from_yaml(text).map_err(|error| vec![error])?;
    let mut reader = Reader(Vec::new());
    if file.format.value != FORMAT {
        reader.refuse(&file.format, format!("format `{}` is not known; write `{FORMAT}`", file.format.value));
    }
    let limits = file.limits.into_iter().map(|raw| reader.limit(raw)).collect();
    let trends = file.trends.into_iter().map(|raw| TrendRule {
        series: reader.pattern(&raw.series),
        kind: reader.kind(&raw.kind),
        summary: raw.summary,
    });
    let trends = trends.collect();
    let unusual = file.unusual.iter().map(|raw| reader.pattern(raw)).collect();
    if reader.0.is_empty() { Ok(PredictionRules { limits, trends, unusual }) } else { Err(reader.0) }
}

struct Reader(Vec<RulesError>);

impl Reader {
    fn refuse<T>(&mut self, place: &Spanned<T>, message: String) {
        self.0.push(RulesError::at(place, message));
    }

    fn limit(&mut self, raw: RawLimit) -> LimitRule {
        let full = raw.full.as_ref().map_or(1.0, |full| full.value);
        if let Some(place) = raw.full.as_ref().filter(|_| !(full > 0.0 && full <= 1.0)) {
            self.refuse(place, "`full` is a share of the limit, above 0 and at most 1".to_owned());
        }
        let horizon = places::duration(&raw.horizon, &mut self.0);
        let window = places::duration(&raw.window, &mut self.0);
        if horizon.is_zero() {
            self.refuse(&raw.horizon, "`horizon` is longer than nothing".to_owned());
        }
        LimitRule {
            series: self.pattern(&raw.series),
            kind: self.kind(&raw.kind),
            summary: raw.summary,
            horizon,
            window,
            full,
            reserve: raw.reserve,
            condition: raw.condition,
        }
    }

    fn pattern(&mut self, raw: &Spanned<String>) -> Pattern {
        Pattern::parse(&raw.value).unwrap_or_else(|| {
            self.refuse(raw, format!("`{}` names no series; write KIND.*.WHAT or KIND.WHAT", raw.value));
            Pattern { kind: String::new(), what: String::new(), of_things: false }
        })
    }

    fn kind(&mut self, raw: &Spanned<String>) -> ProblemKind {
        raw.value.parse::<ProblemKind>().unwrap_or_else(|error| {
            self.refuse(raw, error.to_string());
            ProblemKind::Custom
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_rules_are_sound_and_name_series_as_they_are_called() {
        let rules = PredictionRules::built_in();
        let disk = &rules.limits[0];
        assert_eq!(
            (disk.kind, disk.horizon.as_secs(), disk.condition),
            (ProblemKind::DiskPressurePredicted, 86_400, true)
        );
        assert!(disk.series.matches(&SeriesName::of("fs", "/srv/a.b", "used_bytes")));
        assert!(!disk.series.matches(&SeriesName::node("fs", "used_bytes")));
        assert!(rules.limits[2].series.matches(&SeriesName::node("mem", "available_bytes")));
        assert_eq!(rules.conditions().count(), 2);
        assert_eq!(summary(&disk.summary, "/var"), "/var will be full");
    }

    #[test]
    fn each_mistake_is_told_with_line_and_column() {
        let good = format!(
            "format: {FORMAT}\nlimits:\n  - {{ series: fd.used, kind: OutOfMemory, summary: s, horizon: 1h, window: 1m, full: 0.9 }}\n"
        );
        assert!(parse(&good).is_ok());
        for (from, to, says) in [
            ("fd.used", "fd", "names no series"),
            ("OutOfMemory", "Full", "no problem kind"),
            ("1h", "soon", ""),
            ("0.9", "1.9", "share of the limit"),
            ("window", "windw", "windw"),
            ("predictions/v1", "predictions/v9", "not known"),
        ] {
            let errors = parse(&good.replace(from, to)).unwrap_err();
            assert!(errors[0].line > 0 && errors[0].message.contains(says), "{from}: {errors:?}");
        }
    }
}
