//! All rules of the agent together: the kernel log's, node-problem-detector's configurations, and where to find them
//! again when they change. What a file is, its content says.

use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    conditions::{ConditionType, Foster},
    host,
    kernel::{
        RuleSet,
        rules::{Part, RulesError},
    },
    npd::{
        config::{self, Config, CustomConfig, LogConfig},
        monitor,
    },
    predict::{
        rules::{self as predictions, PredictionRules},
        task,
    },
    probes::thresholds::{self, Threshold},
    shared::Shared,
    signal::Signal,
};

/// Name of the source that says whether the rules could be read again.
const SOURCE: &str = "rules";

/// What a file holds.
#[derive(Debug)]
pub enum Content {
    /// Rules of the kernel log detector.
    Kernel(Part),
    /// A configuration of node-problem-detector.
    Detector(Config),
    /// Thresholds of the health sources.
    Thresholds(Vec<Threshold>),
    /// What is predicted.
    Predictions(PredictionRules),
}

impl Content {
    /// Reads a file's text, whatever it is.
    ///
    /// # Errors
    /// Everything that is wrong, with places.
    pub fn parse(text: &str) -> Result<Self, Vec<RulesError>> {
        if config::is_json(text) {
            return config::parse(text).map(Self::Detector);
        }
        if text.lines().any(|line| line.trim_end() == format!("format: {}", thresholds::FORMAT)) {
            return thresholds::parse(text).map(Self::Thresholds);
        }
        if text.lines().any(|line| line.trim_end() == format!("format: {}", predictions::FORMAT)) {
            return predictions::parse(text).map(Self::Predictions);
        }
        Part::check(text).map(Self::Kernel)
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Kernel(part) => format!("{} rules", part.rules().len()),
            Self::Thresholds(thresholds) => format!("{} thresholds", thresholds.len()),
            Self::Predictions(rules) => format!("{} rules of predictions", rules.len()),
            Self::Detector(Config::Log(log)) => {
                format!("system log monitor `{}`, {} rules{}", log.source, log.rules.len(), named(&log.defaults))
            }
            Self::Detector(Config::Custom(custom)) => {
                let promises = named(&custom.defaults);
                format!("custom plugin monitor `{}`, {} checks{promises}", custom.source, custom.rules.len())
            }
        }
    }
}

/// Conditions of a configuration, and which of them are in no taxonomy.
fn named(promises: &[config::Promise]) -> String {
    let mut text = String::new();
    for promise in promises {
        let kind = match promise.about {
            ConditionType::Kind(_) => "a kind of the taxonomy",
            ConditionType::Named(_) => "kind Custom under its own name",
        };
        text.push_str(&format!("; condition {}: {kind}", promise.about));
    }
    text
}

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulebookError {
    /// A file cannot be read.
    #[error("{} cannot be read", file.display())]
    Read {
        /// File.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file has errors.
    #[error("{}:{}", file.display(), errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Wrong {
        /// File.
        file: PathBuf,
        /// What is wrong.
        errors: Vec<RulesError>,
    },
}

/// All rules.
#[derive(Debug)]
pub struct Rulebook {
    /// Of the kernel log.
    pub kernel: Arc<RuleSet>,
    /// System log monitors.
    pub logs: Vec<Arc<LogConfig>>,
    /// Custom plugin monitors.
    pub checks: Vec<Arc<CustomConfig>>,
    /// Thresholds of the health sources.
    pub thresholds: Vec<Threshold>,
    /// What is predicted.
    pub predictions: Arc<PredictionRules>,
    ids: HashSet<String>,
}

impl Rulebook {
    /// The built-in rules alone.
    pub fn built_in() -> Self {
        Self::of(Arc::new(RuleSet::built_in()), Vec::new())
    }

