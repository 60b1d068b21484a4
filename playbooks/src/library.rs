//! The playbooks that ship. Each stands in `library/` as a file with a header that says when to use it and when not,
//! and next to it its tests.

use evergreen_api::resources::Playbook;

use crate::{Diagnostic, lint_file};

/// A playbook as it ships.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// Name of the file, from `library/`.
    pub file: &'static str,
    /// The playbook.
    pub text: &'static str,
    /// Its tests.
    pub tests: &'static str,
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$(Shipped {
            file: concat!($name, ".yaml"),
            text: include_str!(concat!("../library/", $name, ".yaml")),
            tests: include_str!(concat!("../library/", $name, ".test.yaml")),
        }),+]
    };
}

/// All shipped playbooks, by name.
pub fn all() -> &'static [Shipped] {
    shipped![
        "api-server-slow",
        "autoscaler-at-limit",
        "certificate-expiring",
        "clock-unsynchronized",
        "conntrack-exhausted",
        "consumer-lag",
        "coredns-errors",
        "coredns-slow",
        "cpu-hardware-error",
        "crash-loop-move",
        "daemonset-unavailable",
        "database-replica-unready",
        "deployment-down",
        "disk-failing",
        "disk-full-predicted",
        "dns-failing",
        "energy-readings-lost",
        "etcd-member-lost",
        "file-descriptors-exhausted",
        "filesystem-corrupt",
        "filesystem-readonly",
        "frequent-restarts",
        "gpu-fault",
        "image-pull-move",
        "kernel-deadlock",
        "kernel-oops",
        "kernel-panicked",
        "kubelet-unhealthy",
        "memory-errors-predicted",
        "memory-hardware-error",
        "middleware-replica-unready",
        "network-link-flapping",
        "network-unreachable",
        "node-lost",
        "out-of-memory",
        "pcie-error",
        "pids-exhausted",
        "pod-oom-killed",
        "pod-unready-move",
        "pod-unschedulable",
        "power-near-limit",
        "rollout-regression",
        "runtime-unhealthy",
        "sandbox-failing-move",
        "site-lease-thin",
        "site-out-of-quorum",
        "soft-lockup",
        "thermal-throttling",
        "volume-mount-move",
        "volume-stuck-attach",
    ]
}

/// The ones to begin with: what an installation has where nothing else is asked for.
pub fn starters() -> impl Iterator<Item = &'static Shipped> {
    const NAMES: [&str; 4] = ["filesystem-readonly.yaml", "kernel-oops.yaml", "node-lost.yaml", "soft-lockup.yaml"];
    all().iter().filter(|shipped| NAMES.contains(&shipped.file))
}

impl Shipped {
    /// The playbook, read.
    ///
    /// # Errors
    /// Never in a release: a test reads every shipped file.
    pub fn playbook(&self) -> Result<Playbook, Vec<Diagnostic>> {
        lint_file(self.text)
    }
}

#[cfg(test)]
mod tests {
    use evergreen_api::resources::{PlaybookMode, RunPhase, Step, StepKind};

    use super::*;
    use crate::{
        catalogue::{self, Language},
        testing,
    };

    #[test]
    fn every_shipped_playbook_reads_well_and_passes_its_tests() {
        for shipped in all() {
            let playbook = shipped.playbook().unwrap_or_else(|errors| panic!("{}: {errors:#?}", shipped.file));
            assert_eq!(playbook.metadata.name.as_deref(), shipped.file.strip_suffix(".yaml"));
            let tests = testing::parse(shipped.tests).unwrap_or_else(|error| panic!("{}: {error}", shipped.file));
            assert!(tests.cases.iter().any(|case| case.matches) && tests.cases.iter().any(|case| !case.matches));
            let failures = testing::run(&playbook, &tests);
            assert!(failures.is_empty(), "{}:\n{}", shipped.file, failures.join("\n"));
        }
    }

