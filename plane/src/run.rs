//! From settings to a running plane and back: opens the store, binds the ports, serves, and stops in order.

use std::{future::IntoFuture, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    api::{self, DayEnergy},
    args::{Args, BackupArgs, CheckArgs, LogFormat, PlaneCommand, Settings},
    clock::now_ms,
    ingest::{
        self, Intake,
        door::{DoorError, Secured, Tokens},
    },
    security::gate::{Gate, initial_tokens_path},
    stats::Stats,
    store::{OpenError, Store, inspect},
};

/// Time between two upkeeps of the store.
const UPKEEP: Duration = Duration::from_secs(30);
/// Longest that a stop waits for requests in flight.
const GRACE: Duration = Duration::from_secs(10);

/// Why the plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Certificates or tokens.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// The access file or the log of people's acts.
    #[error("{0}")]
    Access(String),
    /// A port.
    #[error("{flag} {address}: {source}; is another process using the port?")]
    Listen {
        /// The flag that names it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A running plane.
pub struct Plane {
    /// Where OTLP over gRPC is taken.
    pub grpc: SocketAddr,
    /// Where OTLP over HTTP is taken.
    pub http: SocketAddr,
    /// Where the page and the API are.
    pub web: SocketAddr,
    /// Its own counters.
    pub stats: Arc<Stats>,
    store: Store,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Plane {
    /// Opens the store and the ports and serves in the background.
    ///
    /// # Errors
    /// [`StartError`], each with its remedy.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let stats = Arc::new(Stats::default());
        let store = Store::open(&settings.data_dir, settings.retention, stats.clone())?;
        let gate = Gate::open(&settings.data_dir, settings.access.as_deref()).map_err(StartError::Access)?;
        if settings.access.is_none() && !settings.web_listen.ip().is_loopback() {
            tracing::warn!(
                "no --access file: whoever reaches {} may look; tokens for those who act are in {}",
                settings.web_listen,
                initial_tokens_path(&settings.data_dir).display()
            );
        }
        let (grpc_listener, grpc) = listen("--grpc-listen", settings.grpc_listen).await?;
        let (http_listener, http) = listen("--http-listen", settings.http_listen).await?;
        let (web_listener, web) = listen("--web-listen", settings.web_listen).await?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let tokens = settings.otlp_tokens.clone().map(Tokens::new).transpose()?.map(Arc::new);
        let intake = Intake::new(store.handle.clone(), stats.clone()).with_tokens(tokens);
        let router = ingest::http::router(intake.clone());
        let stopped = stop.clone().cancelled_owned();
        if let Some(tls) = &settings.otlp_tls {
            let grpc_door = Secured::new(grpc_listener, grpc, tls.clone())?;
            let http_door = Secured::new(http_listener, http, tls.clone())?;
            let served = ingest::grpc::serve(grpc_door.incoming(), intake, stop.clone());
            tasks.spawn(report("OTLP over gRPC", served));
            let served = axum::serve(http_door, router).with_graceful_shutdown(stopped);
            tasks.spawn(report("OTLP over HTTP", served.into_future()));
        } else {
            let served = ingest::grpc::serve(TcpListenerStream::new(grpc_listener), intake, stop.clone());
            tasks.spawn(report("OTLP over gRPC", served));
            let served = axum::serve(http_listener, router).with_graceful_shutdown(stopped);
            tasks.spawn(report("OTLP over HTTP", served.into_future()));
        }
        let shared = api::Shared {
            reader: store.reader.clone(),
            live: store.live.clone(),
            store: store.handle.clone(),
            stats: stats.clone(),
            day: Arc::new(DayEnergy::default()),
            energy_facts: settings.energy_facts.clone().map(Arc::from),
            gate: Arc::new(gate),
            stop: stop.clone(),
        };
        let router = api::router(shared).into_make_service_with_connect_info::<SocketAddr>();
        let web_server = axum::serve(web_listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        tasks.spawn(report("the page", web_server.into_future()));
        let (upkeep, until) = (store.handle.clone(), stop.clone());
        tasks.spawn(async move {
            let mut tick = tokio::time::interval(UPKEEP);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = until.cancelled() => return,
                    _ = tick.tick() => upkeep.maintain(now_ms()).await,
                }
            }
        });
        Ok(Self { grpc, http, web, stats, store, stop, tasks })
    }

    /// Stops taking requests, lets those in flight end, writes what waits and closes the database.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, drained).await.is_err() {
            tracing::warn!("requests were still in flight after {} s; they were cut", GRACE.as_secs());
            self.tasks.shutdown().await;
        }
        let store = self.store;
        let closed = tokio::task::spawn_blocking(move || store.close());
        if tokio::time::timeout(GRACE, closed).await.is_err() {
            tracing::warn!("the database was not closed in time; what was acknowledged is safe");
        }
    }
}

