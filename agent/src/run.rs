//! Puts the parts together and keeps them running until told to stop.

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use evergreen_telemetry::{LogFormat as TelemetryFormat, SpoolConfig, Telemetry, TelemetryConfig};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    anomaly_rows,
    args::{Args, Command, LogFormat, RulesCommand, RunArgs},
    clock::{Moment, boot_ms},
    conditions::ConditionBook,
    detect,
    energy::{Meter, Now},
    export::{self, http::Served},
    grants::{GrantBook, pull},
    health::{Health, HealthConfig},
    heartbeat::{self, HeartbeatConfig},
    host::{self, Root},
    kernel::rules::BUILT_IN,
    mesh::{self, Mesh},
    npd, predict,
    probes::{self, ProbeArgs, Probes, thresholds},
    publish::{Publisher, cluster, pods},
    rules::{self, Rulebook, RulebookError},
    shared::Shared,
    signal::Signal,
    sources::Collector,
    store::Store,
    table, watch,
};

/// Where state is kept unless told otherwise.
const STATE_DIR: &str = "/var/lib/evergreen-agent";
/// Signals of detectors that wait for the health actor; behind that the reader merges them.
const SIGNALS: usize = 256;
/// Conditions of an earlier agent that wait to be taken up.
const ADOPTED: usize = 64;
/// Leave for tasks to end by themselves when the agent stops.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How the agent ended.
enum Failure {
    /// What was asked for makes no sense.
    Use(anyhow::Error),
    /// Something could not be reached or opened.
    Reach(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Use(error)
    }
}

/// Does what the command line says.
pub fn main(args: Args) -> ExitCode {
    let outcome = match args.command {
        Some(Command::Detect { format, rules }) => detect_command(format, &rules),
        Some(Command::Estimate) => estimate_command(),
        Some(Command::Anomaly) => anomaly_command(),
        Some(Command::Rules { command: RulesCommand::Check { file } }) => check_rules(&file),
        Some(Command::Rules { command: RulesCommand::Print { predictions: true, .. } }) => {
            print(predict::rules::BUILT_IN)
        }
        Some(Command::Rules { command: RulesCommand::Print { thresholds: false, .. } }) => print(BUILT_IN),
        Some(Command::Rules { command: RulesCommand::Print { thresholds: true, .. } }) => print(thresholds::BUILT_IN),
        None if args.run.once => once(&args.run),
        None => run(args.run),
    };
    match outcome {
        Ok(code) => code,
        Err(Failure::Use(error)) => fail(&error, 2),
        Err(Failure::Reach(error)) => fail(&error, 3),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("evergreen-agent: {error:#}");
    ExitCode::from(code)
}

fn print(text: &str) -> Result<ExitCode, Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever read this had enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        other => other.map(|()| ExitCode::SUCCESS).context("standard output cannot be written").map_err(Failure::Reach),
    }
}

fn estimate_command() -> Result<ExitCode, Failure> {
    match crate::energy::estimator::lines::answer_all(std::io::stdin().lock(), &mut std::io::stdout().lock()) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::from(2)),
        // Whoever read this had enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::Reach(anyhow::Error::new(error).context("the questions could not be answered"))),
    }
}

fn detect_command(format: crate::kernel::Format, rules: &[PathBuf]) -> Result<ExitCode, Failure> {
    let rules = load_rules(rules)?;
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    detect::run_with(std::io::stdin(), &mut output, format, &rules).map_err(Failure::Reach)?;
    Ok(ExitCode::SUCCESS)
}

