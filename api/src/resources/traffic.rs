//! What moves traffic between the sites of a service: one small type per actuator, and the checks of each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::FieldError;

/// One thing that moves traffic; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficActuator {
    /// Weights of a Gateway API HTTPRoute in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpRouteActuator>,
}

/// Weights of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteActuator {
    /// Name of the HTTPRoute.
    pub name: String,
    /// Backend Service of each site, as seen from every site: the site's own name stands for the local Service.
    pub backends: Vec<SiteBackend>,
}

/// The backends of one site in an HTTPRoute.
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

impl TrafficActuator {
    /// Finds what is wrong with one entry of `spec.traffic` of a service with these sites; `path` is where it stands.
    pub fn validate_for(&self, path: &str, sites: &[String]) -> Vec<FieldError> {
        let Some(route) = &self.http_route else {
            return vec![FieldError::new(path, "set exactly one actuator: httpRoute")];
        };
        let mut errors = Vec::new();
        for site in sites {
            if route.backends.iter().filter(|b| &b.site == site).count() != 1 {
                errors.push(FieldError::new(
                    format!("{path}.httpRoute.backends"),
                    format!("needs exactly one backend for site `{site}`"),
                ));
            }
        }
        for backend in route.backends.iter().filter(|b| !sites.contains(&b.site)) {
            errors.push(FieldError::new(
                format!("{path}.httpRoute.backends"),
                format!("site `{}` is not in spec.sites", backend.site),
            ));
        }
        errors
    }
}
