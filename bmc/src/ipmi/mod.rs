//! IPMI 2.0 over LAN (RMCP+), with the DCMI extension for power.
//!
//! [`handshake`], [`session`], [`wire`], [`crypto`] and [`commands`] are pure; this file alone has a socket. UDP loses
//! packets, so that questions are sent again; orders whose repetition would do something are not.

mod commands;
mod crypto;
mod handshake;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::{net::UdpSocket, time::Instant};

pub use self::crypto::Suite;
use self::{
    handshake::{Entropy, Handshake, Privilege, Step},
    session::Session,
    wire::{Answer, MAX_PACKET, Request},
};
use crate::{Access, Bmc, BmcError, Credentials, Identity, PowerAction, PowerState, Reading};

/// How long each try waits for an answer: BMCs take up to a second when they are busy. 7 s in all.
const PATIENCE: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Pause before a busy BMC is asked again, and how often.
const BUSY_PAUSE: Duration = Duration::from_millis(300);
const BUSY_TRIES: usize = 5;

/// A BMC that speaks IPMI over LAN.
pub struct IpmiBmc {
    peer: SocketAddr,
    credentials: Credentials,
    privilege: Privilege,
    suites: Vec<Suite>,
    line: Option<Line>,
}

/// A socket with a session on it.
struct Line {
    socket: UdpSocket,
    session: Box<Session>,
}

impl IpmiBmc {
    /// A client; nothing is sent yet. The stronger of the two cipher suites is tried first.
    ///
    /// # Errors
    /// When IPMI cannot carry the credentials.
    pub fn new(peer: SocketAddr, credentials: &Credentials, access: Access) -> Result<Self, BmcError> {
        credentials.check_ipmi()?;
        let privilege = match access {
            Access::Read => Privilege::User,
            Access::Act => Privilege::Operator,
        };
        let suites = vec![Suite::Seventeen, Suite::Three];
        Ok(Self { peer, credentials: credentials.clone(), privilege, suites, line: None })
    }

    /// Only these cipher suites, the best first.
    #[must_use]
    pub fn with_suites(mut self, suites: &[Suite]) -> Self {
        self.suites = suites.to_vec();
        self
    }