fn anomaly_command() -> Result<ExitCode, Failure> {
    let told = anomaly_rows::run(std::io::stdin().lock(), &mut std::io::stdout().lock()).map_err(Failure::Reach)?;
    if told.unreadable > 0 {
        eprintln!("evergreen-agent: {} of {} rows had no readable value and scored 0", told.unreadable, told.rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn check_rules(file: &Path) -> Result<ExitCode, Failure> {
    match rules::check_file(file) {
        Ok(line) => print(&line),
        Err(RulebookError::Wrong { errors, .. }) => {
            for error in errors {
                eprintln!("{}:{error}", file.display());
            }
            Ok(ExitCode::from(1))
        }
        Err(error) => Err(Failure::Reach(error.into())),
    }
}

fn load_rules(files: &[PathBuf]) -> Result<Rulebook, Failure> {
    Rulebook::load(files).map_err(|error| Failure::Use(error.into()))
}

/// Settings of the health sources, with the library that they share with the energy sources.
fn probe_args(args: &RunArgs) -> ProbeArgs {
    ProbeArgs { nvml_library: args.energy.nvml_library.clone(), ..args.probes.clone() }
}

/// One sample: two readings an interval apart, because rates need two.
fn once(args: &RunArgs) -> Result<ExitCode, Failure> {
    let root = Root::new(&args.root);
    let node = args.node_name.clone().unwrap_or_else(host::host_name);
    let mut collector = Collector::new(root.clone());
    let interval = args.sample_interval.get().clamp(Duration::from_millis(100), Duration::from_secs(60));
    let mut meter = Meter::new(root, &Store::none(), args.energy.clone(), Now::read(), &mut collector.sources);
    collector.read_fast(interval);
    meter.sample(Now::read(), collector.cpu_times(), &mut collector.sources);
    std::thread::sleep(interval);
    collector.read_fast(interval);
    collector.read_slow();
    meter.sample(Now::read(), collector.cpu_times(), &mut collector.sources);
    let shared = Shared::new(node.clone(), String::new(), GrantBook::default(), false);
    let mut asked = Probes::new(Root::new(&args.root), probe_args(args));
    let pass = asked.ask_once(collector.sample(), &load_rules(&args.rules)?);
    let pass = pass.context("the health sources cannot be asked").map_err(Failure::Reach)?;
    pass.sources.into_iter().for_each(|status| shared.note_status(status));
    let mut book = ConditionBook::new(String::new());
    for signal in pass.signals {
        if let Signal::Seen(sighting) = signal {
            book.observe(sighting, &Moment::now());
        }
    }
    shared.set_problems(&book);
    shared.set_sample(collector.sample().clone(), collector.sources.statuses(), meter.view().clone());
    let text = shared.with(|view| {
        if !args.json {
            return table::draw(&node, view, None);
        }
        let accounts: Vec<_> = view
            .energy
            .ledger
            .accounts()
            .iter()
            .map(|(origin, account)| {
                json!({
                    "provenance": origin.provenance,
                    "source": origin.source,
                    "node_microjoules": account.node_microjoules,
                    "pods_microjoules": account.pods_microjoules(),
                    "system_microjoules": account.system_microjoules,
                    "idle_microjoules": account.idle_microjoules,
                })
            })
            .collect();
        // The kernel log is a stream; one sample has none of it.
        let sources: Vec<_> = view.sources.iter().filter(|source| source.name != "kmsg").collect();
        let energy = json!({
            "watts": view.energy.watts, "idle_watts": view.energy.idle_watts, "reason": view.energy.reason, "accounts": accounts,
            "parts": view.energy.ledger.parts(), "conflicts": view.energy.conflicts,
        });
        let sample = json!({
            "node": node, "at": jiff::Timestamp::now(), "sample": view.sample, "sources": sources, "energy": energy,
            "series": pass.readings.all, "problems": view.problems,
        });
        format!("{sample:#}\n")
    });
    print(&text)
}

fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    // Two workers: the agent waits most of the time, and each thread costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("the runtime cannot be started")
        .map_err(Failure::Reach)?;
    let outcome = runtime.block_on(serve(args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(args: RunArgs) -> Result<ExitCode, Failure> {
    let rules = Arc::new(load_rules(&args.rules)?);
    let node = args.node_name.clone().unwrap_or_else(host::host_name);
    let client = if args.standalone { None } else { cluster::connect(args.kubeconfig.as_deref()).await? };
    let site = match (&args.site, &client) {
        (Some(site), _) => site.clone(),
        (None, Some(client)) => cluster::site_of(client, &node).await.unwrap_or_else(|| "local".into()),
        (None, None) => "local".into(),
    };
    let mut telemetry = Telemetry::start(&TelemetryConfig {
        service: "evergreen-agent",
        version: env!("CARGO_PKG_VERSION"),
        site: site.clone(),
        node: Some(node.clone()),
        metric_interval: args.otlp_interval.get(),
        log_format: match args.log_format {
            LogFormat::Text => TelemetryFormat::Text,
            LogFormat::Json => TelemetryFormat::Json,
        },
        spool: SpoolConfig { folder: state_dir(&args).map(|state| state.join("otlp")), most_bytes: args.spool_size },
    })
    .map_err(|error| Failure::Use(error.into()))?;
    let store = open_store(&args)?;
    let root = Root::new(&args.root);
    let grants = GrantBook::new(args.site_public_key.as_deref()).context("--site-public-key")?;
    let listener = export::http::bind(args.listen).await.map_err(Failure::Reach)?;
    let address = listener.local_addr().unwrap_or(args.listen);
    let shared = Arc::new(Shared::new(node.clone(), site.clone(), grants, client.is_some()));
    tracing::info!(node, site, %address, root = %args.root.display(), cluster = client.is_some(), "agent started");

    export::metrics::register(&telemetry.meter(), &shared);
    predict::metrics::register(&telemetry.meter(), &shared);
    let mesh = Mesh::new(&site);
    mesh::metrics::register(&telemetry.meter(), &mesh);
    if let Some(meter) = telemetry.meter_every(args.pod_interval.get()).map_err(|error| Failure::Use(error.into()))? {
        export::pods::register(&meter, &shared);
    }
    let telemetry = Arc::new(telemetry);
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();

    let (signals, incoming) = mpsc::channel(SIGNALS);
    let (adopted, found) = mpsc::channel(ADOPTED);
    let kept = Health::kept_position(&store);
    let reachable =
        heartbeat::heartbeat_address(args.heartbeat_address.as_ref(), client.as_ref(), &node, address).await;
    let beaten = root.clone();
    let config = HealthConfig {
        node: node.clone(),
        site: site.clone(),
        clear_after_at_most: args.clear_after_at_most.map(evergreen_api::HumanDuration::get),
    };
    let incidents = telemetry.incidents();
    let (health, desired) =
        Health::new(config, root.clone(), store.clone(), Arc::clone(&rules), incidents.clone(), Arc::clone(&shared));
    let (book, books) = tokio::sync::watch::channel(rules);
    let reader = watch::start(&root, books.clone(), kept, Arc::clone(&shared), signals.clone(), cancel.clone())
        .context("the kernel log reader cannot be started")
        .map_err(Failure::Reach)?;
    let files = npd::files::start(root.clone(), books.clone(), Arc::clone(&shared), signals.clone(), cancel.clone())
        .context("the reader of log files cannot be started")
        .map_err(Failure::Reach)?;
    let asked = Probes::new(root.clone(), probe_args(&args));
    let every = args.health_interval.get();
    tasks.spawn(probes::run(asked, every, books.clone(), Arc::clone(&shared), signals.clone(), cancel.clone()));
    let (state, boot_id) = (store.clone(), root.boot_id());
    let foreseen = books.clone();
    let (seen, told) = (Arc::clone(&shared), signals.clone());
    tasks.spawn(predict::task::run(every, state, boot_id, foreseen, seen, told, cancel.clone()));
    tasks.spawn(npd::checks::run(books, Arc::clone(&shared), signals.clone(), cancel.clone()));
    let to_health = signals.clone();
    tasks.spawn(rules::follow(args.rules.clone(), every, book, signals, Arc::clone(&shared), cancel.clone()));
    tasks.spawn(health.run(incoming, found, cancel.clone()));
    tasks.spawn(collect(args.clone(), root, store, Arc::clone(&shared), cancel.clone()));
    if let Some(client) = client {
        let names = Arc::clone(&shared.pod_names);
        tasks.spawn(pods::follow(client.clone(), node.clone(), names, cancel.clone()));
        let publisher = Publisher::new(client, node.clone(), site, incidents, Arc::clone(&shared.published), adopted);
        tasks.spawn(publisher.run(desired, cancel.clone()));
    }
    if let Some(endpoint) = args.site_endpoint.clone() {
        let config = pull::SiteConfig {
            endpoint,
            ca: args.site_ca.clone(),
            certificate: args.site_cert.clone(),
            key: args.site_key.clone(),
            token: args.site_token_file.clone(),
            node: node.clone(),
        };
        let probed = mesh::MeshConfig { site: config.clone(), listen: address };
        let beats = HeartbeatConfig {
            site: config.clone(),
            address: reachable,
            root: beaten,
            mesh: mesh.clone(),
            wall: shared.wall.clone(),
        };
        tasks.spawn(mesh::run(probed, mesh, Arc::clone(&shared), to_health, cancel.clone()));
        tasks.spawn(heartbeat::run(beats, cancel.clone()));
        tasks.spawn(pull::run(config, Arc::clone(&shared.grants), cancel.clone()));
    }
    let text = Arc::clone(&telemetry);
    let served = Served {
        shared: Arc::clone(&shared),
        metrics: Arc::new(move || text.prometheus_text()),
        sample_interval: args.sample_interval.get(),
    };
    tasks.spawn(export::http::serve(listener, served, cancel.clone()));
    if args.standalone {
        tasks.spawn(show(shared, address, args.json, args.sample_interval.get(), cancel.clone()));
    }

    stop_signal().await;
    tracing::info!("stopping");
    cancel.cancel();
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
        tracing::warn!("some tasks did not end in time");
        tasks.abort_all();
    }
    // The readers look at the token ten times a second.
    let _ = tokio::task::spawn_blocking(move || (reader.join(), files.join())).await;
    if let Ok(telemetry) = Arc::try_unwrap(telemetry) {
        telemetry.shutdown().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where things are kept that outlive a restart; nowhere for an agent of its own that was given no place.
fn state_dir(args: &RunArgs) -> Option<PathBuf> {
    args.state_dir.clone().or_else(|| (!args.standalone).then(|| PathBuf::from(STATE_DIR)))
}

fn open_store(args: &RunArgs) -> Result<Store, Failure> {
    let Some(directory) = state_dir(args) else { return Ok(Store::none()) };
    Store::open(&directory)
        .with_context(|| {
            format!("state cannot be kept in {}; give another place with --state-dir", directory.display())
        })
        .map_err(Failure::Reach)
}

/// Samples sources and energy until cancelled. Files are read off the runtime's own threads.
async fn collect(args: RunArgs, root: Root, store: Store, shared: Arc<Shared>, cancel: CancellationToken) {
    let interval = args.sample_interval.get().max(Duration::from_millis(100));
    let health_every = args.health_interval.get().max(interval);
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut collector = Collector::new(root.clone());
    let mut meter = Meter::new(root, &store, args.energy.clone(), Now::read(), &mut collector.sources)
        .with_wall(shared.wall.clone());
    let mut last: Option<u64> = None;
    let mut slow: Option<u64> = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = tick.tick() => {}
        }
        let now = boot_ms();
        let elapsed = Duration::from_millis(last.map_or(0, |last| now.saturating_sub(last)));
        last = Some(now);
        let look = slow.is_none_or(|slow| u128::from(now.saturating_sub(slow)) >= health_every.as_millis());
        if look {
            slow = Some(now);
        }
        let view = Arc::clone(&shared);
        let work = tokio::task::spawn_blocking(move || {
            collector.read_fast(elapsed);
            if look {
                collector.read_slow();
            }
            meter.sample(Now::read(), collector.cpu_times(), &mut collector.sources);
            view.set_sample(collector.sample().clone(), collector.sources.statuses(), meter.view().clone());
            (collector, meter)
        });
        match work.await {
            Ok(back) => (collector, meter) = back,
            Err(error) => {
                tracing::error!(%error, "sampling ended");
                return;
            }
        }
    }
    meter.flush(Now::read());
}

/// Shows the live table until cancelled.
async fn show(shared: Arc<Shared>, address: SocketAddr, as_json: bool, every: Duration, cancel: CancellationToken) {
    let mut tick = tokio::time::interval(every.max(Duration::from_millis(200)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let terminal = std::io::stdout().is_terminal();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        let text = shared.with(|view| match (view.sampled_ms, as_json) {
            (0, _) => String::new(),
            (_, true) => format!(
                "{}\n",
                json!({"node": shared.node, "verdict": view.verdict, "sample": view.sample, "watts": view.energy.watts, "problems": view.problems})
            ),
            // Home and clear below instead of clearing all: no flicker.
            (_, false) if terminal => format!("\x1b[H\x1b[J{}", table::draw(&shared.node, view, Some(&address.to_string()))),
            _ => table::draw(&shared.node, view, Some(&address.to_string())),
        });
        let mut output = std::io::stdout().lock();
        if output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}

async fn stop_signal() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be listened to");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
