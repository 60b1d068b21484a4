//! The controller process: puts the parts together and takes them apart again.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use evergreen_audit::AuditLog;
use evergreen_bmc::AllowList;
use evergreen_report::source::Source;
use evergreen_telemetry::{SpoolConfig, Telemetry, TelemetryConfig};
use kube::Client;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    args::Args,
    consent::{ConsentWatch, KillSwitch},
    drill::{self, DrillContext},
    energy_report,
    failover::{self, FailoverContext, GateClient, Window},
    healing::{self, AlertInbox, Endpoints, HealingContext, HealingOptions, Keep, People},
    leader::{self, Leadership},
    members::Members,
    metrics,
    nodes::{self, NodeWatch, NodesContext},
    power::{self, PowerBook, PowerContext},
    quorum::{CoreConfig, Timing},
    site::{self, EndpointTls, GrantBook, Register, Signer, SiteHandle, clients, identity::Identity},
    traffic::TrafficAllow,
};

/// How often metrics go out over OTLP unless OTEL_METRIC_EXPORT_INTERVAL says otherwise.
const METRIC_INTERVAL: Duration = Duration::from_secs(10);

/// Runs until a signal stops it.
///
/// # Errors
/// When something that must be there at start is not: a usable kubeconfig, certificates, free ports. An API server that
/// does not answer is no such thing: it is waited for.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let telemetry = Telemetry::start(&TelemetryConfig {
        service: "evergreen-controller",
        version: env!("CARGO_PKG_VERSION"),
        site: args.site.clone(),
        node: None,
        metric_interval: metric_interval(),
        log_format: args.log_format.into(),
        spool: SpoolConfig { folder: args.spool_dir.clone(), most_bytes: args.spool_size },
    })?;
    let telemetry = Arc::new(telemetry);
    let cancel = CancellationToken::new();
    stop_on_signal(cancel.clone())?;
    let result = serve(&args, &telemetry, &cancel).await;
    cancel.cancel();
    if let Ok(telemetry) = Arc::try_unwrap(telemetry) {
        telemetry.shutdown().await;
    }
    result
}

