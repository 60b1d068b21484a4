//! Flags of `evergreen rehearse`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use evergreen_rehearse::{Lang, loss::Ask};
use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};

use crate::exit::{Failure, Outcome};

/// Nothing is moved further than this before a loss.
const MOST_DELAY: SignedDuration = SignedDuration::from_hours(7 * 24);

const HELP: &str = "\
Examples:
  evergreen rehearse --demo --every-failure                     try it without a cluster
  evergreen rehearse --demo --lose site=beijing-a
  evergreen rehearse --from-kubeconfig a.yaml --from-kubeconfig b.yaml --lose site
  evergreen rehearse --from-kubeconfig a.yaml --lose node=web-3 --lose zone=dc-a/z1
  evergreen rehearse --from-kubeconfig a.yaml --from-kubeconfig b.yaml --save-snapshot fleet.gz
  evergreen rehearse --from-snapshot fleet.gz --every-failure --format html --lang zh --out n-1.html
  evergreen rehearse --from-snapshot fleet.gz --lose service=shop/checkout@dc-a --at 03:00

Real clusters are only read (get and list; Secrets never, environment variables of pods are dropped).
What is read, what is assumed and how sure the answer is stands in every report: docs/rehearsal.md.
Exit code 0: every service survives or is degraded; 1: a service would be lost; 2: wrong use; 3: a cluster does not answer.";

/// Rehearse losses on a copy of the fleet: what moves, what does not fit, how long it takes.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct RehearseArgs {
    /// Kubeconfig of a data center, read-only; once for each.
    #[arg(long, env = "EVERGREEN_FROM_KUBECONFIG", value_name = "FILE", value_delimiter = ',', conflicts_with_all = ["from_snapshot", "demo"])]
    pub from_kubeconfig: Vec<PathBuf>,
    /// A snapshot that --save-snapshot wrote, on this machine or another.
    #[arg(long, env = "EVERGREEN_FROM_SNAPSHOT", value_name = "FILE", conflicts_with = "demo")]
    pub from_snapshot: Option<PathBuf>,
    /// Three simulated data centers of a bank, for trying it out.
    #[arg(long, env = "EVERGREEN_DEMO")]
    pub demo: bool,
    /// Keep what was read: gzip around JSON, without Secrets, environment variables and foreign annotations.
    #[arg(long, env = "EVERGREEN_SAVE_SNAPSHOT", value_name = "FILE")]
    pub save_snapshot: Option<PathBuf>,
    /// What is lost: site, zone, node or service, each alone (every one of them) or with a name, as in node=web-3,
    /// zone=dc-a/z1, service=shop/checkout@dc-a. May be given several times; each loss is tried by itself.
    #[arg(long, env = "EVERGREEN_LOSE", value_name = "WHAT[=NAME]", value_delimiter = ',')]
    pub lose: Vec<Ask>,
    /// Try every single loss of a site, a zone, a node and a service: the N-1 table.
    #[arg(long, env = "EVERGREEN_EVERY_FAILURE")]
    pub every_failure: bool,
    /// When it is lost: a time of day in UTC (03:00), a time after the snapshot (+90s, +2h), or a moment (RFC 3339).
    #[arg(long, env = "EVERGREEN_AT", value_name = "TIME")]
    pub at: Option<String>,
    /// Form of the report. Default: json for --out *.json, html for --out *.html, else text.
    #[arg(long, env = "EVERGREEN_FORMAT", value_enum)]
    pub format: Option<Format>,
    /// The same as --format json.
    #[arg(long, env = "EVERGREEN_JSON", conflicts_with = "format")]
    pub json: bool,
    /// Language of text and HTML; JSON has both.
    #[arg(long, env = "EVERGREEN_LANG", value_enum, default_value_t = Tongue::En)]
    pub lang: Tongue,
    /// Write the report here, as a whole or not at all.
    #[arg(long, env = "EVERGREEN_OUT", value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Losses that are tried at a time. Default: one for each processor.
    #[arg(long, env = "EVERGREEN_PARALLEL", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: Option<u16>,
}

/// Form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for the terminal.
    Text,
    /// One self-contained page.
    Html,
    /// For programs.
    Json,
}

/// Language of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tongue {
    /// English.
    En,
    /// 简体中文.
    Zh,
}

impl From<Tongue> for Lang {
    fn from(tongue: Tongue) -> Self {
        match tongue {
            Tongue::En => Self::En,
            Tongue::Zh => Self::Zh,
        }
    }
}

impl RehearseArgs {
    /// The form that is meant.
    pub fn format(&self) -> Format {
        let ending = self.out.as_ref().and_then(|path| path.extension()).and_then(|ending| ending.to_str());
        match (self.format, self.json, ending) {
            (Some(format), ..) => format,
            (None, true, _) | (None, false, Some("json")) => Format::Json,
            (None, false, Some("html")) => Format::Html,
            _ => Format::Text,
        }
    }

    /// Losses at a time.
    pub fn parallel(&self) -> usize {
        let here = std::thread::available_parallelism().map_or(1, usize::from);
        self.parallel.map_or(here, usize::from)
    }

    /// Time between the snapshot and the loss.
    ///
    /// # Errors
    /// `--at` is no time, before the snapshot, or more than a week after it.
    pub fn delay(&self, taken_at: Timestamp) -> Outcome<Duration> {
        let Some(text) = &self.at else { return Ok(Duration::ZERO) };
        delay(text, taken_at).map_err(|why| {
            Failure::usage(format_args!("--at {text}: {why}")).remedy("03:00 (UTC), +90s, +2h, or 2026-01-01T03:00:00Z")
        })
    }
}

fn delay(text: &str, taken_at: Timestamp) -> Result<Duration, String> {
    let ahead = if let Some(more) = text.strip_prefix('+') {
        more.parse::<SignedDuration>().map_err(|_| "it is no duration".to_owned())?
    } else if let Ok(time) = text.parse::<civil::Time>() {
        let now = taken_at.to_zoned(TimeZone::UTC);
        let today = now.date().to_datetime(time).to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
        let ahead = today.timestamp().duration_since(taken_at);
        if ahead.is_negative() { ahead + SignedDuration::from_hours(24) } else { ahead }
    } else {
        let moment = text.parse::<Timestamp>().map_err(|_| "it is no time".to_owned())?;
        moment.duration_since(taken_at)
    };
    if ahead.is_negative() {
        return Err(format!("it is before the snapshot ({taken_at})"));
    }
    if ahead > MOST_DELAY {
        return Err(format!("it is more than a week after the snapshot ({taken_at})"));
    }
    Duration::try_from(ahead).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_the_next_one_and_the_past_and_the_far_future_are_refused() {
        let taken_at: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let hours = |hours: u64| Ok(Duration::from_secs(hours * 3600));
        assert_eq!(delay("03:00", taken_at), hours(15));
        assert_eq!(delay("13:00", taken_at), hours(1));
        assert_eq!(delay("+2h", taken_at), hours(2));
        assert_eq!(delay("2026-01-01T18:00:00Z", taken_at), hours(6));
        assert!(delay("2025-12-31T00:00:00Z", taken_at).unwrap_err().contains("before"));
        assert!(delay("2026-03-01T00:00:00Z", taken_at).unwrap_err().contains("week"));
        assert!(delay("noon", taken_at).unwrap_err().contains("no time"));
    }
}