    /// Asks. A session that has ended is opened anew once, unless the order must not be given twice.
    async fn ask(&mut self, request: &Request, repeatable: bool) -> Result<Answer, BmcError> {
        for _ in 0..BUSY_TRIES {
            let fresh = self.line.is_none();
            let mut line = match self.line.take() {
                Some(line) => line,
                None => self.log_in().await?,
            };
            // On a session that the BMC may have ended, patience is better spent on a new one.
            let tries = if !repeatable { 1 } else { PATIENCE.len() - usize::from(!fresh) };
            match line.ask(request, tries).await {
                Ok(answer) if matches!(answer.completion, commands::BUSY | commands::NOT_READY) => {
                    self.line = Some(line);
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Ok(answer) => {
                    self.line = Some(line);
                    return Ok(answer);
                }
                // The BMC ended the session (they last about a minute unused), or is gone.
                Err(BmcError::Unreachable(_)) if !fresh && repeatable => {}
                Err(error) => return Err(error),
            }
        }
        Err(BmcError::Refused { what: "an answer".into(), why: "it is busy".into() })
    }

    async fn log_in(&mut self) -> Result<Line, BmcError> {
        let broken = |error: std::io::Error| BmcError::Unreachable(error.to_string());
        let local: SocketAddr = if self.peer.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(local).await.map_err(broken)?;
        socket.connect(self.peer).await.map_err(broken)?;
        let mut outcome = Err(BmcError::Unsupported("IPMI cipher suite 17 or 3".into()));
        for suite in self.suites.clone() {
            if let Some(session) = self.shake_hands(&socket, suite).await? {
                outcome = Ok(session);
                break;
            }
        }
        let mut line = Line { socket, session: outcome? };
        let answer = line.ask(&commands::set_privilege(self.privilege), PATIENCE.len()).await?;
        commands::completed(answer, "the session's privilege")?;
        Ok(line)
    }

    /// None: the BMC does not speak this suite.
    async fn shake_hands(&self, socket: &UdpSocket, suite: Suite) -> Result<Option<Box<Session>>, BmcError> {
        let entropy = Entropy { console: session_id()?, nonce: random()? };
        let (mut handshake, mut packet) =
            Handshake::begin(&self.credentials, self.privilege, suite, &self.suites, entropy);
        loop {
            let step = exchange(
                socket,
                || Ok(packet.clone()),
                PATIENCE.len(),
                |bytes| match handshake.take(bytes) {
                    Step::Ignore(why) => Err(why),
                    step => Ok(step),
                },
            )
            .await?;
            match step {
                Step::Send(next) => packet = next,
                Step::Done(session) => return Ok(Some(session)),
                Step::NoSuite => return Ok(None),
                Step::Failed(error, farewell) => {
                    if let Some(farewell) = farewell {
                        // Courtesy only: without it the BMC frees the slot after a while.
                        let _ = socket.send(&farewell).await;
                    }
                    return Err(error);
                }
                Step::Ignore(_) => {}
            }
        }
    }
}

impl Line {
    async fn ask(&mut self, request: &Request, tries: usize) -> Result<Answer, BmcError> {
        let number = self.session.next_number();
        let session = parking_lot::Mutex::new(&mut self.session);
        exchange(
            &self.socket,
            || Ok(session.lock().seal(request, number, random()?)),
            tries,
            |bytes| session.lock().open(bytes, request, number),
        )
        .await
    }
}

/// Sends until something comes back that is accepted. What is not accepted is as if it had not come.
async fn exchange<T>(
    socket: &UdpSocket,
    mut packet: impl FnMut() -> Result<Vec<u8>, BmcError>,
    tries: usize,
    mut accept: impl FnMut(&[u8]) -> Result<T, &'static str>,
) -> Result<T, BmcError> {
    let mut buffer = [0; MAX_PACKET];
    let (mut refused, mut ignored) = (false, None);
    let last = PATIENCE.len() - 1;
    for attempt in 0..tries {
        let _ = socket.send(&packet()?).await;
        let wait = if tries == 1 { PATIENCE[last] } else { PATIENCE[attempt.min(last)] };
        let deadline = Instant::now() + wait;
        loop {
            match tokio::time::timeout_at(deadline, socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => match accept(&buffer[..length]) {
                    Ok(accepted) => return Ok(accepted),
                    Err(why) => ignored = Some(why),
                },
                // The host says that nothing listens there; it may be that the BMC restarts.
                Ok(Err(_)) => {
                    refused = true;
                    tokio::time::sleep_until(deadline.min(Instant::now() + PATIENCE[0])).await;
                    break;
                }
                Err(_) => break,
            }
        }
    }
    Err(BmcError::Unreachable(match (ignored, refused) {
        (Some(why), _) => format!("nothing usable came back over IPMI in time; the last packet was ignored: {why}"),
        (None, true) => "nothing listens on its IPMI port; IPMI over LAN may be switched off".into(),
        (None, false) => {
            "nothing came back over IPMI in time; some BMCs are silent too when the user name is unknown".into()
        }
    }))
}

fn random<const N: usize>() -> Result<[u8; N], BmcError> {
    let mut bytes = [0; N];
    let failed = |_| BmcError::Configuration("the system's random source failed".into());
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Random and not 0, which stands for no session.
fn session_id() -> Result<[u8; 4], BmcError> {
    let mut id: [u8; 4] = random()?;
    id[0] |= 1;
    Ok(id)
}

#[async_trait]
impl Bmc for IpmiBmc {
    async fn identify(&mut self) -> Result<Identity, BmcError> {
        let answer = self.ask(&commands::device_id(), true).await?;
        let suite = self.line.as_ref().map_or(0, |line| line.session.suite().number());
        commands::identity(&commands::completed(answer, "Get Device ID")?, suite)
    }

    async fn power_state(&mut self) -> Result<PowerState, BmcError> {
        let answer = self.ask(&commands::chassis_status(), true).await?;
        commands::power_state(&commands::completed(answer, "Get Chassis Status")?)
    }

    async fn power(&mut self) -> Result<Reading, BmcError> {
        const WHAT: &str = "power readings over IPMI (DCMI)";
        let mut answer = commands::completed(self.ask(&commands::power_reading(), true).await?, WHAT);
        if matches!(answer, Err(BmcError::Privilege(_))) && self.privilege == Privilege::User {
            // The specification lets users read; some BMCs want an operator to ask.
            self.close().await;
            self.privilege = Privilege::Operator;
            answer = commands::completed(self.ask(&commands::power_reading(), true).await?, WHAT);
        }
        let mut reading = commands::reading(&answer?)?;
        reading.power_state = self.power_state().await.ok();
        Ok(reading)
    }

    async fn act(&mut self, action: PowerAction) -> Result<(), BmcError> {
        // A question first, so that an order is not given on a session that the BMC has ended.
        self.power_state().await?;
        let answer = self.ask(&commands::chassis_control(action), action.is_idempotent()).await;
        let answer = answer.map_err(|error| match error {
            BmcError::Unreachable(_) => BmcError::Ambiguous(action.name()),
            other => other,
        })?;
        commands::completed(answer, action.name()).map(drop)
    }

    async fn close(&mut self) {
        if let Some(mut line) = self.line.take() {
            let request = commands::close_session(line.session.managed());
            let _ = tokio::time::timeout(PATIENCE[0], line.ask(&request, 1)).await;
        }
    }
}

impl IpmiBmc {
    /// The power limit that is set, milliwatts; None when none is.
    ///
    /// # Errors
    /// As the questions of [`Bmc`].
    pub async fn power_limit(&mut self) -> Result<Option<i64>, BmcError> {
        commands::limit(self.ask(&commands::power_limit(), true).await?)
    }
}