async fn listen(flag: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { flag, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn report<E: std::fmt::Display>(what: &'static str, server: impl Future<Output = Result<(), E>>) {
    if let Err(error) = server.await {
        tracing::error!(%error, "{what} ended");
    }
}

fn check(args: &CheckArgs) -> ExitCode {
    let found = match inspect::check(&args.data_dir) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("evergreen-plane check: {error}");
            return ExitCode::from(3);
        }
    };
    if args.json {
        println!("{}", serde_json::json!(found));
    } else {
        println!("{}: schema {}, {} bytes", found.database.display(), found.schema, found.bytes);
        println!(
            "{} points of {} series in {} chunks of {} bytes altogether, {} more in the journal",
            found.points, found.series, found.chunks, found.chunk_bytes, found.journal_points
        );
        println!(
            "{} sums of energy, {} spans, {} incidents, {} log records",
            found.energy_rollups, found.spans, found.incidents, found.logs
        );
        found.problems.iter().for_each(|problem| println!("wrong: {problem}"));
        match found.problem_count {
            0 => println!("nothing is wrong"),
            count => println!("{count} problems; restore a backup, or keep the file and start with an empty directory"),
        }
    }
    ExitCode::from(u8::from(found.problem_count > 0))
}

fn backup(args: &BackupArgs) -> ExitCode {
    match inspect::backup(&args.data_dir, &args.to) {
        Ok(bytes) if args.json => println!("{}", serde_json::json!({"file": args.to, "bytes": bytes})),
        Ok(bytes) => println!("{}: {bytes} bytes", args.to.display()),
        Err(error) => {
            eprintln!("evergreen-plane backup: {error}");
            return ExitCode::from(3);
        }
    }
    ExitCode::SUCCESS
}

/// The process: logs, runs until SIGTERM or SIGINT, answers its exit code.
pub fn main(args: Args) -> ExitCode {
    match &args.command {
        Some(PlaneCommand::Check(args)) => return check(args),
        Some(PlaneCommand::Backup(args)) => return backup(args),
        None if args.print_tokens => return print_tokens(&args.data_dir),
        None => {}
    }
    start_logging(args.log_format);
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("evergreen-plane: {message}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("evergreen-plane: no threads to run on: {error}");
            return ExitCode::from(3);
        }
    };
    let code = runtime.block_on(serve(settings));
    // A blocking read that hangs must not hold the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

fn print_tokens(data_dir: &std::path::Path) -> ExitCode {
    let path = initial_tokens_path(data_dir);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!(
                "evergreen-plane: {}: {error}; a plane that was started without --access makes it",
                path.display()
            );
            ExitCode::from(3)
        }
    }
}

async fn serve(settings: Settings) -> ExitCode {
    let plane = match Plane::start(settings).await {
        Ok(plane) => plane,
        Err(error) => {
            eprintln!("evergreen-plane: {error}");
            return ExitCode::from(3);
        }
    };
    tracing::info!(grpc = %plane.grpc, http = %plane.http, web = %plane.web, "listening");
    wait_for_signal().await;
    tracing::info!("stopping");
    plane.stop().await;
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be caught; only SIGINT stops cleanly");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}
