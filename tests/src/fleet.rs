//! Three data centers on simulated API servers with the real controller at each, for tests of failover.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use evergreen_api::{names, resources::all_crds};
use evergreen_twin::{Served, Twin};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::programs::{Process, free_port, program};

/// Names of the sites, in the order in which the service prefers them.
pub const SITES: [&str; 3] = ["dc-a", "dc-b", "dc-c"];
/// Failover group of the service.
pub const GROUP: &str = "shop.checkout";

/// One data center.
pub struct Site {
    /// Name.
    pub name: &'static str,
    /// Its simulated API server.
    pub twin: Twin,
    /// Client of the test.
    pub client: Client,
    /// Its controller, when it runs.
    pub controller: Option<Process>,
    served: Served,
}

/// The fleet.
pub struct Fleet {
    /// Sites by name.
    pub sites: BTreeMap<&'static str, Site>,
    dir: tempfile::TempDir,
    flags: Vec<String>,
}

impl Fleet {
    /// Starts three API servers with everything applied, and a controller at each.
    ///
    /// # Panics
    /// When something cannot be started.
    pub async fn start(service: Value) -> Self {
        Self::start_with(service, &[], |_| Vec::new()).await
    }

    /// As [`Fleet::start`], with further flags of the controllers and further objects at each site: group, version, kind
    /// and object.
    ///
    /// # Panics
    /// When something cannot be started.
    pub async fn start_with(
        service: Value,
        flags: &[&str],
        objects: impl Fn(&str) -> Vec<(&'static str, &'static str, &'static str, Value)>,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut sites = BTreeMap::new();
        for name in SITES {
            let twin = Twin::builder(name).build();
            let listen: SocketAddr = ([127, 0, 0, 1], 0).into();
            let served = twin.serve(listen).await.expect("a loopback port");
            let client = twin.client("test");
            sites.insert(name, Site { name, twin, client, controller: None, served });
        }
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let fleet = Self { sites, dir, flags };
        for site in fleet.sites.values() {
            fleet.apply(site, &service).await;
            for (group, version, kind, object) in objects(site.name) {
                create(&site.client, group, version, kind, object).await;
            }
        }
        let mut fleet = fleet;
        for name in SITES {
            fleet.start_controller(name);
        }
        fleet
    }

    /// Folder with the processes' logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A site by name.
    ///
    /// # Panics
    /// When there is none.
    pub fn site(&self, name: &str) -> &Site {
        &self.sites[name]
    }

    /// A kubeconfig of a site for a user, in a file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn kubeconfig(&self, name: &str, user: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.{}.kubeconfig", user.replace(':', "-")));
        std::fs::write(&path, self.sites[name].served.kubeconfig(user)).expect("a kubeconfig");
        path
    }

