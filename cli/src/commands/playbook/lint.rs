//! `evergreen playbook lint`: whether a playbook means what its author thinks, before anything is applied.

use std::{fs, path::PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::exit::{Failure, Outcome};

/// Check playbook files.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen playbook lint my-playbook.yaml\n  \
    evergreen playbook lint playbooks/*.yaml --json | jq '.[] | select(.ok | not)'\n\n\
    Prints FILE:LINE:COLUMN: FIELD: what is wrong and what would be right. Exit codes: 0 all are good, 1 at least one\n\
    has errors, 2 a file cannot be read.")]
pub struct LintArgs {
    /// Files to check, one playbook each.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON: one object a file.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

/// Checks files.
pub(super) fn lint(args: &LintArgs) -> Outcome {
    let mut findings = Vec::new();
    for file in &args.files {
        let text = fs::read_to_string(file).map_err(|error| {
            Failure::usage(format_args!("cannot read {}: {error}", file.display()))
                .remedy("the path of a playbook file")
        })?;
        let name = file.display().to_string();
        let errors = evergreen_playbooks::lint_file(&text).err().unwrap_or_default();
        if !args.json {
            errors.iter().for_each(|error| println!("{}", error.render(&name)));
            if errors.is_empty() {
                println!("{name}: ok");
            }
        }
        findings.push((name, errors));
    }
    if args.json {
        let files: Vec<Value> = findings.iter().map(|(file, errors)| finding(file, errors)).collect();
        println!("{}", serde_json::to_string_pretty(&files).map_err(anyhow::Error::from)?);
    }
    let bad = findings.iter().filter(|(_, errors)| !errors.is_empty()).count();
    if bad == 0 { Ok(()) } else { Err(Failure::no(format_args!("{bad} of {} playbooks have errors", findings.len()))) }
}

fn finding(file: &str, errors: &[evergreen_playbooks::Diagnostic]) -> Value {
    let errors: Vec<Value> = errors
        .iter()
        .map(|error| json!({"line": error.line, "column": error.column, "path": error.path, "message": error.message}))
        .collect();
    json!({"file": file, "ok": errors.is_empty(), "errors": errors})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lint_text(text: &str) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.yaml");
        fs::write(&file, text).unwrap();
        lint(&LintArgs { files: vec![file], json: false })
    }

    #[test]
    fn a_shipped_playbook_is_good_and_one_with_an_unknown_field_is_not() {
        let shipped = evergreen_playbooks::library::all()[0].text;
        assert!(lint_text(shipped).is_ok());
        assert_eq!(lint_text(&format!("{shipped}\n  surprise: 1\n")).unwrap_err().code(), 1);
    }

    #[test]
    fn a_file_that_is_not_there_is_wrong_use() {
        let args = LintArgs { files: vec!["/no/such/playbook.yaml".into()], json: false };
        assert_eq!(lint(&args).unwrap_err().code(), 2);
    }
}
