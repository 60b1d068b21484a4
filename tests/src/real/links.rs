//! Links between two parts of a fleet: TCP relays that a test spoils.
//!
//! A relay sees no segments, so loss is told in time, as TCP tells it to programs: a lost segment comes after another
//! retransmission time-out, twice as long for each further loss; a lost SYN after one second. What a cut link was given
//! is kept and delivered when the link is mended, whether or not the sender still waits: the late write of which no
//! answer told. New connections over a cut link are accepted and lead nowhere.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

/// Time-out of the first retransmission beyond the round trip: Linux never takes less than 200 ms.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// The first retransmission of a SYN.
const SYN_RETRANSMIT: Duration = Duration::from_secs(1);
/// Linux doubles the time-out each time; beyond this a connection is as good as dead.
const LONGEST: Duration = Duration::from_secs(30);
const CHUNK: usize = 16 << 10;

/// How a link behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Time that each way takes.
    pub delay: Duration,
    /// Segments lost, in percent.
    pub loss_percent: u8,
    /// Nothing goes from the one who connects.
    pub cut_there: bool,
    /// Nothing comes back.
    pub cut_back: bool,
    /// Connections are reset and refused.
    pub refused: bool,
}

impl Quality {
    /// A link that works.
    pub const GOOD: Self =
        Self { delay: Duration::ZERO, loss_percent: 0, cut_there: false, cut_back: false, refused: false };
    /// 30 % loss and 100 ms each way.
    pub const BAD: Self = Self { delay: Duration::from_millis(100), loss_percent: 30, ..Self::GOOD };
    /// A black hole: connections stay open and nothing arrives.
    pub const CUT: Self = Self { cut_there: true, cut_back: true, ..Self::GOOD };
}

#[derive(Clone, Copy)]
enum Way {
    There,
    Back,
}

struct Link {
    address: SocketAddr,
    quality: watch::Sender<Quality>,
    /// The links between the same two parts that this one took the place of.
    replaced: Vec<watch::Sender<Quality>>,
}

/// All links, by who connects and to what. They end when this is dropped.
pub struct Links {
    links: Mutex<BTreeMap<(String, String), Link>>,
    relays: Mutex<JoinSet<()>>,
    chance: Arc<AtomicU64>,
}

impl Links {
    /// No links yet; `seed` decides which segments are lost.
    pub fn new(seed: u64) -> Self {
        Self {
            links: Mutex::new(BTreeMap::new()),
            relays: Mutex::new(JoinSet::new()),
            chance: Arc::new(AtomicU64::new(seed | 1)),
        }
    }

    /// Address at which `from` reaches `to`, which listens at `target`. A link that was there stays as it is, for who
    /// knows its address, until [`Self::release_old`].
    ///
    /// # Panics
    /// When the machine has no port left.
    pub async fn between(&self, from: &str, to: &str, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (quality, seen) = watch::channel(Quality::GOOD);
        let chance = self.chance.clone();
        self.relays.lock().expect("nobody panics while holding it").spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(relay(client, target, seen.clone(), chance.clone()));
            }
        });
        let mut links = self.links.lock().expect("nobody panics while holding it");
        let ends = (from.to_owned(), to.to_owned());
        let replaced =
            links.remove(&ends).map_or_else(Vec::new, |old| old.replaced.into_iter().chain([old.quality]).collect());
        links.insert(ends, Link { address, quality, replaced });
        address
    }

    /// Address of a link that was made.
    ///
    /// # Panics
    /// When it was not.
    pub fn address(&self, from: &str, to: &str) -> SocketAddr {
        let links = self.links.lock().expect("nobody panics while holding it");
        links.get(&(from.to_owned(), to.to_owned())).unwrap_or_else(|| panic!("no link {from} -> {to}")).address
    }

    /// Changes every link that `which` picks by the names of its ends.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn set(&self, which: impl Fn(&str, &str) -> bool, change: impl Fn(&mut Quality)) {
        for ((from, to), link) in self.links.lock().expect("nobody panics while holding it").iter() {
            if which(from, to) {
                link.quality.send_modify(&change);
            }
        }
    }

    /// Links that others took the place of carry what they hold, and work.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn release_old(&self) {
        for link in self.links.lock().expect("nobody panics while holding it").values_mut() {
            for old in &link.replaced {
                old.send_replace(Quality::GOOD);
            }
        }
    }

    /// Every link works again. What the cut ones were given goes on its way.
    pub fn mend(&self) {
        self.set(|_, _| true, |quality| *quality = Quality::GOOD);
    }
}

