//! Carries drills out: sees, asks the planner, writes down what it is about to do, does it. It makes no choices.
//!
//! A drill is carried out by the controller of the site that services leave. Everything that it has to know to go on stands
//! in the drill's status, written on the version that was read, before it is acted on: a controller that was killed goes on
//! where it was, and one that is no longer the leader cannot write any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evergreen_api::{
    Validate,
    names::{APPROVERS, FINALIZER_DRILL, SYSTEM_NAMESPACE},
    resources::{ConsentSpec, DrillPhase, FailoverDrill, FailoverDrillStatus, set_condition},
    validate,
};
use evergreen_audit::AuditLog;
use evergreen_telemetry::IncidentTracer;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    card,
    facts::{DrillFacts, ProbeFacts},
    observe::{self, Around, signer_of},
    planner::{Next, next, obstacle},
    probe::Prober,
    record::{self, DrillDecided},
    statements,
};
use crate::{
    consent::{ConsentBook, ConsentWatch, KillSwitch},
    failover::{Look, Peer, Window},
    quorum::Mono,
    site::{BootClock, Signer, clients::CALL_TIMEOUT},
    traffic::TrafficAllow,
};

/// Drills under way are looked at this often, and at once when something happens.
const BUSY: Duration = Duration::from_millis(500);
/// Drills that wait are looked at this often.
const CALM: Duration = Duration::from_secs(1);
/// A look at the failover loop that is older says nothing about now.
const STALE: Duration = Duration::from_secs(3);
/// Numbers that run on by themselves are written this often.
const NUMBERS: Duration = Duration::from_secs(5);
/// Another site that does not say in this time whether it drills counts as one that does.
const PEER_PATIENCE: Duration = Duration::from_secs(2);

/// What drills work with.
pub struct DrillContext {
    /// Own site.
    pub site: String,
    /// Client of the own API server.
    pub client: Client,
    /// Member sites, the own one included.
    pub members: Vec<Peer>,
    /// What is stopped.
    pub switch: KillSwitch,
    /// The failover loop, as drills see it.
    pub window: Window,
    /// What people say.
    pub consent: Arc<ConsentWatch>,
    /// Spans.
    pub incidents: IncidentTracer,
    /// Where decisions are recorded.
    pub audit: Option<Arc<Mutex<AuditLog>>>,
    /// What probes may connect to.
    pub allow: TrafficAllow,
}

/// What is remembered of one drill between two looks.
#[derive(Default)]
struct Running {
    phase: Option<(DrillPhase, Mono)>,
    prober: Option<Prober>,
    /// Probes and failures that were counted before this process began to.
    base: Option<(u64, u64)>,
    /// When a breach other than of probes was seen.
    said: BTreeSet<String>,
    recorded: String,
    written: Mono,
    swept: bool,
}

struct Executor {
    context: Arc<DrillContext>,
    signer: Signer,
    book: ConsentBook,
    running: BTreeMap<String, Running>,
    /// Sites seen in quorum by this process.
    seen: BTreeSet<String>,
    was_in_quorum: bool,
    news: Arc<Notify>,
}

/// Runs until cancelled, which is when this replica no longer leads.
pub async fn run(context: Arc<DrillContext>, cancel: CancellationToken) {
    let signer = loop {
        match Signer::load(&context.site, &context.client).await {
            Ok(signer) => break signer,
            Err(error) => tracing::debug!(%error, "drills cannot sign yet"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(CALM) => {}
        }
    };
    let mut looks = context.window.looks();
    let news = Arc::new(Notify::new());
    let mut executor = Executor {
        context,
        signer,
        book: ConsentBook::default(),
        running: BTreeMap::new(),
        seen: BTreeSet::new(),
        was_in_quorum: false,
        news: news.clone(),
    };
    let mut busy = false;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(if busy { BUSY } else { CALM }) => {}
            () = news.notified(), if busy => {}
            changed = looks.changed(), if busy => if changed.is_err() { return },
        }
        let look = looks.borrow_and_update().clone();
        tokio::select! {
            () = cancel.cancelled() => return,
            found = executor.round(look) => busy = found,
        }
    }
}

