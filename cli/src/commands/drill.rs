//! `evergreen drill list | show | run | abort | report`: exercises that move services away from a data center and back.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use evergreen_api::{
    names::DRILL_GROUP_PREFIX,
    resources::{DrillPhase, FailoverDrill, FailoverDrillStatus, ProposalStatus, Scorecard},
};
use evergreen_controller::consent::What;
use evergreen_report::{Language, drill_html, drill_report};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    commands::{
        block_on,
        failover::{
            say::{self, SignerArgs},
            sites::{CALL, Site, Sites, SitesArgs},
        },
    },
    exit::{Failure, Outcome},
};

/// Exercises: services leave a data center and come back, and a scorecard says how that went.
#[derive(Debug, Subcommand)]
pub enum DrillCommand {
    /// List drills: where they are, how the last one ended, when the next ticket is opened.
    List(ListArgs),
    /// Show a drill: what it would do now, the open ticket, the steps, the last scorecard.
    Show(ShowArgs),
    /// Open a ticket now, or only say what a drill would do.
    Run(RunArgs),
    /// Break a drill off: what it moved comes back.
    Abort(AbortArgs),
    /// Print the scorecard of a drill, as JSON or as a page.
    Report(ReportArgs),
}

/// What is listed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen drill list\n  \
    evergreen drill list --kubeconfig dc-a.kubeconfig,dc-b.kubeconfig --json\n\n\
    Exit codes: 0 listed, 2 wrong use, 3 nobody answers.")]
pub struct ListArgs {
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
    #[command(flatten)]
    sites: SitesArgs,
}

/// Which drill is shown.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen drill show weekly\n  \
    evergreen drill show weekly --json | jq .history[0].rtoMs\n\n\
    Exit codes: 0 shown, 1 there is no such drill, 2 wrong use, 3 nobody answers.")]
pub struct ShowArgs {
    /// Name of the FailoverDrill.
    #[arg(value_name = "NAME")]
    name: String,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
    #[command(flatten)]
    sites: SitesArgs,
}

/// Which drill is asked for.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen drill run weekly --now --dry-run                              what would leave, what is in the way\n  \
    evergreen drill run weekly --now --reason 'CHG-1207' --key ~/.evergreen/key --signer li\n  \
    evergreen approve                                                       what waits for two others, with its digest\n\n\
    This opens a ticket, signed with your key. Services that are steady leave only after two people other than you\n\
    approved it, and only in a window of the drill. Nothing moves at tolerance zero, during a real incident, or while\n\
    another drill is under way anywhere in the fleet.\n\n\
    The drill's own requests are signed with the key of its data center, which has to be in the ConfigMap\n\
    evergreen-approvers of every data center; --dry-run tells the line that is to be added.\n\n\
    Exit codes: 0 a ticket is open, 1 it was not opened, 2 wrong use, 3 nobody answers.")]
pub struct RunArgs {
    /// Name of the FailoverDrill.
    #[arg(value_name = "NAME")]
    name: String,
    /// Open the ticket now instead of waiting for the schedule.
    #[arg(long, env = "EVERGREEN_NOW", required = true)]
    now: bool,
    /// Say what would be done and do nothing.
    #[arg(long, env = "EVERGREEN_DRY_RUN")]
    dry_run: bool,
    /// Why, for the record.
    #[arg(long, env = "EVERGREEN_REASON", value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
    #[command(flatten)]
    signer: SignerArgs,
    #[command(flatten)]
    sites: SitesArgs,
}

/// Which drill is broken off.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen drill abort weekly --reason 'month end runs late' --signer li\n\n\
    Services that have left come back at once, by the same gates. `evergreen pause` stops a drill where it is.\n\n\
    Exit codes: 0 it is being broken off, 1 nothing is under way, 2 wrong use, 3 nobody answers.")]
