//! `evergreen demo`: the whole product on simulated data centers, in three stories.
//!
//! All programs are the real ones, each a process of its own; only the data centers around them are simulated. Nothing
//! needs root, a container or a network beyond loopback.

mod balancer;
mod budget_watch;
mod certs;
mod fleet;
pub mod install;
mod kernel_report;
mod manifests;
mod messages;
mod ports;
mod processes;
mod report;
mod result;
mod stage;
mod stories;
mod summary;
mod timeline;
mod traffic;
mod void;
mod wait;
mod world;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use self::certs::write as secret_file;
pub use self::processes::find_program;
use self::{
    messages::{Lang, Text},
    processes::{Death, Supervisor},
    result::{DemoResult, StoryResult},
    stage::Stage,
    stories::energy::RunEnergy,
    timeline::{Chapter, Mark, Timeline},
};
use crate::{
    commands::{asked_to_end, block_on},
    exit::{Failure, Outcome},
    plane::incident_page,
};

/// How long clients are watched before anything is broken.
const CALM: Duration = Duration::from_secs(3);

/// Run the whole product on simulated data centers.
#[derive(Debug, Args)]
#[command(
    long_about = "Run the whole product on simulated data centers: three API servers with nodes and pods in this \
        process; a real agent for each node (and one for this machine), a real controller for each data center and the \
        real monitoring plane, each a process of its own. A node's kernel breaks and is healed; a data center is lost \
        and another takes over, while clients go on; the energy of it all is reported.",
    after_help = "Examples:\n  \
        evergreen demo                        at most 90 s; the report is target/demo/report.html\n  \
        evergreen demo --keep                 everything stays up, the page too, until Ctrl-C\n  \
        evergreen demo --json | jq .stories   the timeline goes to standard error\n  \
        LANG=zh_CN.UTF-8 evergreen demo       中文\n\n\
        Exit codes: 0 every story ended well, 1 one did not, 2 wrong use, 3 a program of the product is missing."
)]
pub struct DemoArgs {
    /// Leave everything up at the end, until Ctrl-C.
    #[arg(long, env = "EVERGREEN_KEEP")]
    keep: bool,
    /// Folder for logs, state and the report; what an earlier demo left there is removed.
    #[arg(long, env = "EVERGREEN_OUT", default_value = "target/demo")]
    out: PathBuf,
    /// First of a row of ports to use; without it a free row is looked for.
    #[arg(long, env = "EVERGREEN_PORT_BASE", value_name = "N")]
    port_base: Option<u16>,
    /// Print the summary as JSON on standard output, the timeline on standard error.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

pub fn run(args: DemoArgs) -> Outcome {
    block_on(demo(args))
}

async fn demo(args: DemoArgs) -> Outcome {
    let out = prepare(&args.out)?;
    let timeline = Arc::new(Timeline::begin(Lang::from_env(), args.json));
    timeline.print(&timeline.paint("1", messages::title().get(timeline.lang)));
    timeline.print(messages::override_summary().get(timeline.lang));
    for line in manifests::overrides() {
        timeline.print(&format!("  - {}", line.get(timeline.lang)));
    }
    let (supervisor, deaths) = Supervisor::new(&out.join("logs"))?;
    let stage = Stage::build(&out, args.port_base, Arc::clone(&timeline), supervisor).await?;
    let watching = CancellationToken::new();
    let watchers = tokio::spawn(watch(Arc::clone(&timeline), deaths, watching.clone()));

    let progress = Mutex::new(Progress::default());
    tokio::select! {
        () = play(&stage, &progress) => {}
        () = show_clients(&stage) => {}
        () = asked_to_end() => {
            timeline.say(Chapter::End, Mark::Bad, messages::interrupted());
            progress.lock().failures.push(messages::interrupted());
        }
    }
    let interrupted = progress.lock().failures.contains(&messages::interrupted());
    let progress = progress.into_inner();
    let energy_files = progress.energy.files.clone();
    let result = conclude(&stage, progress, args.keep && !interrupted);
    let report = write_reports(&out, &stage, &result, &energy_files)?;
    tell(&timeline, &result, &out, &report, args.json)?;
    if result.kept {
        timeline.print(&format!("\n{}", messages::kept_up(&result.page).get(timeline.lang)));
        timeline.waiting(Some(messages::kept_up(&result.page)));
        tokio::select! {
            () = asked_to_end() => {}
            () = show_clients(&stage) => {}
        }
    }
    watching.cancel();
    stage.clear().await;
    let _ = watchers.await;
    timeline.end();
    if result.ok() {
        Ok(())
    } else if interrupted {
        Err(Failure::no(messages::interrupted_end().get(timeline.lang)))
    } else {
        let logs = out.join("logs").display().to_string();
        Err(Failure::no(messages::failed().get(timeline.lang)).remedy(messages::look_into(&logs).get(timeline.lang)))
    }
}

/// What was played so far; an interruption leaves it as it is.
#[derive(Debug, Default)]
struct Progress {
    stories: Vec<StoryResult>,
    energy: RunEnergy,
    failures: Vec<Text>,
}

/// Raises the stage and plays the stories; one that fails does not keep the next from being played.
async fn play(stage: &Stage, progress: &Mutex<Progress>) {
    let raised = tokio::select! {
        raised = stage.raise() => raised,
        // Later a death may be survived, and is then reported at the end; a stage that never stood is no stage.
        () = stage.supervisor.first_death() => Err(messages::not_raised()),
    };
    if let Err(failure) = raised {
        stage.timeline.say(Chapter::Prepare, Mark::Bad, failure.clone());
        progress.lock().failures.push(failure);
        return;
    }
    // So that the chart shows what normal looks like.
    tokio::time::sleep(CALM).await;
    let kernel = stories::kernel::play(stage).await;
    progress.lock().stories.push(kernel);
    let site_loss = stories::site_loss::play(stage).await;
    progress.lock().stories.push(site_loss);
    let (story, energy) = stories::energy::play(stage).await;
    let mut progress = progress.lock();
    progress.stories.push(story);
    progress.energy = energy;
}

/// Keeps the progress line up to date; never ends.
async fn show_clients(stage: &Stage) {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        ticks.tick().await;
        stage.timeline.clients(stage.clients_now());
    }
}

