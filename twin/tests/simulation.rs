//! What runs in a data center, as clients see it: workloads come up, drain within budgets, survive lost nodes.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use evergreen_twin::{HostSpec, Loss, NodeSpec, SimulatedHost, Timing, Twin};

fn site(nodes: usize) -> (Twin, Client, tokio_util::sync::DropGuard) {
    let mut builder = Twin::builder("dc-a").timing(Timing::short());
    for n in 1..=nodes {
        builder = builder.node(NodeSpec::new(&format!("n{n}")).capacity(4, 8 << 30));
    }
    let twin = builder.build();
    let cancel = CancellationToken::new();
    twin.start(cancel.clone());
    let client = twin.client("test");
    (twin, client, cancel.drop_guard())
}

fn deployment(replicas: i32, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image, "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}}}
    }))
    .unwrap()
}

fn budget(min_available: i32) -> PodDisruptionBudget {
    serde_json::from_value(json!({"metadata": {"name": "web"},
        "spec": {"minAvailable": min_available, "selector": {"matchLabels": {"app": "web"}}}}))
    .unwrap()
}

/// Waits (in virtual time) until something holds; the limit is far beyond what any test here needs.
async fn eventually<F: AsyncFn() -> bool>(what: &str, holds: F) {
    for _ in 0..6000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("did not come about: {what}");
}

async fn up(client: &Client, replicas: i32) {
    let api: Api<Deployment> = Api::default_namespaced(client.clone());
    eventually("the Deployment is available", async || {
        let status = api.get("web").await.unwrap().status.unwrap_or_default();
        status.available_replicas == Some(replicas) && status.replicas == Some(replicas)
    })
    .await;
}

async fn pods(client: &Client) -> Vec<Pod> {
    Api::<Pod>::default_namespaced(client.clone()).list(&ListParams::default().labels("app=web")).await.unwrap().items
}

