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
    shipped!["filesystem-readonly", "kernel-oops", "node-lost", "soft-lockup"]
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
    use evergreen_api::resources::PlaybookMode;

    use super::*;
    use crate::testing;

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
