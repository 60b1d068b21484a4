//! Where a BMC answers, and where this product may connect to at all.
//!
//! Only literal IP addresses: a name could be made to point elsewhere between the check and the connection.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

use crate::BmcError;

/// Longest path of a Redfish resource that is accepted.
const MAX_PATH: usize = 200;

/// How a BMC is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Redfish over HTTPS.
    Redfish,
    /// IPMI 2.0 over UDP.
    Ipmi,
}

impl Protocol {
    /// As in the address.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redfish => "redfish",
            Self::Ipmi => "ipmi",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Redfish => 443,
            Self::Ipmi => 623,
        }
    }
}

/// `redfish://IP[:PORT][/redfish/v1/Systems/ID]` or `ipmi://IP[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BmcAddress {
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Where.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// Redfish: the system among those of the BMC; absent when it has only one.
    pub system: Option<String>,
}

/// An address that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither of the two protocols.
    #[error("`{0}`: redfish://IP[:PORT][/redfish/v1/Systems/ID] or ipmi://IP[:PORT] is expected")]
    Scheme(String),
    /// A name, or nothing.
    #[error("`{0}`: a literal IP address is expected (IPv6 in brackets); names are not looked up")]
    Host(String),
    /// The path is none of a Redfish system.
    #[error("`{0}`: the path has to begin with /redfish/v1/Systems/ and has plain letters, digits and -._~ only")]
    Path(String),
    /// A path where there is none.
    #[error("`{0}`: an ipmi address has no path")]
    IpmiPath(String),
    /// A user or password in the address.
    #[error("an address carries no user or password: they come from the Secret")]
    Credentials,
}

impl BmcAddress {
    /// Address and port to connect to.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

impl FromStr for BmcAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        // First, so that no error message repeats what stands before the @.
        if text.contains('@') {
            return Err(AddressError::Credentials);
        }
        let (protocol, rest) = [Protocol::Redfish, Protocol::Ipmi]
            .into_iter()
            .find_map(|protocol| Some((protocol, text.strip_prefix(protocol.name())?.strip_prefix("://")?)))
            .ok_or_else(|| AddressError::Scheme(text.to_owned()))?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (ip, port) = authority_of(authority, protocol).ok_or_else(|| AddressError::Host(text.to_owned()))?;
        let path = path.trim_end_matches('/');
        let system = match (protocol, path) {
            (_, "") => None,
            (Protocol::Ipmi, _) => return Err(AddressError::IpmiPath(text.to_owned())),
            (Protocol::Redfish, path) if is_resource(path) && path.starts_with("/redfish/v1/Systems/") => {
                Some(path.to_owned())
            }
            (Protocol::Redfish, _) => return Err(AddressError::Path(text.to_owned())),
        };
        Ok(Self { protocol, ip, port, system })
    }
}

fn authority_of(authority: &str, protocol: Protocol) -> Option<(IpAddr, u16)> {
    if let Ok(socket) = authority.parse::<SocketAddr>() {
        return (socket.port() != 0).then(|| (socket.ip(), socket.port()));
    }
    let bare = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(authority);
    bare.parse().ok().map(|ip| (ip, protocol.port()))
}

/// Whether a text is the path of a Redfish resource and nothing else: no host, no query, no way up.
pub(crate) fn is_resource(path: &str) -> bool {
    path.len() <= MAX_PATH
        && (path == "/redfish/v1" || path.starts_with("/redfish/v1/"))
        && !path.split('/').any(|part| part == ".." || part == ".")
        && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~:%(),+=".contains(&b))
}

impl fmt::Display for BmcAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.protocol.name(), self.socket(), self.system.as_deref().unwrap_or_default())
    }
}

/// The networks in which BMCs may be. An empty list allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(Vec<IpNet>);

impl AllowList {
    /// A list of networks such as `10.20.0.0/24`; a bare address stands for itself.
    ///
    /// # Errors
    /// The first text that is no network.
    pub fn parse<T: AsRef<str>>(networks: impl IntoIterator<Item = T>) -> Result<Self, String> {
        let parse = |text: &str| {
            let text = text.trim();
            let network: Option<IpNet> = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            network.ok_or_else(|| format!("`{text}` is no network; one such as 10.20.0.0/24 is expected"))
        };
        networks.into_iter().map(|text| parse(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Refuses an address outside of the list.
    ///
    /// # Errors
    /// [`BmcError::NotAllowed`] with the way to allow it.
    pub fn check(&self, address: &BmcAddress) -> Result<(), BmcError> {
        // An IPv4 address in IPv6 clothes is judged as what it is.
        let ip = match address.ip {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
            v4 => v4,
        };
        if !ip.is_unspecified() && !ip.is_multicast() && self.0.iter().any(|network| network.contains(&ip)) {
            return Ok(());
        }
        Err(BmcError::NotAllowed { ip, allowed: self.to_string() })
    }
}

impl fmt::Display for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<BmcAddress, AddressError> {
        text.parse()
    }

    #[test]
    fn both_kinds_of_address_are_understood_and_written_back() {
        for (text, written) in [
            ("redfish://10.1.2.3", "redfish://10.1.2.3:443"),
            ("redfish://10.1.2.3:8443/redfish/v1/Systems/1/", "redfish://10.1.2.3:8443/redfish/v1/Systems/1"),
            ("ipmi://[fd00::7]", "ipmi://[fd00::7]:623"),
            ("ipmi://[fd00::7]:1623", "ipmi://[fd00::7]:1623"),
        ] {
            let address = parsed(text).unwrap();
            assert_eq!(address.to_string(), written);
            assert_eq!(parsed(written).unwrap(), address);
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for text in [
            "",
            "10.1.2.3",
            "http://10.1.2.3",
            "ipmi://",
            "ipmi://bmc.example",
            "ipmi://10.1.2.3:0",
            "ipmi://10.1.2.3/x",
            "redfish://10.1.2.3/other",
            "redfish://10.1.2.3/redfish/v1/Systems/../Managers",
            "redfish://10.1.2.3?x",
            "redfish://10.1.2.3/redfish/v1/Systems/1?x=y",
            "redfish://10.1.2.3/redfish/v1/Systems/1#a",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_with_a_password_is_refused_without_repeating_it() {
        let error = parsed("redfish://root:hunter2@10.1.2.3").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn only_listed_networks_are_allowed_and_an_empty_list_allows_nothing() {
        let list = AllowList::parse(["10.20.0.0/24", "fd00::/64", "192.0.2.9"]).unwrap();
        for inside in ["ipmi://10.20.0.9", "ipmi://[fd00::1]", "ipmi://192.0.2.9", "ipmi://[::ffff:10.20.0.9]"] {
            assert!(list.check(&parsed(inside).unwrap()).is_ok(), "{inside}");
        }
        for outside in ["ipmi://10.20.1.9", "ipmi://169.254.169.254", "ipmi://[::1]", "ipmi://[::ffff:127.0.0.1]"] {
            let error = list.check(&parsed(outside).unwrap()).unwrap_err().to_string();
            assert!(error.contains("bmc.allow"), "{error}");
        }
        assert!(AllowList::default().check(&parsed("ipmi://10.20.0.9").unwrap()).is_err());
        assert!(AllowList::parse(["0.0.0.0/0"]).unwrap().check(&parsed("ipmi://0.0.0.0").unwrap()).is_err());
        assert!(AllowList::parse(["10.20.0.0/99"]).is_err());
    }
}
