//! Clients: write values that nobody else writes, read, and note down everything.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::history::{Operation, Outcome, Record};
use crate::http::{Http, NoAnswer};

/// A client waits this long for an answer, then goes on.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two operations of a client.
const PAUSE: Duration = Duration::from_millis(30);

/// Clients at work.
pub struct Workload {
    begin: Instant,
    history: Arc<Mutex<Vec<Record>>>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

/// What a client does with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes and reads of the register, by turns.
    Register,
    /// `GET /hello` of a service that keeps nothing.
    Stateless,
}

impl Workload {
    /// Starts a client for each list of addresses; a client asks its addresses in turn. `name` begins all its values,
    /// so it has to be new.
    pub fn start(name: &str, kind: Kind, clients: Vec<Vec<String>>) -> Self {
        let (begin, history, stop) = (Instant::now(), Arc::default(), CancellationToken::new());
        let mut running = JoinSet::new();
        for (client, addresses) in clients.into_iter().enumerate() {
            let (history, stop, name) = (Arc::clone(&history), stop.clone(), format!("{name}-{client}"));
            running.spawn(run(client, name, kind, addresses, begin, history, stop));
        }
        Self { begin, history, stop, clients: running }
    }

    /// Now, as the history counts.
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The history so far.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn so_far(&self) -> Vec<Record> {
        self.history.lock().expect("nobody panics while holding it").clone()
    }

    /// Waits until an operation that began after `since` was done, for at most `bound`.
    ///
    /// # Errors
    /// The last records, when there is none in time.
    pub async fn served_since(
        &self,
        since: Duration,
        bound: Duration,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Record, String> {
        let begin = Instant::now();
        loop {
            let done = |record: &&Record| record.invoked >= since && record.done_by().is_some() && wanted(record);
            {
                let history = self.history.lock().expect("nobody panics while holding it");
                if let Some(record) = history.iter().rev().take(2_000).filter(done).min_by_key(|r| r.ended) {
                    return Ok(record.clone());
                }
                if begin.elapsed() > bound {
                    let last: Vec<String> = history.iter().rev().take(4).map(|r| format!("{:?}", r.outcome)).collect();
                    return Err(format!("no operation was done within {bound:?}; last: {}", last.join(", ")));
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the clients and answers their history.
    pub async fn stop(mut self) -> Vec<Record> {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
        self.so_far()
    }
}

async fn run(
    client: usize,
    name: String,
    kind: Kind,
    addresses: Vec<String>,
    begin: Instant,
    history: Arc<Mutex<Vec<Record>>>,
    stop: CancellationToken,
) {
    let http = Http::new(PATIENCE);
    let turn = AtomicUsize::new(client);
    let mut written = 0_u64;
    while !stop.is_cancelled() {
        let at = turn.fetch_add(1, Ordering::Relaxed);
        let address = &addresses[(at / 2) % addresses.len()];
        let invoked = begin.elapsed();
        let (operation, answer) = match kind {
            Kind::Register if at.is_multiple_of(2) => {
                written += 1;
                let value = format!("{name}-{written}");
                let answer = http.post(&format!("{address}/write?value={value}"), String::new()).await;
                (Operation::Write(value), answer)
            }
            Kind::Register => (Operation::Read, http.get(&format!("{address}/read")).await),
            Kind::Stateless => (Operation::Read, http.get(&format!("{address}/hello")).await),
        };
        let outcome = outcome(answer);
        let record = Record { client, operation, invoked, ended: begin.elapsed(), outcome };
        history.lock().expect("nobody panics while holding it").push(record);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// 503 is refused by the server before anything was done, or by a load balancer that had nobody to ask.
pub fn outcome(answer: Result<(u16, String), NoAnswer>) -> Outcome {
    match answer {
        Ok((200, body)) => {
            let mut parts = body.trim_end_matches('\n').splitn(3, ' ');
            let site = parts.next().unwrap_or_default().to_owned();
            let token = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
            Outcome::Ok { site, token, value: parts.next().unwrap_or_default().to_owned() }
        }
        Ok((503, body)) => Outcome::Refused(body),
        Ok((status, body)) => Outcome::Unknown(format!("{status}: {body}")),
        Err(NoAnswer::NotSent(why)) => Outcome::Refused(why),
        Err(NoAnswer::Unknown(why)) => Outcome::Unknown(why),
    }
}
