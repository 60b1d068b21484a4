//! Where peers can ask this agent's /healthz.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

/// Longest wait for the Node at start.
const WAIT: Duration = Duration::from_secs(3);

/// What was given, else the Node's InternalIP with the port that is listened on, else the address that is listened on;
/// empty when that is no address that a peer could use.
pub async fn heartbeat_address(
    given: Option<&HeartbeatTarget>,
    client: Option<&Client>,
    node: &str,
    listens: SocketAddr,
) -> String {
    let address = match (given, client) {
        (Some(target), _) => Some(target.with_port(listens.port())),
        (None, _) if !listens.ip().is_unspecified() => Some(listens),
        (None, Some(client)) => internal_ip(client, node).await.map(|ip| SocketAddr::new(ip, listens.port())),
        (None, None) => None,
    };
    address.map(|address| address.to_string()).unwrap_or_default()
}

/// `IP` or `IP:PORT`, as given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatTarget {
    ip: IpAddr,
    port: Option<u16>,
}

impl HeartbeatTarget {
    fn with_port(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.unwrap_or(port))
    }
}

impl std::str::FromStr for HeartbeatTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let target = match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
            (Ok(address), _) => Self { ip: address.ip(), port: Some(address.port()) },
            (_, Ok(ip)) => Self { ip, port: None },
            _ => return Err("IP or IP:PORT is expected, as in 10.0.0.7 or [fd00::7]:9464".into()),
        };
        if target.ip.is_unspecified() || target.port == Some(0) {
            return Err("peers cannot reach this address; give the one of this node".into());
        }
        Ok(target)
    }
}

async fn internal_ip(client: &Client, node: &str) -> Option<IpAddr> {
    let api: Api<Node> = Api::all(client.clone());
    let node = tokio::time::timeout(WAIT, api.get(node)).await.ok()?.ok()?;
    let addresses = node.status?.addresses.unwrap_or_default();
    addresses.iter().filter(|address| address.type_ == "InternalIP").find_map(|address| address.address.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_nobody_could_use_is_left_out() {
        let any: SocketAddr = "0.0.0.0:9464".parse().unwrap();
        let one: SocketAddr = "10.0.0.7:9464".parse().unwrap();
        assert_eq!(heartbeat_address(None, None, "n", any).await, "");
        assert_eq!(heartbeat_address(None, None, "n", one).await, "10.0.0.7:9464");
        let given: HeartbeatTarget = "fd00::7".parse().unwrap();
        assert_eq!(heartbeat_address(Some(&given), None, "n", any).await, "[fd00::7]:9464");
        let given: HeartbeatTarget = "10.0.0.8:1".parse().unwrap();
        assert_eq!(heartbeat_address(Some(&given), None, "n", one).await, "10.0.0.8:1");
        for wrong in ["0.0.0.0", "host:1", "", "10.0.0.1:0"] {
            assert!(wrong.parse::<HeartbeatTarget>().is_err(), "{wrong}");
        }
    }
}
