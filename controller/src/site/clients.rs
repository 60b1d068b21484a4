//! Kubernetes clients that never wait without a bound and never retry on their own: a retry hidden in the client would
//! outlive a lease.

use std::{path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::clusters::Refusal;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than a watch bookmark interval (about a minute), so that a quiet watch is no error.
const READ_TIMEOUT: Duration = Duration::from_secs(290);
/// A call outside a watch.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig is unusable.
    #[error("the kubeconfig {0} cannot be used")]
    Kubeconfig(String, #[source] Box<KubeconfigError>),
    /// No kubeconfig was given and this is no pod.
    #[error("no --kubeconfig was given and this process does not run in a pod")]
    InCluster(#[source] kube::config::InClusterError),
    /// The client could not be built.
    #[error("the Kubernetes client could not be built")]
    Build(#[source] Box<kube::Error>),
    /// The Secret with a peer's kubeconfig is missing, incomplete or could not be read.
    #[error("Secret {0} in {namespace}: {1}", namespace = evergreen_api::names::SYSTEM_NAMESPACE)]
    Secret(String, String),
    /// Which cluster answers cannot be told.
    #[error("which cluster this is cannot be read (get namespace kube-system): {0}")]
    Cluster(String),
    /// It is not the cluster that it should be.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

/// Client of the own site's API server.
///
/// # Errors
/// When the configuration is unusable; whether the server answers is not tried.
pub async fn own(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let config = match kubeconfig {
        Some(path) => {
            let name = path.display().to_string();
            let parsed =
                Kubeconfig::read_from(path).map_err(|error| ClientError::Kubeconfig(name.clone(), Box::new(error)))?;
            from_kubeconfig(parsed, name).await?
        }
        None => Config::incluster().map_err(ClientError::InCluster)?,
    };
    build(config)
}

/// Client of another site's API server, from the Secret that a DataCenter names, and when its certificate ends.
///
/// # Errors
/// When the Secret cannot be read or its kubeconfig is unusable.
pub async fn peer(own: &Client, secret: &str) -> Result<(Client, Option<Timestamp>), ClientError> {
    let wrong = |why: String| ClientError::Secret(secret.to_owned(), why);
    let api: Api<Secret> = Api::namespaced(own.clone(), evergreen_api::names::SYSTEM_NAMESPACE);
    let object = tokio::time::timeout(CALL_TIMEOUT, api.get(secret))
        .await
        .map_err(|_| wrong("no answer in time".into()))?
        .map_err(|error| wrong(error.to_string()))?;
    let key = evergreen_api::names::KUBECONFIG_KEY;
    let data = object.data.as_ref().and_then(|data| data.get(key));
    let bytes = data.ok_or_else(|| wrong(format!("has no key `{key}`")))?;
    let text = std::str::from_utf8(&bytes.0).map_err(|_| wrong(format!("`{key}` is no text")))?;
    let parsed =
        Kubeconfig::from_yaml(text).map_err(|error| ClientError::Kubeconfig(secret.to_owned(), Box::new(error)))?;
    let ends = certificate_ends(&parsed);
    Ok((build(from_kubeconfig(parsed, secret.to_owned()).await?)?, ends))
}

/// When the first client certificate of a kubeconfig ends.
fn certificate_ends(kubeconfig: &Kubeconfig) -> Option<Timestamp> {
    let user = kubeconfig.auth_infos.iter().find_map(|user| user.auth_info.as_ref())?;
    let pem = STANDARD.decode(user.client_certificate_data.as_ref()?).ok()?;
    let der = CertificateDer::from_pem_slice(&pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// UID of the cluster that answers: that of its namespace kube-system.
///
/// # Errors
/// When it cannot be read.
pub async fn cluster(client: &Client) -> Result<String, ClientError> {
    let cannot = |why: String| ClientError::Cluster(why);
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = tokio::time::timeout(CALL_TIMEOUT, api.get("kube-system"))
        .await
        .map_err(|_| cannot("no answer in time".into()))?
        .map_err(|error| cannot(chain(&error)))?;
    namespace.metadata.uid.ok_or_else(|| cannot("it has no UID".into()))
}

/// An error with everything that led to it: of a connection the outermost says only that it failed.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}

async fn from_kubeconfig(kubeconfig: Kubeconfig, name: String) -> Result<Config, ClientError> {
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| ClientError::Kubeconfig(name, Box::new(error)))
}

fn build(mut config: Config) -> Result<Client, ClientError> {
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    Client::try_from(config).map_err(|error| ClientError::Build(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_client_certificate_is_read_from_the_kubeconfig() {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2024, 3, 1);
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let data = STANDARD.encode(certificate.pem());
        let text = format!("users: [{{name: u, user: {{client-certificate-data: {data}}}}}]");
        let ends = certificate_ends(&Kubeconfig::from_yaml(&text).unwrap()).unwrap();
        assert_eq!(ends.to_string(), "2024-03-01T00:00:00Z");
        assert!(certificate_ends(&Kubeconfig::from_yaml("users: []").unwrap()).is_none());
    }
}
