//! An address behind which nothing is left.
//!
//! A power cut refuses nothing: packets into a dark data center are simply not answered. A closed port on this machine
//! would be kinder than that, because the kernel refuses at once and clients turn elsewhere without losing a moment. So
//! the addresses of a lost site are taken over, and what connects is never answered.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How long an address may take to become free.
const LIMIT: Duration = Duration::from_secs(1);
/// Connections that are held open at an address; more than clients have under way at once.
const MAX_HELD: usize = 1024;

/// A dark address, until it is closed or dropped.
#[derive(Debug)]
pub struct Void {
    cancel: CancellationToken,
    taking: JoinHandle<()>,
}

impl Void {
    /// Takes over an address as soon as it is free; `None` when it does not become free within a second.
    pub async fn open(addr: SocketAddr) -> Option<Self> {
        let bind = async {
            loop {
                match TcpListener::bind(addr).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        let listener = tokio::time::timeout(LIMIT, bind).await.ok()?;
        let cancel = CancellationToken::new();
        let taking = tokio::spawn(take(listener, cancel.clone()));
        Some(Self { cancel, taking })
    }

    /// Gives the address back: when this returns, another may listen there.
    pub async fn close(mut self) {
        self.cancel.cancel();
        let _ = (&mut self.taking).await;
    }
}

impl Drop for Void {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn take(listener: TcpListener, cancel: CancellationToken) {
    let mut held = VecDeque::new();
    while let Some(Ok((stream, _))) = cancel.run_until_cancelled(listener.accept()).await {
        held.push_back(stream);
        if held.len() > MAX_HELD {
            held.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Http, HttpError};

    #[tokio::test]
    async fn who_asks_a_dark_address_hears_nothing_and_it_can_be_given_back() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let void = Void::open(free).await.unwrap();
        let answer = Http::new().get(&format!("http://{free}/"), None, Duration::from_millis(20)).await;
        assert!(matches!(answer, Err(HttpError::TimedOut { .. })), "{answer:?}");
        void.close().await;
        assert!(TcpListener::bind(free).await.is_ok());
    }
}
