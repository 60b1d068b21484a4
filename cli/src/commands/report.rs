//! `evergreen report energy`: the energy of data centers over a period, from a ledger and from what people declared.
//! The report is made by the same room as an EnergyReport's, so that a command and a resource say the same.

use std::{io::Write, path::PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use evergreen_api::{
    HumanDuration,
    resources::{DataCenter, EnergyFacts, ReportScope, ReportStandard},
};
use evergreen_report::{
    Language, MakeError, Report, ReportError, Wanted, json, make, render, source::Source, source::SourceError,
    with_data_centers,
};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    commands::block_on,
    exit::{Failure, Outcome},
};

/// Longest file of facts.
const MOST_FACTS: u64 = 1 << 20;

/// Reports.
#[derive(Debug, Subcommand)]
pub enum ReportCommand {
    /// Report the energy of data centers over a period: kWh, PUE, emissions, standards.
    Energy(Box<EnergyArgs>),
}

/// Report the energy of data centers over a period.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen report energy --from 24h                                     the last day, as Markdown\n  \
    evergreen report energy --from 2026-01-01 --to 2026-02-01 --time-zone Asia/Shanghai \\\n      \
        --facts facts.yaml --standard cn --lang zh --format html -o january.html\n  \
    evergreen report energy --from 7d --scope namespace=payments --format csv -o payments.csv\n  \
    evergreen report energy --from 1h --format json | jq .total\n  \
    evergreen report energy --from 30d --source prometheus=http://prometheus:9090 --format pdf-ready -o fleet.html\n  \
    evergreen report energy --from 7d --kubeconfig ~/.kube/config          with PUE and grid region of the DataCenters there\n\n\
    Facts (a meter, a PUE, a grid region, certificates, water, functional unit) are never guessed: give them with --facts\n\
    or in the DataCenter resources; what is missing is absent in the report, with the reason. docs/energy-report.md has\n\
    every fact and how each figure is made. pdf-ready is the page for printing: open it and print it to PDF (A4).\n\
    Exit codes: 0 reported, 1 nothing was recorded or the figures cannot be, 2 wrong use, 3 the source does not answer.")]
pub struct EnergyArgs {
    /// Address of the monitoring plane; the same as --source plane=URL.
    #[arg(long, env = "EVERGREEN_PLANE", default_value = "http://127.0.0.1:8080")]
    plane: String,
    /// Where the ledger is: plane=URL, or prometheus=URL for Prometheus, Thanos or VictoriaMetrics.
    #[arg(long, env = "EVERGREEN_SOURCE", value_name = "KIND=URL")]
    source: Option<Source>,
    /// Start of the period: RFC 3339, a date of --time-zone, or how long ago, as in 24h.
    #[arg(long, env = "EVERGREEN_FROM", value_name = "TIME")]
    from: String,
    /// End of the period, not included: RFC 3339, a date of --time-zone, or how long ago.
    #[arg(long, env = "EVERGREEN_TO", value_name = "TIME", default_value = "0s")]
    to: String,
    /// Time zone of days, as in Asia/Shanghai.
    #[arg(long, env = "EVERGREEN_TIME_ZONE", value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// What to report on: fleet, datacenter=NAME[,NAME], namespace=NAME, label=KEY=VALUE.
    #[arg(long, env = "EVERGREEN_SCOPE", default_value = "fleet", conflicts_with = "data_center")]
    scope: ReportScope,
    /// Data centers to report on; the same as --scope datacenter=NAME. May be given more than once.
    #[arg(long, env = "EVERGREEN_DATA_CENTER", value_name = "NAME", value_delimiter = ',')]
    data_center: Vec<String>,
    /// Standards whose figures are wanted.
    #[arg(long, env = "EVERGREEN_STANDARD", value_enum, default_value = "all")]
    standard: Standard,
    /// YAML file with facts: meters, PUE, grid region, certificates, water, functional unit.
    #[arg(long, env = "EVERGREEN_FACTS", value_name = "FILE")]
    facts: Option<PathBuf>,
    /// Kubeconfig of a cluster whose DataCenter resources declare PUE and grid region.
    #[arg(long, env = "EVERGREEN_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Form of the report.
    #[arg(long, env = "EVERGREEN_FORMAT", value_enum, default_value = "md")]
    format: Format,
    /// Language of the report.
    #[arg(long, env = "EVERGREEN_LANG", value_enum, default_value = "en")]
    lang: Lang,
    /// File to write to, instead of standard output.
    #[arg(long, short, env = "EVERGREEN_OUTPUT", value_name = "FILE")]
    output: Option<PathBuf>,
    /// The same as --format json.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

/// Standards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Standard {
    /// GB 40879, GB/T 44989, national criteria.
    Cn,
    /// (EU) 2024/1364.
    Eu,
    /// ISO/IEC 21031.
    Sci,
    /// All of them.
    All,
}

