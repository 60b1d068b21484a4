//! `evergreen approve`: says yes to exactly one proposal, or one run of a playbook, with one's own key.

use std::path::PathBuf;

use clap::Args;
use evergreen_api::resources::ProposalStatus;
use evergreen_controller::consent::What;
use serde_json::json;

use crate::{
    commands::{
        approve_run, block_on, drill,
        failover::{
            say::{self, SignerArgs},
            sites::{Sites, SitesArgs},
        },
    },
    exit::{Failure, Outcome},
};

/// Approve a proposed move, the ticket of a drill, or a run of a playbook.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen approve                                                      what waits for approval\n  \
    evergreen approve 3f2a... --key ~/.evergreen/key --signer wang         say yes to exactly this\n  \
    evergreen approve run/NAME --key ~/.evergreen/key --signer wang         let exactly this run of a playbook act\n  \
    evergreen approve --new-key ~/.evergreen/key                           make a key of your own\n\n\
    Who asked for a move or a run cannot approve it. An approval is void as soon as anything about it changes, counts for\n\
    an hour, and is taken back with kubectl -n evergreen-system delete consent NAME.\n\n\
    Exit codes: 0 approved, or nothing waits, 1 there is no such proposal, 2 wrong use, 3 nobody answers.")]
pub struct ApproveArgs {
    /// Digest of the proposal, or its beginning; or run/NAME of a playbook run. Without it everything that waits is listed.
    #[arg(value_name = "PROPOSAL")]
    proposal: Option<String>,
    /// Make a private key in this file and print what others need to know it.
    #[arg(long, env = "EVERGREEN_NEW_KEY", value_name = "FILE", conflicts_with = "proposal")]
    new_key: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
    #[command(flatten)]
    signer: SignerArgs,
    #[command(flatten)]
    sites: SitesArgs,
}

/// Runs the command.
///
/// # Errors
/// When there is no such proposal or the approval could not be put anywhere.
pub fn run(args: &ApproveArgs) -> Outcome {
    match &args.new_key {
        Some(file) => say::make_key(file),
        None => block_on(approve(args)),
    }
}

fn proposals(sites: &Sites) -> Vec<ProposalStatus> {
    let all = sites.reached.iter().flat_map(|site| &site.services);
    let mut found: Vec<ProposalStatus> = all.filter_map(|service| service.status.as_ref()?.proposal.clone()).collect();
    found.sort_by(|a, b| (&a.group, &a.id).cmp(&(&b.group, &b.id)));
    found.dedup_by(|a, b| a.id == b.id);
    found
}

async fn approve(args: &ApproveArgs) -> Outcome {
    let sites = args.sites.connect().await?;
    let mut open = proposals(&sites);
    open.extend(drill::proposals(&sites).await);
    if let Some(run) = args.proposal.as_ref().and_then(|wanted| wanted.strip_prefix("run/")) {
        return approve_run::approve(&sites, run, &args.signer, args.json).await;
    }
    let Some(wanted) = &args.proposal else {
        sites.warn();
        let runs = approve_run::waiting(&sites).await;
        if args.json {
            let runs: Vec<_> = runs.iter().map(approve_run::described).collect();
            let all = json!({"proposals": open, "runs": runs});
            println!("{}", serde_json::to_string_pretty(&all).map_err(Failure::no)?);
        } else if open.is_empty() && runs.is_empty() {
            println!("nothing waits for approval");
        }
        if !args.json {
            open.iter().for_each(show);
            runs.iter().for_each(approve_run::show);
        }
        return Ok(());
    };
    if wanted.len() < 8 {
        return Err(Failure::usage("write at least 8 characters of the proposal's digest"));
    }
    let found: Vec<&ProposalStatus> = open.iter().filter(|proposal| proposal.id.starts_with(wanted)).collect();
    let [proposal] = found.as_slice() else {
        return Err(Failure::no(format_args!("no single proposal begins with `{wanted}`")).remedy("evergreen approve"));
    };
    show(proposal);
    let what = What::Approve { proposal: proposal.id.clone() };
    let text = say::statement(&proposal.group, proposal.entry_version, what)?;
    let spec = args.signer.signed(text)?;
    let name = say::put(&sites, &spec).await?;
    if args.json {
        println!("{}", json!({"approved": proposal.id, "consent": name}));
    } else {
        println!("approved as {name}");
    }
    Ok(())
}

fn show(proposal: &ProposalStatus) {
    println!("{}  {}", proposal.id, proposal.summary);
    let by = if proposal.approved_by.is_empty() { "nobody yet".to_owned() } else { proposal.approved_by.join(", ") };
    println!("  approved by {by}; {} needed; {}", proposal.people, proposal.then);
}