impl Executor {
    /// One look at every drill of this site; answers whether one is under way.
    async fn round(&mut self, look: Option<Arc<Look>>) -> bool {
        let Ok(drills) = list(&self.context.client, CALL_TIMEOUT).await else { return false };
        let mine: Vec<FailoverDrill> =
            drills.into_iter().filter(|drill| drill.spec.site == self.context.site).collect();
        self.running.retain(|name, _| mine.iter().any(|drill| drill.name_any() == *name));
        let groups = mine.iter().filter_map(|drill| drill.status.as_ref()?.current.as_ref());
        let groups = groups.flat_map(|card| card.services.iter().map(|one| one.name.clone())).collect();
        self.context.window.want((!mine.is_empty()).then_some(&self.context.site), groups);
        let now = BootClock.now();
        let look = look.filter(|look| now.saturating_sub(look.at) < STALE);
        if let Some(look) = &look {
            let sites = look.groups.values().flat_map(|seen| &seen.facts.sites);
            self.seen.extend(sites.filter(|(_, facts)| facts.fresh.is_some()).map(|(site, _)| site.clone()));
            self.was_in_quorum |= look.in_quorum;
        }
        let specs: Vec<ConsentSpec> = self
            .context
            .consent
            .heard
            .values()
            .flat_map(|heard| heard.with(|all| all.values().cloned().collect::<Vec<_>>()))
            .collect();
        self.book.observe(&self.context.consent.keyring(), specs.iter(), now);
        // A process that starts is in no quorum yet: that is no incident.
        let Some(look) = look.filter(|_| self.was_in_quorum) else { return false };
        let mut busy = false;
        for drill in &mine {
            let name = drill.name_any();
            match self.drill(drill, &mine, &look, &specs, now).await {
                Ok(under_way) => busy |= under_way,
                Err(why) => {
                    tracing::warn!(drill = name, why, "a drill could not be carried on; trying again");
                    busy = true;
                }
            }
        }
        busy
    }

    async fn drill(
        &mut self,
        drill: &FailoverDrill,
        mine: &[FailoverDrill],
        look: &Look,
        specs: &[ConsentSpec],
        now: Mono,
    ) -> Result<bool, String> {
        let name = drill.name_any();
        let wall = Timestamp::now();
        let mut drill = drill.clone();
        let errors = drill.spec.validate();
        let mut status = drill.status.clone().unwrap_or_default();
        let (reason, message) = match errors.is_empty() {
            true => ("Valid", "the spec is understood".to_owned()),
            false => ("Invalid", validate::summary(&errors)),
        };
        let (at, generation) = (wall.to_string(), drill.metadata.generation);
        set_condition(&mut status.conditions, "Accepted", errors.is_empty().into(), reason, &message, generation, &at);
        if !errors.is_empty() && status.phase == DrillPhase::Idle {
            self.sweep(&mut drill).await?;
            status.message = message;
            return self.put(&mut drill, status).await.map(|()| false);
        }
        status.looked_at.get_or_insert_with(|| at.clone());
        status.next_run = card::next_run(&drill.spec, wall);
        if status.phase == DrillPhase::Idle {
            self.sweep(&mut drill).await?;
        }
        if status.phase == DrillPhase::Waiting {
            self.hear_approvals(&mut status, specs, now);
        }
        drill.status = Some(status.clone());
        let running = self.running.entry(name.clone()).or_default();
        if running.phase.is_none_or(|(phase, _)| phase != status.phase) {
            running.phase = Some((status.phase, now));
        }
        self.probe(&drill).await;
        let facts = self.facts(&drill, mine, look, now, wall).await;
        let decided = next(&facts);
        self.tell(&name, &status, &facts, &decided, &at).await;
        self.measure(&mut status, &name, look);
        if matches!(decided, Next::Stay(_)) {
            self.stay(&mut drill, status, &facts, &decided, look, now).await
        } else {
            self.act(&mut drill, status, &facts, &decided, look, &at).await
        }
    }

