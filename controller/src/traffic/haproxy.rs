//! HAProxy's runtime API: weights of a backend's servers, drain for those without any, a map of units, and the epoch in a
//! map of its own.
//!
//! The API has no conditional command, so this is unfenced: what is read may be old when something is written, and the first
//! change under a new epoch waits out the lock delay. Servers are raised before others are drained, and nobody is drained
//! while none of those raised is up.

use std::{collections::BTreeMap, time::Duration};

use evergreen_api::resources::HaproxyActuator;
use futures::future::join_all;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::{Outcome, TrafficAllow, TrafficError, TrafficPlan, apply::lock_wait, calls::CALL, error::brief};

/// Longest answer.
const MOST: u64 = 4 << 20;
/// `srv_op_state` of a server that is up: running, or starting slowly.
const UP: [&str; 2] = ["1", "2"];
/// `srv_admin_state` bits: maintenance (forced, inherited, configured, by name resolution) and drain.
const MAINTENANCE: u32 = 0x01 | 0x02 | 0x04 | 0x20;
const DRAIN: u32 = 0x08 | 0x10;

/// Makes every HAProxy share as the plan says; one that cannot be reached does not hold up the others.
pub(super) async fn apply(
    allow: &TrafficAllow,
    actuator: &HaproxyActuator,
    plan: &TrafficPlan,
    epoch_for: Duration,
    remembered: u64,
) -> Result<Outcome, TrafficError> {
    let each = actuator.addresses.iter().map(|address| async move {
        let one = Proxy { allow, address, actuator, plan };
        let bounded = tokio::time::timeout(CALL, one.apply(epoch_for, remembered)).await;
        bounded.map_err(|_| TrafficError::Timeout(one.what()))?
    });
    let mut outcome = Outcome::Unchanged;
    for one in join_all(each).await {
        match one? {
            waiting @ Outcome::Waiting { .. } => return Ok(waiting),
            Outcome::Written => outcome = Outcome::Written,
            Outcome::Unchanged => {}
        }
    }
    Ok(outcome)
}

struct Proxy<'a> {
    allow: &'a TrafficAllow,
    address: &'a str,
    actuator: &'a HaproxyActuator,
    plan: &'a TrafficPlan,
}

/// One line of `show servers state`.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    up: bool,
    admin: u32,
    weight: u32,
}

