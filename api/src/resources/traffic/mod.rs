//! What moves traffic between the sites of a service: one small type per actuator, and the checks of each.

mod balancer;
mod dns;
mod kubernetes;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{balancer::*, dns::*, kubernetes::*};
use crate::{FieldError, HumanDuration};

/// One thing that moves traffic; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficActuator {
    /// Weights of a Gateway API HTTPRoute in the same namespace, at every site. Fenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpRouteActuator>,
    /// Two Ingresses of ingress-nginx, one of them a canary, at every site. Fenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressActuator>,
    /// Selector of a Service and an EndpointSlice beside it, at every site. Fenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceActuator>,
    /// A DNSEndpoint that ExternalDNS publishes, at every site. Fenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_endpoint: Option<DnsEndpointActuator>,
    /// DNS updates of RFC 2136, signed with TSIG, with the epoch as prerequisite. Fenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_update: Option<DnsUpdateActuator>,
    /// Records of a PowerDNS server, weighted, over its HTTP API. Unfenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_dns: Option<PowerDnsActuator>,
    /// Servers of a HAProxy backend, over its runtime API. Unfenced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub haproxy: Option<HaproxyActuator>,
    /// A signed call to whatever else balances load: LTM, GSLB. Fenced if its other end says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookActuator>,
}

/// Whether the thing itself refuses a plan of an older epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fence {
    /// Comparison and change are one act there: an older plan cannot overwrite a newer one.
    Fenced,
    /// They are two: the first change under a new epoch waits out the lock delay, so that a late one has landed before.
    Unfenced,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrafficScope {
    /// Every site its own: the entry of that site, which prefers that site.
    Site,
    /// The coordinator for all: one entry before all sites.
    Fleet,
}

/// Addresses that lead to one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SiteTarget {
    /// Site.
    pub site: String,
    /// IP addresses, or one host name where the kind of record allows it.
    pub addresses: Vec<String>,
}

/// Clients that are led to one site whatever the shares are, as a first step of a move: testers, own staff.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficWhitelist {
    /// Header that marks them.
    pub header: String,
    /// Its value.
    pub value: String,
    /// Site that serves them.
    pub site: String,
}

impl TrafficActuator {
    /// Field that is set, as in `httpRoute`; none when none or several are.
    pub fn kind(&self) -> Option<&'static str> {
        let set = [
            ("httpRoute", self.http_route.is_some()),
            ("ingress", self.ingress.is_some()),
            ("service", self.service.is_some()),
            ("dnsEndpoint", self.dns_endpoint.is_some()),
            ("dnsUpdate", self.dns_update.is_some()),
            ("powerDns", self.power_dns.is_some()),
            ("haproxy", self.haproxy.is_some()),
            ("webhook", self.webhook.is_some()),
        ];
        let mut set = set.into_iter().filter(|(_, set)| *set).map(|(kind, _)| kind);
        set.next().filter(|_| set.next().is_none())
    }

    /// What it drives, for people: kind and name.
    pub fn describe(&self) -> String {
        let name = self.http_route.as_ref().map(|a| a.name.as_str());
        let name = name.or(self.ingress.as_ref().map(|a| a.canary.as_str()));
        let name = name.or(self.service.as_ref().map(|a| a.name.as_str()));
        let name = name.or(self.dns_endpoint.as_ref().map(|a| a.name.as_str()));
        let name = name.or(self.dns_update.as_ref().map(|a| a.name.as_str()));
        let name = name.or(self.power_dns.as_ref().map(|a| a.name.as_str()));
        let name = name.or(self.haproxy.as_ref().map(|a| a.backend.as_str()));
        let name = name.or(self.webhook.as_ref().map(|a| a.url.as_str()));
        format!("{} {}", self.kind().unwrap_or("actuator"), name.unwrap_or_default())
    }

    /// Whether it refuses older plans by itself.
    pub fn fence(&self) -> Fence {
        let unfenced = self.power_dns.is_some()
            || self.haproxy.is_some()
            || self.webhook.as_ref().is_some_and(|hook| !hook.fenced);
        if unfenced { Fence::Unfenced } else { Fence::Fenced }
    }

    /// Who writes it.
    pub fn scope(&self) -> TrafficScope {
        match (&self.haproxy, &self.webhook) {
            (Some(haproxy), _) => haproxy.scope,
            (_, Some(hook)) => hook.scope,
            _ if self.dns_update.is_some() || self.power_dns.is_some() => TrafficScope::Fleet,
            _ => TrafficScope::Site,
        }
    }

    /// Finds what is wrong with one entry of `spec.traffic` of a service with these sites; `path` is where it stands.
    pub fn validate_for(&self, path: &str, sites: &[String]) -> Vec<FieldError> {
        let Some(kind) = self.kind() else {
            return vec![FieldError::new(
                path,
                "set exactly one of httpRoute, ingress, service, dnsEndpoint, dnsUpdate, powerDns, haproxy, webhook",
            )];
        };
        let path = format!("{path}.{kind}");
        let mut errors = Vec::new();
        let check = Check { path: &path, sites };
        match self {
            Self { http_route: Some(a), .. } => check.backends(&a.backends, &mut errors),
            Self { ingress: Some(a), .. } => a.check(&check, &mut errors),
            Self { service: Some(a), .. } => a.check(&check, &mut errors),
            Self { dns_endpoint: Some(a), .. } => a.check(&check, &mut errors),
            Self { dns_update: Some(a), .. } => a.check(&check, &mut errors),
            Self { power_dns: Some(a), .. } => a.check(&check, &mut errors),
            Self { haproxy: Some(a), .. } => a.check(&check, &mut errors),
            Self { webhook: Some(a), .. } => a.check(&check, &mut errors),
            _ => {}
        }
        errors
    }
}

