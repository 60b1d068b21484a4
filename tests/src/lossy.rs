//! A network between agents on one machine that loses what it is told to: each agent gives the address of a relay as its
//! own, and the relay knows who sends, because an agent probes from the port that it listens on.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{net::UdpSocket, task::JoinSet};

/// Pairs of nodes that do not reach each other, in either direction.
pub type Cuts = Arc<Mutex<BTreeSet<(String, String)>>>;

/// Relays for all nodes. They end when this is dropped.
pub struct Lossy {
    /// Address of each node's relay.
    pub addresses: BTreeMap<String, SocketAddr>,
    cuts: Cuts,
    _relays: JoinSet<()>,
}

impl Lossy {
    /// Relays for nodes that listen at these addresses.
    ///
    /// # Panics
    /// When the machine has no port left.
    pub async fn between(nodes: &BTreeMap<String, SocketAddr>) -> Self {
        let (cuts, mut relays, mut addresses) = (Cuts::default(), JoinSet::new(), BTreeMap::new());
        let senders: BTreeMap<SocketAddr, String> = nodes.iter().map(|(node, at)| (*at, node.clone())).collect();
        for (node, address) in nodes {
            let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
            addresses.insert(node.clone(), socket.local_addr().expect("it is bound"));
            relays.spawn(relay(Arc::new(socket), node.clone(), *address, senders.clone(), cuts.clone()));
        }
        Self { addresses, cuts, _relays: relays }
    }

    /// Cuts a node off from all others.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn cut_off(&self, node: &str) {
        for other in self.addresses.keys().filter(|other| *other != node) {
            self.cut(node, other);
        }
    }

    /// Cuts two nodes off from each other.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn cut(&self, a: &str, b: &str) {
        let mut cuts = self.cuts.lock().expect("nobody panics while holding it");
        cuts.extend([(a.to_owned(), b.to_owned()), (b.to_owned(), a.to_owned())]);
    }

    /// Everybody reaches everybody again.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn mend(&self) {
        self.cuts.lock().expect("nobody panics while holding it").clear();
    }
}

async fn relay(
    socket: Arc<UdpSocket>,
    node: String,
    behind: SocketAddr,
    senders: BTreeMap<SocketAddr, String>,
    cuts: Cuts,
) {
    // One way back for each sender.
    let mut ways: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut backs = JoinSet::new();
    let mut buffer = vec![0; 10_000];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Some(sender) = senders.get(&from) else { continue };
        if cuts.lock().expect("nobody panics while holding it").contains(&(sender.clone(), node.clone())) {
            continue;
        }
        if let Entry::Vacant(entry) = ways.entry(from) {
            let Ok(way) = UdpSocket::bind("127.0.0.1:0").await else { continue };
            let way = entry.insert(Arc::new(way)).clone();
            let socket = socket.clone();
            backs.spawn(async move {
                let mut buffer = vec![0; 10_000];
                while let Ok((length, _)) = way.recv_from(&mut buffer).await {
                    let _ = socket.send_to(&buffer[..length], from).await;
                }
            });
        }
        if let Some(way) = ways.get(&from) {
            let _ = way.send_to(&buffer[..length], behind).await;
        }
    }
}