    #[test]
    fn every_file_of_the_library_ships() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/library");
        let files = std::fs::read_dir(folder).unwrap().flatten().map(|file| file.file_name().into_string().unwrap());
        let mut files: Vec<String> = files.filter(|file| !file.ends_with(".test.yaml")).collect();
        files.sort();
        assert_eq!(files, all().iter().map(|shipped| shipped.file).collect::<Vec<_>>());
        assert!(files.len() >= 40, "{}", files.len());
        assert_eq!(starters().count(), 4);
    }

    #[test]
    fn every_shipped_playbook_has_a_run_that_heals_and_one_that_does_not() {
        for shipped in all() {
            let tests = testing::parse(shipped.tests).unwrap();
            let ends: Vec<RunPhase> = tests.runs.iter().map(|run| run.ends).collect();
            assert!(ends.contains(&RunPhase::Succeeded), "{}: no run heals", shipped.file);
            assert!(ends.iter().any(|end| *end != RunPhase::Succeeded), "{}: no run fails", shipped.file);
        }
    }

    /// Two playbooks that start on the very same thing would both act on it.
    #[test]
    fn no_two_shipped_playbooks_start_on_the_same_thing() {
        let mut seen = std::collections::BTreeMap::new();
        for shipped in all() {
            for trigger in shipped.playbook().unwrap().spec.matches {
                let key = match (&trigger.node_condition, &trigger.prediction) {
                    (Some(condition), _) => format!("{} {}", condition.type_, condition.status),
                    (_, Some(prediction)) => format!("predicted {}", prediction.kind),
                    _ => serde_json::to_string(&trigger).unwrap(),
                };
                if let Some(other) = seen.insert(key.clone(), shipped.file) {
                    assert_eq!(other, shipped.file, "{key} starts both");
                }
            }
        }
    }

    /// What one playbook sets, no other takes away: taints by key, replicas and fields by object.
    #[test]
    fn no_two_shipped_playbooks_undo_each_others_work() {
        let mut owners = std::collections::BTreeMap::new();
        let mut patched = std::collections::BTreeMap::new();
        for shipped in all() {
            let spec = shipped.playbook().unwrap().spec;
            for kind in spec.steps.iter().filter_map(Step::kind) {
                let key = match kind {
                    StepKind::Taint(taint) => format!("taint {}", taint.key),
                    StepKind::Untaint(untaint) => format!("taint {}", untaint.key),
                    StepKind::Scale(scale) if scale.deployment.is_some() => format!("scale {:?}", scale.deployment),
                    StepKind::Patch(patch) => {
                        let subject = crate::steps::subject_kind(&spec).to_owned();
                        let fields = serde_json::to_string(&patch.fields).unwrap();
                        // Two may set the same; nobody may set another value.
                        let paths: String = fields.replace("true", "_").replace("false", "_");
                        let known = patched.entry((subject, paths)).or_insert_with(|| fields.clone());
                        assert_eq!(*known, fields, "{}", shipped.file);
                        continue;
                    }
                    StepKind::RunPlaybook(run) => {
                        assert!(all().iter().any(|other| other.file == format!("{}.yaml", run.name)), "{}", run.name);
                        continue;
                    }
                    _ => continue,
                };
                assert_eq!(owners.entry(key).or_insert(shipped.file), &shipped.file);
            }
        }
    }

    /// Set `EVERGREEN_WRITE_GOLDEN=1` to write the pages anew, as `make catalogue` does.
    #[test]
    fn the_catalogue_is_fresh() {
        let playbooks: Vec<Playbook> = all().iter().map(|shipped| shipped.playbook().unwrap()).collect();
        for (file, language) in [("", Language::English), (".zh-CN", Language::Chinese)] {
            let path = format!("{}/../docs/playbook-catalogue{file}.md", env!("CARGO_MANIFEST_DIR"));
            let page = catalogue::page(&playbooks, language);
            if std::env::var_os("EVERGREEN_WRITE_GOLDEN").is_some() {
                std::fs::write(&path, &page).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(found == page, "{path} is not fresh: run `make catalogue`");
        }
    }

    #[test]
    fn every_shipped_playbook_says_when_to_use_it_in_two_languages_and_only_observes_at_first() {
        for shipped in all() {
            let playbook = shipped.playbook().unwrap();
            for part in ["# Use it when", "# Do not use it when"] {
                assert!(shipped.text.contains(part), "{}: {part}", shipped.file);
            }
            let annotations = playbook.metadata.annotations.unwrap_or_default();
            let chinese = annotations.get("evergreen.dev/summary.zh-CN").map(String::as_str).unwrap_or_default();
            assert!(chinese.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c)), "{}", shipped.file);
            assert_eq!(playbook.spec.mode, PlaybookMode::Observe, "{}: people promote it", shipped.file);
        }
    }
}