pub struct AbortArgs {
    /// Name of the FailoverDrill.
    #[arg(value_name = "NAME")]
    name: String,
    /// Why, for the record.
    #[arg(long, env = "EVERGREEN_REASON", value_name = "TEXT", default_value = "")]
    reason: String,
    /// Your name, for the record.
    #[arg(long, env = "EVERGREEN_SIGNER", value_name = "NAME", default_value = "somebody")]
    signer: String,
    /// Print JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
    #[command(flatten)]
    sites: SitesArgs,
}

/// Which scorecard is printed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen drill report weekly --format html --lang zh > drill.html\n  \
    evergreen drill report weekly --ticket weekly-12 --format json\n  \
    evergreen drill report weekly --format html --out drill.html\n\n\
    Fields are those of JR/T 0044 and JR/T 0208. What was not measured, or not yet confirmed by the business side\n\
    (spec.signOffs), is absent and said to be.\n\n\
    Exit codes: 0 printed, 1 there is no such drill or scorecard, 2 wrong use, 3 nobody answers.")]
pub struct ReportArgs {
    /// Name of the FailoverDrill.
    #[arg(value_name = "NAME")]
    name: String,
    /// Ticket. Default: the last one.
    #[arg(long, env = "EVERGREEN_TICKET", value_name = "TICKET")]
    ticket: Option<String>,
    /// Language of the page.
    #[arg(long, env = "EVERGREEN_LANG", value_enum, default_value = "en")]
    lang: Lang,
    /// JSON has both languages.
    #[arg(long, env = "EVERGREEN_FORMAT", value_enum, default_value = "json")]
    format: Format,
    /// File to write instead of standard output.
    #[arg(long, env = "EVERGREEN_OUT", value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    sites: SitesArgs,
}

/// Language.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Lang {
    /// English.
    En,
    /// 简体中文.
    Zh,
}

/// Form of a report.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A page without script, fit for print.
    Html,
    /// Data.
    Json,
}

/// Runs the command.
///
/// # Errors
/// When there is no such drill, it cannot be asked for, or nobody answers.
pub fn run(command: DrillCommand) -> Outcome {
    match command {
        DrillCommand::List(args) => block_on(list(args)),
        DrillCommand::Show(args) => block_on(show(args)),
        DrillCommand::Run(args) => block_on(ask(args)),
        DrillCommand::Abort(args) => block_on(abort(args)),
        DrillCommand::Report(args) => block_on(report(args)),
    }
}

/// Drills of every data center that answers, with the place in `reached`. Of a drill that several have, the one counts
/// that is carried out: it has tickets.
async fn drills(sites: &Sites) -> Vec<(usize, FailoverDrill)> {
    let mut found: Vec<(usize, FailoverDrill)> = Vec::new();
    for (index, site) in sites.reached.iter().enumerate() {
        let api: Api<FailoverDrill> = Api::all(site.client.clone());
        match tokio::time::timeout(CALL, api.list(&ListParams::default())).await {
            Ok(Ok(all)) => found.extend(all.items.into_iter().map(|drill| (index, drill))),
            // A data center without the definition has no drills.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(error)) => eprintln!("not read: {}: {error}", site.name),
            Err(_) => eprintln!("not read: {}: no answer in time", site.name),
        }
    }
    let known = |drill: &FailoverDrill| std::cmp::Reverse(drill.status.is_some());
    found.sort_by_key(|(index, drill)| (drill.name_any(), known(drill), *index));
    found.dedup_by(|a, b| a.1.name_any() == b.1.name_any());
    found
}

async fn one<'a>(sites: &'a Sites, name: &str) -> Outcome<(&'a Site, FailoverDrill)> {
    let found = drills(sites).await.into_iter().find(|(_, drill)| drill.name_any() == name);
    let (index, drill) =
        found.ok_or_else(|| Failure::no(format_args!("there is no drill `{name}`")).remedy("evergreen drill list"))?;
    Ok((&sites.reached[index], drill))
}