/// Tells of children that died.
async fn watch(timeline: Arc<Timeline>, mut deaths: tokio::sync::mpsc::Receiver<Death>, end: CancellationToken) {
    while let Some(Some(death)) = end.run_until_cancelled(deaths.recv()).await {
        let log = death.log.display().to_string();
        timeline.interject(Mark::Bad, messages::died(&death.name, &death.status, &log));
        for line in &death.tail {
            timeline.print(&format!("            | {line}"));
        }
    }
}

fn conclude(stage: &Stage, progress: Progress, keep: bool) -> DemoResult {
    let Progress { stories, energy, mut failures } = progress;
    let dead: Vec<String> = stage.supervisor.deaths().into_iter().map(|death| death.name).collect();
    if !dead.is_empty() {
        failures.push(messages::dead(&dead.join(", ")));
    }
    DemoResult {
        began: stage.timeline.began,
        took: stage.timeline.elapsed(),
        stories,
        energy: energy.sites,
        energy_over: energy.over,
        failures,
        overrides: manifests::overrides(),
        page: stage.plane.url().to_owned(),
        kept: keep,
    }
}

/// A fresh folder: what an earlier demo left is removed, what is not a demo's is not touched.
fn prepare(out: &Path) -> Outcome<PathBuf> {
    const MARKER: &str = ".evergreen-demo";
    let cannot = |error: std::io::Error| {
        Failure::usage(format_args!("cannot use {}: {error}", out.display()))
            .remedy("--out with a folder you may write to")
    };
    if out.exists() {
        let is_ours = out.join(MARKER).exists();
        let is_empty = fs::read_dir(out).map_err(cannot)?.next().is_none();
        if !is_ours && !is_empty {
            return Err(Failure::usage(format_args!("{} is not empty and was not made by a demo", out.display()))
                .remedy("--out with a folder that is new or empty"));
        }
        processes::end_leftovers(&out.canonicalize().map_err(cannot)?.join("logs"));
        fs::remove_dir_all(out).map_err(cannot)?;
    }
    fs::create_dir_all(out).and_then(|()| fs::write(out.join(MARKER), "")).map_err(cannot)?;
    // Children are started with paths below it, whatever their working directory.
    out.canonicalize().map_err(cannot)
}

/// Writes the reports; returns the path of the page.
fn write_reports(
    out: &Path,
    stage: &Stage,
    result: &DemoResult,
    energy: &BTreeMap<String, String>,
) -> anyhow::Result<PathBuf> {
    let material = report::Material {
        result: result.clone(),
        entries: stage.timeline.entries(),
        seconds: stage.traffic.per_second(),
        sites: stage.traffic.sites().to_vec(),
        clients: stage.traffic.total(),
        p99_ms: stage.traffic.p99().map(|took| took.as_secs_f64() * 1000.0),
        reasons: stage.traffic.reasons(),
    };
    let write = |name: &str, text: String| {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display())).map(|()| path)
    };
    for (name, text) in energy {
        // As the controller keeps them: report.json, report.html, report.zh-CN.html, report.md.
        write(&format!("energy-{name}"), text.clone())?;
    }
    let page = write("report.html", report::to_html(&material, stage.timeline.lang))?;
    write("report.json", format!("{:#}\n", report::to_json(&material)))?;
    write("summary.json", format!("{:#}\n", summary::to_json(result, &page)))?;
    stage.traffic.write(&out.join("requests.jsonl"))?;
    Ok(page)
}

/// The end, on the terminal or as JSON.
fn tell(timeline: &Timeline, result: &DemoResult, out: &Path, report: &Path, json: bool) -> Outcome {
    if result.ok() {
        timeline.say(Chapter::End, Mark::Good, messages::all_well(result.took));
    } else {
        for failure in result.all_failures().into_iter().filter(|failure| *failure != messages::interrupted()) {
            timeline.say(Chapter::End, Mark::Bad, failure);
        }
    }
    timeline.waiting(None);
    timeline.print(&format!("\n{}", summary::to_text(result, timeline.lang)));
    for (label, place) in [
        (messages::word::report(), report.display().to_string()),
        (
            messages::word::page(),
            if result.kept { result.page.clone() } else { messages::page_with_keep().get(timeline.lang).to_owned() },
        ),
        (messages::word::logs(), out.join("logs").display().to_string()),
    ] {
        timeline.print(&format!("{}: {place}", label.get(timeline.lang)));
    }
    for trace in result.stories.iter().filter_map(|story| story.trace_id.as_ref()).filter(|_| result.kept) {
        timeline.print(&format!(
            "{}: {}",
            messages::word::traces().get(timeline.lang),
            incident_page(&result.page, trace)
        ));
    }
    if json {
        println!("{:#}", summary::to_json(result, report));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_an_earlier_demo_is_emptied_and_a_strangers_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("demo");
        fs::write(prepare(&out).unwrap().join("old"), "x").unwrap();
        assert!(!prepare(&out).unwrap().join("old").exists());

        let foreign = folder.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("precious"), "x").unwrap();
        assert_eq!(prepare(&foreign).unwrap_err().code(), 2);
        assert!(foreign.join("precious").exists());
    }
}
