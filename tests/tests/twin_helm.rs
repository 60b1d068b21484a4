//! Helm 4 and Helm 3, unmodified, against a twin: a small chart through its whole life, and the product's own chart.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod twin_tools;

use twin_tools::{Site, Tool, in_repository};

const VALUES: &str = "replicas: 2\nimage: shop:1\n";
const TEMPLATE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-conf}
data: {image: {{ .Values.image }}}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec: {containers: [{name: main, image: {{ .Values.image | quote }}}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: {{ .Release.Name }}-db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: main, image: db}]}
"#;
const HOOK: &str = r#"
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-migrate
  annotations: {helm.sh/hook: "pre-upgrade", helm.sh/hook-delete-policy: "before-hook-creation"}
spec:
  template: {spec: {restartPolicy: Never, containers: [{name: m, image: migrate}]}}
"#;
const TEST: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: {{ .Release.Name }}-test
  annotations: {helm.sh/hook: test}
spec: {restartPolicy: Never, containers: [{name: t, image: test}]}
"#;

fn chart(site: &Site) -> String {
    site.file("chart/Chart.yaml", "{apiVersion: v2, name: shop, version: 1.0.0, appVersion: '1'}");
    site.file("chart/values.yaml", VALUES);
    site.file("chart/templates/all.yaml", TEMPLATE);
    site.file("chart/templates/hook.yaml", HOOK);
    site.file("chart/templates/test.yaml", TEST);
    site.dir.path().join("chart").display().to_string()
}

async fn life_of_a_release(tool: &str) {
    let site = Site::start().await;
    let Some(helm) = Tool::find(tool, &format!("twin: {tool}, a chart's life"), &site) else { return };
    let chart = chart(&site);
    let said = helm.ok(&format!("install shop {chart} --wait --timeout 60s")).await;
    assert!(said.contains("STATUS: deployed"), "{said}");
    let resource = site.twin.api().read("apps", "deployments", "default", "shop").unwrap();
    assert_eq!(resource["status"]["readyReplicas"], 2, "--wait returned before the pods were ready");
    assert!(helm.ok("list").await.contains("shop-1.0.0"));
    assert!(helm.refused(&format!("install shop {chart}")).await.contains("in use"));

    helm.ok(&format!("upgrade shop {chart} --set image=shop:2,replicas=3 --wait --timeout 60s")).await;
    let resource = site.twin.api().read("apps", "deployments", "default", "shop").unwrap();
    assert_eq!(resource["spec"]["template"]["spec"]["containers"][0]["image"], "shop:2");
    assert_eq!(site.twin.api().read("batch", "jobs", "default", "shop-migrate").unwrap()["status"]["succeeded"], 1);

    helm.ok("rollback shop 1 --wait --timeout 60s").await;
    let resource = site.twin.api().read("apps", "deployments", "default", "shop").unwrap();
    assert_eq!(resource["spec"]["replicas"], 2);
    assert_eq!(site.twin.api().read("", "configmaps", "default", "shop-conf").unwrap()["data"]["image"], "shop:1");
    let history = helm.ok("history shop").await;
    assert!(history.contains("Rollback to 1") && history.matches("superseded").count() == 2, "{history}");
    assert!(helm.ok("status shop").await.contains("STATUS: deployed"));
    assert!(helm.ok("get manifest shop").await.contains("kind: StatefulSet"));
    assert!(helm.ok("test shop --timeout 30s").await.contains("Succeeded"));

    let broken = helm.refused(&format!("upgrade shop {chart} --set replicas=-1")).await;
    assert!(broken.contains("must be greater than or equal to 0"), "{broken}");
    helm.ok("uninstall shop --wait --timeout 60s").await;
    assert!(site.twin.api().read("apps", "deployments", "default", "shop").is_none());
    assert!(!helm.ok("list").await.contains("shop-1.0.0"));
}

async fn life_of_the_product(tool: &str) {
    let site = Site::start().await;
    let Some(helm) = Tool::find(tool, &format!("twin: {tool}, the product's chart"), &site) else { return };
    let chart = in_repository("charts/evergreen");
    let place = "--namespace evergreen-system";
    helm.ok(&format!("install evergreen {chart} {place} --create-namespace --set site.name=dc-a --wait --timeout 60s"))
        .await;
    let api = site.twin.api();
    assert_eq!(
        api.read("apps", "daemonsets", "evergreen-system", "evergreen-agent").unwrap()["status"]["numberReady"],
        3
    );
    assert_eq!(
        api.read("apps", "statefulsets", "evergreen-system", "evergreen-plane").unwrap()["status"]["readyReplicas"],
        1
    );
    let upgrade =
        format!("upgrade evergreen {chart} {place} --set site.name=dc-a,controller.replicas=3 --wait --timeout 60s");
    assert!(helm.ok(&upgrade).await.contains("STATUS: deployed"));
    assert_eq!(
        api.read("apps", "deployments", "evergreen-system", "evergreen-controller").unwrap()["status"]["readyReplicas"],
        3
    );
    helm.ok(&format!("uninstall evergreen {place} --wait --timeout 60s")).await;
    assert!(api.read("apps", "deployments", "evergreen-system", "evergreen-controller").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_4_installs_upgrades_rolls_back_and_uninstalls() {
    life_of_a_release("helm").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_3_installs_upgrades_rolls_back_and_uninstalls() {
    life_of_a_release("helm3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_4_brings_the_products_own_chart_up() {
    life_of_the_product("helm").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_3_brings_the_products_own_chart_up() {
    life_of_the_product("helm3").await;
}
