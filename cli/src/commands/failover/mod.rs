//! `evergreen failover | switchover | failback`: asks for a move, or tries what it would be.

pub mod say;
pub mod sites;

use clap::Args;
use evergreen_api::resources::{ConsentPhase, ConsentStatus, MultiActiveService};
use evergreen_controller::consent::{Acceptance, What};
use kube::ResourceExt;

use self::{say::SignerArgs, sites::SitesArgs};
use crate::{
    commands::block_on,
    exit::{Failure, Outcome},
};

/// Which move it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// A site is lost.
    Failover,
    /// Planned.
    Switchover,
    /// Back to the preferred site.
    Failback,
}

/// Ask for a move of a service.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen failover shop/checkout --dry-run                         what would be done, why, and what was rejected\n  \
    evergreen switchover bank/ledger --to dc-b --reason 'CHG-1207' --key ~/.evergreen/key --signer li\n  \
    evergreen failover bank/ledger --to dc-b --accept-loss 30s --reason 'dc-a burns' --key ~/.evergreen/key --signer li\n  \
    evergreen failback bank/ledger/east --reason 'dc-a is back'        one cell of a Unitized service\n\n\
    The request is signed and put at every data center that answers; the controllers decide under their gates, and say\n\
    here what they do. A named loss always takes a second person: evergreen approve.\n\n\
    Exit codes: 0 it is done, proposed or waits, 1 it is held or refused, 2 wrong use, 3 nobody answers.")]
pub struct MoveArgs {
    /// Service: name, namespace/name, or namespace/name/cell.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Data center that shall hold it. Default: the best other one; for failback the preferred one.
    #[arg(long, env = "EVERGREEN_TO", value_name = "SITE")]
    to: Option<String>,
    /// Data center that shall leave, of a service that several serve.
    #[arg(long, env = "EVERGREEN_FROM", value_name = "SITE")]
    from: Option<String>,
    /// Loss of data that you accept, as the time of writes that may be gone: 30s, or `unknown`.
    #[arg(long, env = "EVERGREEN_ACCEPT_LOSS", value_name = "LOSS")]
    accept_loss: Option<Acceptance>,
    /// Move even if the room is too small.
    #[arg(long, env = "EVERGREEN_ACCEPT_SHORTAGE")]
    accept_shortage: bool,
    /// Why, for the record.
    #[arg(long, env = "EVERGREEN_REASON", value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Say what would be done and do nothing.
    #[arg(long, env = "EVERGREEN_DRY_RUN")]
    dry_run: bool,
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
/// When it is refused or held, or nobody answers.
pub fn run(which: Move, args: &MoveArgs) -> Outcome {
    block_on(ask_for(which, args))
}

async fn ask_for(which: Move, args: &MoveArgs) -> Outcome {
    let sites = args.sites.connect().await?;
    let (service, cell) = sites.service(&args.service)?;
    let (group, version, home) = group(&service, cell.as_deref())?;
    let to = args.to.clone().or_else(|| (which == Move::Failback).then_some(home).flatten());
    let what = What::Request {
        to,
        from: args.from.clone(),
        accept_loss: args.accept_loss,
        accept_shortage: args.accept_shortage,
        reason: args.reason.clone().unwrap_or_default(),
        drill: None,
    };
    let text = say::statement(&group, version, what)?;
    let Some(first) = sites.reached.first() else { return Err(Failure::unreachable("no data center answers")) };
    let status = if args.dry_run {
        sites.warn();
        say::ask(first, text, args.signer.signer.clone()).await?
    } else {
        let spec = args.signer.signed(text)?;
        let name = say::put(&sites, &spec).await?;
        say::answer(first, &name).await?
    };
    print(&status, &group, args.json)
}

/// Group, version of its entry and preferred site of a service or one of its cells.
fn group(service: &MultiActiveService, cell: Option<&str>) -> Outcome<(String, u64, Option<String>)> {
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let groups = service.spec.groups(&namespace, &name);
    let status = service.status.clone().unwrap_or_default();
    match (&service.spec.units, cell) {
        (Some(units), Some(cell)) => {
            let index = units.cells.iter().position(|known| known.name == cell);
            let (group, sites) = index
                .and_then(|index| groups.get(index))
                .ok_or_else(|| Failure::usage(format_args!("{namespace}/{name} has no cell `{cell}`")))?;
            let version = status.cells.iter().find(|known| known.name == cell).map_or(0, |cell| cell.entry_version);
            Ok((group.clone(), version, sites.first().cloned()))
        }
        (Some(units), None) => {
            let cells: Vec<&str> = units.cells.iter().map(|cell| cell.name.as_str()).collect();
            Err(Failure::usage(format_args!("{namespace}/{name} moves cell by cell"))
                .remedy(format_args!("{namespace}/{name}/CELL with CELL one of {}", cells.join(", "))))
        }
        (None, Some(_)) => Err(Failure::usage(format_args!("{namespace}/{name} has no cells"))),
        (None, None) => {
            let group = service.spec.group_of(&namespace, &name);
            Ok((group, status.entry_version, service.spec.sites.first().cloned()))
        }
    }
}

fn print(status: &ConsentStatus, group: &str, json: bool) -> Outcome {
    if json {
        let text = serde_json::to_string_pretty(status).map_err(Failure::no)?;
        println!("{text}");
    } else {
        println!("{group}: {}", status.message);
        status.plan.iter().for_each(|line| println!("  {line}"));
        if let Some(proposal) = &status.proposal {
            println!("  approve with: evergreen approve {proposal} --key FILE --signer NAME");
        }
    }
    let held = status.plan.first().is_some_and(|line| line.contains("(not carried out"));
    match status.phase {
        ConsentPhase::Refused => Err(Failure::no("the request does not count; see above")),
        _ if held => Err(Failure::no("it is not carried out; see above")),
        _ => Ok(()),
    }
}
