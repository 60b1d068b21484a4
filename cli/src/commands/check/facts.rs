//! What the checks look at, read from one API server.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use evergreen_api::{
    names::{ASSIGNMENTS, SYSTEM_NAMESPACE},
    resources::{DataCenter, all_crds},
};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::ConfigMap,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    commands::failover::sites::CALL,
    exit::{Failure, Outcome},
};

/// Version of the release that a definition came with.
pub const ANNOTATION_RELEASE: &str = "evergreen.dev/release-version";
const LABEL_NAME: &str = "app.kubernetes.io/name=evergreen";
const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";

/// Which data center is looked at.
#[derive(Debug, Args)]
pub struct WhereArgs {
    /// Kubeconfig of the data center. Default: the usual one, or in a pod its own account.
    #[arg(long, env = "EVERGREEN_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig. Default: the current one.
    #[arg(long, env = "EVERGREEN_CONTEXT", value_name = "NAME")]
    context: Option<String>,
}

impl WhereArgs {
    /// A client that waits for nothing longer than a few seconds.
    ///
    /// # Errors
    /// When there is no usable configuration.
    pub async fn client(&self) -> Outcome<Client> {
        let remedy = "--kubeconfig FILE";
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(file) => {
                let wrong = |error: &dyn std::fmt::Display| {
                    Failure::usage(format_args!("{}: {error}", file.display())).remedy(remedy)
                };
                let read = Kubeconfig::read_from(file).map_err(|error| wrong(&error))?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(|error| wrong(&error))?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options)
                .await
                .map_err(|error| Failure::usage(format_args!("no usable kubeconfig: {error}")).remedy(remedy))?,
            None => Config::infer()
                .await
                .map_err(|error| Failure::usage(format_args!("no usable kubeconfig: {error}")).remedy(remedy))?,
        };
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(3));
        Client::try_from(config)
            .map_err(|error| Failure::usage(format_args!("no usable kubeconfig: {error}")).remedy(remedy))
    }
}

/// A workload of the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// As in `DaemonSet evergreen-agent`.
    pub name: String,
    /// Pods wanted.
    pub wanted: i32,
    /// Pods ready.
    pub ready: i32,
}

/// A custom resource definition of the product, as it is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// Whether its objects are served.
    pub established: bool,
    /// Version of the release that it came with, where it says so.
    pub release: Option<String>,
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Version of the API server, as in `v1.30.2`.
    pub server: (u32, u32),
    /// Releases that have workloads here.
    pub releases: BTreeSet<String>,
    /// Definitions by name; absent ones are `None`.
    pub definitions: BTreeMap<String, Option<Definition>>,
    /// Workloads of the product.
    pub workloads: Vec<Workload>,
    /// Whether the register is there.
    pub register: bool,
    /// Data centers as this one sees them.
    pub data_centers: Vec<DataCenter>,
}

impl Facts {
    /// Reads everything.
    ///
    /// # Errors
    /// When the API server does not answer or refuses to tell.
    pub async fn read(client: &Client) -> Outcome<Self> {
        let version = answer("its version", client.apiserver_version()).await?;
        let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        let mut facts = Self { server: (number(&version.major), number(&version.minor)), ..Self::default() };
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in all_crds() {
            let name = crd.name_any();
            let found = answer("definitions", definitions.get_opt(&name)).await?.map(|crd| Definition {
                release: crd.annotations().get(ANNOTATION_RELEASE).cloned(),
                established: crd.status.is_some_and(|status| {
                    let conditions = status.conditions.unwrap_or_default();
                    conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
                }),
            });
            facts.definitions.insert(name, found);
        }
        facts.workloads(client).await?;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        facts.register = answer("the register", maps.get_opt(ASSIGNMENTS)).await?.is_some();
        if facts.definitions.get("datacenters.evergreen.dev").is_some_and(Option::is_some) {
            let api: Api<DataCenter> = Api::all(client.clone());
            facts.data_centers = answer("DataCenters", api.list(&ListParams::default())).await?.items;
        }
        Ok(facts)
    }

    async fn workloads(&mut self, client: &Client) -> Outcome {
        let ours = ListParams::default().labels(LABEL_NAME);
        let releases = &mut self.releases;
        let mut add = |kind: &str, object: &dyn Labelled, wanted: i32, ready: i32| {
            releases.extend(object.release());
            Workload { name: format!("{kind} {}", object.title()), wanted, ready }
        };
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        for set in answer("DaemonSets", sets.list(&ours)).await? {
            let status = set.status.clone().unwrap_or_default();
            self.workloads.push(add("DaemonSet", &set, status.desired_number_scheduled, status.number_ready));
        }
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        for one in answer("Deployments", deployments.list(&ours)).await? {
            let wanted = one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let ready = one.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            self.workloads.push(add("Deployment", &one, wanted, ready));
        }
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        for set in answer("StatefulSets", sets.list(&ours)).await? {
            let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            self.workloads.push(add("StatefulSet", &set, wanted, ready));
        }
        Ok(())
    }
}

/// What the labels of a workload say.
trait Labelled {
    fn release(&self) -> Option<String>;
    fn title(&self) -> String;
}

impl<K: ResourceExt> Labelled for K {
    fn release(&self) -> Option<String> {
        self.labels().get(LABEL_INSTANCE).cloned()
    }

    fn title(&self) -> String {
        self.name_any()
    }
}

/// An answer of the API server within a bound.
///
/// # Errors
/// When there is none, or a refusal.
pub async fn answer<T>(what: &str, call: impl Future<Output = Result<T, kube::Error>>) -> Outcome<T> {
    match tokio::time::timeout(CALL, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(Failure::no(format_args!("{what}: {}", status.message))
            .remedy("use a kubeconfig that may read the namespace evergreen-system and the kinds of evergreen.dev")),
        Ok(Err(error)) => {
            Err(Failure::unreachable(format_args!("the API server does not answer: {error}"))
                .remedy("--kubeconfig FILE"))
        }
        Err(_) => {
            let what = format_args!("the API server did not answer within {} s ({what})", CALL.as_secs());
            Err(Failure::unreachable(what).remedy("--kubeconfig FILE"))
        }
    }
}