async fn serve(args: &Args, telemetry: &Arc<Telemetry>, cancel: &CancellationToken) -> anyhow::Result<()> {
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let health = metrics::Health::default();
    let listener = tokio::net::TcpListener::bind(args.metrics_listen)
        .await
        .with_context(|| format!("cannot listen on {} for metrics (--metrics-listen)", args.metrics_listen))?;
    let mut healing = healing_options(args)?;
    let alerts = alerts(args, &healing.alerts)?;
    tasks.spawn(metrics::serve(listener, telemetry.clone(), health.clone(), alerts, cancel.clone()));
    let client = clients::own(args.kubeconfig.as_deref()).await.context("no usable access to the own API server")?;
    let Some(members) = Members::wait(&client, &args.site, &health, cancel).await else { return Ok(()) };
    let replica = args.replica.clone().unwrap_or_else(default_replica);
    let names = members.registers.iter().map(|register| register.site().to_owned()).collect();
    tracing::info!(site = args.site, replica, registers = ?names, profile = ?members.profile, "controller starts");
    let config = CoreConfig {
        site: args.site.clone(),
        registers: names,
        timing: Timing::of_lease(members.profile.lease().get()),
        seed: uuid::Uuid::new_v4().to_string(),
    };
    let handle = site::start(config, members.registers.clone(), cancel.clone());
    metrics::register(&telemetry.meter(), &handle, &args.site);
    let book = Arc::new(GrantBook::default());
    let nodes = NodeWatch::default();
    nodes.register(&telemetry.meter());
    let power = PowerBook::default();
    power.register(&telemetry.meter());
    tasks.spawn({
        let (client, members, cancel) = (client.clone(), members.clone(), cancel.clone());
        async move {
            members.watch_for_changes(client, cancel).await;
            Ok(())
        }
    });
    if let (Some(cert), Some(key), Some(client_ca)) = (&args.tls_cert, &args.tls_key, &args.tls_client_ca) {
        let tls = EndpointTls { cert: cert.clone(), key: key.clone(), client_ca: client_ca.clone() };
        let (listen, site, handle, book) = (args.listen, args.site.clone(), handle.clone(), book.clone());
        let (client, nodes, power, cancel) = (client.clone(), nodes.clone(), power.clone(), cancel.clone());
        let account = args.require_agent_token.then(|| args.agent_service_account.clone());
        let identity = Identity::new(client.clone(), account, Some(&telemetry.meter()));
        tasks.spawn(async move {
            let Some(signer) = wait_for_signer(&site, &client, &cancel).await else { return Ok(()) };
            let endpoint = site::Endpoint { site, handle, signer, book, nodes, power, identity };
            Ok(site::serve(listen, &tls, endpoint, cancel).await?)
        });
    } else {
        tracing::warn!("no --tls-cert: the site endpoint is not served, so no node of this site gets a grant");
    }
    let switch = KillSwitch::new(&args.site);
    pause_on_signals(switch.clone(), cancel.clone())?;
    let consent =
        ConsentWatch::start(&members.members, client.clone(), switch.clone(), args.pause_file.clone(), cancel);
    healing.people = People::new(consent.clone(), switch.clone());
    let audit = open_audit(args)?;
    let window = Window::default();
    let traffic_allow =
        TrafficAllow::parse(&args.traffic_allow).map_err(anyhow::Error::msg).context("--traffic-allow")?;
    let drills = Arc::new(DrillContext {
        site: args.site.clone(),
        client: client.clone(),
        members: members.members.clone(),
        switch: switch.clone(),
        window: window.clone(),
        consent: consent.clone(),
        incidents: telemetry.incidents(),
        audit: audit.clone(),
        allow: traffic_allow.clone(),
    });
    tasks.spawn({
        let context = FailoverContext {
            site: args.site.clone(),
            profile: members.profile,
            consent,
            switch,
            audit,
            gates: GateClient::new(&args.hook_allow, args.hook_ca.as_deref())
                .map_err(anyhow::Error::msg)
                .context("--hook-ca")?,
            client: client.clone(),
            members: members.members.clone(),
            registers: members.registers.clone(),
            witnesses: members.witnesses.clone(),
            cluster: members.cluster.clone(),
            handle: handle.clone(),
            book,
            incidents: telemetry.incidents(),
            traffic_allow,
            window,
        };
        let cancel = cancel.clone();
        async move {
            failover::run(context, cancel).await;
            Ok(())
        }
    });
    let bmcs = bmcs(args, &client, power)?;
    healing.bmcs = bmcs.as_ref().map(|bmcs| bmcs.allowed.clone());
    let leads = leader::start(client.clone(), replica, cancel.clone());
    health.started();
    let work = LeaderWork {
        registers: members.registers.clone(),
        client,
        site: args.site.clone(),
        energy: args.energy_source.clone().or_else(|| args.plane_url.clone().map(Source::Plane)),
        telemetry: telemetry.clone(),
        handle,
        health,
        nodes,
        bmcs,
        healing,
        drills,
    };
    tasks.spawn(lead(leads, work, cancel.clone()));
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.context("a task of the controller panicked")?;
        if let Err(error) = ended {
            cancel.cancel();
            return Err(error);
        }
    }
    Ok(())
}

/// The audit log; none where no folder is given.
fn open_audit(args: &Args) -> anyhow::Result<Option<Arc<Mutex<AuditLog>>>> {
    let Some(dir) = &args.audit_dir else {
        tracing::warn!("no --audit-dir: decisions are traced and logged, but not kept in an audit log");
        return Ok(None);
    };
    let log = AuditLog::open(dir, &jiff::Timestamp::now().to_string()).context("--audit-dir")?;
    Ok(Some(Arc::new(Mutex::new(log))))
}

/// SIGUSR1 stops what moves services at this site, SIGUSR2 lets it go on: the kill switch that needs no API server.
fn pause_on_signals(switch: KillSwitch, cancel: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut on = signal(SignalKind::user_defined1()).context("cannot listen for SIGUSR1")?;
    let mut off = signal(SignalKind::user_defined2()).context("cannot listen for SIGUSR2")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(()) = on.recv() => switch.signal(true),
                Some(()) = off.recv() => switch.signal(false),
            }
        }
    });
    Ok(())
}

/// What playbooks may reach here, and which runs are kept.
fn healing_options(args: &Args) -> anyhow::Result<HealingOptions> {
    let endpoints = Endpoints::load(args.playbook_endpoints.as_deref(), args.playbook_image.clone())
        .map_err(anyhow::Error::msg)
        .context("--playbook-endpoints")?;
    let keep = Keep { count: args.keep_runs, for_: args.keep_runs_for.get() };
    Ok(HealingOptions { endpoints, keep, ..HealingOptions::default() })
}

