//! Actuators that write DNS records.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Check, SiteTarget, default_lock_delay, default_ttl};
use crate::{FieldError, HumanDuration};

/// DNS updates of RFC 2136. The epoch stands in a TXT record at `_evergreen.<name>` and is a prerequisite of every
/// update: the server compares and changes in one act. The sites that hold the service share evenly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsUpdateActuator {
    /// The zone's primary server, `host:port`. It must be in the controller's `--traffic-allow`.
    pub server: String,
    /// Zone.
    pub zone: String,
    /// Name in it whose addresses are set.
    pub name: String,
    /// Addresses of each site.
    pub targets: Vec<SiteTarget>,
    /// Time to live, in seconds. Default: 30.
    #[serde(default = "default_ttl")]
    pub ttl: u32,
    /// Secret in evergreen-system with the TSIG key: `name`, `algorithm` (hmac-sha256, hmac-sha384, hmac-sha512) and
    /// `secret` (base64).
    pub secret: String,
}

/// Records of a PowerDNS authoritative server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PowerDnsActuator {
    /// Address of its HTTP API, as in `http://10.0.0.53:8081`. It must be in the controller's `--traffic-allow`.
    pub url: String,
    /// Server id in the API. Default: localhost.
    #[serde(default = "localhost")]
    pub server: String,
    /// Zone.
    pub zone: String,
    /// Name in it whose addresses are set.
    pub name: String,
    /// Addresses of each site.
    pub targets: Vec<SiteTarget>,
    /// Time to live, in seconds. Default: 30.
    #[serde(default = "default_ttl")]
    pub ttl: u32,
    /// Secret in evergreen-system with the key `api-key`.
    pub secret: String,
    /// How long the first change under a new epoch waits. Default: 10s.
    #[serde(default = "default_lock_delay")]
    pub lock_delay: HumanDuration,
}

fn localhost() -> String {
    "localhost".to_owned()
}

impl DnsUpdateActuator {
    pub(super) fn check(&self, check: &Check<'_>, errors: &mut Vec<FieldError>) {
        check.within("name", &self.name, &self.zone, errors);
        check.targets(&self.targets, false, errors);
        check.secret("secret", &self.secret, errors);
        let port = self.server.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        if port.is_none_or(|(host, port)| host.is_empty() || port == 0) {
            check.error(errors, "server", "must be host:port, as in ns1.bank.example:53");
        }
    }
}

impl PowerDnsActuator {
    pub(super) fn check(&self, check: &Check<'_>, errors: &mut Vec<FieldError>) {
        check.within("name", &self.name, &self.zone, errors);
        check.targets(&self.targets, false, errors);
        check.secret("secret", &self.secret, errors);
        check.lock_delay(self.lock_delay, errors);
        super::balancer::url(check, &self.url, errors);
        if self.server.is_empty() || !self.server.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            check.error(errors, "server", "must be a server id of the API, as in localhost");
        }
    }
}
