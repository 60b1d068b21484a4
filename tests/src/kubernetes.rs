//! A real control plane: the one that `KUBECONFIG` names, or one that `scripts/kubernetes` starts once for the whole run
//! and that ends with the run. Without either, the tests on it are skipped and counted.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use evergreen_api::{names, resources::all_crds};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Namespace, Node, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{skip::skipped, wait::eventually};

/// Exit code of the script when there is nothing to start.
const NOTHING_AT_HAND: i32 = 3;
/// Tests cordon nodes and delete objects, so a cluster elsewhere must be meant.
const ANY_CLUSTER: &str = "EVERGREEN_TEST_ANY_CLUSTER";

/// Label of what tests create, so that the next one can remove what a broken one left.
pub const MARK: &str = "evergreen-tests";

/// A control plane that this test has to itself until it drops it.
pub struct Cluster {
    /// Client of an administrator.
    pub client: Client,
    /// Kubeconfig of the same.
    pub kubeconfig: PathBuf,
    _alone: File,
}

/// The control plane for `check`, with the custom resource definitions and the system namespace; `None` when there is
/// none, which is then reported.
///
/// # Panics
/// When there is one and it cannot be used.
pub async fn cluster(check: &str) -> Option<Cluster> {
    let alone = alone();
    let kubeconfig = match kubeconfig() {
        Ok(path) => path,
        Err(why) => {
            skipped(check, &why);
            return None;
        }
    };
    let client = client(&kubeconfig).await;
    let cluster = Cluster { client, kubeconfig, _alone: alone };
    cluster.namespace(names::SYSTEM_NAMESPACE).await;
    cluster.install_crds().await;
    cluster.sweep().await;
    Some(cluster)
}

/// Tests of several processes share the control plane one after another.
fn alone() -> File {
    let path = crate::root().join("target/kubernetes.lock");
    let file = File::options().create(true).append(true).open(&path).expect("target/ is writable");
    file.lock().expect("a file can be locked");
    file
}

fn kubeconfig() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("KUBECONFIG={}: {error}", path.display()))?;
        let local = ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| text.contains(&format!("https://{host}:")));
        if !local && std::env::var_os(ANY_CLUSTER).is_none() {
            return Err(format!(
                "KUBECONFIG={} leads to another machine; the tests drain nodes, so set {ANY_CLUSTER}=1 if it is meant",
                path.display()
            ));
        }
        return Ok(path);
    }
    // Tests of one run have the same parent: cargo or nextest. The control plane lives as long as that.
    let run = std::os::unix::process::parent_id().to_string();
    let answer = Command::new(crate::root().join("scripts/kubernetes"))
        .args(["up", "tests", "--while", &run])
        .output()
        .map_err(|error| format!("scripts/kubernetes cannot be run: {error}"))?;
    let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
    match answer.status.code() {
        Some(0) => Ok(PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim())),
        Some(NOTHING_AT_HAND) => {
            Err(said.lines().last().unwrap_or_default().trim_start_matches("kubernetes: ").to_owned())
        }
        _ => panic!("scripts/kubernetes failed: {said}"),
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(60));
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

impl Cluster {
    /// Makes sure that a namespace exists.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn namespace(&self, name: &str) {
        let namespace = Namespace {
            metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            ..Namespace::default()
        };
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.patch(name, &PatchParams::apply("evergreen-tests"), &Patch::Apply(&namespace)).await.expect("a namespace");
    }

    /// Removes what a test that failed left behind: nodes that nobody plays any more would look like broken ones.
    async fn sweep(&self) {
        let left = ListParams::default().labels(MARK);
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.delete_collection(&DeleteParams::default(), &left).await.expect("old nodes are deleted");
        let deployments: Api<Deployment> = Api::all(self.client.clone());
        for old in deployments.list(&left).await.expect("deployments are listed") {
            let api: Api<Deployment> = Api::namespaced(self.client.clone(), &old.namespace().unwrap_or_default());
            // Gone is what is wanted, whoever did it.
            let _ = api.delete(&old.name_any(), &DeleteParams::background()).await;
        }
        let pods: Api<Pod> = Api::all(self.client.clone());
        eventually("old pods are gone", Duration::from_secs(30), || async {
            let list = pods.list(&ListParams::default().labels(MARK)).await.map_err(|error| error.to_string())?;
            for pod in &list {
                let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
                let _ = api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
            }
            if list.items.is_empty() { Ok(()) } else { Err(format!("{} are left", list.items.len())) }
        })
        .await;
    }

    /// Applies every custom resource definition and waits until all are served.
    ///
    /// # Panics
    /// When the API server refuses one or does not serve it within half a minute.
    pub async fn install_crds(&self) {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let parameters = PatchParams::apply("evergreen-tests").force();
        for crd in all_crds() {
            let name = crd.metadata.name.clone().expect("a definition has a name");
            api.patch(&name, &parameters, &Patch::Apply(&crd)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        eventually("all definitions are established", Duration::from_secs(30), || async {
            let served: BTreeMap<String, bool> = api
                .list(&Default::default())
                .await
                .map_err(|error| error.to_string())?
                .into_iter()
                .filter_map(|crd| {
                    let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
                    let established = conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
                    Some((crd.metadata.name?, established))
                })
                .collect();
            let waiting: Vec<String> = all_crds()
                .into_iter()
                .filter_map(|crd| crd.metadata.name)
                .filter(|name| !served.get(name).copied().unwrap_or(false))
                .collect();
            if waiting.is_empty() { Ok(()) } else { Err(waiting.join(", ")) }
        })
        .await;
    }
}
