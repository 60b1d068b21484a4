//! The API server's state and its reads. Writes are in [`super::write`], HTTP in [`super::http`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::Value;

use super::clock::Clock;
use super::error::ApiError;
use super::events;
use super::metrics::UsageBook;
use super::registry::{Registry, Resource};
use super::store::{Entry, Filter, Store, key};
use super::users::TokenKey;
use crate::faults::Faults;

/// Listings kept for `continue`; the oldest is given up first and then answered 410.
const SNAPSHOTS: usize = 64;

#[derive(Debug)]
struct Snapshot {
    id: u64,
    version: u64,
    entries: Arc<Vec<Arc<Entry>>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) site: String,
    pub(crate) registry: Registry,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) faults: Faults,
    /// Held through every read-modify-write, so that writes are serial.
    pub(crate) write: Mutex<()>,
    /// What nodes and pods were last seen to use.
    pub(crate) usage: UsageBook,
    /// Signs the tokens of service accounts.
    pub(super) token_key: TokenKey,
    default_toleration_seconds: AtomicU64,
    random: Mutex<StdRng>,
    /// Renewals of node leases that nobody has looked at yet.
    pub(super) lazy_leases: Mutex<super::leases::LazyLeases>,
    snapshots: Mutex<(u64, VecDeque<Snapshot>)>,
}

/// The API server of one data center. Clones share everything.
#[derive(Debug, Clone)]
pub struct ApiServer {
    pub(crate) shared: Arc<Shared>,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// Objects.
    pub entries: Vec<Arc<Entry>>,
    /// resourceVersion of the whole list.
    pub version: u64,
    /// Token for the next page, and how many objects remain.
    pub next: Option<(String, usize)>,
}

impl ApiServer {
    /// A server with nothing but what every cluster has from its first moment on.
    pub fn new(site: &str, seed: u64, epoch: Timestamp, ring: usize) -> Self {
        ApiServer::with_clock(site, seed, Clock::starting_at(epoch), ring)
    }

    /// The same, with a clock that may be held.
    pub fn with_clock(site: &str, seed: u64, clock: Clock, ring: usize) -> Self {
        let server = ApiServer {
            shared: Arc::new(Shared {
                site: site.to_owned(),
                registry: Registry::default(),
                store: Store::new(ring),
                clock,
                faults: Faults::default(),
                write: Mutex::default(),
                usage: UsageBook::default(),
                token_key: TokenKey::default(),
                default_toleration_seconds: AtomicU64::new(300),
                random: Mutex::new(StdRng::seed_from_u64(seed)),
                snapshots: Mutex::default(),
                lazy_leases: Mutex::default(),
            }),
        };
        server.bootstrap();
        server
    }

    /// Another server with the same objects, of the same version, whose clock shows the same time and is held. It
    /// has no faults, and what becomes of one is nothing to the other. Costs no more with more objects; see
    /// [`Store::fork`].
    pub fn fork(&self) -> ApiServer {
        let _serial = self.shared.write.lock();
        let from = &self.shared;
        ApiServer {
            shared: Arc::new(Shared {
                site: from.site.clone(),
                registry: from.registry.fork(),
                store: from.store.fork(),
                clock: from.clock.fork(),
                faults: Faults::default(),
                write: Mutex::default(),
                usage: UsageBook::default(),
                token_key: from.token_key.clone(),
                default_toleration_seconds: AtomicU64::new(self.default_toleration_seconds()),
                random: Mutex::new(from.random.lock().clone()),
                snapshots: Mutex::default(),
                lazy_leases: Mutex::new(from.lazy_leases.lock().clone()),
            }),
        }
    }

    /// Goes back to the objects and the version of another server, which is a fork of this one.
    pub(crate) fn restore(&self, past: &ApiServer) {
        let _serial = self.shared.write.lock();
        self.shared.store.restore(past.store());
        self.shared.snapshots.lock().1.clear();
    }

    /// Makes a namespace if it is not there.
    pub fn ensure_namespace(&self, name: &str) {
        let body = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        // The only possible refusal is that it exists already.
        let _ = self.create_object(&body);
    }

    /// Name of the data center.
    pub fn site(&self) -> &str {
        &self.shared.site
    }

    /// The faults at this server's edge.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The server's clock.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Seconds that new pods bear a node that is not ready or not reachable, when they do not say so themselves.
    pub fn default_toleration_seconds(&self) -> u64 {
        self.shared.default_toleration_seconds.load(Ordering::Relaxed)
    }

    /// Changes what new pods bear.
    pub fn set_default_toleration_seconds(&self, seconds: u64) {
        self.shared.default_toleration_seconds.store(seconds, Ordering::Relaxed);
    }

    /// The served resources.
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// A built-in resource.
    pub(crate) fn builtin(&self, group: &str, plural: &str) -> Arc<Resource> {
        self.shared.registry.get(group, "v1", plural).expect("built-in resources are never removed")
    }

    /// A random UUID (version 4) from the seeded source.
    pub(crate) fn new_uid(&self) -> String {
        let mut bytes = [0u8; 16];
        self.shared.random.lock().fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// A random suffix of the letters that Kubernetes uses in generated names.
    pub(crate) fn random_suffix(&self, length: usize) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut random = self.shared.random.lock();
        (0..length).map(|_| char::from(LETTERS[random.next_u32() as usize % LETTERS.len()])).collect()
    }

