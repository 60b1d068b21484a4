//! The client of the node's own cluster. It never retries by itself (a Retry-After of minutes would outlive the state
//! that is written) and never waits without a bound.

use std::{path::Path, time::Duration};

use anyhow::Context;
use evergreen_api::names;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Longest silence of a connection; a watch that has nothing to say is told to end by the server before that.
const READ: Duration = Duration::from_secs(310);
/// Longest wait for the site's name at start, before the agent goes on without it.
const SITE: Duration = Duration::from_secs(3);

/// Connects: by a kubeconfig, or as a pod of the cluster, or not at all when it is no pod.
///
/// # Errors
/// When the kubeconfig cannot be used. A server that does not answer is no error.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Option<Client>> {
    let mut config = match kubeconfig {
        Some(path) => {
            let kubeconfig =
                Kubeconfig::read_from(path).with_context(|| format!("{} is no kubeconfig", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("{} names no usable cluster", path.display()))?
        }
        None => match Config::incluster() {
            Ok(config) => config,
            Err(_) => return Ok(None),
        },
    };
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.write_timeout = Some(CONNECT);
    Ok(Some(Client::try_from(config).context("the cluster's address or certificates cannot be used")?))
}

/// The site that the Node is labelled with, if it can be asked now.
pub async fn site_of(client: &Client, node: &str) -> Option<String> {
    let api: Api<Node> = Api::all(client.clone());
    match tokio::time::timeout(SITE, api.get(node)).await {
        Ok(Ok(node)) => node.metadata.labels.unwrap_or_default().remove(names::LABEL_SITE),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the Node cannot be read yet; its site is taken to be `local` (or give --site)");
            None
        }
        Err(_) => {
            tracing::warn!("the API server does not answer yet; the site is taken to be `local` (or give --site)");
            None
        }
    }
}
