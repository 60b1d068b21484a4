//! Story two: a data center vanishes at once, another takes its share, it comes back and gets its share back. Clients
//! go on all the time, and what they saw is the measure.

use std::time::Duration;

use evergreen_api::{resources::MultiActiveService, telemetry::span};
use jiff::Timestamp;
use kube::Api;
use tokio::time::Instant;

use crate::demo::{
    manifests::{NAMESPACE, SERVICE},
    messages::{self, Text},
    result::StoryResult,
    stage::{Site, Stage},
    timeline::{Chapter, Mark},
    wait::until,
};

const CHAPTER: Chapter = Chapter::SiteLoss;
/// By design a dead site's share is granted elsewhere within 20 s; a busy machine gets some more.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(30);
/// The plane hears of the suspicion with the next export of spans.
const SUSPICION_LIMIT: Duration = Duration::from_secs(15);
/// A new incarnation, the soak, the hold-down and the move back.
const FAILBACK_LIMIT: Duration = Duration::from_secs(45);
/// How long clients are watched after the pool has settled.
const CALM: Duration = Duration::from_secs(2);

/// Plays the story.
pub async fn play(stage: &Stage) -> StoryResult {
    let mut result = StoryResult::begin(CHAPTER, stage.timeline.elapsed());
    let outcome = act(stage, &mut result).await;
    super::conclude(stage, result, outcome)
}

async fn act(stage: &Stage, result: &mut StoryResult) -> Result<(), Text> {
    let timeline = &stage.timeline;
    let (witness, lost) = (&stage.sites[0], &stage.sites[1]);
    let before = holders(witness).await.unwrap_or_default();
    if !before.contains(&lost.name().to_owned()) {
        return Err(messages::broke(&format!("{} does not hold the service: {}", lost.name(), before.join(", "))));
    }

    timeline.say(CHAPTER, Mark::Fault, messages::site_lost(lost.name()));
    let (loss, loss_at, loss_wall) = (Instant::now(), timeline.elapsed(), Timestamp::now());
    lost.lose(&stage.supervisor).await;

    let (moved, answered, suspected) = tokio::join!(
        takeover(stage, lost, &before, loss),
        first_answer(stage, &before, loss_at),
        suspicion(stage, lost, loss_wall),
    );
    result.healed = answered.as_ref().ok().copied();
    if let Ok((trace_id, after)) = &suspected {
        result.trace_id = Some(trace_id.clone());
        result.detected = Some(*after);
    }
    moved?;
    answered?;
    tokio::time::sleep(CALM).await;
    let outage = stage.traffic.between(loss_at, timeline.elapsed());
    let said =
        if outage.errors == 0 { messages::no_outage() } else { messages::outage(outage.error_window(), outage.errors) };
    timeline.say(CHAPTER, Mark::Note, said);
    result.outage = Some(outage);
    suspected?;

    come_back(stage, lost, &before).await
}

/// Waits until the assignment map names another site in place of the lost one.
async fn takeover(stage: &Stage, lost: &Site, before: &[String], loss: Instant) -> Result<(), Text> {
    let taker = until(&stage.timeline, messages::waiting_takeover(lost.name()), TAKEOVER_LIMIT, || async {
        let now = holders(&stage.sites[0]).await?;
        let taker = now.iter().find(|site| !before.contains(site))?.clone();
        (!now.contains(&lost.name().to_owned())).then_some(taker)
    })
    .await?;
    stage.timeline.say(CHAPTER, Mark::Step, messages::site_took_over(&taker, lost.name(), loss.elapsed()));
    Ok(())
}

/// Waits until a site that did not serve before answers clients; returns how long after the loss it did.
async fn first_answer(stage: &Stage, before: &[String], loss_at: Duration) -> Result<Duration, Text> {
    let others: Vec<&str> =
        stage.sites.iter().map(Site::name).filter(|name| !before.iter().any(|site| site == name)).collect();
    let waiting = messages::waiting_rotation(&others.join(", "));
    let (site, answered) = until(&stage.timeline, waiting, TAKEOVER_LIMIT, || async {
        others.iter().find_map(|site| Some((*site, stage.traffic.first_answer(site, loss_at)?)))
    })
    .await?;
    let after = answered.saturating_sub(loss_at);
    stage.timeline.say(CHAPTER, Mark::Good, messages::clients_reach(site, after));
    Ok(after)
}

/// Brings the lost site back and waits until it holds its share again and clients use it.
async fn come_back(stage: &Stage, lost: &Site, before: &[String]) -> Result<(), Text> {
    let timeline = &stage.timeline;
    timeline.say(CHAPTER, Mark::Act, messages::site_returns(lost.name()));
    let (returned, returned_at) = (Instant::now(), timeline.elapsed());
    lost.restore(&stage.supervisor).await.map_err(|error| messages::broke(&format!("{error:#}")))?;
    until(timeline, messages::waiting_failback(lost.name()), FAILBACK_LIMIT, || async {
        let mut now = holders(&stage.sites[0]).await?;
        let mut wanted = before.to_vec();
        now.sort();
        wanted.sort();
        (now == wanted).then_some(())
    })
    .await?;
    let failed_back = returned.elapsed();
    until(timeline, messages::waiting_rotation(&before.join(" + ")), TAKEOVER_LIMIT, || async {
        let rotation = stage.balancer.rotation();
        (rotation.len() == before.len() && before.iter().all(|site| rotation.contains(site))).then_some(())
    })
    .await?;
    tokio::time::sleep(CALM).await;
    timeline.say(CHAPTER, Mark::Good, messages::site_failed_back(&before.join(" + "), failed_back));
    let back = stage.traffic.between(returned_at, timeline.elapsed());
    timeline.say(CHAPTER, Mark::Note, messages::client_errors_back(back.errors, back.requests));
    Ok(())
}

/// Sites that the service's status names as holders, as one site sees it.
async fn holders(site: &Site) -> Option<Vec<String>> {
    let services: Api<MultiActiveService> = Api::namespaced(site.client.clone(), NAMESPACE);
    let service = services.get_opt(SERVICE).await.ok()??;
    Some(service.status?.holders.into_iter().map(|holder| holder.site).collect())
}

/// The incident of the loss, from the plane: its trace, and how long after the loss its first span began.
async fn suspicion(stage: &Stage, lost: &Site, since: Timestamp) -> Result<(String, Duration), Text> {
    let (trace_id, after) =
        until(&stage.timeline, messages::waiting_suspected(lost.name()), SUSPICION_LIMIT, || async {
            let incidents = stage.plane.incidents().await.ok()?;
            incidents
                .into_iter()
                .filter(|incident| incident.kind == span::SITE_SUSPECTED)
                .filter_map(|incident| Some((incident.trace_id, incident.detected_at?.parse::<Timestamp>().ok()?)))
                .filter(|(_, at)| *at >= since)
                .min_by_key(|(_, at)| *at)
                .and_then(|(trace_id, at)| Some((trace_id, Duration::try_from(at.duration_since(since)).ok()?)))
        })
        .await?;
    stage.timeline.say(CHAPTER, Mark::Step, messages::site_suspected(lost.name(), after));
    Ok((trace_id, after))
}
