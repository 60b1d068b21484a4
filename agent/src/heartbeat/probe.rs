//! Looks whether a peer's agent answers: several tries in a second, over fresh connections, each bounded.

use std::{net::SocketAddr, time::Duration};

use evergreen_api::heartbeat::ProbeOutcome;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout_at},
};

/// Tries of one probe.
pub const TRIES: u32 = 6;
/// One try begins so long after the other and does not wait for it: a lost packet costs a try, not the probe.
const STAGGER: Duration = Duration::from_millis(200);
/// All of them are over after this.
const WITHIN: Duration = Duration::from_millis(1_200);

/// Asks `GET /healthz` at an address. Any HTTP answer is a sign of life, whatever it says.
pub async fn probe(address: SocketAddr) -> ProbeOutcome {
    let begin = Instant::now();
    let end = begin + WITHIN;
    let attempts = (0..TRIES).map(|number| async move {
        sleep_until(begin + STAGGER * number).await;
        timeout_at(end, ask(address)).await.unwrap_or(ProbeOutcome::Silent)
    });
    let mut attempts: FuturesUnordered<_> = attempts.collect();
    let mut refused = 0;
    while let Some(outcome) = attempts.next().await {
        match outcome {
            ProbeOutcome::Answered => return ProbeOutcome::Answered,
            ProbeOutcome::Refused => refused += 1,
            ProbeOutcome::Silent => {}
        }
    }
    // A refusal is told only if there was nothing else: a middlebox that resets now and then is no host.
    if refused == TRIES { ProbeOutcome::Refused } else { ProbeOutcome::Silent }
}

async fn ask(address: SocketAddr) -> ProbeOutcome {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut head = [0_u8; 5];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(&head == b"HTTP/")
    };
    match asked.await {
        Ok(true) => ProbeOutcome::Answered,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => ProbeOutcome::Refused,
        _ => ProbeOutcome::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_answers_a_host_that_refuses_and_one_that_says_nothing_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let well = listener.local_addr().unwrap();
        let app = axum::Router::new()
            .route("/healthz", axum::routing::get(|| async { axum::http::StatusCode::SERVICE_UNAVAILABLE }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        assert_eq!(probe(well).await, ProbeOutcome::Answered);

        // Accepted by the kernel, answered by nobody: a process that is stopped looks like this.
        let stopped = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert_eq!(probe(stopped.local_addr().unwrap()).await, ProbeOutcome::Silent);

        let gone = stopped.local_addr().unwrap();
        drop(stopped);
        assert_eq!(probe(gone).await, ProbeOutcome::Refused);
    }
}
