//! `evergreen playbook`: whether a playbook means what its author thinks, before anything is applied.

mod catalogue;
mod explain;
mod lint;
mod new;
mod test;

use std::path::Path;

use clap::Subcommand;
use evergreen_api::resources::{Playbook, PlaybookSpec};
use serde_json::{Value, json};

use crate::exit::{Failure, Outcome};
use catalogue::files;

/// Check, explain, test and begin self-healing playbooks.
#[derive(Debug, Subcommand)]
pub enum PlaybookCommand {
    /// Check playbook files: unknown fields, types, CEL, budgets that can never be met.
    Lint(lint::LintArgs),
    /// Say what starts a playbook, what it does, and what stops it.
    Explain(explain::ExplainArgs),
    /// Run the tests that stand next to playbooks: NAME.yaml and NAME.test.yaml.
    Test(test::TestArgs),
    /// List a folder of playbooks by area, as a page.
    Catalogue(catalogue::CatalogueArgs),
    /// Print a commented playbook to begin with.
    New(new::NewArgs),
    /// Print the JSON Schema of playbook files, for editors.
    Schema,
}

pub fn run(command: PlaybookCommand) -> Outcome {
    match command {
        PlaybookCommand::Lint(args) => lint::lint(&args),
        PlaybookCommand::Explain(args) => explain::explain(&args),
        PlaybookCommand::Test(args) => test::test(&args),
        PlaybookCommand::Catalogue(args) => catalogue::catalogue(&args),
        PlaybookCommand::New(args) => new::new(&args),
        PlaybookCommand::Schema => {
            println!("{}", serde_json::to_string_pretty(&schema()).map_err(anyhow::Error::from)?);
            Ok(())
        }
    }
}

fn read(file: &Path) -> Outcome<String> {
    std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format_args!("cannot read {}: {error}", file.display())).remedy("the path of a playbook file")
    })
}

/// Reads a playbook; what is wrong with it is printed.
fn playbook(file: &Path) -> Outcome<Playbook> {
    evergreen_playbooks::lint_file(&read(file)?).map_err(|errors| {
        let name = file.display().to_string();
        errors.iter().for_each(|error| eprintln!("{}", error.render(&name)));
        Failure::no(format_args!("{name} has {} errors", errors.len()))
    })
}

/// The schema of a playbook file: the resource without its status, strict as the reader is.
fn schema() -> Value {
    let mut spec = serde_json::to_value(schemars::schema_for!(PlaybookSpec)).unwrap_or_default();
    let definitions = spec.as_object_mut().and_then(|spec| spec.remove("$defs")).unwrap_or_else(|| json!({}));
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("$schema");
    }
    let text = |example: &str| json!({"type": "string", "const": example});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Evergreen playbook",
        "type": "object",
        "additionalProperties": false,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": text("evergreen.dev/v1alpha1"),
            "kind": text("Playbook"),
            "metadata": {
                "type": "object", "additionalProperties": false, "required": ["name"],
                "properties": {
                    "name": {"type": "string", "maxLength": 50, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "annotations": {"type": "object", "additionalProperties": {"type": "string"}}
                }
            },
            "spec": spec
        },
        "$defs": definitions
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_strict_and_knows_every_step() {
        let schema = schema();
        let steps = &schema["$defs"]["Step"];
        assert_eq!(steps["additionalProperties"], false, "{steps:#}");
        for name in evergreen_api::resources::Step::NAMES {
            assert!(!steps["properties"][name].is_null(), "{name}");
        }
    }
}