    /// Rules of the kernel log and configurations.
    pub fn of(kernel: Arc<RuleSet>, configs: Vec<Config>) -> Self {
        let mut ids: HashSet<String> = kernel.rules().iter().map(|rule| rule.id.clone()).collect();
        // No file can take away what the site says about this node's network.
        ids.insert(crate::mesh::RULE.to_owned());
        ids.insert(crate::watch::LOSSES_RULE.to_owned());
        let (mut logs, mut checks) = (Vec::new(), Vec::new());
        for config in configs {
            match config {
                Config::Log(log) => {
                    ids.extend(log.rules.iter().map(|rule| monitor::rule_id(&log.source, &rule.effect.reason)));
                    logs.push(Arc::new(log));
                }
                Config::Custom(custom) => {
                    let names = custom.rules.iter().map(|rule| rule.effect.about.as_str());
                    ids.extend(names.map(|name| monitor::rule_id(&custom.source, name)));
                    checks.push(Arc::new(custom));
                }
            }
        }
        let thresholds = Vec::new();
        let predictions = Arc::default();
        Self { kernel, logs, checks, thresholds, predictions, ids }
            .with_thresholds(
                thresholds::parse(thresholds::BUILT_IN).expect("the built-in thresholds are checked by a test"),
            )
            .with_predictions(PredictionRules::built_in())
    }

    /// The same with other thresholds.
    pub fn with_thresholds(mut self, thresholds: Vec<Threshold>) -> Self {
        self.ids.retain(|id| !id.starts_with(thresholds::RULE_PREFIX));
        self.ids.extend(thresholds.iter().map(|threshold| thresholds::rule_id(threshold.about)));
        self.thresholds = thresholds;
        self
    }

    /// The same with other predictions.
    pub fn with_predictions(mut self, predictions: PredictionRules) -> Self {
        self.ids.retain(|id| !id.starts_with(predictions::RULE_PREFIX));
        self.ids.extend(predictions.conditions().map(predictions::rule_id));
        self.predictions = Arc::new(predictions);
        self
    }

    /// Reads files. Rules of the kernel log, thresholds and predictions take the place of the built-in ones; configurations stand beside them.
    ///
    /// # Errors
    /// When a file cannot be read or anything in it is wrong.
    pub fn load(files: &[PathBuf]) -> Result<Self, RulebookError> {
        let (mut parts, mut configs, mut limits) = (Vec::new(), Vec::new(), None::<Vec<Threshold>>);
        let mut foreseen = None::<PredictionRules>;
        for file in files {
            let text = host::read_bounded(file).map_err(|source| RulebookError::Read { file: file.clone(), source })?;
            match Content::parse(&text).map_err(|errors| RulebookError::Wrong { file: file.clone(), errors })? {
                Content::Kernel(part) => parts.push(part),
                Content::Detector(config) => configs.push(config),
                Content::Thresholds(more) => limits.get_or_insert_default().extend(more),
                Content::Predictions(more) => foreseen.get_or_insert_default().extend(more),
            }
        }
        let kernel = if parts.is_empty() {
            RuleSet::built_in()
        } else {
            let last = files.last().cloned().unwrap_or_default();
            RuleSet::merge(parts).map_err(|errors| RulebookError::Wrong { file: last, errors })?
        };
        let mut book = Self::of(Arc::new(kernel), configs);
        if let Some(foreseen) = foreseen {
            book = book.with_predictions(foreseen);
        }
        Ok(match limits {
            Some(limits) => book.with_thresholds(limits),
            None => book,
        })
    }

    /// Whether a rule is there.
    pub fn knows(&self, rule: &str) -> bool {
        self.ids.contains(rule)
    }