/// Proposals of drills: tickets that wait for people.
pub async fn proposals(sites: &Sites) -> Vec<ProposalStatus> {
    drills(sites).await.into_iter().filter_map(|(_, drill)| drill.status?.proposal).collect()
}

/// The last drill that ended: drill, ticket, result and RTO in milliseconds, for `evergreen status`.
pub async fn last(sites: &Sites) -> Vec<(String, Scorecard)> {
    let last = |(_, drill): (usize, FailoverDrill)| {
        let name = drill.name_any();
        let card = drill.status?.history.into_iter().find(|card| card.started_at.is_some())?;
        Some((name, card))
    };
    drills(sites).await.into_iter().filter_map(last).collect()
}

fn print(value: &impl serde::Serialize) -> Outcome {
    println!("{}", serde_json::to_string_pretty(value).map_err(Failure::no)?);
    Ok(())
}

fn result(status: &FailoverDrillStatus) -> String {
    status.last_result.map(|result| format!("{result:?}")).unwrap_or_default()
}

fn rto(card: Option<&Scorecard>) -> String {
    card.and_then(|card| card.rto_ms).map(|ms| format!("{ms} ms")).unwrap_or_default()
}

async fn list(args: ListArgs) -> Outcome {
    let sites = args.sites.connect().await?;
    let all = drills(&sites).await;
    sites.warn();
    if args.json {
        let all: Vec<Value> = all
            .iter()
            .map(|(_, drill)| json!({"name": drill.name_any(), "spec": drill.spec, "status": drill.status}))
            .collect();
        return print(&all);
    }
    if all.is_empty() {
        println!("no drill is defined; docs/drills.md shows one");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["Drill", "Site", "Mode", "Phase", "Last", "RTO", "Next ticket", "Message"]);
    for (_, drill) in all {
        let status = drill.status.clone().unwrap_or_default();
        table.add_row([
            drill.name_any(),
            drill.spec.site.clone(),
            format!("{:?}", drill.spec.mode),
            format!("{:?}", status.phase),
            result(&status),
            rto(status.history.first()),
            status.next_run.clone().unwrap_or_default(),
            status.message.clone(),
        ]);
    }
    println!("{table}");
    Ok(())
}

async fn show(args: ShowArgs) -> Outcome {
    let sites = args.sites.connect().await?;
    let (site, drill) = one(&sites, &args.name).await?;
    let status = drill.status.clone().unwrap_or_default();
    if args.json {
        return print(&status);
    }
    println!("{} at {}: services leave {}, {:?}", args.name, site.name, drill.spec.site, drill.spec.mode);
    println!("{:?}: {}", status.phase, status.message);
    status.preview.iter().for_each(|line| println!("  {line}"));
    if let Some(proposal) = &status.proposal {
        println!("{}\n  approve with: evergreen approve {} --key FILE --signer NAME", proposal.summary, proposal.id);
    }
    for card in status.current.iter().chain(status.history.first()) {
        println!("\n{} asked for by {}, approved by {}", card.ticket, card.requested_by, list_of(&card.approvers));
        card.steps.iter().for_each(|step| println!("  {}  {}: {}", step.at, step.by, step.what));
        if let Some(result) = card.result {
            println!("  {result:?}: {}{}", card.reason, with(" RTO ", &rto(Some(card))));
        }
    }
    Ok(())
}

fn with(before: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(",{before}{text}") }
}

