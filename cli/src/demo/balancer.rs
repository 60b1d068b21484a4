//! The clients of the demo service and the small balancer through which they enter, as through a GSLB: it asks each
//! site whether it may serve, takes a site out on its first failure, and repeats no request, so that errors are honest.

use std::{sync::Arc, time::Duration};

use evergreen_api::grants::Grant;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::traffic::Traffic;
use crate::http::{Http, HttpError};

/// How often each site is asked whether it may serve.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// How long one such question may take.
const CHECK_LIMIT: Duration = Duration::from_millis(400);
/// How long a site stays out after a request to it failed.
const EJECTION: Duration = Duration::from_secs(1);
/// How long a client waits for its answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(1);
/// Requests under way at once; at the demo's rate this is more than two seconds of silence.
const MAX_IN_FLIGHT: usize = 256;

/// One site, as its clients know it.
#[derive(Clone, Debug)]
pub struct SiteEntry {
    /// Name.
    pub name: String,
    /// Where requests enter, as in `http://127.0.0.1:20001`.
    pub entry: String,
    /// Agents of the site that may be asked for the grant, as base URLs.
    pub agents: Vec<String>,
}

/// What the balancer knows about its sites. Pure: time comes in as a value.
#[derive(Debug)]
pub struct Pool {
    members: Vec<Member>,
    turn: usize,
}

#[derive(Debug, Default)]
struct Member {
    granted: Option<u64>,
    out_until: Option<Instant>,
}

impl Pool {
    /// A pool of `count` sites, none of which is known to serve yet.
    pub fn new(count: usize) -> Self {
        Self { members: (0..count).map(|_| Member::default()).collect(), turn: 0 }
    }

    /// The site for the next request: by turns among those in rotation; among all when none is, because a balancer that
    /// knows nothing good must not make it worse.
    pub fn pick(&mut self, now: Instant) -> usize {
        let count = self.members.len();
        let in_rotation = self.rotation(now);
        let next = (1..=count)
            .map(|step| (self.turn + step) % count)
            .find(|index| in_rotation.is_empty() || in_rotation.contains(index))
            .unwrap_or(0);
        self.turn = next;
        next
    }

    /// Sites in rotation.
    pub fn rotation(&self, now: Instant) -> Vec<usize> {
        self.members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.granted.is_some() && member.out_until.is_none_or(|until| now >= until))
            .map(|(index, _)| index)
            .collect()
    }

    /// A site said that it serves, and under which epoch, or that it does not.
    pub fn checked(&mut self, site: usize, epoch: Option<u64>) {
        self.members[site].granted = epoch;
    }

    /// A request to a site failed.
    pub fn failed(&mut self, site: usize, now: Instant) {
        self.members[site].out_until = Some(now + EJECTION);
    }
}

/// The running balancer and its clients.
pub struct Balancer {
    sites: Arc<[SiteEntry]>,
    pool: Arc<Mutex<Pool>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// What the clients ask for.
#[derive(Clone, Debug)]
pub struct Load {
    /// Failover group whose grant puts a site into rotation.
    pub group: String,
    /// Host header.
    pub host: String,
    /// Requests a second.
    pub rate: u32,
}

impl Balancer {
    /// Starts to ask the sites; no client sends anything yet.
    pub fn start(sites: Vec<SiteEntry>, load: &Load) -> Self {
        let this = Self {
            pool: Arc::new(Mutex::new(Pool::new(sites.len()))),
            sites: sites.into(),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let http = Http::new();
        for index in 0..this.sites.len() {
            let checker = Checker {
                site: this.sites[index].clone(),
                index,
                path: format!("/grants/{}", load.group),
                http: http.clone(),
                pool: Arc::clone(&this.pool),
                last: 0,
            };
            this.tasks.spawn(checker.run(this.cancel.clone()));
        }
        this
    }

    /// Lets the clients begin; every request is recorded.
    pub fn open(&self, load: &Load, traffic: Arc<Traffic>) {
        let clients = Clients {
            sites: Arc::clone(&self.sites),
            pool: Arc::clone(&self.pool),
            http: Http::new(),
            host: load.host.clone(),
            traffic,
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
        };
        let period = Duration::from_secs(1) / load.rate.max(1);
        self.tasks.spawn(clients.run(period, self.cancel.clone()));
    }

    /// Names of the sites in rotation.
    pub fn rotation(&self) -> Vec<String> {
        let rotation = self.pool.lock().rotation(Instant::now());
        rotation.into_iter().map(|index| self.sites[index].name.clone()).collect()
    }

    /// Ends everything; requests under way are waited for.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

struct Checker {
    site: SiteEntry,
    index: usize,
    path: String,
    http: Http,
    pool: Arc<Mutex<Pool>>,
    last: usize,
}

impl Checker {
    async fn run(mut self, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            let epoch = self.ask().await;
            self.pool.lock().checked(self.index, epoch);
        }
    }

    /// Epoch of the site's grant: from the agent that answered last, or from the next one when it does not answer.
    async fn ask(&mut self) -> Option<u64> {
        for _ in 0..self.site.agents.len().min(2) {
            let url = format!("{}{}", self.site.agents[self.last % self.site.agents.len()], self.path);
            match self.http.get(&url, None, CHECK_LIMIT).await {
                Ok((StatusCode::OK, body)) => {
                    return serde_json::from_slice::<Grant>(&body).ok().map(|grant| grant.epoch);
                }
                Ok(_) => return None,
                Err(_) => self.last += 1,
            }
        }
        None
    }
}

#[derive(Clone)]
struct Clients {
    sites: Arc<[SiteEntry]>,
    pool: Arc<Mutex<Pool>>,
    http: Http,
    host: String,
    traffic: Arc<Traffic>,
    permits: Arc<Semaphore>,
}

impl Clients {
    async fn run(self, period: Duration, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let requests = TaskTracker::new();
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            let sent = Instant::now();
            let site = self.pool.lock().pick(sent);
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                self.traffic.record(sent, Duration::ZERO, site, Some("too many requests wait".to_owned()));
                continue;
            };
            let clients = self.clone();
            requests.spawn(async move {
                clients.request(sent, site).await;
                drop(permit);
            });
        }
        requests.close();
        requests.wait().await;
    }