    /// By what rule a condition lives on that an earlier agent raised: of the type's rules the one that lasts longest.
    pub fn foster(&self, about: ConditionType) -> Option<Foster> {
        let rules = self.kernel.rules().iter().filter(|rule| rule.about == about);
        let kernel = rules.max_by_key(|rule| rule.clear_after.unwrap_or(Duration::MAX)).map(|rule| Foster {
            rule: rule.id.clone(),
            severity: rule.severity,
            crash_type: rule.crash_type.clone(),
            clear_after: rule.clear_after,
            watched: false,
        });
        let of_log = || {
            let mut rules = self.logs.iter().flat_map(|log| log.rules.iter().map(move |rule| (log, &rule.effect)));
            let (log, effect) = rules.find(|(_, effect)| effect.permanent && effect.about == about)?;
            Some(monitor::foster(&log.source, &effect.reason, false))
        };
        let of_check = || {
            let checks = self.checks.iter();
            let check =
                checks.clone().find(|c| c.rules.iter().any(|r| r.effect.permanent && r.effect.about == about))?;
            Some(monitor::foster(&check.source, about.as_str(), true))
        };
        let of_threshold = || {
            let threshold = self.thresholds.iter().find(|threshold| threshold.about == about)?;
            Some(Foster { severity: threshold.severity(), ..thresholds::foster(about) })
        };
        // Whoever watches a cause knows its end better than a line in a log does.
        let of_prediction = || self.predictions.conditions().any(|known| known == about).then(|| task::foster(about));
        of_threshold().or_else(of_prediction).or(kernel).or_else(of_log).or_else(of_check)
    }

    /// What the Node shows of conditions while nothing is wrong.
    pub fn promises(&self) -> Vec<(ConditionType, String, String)> {
        let logs = self.logs.iter().flat_map(|log| &log.defaults);
        let checks = self.checks.iter().flat_map(|check| &check.defaults);
        logs.chain(checks).map(|p| (p.about, p.reason.clone(), p.message.clone())).collect()
    }
}

/// What tells that a file was replaced or written: a mounted ConfigMap changes its inode, an editor the time.
type Stamp = Vec<Option<(u64, i64, i64, u64)>>;

fn stamp(files: &[PathBuf]) -> Stamp {
    let of = |file: &PathBuf| {
        std::fs::metadata(file).ok().map(|data| (data.ino(), data.mtime(), data.mtime_nsec(), data.size()))
    };
    files.iter().map(of).collect()
}

/// Looks for changes of rules files.
#[derive(Debug)]
pub struct Reloader {
    files: Vec<PathBuf>,
    seen: Stamp,
}

impl Reloader {
    /// Of files that were just read.
    pub fn new(files: &[PathBuf]) -> Self {
        Self { files: files.to_vec(), seen: stamp(files) }
    }

    /// The rules anew when a file changed since the last look.
    pub fn look(&mut self) -> Option<Result<Rulebook, RulebookError>> {
        let now = stamp(&self.files);
        if now == self.seen {
            return None;
        }
        self.seen = now;
        Some(Rulebook::load(&self.files))
    }
}

/// Reads rules again when they change, until cancelled. Wrong rules are told and the old ones stay.
pub async fn follow(
    files: Vec<PathBuf>,
    every: Duration,
    book: watch::Sender<Arc<Rulebook>>,
    signals: mpsc::Sender<Signal>,
    shared: Arc<Shared>,
    cancel: CancellationToken,
) {
    if files.is_empty() {
        cancel.cancelled().await;
        return;
    }
    let mut reloader = Some(Reloader::new(&files));
    shared.note_source(SOURCE, Ok(()));
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(every.max(Duration::from_millis(100))) => {}
        }
        let Some(mut looking) = reloader.take() else { return };
        let looked = tokio::task::spawn_blocking(move || {
            let found = looking.look();
            (looking, found)
        });
        let Ok((back, found)) = looked.await else { return };
        reloader = Some(back);
        match found {
            None => {}
            Some(Ok(rules)) => {
                tracing::info!(
                    rules = rules.kernel.rules().len(),
                    monitors = rules.logs.len(),
                    checks = rules.checks.len(),
                    "rules were read again"
                );
                let rules = Arc::new(rules);
                // The owner of the problems first: what new rules raise must find their rule known.
                if signals.send(Signal::Rules(Arc::clone(&rules))).await.is_err() {
                    return;
                }
                book.send_replace(rules);
                shared.note_source(SOURCE, Ok(()));
            }
            Some(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "changed rules are not used; the old ones stay"
                );
                shared.note_source(SOURCE, Err(format!("{error}; the rules before it stay in use")));
            }
        }
    }
}