/// The webhook for alerts, where the site has a token for it.
fn alerts(args: &Args, inbox: &AlertInbox) -> anyhow::Result<Option<axum::Router>> {
    let Some(file) = &args.alert_token_file else { return Ok(None) };
    let token = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {} (--alert-token-file)", file.display()))?;
    anyhow::ensure!(token.trim().len() >= 16, "the token in {} has fewer than 16 characters", file.display());
    Ok(Some(inbox.router(&token)))
}

/// How BMCs are followed; not at all where no network is allowed.
fn bmcs(args: &Args, client: &Client, book: PowerBook) -> anyhow::Result<Option<PowerContext>> {
    let allowed = AllowList::parse(&args.bmc_allow).map_err(anyhow::Error::msg).context("--bmc-allow")?;
    Ok((!args.bmc_allow.is_empty()).then(|| PowerContext {
        client: client.clone(),
        allowed,
        interval: args.bmc_interval.get(),
        at_a_time: usize::from(args.bmc_at_a_time),
        book,
    }))
}

/// What only the leading replica does.
struct LeaderWork {
    registers: Vec<Arc<Register>>,
    client: Client,
    site: String,
    energy: Option<Source>,
    telemetry: Arc<Telemetry>,
    handle: SiteHandle,
    health: metrics::Health,
    nodes: NodeWatch,
    bmcs: Option<PowerContext>,
    healing: HealingOptions,
    drills: Arc<DrillContext>,
}

/// Starts the leader's work when this replica is elected and stops it at once when it is not any more.
async fn lead(
    mut leads: watch::Receiver<Leadership>,
    work: LeaderWork,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut term: Option<CancellationToken> = None;
    loop {
        let leadership = *leads.borrow_and_update();
        let leading = leadership == Leadership::Leading;
        work.handle.lead(leadership);
        work.health.leads(leading);
        match (leading, &term) {
            (true, None) => {
                let token = cancel.child_token();
                begin_term(&work, token.clone());
                term = Some(token);
            }
            (false, Some(_)) => {
                if let Some(token) = term.take() {
                    token.cancel();
                }
            }
            _ => {}
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = leads.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

fn begin_term(work: &LeaderWork, term: CancellationToken) {
    let healing = HealingContext {
        client: work.client.clone(),
        site: work.site.clone(),
        incidents: work.telemetry.incidents(),
        meter: work.telemetry.meter(),
        began: jiff::Timestamp::now(),
        options: work.healing.clone(),
    };
    tokio::spawn(heal(healing, term.clone()));
    let listening = NodesContext {
        client: work.client.clone(),
        site: work.site.clone(),
        incidents: work.telemetry.incidents(),
        watch: work.nodes.clone(),
        registers: work.registers.clone(),
    };
    tokio::spawn(nodes::run(listening, term.clone()));
    tokio::spawn(drill::run(work.drills.clone(), term.clone()));
    if let Some(bmcs) = &work.bmcs {
        tokio::spawn(power::run(bmcs.clone(), term.clone()));
    }
    tokio::spawn(energy_report::run(work.client.clone(), work.energy.clone(), work.site.clone(), term));
}

/// Heals for as long as the term lasts; a failure is told and healing begins anew from what is recorded.
async fn heal(context: HealingContext, term: CancellationToken) {
    while !term.is_cancelled() {
        if let Err(error) = healing::run(context.clone(), term.clone()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "healing failed; it begins anew");
        }
        tokio::select! {
            () = term.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

async fn wait_for_signer(site: &str, client: &Client, cancel: &CancellationToken) -> Option<Arc<Signer>> {
    loop {
        match Signer::load(site, client).await {
            Ok(signer) => return Some(Arc::new(signer)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "grants cannot be signed yet; trying again")
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return None,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

fn metric_interval() -> Duration {
    let given = std::env::var("OTEL_METRIC_EXPORT_INTERVAL").ok().and_then(|text| text.parse().ok());
    given.map_or(METRIC_INTERVAL, Duration::from_millis)
}

fn default_replica() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}

fn stop_on_signal(cancel: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        cancel.cancel();
    });
    Ok(())
}