/// Where a check stands and which sites the service has.
struct Check<'a> {
    path: &'a str,
    sites: &'a [String],
}

impl Check<'_> {
    fn error(&self, errors: &mut Vec<FieldError>, field: &str, message: impl Into<String>) {
        errors.push(FieldError::new(format!("{}.{field}", self.path), message.into()));
    }

    /// Every site exactly once, and no other.
    fn sites(&self, errors: &mut Vec<FieldError>, field: &str, what: &str, named: &[&str]) {
        for site in self.sites {
            if named.iter().filter(|name| *name == site).count() != 1 {
                self.error(errors, field, format!("needs exactly one {what} for site `{site}`"));
            }
        }
        for site in named.iter().filter(|name| self.sites.iter().all(|site| site != *name)) {
            self.error(errors, field, format!("site `{site}` is not in spec.sites"));
        }
    }

    fn backends(&self, backends: &[SiteBackend], errors: &mut Vec<FieldError>) {
        let named: Vec<&str> = backends.iter().map(|backend| backend.site.as_str()).collect();
        self.sites(errors, "backends", "backend", &named);
    }

    /// Targets of DNS records: IP addresses of one family or, where allowed, one host name each.
    fn targets(&self, targets: &[SiteTarget], names_allowed: bool, errors: &mut Vec<FieldError>) {
        let named: Vec<&str> = targets.iter().map(|target| target.site.as_str()).collect();
        self.sites(errors, "targets", "target", &named);
        let mut families = std::collections::BTreeSet::new();
        for target in targets {
            if target.addresses.is_empty() {
                self.error(errors, "targets", format!("site `{}` has no address", target.site));
            }
            for address in &target.addresses {
                match address.parse::<std::net::IpAddr>() {
                    Ok(ip) => {
                        families.insert(if ip.is_ipv4() { "A" } else { "AAAA" });
                    }
                    Err(_) if names_allowed && target.addresses.len() == 1 && is_host_name(address) => {
                        families.insert("CNAME");
                    }
                    Err(_) => self.error(errors, "targets", format!("`{address}` is no IP address")),
                }
            }
        }
        if families.len() > 1 {
            let kinds: Vec<&str> = families.into_iter().collect();
            let message = format!("mixes {}: one entry of spec.traffic for each kind of record", kinds.join(" and "));
            self.error(errors, "targets", message);
        }
    }

    fn host_name(&self, field: &str, name: &str, errors: &mut Vec<FieldError>) {
        if !is_host_name(name) {
            self.error(errors, field, format!("`{name}` is no host name"));
        }
    }

    fn within(&self, field: &str, name: &str, zone: &str, errors: &mut Vec<FieldError>) {
        self.host_name(field, name, errors);
        self.host_name("zone", zone, errors);
        let (name, zone) = (name.trim_end_matches('.'), zone.trim_end_matches('.'));
        if name != zone && !name.ends_with(&format!(".{zone}")) {
            self.error(errors, field, format!("`{name}` is not in zone `{zone}`"));
        }
    }

    fn lock_delay(&self, delay: HumanDuration, errors: &mut Vec<FieldError>) {
        // A call that was sent may take this long to land: shorter than the time-out of a call proves nothing.
        if delay.get() < std::time::Duration::from_secs(6) || delay.get() > std::time::Duration::from_secs(600) {
            self.error(errors, "lockDelay", "must be between 6s (longer than a call may take) and 10m");
        }
    }

    fn secret(&self, field: &str, name: &str, errors: &mut Vec<FieldError>) {
        if name.is_empty() {
            self.error(errors, field, "name a Secret in evergreen-system");
        }
    }
}