    /// Folder of the audit log of a site's controller.
    pub fn audit(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("audit-{name}"))
    }

    /// Makes an object at a site.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn create(&self, name: &str, group: &str, version: &str, kind: &str, object: Value) {
        create(&self.site(name).client, group, version, kind, object).await;
    }

    /// Starts the real controller of a site.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_controller(&mut self, name: &str) {
        let site = self.sites.get_mut(name).expect("a known site");
        let kubeconfig = self.dir.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, site.served.kubeconfig(&format!("controller:{name}"))).expect("a kubeconfig");
        let mut command = Command::new(program("evergreen-controller"));
        command
            .args(["--site", name, "--kubeconfig"])
            .arg(&kubeconfig)
            .arg("--metrics-listen")
            .arg(format!("127.0.0.1:{}", free_port()))
            .arg("--audit-dir")
            .arg(self.dir.path().join(format!("audit-{name}")))
            .args(&self.flags)
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        site.controller =
            Some(Process::start(&format!("controller-{name}"), command, self.dir.path()).expect("a controller"));
    }

    /// Ends the controller of a site as `kill -9` does.
    pub fn kill_controller(&mut self, name: &str) {
        if let Some(mut controller) = self.sites.get_mut(name).and_then(|site| site.controller.take()) {
            controller.kill();
        }
    }

    /// An object of this project without a namespace at a site.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn cluster_object(&self, name: &str, kind: &str, object: &str) -> Result<Value, String> {
        let api = api(&self.site(name).client, "evergreen.dev", "v1alpha1", kind, None);
        let found = api.get(object).await.map_err(|error| error.to_string())?;
        serde_json::to_value(found).map_err(|error| error.to_string())
    }

    /// Asks for the end of an object of this project without a namespace.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn delete_cluster_object(&self, name: &str, kind: &str, object: &str) {
        let api = api(&self.site(name).client, "evergreen.dev", "v1alpha1", kind, None);
        api.delete(object, &DeleteParams::default()).await.expect("it can be deleted");
    }

    /// Changes the status of an object of this project without a namespace.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn merge_status(&self, name: &str, kind: &str, object: &str, patch: Value) {
        let api = api(&self.site(name).client, "evergreen.dev", "v1alpha1", kind, None);
        api.patch_status(object, &PatchParams::default(), &Patch::Merge(patch)).await.expect("it can be patched");
    }

    /// Adds to a ConfigMap of the product.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn merge_config_map(&self, name: &str, config_map: &str, data: Value) {
        let api = api(&self.site(name).client, "", "v1", "ConfigMap", Some(names::SYSTEM_NAMESPACE));
        let patch = Patch::Merge(json!({"data": data}));
        api.patch(config_map, &PatchParams::default(), &patch).await.expect("it can be patched");
    }

    async fn apply(&self, site: &Site, service: &Value) {
        let create = |group, version, kind, object| create(&site.client, group, version, kind, object);
        for crd in all_crds() {
            let crd = serde_json::to_value(crd).expect("a CRD is plain data");
            create("apiextensions.k8s.io", "v1", "CustomResourceDefinition", crd).await;
        }
        for namespace in [names::SYSTEM_NAMESPACE, "shop"] {
            create("", "v1", "Namespace", json!({"metadata": {"name": namespace}})).await;
        }
        let register = json!({"metadata": {"name": names::ASSIGNMENTS, "namespace": names::SYSTEM_NAMESPACE},
            "data": {"register": "{}"}});
        create("", "v1", "ConfigMap", register).await;
        for other in self.sites.values() {
            let kubeconfig = other.served.kubeconfig(&format!("controller:{}", site.name));
            let secret = json!({"metadata": {"name": format!("evergreen-site-{}", other.name), "namespace": names::SYSTEM_NAMESPACE},
                "stringData": {"kubeconfig": kubeconfig}});
            create("", "v1", "Secret", secret).await;
            let data_center = json!({"metadata": {"name": other.name}, "spec": {"profile": "fast",
                "apiServer": {"kubeconfigSecret": format!("evergreen-site-{}", other.name)}}});
            create("evergreen.dev", "v1alpha1", "DataCenter", data_center).await;
        }
        let labels = json!({"app": "checkout"});
        create(
            "apps",
            "v1",
            "Deployment",
            json!({"metadata": {"name": "checkout", "namespace": "shop"}, "spec": {
            "replicas": 2, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "checkout:1"}]}}}}),
        )
        .await;
        self.ready(site.name, 2).await;
        let backends: Vec<Value> = SITES
            .iter()
            .map(|other| {
                let name = if *other == site.name { "checkout".to_owned() } else { format!("checkout-{other}") };
                json!({"name": name, "port": 8080, "weight": if *other == site.name { 100 } else { 0 }})
            })
            .collect();
        create(
            "gateway.networking.k8s.io",
            "v1",
            "HTTPRoute",
            json!({"metadata": {"name": "checkout", "namespace": "shop"},
            "spec": {"hostnames": ["checkout.example"], "rules": [{"backendRefs": backends}]}}),
        )
        .await;
        create("evergreen.dev", "v1alpha1", "MultiActiveService", service.clone()).await;
    }

    /// Says how many replicas of the service are ready at a site.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn ready(&self, name: &str, replicas: u32) {
        let api = Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(self.site(name).client.clone(), "shop");
        let patch = Patch::Merge(json!({"status": {"readyReplicas": replicas, "replicas": 2}}));
        api.patch_status("checkout", &PatchParams::default(), &patch).await.expect("a deployment's status");
    }

    /// Sites that the service's status at `name` names as active.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn active(&self, name: &str) -> Result<Vec<String>, String> {
        let service = self.service(name).await?;
        let sites = service.pointer("/status/activeSites").and_then(Value::as_str).unwrap_or_default();
        Ok(sites.split(',').filter(|site| !site.is_empty()).map(str::to_owned).collect())
    }

    /// The service at a site.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn service(&self, name: &str) -> Result<Value, String> {
        get(&self.site(name).client, "evergreen.dev", "v1alpha1", "MultiActiveService", "checkout").await
    }

    /// Weights of the route at a site, by backend.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn weights(&self, name: &str) -> Result<BTreeMap<String, u64>, String> {
        let route = get(&self.site(name).client, "gateway.networking.k8s.io", "v1", "HTTPRoute", "checkout").await?;
        let refs = route.pointer("/spec/rules/0/backendRefs").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(refs
            .iter()
            .filter_map(|r| {
                Some((r["name"].as_str()?.to_owned(), r.get("weight").and_then(Value::as_u64).unwrap_or(1)))
            })
            .collect())
    }
}

/// A service that two of the three sites serve, with everything automatic.
pub fn automatic_service() -> Value {
    let backends: Vec<Value> = SITES
        .iter()
        .map(|site| json!({"site": site, "local": "checkout", "remote": format!("checkout-{site}"), "port": 8080}))
        .collect();
    json!({"metadata": {"name": "checkout", "namespace": "shop"}, "spec": {
        "mode": "ActiveActive", "kind": "query", "sites": SITES, "minActive": 2, "workload": {"deployment": "checkout"},
        "enforcement": "enforce", "decision": {"planned": "auto", "unplanned": "auto"}, "holdDown": "2s",
        "traffic": [{"httpRoute": {"name": "checkout", "backends": backends}}],
        "failback": {"mode": "automatic", "soak": "2s"}}})
}

fn api(client: &Client, group: &str, version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    if kind == "MultiActiveService" {
        resource.plural = "multiactiveservices".into();
    }
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

async fn create(client: &Client, group: &str, version: &str, kind: &str, mut object: Value) {
    object["apiVersion"] = json!(if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") });
    object["kind"] = json!(kind);
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let made = api(client, group, version, kind, namespace.as_deref()).create(&PostParams::default(), &object).await;
    made.unwrap_or_else(|error| panic!("{kind} cannot be created: {error}"));
}

async fn get(client: &Client, group: &str, version: &str, kind: &str, name: &str) -> Result<Value, String> {
    let object = api(client, group, version, kind, Some("shop")).get(name).await.map_err(|error| error.to_string())?;
    serde_json::to_value(object).map_err(|error| error.to_string())
}