/// Checks one file for people: one line when it is well.
///
/// # Errors
/// When it cannot be read or anything in it is wrong.
pub fn check_file(file: &Path) -> Result<String, RulebookError> {
    let text = host::read_bounded(file).map_err(|source| RulebookError::Read { file: file.to_owned(), source })?;
    let content = Content::parse(&text);
    let content = content.map_err(|errors| RulebookError::Wrong { file: file.to_owned(), errors })?;
    if let Content::Kernel(part) = content {
        let line = format!("{}: ok, {} rules\n", file.display(), part.rules().len());
        RuleSet::merge(vec![part]).map_err(|errors| RulebookError::Wrong { file: file.to_owned(), errors })?;
        return Ok(line);
    }
    Ok(format!("{}: ok, {}\n", file.display(), content.describe()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"plugin": "kmsg", "bufferSize": 5, "source": "k", "conditions": [{"type": "Deep", "reason": "NotDeep", "message": "m"}],
        "rules": [{"type": "permanent", "condition": "Deep", "reason": "VeryDeep", "pattern": "deep"}]}"#;
    const YAML: &str = "format: evergreen.dev/kernel-rules/v1\nrules:\n  - {id: a, kind: Custom, name: Own, severity: info, match: [a], summary: a}\n";

    fn files(texts: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let directory = tempfile::tempdir().unwrap();
        let paths = (0..texts.len()).map(|index| directory.path().join(format!("{index}"))).collect::<Vec<_>>();
        paths.iter().zip(texts).for_each(|(path, text)| std::fs::write(path, text).unwrap());
        (directory, paths)
    }

    #[test]
    fn configurations_stand_beside_the_built_in_rules_and_rules_replace_them() {
        let (_kept, paths) = files(&[JSON]);
        let book = Rulebook::load(&paths).unwrap();
        assert!(book.kernel.rules().len() > 50 && book.knows("k/VeryDeep"));
        let (_kept, paths) = files(&[JSON, YAML]);
        let book = Rulebook::load(&paths).unwrap();
        assert_eq!((book.kernel.rules().len(), book.logs.len()), (1, 1));
        assert_eq!(book.kernel.rules()[0].about.as_str(), "Own");
        assert_eq!(book.promises()[0].1, "NotDeep");
        assert_eq!(book.foster(ConditionType::named("Deep")).unwrap().rule, "k/VeryDeep");
    }

    #[test]
    fn an_id_in_two_files_is_refused() {
        let (_kept, paths) = files(&[YAML, YAML]);
        assert!(Rulebook::load(&paths).unwrap_err().to_string().contains("another rules file"));
    }

    #[test]
    fn a_change_is_seen_once_and_a_wrong_file_is_an_error_until_it_is_mended() {
        let (_kept, paths) = files(&[YAML]);
        let mut reloader = Reloader::new(&paths);
        assert!(reloader.look().is_none());
        std::fs::write(&paths[0], "nonsense").unwrap();
        assert!(reloader.look().unwrap().is_err());
        assert!(reloader.look().is_none());
        std::fs::write(&paths[0], YAML.replace("id: a", "id: other")).unwrap();
        assert!(reloader.look().unwrap().unwrap().knows("other"));
    }

    #[test]
    fn a_check_for_people_says_what_becomes_of_conditions() {
        let (_kept, paths) = files(&[JSON]);
        assert!(check_file(&paths[0]).unwrap().contains("condition Deep: kind Custom under its own name"));
    }
}