    /// One object.
    ///
    /// # Errors
    /// 404.
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Arc<Entry>, ApiError> {
        self.shared
            .store
            .get(&resource.storage, &key(namespace, name))
            .ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, name))
    }

    /// An object of a built-in kind, parsed; `None` when it is not there.
    pub fn read(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let storage = super::builtin::storage_name(group, plural);
        self.show_lease(&storage, name);
        self.shared.store.get(&storage, &key(namespace, name)).map(|e| e.value())
    }

    /// All objects of a built-in kind in a namespace (or in all), parsed.
    pub fn read_all(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Value> {
        let storage = super::builtin::storage_name(group, plural);
        let filter = Filter { namespace: namespace.map(str::to_owned), ..Filter::default() };
        self.show_leases(&storage);
        self.shared.store.list(&storage, &filter).0.iter().map(|e| e.value()).collect()
    }

    /// One page of a list.
    ///
    /// # Errors
    /// 400 for a `continue` that is none, 410 for one that is given up, 410 or 504 for a resourceVersion that
    /// cannot be served.
    pub fn list(&self, resource: &Resource, filter: &Filter, options: &ListOptions) -> Result<Page, ApiError> {
        let (entries, version, offset, id) = match &options.continue_token {
            Some(token) => {
                let (id, offset) = parse_token(token)?;
                let snapshots = self.shared.snapshots.lock();
                let found = snapshots.1.iter().find(|s| s.id == id).ok_or_else(|| {
                    ApiError::expired("The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.")
                })?;
                (found.entries.clone(), found.version, offset, Some(id))
            }
            None => {
                let (entries, version) = self.shared.store.list(&resource.storage, filter);
                options.check_version(version)?;
                (Arc::new(entries), version, 0, None)
            }
        };
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let page: Vec<Arc<Entry>> = entries.iter().skip(offset).take(limit).cloned().collect();
        let end = offset + page.len();
        let next = (end < entries.len()).then(|| {
            let id = id.unwrap_or_else(|| self.keep_snapshot(version, entries.clone()));
            (format!("{id}.{end}"), entries.len() - end)
        });
        Ok(Page { entries: page, version, next })
    }

    fn keep_snapshot(&self, version: u64, entries: Arc<Vec<Arc<Entry>>>) -> u64 {
        let mut snapshots = self.shared.snapshots.lock();
        snapshots.0 += 1;
        let id = snapshots.0;
        snapshots.1.push_back(Snapshot { id, version, entries });
        while snapshots.1.len() > SNAPSHOTS {
            snapshots.1.pop_front();
        }
        id
    }

    /// Gives up all kept listings and past changes: every `continue` and every old watch gets 410.
    pub fn compact(&self) {
        self.shared.snapshots.lock().1.clear();
        self.shared.store.compact();
    }
}

fn parse_token(token: &str) -> Result<(u64, usize), ApiError> {
    token
        .split_once('.')
        .and_then(|(id, offset)| Some((id.parse().ok()?, offset.parse().ok()?)))
        .ok_or_else(|| ApiError::bad_request(format!("continue key is not valid: {token}")))
}

/// What a list request asks for besides the filter.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// At most this many objects; 0 means all.
    pub limit: usize,
    /// Token of the page before.
    pub continue_token: Option<String>,
    /// Version that the list must be at least (or exactly) at.
    pub version: Option<u64>,
    /// `resourceVersionMatch=Exact`.
    pub exact: bool,
}

impl ListOptions {
    fn check_version(&self, now: u64) -> Result<(), ApiError> {
        match self.version {
            Some(wanted) if wanted > now => {
                let mut error =
                    ApiError::new(504, "Timeout", format!("Too large resource version: {wanted}, current: {now}"))
                        .because("ResourceVersionTooLarge", "Too large resource version", "");
                error.retry_after_seconds = Some(1);
                Err(error)
            }
            Some(wanted) if self.exact && wanted != now => Err(ApiError::expired(format!(
                "The resourceVersion for the provided list is too old: {wanted} ({now})"
            ))),
            _ => Ok(()),
        }
    }
}

/// An object as a resource serves it: in the version (or the kin) that was asked for.
pub fn served(resource: &Resource, entry: &Entry) -> Bytes {
    if stored_as(resource, &entry.bytes) { entry.bytes.clone() } else { to_bytes(&convert(resource, entry.value())) }
}

/// The same, parsed.
pub fn served_value(resource: &Resource, entry: &Entry) -> Value {
    if stored_as(resource, &entry.bytes) { entry.value() } else { convert(resource, entry.value()) }
}

/// Objects are written with kind and version first, so a look at the first bytes tells the version.
pub(super) fn stored_as(resource: &Resource, bytes: &[u8]) -> bool {
    if resource.custom.is_none() {
        // Only Events are served in two groups, with fields of different names.
        return &*resource.storage != "events" || bytes.starts_with(head_of(resource).as_bytes());
    }
    bytes
        .strip_prefix(b"{\"apiVersion\":\"")
        .and_then(|rest| rest.strip_prefix(resource.api_version().as_bytes()))
        .is_some_and(|rest| rest.starts_with(b"\""))
}

/// How the JSON of a built-in kind begins.
pub(super) fn head_of(resource: &Resource) -> String {
    format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", resource.kind, resource.api_version())
}

fn convert(resource: &Resource, mut value: Value) -> Value {
    if resource.group == "events.k8s.io" {
        return events::to_events_group(value);
    }
    value["apiVersion"] = Value::from(resource.api_version());
    value
}

pub(crate) fn to_bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a JSON value can always be written").into()
}
