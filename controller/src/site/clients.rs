//! Kubernetes clients that never wait without a bound and never retry on their own: a retry hidden in the client would
//! outlive a lease.

use std::{path::Path, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

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

/// Client of another site's API server, from the Secret that a DataCenter names.
///
/// # Errors
/// When the Secret cannot be read or its kubeconfig is unusable.
pub async fn peer(own: &Client, secret: &str) -> Result<Client, ClientError> {
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
    build(from_kubeconfig(parsed, secret.to_owned()).await?)
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
