//! Links between controllers and API servers that delay, lose and cut.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Request;
use kube::{Client, client::Body};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

/// What every message has to live with.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Share of messages lost between two sites.
    pub loss: f64,
    /// Longest delay of a message between two sites, milliseconds.
    pub delay_ms: u64,
}

struct State {
    random: StdRng,
    weather: Weather,
    /// Until when nothing goes from a site to another one (false), or comes back (true).
    cut: BTreeMap<(usize, usize, bool), Instant>,
    requests: u64,
}

/// The network between all sites.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

impl Network {
    pub fn new(seed: u64, weather: Weather) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self(Arc::new(Mutex::new(State { random, weather, cut: BTreeMap::new(), requests: 0 })))
    }

    /// A number by chance.
    pub fn chance(&self, range: std::ops::Range<u64>) -> u64 {
        self.0.lock().random.random_range(range)
    }

    /// Something happens with this probability.
    pub fn happens(&self, probability: f64) -> bool {
        self.0.lock().random.random_bool(probability)
    }

    /// Requests that were sent.
    pub fn requests(&self) -> u64 {
        self.0.lock().requests
    }

    /// From now on nothing is lost or cut.
    pub fn mend(&self) {
        let mut state = self.0.lock();
        state.weather = Weather { loss: 0.0, delay_ms: 20 };
        state.cut.clear();
    }

    /// Cuts one direction between a controller and an API server.
    pub fn cut(&self, from: usize, to: usize, back: bool, for_ms: u64) {
        self.0.lock().cut.insert((from, to, back), Instant::now() + Duration::from_millis(for_ms));
    }

    /// When a message arrives, if it does.
    fn passage(&self, from: usize, to: usize, back: bool) -> Option<Duration> {
        let mut state = self.0.lock();
        let Weather { loss, delay_ms } = state.weather;
        if from == to {
            return Some(Duration::from_millis(state.random.random_range(1..4)));
        }
        let delay = state.random.random_range(1..=delay_ms.max(2));
        let lost = state.random.random_bool(loss);
        let cut = state.cut.get(&(from, to, back)).is_some_and(|until| *until > Instant::now());
        (!lost && !cut).then(|| Duration::from_millis(delay))
    }

    async fn way(&self, from: usize, to: usize, back: bool) {
        match self.passage(from, to, back) {
            Some(delay) => tokio::time::sleep(delay).await,
            // Whoever waits gives up by itself.
            None => std::future::pending().await,
        }
    }

    /// A client of the controller at `from` for the API server of `to`.
    pub fn client(&self, from: usize, to: usize, server: Client) -> Client {
        let network = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (network, server) = (network.clone(), server.clone());
            async move {
                network.0.lock().requests += 1;
                network.way(from, to, false).await;
                let answer = server.send(request).await?;
                network.way(from, to, true).await;
                Ok::<_, kube::Error>(answer)
            }
        });
        Client::new(service, "default")
    }
}
