//! Users and passwords of BMCs, from Secrets in the system namespace; the controller may read those that the chart's
//! values name, and no others.

use evergreen_api::names::SYSTEM_NAMESPACE;
use evergreen_bmc::{Credentials, Secret as Password};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client};

/// User and password, and what goes with them. It has no text form that shows either.
#[derive(Clone, Debug)]
pub struct Login {
    /// Who asks.
    pub credentials: Credentials,
    /// Authority that BMCs' certificates come from, PEM; public.
    pub authority: Option<Vec<u8>>,
    /// Version of the Secret.
    pub version: String,
}

/// A Secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error(
        "Secret {name} in {SYSTEM_NAMESPACE} cannot be read: {why}; the chart's value bmc.secrets lists those that may be"
    )]
    Read {
        /// Name.
        name: String,
        /// What the API server said.
        why: String,
        /// The API server did not answer, or failed; the Secret may well be there.
        passing: bool,
    },
    /// A key is missing or no text.
    #[error("Secret {name} in {SYSTEM_NAMESPACE} has no {key}, or it is no text; it needs `username` and `password`")]
    Key {
        /// Name.
        name: String,
        /// Key.
        key: &'static str,
    },
}

impl SecretError {
    /// Whether it says nothing about the Secret.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Read { passing: true, .. })
    }
}

/// Reads a login. The last line break of a value is left out: files end with one.
///
/// # Errors
/// When the Secret cannot be read or lacks something; never with what is in it.
pub async fn read_login(client: &Client, name: &str) -> Result<Login, SecretError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let read = |error: kube::Error| {
        let (why, passing) = match error {
            kube::Error::Api(status) => (status.message.clone(), status.code >= 500 || status.code == 429),
            other => (other.to_string(), true),
        };
        SecretError::Read { name: name.to_owned(), why, passing }
    };
    of(name, api.get(name).await.map_err(read)?)
}

fn of(name: &str, secret: Secret) -> Result<Login, SecretError> {
    let mut data = secret.data.unwrap_or_default();
    let mut take = |key: &str| {
        data.remove(key).map(|ByteString(mut bytes)| {
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            bytes
        })
    };
    let missing = |key| SecretError::Key { name: name.to_owned(), key };
    let username =
        take("username").and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| missing("username"))?;
    let password = Password::new(take("password").ok_or_else(|| missing("password"))?);
    let bmc_key = take("kg").map(Password::new);
    Ok(Login {
        credentials: Credentials { username, password, bmc_key },
        authority: take("ca.crt"),
        version: secret.metadata.resource_version.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(pairs: &[(&str, &str)]) -> Secret {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn a_login_is_read_and_shows_no_password() {
        let login =
            of("bmc", secret(&[("username", "monitor\n"), ("password", "hunter2\n"), ("kg", "kgkgkg")])).unwrap();
        assert_eq!(login.credentials.username, "monitor");
        let text = format!("{login:?}");
        assert!(!text.contains("hunter2") && !text.contains("kgkgkg"), "{text}");
    }

    #[test]
    fn a_missing_key_is_told_and_nothing_that_is_there() {
        let error = of("bmc", secret(&[("password", "hunter2")])).unwrap_err().to_string();
        assert!(error.contains("username") && !error.contains("hunter2"), "{error}");
        assert!(of("bmc", secret(&[("username", "x")])).is_err());
    }
}
