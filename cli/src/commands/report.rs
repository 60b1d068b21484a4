//! `evergreen report energy`: the energy of data centers over a period, from the plane's figures and from what people
//! declared. The report itself is made by the controller's room, so that a command and an EnergyReport say the same.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use evergreen_api::{HumanDuration, resources::DataCenter};
use evergreen_controller::report::{self, Factors, FetchError, Language, Report, ReportError, SiteFacts};
use jiff::Timestamp;
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    commands::block_on,
    exit::{Failure, Outcome},
};

/// Reports.
#[derive(Debug, Subcommand)]
pub enum ReportCommand {
    /// Report the energy of data centers over a period.
    Energy(EnergyArgs),
}

/// Report the energy of data centers over a period.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen report energy --from 24h                               the last day, as Markdown\n  \
    evergreen report energy --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --format html > january.html\n  \
    evergreen report energy --from 1h --format json | jq .total\n  \
    evergreen report energy --from 7d --kubeconfig ~/.kube/config     with PUE and grid region of the DataCenters there\n\n\
    What nobody declared (a PUE, a grid region) is never guessed; the report says that it is absent.\n\
    Exit codes: 0 reported, 1 nothing was recorded or the figures cannot be, 2 wrong use, 3 the plane does not answer.")]
pub struct EnergyArgs {
    /// Address of the monitoring plane.
    #[arg(long, env = "EVERGREEN_PLANE", default_value = "http://127.0.0.1:8080")]
    plane: String,
    /// Start of the period: RFC 3339, or how long ago, as in 24h.
    #[arg(long, env = "EVERGREEN_FROM", value_parser = moment)]
    from: Timestamp,
    /// End of the period: RFC 3339, or how long ago.
    #[arg(long, env = "EVERGREEN_TO", value_parser = moment, default_value = "0s")]
    to: Timestamp,
    /// Data centers to report on; may be given more than once. Without it all.
    #[arg(long, env = "EVERGREEN_DATA_CENTER", value_name = "NAME", value_delimiter = ',')]
    data_center: Vec<String>,
    /// Kubeconfig of a cluster whose DataCenter resources declare PUE and grid region.
    #[arg(long, env = "EVERGREEN_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Form of the report.
    #[arg(long, env = "EVERGREEN_FORMAT", value_enum, default_value = "md")]
    format: Format,
    /// Language of the report.
    #[arg(long, env = "EVERGREEN_LANG", value_enum, default_value = "en")]
    lang: Lang,
    /// The same as --format json.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

/// Forms of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A page, fit for print.
    Html,
    /// Data.
    Json,
    /// Markdown.
    Md,
}

/// Languages of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Lang {
    /// English.
    En,
    /// 简体中文.
    Zh,
}

pub fn run(command: ReportCommand) -> Outcome {
    match command {
        ReportCommand::Energy(args) => block_on(energy(args)),
    }
}

async fn energy(args: EnergyArgs) -> Outcome {
    if args.from >= args.to {
        return Err(Failure::usage(format_args!("--from {} is not before --to {}", args.from, args.to))
            .remedy("--from 24h, or two RFC 3339 times in order"));
    }
    let facts = match &args.kubeconfig {
        Some(file) => declared(file).await?,
        None => Vec::new(),
    };
    let rows = report::energy_by_site(&args.plane, &args.from.to_string(), &args.to.to_string()).await;
    let rows = rows.map_err(|error| {
        let kind = match &error {
            FetchError::Url(_) => Failure::usage,
            FetchError::Unreachable { .. } => Failure::unreachable,
            FetchError::Refused { .. } | FetchError::Answer { .. } => Failure::no,
        };
        kind(format!("{:#}", anyhow::Error::from(error)))
            .remedy("the address of a running evergreen-plane: --plane URL")
    })?;
    let made = report::compute(&rows, &args.data_center, &facts, &Factors::shipped()).map_err(|error| {
        let remedy = match &error {
            ReportError::NoData { .. } => "a period in which agents sent to this plane, as in --from 1h",
            _ => "correct the DataCenter resource that declares it",
        };
        Failure::no(format_args!("{:#}", anyhow::Error::from(error))).remedy(remedy)
    })?;
    let format = if args.json { Format::Json } else { args.format };
    print!("{}", render(&made, format, args.lang));
    Ok(())
}

fn render(made: &Report, format: Format, lang: Lang) -> String {
    let language = match lang {
        Lang::En => Language::English,
        Lang::Zh => Language::Chinese,
    };
    match format {
        Format::Html => report::html(made, language),
        Format::Json => report::json(made),
        Format::Md => report::markdown(made, language),
    }
}

/// What the DataCenter resources of a cluster declare.
async fn declared(file: &PathBuf) -> Outcome<Vec<SiteFacts>> {
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| {
        Failure::usage(format_args!("cannot read {}: {error}", file.display()))
            .remedy("--kubeconfig with a kubeconfig file")
    })?;
    let list = async {
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.connect_timeout = Some(std::time::Duration::from_secs(5));
        config.read_timeout = Some(std::time::Duration::from_secs(10));
        let data_centers: Api<DataCenter> = Api::all(Client::try_from(config)?);
        data_centers.list(&ListParams::default()).await.context("cannot list data centers")
    };
    let list = list.await.map_err(|error| {
        Failure::unreachable(format_args!("{error:#}")).remedy("leave --kubeconfig out: a report without PUE")
    })?;
    Ok(list
        .items
        .into_iter()
        .map(|site| SiteFacts {
            name: site.name_any(),
            grid_region: site.spec.grid_region,
            pue: site.spec.pue.map(|pue| (pue.value, pue.date, pue.by)),
        })
        .collect())
}

/// A moment: RFC 3339, or so long ago.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = text.parse::<HumanDuration>() {
        return Timestamp::now().checked_sub(ago.get()).map_err(|error| error.to_string());
    }
    text.parse::<Timestamp>().map_err(|_| {
        format!("`{text}` is neither an RFC 3339 time, as in 2026-01-01T00:00:00Z, nor how long ago, as in 24h")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        assert_eq!(moment("2026-01-01T00:00:00Z").unwrap().to_string(), "2026-01-01T00:00:00Z");
        assert!(moment("1h").unwrap() < Timestamp::now());
        assert!(moment("yesterday").unwrap_err().contains("24h"));
    }
}
