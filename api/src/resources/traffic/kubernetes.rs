//! Actuators that are objects of the site's own API server.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Check, SiteTarget, default_ttl};
use crate::FieldError;

/// Weights of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteActuator {
    /// Name of the HTTPRoute.
    pub name: String,
    /// Backend Service of each site, as seen from every site: the site's own name stands for the local Service.
    pub backends: Vec<SiteBackend>,
    /// Header that names a client's unit (cell). A rule of the route that matches exactly one unit by it is given the
    /// weights of that unit; all other rules those of everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_header: Option<String>,
}

/// The backends of one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SiteBackend {
    /// Site that the backends lead to.
    pub site: String,
    /// Service used inside that site.
    pub local: String,
    /// Service used from the other sites.
    pub remote: String,
    /// Port of both.
    pub port: u16,
}

/// Two Ingresses of the same host and paths: the primary leads to one site, the canary to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressActuator {
    /// Name of the Ingress without canary annotation.
    pub primary: String,
    /// Name of the Ingress with `nginx.ingress.kubernetes.io/canary: "true"`.
    pub canary: String,
    /// Backend Service of each site.
    pub backends: Vec<SiteBackend>,
}

/// A Service whose selector is switched, and an EndpointSlice that leads to other sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceActuator {
    /// Name of the Service.
    pub name: String,
    /// Selector of the pods at the own site.
    pub selector: BTreeMap<String, String>,
    /// Entries of the sites for the others: IP addresses of one family.
    pub targets: Vec<SiteTarget>,
    /// Port of those entries.
    pub target_port: u16,
    /// Name of the Service's port that leads there; none where the Service has one port without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
}

/// An endpoint that ExternalDNS publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsEndpointActuator {
    /// Name of the DNSEndpoint; it must exist.
    pub name: String,
    /// Name that is published.
    pub dns_name: String,
    /// Addresses of each site.
    pub targets: Vec<SiteTarget>,
    /// Time to live, in seconds. Default: 30.
    #[serde(default = "default_ttl")]
    pub ttl: u32,
    /// Property of ExternalDNS's provider that carries a weight, as in `aws/weight`. Without it sites share evenly or not
    /// at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_property: Option<String>,
}

impl IngressActuator {
    pub(super) fn check(&self, check: &Check<'_>, errors: &mut Vec<FieldError>) {
        check.backends(&self.backends, errors);
        if self.primary == self.canary {
            check.error(errors, "canary", "must be another Ingress than primary");
        }
    }
}

impl ServiceActuator {
    pub(super) fn check(&self, check: &Check<'_>, errors: &mut Vec<FieldError>) {
        check.targets(&self.targets, false, errors);
        if self.selector.is_empty() {
            check.error(errors, "selector", "an empty selector selects nothing: name the labels of the pods");
        }
    }
}

impl DnsEndpointActuator {
    pub(super) fn check(&self, check: &Check<'_>, errors: &mut Vec<FieldError>) {
        check.host_name("dnsName", &self.dns_name, errors);
        check.targets(&self.targets, true, errors);
    }
}