    async fn request(&self, sent: Instant, site: usize) {
        let answer = self.http.get(&self.sites[site].entry, Some(&self.host), REQUEST_LIMIT).await;
        let took = sent.elapsed();
        let error = match answer {
            Ok((status, _)) if status.is_success() => None,
            Ok((status, _)) => Some(format!("status {}", status.as_u16())),
            Err(HttpError::TimedOut { .. }) => Some("no answer".to_owned()),
            Err(HttpError::Connect { .. }) => Some("no connection".to_owned()),
            Err(_) => Some("broken answer".to_owned()),
        };
        if error.is_some() {
            self.pool.lock().failed(site, Instant::now());
        }
        self.traffic.record(sent, took, site, error);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use axum::{Json, Router, extract::Path, http::StatusCode, routing::get};

    use super::*;

    #[test]
    fn requests_take_turns_among_the_sites_in_rotation() {
        let now = Instant::now();
        let mut pool = Pool::new(3);
        pool.checked(0, Some(1));
        pool.checked(2, Some(4));
        let picks: Vec<usize> = (0..4).map(|_| pool.pick(now)).collect();
        assert_eq!(picks, [2, 0, 2, 0]);
    }

    #[test]
    fn a_failed_site_is_out_at_once_and_back_after_a_second() {
        let now = Instant::now();
        let mut pool = Pool::new(2);
        pool.checked(0, Some(1));
        pool.checked(1, Some(1));
        pool.failed(1, now);
        assert_eq!(pool.rotation(now), [0]);
        assert_eq!(pool.rotation(now + EJECTION), [0, 1]);
    }

    #[test]
    fn the_pool_is_never_empty() {
        let now = Instant::now();
        let mut pool = Pool::new(2);
        assert_eq!((pool.pick(now), pool.pick(now)), (1, 0));
        pool.checked(0, Some(1));
        pool.failed(0, now);
        assert_eq!((pool.pick(now), pool.pick(now)), (1, 0));
    }

    struct Fake {
        url: String,
        granted: Arc<AtomicBool>,
        served: Arc<AtomicU64>,
    }

    async fn fake_site() -> Fake {
        let (granted, served) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (grants, entries) = (Arc::clone(&granted), Arc::clone(&served));
        let router = Router::new()
            .route(
                "/grants/{group}",
                get(move |Path(group): Path<String>| async move {
                    let grant = Grant {
                        group,
                        site: "s".into(),
                        epoch: 7,
                        incarnation: "i".into(),
                        version: 1,
                        remaining_ms: 1000,
                        signature: String::new(),
                    };
                    if grants.load(Ordering::Relaxed) { Ok(Json(grant)) } else { Err(StatusCode::GONE) }
                }),
            )
            .fallback(get(move || async move {
                entries.fetch_add(1, Ordering::Relaxed);
                "ok"
            }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Fake { url, granted, served }
    }

    #[tokio::test]
    async fn clients_follow_the_grants_and_a_dead_entry_costs_honest_errors() {
        let (a, b) = (fake_site().await, fake_site().await);
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let site = |name: &str, fake: &Fake, entry: &str| SiteEntry {
            name: name.into(),
            entry: entry.into(),
            agents: vec![format!("http://{nobody}"), fake.url.clone()],
        };
        let load = Load { group: "shop.checkout".into(), host: "checkout.example".into(), rate: 200 };
        let dead = format!("http://{nobody}/");
        let sites = vec![site("a", &a, &format!("{}/", a.url)), site("b", &b, &dead)];
        let balancer = Balancer::start(sites, &load);
        wait_for(|| balancer.rotation() == ["a", "b"]).await;
        let traffic = Arc::new(Traffic::new(Instant::now(), vec!["a".into(), "b".into()]));
        balancer.open(&load, Arc::clone(&traffic));
        wait_for(|| a.served.load(Ordering::Relaxed) > 20 && traffic.total().errors > 0).await;
        assert!(traffic.reasons().iter().all(|(reason, _)| reason == "b: no connection"), "{:?}", traffic.reasons());
        b.granted.store(false, Ordering::Relaxed);
        wait_for(|| balancer.rotation() == ["a"]).await;
        balancer.stop().await;
        assert_eq!(b.served.load(Ordering::Relaxed), 0);
    }

    async fn wait_for(mut holds: impl FnMut() -> bool) {
        let wait = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
    }
}