    async fn facts(
        &mut self,
        drill: &FailoverDrill,
        mine: &[FailoverDrill],
        look: &Look,
        now: Mono,
        wall: Timestamp,
    ) -> DrillFacts {
        let name = drill.name_any();
        let phase = drill.status.as_ref().map(|status| status.phase).unwrap_or_default();
        let begun =
            drill.status.as_ref().and_then(|s| s.current.as_ref()).is_some_and(|card| card.started_at.is_some());
        let asks = phase == DrillPhase::Waiting || (phase == DrillPhase::Moving && !begun);
        let other_drill = if asks { self.other_drill(&name, mine).await } else { None };
        let running = self.running.entry(name.clone()).or_default();
        let groups = drill.status.as_ref().and_then(|s| s.current.as_ref()).into_iter().flat_map(|card| &card.services);
        let stopped = self
            .context
            .switch
            .everything()
            .or_else(|| groups.into_iter().find_map(|group| self.context.switch.group(&group.name)));
        let around = Around {
            site: &self.context.site,
            book: &self.book,
            now,
            wall,
            in_phase_for: running.phase.map(|(_, since)| now.saturating_sub(since)).unwrap_or_default(),
            probe: running.prober.as_ref().map_or_else(ProbeFacts::default, |prober| prober.book.lock().facts(now)),
            other_drill,
            stopped,
            mute: self.mute(),
            seen: &self.seen,
        };
        observe::facts(drill, look, &around)
    }

    /// Why what this site's drills say does not count, if it does not.
    fn mute(&self) -> Option<String> {
        let (signer, text) = (signer_of(&self.context.site), "drill");
        let counts = self.context.consent.keyring();
        let known = counts.verify(&signer, &self.signer.sign_statement(text), text).is_ok_and(|person| person.drill);
        (!known).then(|| {
            format!(
                "drills of {} may not move anything: let an administrator put `{signer}: {} drill` into the ConfigMap \
                 {APPROVERS} of every data center",
                self.context.site,
                self.signer.public_key()
            )
        })
    }