/// Forms of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A page.
    Html,
    /// The page for printing to PDF, A4.
    PdfReady,
    /// A table, one figure a line.
    Csv,
    /// Data; the form that is hashed and signed.
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
        ReportCommand::Energy(args) => block_on(energy(*args)),
    }
}

async fn energy(args: EnergyArgs) -> Outcome {
    let zone = TimeZone::get(&args.time_zone).map_err(|_| {
        Failure::usage(format_args!("`{}` is no known time zone", args.time_zone))
            .remedy("--time-zone Asia/Shanghai, or UTC")
    })?;
    let moment = |flag: &str, text: &str| {
        moment(text, &zone).map_err(|why| {
            Failure::usage(format_args!("{flag}: {why}")).remedy("--from 24h, --from 2026-01-01, or an RFC 3339 time")
        })
    };
    let (from, to) = (moment("--from", &args.from)?, moment("--to", &args.to)?);
    if from >= to {
        return Err(Failure::usage(format_args!("--from {from} is not before --to {to}"))
            .remedy("--from 24h, or two RFC 3339 times in order"));
    }
    let mut facts = match &args.facts {
        Some(file) => read_facts(file)?,
        None => EnergyFacts::default(),
    };
    let scope = if args.data_center.is_empty() { args.scope } else { ReportScope::DataCenters(args.data_center) };
    let mut namespaces = Vec::new();
    if let Some(file) = &args.kubeconfig {
        let declared = declared(file, &scope).await?;
        facts = with_data_centers(facts, &declared.0);
        namespaces = declared.1;
    }
    let source = args.source.unwrap_or(Source::Plane(args.plane));
    let standard = match args.standard {
        Standard::Cn => ReportStandard::Cn,
        Standard::Eu => ReportStandard::Eu,
        Standard::Sci => ReportStandard::Sci,
        Standard::All => ReportStandard::All,
    };
    let wanted = Wanted { from, to, zone: args.time_zone, scope, namespaces, standard, facts };
    let made = make(&source, &wanted).await.map_err(|error| failure(error, &source, &wanted))?;
    let format = if args.json { Format::Json } else { args.format };
    write(&render(&made, format, args.lang), args.output.as_ref())
}

fn failure(error: MakeError, source: &Source, wanted: &Wanted) -> Failure {
    let label = matches!(wanted.scope, ReportScope::Label { .. });
    let (kind, remedy): (fn(String) -> Failure, String) = match &error {
        MakeError::Period(_) => (Failure::usage, "two times in order, in a known time zone".into()),
        MakeError::Source(SourceError::Url(_)) => (Failure::usage, "--source plane=http://HOST:8080".into()),
        MakeError::Source(SourceError::Unreachable { .. }) => {
            (Failure::unreachable, format!("the address of a running {}: --source {0}=URL", source.kind()))
        }
        MakeError::Source(SourceError::Meter { .. }) => (Failure::no, "correct facilityMeter in the facts".into()),
        MakeError::Source(_) => (Failure::no, format!("see the log of the {}; a shorter period", source.kind())),
        MakeError::Report(ReportError::NoData { .. }) if label => {
            (Failure::no, "a label of the energy series, or --kubeconfig for namespaces that carry it".into())
        }
        MakeError::Report(ReportError::NoData { .. }) => {
            (Failure::no, "a period in which agents sent here, as in --from 1h, and a scope that exists".into())
        }
        MakeError::Report(ReportError::Factor(_)) => (Failure::no, "one of the known regions as gridRegion".into()),
        MakeError::Report(_) => (Failure::no, "correct the facts or the DataCenter that declares it".into()),
    };
    kind(format!("{:#}", anyhow::Error::from(error))).remedy(remedy)
}

