//! `evergreen playbook test`: the tests of anyone's playbooks.

use std::path::{Path, PathBuf};

use clap::Args;
use evergreen_playbooks::{lint_file, testing};
use evergreen_rehearse::trial;
use serde_json::json;

use crate::exit::{Failure, Outcome};

/// Test playbooks.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen playbook test playbooks/\n  \
    evergreen playbook test playbooks/ --json\n\n\
    NAME.test.yaml holds cases (a world, and whether the playbook starts in it), the dry run, line by line, and runs: what goes\n\
    wrong on a simulated data center, and how the run must end. Runs are played in simulated time, by the code that heals.\n\
    Exit codes: 0 all pass, 1 some do not or a playbook has no tests, 2 the folder cannot be read.")]
pub struct TestArgs {
    /// Folder with playbooks NAME.yaml and their tests NAME.test.yaml.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

pub(super) fn test(args: &TestArgs) -> Outcome {
    let files = super::files(&args.folder)?;
    let results: Vec<(String, Vec<String>)> =
        files.iter().map(|file| (file.display().to_string(), failures(file))).collect();
    let bad = results.iter().filter(|(_, failures)| !failures.is_empty()).count();
    if args.json {
        let said: Vec<_> = results
            .iter()
            .map(|(file, failures)| json!({"file": file, "ok": failures.is_empty(), "failures": failures}))
            .collect();
        println!("{}", serde_json::to_string_pretty(&said).map_err(anyhow::Error::from)?);
    } else {
        for (file, failures) in &results {
            println!("{file}: {}", if failures.is_empty() { "ok" } else { "failed" });
            failures.iter().for_each(|failure| println!("  {failure}"));
        }
    }
    if bad == 0 { Ok(()) } else { Err(Failure::no(format_args!("{bad} of {} playbooks fail", results.len()))) }
}

fn failures(file: &Path) -> Vec<String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return vec![format!("cannot be read: {error}")],
    };
    let playbook = match lint_file(&text) {
        Ok(playbook) => playbook,
        Err(errors) => return errors.iter().map(ToString::to_string).collect(),
    };
    let tests = file.with_extension("test.yaml");
    let Ok(text) = std::fs::read_to_string(&tests) else { return vec![format!("{} is missing", tests.display())] };
    match testing::parse(&text) {
        Ok(tests) => {
            let mut failures = testing::run(&playbook, &tests);
            if failures.is_empty() {
                failures = trial::play_all(&playbook, &tests.runs);
            }
            failures
        }
        Err(error) => vec![error.render(&tests.display().to_string())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_playbook_passes_with_its_tests_and_fails_without() {
        let folder = tempfile::tempdir().unwrap();
        let shipped = evergreen_playbooks::library::all()[0];
        let args = TestArgs { folder: folder.path().to_owned(), json: false };
        assert_eq!(test(&args).unwrap_err().code(), 2);
        std::fs::write(folder.path().join(shipped.file), shipped.text).unwrap();
        assert_eq!(test(&args).unwrap_err().code(), 1);
        let tests = shipped.file.replace(".yaml", ".test.yaml");
        std::fs::write(folder.path().join(tests), shipped.tests).unwrap();
        assert!(test(&args).is_ok());
    }
}
