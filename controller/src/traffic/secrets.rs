//! Keys of actuators, from Secrets in the system namespace; the controller may read those that the chart's values name.
//! What is in them is in no error, log or status.

use std::collections::BTreeMap;

use evergreen_api::names::SYSTEM_NAMESPACE;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use zeroize::Zeroizing;

use super::TrafficError;
use crate::site::clients::CALL_TIMEOUT;

/// Values of a Secret. It has no text form; values are wiped when it is dropped.
pub(super) struct Keys {
    name: String,
    values: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl Keys {
    /// Reads a Secret. The last line break of a value is left out: files end with one.
    pub async fn read(client: &Client, name: &str) -> Result<Self, TrafficError> {
        let wrong = |why: String| TrafficError::Secret { name: name.to_owned(), why };
        let api: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let read = tokio::time::timeout(CALL_TIMEOUT, api.get(name)).await;
        let secret = read.map_err(|_| wrong("the API server did not answer in time".into()))?.map_err(|error| {
            let why = match error {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            };
            wrong(format!("cannot be read ({why}); the chart's value traffic.secrets lists those that may be"))
        })?;
        let values = secret.data.unwrap_or_default().into_iter().map(|(key, value)| {
            let mut bytes = Zeroizing::new(value.0);
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            (key, bytes)
        });
        Ok(Self { name: name.to_owned(), values: values.collect() })
    }

    /// A value that must be there and not be empty.
    pub fn need(&self, key: &str) -> Result<&[u8], TrafficError> {
        let value = self.values.get(key).map(|value| value.as_slice()).filter(|value| !value.is_empty());
        value.ok_or_else(|| self.wrong(format!("has no `{key}`")))
    }

    /// A value that must be text.
    pub fn text(&self, key: &str) -> Result<&str, TrafficError> {
        std::str::from_utf8(self.need(key)?).map_err(|_| self.wrong(format!("`{key}` is no text")))
    }

    /// A value that may be absent.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key).map(|value| value.as_slice())
    }

    /// What is wrong with this Secret.
    pub fn wrong(&self, why: impl Into<String>) -> TrafficError {
        TrafficError::Secret { name: self.name.clone(), why: why.into() }
    }

    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let values = pairs.iter().map(|(k, v)| ((*k).to_owned(), Zeroizing::new(v.as_bytes().to_vec())));
        Self { name: "test".into(), values: values.collect() }
    }
}
