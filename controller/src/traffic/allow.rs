//! Which addresses outside of the cluster may be connected to. A service's spec comes from its users; without this list it
//! could make the controller call anything that the controller can reach.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;

use super::TrafficError;

/// Looking a name up may take this long.
const LOOK_UP: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// Any port in a network.
    Network(IpNet),
    /// A host by the very name and port that are used for it.
    Host(String, u16),
    /// A socket of this machine.
    Unix(String),
}

/// Networks, `host:port` pairs and `unix:///` sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficAllow(Vec<Entry>);

impl TrafficAllow {
    /// A list of `10.9.0.0/24`, `lb.bank.example:443`, `unix:///run/haproxy/admin.sock`.
    ///
    /// # Errors
    /// The first text that is none of these.
    pub fn parse<T: AsRef<str>>(entries: impl IntoIterator<Item = T>) -> Result<Self, String> {
        let parse = |text: &str| {
            let text = text.trim();
            if let Some(path) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
                return Ok(Entry::Unix(path.to_owned()));
            }
            if let Some(network) = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
                return Ok(Entry::Network(network));
            }
            let host = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
            match host.filter(|(host, _)| !host.is_empty() && !host.contains(['/', '@', ':', ' '])) {
                Some((host, port)) => Ok(Entry::Host(host.to_ascii_lowercase(), port)),
                None => Err(format!("`{text}` is no network, host:port or unix:///path")),
            }
        };
        entries.into_iter().map(|text| parse(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// The address to connect to for `host:port`: looked up once, checked, and used as it is, so that a second look-up
    /// cannot lead elsewhere.
    ///
    /// # Errors
    /// [`TrafficError::NotAllowed`], or that the name cannot be looked up.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TrafficError> {
        let address = format!("{host}:{port}");
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let named = self.0.contains(&Entry::Host(bare.to_ascii_lowercase(), port));
        let literal = bare.parse::<IpAddr>().ok();
        let found = match literal {
            Some(ip) => vec![SocketAddr::new(ip, port)],
            None => {
                let failed = |why: String| TrafficError::Unreachable { what: address.clone(), why };
                let look = tokio::net::lookup_host((bare, port));
                let found = tokio::time::timeout(LOOK_UP, look).await;
                found
                    .map_err(|_| failed("its name could not be looked up in time".into()))?
                    .map_err(|error| failed(format!("its name could not be looked up: {error}")))?
                    .collect()
            }
        };
        let inside = |at: &SocketAddr| {
            // An IPv4 address in IPv6 clothes is judged as what it is.
            let ip = at.ip().to_canonical();
            let proper = !ip.is_unspecified() && !ip.is_multicast();
            proper && self.0.iter().any(|entry| matches!(entry, Entry::Network(network) if network.contains(&ip)))
        };
        match found.iter().find(|at| named || inside(at)) {
            Some(at) => Ok(*at),
            None => Err(self.refuse(address, "neither its name with this port nor a network that it is in is listed")),
        }
    }

    /// Whether a socket of this machine may be used.
    ///
    /// # Errors
    /// [`TrafficError::NotAllowed`].
    pub fn unix(&self, path: &str) -> Result<(), TrafficError> {
        if self.0.contains(&Entry::Unix(path.to_owned())) {
            return Ok(());
        }
        Err(self.refuse(format!("unix://{path}"), "sockets of this machine are listed by their very path"))
    }

    fn refuse(&self, address: String, why: &str) -> TrafficError {
        TrafficError::NotAllowed { address, why: why.to_owned(), allowed: self.to_string() }
    }
}

impl fmt::Display for TrafficAllow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        let names: Vec<String> = self
            .0
            .iter()
            .map(|entry| match entry {
                Entry::Network(network) => network.to_string(),
                Entry::Host(host, port) => format!("{host}:{port}"),
                Entry::Unix(path) => format!("unix://{path}"),
            })
            .collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_listed_is_connected_to() {
        let allow = TrafficAllow::parse(["10.9.0.0/24", "localhost:8443", "unix:///run/haproxy.sock"]).unwrap();
        assert!(allow.resolve("10.9.0.7", 9999).await.is_ok());
        assert!(allow.resolve("::ffff:10.9.0.7", 9999).await.is_ok());
        assert!(allow.resolve("10.9.1.7", 9999).await.is_err());
        assert!(allow.resolve("169.254.169.254", 80).await.is_err());
        assert!(allow.resolve("LOCALHOST", 8443).await.is_ok());
        let error = allow.resolve("localhost", 8444).await.unwrap_err().to_string();
        assert!(error.contains("--traffic-allow") && error.contains("localhost:8443"), "{error}");
        assert!(allow.unix("/run/haproxy.sock").is_ok() && allow.unix("/run/docker.sock").is_err());
        assert!(TrafficAllow::parse(["http://x/"]).is_err());
    }

    #[tokio::test]
    async fn with_no_list_nothing_is_connected_to() {
        let error = TrafficAllow::default().resolve("127.0.0.1", 80).await.unwrap_err().to_string();
        assert!(error.contains("nothing"), "{error}");
    }
}