    /// Another drill that is under way, here or at another site. A site that does not say counts as one.
    async fn other_drill(&self, name: &str, mine: &[FailoverDrill]) -> Option<String> {
        let under_way = |drill: &FailoverDrill| {
            let phase = drill.status.as_ref().map(|status| status.phase).unwrap_or_default();
            matches!(phase, DrillPhase::Moving | DrillPhase::Holding | DrillPhase::Returning)
        };
        if let Some(other) = mine.iter().find(|drill| drill.name_any() != name && under_way(drill)) {
            return Some(format!("{}/{}", self.context.site, other.name_any()));
        }
        let others = self.context.members.iter().filter(|peer| peer.site != self.context.site);
        let asked = others.map(|peer| async move {
            let silent = |why: String| Some(format!("perhaps one at {}, which cannot be asked ({why})", peer.site));
            let client = match peer.register.client().await {
                Ok(client) => client,
                Err(error) => return silent(error.to_string()),
            };
            match list(&client, PEER_PATIENCE).await {
                // Only drills that leave that very site are carried out there.
                Ok(drills) => drills
                    .iter()
                    .find(|drill| drill.spec.site == peer.site && under_way(drill))
                    .map(|drill| format!("{}/{}", peer.site, drill.name_any())),
                Err(why) => silent(why),
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().next()
    }

    /// Keeps the approvals that people signed: they count for the ticket, however long it waits.
    fn hear_approvals(&self, status: &mut FailoverDrillStatus, specs: &[ConsentSpec], now: Mono) {
        let Some(card) = &mut status.current else { return };
        for found in self.book.evidence(&card.digest, specs.iter(), now) {
            if found.by != card.requested_by && card.evidence.iter().all(|known| known.by != found.by) {
                card::step(card, &Timestamp::now().to_string(), &found.by, "approved the ticket".into());
                card.approvers.push(found.by.clone());
                card.evidence.push(found);
            }
        }
        if let Some(proposal) = &mut status.proposal {
            proposal.approved_by.clone_from(&card.approvers);
        }
    }

    /// Probes from the claim to the end.
    async fn probe(&mut self, drill: &FailoverDrill) {
        let phase = drill.status.as_ref().map(|status| status.phase).unwrap_or_default();
        let Some(running) = self.running.get_mut(&drill.name_any()) else { return };
        let wanted = matches!(phase, DrillPhase::Moving | DrillPhase::Holding | DrillPhase::Returning);
        let Some(probe) = drill.spec.probe.as_ref().filter(|_| wanted) else {
            running.prober = None;
            running.base = None;
            return;
        };
        let Ok(url) = probe.url.parse() else { return };
        if running.prober.is_some() {
            return;
        }
        let mut authority = None;
        if let Some(secret) = &probe.ca_secret {
            let api: Api<Secret> = Api::namespaced(self.context.client.clone(), SYSTEM_NAMESPACE);
            let found = tokio::time::timeout(CALL_TIMEOUT, api.get_opt(secret)).await;
            authority =
                found.ok().and_then(Result::ok).flatten().and_then(|s| s.data?.remove("ca.crt")).map(|text| text.0);
        }
        running.prober = Some(Prober::start(url, authority, self.context.allow.clone(), self.news.clone()));
    }

    /// Takes what probes and the failover loop showed into the scorecard.
    fn measure(&mut self, status: &mut FailoverDrillStatus, name: &str, look: &Look) {
        let Some(card) = &mut status.current else { return };
        let Some(running) = self.running.get_mut(name) else { return };
        if let Some(prober) = &running.prober {
            let (sent, failed) = *running.base.get_or_insert((card.probes, card.probes_failed));
            let (book, now) = (prober.book.lock(), BootClock.now());
            (card.probes, card.probes_failed) = (sent + book.sent, failed + book.failed);
            let without = u64::try_from(book.facts(now).without_service.as_millis()).unwrap_or(u64::MAX);
            card.rto_ms = card.rto_ms.max((card.probes > 0).then_some(without));
        }
        if status.phase != DrillPhase::Moving || card.started_at.is_none() {
            return;
        }
        let at = Timestamp::now().to_string();
        for seen in look.groups.values() {
            let ours = |mark: &crate::failover::DrillMark| mark.name == name && !mark.hold;
            let heard =
                seen.facts.consent.request.as_ref().and_then(|request| request.drill.as_ref()).is_some_and(ours);
            if heard && card.detected_at.is_none() {
                card.detected_at = Some(at.clone());
            }
            if heard && seen.moving() && card.decided_at.is_none() {
                card.decided_at = Some(at.clone());
            }
        }
    }

    /// Records what was decided, when it is news, before it is done.
    async fn tell(&mut self, name: &str, status: &FailoverDrillStatus, facts: &DrillFacts, decided: &Next, at: &str) {
        let plain = |why: &str| why.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let key = match decided {
            Next::Stay(why) => format!("{:?} stay {}", facts.phase, plain(why)),
            other => format!("{:?} {}", facts.phase, plain(&format!("{other:?}"))),
        };
        let Some(running) = self.running.get_mut(name) else { return };
        if running.recorded == key {
            return;
        }
        running.recorded = key;
        tracing::info!(drill = name, phase = ?facts.phase, next = ?decided, "drill");
        let card = status.current.as_ref();
        let body = DrillDecided {
            site: self.context.site.clone(),
            drill: name.to_owned(),
            ticket: card.map(|card| card.ticket.clone()).unwrap_or_default(),
            traceparent: card.and_then(|card| card.traceparent.clone()),
            facts: facts.clone(),
            next: decided.clone(),
        };
        record::append(self.context.audit.clone(), &body, at).await;
    }

    /// Nothing new is done; what was decided before is said again where it is not heard yet.
    async fn stay(
        &mut self,
        drill: &mut FailoverDrill,
        mut status: FailoverDrillStatus,
        facts: &DrillFacts,
        decided: &Next,
        look: &Look,
        now: Mono,
    ) -> Result<bool, String> {
        if let Next::Stay(why) = decided {
            status.message.clone_from(why);
        }
        let calm = matches!(status.phase, DrillPhase::Idle | DrillPhase::Waiting);
        if calm {
            status.preview = preview(facts);
        }
        let news = differs(drill.status.as_ref(), &status);
        let due =
            self.running.get(&drill.name_any()).is_none_or(|running| now.saturating_sub(running.written) >= NUMBERS);
        if calm {
            if news || (due && drill.status.as_ref() != Some(&status)) {
                self.put(drill, status).await?;
            }
            return Ok(false);
        }
        self.say(drill, status, look, news || due).await.map(|()| true)
    }

    /// Writes the decision down, then does what follows from it.
    async fn act(
        &mut self,
        drill: &mut FailoverDrill,
        mut status: FailoverDrillStatus,
        facts: &DrillFacts,
        decided: &Next,
        look: &Look,
        at: &str,
    ) -> Result<bool, String> {
        let name = drill.name_any();
        if *decided == Next::Claim {
            self.finalizer(drill, true).await?;
        }
        if let (Next::Begin, Some(card)) = (decided, &mut status.current) {
            let root = record::root(&self.context.incidents, &name, &self.context.site, &card.ticket);
            card.traceparent = Some(root);
            let room: Vec<String> = look
                .groups
                .values()
                .filter_map(|seen| Some(format!("{}: {}", seen.facts.group, seen.headroom.as_ref()?.summary)))
                .collect();
            card.capacity = (!room.is_empty()).then(|| room.join("; "));
        }
        card::take(&name, &drill.spec, &mut status, facts, decided, at);
        status.preview.clear();
        if let (Next::Abort(_), Some(card)) = (decided, &mut status.current) {
            let book =
                self.running.get(&name).and_then(|running| running.prober.as_ref()).map(|prober| prober.book.clone());
            let breach = book.and_then(|book| book.lock().failing_since());
            let asked = breach.map(|breach| BootClock.now().saturating_sub(breach)).unwrap_or_default();
            card.abort_ms = Some(u64::try_from(asked.as_millis()).unwrap_or(u64::MAX));
        }
        let (span, why) = match decided {
            Next::Begin => ("drill.move", format!("services leave {}", drill.spec.site)),
            Next::Hold => ("drill.hold", "all have left".to_owned()),
            Next::Return => ("drill.return", "held long enough".to_owned()),
            Next::Abort(why) => ("drill.abort", why.clone()),
            Next::End(result, why) => ("drill.end", format!("{result:?}: {why}")),
            _ => ("", String::new()),
        };
        if !span.is_empty() {
            let card = status.current.as_ref().or(status.history.first());
            let traceparent = card.and_then(|card| card.traceparent.as_deref());
            record::step(&self.context.incidents, traceparent, &name, span, &why);
        }
        if let Next::Withdraw(why) = decided {
            status.message.clone_from(why);
        }
        let under_way = matches!(status.phase, DrillPhase::Moving | DrillPhase::Holding | DrillPhase::Returning);
        if matches!(decided, Next::Return | Next::Abort(_)) {
            // The way back is written down and said first: it is stronger than the wish that nothing moves.
            self.put(drill, status.clone()).await?;
            statements::take_back(&self.context.client, &name).await?;
            if let Some(running) = self.running.get_mut(&name) {
                running.said.clear();
            }
            status = drill.status.clone().unwrap_or_default();
            return self.say(drill, status, look, false).await.map(|()| true);
        }
        if under_way && status.current.as_ref().is_some_and(|card| card.started_at.is_some()) {
            return self.say(drill, status, look, true).await.map(|()| true);
        }
        self.put(drill, status).await?;
        match decided {
            Next::End(..) => {
                if let Some(running) = self.running.get_mut(&name) {
                    running.swept = false;
                }
                self.sweep(drill).await?;
            }
            Next::Withdraw(_) => {
                // Two that withdraw at once come back at different times.
                let place = self.context.members.iter().position(|peer| peer.site == self.context.site).unwrap_or(0);
                tokio::time::sleep(CALM * u32::try_from(place * 2).unwrap_or(8)).await;
            }
            _ => {}
        }
        Ok(under_way)
    }

    /// Says what has to be said now: each new step is written into the status before.
    async fn say(
        &mut self,
        drill: &mut FailoverDrill,
        mut status: FailoverDrillStatus,
        look: &Look,
        write: bool,
    ) -> Result<(), String> {
        let name = drill.name_any();
        let wall = Timestamp::now();
        let mut wanted = Vec::new();
        if let Some(card) = status.current.as_mut().filter(|card| card.started_at.is_some()) {
            wanted = statements::wanted(&name, &drill.spec, card, status.phase, look, wall.as_second());
            let at = wall.to_string();
            for step in wanted.iter().filter_map(|said| said.step.as_ref()) {
                if card.steps.iter().all(|known| known.what != *step) {
                    card::step(card, &at, "controller", step.clone());
                }
            }
        }
        let steps = |status: &FailoverDrillStatus| status.current.as_ref().map_or(0, |card| card.steps.len());
        let new_steps = drill.status.as_ref().map_or(0, &steps) != steps(&status);
        if (write || new_steps) && drill.status.as_ref() != Some(&status) {
            self.put(drill, status).await?;
        }
        let Some(running) = self.running.get_mut(&name) else { return Ok(()) };
        for said in wanted {
            if !running.said.contains(&said.name) {
                statements::put(&self.context.client, &self.signer, &name, &self.context.site, &said).await?;
                running.said.insert(said.name);
            }
        }
        Ok(())
    }

    /// What a drill that is not under way left behind.
    async fn sweep(&mut self, drill: &mut FailoverDrill) -> Result<(), String> {
        let name = drill.name_any();
        let running = self.running.entry(name.clone()).or_default();
        if running.swept && !drill.finalizers().iter().any(|one| one == FINALIZER_DRILL) {
            return Ok(());
        }
        running.said.clear();
        statements::take_back(&self.context.client, &name).await?;
        self.finalizer(drill, false).await?;
        if let Some(running) = self.running.get_mut(&name) {
            running.swept = true;
        }
        Ok(())
    }

    async fn finalizer(&self, drill: &mut FailoverDrill, wanted: bool) -> Result<(), String> {
        let mut all = drill.finalizers().to_vec();
        if all.iter().any(|one| one == FINALIZER_DRILL) == wanted {
            return Ok(());
        }
        all.retain(|one| one != FINALIZER_DRILL);
        if wanted {
            all.push(FINALIZER_DRILL.to_owned());
        }
        let patch = Patch::Merge(json!({"metadata": {"finalizers": all, "resourceVersion": drill.resource_version()}}));
        let api: Api<FailoverDrill> = Api::all(self.context.client.clone());
        let (name, parameters) = (drill.name_any(), PatchParams::default());
        let patched = tokio::time::timeout(CALL_TIMEOUT, api.patch(&name, &parameters, &patch)).await;
        let patched = patched.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
        drill.metadata = patched.metadata;
        Ok(())
    }

    /// Writes the status on the version that was read: who is no longer the leader fails here.
    async fn put(&mut self, drill: &mut FailoverDrill, status: FailoverDrillStatus) -> Result<(), String> {
        let api: Api<FailoverDrill> = Api::all(self.context.client.clone());
        let name = drill.name_any();
        let mut wanted = drill.clone();
        wanted.status = Some(status);
        let parameters = PostParams::default();
        let put = api.replace_status(&name, &parameters, &wanted);
        let done = tokio::time::timeout(CALL_TIMEOUT, put).await;
        *drill = done.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
        if let Some(running) = self.running.get_mut(&name) {
            running.written = BootClock.now();
        }
        Ok(())
    }
}

/// Whether something changed beside numbers that run on.
fn differs(old: Option<&FailoverDrillStatus>, new: &FailoverDrillStatus) -> bool {
    let plain = |status: &FailoverDrillStatus| {
        let mut status = status.clone();
        status.message.retain(|c| !c.is_ascii_digit());
        if let Some(card) = &mut status.current {
            (card.probes, card.probes_failed, card.rto_ms) = (0, 0, None);
        }
        status
    };
    old.is_none_or(|old| plain(old) != plain(new))
}

/// What a drill would do now.
fn preview(facts: &DrillFacts) -> Vec<String> {
    let mut lines: Vec<String> = facts
        .services
        .iter()
        .map(|(group, known)| {
            let holders: Vec<&str> = known.holders.iter().map(String::as_str).collect();
            match &known.closed {
                None => format!("{group} would leave {} ({})", facts.spec.site, holders.join(", ")),
                Some(why) => format!("{group} would stay: {why}"),
            }
        })
        .collect();
    lines.push(match obstacle(facts) {
        None => "nothing is in the way".to_owned(),
        Some(why) => format!("in the way: {}", why.chars().filter(|c| !c.is_ascii_control()).collect::<String>()),
    });
    lines
}

async fn list(client: &Client, patience: Duration) -> Result<Vec<FailoverDrill>, String> {
    let api: Api<FailoverDrill> = Api::all(client.clone());
    match tokio::time::timeout(patience, api.list(&ListParams::default())).await {
        Ok(Ok(found)) => Ok(found.items),
        // A data center without the definition has no drills.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(Vec::new()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".into()),
    }
}