fn read_facts(file: &PathBuf) -> Outcome<EnergyFacts> {
    let failed = |why: String| {
        Failure::usage(format_args!("{}: {why}", file.display())).remedy("a file as docs/energy-report.md describes it")
    };
    let size = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?.len();
    if size > MOST_FACTS {
        return Err(failed(format!("{size} bytes are too many for facts; at most {MOST_FACTS}")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    evergreen_report::facts(&text).map_err(failed)
}

fn render(made: &Report, format: Format, lang: Lang) -> String {
    let language = match lang {
        Lang::En => Language::English,
        Lang::Zh => Language::Chinese,
    };
    match format {
        Format::Html | Format::PdfReady => render::html(made, language),
        Format::Csv => render::csv(made, language),
        Format::Json => json(made),
        Format::Md => render::markdown(made, language),
    }
}

fn write(text: &str, output: Option<&PathBuf>) -> Outcome {
    let Some(file) = output else {
        // A reader that has seen enough is no failure.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        return Ok(());
    };
    std::fs::write(file, text).map_err(|error| {
        Failure::usage(format_args!("cannot write {}: {error}", file.display()))
            .remedy("-o FILE in a directory that is there")
    })?;
    eprintln!("{} ({} bytes)", file.display(), text.len());
    Ok(())
}

/// What the DataCenter resources of a cluster declare, and the namespaces that carry the scope's label.
async fn declared(file: &PathBuf, scope: &ReportScope) -> Outcome<(Vec<DataCenter>, Vec<String>)> {
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| {
        Failure::usage(format_args!("cannot read {}: {error}", file.display()))
            .remedy("--kubeconfig with a kubeconfig file")
    })?;
    let list = async {
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.connect_timeout = Some(std::time::Duration::from_secs(5));
        config.read_timeout = Some(std::time::Duration::from_secs(10));
        let client = Client::try_from(config)?;
        let data_centers: Api<DataCenter> = Api::all(client.clone());
        let data_centers = data_centers.list(&ListParams::default()).await.context("cannot list data centers")?.items;
        let mut names = Vec::new();
        if let ReportScope::Label { key, value } = scope {
            let namespaces: Api<Namespace> = Api::all(client);
            let labelled = ListParams::default().labels(&format!("{key}={value}"));
            let found = namespaces.list_metadata(&labelled).await.context("cannot list namespaces")?;
            names = found.items.iter().map(ResourceExt::name_any).collect();
            names.sort();
        }
        anyhow::Ok((data_centers, names))
    };
    list.await.map_err(|error| {
        Failure::unreachable(format_args!("{error:#}")).remedy("leave --kubeconfig out, and give --facts instead")
    })
}

/// A moment: RFC 3339, the beginning of a day of the zone, or so long ago.
fn moment(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    if let Ok(ago) = text.parse::<HumanDuration>() {
        return Timestamp::now().checked_sub(ago.get()).map_err(|error| error.to_string());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let date = text.parse::<Date>().ok().filter(|_| text.len() == 10);
    let start = date.and_then(|date| date.to_zoned(zone.clone()).ok()).map(|start| start.timestamp());
    start.ok_or_else(|| {
        format!("`{text}` is no RFC 3339 time, as in 2026-01-01T00:00:00Z, no date, as in 2026-01-01, and not how long ago, as in 24h")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_local_day_or_how_long_ago() {
        let zone = TimeZone::get("Asia/Shanghai").unwrap();
        assert_eq!(moment("2026-01-01T00:00:00Z", &zone).unwrap().to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(moment("2026-01-01", &zone).unwrap().to_string(), "2025-12-31T16:00:00Z");
        assert!(moment("1h", &zone).unwrap() < Timestamp::now());
        for text in ["yesterday", "2026-13-01", "01/02/2026"] {
            assert!(moment(text, &zone).unwrap_err().contains("24h"), "{text}");
        }
    }

    #[test]
    fn facts_with_an_impossible_pue_are_refused_with_file_and_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "sites:\n- {dataCenter: a, pue: {value: 0.8, date: 2026-01-01, by: x}}\n").unwrap();
        let error = read_facts(&file.path().to_owned()).unwrap_err().to_string();
        assert!(error.contains("facts.sites[0].pue.value: 0.8 is no PUE"), "{error}");
        std::fs::write(file.path(), "sites: [{dataCentre: a}]").unwrap();
        assert!(read_facts(&file.path().to_owned()).unwrap_err().to_string().contains("dataCentre"));
    }
}
