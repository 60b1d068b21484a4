//! `evergreen rehearse`: what would happen if a data center, a zone, a node or a service were lost.

mod args;
mod source;

use std::{io::Write as _, path::Path};

use evergreen_rehearse::{
    Plan, Report, Verdict, check, fleet::Fleet, loss::Loss, rehearse, report, snapshot::Snapshot,
};
use indicatif::{ProgressBar, ProgressStyle};

use self::args::Format;
pub use self::args::RehearseArgs;
use crate::exit::{Failure, Outcome};

/// Runs it.
///
/// # Errors
/// Wrong use, a cluster that does not answer, or something that would be lost.
pub fn run(args: &RehearseArgs) -> Outcome {
    if args.lose.is_empty() && !args.every_failure && args.save_snapshot.is_none() {
        return Err(Failure::usage("nothing to rehearse").remedy("--lose site, --lose node=NAME, or --every-failure"));
    }
    let mut snapshot = source::snapshot(args)?;
    if let Some(path) = &args.save_snapshot {
        snapshot.save(path).map_err(Failure::usage)?;
        eprintln!("{}: {} data centers, {} nodes", path.display(), snapshot.sites.len(), snapshot.nodes());
        if args.lose.is_empty() && !args.every_failure {
            source::list(&snapshot);
            return Ok(());
        }
    }
    let left_out = check::check(&mut snapshot);
    let fleet = Fleet::of(&snapshot);
    let losses = losses(args, &fleet)?;
    let delay = args.delay(snapshot.taken_at)?;
    let plan = Plan { losses, delay, parallel: args.parallel() };
    let bar = progress(&plan, &snapshot);
    let report = rehearse(&snapshot, &fleet, left_out, &plan, &|done| bar.set_position(done as u64));
    bar.finish_and_clear();
    write(args, &report)?;
    match report.verdict {
        Verdict::Lost => Err(Failure::no(lost(&report))),
        Verdict::Survives | Verdict::Degraded => Ok(()),
    }
}

fn losses(args: &RehearseArgs, fleet: &Fleet) -> Outcome<Vec<Loss>> {
    let mut losses = if args.every_failure { Loss::every(fleet) } else { Vec::new() };
    for ask in &args.lose {
        for loss in ask.resolve(fleet).map_err(Failure::usage)? {
            if !losses.contains(&loss) {
                losses.push(loss);
            }
        }
    }
    if losses.is_empty() {
        return Err(
            Failure::usage("there is nothing of that kind in the fleet").remedy("--every-failure shows what there is")
        );
    }
    Ok(losses)
}

fn progress(plan: &Plan, snapshot: &Snapshot) -> ProgressBar {
    let bar = ProgressBar::new(plan.losses.len() as u64);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(format!("{} data centers, {} nodes, losses", snapshot.sites.len(), snapshot.nodes()));
    bar
}

fn lost(report: &Report) -> String {
    let losses = report.losses.iter().filter(|loss| loss.verdict == Verdict::Lost);
    let count: usize = losses.map(|loss| 1 + loss.same.len()).sum();
    let all: usize = report.tried.values().sum();
    format!("{count} of {all} losses would end a service; see the report")
}

fn write(args: &RehearseArgs, report: &Report) -> Outcome {
    let lang = args.lang.into();
    let text = match args.format() {
        Format::Text => report::terminal(report, lang),
        Format::Html => report::html(report, lang),
        Format::Json => report::json(report).map_err(anyhow::Error::from)?,
    };
    match &args.out {
        None => {
            // A reader that has seen enough, as `head` does, is no error.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
        }
        Some(path) => {
            save(path, &text)
                .map_err(|error| Failure::usage(format_args!("cannot write {}: {error}", path.display())))?;
            eprintln!("{}", path.display());
        }
    }
    Ok(())
}

/// As a whole or not at all.
fn save(path: &Path, text: &str) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text)?;
    std::fs::rename(&part, path)
}
