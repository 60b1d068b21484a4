//! Power of nodes as their management controllers (BMCs) see it, for nodes that cannot see theirs.
//!
//! The leader asks the BMCs that the ConfigMap `evergreen-bmc` names, at a bounded rate. [`judge`] says what to think of a
//! reading, [`meter`] turns power into energy and [`account`] says whose energy it is; all three are pure. A node whose
//! agent lives gets its wall power with the answer to its heartbeat and accounts for it itself, so that pods, system and
//! idle stay exact; the site accounts only for nodes without an agent, for machines that are off, and for the time between
//! an agent's last word and the next boot. It reads; it never switches anything.

pub mod account;
mod book;
mod follow;
pub mod inventory;
pub mod judge;
pub mod meter;
mod names;
mod secrets;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evergreen_api::resources::NodeHealth;
use evergreen_bmc::AllowList;
use kube::{Api, Client, ResourceExt, api::ListParams};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use self::{
    book::PowerBook,
    secrets::{Login, SecretError, read_login},
};
use self::{follow::Follower, inventory::Entry};
use crate::site::clients::CALL_TIMEOUT;

/// How often the inventory, the Secrets and the list of agents are read anew.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What following BMCs needs.
#[derive(Clone)]
pub struct PowerContext {
    /// Client of this data center's API server.
    pub client: Client,
    /// Networks in which BMCs may be.
    pub allowed: AllowList,
    /// Between two readings of one BMC.
    pub interval: Duration,
    /// BMCs that are asked at a time.
    pub at_a_time: usize,
    /// Where readings go.
    pub book: PowerBook,
}

/// A BMC that is being followed.
struct Followed {
    entry: Entry,
    login: Arc<Login>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Follows the BMCs of this site's nodes for as long as the term lasts.
pub async fn run(context: PowerContext, term: CancellationToken) {
    let slots = Arc::new(Semaphore::new(context.at_a_time));
    let mut followed: BTreeMap<String, Followed> = BTreeMap::new();
    let mut said = String::new();
    context.book.begin_term();
    while !term.is_cancelled() {
        let outcome = tokio::time::timeout(CALL_TIMEOUT, look(&context.client)).await;
        let now = match outcome {
            Ok(Ok(Some(look))) => {
                context.book.agents(look.agents);
                Some(renew(&context, &mut followed, look.entries, look.logins, &slots, &term).await)
            }
            Ok(Ok(None)) => {
                stop(&mut followed, |_| true).await;
                context.book.keep(&[]);
                Some("no ConfigMap evergreen-bmc: no BMC is asked".to_owned())
            }
            // What is followed goes on: a lost API server is no reason to lose energy.
            Ok(Err(why)) => Some(why),
            Err(_) => None,
        };
        if let Some(now) = now
            && now != said
        {
            tracing::info!("{now}");
            said = now;
        }
        tokio::select! {
            () = term.cancelled() => break,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
    stop(&mut followed, |_| true).await;
    context.book.end_term();
}

struct Look {
    entries: Vec<Entry>,
    logins: BTreeMap<String, Result<Arc<Login>, String>>,
    agents: Vec<String>,
}

async fn look(client: &Client) -> Result<Option<Look>, String> {
    let Some(text) = inventory::read(client).await.map_err(|error| error.to_string())? else { return Ok(None) };
    let entries = inventory::parse(&text).map_err(|error| error.to_string())?;
    let mut logins = BTreeMap::new();
    for entry in &entries {
        if !logins.contains_key(&entry.secret) {
            let login = match secrets::read_login(client, &entry.secret).await {
                // Nothing is let go of because the API server has a bad moment.
                Err(error) if error.is_passing() => return Err(error.to_string()),
                login => login.map(Arc::new).map_err(|error| error.to_string()),
            };
            logins.insert(entry.secret.clone(), login);
        }
    }
    let agents = Api::<NodeHealth>::all(client.clone())
        .list_metadata(&ListParams::default())
        .await
        .map_err(|error| format!("the NodeHealth objects cannot be listed: {error}"))?;
    Ok(Some(Look { entries, logins, agents: agents.iter().map(ResourceExt::name_any).collect() }))
}

/// Follows what is new or changed, lets go of what is gone, and says what is followed.
async fn renew(
    context: &PowerContext,
    followed: &mut BTreeMap<String, Followed>,
    entries: Vec<Entry>,
    logins: BTreeMap<String, Result<Arc<Login>, String>>,
    slots: &Arc<Semaphore>,
    term: &CancellationToken,
) -> String {
    let nodes: Vec<String> = entries.iter().map(|entry| entry.node.clone()).collect();
    context.book.keep(&nodes);
    let mut wanted = BTreeMap::new();
    for entry in entries {
        match logins.get(&entry.secret) {
            Some(Ok(login)) => {
                wanted.insert(entry.node.clone(), (entry, login.clone()));
            }
            Some(Err(why)) => context.book.failed(&entry.node, "configuration", why),
            None => {}
        }
    }
    stop(followed, |(node, now)| {
        wanted.get(node).is_none_or(|(entry, login)| *entry != now.entry || login.version != now.login.version)
    })
    .await;
    for (node, (entry, login)) in wanted {
        followed.entry(node).or_insert_with(|| {
            let stop = term.child_token();
            let follower = Follower::new(context, entry.clone(), login.clone(), slots.clone());
            let task = tokio::spawn(follower.run(stop.clone()));
            Followed { entry, login, stop, task }
        });
    }
    format!("asking the BMCs of {} of {} nodes in evergreen-bmc for their power", followed.len(), nodes.len())
}

/// Stops followers and waits until they gave their sessions back.
async fn stop(followed: &mut BTreeMap<String, Followed>, which: impl Fn((&String, &Followed)) -> bool) {
    let ending: Vec<String> =
        followed.iter().filter(|(node, now)| which((node, now))).map(|(node, _)| node.clone()).collect();
    let tasks: Vec<JoinHandle<()>> = ending
        .iter()
        .filter_map(|node| followed.remove(node))
        .map(|gone| {
            gone.stop.cancel();
            gone.task
        })
        .collect();
    for task in tasks {
        let _ = task.await;
    }
}