impl Proxy<'_> {
    fn what(&self) -> String {
        format!("HAProxy {}", self.address)
    }

    async fn apply(&self, epoch_for: Duration, remembered: u64) -> Result<Outcome, TrafficError> {
        let (actuator, plan) = (self.actuator, self.plan);
        if plan.whitelist.is_some() {
            let why = "a whitelist is a rule of its configuration; use httpRoute or ingress".into();
            return Err(TrafficError::Unsupported { what: self.what(), why });
        }
        if !plan.units.is_empty() && actuator.unit_map.is_none() {
            let why = "the service has units, and unitMap does not say which map leads them".into();
            return Err(TrafficError::Unsupported { what: self.what(), why });
        }
        let backend = &actuator.backend;
        let epochs = match &actuator.epoch_map {
            Some(map) => self.map(map).await?,
            None => BTreeMap::new(),
        };
        let kept = epochs.get(backend).and_then(|text| text.parse().ok());
        let found: u64 = kept.unwrap_or(remembered);
        if found > plan.epoch {
            return Err(TrafficError::Stale {
                what: format!("{}: {backend}", self.what()),
                found,
                planned: plan.epoch,
            });
        }
        let servers = states(&self.command(&format!("show servers state {backend}")).await?, backend);
        let mut raise = Vec::new();
        let mut lower = Vec::new();
        let mut raised = Vec::new();
        for target in &actuator.servers {
            let Some(state) = servers.get(&target.server) else {
                return Err(TrafficError::Missing {
                    what: format!("{}: backend {backend}", self.what()),
                    missing: format!("server {}", target.server),
                    remedy: "compare with `show servers state`".into(),
                });
            };
            let share = plan.share(&target.site);
            let name = format!("{backend}/{}", target.server);
            if share == 0 {
                if state.admin & (DRAIN | MAINTENANCE) == 0 {
                    lower.push(format!("set server {name} state drain"));
                }
                continue;
            }
            if state.admin & MAINTENANCE != 0 {
                // Somebody put it there by hand; only somebody takes it out.
                continue;
            }
            raised.push(target.server.as_str());
            if state.weight != share {
                raise.push(format!("set server {name} weight {share}"));
            }
            if state.admin & DRAIN != 0 {
                raise.push(format!("set server {name} state ready"));
            }
        }
        let units = self.unit_changes().await?;
        let same_epoch = actuator.epoch_map.is_none() || kept == Some(plan.epoch);
        if raise.is_empty() && lower.is_empty() && units.is_empty() && same_epoch {
            return Ok(Outcome::Unchanged);
        }
        if found < plan.epoch
            && let Some(waiting) = lock_wait(actuator.lock_delay.get(), epoch_for)
        {
            return Ok(waiting);
        }
        if let Some(map) = actuator.epoch_map.as_ref().filter(|_| !same_epoch) {
            // The epoch is raised before the first change under it.
            let verb = if kept.is_some() { "set" } else { "add" };
            self.change(&format!("{verb} map {map} {backend} {}", plan.epoch)).await?;
        }
        for command in raise {
            self.change(&command).await?;
        }
        if !lower.is_empty() {
            let states = states(&self.command(&format!("show servers state {backend}")).await?, backend);
            if !raised.iter().any(|server| states.get(*server).is_some_and(|state| state.up)) {
                let why = format!("{}: none of the servers {} of {backend} is up", self.what(), raised.join(", "));
                return Err(TrafficError::LastEndpoint(why));
            }
        }
        for command in units.into_iter().chain(lower) {
            self.change(&command).await?;
        }
        Ok(Outcome::Written)
    }

    /// What has to change in the map of units.
    async fn unit_changes(&self) -> Result<Vec<String>, TrafficError> {
        let Some(map) = self.actuator.unit_map.as_ref().filter(|_| !self.plan.units.is_empty()) else {
            return Ok(Vec::new());
        };
        let there = self.map(map).await?;
        let mut changes = Vec::new();
        for (unit, site) in &self.plan.units {
            if unit.is_empty() || !unit.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
                let why = format!("{unit:?} is no key that its maps take: letters, digits, - _ .");
                return Err(TrafficError::Unsupported { what: self.what(), why });
            }
            let server = self.actuator.servers.iter().find(|server| server.site == *site).map_or("", |s| &s.server);
            match there.get(unit).map(String::as_str) {
                Some(now) if now == server => {}
                Some(_) => changes.push(format!("set map {map} {unit} {server}")),
                None => changes.push(format!("add map {map} {unit} {server}")),
            }
        }
        Ok(changes)
    }

    async fn map(&self, map: &str) -> Result<BTreeMap<String, String>, TrafficError> {
        let answer = self.command(&format!("show map {map}")).await?;
        if answer.starts_with("Unknown map") {
            return Err(TrafficError::Missing {
                what: self.what(),
                missing: format!("map {map}"),
                remedy: "a map is there once the configuration uses it, as docs/traffic.md shows".into(),
            });
        }
        // `0x55d1c8 key value`
        let entry = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        };
        Ok(answer.lines().filter_map(entry).collect())
    }

    /// A command that answers nothing when it worked.
    async fn change(&self, command: &str) -> Result<(), TrafficError> {
        let answer = self.command(command).await?;
        if answer.trim().is_empty() {
            return Ok(());
        }
        let why = format!("`{command}`: {}; the socket needs `level admin`", brief(&answer));
        Err(TrafficError::Refused { what: self.what(), why })
    }

    /// One command over one connection.
    async fn command(&self, command: &str) -> Result<String, TrafficError> {
        let failed = |why: String| TrafficError::Unreachable { what: self.what(), why };
        if let Some(path) = self.address.strip_prefix("unix://") {
            self.allow.unix(path)?;
            let stream = UnixStream::connect(path).await.map_err(|error| failed(error.to_string()))?;
            return talk(stream, command).await.map_err(|error| failed(error.to_string()));
        }
        let address = self.address.strip_prefix("tcp://").unwrap_or(self.address);
        let (host, port) = address.rsplit_once(':').ok_or_else(|| failed("it names no port".into()))?;
        let port = port.parse().map_err(|_| failed("its port is no number".into()))?;
        let at = self.allow.resolve(host, port).await?;
        let stream = TcpStream::connect(at).await.map_err(|error| failed(error.to_string()))?;
        talk(stream, command).await.map_err(|error| failed(error.to_string()))
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, command: &str) -> std::io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Servers of a backend out of `show servers state`, format version 1.
fn states(answer: &str, backend: &str) -> BTreeMap<String, Server> {
    let server = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (name, op, admin, weight) = (fields.get(3)?, fields.get(5)?, fields.get(6)?, fields.get(7)?);
        let state = Server { up: UP.contains(op), admin: admin.parse().ok()?, weight: weight.parse().ok()? };
        (fields.get(1) == Some(&backend)).then(|| ((*name).to_owned(), state))
    };
    answer.lines().filter(|line| !line.starts_with('#')).filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read() {
        let answer = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight\n\
                      4 pay 1 a 127.0.0.1 2 0 100 1 63 6 3 4 6 0 0 0 - 4711 - 0 0 - - 0\n\
                      4 pay 2 b 127.0.0.1 0 8 1 1 63 6 3 4 6 0 0 0 - 4712 - 0 0 - - 0\n";
        let states = states(answer, "pay");
        assert_eq!(states["a"], Server { up: true, admin: 0, weight: 100 });
        assert_eq!(states["b"], Server { up: false, admin: DRAIN & 0x08, weight: 1 });
    }
}
