//! The product's kinds and the chart on a real API server.

use std::{process::Command, time::Duration};

use evergreen_api::{
    names,
    resources::{DataCenter, EnergyReport, MultiActiveService, NodeHealth, Playbook, PlaybookRun, TimingProfile},
};
use evergreen_tests::{chart, kubernetes::cluster, programs, skip::skipped, wait::eventually};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::{ConfigMap, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

#[tokio::test]
async fn every_definition_is_served_and_refuses_what_its_schema_forbids() {
    let Some(cluster) = cluster("cluster: custom resource definitions").await else { return };
    let playbooks: Api<Playbook> = Api::all(cluster.client.clone());
    let _ = playbooks.delete("schema-check", &DeleteParams::default()).await;
    let playbook = serde_json::from_value::<Playbook>(json!({
        "apiVersion": "evergreen.dev/v1alpha1", "kind": "Playbook", "metadata": {"name": "schema-check"},
        "spec": {"summary": "Nothing.", "match": [{"nodeCondition": {"type": "Never"}}], "steps": [{"cordon": {}}]},
    }))
    .unwrap();
    let kept = playbooks.create(&PostParams::default(), &playbook).await.unwrap();
    assert_eq!(kept.spec, playbook.spec, "the API server changed the spec");
    playbooks.delete("schema-check", &DeleteParams::default()).await.unwrap();

    let wrong = [
        (
            "playbooks",
            json!({"apiVersion": "evergreen.dev/v1alpha1", "kind": "Playbook", "metadata": {"name": "wrong"},
            "spec": {"summary": 7, "match": [], "steps": []}}),
        ),
        (
            "datacenters",
            json!({"apiVersion": "evergreen.dev/v1alpha1", "kind": "DataCenter", "metadata": {"name": "wrong"},
            "spec": {"role": "spectator", "apiServer": {"kubeconfigSecret": "s"}}}),
        ),
    ];
    for (plural, object) in wrong {
        let request = kube::api::Request::new(format!("/apis/evergreen.dev/v1alpha1/{plural}"))
            .create(&PostParams::default(), serde_json::to_vec(&object).unwrap())
            .unwrap();
        let refused = cluster.client.request::<serde_json::Value>(request).await.expect_err(plural);
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 422), "{plural}: {refused}");
    }

    let (service, dry) = ("multiactiveservices", PostParams { dry_run: true, ..PostParams::default() });
    let ask = async |change: serde_json::Value| {
        let mut object = json!({"apiVersion": "evergreen.dev/v1alpha1", "kind": "MultiActiveService",
            "metadata": {"name": "rules", "namespace": names::SYSTEM_NAMESPACE},
            "spec": {"mode": "ActiveStandby", "kind": "account", "sites": ["a", "b"], "workload": {"deployment": "d"},
                "dataGate": {"hook": {"url": "http://db:8008"}}, "traffic": [{"service": {"name": "s",
                "selector": {"app": "d"}, "targetPort": 80, "targets": []}}]}});
        for (key, value) in change.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        let at = format!("/apis/evergreen.dev/v1alpha1/namespaces/{}/{service}", names::SYSTEM_NAMESPACE);
        let request = kube::api::Request::new(at).create(&dry, serde_json::to_vec(&object).unwrap()).unwrap();
        cluster.client.request::<serde_json::Value>(request).await
    };
    ask(json!({})).await.expect("a spec that breaks no rule is taken");
    let bounds = [
        (json!({"sites": []}), "spec.sites"),
        (json!({"traffic": []}), "spec.traffic"),
        (json!({"traffic": [{}]}), "spec.traffic"),
        (json!({"minActive": 0}), "spec.minActive"),
    ];
    for (change, word) in bounds {
        let told = ask(change.clone()).await.expect_err(word);
        let right = matches!(&told, kube::Error::Api(status) if status.code == 422 && status.message.contains(word));
        assert!(right, "{change}: {told}");
    }

    // Every kind can be listed: it is served.
    Api::<NodeHealth>::all(cluster.client.clone()).list(&Default::default()).await.unwrap();
    Api::<PlaybookRun>::all(cluster.client.clone()).list(&Default::default()).await.unwrap();
    Api::<MultiActiveService>::all(cluster.client.clone()).list(&Default::default()).await.unwrap();
    Api::<EnergyReport>::all(cluster.client.clone()).list(&Default::default()).await.unwrap();
}