/// Labels of letters, digits, hyphens and underscores, 63 characters each, 253 in all.
fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    (1..=253).contains(&name.len()) && name.split('.').all(label)
}

fn default_ttl() -> u32 {
    30
}

/// Longer than a call may take, so that one that was sent before a new epoch has landed when the delay is over.
fn default_lock_delay() -> HumanDuration {
    HumanDuration::seconds(10)
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn errors(actuator: Value) -> Vec<String> {
        let actuator: TrafficActuator = serde_json::from_value(actuator).unwrap();
        let sites = ["a".to_owned(), "b".to_owned()];
        actuator.validate_for("spec.traffic[0]", &sites).into_iter().map(|error| error.to_string()).collect()
    }

    #[test]
    fn exactly_one_actuator_is_set() {
        assert!(errors(json!({}))[0].contains("exactly one"));
        let both = json!({"webhook": {"url": "https://l/", "secret": "s"}, "dnsEndpoint":
            {"name": "n", "dnsName": "n.example", "targets": []}});
        assert!(errors(both)[0].contains("exactly one"));
    }

    #[test]
    fn every_site_has_one_target_of_one_kind_inside_the_zone() {
        let dns = |targets: Value, name: &str| {
            errors(json!({"dnsUpdate": {"server": "ns.example:53", "zone": "bank.example", "name": name,
                "targets": targets, "secret": "tsig"}}))
        };
        let good = json!([{"site": "a", "addresses": ["192.0.2.1"]}, {"site": "b", "addresses": ["192.0.2.2"]}]);
        assert_eq!(dns(good.clone(), "pay.bank.example"), [""; 0]);
        assert!(dns(good, "pay.other.example")[0].contains("not in zone"));
        assert!(dns(json!([{"site": "a", "addresses": ["192.0.2.1"]}]), "pay.bank.example")[0].contains("site `b`"));
        let mixed = json!([{"site": "a", "addresses": ["192.0.2.1"]}, {"site": "b", "addresses": ["2001:db8::1"]}]);
        assert!(dns(mixed, "pay.bank.example")[0].contains("mixes A and AAAA"));
        let name = json!([{"site": "a", "addresses": ["x.example"]}, {"site": "b", "addresses": ["192.0.2.1"]}]);
        assert!(dns(name, "pay.bank.example")[0].contains("no IP address"));
    }

    #[test]
    fn a_line_break_cannot_be_smuggled_into_a_command() {
        let haproxy = |backend: &str, server: &str| {
            errors(json!({"haproxy": {"addresses": ["tcp://127.0.0.1:9999"], "backend": backend,
                "servers": [{"site": "a", "server": server}, {"site": "b", "server": "b"}]}}))
        };
        assert_eq!(haproxy("pay", "a"), [""; 0]);
        assert!(!haproxy("pay; shutdown", "a").is_empty());
        assert!(!haproxy("pay", "a\nshutdown").is_empty());
    }

    #[test]
    fn what_is_unfenced_says_so() {
        let fence = |value: Value| serde_json::from_value::<TrafficActuator>(value).unwrap().fence();
        assert_eq!(fence(json!({"webhook": {"url": "https://l/", "secret": "s"}})), Fence::Unfenced);
        assert_eq!(fence(json!({"webhook": {"url": "https://l/", "secret": "s", "fenced": true}})), Fence::Fenced);
        assert_eq!(fence(json!({"httpRoute": {"name": "n", "backends": []}})), Fence::Fenced);
    }
}
