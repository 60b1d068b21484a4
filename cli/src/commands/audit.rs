//! `evergreen audit verify | export | replay`: the chain, the records, and whether the recorded facts give the same plans.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use evergreen_audit::{Record, read, verify};
use evergreen_controller::{
    drill::{self, DRILL_DECISION, DrillDecided},
    failover::{DECISION, Decided, plan},
};
use serde::Serialize;
use serde_json::json;

use crate::exit::{Failure, Outcome};

/// The audit log of a controller.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that no record was changed, taken out or put in.
    Verify(FolderArgs),
    /// Print the records, one JSON object a line.
    Export(ExportArgs),
    /// Make every recorded decision again from its recorded facts and compare, bit by bit.
    Replay(FolderArgs),
}

/// The folder of a log.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen audit verify /var/lib/evergreen/audit\n  \
    evergreen audit replay /var/lib/evergreen/audit --json\n\n\
    A log that was cut at its end is a whole log: compare the last hash with the audit_hash in the controller's logs.\n\n\
    Exit codes: 0 nothing is wrong, 1 something is, 2 wrong use.")]
pub struct FolderArgs {
    /// Folder that the controller was given with --audit-dir.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

/// What is exported.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen audit export /var/lib/evergreen/audit > audit.jsonl\n  \
    evergreen audit export /var/lib/evergreen/audit --group shop.checkout --brief")]
pub struct ExportArgs {
    /// Folder that the controller was given with --audit-dir.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Only decisions about this failover group.
    #[arg(long, env = "EVERGREEN_GROUP", value_name = "GROUP")]
    group: Option<String>,
    /// One readable line for each decision instead of JSON.
    #[arg(long, env = "EVERGREEN_BRIEF")]
    brief: bool,
}

/// Runs the command.
///
/// # Errors
/// When something is wrong with the log.
pub fn run(command: AuditCommand) -> Outcome {
    match command {
        AuditCommand::Verify(args) => check(&args),
        AuditCommand::Export(args) => export(&args),
        AuditCommand::Replay(args) => replay(&args),
    }
}

fn unreadable(error: evergreen_audit::AuditError) -> Failure {
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    Failure::usage(format_args!("{error}{source}")).remedy("name the folder given with --audit-dir")
}

fn check(args: &FolderArgs) -> Outcome {
    let report = verify(&args.folder).map_err(unreadable)?;
    let broken: Vec<_> = report.broken.iter().map(|b| json!({"file": b.file, "line": b.line, "why": b.why})).collect();
    let (last, hash) = report.last.clone().unwrap_or_default();
    if args.json {
        println!(
            "{}",
            json!({"records": report.records, "torn": report.torn, "last": last, "hash": hash, "broken": broken})
        );
    } else {
        for broken in &report.broken {
            println!("{} line {}: {}", broken.file, broken.line, broken.why);
        }
        println!("{} records, {} torn tails told, last {last} {hash}", report.records, report.torn);
    }
    if report.broken.is_empty() { Ok(()) } else { Err(Failure::no("the chain is broken; see above")) }
}

fn each(folder: &Path, mut use_record: impl FnMut(Record)) -> Outcome<usize> {
    let mut broken = 0;
    read(folder, |found| match found {
        Ok(record) => use_record(record),
        Err(wrong) => {
            broken += 1;
            eprintln!("{} line {}: {}", wrong.file, wrong.line, wrong.why);
        }
    })
    .map_err(unreadable)?;
    Ok(broken)
}

fn export(args: &ExportArgs) -> Outcome {
    let broken = each(&args.folder, |record| {
        let group = record.body.pointer("/decision/group").and_then(serde_json::Value::as_str);
        if args.group.is_some() && group != args.group.as_deref() {
            return;
        }
        if args.brief {
            let text = |path: &str| record.body.pointer(path).map(ToString::to_string).unwrap_or_default();
            let reason =
                record.body.pointer("/decision/reason").and_then(serde_json::Value::as_str).unwrap_or_default();
            let (at, seq) = (&record.at, record.seq);
            println!("{seq} {at} {} {} {}", group.unwrap_or(&record.kind), text("/decision/verdict"), reason);
        } else if let Ok(line) = serde_json::to_string(&record) {
            println!("{line}");
        }
    })?;
    if broken == 0 { Ok(()) } else { Err(Failure::no(format_args!("{broken} places of the log are broken"))) }
}

fn replay(args: &FolderArgs) -> Outcome {
    let (mut same, mut drills, mut differing) = (0_u64, 0_u64, Vec::new());
    let broken = each(&args.folder, |record| {
        let made = match record.kind.as_str() {
            DECISION => again(&record),
            DRILL_DECISION => drill_again(&record),
            _ => return,
        };
        match made {
            Ok(()) if record.kind == DRILL_DECISION => drills += 1,
            Ok(()) => same += 1,
            Err(why) => differing.push((record.seq, why)),
        }
    })?;
    if args.json {
        let differing: Vec<_> = differing.iter().map(|(seq, why)| json!({"seq": seq, "why": why})).collect();
        println!("{}", json!({"same": same, "drills": drills, "differing": differing, "broken": broken}));
    } else {
        differing.iter().for_each(|(seq, why)| println!("record {seq}: {why}"));
        println!("{same} decisions made again, bit by bit the same; {} differ; {broken} broken", differing.len());
        if drills > 0 {
            println!("{drills} drill decisions made again, bit by bit the same");
        }
    }
    if differing.is_empty() && broken == 0 { Ok(()) } else { Err(Failure::no("not every decision came out again")) }
}

/// Makes a decision again from what was recorded.
fn again(record: &Record) -> Result<(), String> {
    let decided: Decided = serde_json::from_value(record.body.clone())
        .map_err(|error| format!("was written by another version: {error}"))?;
    let (was, is) = (text(&Some(&decided.decision)), text(&plan(&decided.facts)));
    if was == is { Ok(()) } else { Err(format!("recorded {was}, but its facts give {is}")) }
}

/// Makes a decision of a drill again from what was recorded.
fn drill_again(record: &Record) -> Result<(), String> {
    let decided: DrillDecided = serde_json::from_value(record.body.clone())
        .map_err(|error| format!("was written by another version: {error}"))?;
    let (was, is) = (text(&decided.next), text(&drill::next(&decided.facts)));
    if was == is { Ok(()) } else { Err(format!("recorded {was}, but its facts give {is}")) }
}

fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use evergreen_audit::{AuditLog, Draft};