#[tokio::test]
async fn helm_installs_upgrades_and_uninstalls_the_chart() {
    let Some(helm) = programs::tool("helm") else {
        skipped("cluster: helm install", "no helm on the PATH or in target/tools (make setup)");
        return;
    };
    let Some(cluster) = cluster("cluster: helm install").await else { return };
    let run = |arguments: &[&str]| {
        let answer = Command::new(&helm)
            .args(arguments)
            .args(["--namespace", "evergreen-system", "--kubeconfig"])
            .arg(&cluster.kubeconfig)
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
        assert!(answer.status.success(), "helm {arguments:?}: {said}");
        said
    };
    let chart = chart::folder().display().to_string();
    let playbooks: Api<Playbook> = Api::all(cluster.client.clone());
    for playbook in playbooks.list(&Default::default()).await.unwrap() {
        playbooks.delete(playbook.metadata.name.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
    }

    // What a run that was broken off left behind.
    // No kubelet is here to run the guard of the uninstallation.
    run(&["uninstall", "evergreen", "--ignore-not-found", "--no-hooks"]);
    // The definitions are there already, made by the other tests of this run.
    let said = run(&["install", "evergreen", &chart, "--take-ownership", "--set", "site.name=dc-chart"]);
    assert!(said.contains("dc-chart"), "{said}");
    let data_centers: Api<DataCenter> = Api::all(cluster.client.clone());
    assert_eq!(data_centers.get("dc-chart").await.unwrap().spec.profile, TimingProfile::Bank);
    let registers: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "evergreen-system");
    let register = registers.get(names::ASSIGNMENTS).await.unwrap();
    let in_system = "evergreen-system";
    let daemon_sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), in_system);
    let agents = daemon_sets.get("evergreen-agent").await.unwrap();
    assert_eq!(agents.spec.unwrap().template.spec.unwrap().service_account_name.as_deref(), Some("evergreen-agent"));
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), in_system);
    assert_eq!(deployments.get("evergreen-controller").await.unwrap().spec.unwrap().replicas, Some(2));
    Api::<StatefulSet>::namespaced(cluster.client.clone(), in_system).get("evergreen-plane").await.unwrap();
    let observed: Vec<_> = playbooks.list(&Default::default()).await.unwrap().items;
    assert!(!observed.is_empty(), "no playbook was installed");
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), in_system);
    let certificate = secrets.get("evergreen-controller-tls").await.unwrap().data.unwrap();

    run(&["upgrade", "evergreen", &chart, "--set", "site.name=dc-chart,controller.replicas=3"]);
    assert_eq!(deployments.get("evergreen-controller").await.unwrap().spec.unwrap().replicas, Some(3));
    let kept = secrets.get("evergreen-controller-tls").await.unwrap().data.unwrap();
    assert!(kept == certificate, "an upgrade made new certificates");

    run(&["uninstall", "evergreen", "--no-hooks"]);
    run(&["install", "evergreen", &chart, "--take-ownership", "--set", "site.name=dc-chart"]);
    let same = registers.get(names::ASSIGNMENTS).await.unwrap();
    assert_eq!(same.metadata.uid, register.metadata.uid, "a second installation made the register forget");
    run(&["uninstall", "evergreen", "--no-hooks"]);
    data_centers.delete("dc-chart", &DeleteParams::default()).await.unwrap();
    eventually("the release's objects are gone", Duration::from_secs(30), || async {
        match deployments.get_opt("evergreen-controller").await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    assert!(definitions.get_opt("playbooks.evergreen.dev").await.unwrap().is_some(), "definitions must stay");
    for playbook in observed {
        playbooks.delete(playbook.metadata.name.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
    }
}