#[tokio::test(start_paused = true)]
async fn a_deployment_comes_up_spread_over_the_nodes_and_behind_its_service() {
    let (_twin, client, _guard) = site(3);
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    let made = services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    assert!(made.spec.unwrap().cluster_ip.unwrap().starts_with("10."));
    Api::<Deployment>::default_namespaced(client.clone())
        .create(&PostParams::default(), &deployment(3, "a:1"))
        .await
        .unwrap();
    up(&client, 3).await;
    let mut nodes: Vec<String> = pods(&client).await.into_iter().filter_map(|p| p.spec?.node_name).collect();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2", "n3"]);
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    eventually("three endpoints are ready", async || {
        let slices = slices.list(&ListParams::default().labels("kubernetes.io/service-name=web")).await.unwrap();
        slices
            .items
            .iter()
            .flat_map(|s| s.endpoints.iter().flatten())
            .filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)))
            .count()
            == 3
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_template_rolls_over_without_falling_below_the_budget_of_the_strategy() {
    let (_twin, client, _guard) = site(2);
    let api: Api<Deployment> = Api::default_namespaced(client.clone());
    api.create(&PostParams::default(), &deployment(4, "a:1")).await.unwrap();
    up(&client, 4).await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a:2"}]}}}});
    api.patch("web", &PatchParams::default(), &Patch::Strategic(image)).await.unwrap();
    let mut least = 4;
    for _ in 0..200 {
        least = least.min(api.get("web").await.unwrap().status.unwrap().available_replicas.unwrap_or(0));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(least >= 3, "25 % of 4 may be unavailable, {least} were available");
    up(&client, 4).await;
    assert!(pods(&client).await.iter().all(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("a:2")));
    let sets = Api::<ReplicaSet>::default_namespaced(client.clone()).list(&ListParams::default()).await.unwrap();
    assert_eq!(sets.items.len(), 2, "the old ReplicaSet stays for a rollback");
}

#[tokio::test(start_paused = true)]
async fn eviction_is_refused_while_the_budget_would_break_and_granted_again_later() {
    let (_twin, client, _guard) = site(3);
    Api::<Deployment>::default_namespaced(client.clone())
        .create(&PostParams::default(), &deployment(3, "a:1"))
        .await
        .unwrap();
    up(&client, 3).await;
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(client.clone());
    budgets.create(&PostParams::default(), &budget(2)).await.unwrap();
    let allowed =
        async || budgets.get_status("web").await.unwrap().status.and_then(|s| s.disruptions_allowed).unwrap_or(0);
    eventually("one disruption is allowed", async || allowed().await == 1).await;
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let names: Vec<String> = pods(&client).await.iter().map(ResourceExt::name_any).collect();
    api.evict(&names[0], &EvictParams::default()).await.unwrap();
    let refused = api.evict(&names[1], &EvictParams::default()).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused:?}") };
    assert_eq!(status.code, 429);
    let cause = &status.details.as_ref().unwrap().causes[0];
    assert_eq!(cause.reason, "DisruptionBudget");
    assert!(cause.message.contains("needs 2 healthy pods"), "{}", cause.message);
    eventually("the replacement is ready", async || allowed().await == 1).await;
    api.evict(&names[1], &EvictParams::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cordoned_node_gets_no_new_pods_but_its_daemon_stays() {
    let (_twin, client, _guard) = site(2);
    let daemon = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}}}});
    let daemons: Api<DaemonSet> = Api::default_namespaced(client.clone());
    daemons.create(&PostParams::default(), &serde_json::from_value(daemon).unwrap()).await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    eventually("both daemons are ready", async || {
        daemons.get("d").await.unwrap().status.is_some_and(|s| s.number_ready == 2)
    })
    .await;
    nodes.cordon("n1").await.unwrap();
    Api::<Deployment>::default_namespaced(client.clone())
        .create(&PostParams::default(), &deployment(3, "a:1"))
        .await
        .unwrap();
    up(&client, 3).await;
    assert!(pods(&client).await.iter().all(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some("n2")));
    assert_eq!(daemons.get("d").await.unwrap().status.unwrap().number_ready, 2);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fits_nowhere_says_why() {
    let (_twin, client, _guard) = site(1);
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = json!({"metadata": {"name": "big"}, "spec": {"containers": [{"name": "c", "image": "a:1", "resources": {"requests": {"cpu": "64"}}}]}});
    api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    eventually("it is unschedulable", async || {
        let conditions = api.get("big").await.unwrap().status.unwrap().conditions.unwrap_or_default();
        conditions.iter().any(|c| {
            c.reason.as_deref() == Some("Unschedulable") && c.message.as_deref().unwrap().contains("Insufficient cpu")
        })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_node_turns_unknown_its_pods_are_replaced_and_it_comes_back() {
    let (twin, client, _guard) = site(3);
    Api::<Deployment>::default_namespaced(client.clone())
        .create(&PostParams::default(), &deployment(3, "a:1"))
        .await
        .unwrap();
    up(&client, 3).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let ready = async |status: &str| {
        let node = nodes.get("n1").await.unwrap();
        node.status.unwrap().conditions.unwrap().iter().any(|c| c.type_ == "Ready" && c.status == status)
    };
    assert!(twin.stop_node("n1"));
    eventually("the node is Unknown", async || ready("Unknown").await).await;
    eventually("three pods are ready on the other nodes", async || {
        pods(&client)
            .await
            .iter()
            .filter(|p| p.spec.as_ref().unwrap().node_name.as_deref() != Some("n1") && is_ready(p))
            .count()
            == 3
    })
    .await;
    assert!(twin.start_node("n1").unwrap());
    eventually("the node is Ready", async || ready("True").await).await;
    eventually("its taints and its old pod are gone", async || {
        let clean = nodes.get("n1").await.unwrap().spec.unwrap_or_default().taints.unwrap_or_default().is_empty();
        clean && pods(&client).await.len() == 3
    })
    .await;
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_a_deleted_owner_goes_with_it_in_every_propagation() {
    let (_twin, client, _guard) = site(1);
    let api: Api<Deployment> = Api::default_namespaced(client.clone());
    let sets: Api<ReplicaSet> = Api::default_namespaced(client.clone());
    for policy in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        api.create(&PostParams::default(), &deployment(2, "a:1")).await.unwrap();
        up(&client, 2).await;
        let params = DeleteParams { propagation_policy: Some(policy.clone()), ..DeleteParams::default() };
        api.delete("web", &params).await.unwrap();
        eventually("nothing is left", async || {
            api.get_opt("web").await.unwrap().is_none()
                && sets.list(&ListParams::default()).await.unwrap().items.is_empty()
                && pods(&client).await.is_empty()
        })
        .await;
    }
    api.create(&PostParams::default(), &deployment(2, "a:1")).await.unwrap();
    up(&client, 2).await;
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    api.delete("web", &params).await.unwrap();
    eventually("the Deployment is gone", async || api.get_opt("web").await.unwrap().is_none()).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(pods(&client).await.len(), 2, "orphans stay");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_takes_all_that_is_in_it_along() {
    let (_twin, client, _guard) = site(1);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap())
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.dev/hold"]}});
    maps.create(&PostParams::default(), &serde_json::from_value(held).unwrap()).await.unwrap();
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(namespaces.get("shop").await.unwrap().status.unwrap().phase.as_deref(), Some("Terminating"));
    maps.patch("held", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .unwrap();
    await_condition(namespaces.clone(), "shop", conditions::is_deleted("")).await.ok();
    eventually("the namespace is gone", async || namespaces.get_opt("shop").await.unwrap().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_site_stands_still_and_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let host = SimulatedHost::create(dir.path(), HostSpec::server("n1")).unwrap();
    let twin = Twin::builder("dc-a").timing(Timing::short()).node(NodeSpec::new("n1").host(host.clone())).build();
    let cancel = CancellationToken::new();
    twin.start(cancel.clone());
    let _guard = cancel.drop_guard();
    let client = twin.client("test");
    Api::<Deployment>::default_namespaced(client.clone())
        .create(&PostParams::default(), &deployment(2, "a:1"))
        .await
        .unwrap();
    up(&client, 2).await;
    twin.lose_site(Loss::Reset);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (version, energy) = (twin.api().store().version(), host.wall_microjoules());
    assert!(Api::<Node>::all(client.clone()).get("n1").await.is_err());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!((twin.api().store().version(), host.wall_microjoules()), (version, energy), "a dark site does nothing");
    twin.return_site();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let node = Api::<Node>::all(client.clone()).get("n1").await.unwrap();
    assert!(node.status.unwrap().conditions.unwrap().iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    assert_eq!(pods(&client).await.iter().filter(|p| is_ready(p)).count(), 2);
    let after = host.wall_microjoules() - energy;
    assert!(after < 500_000_000, "two seconds of a server, not two minutes: {after} uJ");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_restarts_within_its_grace_keeps_its_pods_moving() {
    let (twin, client, _guard) = site(1);
    Api::<Deployment>::default_namespaced(client.clone())
        .create(&PostParams::default(), &deployment(2, "a:1"))
        .await
        .unwrap();
    up(&client, 2).await;
    let victim = pods(&client).await[0].name_any();
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    twin.stop_node("n1");
    api.delete(&victim, &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(api.get(&victim).await.unwrap().metadata.deletion_timestamp.is_some(), "nobody is there to stop it");
    twin.start_node("n1").unwrap();
    eventually("the deleted pod is gone", async || api.get_opt(&victim).await.unwrap().is_none()).await;
    up(&client, 2).await;
}

#[tokio::test(start_paused = true)]
async fn same_seed_and_same_requests_give_the_same_objects_bit_by_bit() {
    let run = async || {
        let mut builder =
            Twin::builder("dc-a").timing(Timing::short()).seed(7).epoch("2026-01-01T00:00:00Z".parse().unwrap());
        for n in 1..=3 {
            builder = builder.node(NodeSpec::new(&format!("n{n}")));
        }
        let twin = builder.build();
        let cancel = CancellationToken::new();
        twin.start(cancel.clone());
        let client = twin.client("test");
        Api::<Deployment>::default_namespaced(client.clone())
            .create(&PostParams::default(), &deployment(5, "a:1"))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        cancel.cancel();
        let tables = ["pods", "nodes", "replicasets", "deployments"];
        let groups = ["", "", "apps", "apps"];
        tables.iter().zip(groups).flat_map(|(t, g)| twin.api().read_all(g, t, None)).collect::<Vec<Value>>()
    };
    let (first, second) = (run().await, run().await);
    assert!(first.len() > 8);
    assert_eq!(serde_json::to_string(&first).unwrap(), serde_json::to_string(&second).unwrap());
}

#[tokio::test(start_paused = true)]
async fn running_pods_have_cgroups_on_their_host_and_load_costs_energy() {
    let dir = tempfile::tempdir().unwrap();
    let host = SimulatedHost::create(dir.path(), HostSpec::server("n1")).unwrap();
    let twin = Twin::builder("dc-a").timing(Timing::short()).node(NodeSpec::new("n1").host(host.clone())).build();
    let cancel = CancellationToken::new();
    twin.start(cancel.clone());
    let client = twin.client("test");
    Api::<Deployment>::default_namespaced(client.clone())
        .create(&PostParams::default(), &deployment(1, "a:1"))
        .await
        .unwrap();
    up(&client, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let uid = pods(&client).await[0].uid().unwrap();
    let folder = dir.path().join(format!(
        "sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice",
        uid.replace('-', "_")
    ));
    let usage = || {
        let text = std::fs::read_to_string(folder.join("cpu.stat")).unwrap();
        text.lines().next().unwrap().split(' ').nth(1).unwrap().parse::<u64>().unwrap()
    };
    let (usage_before, energy_before) = (usage(), host.wall_microjoules());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle = host.wall_microjoules() - energy_before;
    twin.add_load(&uid, Duration::from_secs(10));
    let energy_before = host.wall_microjoules();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(usage() - usage_before >= 10_000_000, "ten seconds of work were done");
    assert!(host.wall_microjoules() - energy_before > idle);
    cancel.cancel();
}