/// xorshift: which segments are lost needs no better chance than that, only one that a seed gives again.
fn percent(chance: &AtomicU64) -> u8 {
    let next = |mut x: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^ (x << 17)
    };
    let before = chance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |x| Some(next(x))).unwrap_or(1);
    u8::try_from((before >> 11) % 100).unwrap_or(0)
}

/// How much later a segment comes because it was lost, perhaps more than once.
fn lost_for(quality: &Quality, first: Duration, chance: &AtomicU64) -> Duration {
    let (mut late, mut wait) = (Duration::ZERO, first);
    while percent(chance) < quality.loss_percent && late < LONGEST {
        late += wait;
        wait *= 2;
    }
    late
}

async fn until(seen: &mut watch::Receiver<Quality>, wanted: impl FnMut(&Quality) -> bool) {
    // The sender is gone when the fleet is; then nothing is relayed any more.
    if seen.wait_for(wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn relay(client: TcpStream, target: SocketAddr, mut seen: watch::Receiver<Quality>, chance: Arc<AtomicU64>) {
    let quality = *seen.borrow();
    if quality.refused {
        return;
    }
    // The three ways of the handshake: the client believes it done already, its bytes wait here.
    let handshake = quality.delay * 2 + lost_for(&quality, SYN_RETRANSMIT, &chance);
    tokio::time::sleep(handshake).await;
    until(&mut seen, |quality| !quality.cut_there && !quality.cut_back).await;
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let there = carry(client_read, server_write, Way::There, seen.clone(), chance.clone());
    let back = carry(server_read, client_write, Way::Back, seen.clone(), chance);
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        () = until(&mut seen, |quality| quality.refused) => {}
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    way: Way,
    mut seen: watch::Receiver<Quality>,
    chance: Arc<AtomicU64>,
) {
    let cut = move |quality: &Quality| match way {
        Way::There => quality.cut_there,
        Way::Back => quality.cut_back,
    };
    // Each piece with the moment at which it arrives; an empty piece is the end.
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    let look = seen.clone();
    let reader = async move {
        let mut arrives = Instant::now();
        loop {
            let mut piece = vec![0; CHUNK];
            let length = from.read(&mut piece).await.unwrap_or(0);
            piece.truncate(length);
            let quality = *look.borrow();
            let first = RETRANSMIT + quality.delay * 2;
            // What comes after a lost segment waits for it.
            arrives = arrives.max(Instant::now() + quality.delay + lost_for(&quality, first, &chance));
            if sender.send((arrives, piece)).await.is_err() || length == 0 {
                return;
            }
        }
    };
    let writer = async move {
        while let Some((arrives, piece)) = pieces.recv().await {
            tokio::time::sleep_until(arrives).await;
            until(&mut seen, |quality| !cut(quality)).await;
            if piece.is_empty() || to.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    // A reader that goes on after its writer failed ends with the next piece.
    tokio::join!(reader, writer);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_cut_link_holds_what_it_was_given_and_delivers_it_when_it_is_mended() {
        let links = Links::new(1);
        let at = links.between("a", "b", echo().await).await;
        let mut stream = TcpStream::connect(at).await.unwrap();
        let mut answer = [0; 2];
        stream.write_all(b"hi").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        links.set(|from, _| from == "a", |quality| *quality = Quality::CUT);
        stream.write_all(b"yo").await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut answer)).await;
        assert!(silent.is_err(), "a cut link carried something");
        links.mend();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"yo");
    }

    #[test]
    fn three_in_ten_segments_are_lost() {
        let chance = AtomicU64::new(7);
        let lost = (0..10_000).filter(|_| percent(&chance) < 30).count();
        assert!((2_800..3_200).contains(&lost), "{lost}");
    }
}
