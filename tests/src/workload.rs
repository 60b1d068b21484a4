//! A service with a PodDisruptionBudget on a real API server, and an eye on how many of its pods are ready.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{kubernetes::MARK, wait::eventually};

/// A Deployment and its budget.
pub struct Workload {
    client: Client,
    namespace: String,
    name: String,
    replicas: usize,
    least_ready: Arc<AtomicUsize>,
    watcher: Option<JoinHandle<()>>,
}

impl Workload {
    /// Creates `replicas` pods and a budget that keeps `min_available` of them, through policy/v1beta1 where policy/v1
    /// is not served.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn create(client: &Client, namespace: &str, name: &str, replicas: usize, min_available: usize) -> Self {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {MARK: "workload"}},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name, MARK: "workload"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "localhost/none:1"}]},
            }},
        }))
        .expect("a deployment");
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        deployments.create(&PostParams::default(), &deployment).await.expect("the deployment");
        let this = Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            replicas,
            least_ready: Arc::new(AtomicUsize::new(replicas)),
            watcher: None,
        };
        this.budget(min_available).await;
        this
    }

    /// Sets the budget.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn budget(&self, min_available: usize) {
        let mut version = "v1";
        let groups = self.client.list_api_groups().await.expect("API groups");
        let policy = groups.groups.iter().find(|group| group.name == "policy").expect("policies");
        if !policy.versions.iter().any(|served| served.version == "v1") {
            version = "v1beta1";
        }
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("policy", version, "PodDisruptionBudget"));
        let budgets: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let budget = json!({
            "apiVersion": format!("policy/{version}"), "kind": "PodDisruptionBudget", "metadata": {"name": self.name},
            "spec": {"minAvailable": min_available, "selector": {"matchLabels": {"app": self.name}}},
        });
        let parameters = PatchParams::apply("evergreen-tests").force();
        budgets.patch(&self.name, &parameters, &Patch::Apply(&budget)).await.expect("the budget");
        let (budgets, name) = (&budgets, &self.name);
        eventually("the budget counts its pods", Duration::from_secs(30), || async move {
            let budget = budgets.get(name).await.map_err(|error| error.to_string())?;
            let observed = budget.data["status"]["observedGeneration"].as_i64();
            if observed == budget.metadata.generation { Ok(()) } else { Err(format!("{:?}", budget.data["status"])) }
        })
        .await;
    }

    async fn pods(&self) -> Result<Vec<Pod>, String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let list = pods.list(&ListParams::default().labels(&format!("app={}", self.name))).await;
        Ok(list.map_err(|error| error.to_string())?.items)
    }

    /// Waits until every replica is ready.
    ///
    /// # Panics
    /// When that takes longer than a minute.
    pub async fn ready(&self) {
        eventually("all replicas are ready", Duration::from_secs(60), || async {
            let ready = self.pods().await?.iter().filter(|pod| is_ready(pod)).count();
            if ready == self.replicas { Ok(()) } else { Err(format!("{ready} of {} ready", self.replicas)) }
        })
        .await;
    }

    /// How many of its pods are bound to a node and not on their way out.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn pods_on(&self, node: &str) -> Result<usize, String> {
        let on_node = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
        Ok(self.pods().await?.iter().filter(on_node).count())
    }

    /// Begins to watch how many pods are ready.
    pub fn watch(&mut self) {
        let (client, namespace, name) = (self.client.clone(), self.namespace.clone(), self.name.clone());
        let least = self.least_ready.clone();
        self.watcher = Some(tokio::spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client, &namespace);
            let mine = ListParams::default().labels(&format!("app={name}"));
            loop {
                if let Ok(list) = pods.list(&mine).await {
                    least.fetch_min(list.iter().filter(|pod| is_ready(pod)).count(), Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
    }

    /// The fewest pods that were ready at once since [`Self::watch`].
    pub fn least_ready(&self) -> usize {
        self.least_ready.load(Ordering::Relaxed)
    }

    /// Deletes it all.
    pub async fn remove(self) {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        // Gone is what is wanted, whoever did it.
        let _ = deployments.delete(&self.name, &DeleteParams::background()).await;
        for version in ["v1", "v1beta1"] {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("policy", version, "PodDisruptionBudget"));
            let budgets: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            let _ = budgets.delete(&self.name, &DeleteParams::default()).await;
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