fn list_of(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

async fn ask(args: RunArgs) -> Outcome {
    let sites = args.sites.connect().await?;
    let (site, drill) = one(&sites, &args.name).await?;
    let status = drill.status.clone().unwrap_or_default();
    if args.dry_run {
        sites.warn();
        let site = &drill.spec.site;
        if status.phase != DrillPhase::Idle {
            println!("{} is {:?}: {}", args.name, status.phase, status.message);
        }
        if args.json {
            return print(&json!({"drill": args.name, "site": site, "phase": status.phase, "would": status.preview}));
        }
        if status.preview.is_empty() {
            return Err(Failure::no(format_args!("the controller of {site} has not said yet what it would do"))
                .remedy("is it running, and in quorum? evergreen status"));
        }
        status.preview.iter().for_each(|line| println!("{line}"));
        return Ok(());
    }
    let what = What::Request {
        to: None,
        from: Some(drill.spec.site.clone()),
        accept_loss: None,
        accept_shortage: false,
        reason: args.reason.clone().unwrap_or_default(),
        drill: None,
    };
    let text = say::statement(&format!("{DRILL_GROUP_PREFIX}{}", args.name), status.tickets, what)?;
    let spec = args.signer.signed(text)?;
    let consent = say::put(&sites, &spec).await?;
    let api: Api<FailoverDrill> = Api::all(site.client.clone());
    for _ in 0..50 {
        let found = tokio::time::timeout(CALL, api.get(&args.name)).await;
        if let Ok(Ok(FailoverDrill { status: Some(now), .. })) = found
            && now.tickets > status.tickets
        {
            let ticket = format!("{}-{}", args.name, now.tickets);
            if args.json {
                return print(&json!({"ticket": ticket, "consent": consent, "proposal": now.proposal}));
            }
            println!("ticket {ticket} is open: {}", now.message);
            if let Some(proposal) = now.proposal {
                println!("{} others have to approve it: evergreen approve {}", proposal.people, proposal.id);
            }
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    Err(Failure::no("no ticket was opened: is another one open, is your key in the ConfigMap evergreen-approvers?")
        .remedy(format_args!("evergreen drill show {}", args.name)))
}

async fn abort(args: AbortArgs) -> Outcome {
    let sites = args.sites.connect().await?;
    let (site, drill) = one(&sites, &args.name).await?;
    let current = drill.status.as_ref().and_then(|status| status.current.as_ref());
    let Some(card) = current else {
        return Err(Failure::no(format_args!("no ticket of {} is open", args.name)));
    };
    let api: Api<FailoverDrill> = Api::all(site.client.clone());
    let said = json!({"ticket": card.ticket, "by": args.signer, "reason": args.reason});
    let patch = Patch::Merge(json!({"spec": {"abort": said}}));
    let parameters = PatchParams::default();
    tokio::time::timeout(CALL, api.patch(&args.name, &parameters, &patch))
        .await
        .map_err(|_| Failure::unreachable(format_args!("{}: no answer in time", site.name)))?
        .map_err(|error| Failure::unreachable(error).remedy("check your rights on failoverdrills"))?;
    if args.json {
        return print(&said);
    }
    println!("{} is being broken off; evergreen drill show {}", card.ticket, args.name);
    Ok(())
}

async fn report(args: ReportArgs) -> Outcome {
    let sites = args.sites.connect().await?;
    let (_, drill) = one(&sites, &args.name).await?;
    let status = drill.status.clone().unwrap_or_default();
    let wanted = |card: &&Scorecard| args.ticket.as_ref().is_none_or(|ticket| *ticket == card.ticket);
    let card = status.history.iter().chain(&status.current).find(wanted).ok_or_else(|| {
        Failure::no(format_args!("{} has no such scorecard", args.name))
            .remedy(format_args!("evergreen drill show {}", args.name))
    })?;
    let signed = drill.spec.sign_offs.iter().rev().find(|signed| signed.ticket == card.ticket);
    let report = drill_report(&args.name, &drill.spec, card, signed).map_err(Failure::no)?;
    let language = match args.lang {
        Lang::En => Language::English,
        Lang::Zh => Language::Chinese,
    };
    let text = match args.format {
        Format::Html => drill_html(&report, language),
        Format::Json => serde_json::to_string_pretty(&report).map_err(Failure::no)?,
    };
    match &args.out {
        None => println!("{text}"),
        Some(file) => std::fs::write(file, text)
            .map_err(|error| Failure::usage(format_args!("cannot write {}: {error}", file.display())))?,
    }
    Ok(())
}
