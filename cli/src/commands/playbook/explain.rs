//! `evergreen playbook explain`: what starts it, what it would do, what stops it; and whether it would start in a world.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use evergreen_playbooks::{explain, planner::CompiledPlaybook, testing};
use serde_json::json;

use super::playbook;
use crate::exit::{Failure, Outcome};

/// Explain a playbook.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen playbook explain my-playbook.yaml\n  \
    evergreen playbook explain my-playbook.yaml --world my-playbook.test.yaml\n\n\
    A world is a test file: each of its cases is tried, and what starts the playbook or keeps it from starting is said.\n\
    Exit codes: 0 explained, 1 the playbook has errors, 2 a file cannot be read.")]
pub struct ExplainArgs {
    /// The playbook.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Worlds to try it in: a file of test cases.
    #[arg(long, env = "EVERGREEN_WORLD", value_name = "FILE")]
    world: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

pub(super) fn explain(args: &ExplainArgs) -> Outcome {
    let playbook = playbook(&args.file)?;
    let spec = &playbook.spec;
    let cases = match &args.world {
        None => Vec::new(),
        Some(world) => {
            let tests = testing::parse(&super::read(world)?)
                .map_err(|error| Failure::usage(error.render(&world.display().to_string())))?;
            tests.cases
        }
    };
    let name = playbook.metadata.name.clone().unwrap_or_default();
    let compiled = CompiledPlaybook::new(name, spec.clone()).map_err(|_| Failure::no("the playbook has errors"))?;
    let compiled = Arc::new(compiled);
    let verdicts: Vec<_> = cases.iter().map(|case| (case.name.clone(), testing::judge(&compiled, case))).collect();
    if args.json {
        let worlds: Vec<_> = verdicts
            .iter()
            .map(|(name, verdict)| match verdict {
                Ok(verdict) => json!({"name": name, "starts": verdict.starts, "why": verdict.why}),
                Err(wrong) => json!({"name": name, "error": wrong}),
            })
            .collect();
        let said = json!({
            "triggers": explain::triggers(spec), "steps": explain::steps(spec), "guards": explain::guards(spec),
            "worlds": worlds
        });
        println!("{}", serde_json::to_string_pretty(&said).map_err(anyhow::Error::from)?);
        return Ok(());
    }
    println!("{}", spec.summary);
    for (title, lines) in [
        ("It is started by any of", explain::triggers(spec)),
        ("It would", explain::steps(spec)),
        ("It is held back by", explain::guards(spec)),
    ] {
        println!("\n{title}:");
        lines.iter().for_each(|line| println!("  - {line}"));
    }
    for (name, verdict) in verdicts {
        let (did, why) = match verdict {
            Ok(verdict) if verdict.starts => ("it starts", verdict.why),
            Ok(verdict) => ("it does not start", verdict.why),
            Err(wrong) => ("cannot be told", vec![wrong]),
        };
        println!("\n{name}: {did}");
        why.iter().for_each(|line| println!("  - {line}"));
    }
    Ok(())
}