    use super::*;

    fn facts() -> serde_json::Value {
        json!({
            "name": "n/s", "group": "g", "candidates": ["a", "b"],
            "spec": {"mode": "ActiveStandby", "kind": "compute", "sites": ["a", "b"], "workload": {"deployment": "d"},
                "traffic": [], "enforcement": "enforce", "decision": {"unplanned": "auto"}},
            "stability": "steady", "profile": "bank", "same_spec_at": 2, "members": 2,
            "entry": {"version": 1, "holders": [{"site": "a", "epoch": 1, "incarnation": "i"}]},
            "entry_stable_for": {"secs": 900, "nanos": 1}, "moved_for": null, "entered_for": {},
            "sites": {
                "a": {"fresh": null, "fresh_for": {"secs": 0, "nanos": 0}, "unfresh_for": {"secs": 9, "nanos": 7}, "ready": null},
                "b": {"fresh": {"site": "b", "epoch": 2, "incarnation": "j"}, "fresh_for": {"secs": 99, "nanos": 0},
                    "unfresh_for": {"secs": 0, "nanos": 0}, "ready": 2}},
            "dependencies": [], "consent": {"paused": null, "request": null, "approvals": [], "open_for": {}},
            "blocked": null, "automatic_site": null})
    }

    fn log(change: impl Fn(&mut serde_json::Value)) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let facts = facts();
        let decision = plan(&serde_json::from_value(facts.clone()).unwrap()).unwrap();
        let votes = json!({"fresh": ["b"], "registersAnswering": ["b"], "registers": 3, "majority": 2});
        let mut body = json!({"site": "b", "votes": votes, "traceparent": null, "facts": facts, "decision": decision});
        change(&mut body);
        let draft = Draft { at: "2026-11-01T00:00:00Z".into(), kind: DECISION.into(), body };
        AuditLog::open(dir.path(), "now").unwrap().append(&[draft]).unwrap();
        dir
    }

    fn args(dir: &tempfile::TempDir) -> FolderArgs {
        FolderArgs { folder: dir.path().to_owned(), json: false }
    }

    #[test]
    fn recorded_facts_give_the_recorded_plan_and_others_do_not() {
        assert!(replay(&args(&log(|_| {}))).is_ok());
        let other = log(|body| body["facts"]["sites"]["b"]["ready"] = json!(0));
        assert_eq!(replay(&args(&other)).unwrap_err().code(), 1);
        assert!(check(&args(&other)).is_ok(), "the chain is whole: whoever wrote it decided otherwise");
    }

    #[test]
    fn a_log_that_is_not_there_is_wrong_use() {
        let folder = FolderArgs { folder: "/does/not/exist".into(), json: false };
        assert_eq!(check(&folder).unwrap_err().code(), 2);
    }
}
