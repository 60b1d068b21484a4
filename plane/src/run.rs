//! From settings to a running plane and back: opens the store, binds the ports, serves, and stops in order.

use std::{future::IntoFuture, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    api::{self, DayEnergy},
    args::{Args, LogFormat, Settings},
    clock::now_ms,
    ingest::{self, Intake},
    stats::Stats,
    store::{OpenError, Store},
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
        let (grpc_listener, grpc) = listen("--grpc-listen", settings.grpc_listen).await?;
        let (http_listener, http) = listen("--http-listen", settings.http_listen).await?;
        let (web_listener, web) = listen("--web-listen", settings.web_listen).await?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let intake = Intake::new(store.handle.clone(), stats.clone());
        tasks.spawn(report("OTLP over gRPC", ingest::grpc::serve(grpc_listener, intake.clone(), stop.clone())));
        let http_server = axum::serve(http_listener, ingest::http::router(intake))
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        tasks.spawn(report("OTLP over HTTP", http_server.into_future()));
        let shared = api::Shared {
            reader: store.reader.clone(),
            live: store.live.clone(),
            store: store.handle.clone(),
            stats: stats.clone(),
            day: Arc::new(DayEnergy::default()),
            energy_facts: settings.energy_facts.clone().map(Arc::from),
            stop: stop.clone(),
        };
        let web_server =
            axum::serve(web_listener, api::router(shared)).with_graceful_shutdown(stop.clone().cancelled_owned());
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

/// The process: logs, runs until SIGTERM or SIGINT, answers its exit code.
pub fn main(args: Args) -> ExitCode {
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
