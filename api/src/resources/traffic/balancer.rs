//! Actuators that drive load balancers outside of Kubernetes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Check, TrafficScope, default_lock_delay, is_false};
use crate::{FieldError, HumanDuration};

/// Servers of one backend of one or several HAProxies, over the runtime API: weights, and drain for those without any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HaproxyActuator {
    /// Runtime APIs (`stats socket ... level admin`): `tcp://10.0.0.9:9999`, or `unix:///run/haproxy/admin.sock` for one on
    /// the controller's own machine. Each must be in the controller's `--traffic-allow`.
    pub addresses: Vec<String>,
    /// Backend.
    pub backend: String,
    /// Server of each site in it.
    pub servers: Vec<SiteServer>,
    /// Map of HAProxy, by file name or `#id`, in which the epoch is kept under `<backend>`. Without it an older plan is
    /// refused only by what this controller remembers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_map: Option<String>,
    /// Map from units to server names, for `use-server` or `use_backend`; kept by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_map: Option<String>,
    /// How long the first change under a new epoch waits. Default: 10s.
    #[serde(default = "default_lock_delay")]
    pub lock_delay: HumanDuration,
    /// Who writes. Default: fleet.
    #[serde(default = "fleet")]
    pub scope: TrafficScope,
}

/// A server of a HAProxy backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SiteServer {
    /// Site that it leads to.
    pub site: String,
    /// Name.
    pub server: String,
}

/// A signed call. docs/traffic.md describes what is sent and what has to be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookActuator {
    /// Address. Its host and port must be in the controller's `--traffic-allow`.
    pub url: String,
    /// Secret in evergreen-system with the key `hmac-key`, and `ca.crt` where the other end has an authority of its own.
    pub secret: String,
    /// The other end refuses an older epoch with 409, comparing and changing in one act. Default: false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fenced: bool,
    /// How long the first change under a new epoch waits where it is not fenced. Default: 10s.
    #[serde(default = "default_lock_delay")]
    pub lock_delay: HumanDuration,
    /// Who calls. Default: fleet.
    #[serde(default = "fleet")]
    pub scope: TrafficScope,
}

fn fleet() -> TrafficScope {
    TrafficScope::Fleet
}

/// A word of HAProxy's runtime API: nothing that could end a command or begin another.
fn is_word(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}

/// A map: `#id` or a file's path.
fn is_map(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/#".contains(&b))
}

pub(super) fn url(check: &Check<'_>, url: &str, errors: &mut Vec<FieldError>) {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    if authority.is_empty() {
        check.error(errors, "url", "must be an http:// or https:// address with a host");
    } else if authority.contains('@') {
        check.error(errors, "url", "must hold no user or password: name a Secret");
    }
}

impl HaproxyActuator {
    pub(super) fn check(&self, check: &Check<'_>, errors: &mut Vec<FieldError>) {
        let named: Vec<&str> = self.servers.iter().map(|server| server.site.as_str()).collect();
        check.sites(errors, "servers", "server", &named);
        check.lock_delay(self.lock_delay, errors);
        if self.addresses.is_empty() {
            check.error(errors, "addresses", "name at least one runtime API");
        }
        for address in self.addresses.iter().filter(|a| !a.starts_with("tcp://") && !a.starts_with("unix:///")) {
            check.error(errors, "addresses", format!("`{address}` must begin with tcp:// or unix:///"));
        }
        let words = self.servers.iter().map(|server| ("servers", &server.server)).chain([("backend", &self.backend)]);
        for (field, word) in words.filter(|(_, word)| !is_word(word)) {
            check.error(errors, field, format!("{word:?} is no name that HAProxy takes"));
        }
        for (field, map) in [("epochMap", &self.epoch_map), ("unitMap", &self.unit_map)] {
            if let Some(map) = map.as_ref().filter(|map| !is_map(map)) {
                check.error(errors, field, format!("{map:?} is no map of HAProxy: a file's path or #id"));
            }
        }
    }
}

impl WebhookActuator {
    pub(super) fn check(&self, check: &Check<'_>, errors: &mut Vec<FieldError>) {
        url(check, &self.url, errors);
        check.secret("secret", &self.secret, errors);
        check.lock_delay(self.lock_delay, errors);
    }
}
