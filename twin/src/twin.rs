//! A twin: one simulated data center with everything that belongs to it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use jiff::Timestamp;

use crate::apiserver::http::router;
use crate::apiserver::server::ApiServer;
use crate::apiserver::store::DEFAULT_RING;
use crate::faults::Faults;
use crate::transport::{InProcess, Served, serve};

/// A node of a twin.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Name.
    pub name: String,
}

/// Collects what a twin is made of.
#[derive(Debug)]
pub struct TwinBuilder {
    site: String,
    seed: u64,
    epoch: Timestamp,
    ring: usize,
    nodes: Vec<NodeSpec>,
}

impl TwinBuilder {
    /// Seed of all random choices (UIDs, name suffixes); the site's name gives the default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The time that the data center's clock starts at; now, if not set.
    pub fn epoch(mut self, epoch: Timestamp) -> Self {
        self.epoch = epoch;
        self
    }

    /// How many changes a watch may lag behind before it gets 410.
    pub fn watch_ring(mut self, changes: usize) -> Self {
        self.ring = changes;
        self
    }

    /// Adds a node.
    pub fn node(mut self, node: NodeSpec) -> Self {
        self.nodes.push(node);
        self
    }

    /// Makes the twin. Nothing runs in it before [`Twin::start`].
    pub fn build(self) -> Twin {
        let api = ApiServer::new(&self.site, self.seed, self.epoch, self.ring);
        Twin { inner: Arc::new(Inner { api }) }
    }
}

#[derive(Debug)]
struct Inner {
    api: ApiServer,
}

/// A simulated data center. Clones share everything.
#[derive(Debug, Clone)]
pub struct Twin {
    inner: Arc<Inner>,
}

impl Twin {
    /// A twin of that site.
    pub fn builder(site: &str) -> TwinBuilder {
        let seed = site.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        TwinBuilder { site: site.to_owned(), seed, epoch: Timestamp::now(), ring: DEFAULT_RING, nodes: Vec::new() }
    }

    /// Name of the site.
    pub fn site(&self) -> &str {
        self.inner.api.site()
    }

    /// The API server, for direct reads and set-up.
    pub fn api(&self) -> &ApiServer {
        &self.inner.api
    }

    /// The API as a router.
    pub fn router(&self) -> Router {
        router(self.inner.api.clone())
    }

    /// An in-process client. Must be called inside a tokio runtime.
    pub fn client(&self, identity: &str) -> kube::Client {
        InProcess::client(self.router(), identity, "default")
    }

    /// Serves the API over plain HTTP; port 0 picks a free one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn serve(&self, addr: SocketAddr) -> std::io::Result<Served> {
        serve(self.router(), Some(self.faults()), addr, self.site()).await
    }

    /// The faults of this data center.
    pub fn faults(&self) -> Faults {
        self.inner.api.faults().clone()
    }
}
