//! kubectl, unmodified, against a twin: every command that an operator's day is made of.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod twin_tools;

use twin_tools::{Site, Tool, deployment};

macro_rules! kubectl {
    ($site:ident, $kubectl:ident, $check:literal) => {
        let $site = Site::start().await;
        let Some($kubectl) = Tool::find("kubectl", concat!("twin: kubectl ", $check), &$site) else { return };
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_applied_read_in_every_form_and_described() {
    kubectl!(site, kubectl, "apply and get");
    let file = site.file("web.yaml", &deployment("web", 3, "shop:1"));
    assert_eq!(kubectl.ok(&format!("apply -f {file}")).await.trim(), "deployment.apps/web created");
    assert_eq!(kubectl.ok(&format!("apply -f {file}")).await.trim(), "deployment.apps/web unchanged");
    assert!(kubectl.ok("rollout status deploy/web --timeout=30s").await.contains("successfully rolled out"));

    let table = kubectl.ok("get deploy,rs,pods -o wide").await;
    for column in ["UP-TO-DATE", "CONTAINERS", "SELECTOR", "NOMINATED NODE", "READINESS GATES"] {
        assert!(table.contains(column), "{column} in {table}");
    }
    assert!(kubectl.ok("get deploy web").await.contains("3/3     3            3"));
    let yaml = kubectl.ok("get deploy web -o yaml").await;
    assert!(yaml.contains("progressDeadlineSeconds: 600") && yaml.contains("last-applied-configuration"), "{yaml}");
    assert_eq!(kubectl.ok("get deploy web -o 'jsonpath={.status.readyReplicas}'").await, "3");
    let json: serde_json::Value = serde_json::from_str(&kubectl.ok("get pods -o json -l app=web").await).unwrap();
    assert_eq!(json["items"].as_array().unwrap().len(), 3);
    let columns = kubectl.ok("get nodes -o custom-columns=N:.metadata.name,V:.status.nodeInfo.kubeletVersion").await;
    assert!(columns.contains("dc-a-1   v1."), "{columns}");
    let sorted = kubectl.ok("get nodes --sort-by=.metadata.name -o name --no-headers").await;
    assert_eq!(sorted.trim(), "node/dc-a-1\nnode/dc-a-2\nnode/dc-a-3");
    assert!(kubectl.ok("get pods --field-selector=status.phase=Running -o name").await.lines().count() == 3);
    assert!(kubectl.ok("get all").await.contains("deployment.apps/web"));
    assert!(kubectl.ok("get pods -A --show-labels").await.contains("pod-template-hash="));
    assert!(kubectl.ok("get deploy web --show-managed-fields -o yaml").await.contains("kubectl-client-side-apply"));

    assert!(kubectl.ok("describe deploy web").await.contains("RollingUpdateStrategy:  25% max unavailable"));
    assert!(kubectl.ok("describe pods").await.contains("Conditions:"));
    assert!(kubectl.ok("describe node dc-a-1").await.contains("Allocated resources:"));
    assert!(kubectl.refused("get deploy nothing").await.contains("deployments.apps \"nothing\" not found"));
    assert!(kubectl.refused("get lamps").await.contains("doesn't have a resource type"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields_and_wrong_types_are_refused_with_their_place() {
    kubectl!(site, kubectl, "validation");
    let odd = deployment("web", 1, "shop:1").replace("replicas: 1", "replicas: 1\n  colour: red");
    let file = site.file("odd.yaml", &odd);
    assert!(kubectl.refused(&format!("apply -f {file}")).await.contains("unknown field \"spec.colour\""));
    let said = kubectl.run(&["apply", "--validate=warn", "-f", &file]).await;
    assert!(said.ok && said.err.contains("Warning: unknown field \"spec.colour\""), "{}", said.err);
    let wrong = site.file("wrong.yaml", &deployment("other", 1, "x").replace("replicas: 1", "replicas: one"));
    let why = kubectl.refused(&format!("apply -f {wrong}")).await;
    assert!(
        why.contains("cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        "{why}"
    );
    let named = site.file("named.yaml", &deployment("Bad_Name", 1, "x"));
    assert!(kubectl.refused(&format!("apply -f {named}")).await.contains("RFC 1123 subdomain"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_side_apply_knows_owners_and_tells_conflicts() {
    kubectl!(site, kubectl, "server-side apply");
    let file = site.file("web.yaml", &deployment("web", 2, "shop:1"));
    kubectl.ok(&format!("apply --server-side --field-manager=one -f {file}")).await;
    let other = site.file("other.yaml", &deployment("web", 4, "shop:1"));
    let why = kubectl.refused(&format!("apply --server-side --field-manager=two -f {other}")).await;
    assert!(why.contains("conflict with \"one\"") && why.contains(".spec.replicas"), "{why}");
    kubectl.ok(&format!("apply --server-side --field-manager=two --force-conflicts -f {other}")).await;
    assert_eq!(kubectl.ok("get deploy web -o 'jsonpath={.spec.replicas}'").await, "4");
    // A client-side applier hands its fields over.
    let cm = site.file("cm.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '1', b: '2'}}");
    kubectl.ok(&format!("apply -f {cm}")).await;
    let less = site.file("cm2.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '1'}}");
    kubectl.ok(&format!("apply --server-side -f {less}")).await;
    assert_eq!(kubectl.ok("get cm c -o 'jsonpath={.data}'").await, "{\"a\":\"1\"}");
    let diff = kubectl.run(&["diff", "--server-side", "-f", &cm]).await;
    assert!(diff.out.contains("+  b: \"2\""), "{}{}", diff.out, diff.err);
    assert!(kubectl.ok(&format!("apply view-last-applied -f {cm}")).await.contains("data:"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_of_all_kinds_and_edits_are_carried_out() {
    kubectl!(site, kubectl, "patch and edit");
    let file = site.file("web.yaml", &deployment("web", 1, "shop:1"));
    kubectl.ok(&format!("create -f {file}")).await;
    kubectl
        .ok(r#"patch deploy web -p '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"s:1"}]}}}}'"#)
        .await;
    assert_eq!(kubectl.ok("get deploy web -o 'jsonpath={.spec.template.spec.containers[*].name}'").await, "side main");
    kubectl.ok(r#"patch deploy web --type=json -p '[{"op":"replace","path":"/spec/replicas","value":2}]'"#).await;
    kubectl.ok(r#"patch deploy web --type=merge -p '{"metadata":{"labels":{"a":"b"}}}'"#).await;
    kubectl.ok("set env deploy/web -c main A- B=2").await;
    kubectl.ok("set image deploy/web main=shop:2").await;
    kubectl.ok("set resources deploy/web -c main --requests=cpu=0.5,memory=1024Mi").await;
    let spec = kubectl.ok("get deploy web -o 'jsonpath={.spec.template.spec.containers[?(@.name==\"main\")]}'").await;
    for part in [r#""cpu":"500m""#, r#""memory":"1Gi""#, r#""image":"shop:2""#, r#"[{"name":"B","value":"2"}]"#] {
        assert!(spec.contains(part), "{part} in {spec}");
    }
    // `edit` reads, lets a program change the text, and patches.
    let editor = site.file("editor", "#!/bin/sh\nsed -i 's/replicas: 2/replicas: 5/' \"$1\"\n");
    std::process::Command::new("chmod").args(["+x", &editor]).status().unwrap();
    let edited = kubectl.run(&["edit", "deploy/web", "--editor", &editor]).await;
    assert!(edited.ok || edited.err.contains("unknown flag"), "{}", edited.err);
    kubectl.ok("label deploy web tier=front").await;
    kubectl.ok("label deploy web tier-").await;
    kubectl.ok("annotate deploy web note=x").await;
    assert!(kubectl.refused("label deploy web a=c").await.contains("--overwrite"));
    kubectl.ok("scale deploy web --replicas=3 --timeout=20s").await;
    let replaced = site.file("web2.yaml", &deployment("web", 1, "shop:3"));
    kubectl.ok(&format!("replace -f {replaced}")).await;
    kubectl.ok(r#"patch deploy web --subresource=scale --type=merge -p '{"spec":{"replicas":4}}'"#).await;
    assert_eq!(kubectl.ok("get deploy web -o 'jsonpath={.spec.replicas}'").await, "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_create_generators_reach_the_server_in_protobuf() {
    kubectl!(site, kubectl, "create");
    for line in [
        "create namespace shop",
        "create configmap c --from-literal=a=b",
        "create secret generic s --from-literal=password=x",
        "create secret docker-registry reg --docker-username=u --docker-password=p --docker-server=r",
        "create deployment web --image=shop:1 --replicas=0 --port=80",
        "create service clusterip web --tcp=80:8080",
        "create service nodeport np --tcp=80",
        "create service loadbalancer lb --tcp=443",
        "create job once --image=shop:1",
        "create cronjob nightly --image=shop:1 '--schedule=5 4 * * *'",
        "create role reader --verb=get --resource=pods",
        "create rolebinding readers --role=reader --user=u",
        "create clusterrole creader --verb=list --resource=nodes",
        "create clusterrolebinding creaders --clusterrole=creader --group=g",
        "create serviceaccount robot",
        "create quota q --hard=pods=3",
        "create poddisruptionbudget b --selector=app=web --min-available=1",
        "create priorityclass high --value=10",
        "create ingress in --rule=shop.example/x=web:80",
        "run one --image=shop:1 --restart=Never --labels=a=b",
        "expose deploy web --port=81 --name=web2",
        "autoscale deploy web --max=5 --cpu=50%",
    ] {
        kubectl.ok(line).await;
    }
    assert_eq!(
        kubectl.ok("get deploy web -o 'jsonpath={.spec.replicas}'").await,
        "0",
        "an explicit zero is no default"
    );
    assert_eq!(kubectl.ok("get secret s -o 'jsonpath={.data.password}'").await, "eA==");
    let token = kubectl.ok("create token robot --duration=20m").await;
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    assert!(kubectl.refused("create configmap c").await.contains("already exists"));
    kubectl.ok("wait --for=condition=Complete job/once --timeout=20s").await;
    kubectl.ok("wait --for=jsonpath={.status.phase}=Succeeded pod/one --timeout=20s").await;
    kubectl.ok("create cm dry --from-literal=a=b --dry-run=server").await;
    assert!(kubectl.refused("get cm dry").await.contains("not found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_cordoned_drained_and_tainted() {
    kubectl!(site, kubectl, "drain");
    let file = site.file("web.yaml", &deployment("web", 3, "shop:1"));
    kubectl.ok(&format!("apply -f {file}")).await;
    kubectl.ok("create poddisruptionbudget web --selector=app=web --max-unavailable=1").await;
    kubectl.ok("rollout status deploy/web --timeout=30s").await;
    kubectl.ok("cordon dc-a-1").await;
    assert!(kubectl.ok("get node dc-a-1").await.contains("Ready,SchedulingDisabled"));
    let said = kubectl.ok("drain dc-a-1 --ignore-daemonsets --timeout=30s").await;
    assert!(said.contains("node/dc-a-1 drained"), "{said}");
    assert_eq!(kubectl.ok("get pods --field-selector=spec.nodeName=dc-a-1 -o name").await, "");
    kubectl.ok("uncordon dc-a-1").await;
    kubectl.ok("rollout status deploy/web --timeout=30s").await;
    kubectl.ok(r#"patch pdb web --type=merge -p '{"spec":{"maxUnavailable":0}}'"#).await;
    let refused = kubectl.refused("drain dc-a-2 --timeout=2s").await;
    assert!(refused.contains("would violate the pod's disruption budget"), "{refused}");
    kubectl.ok("uncordon dc-a-2").await;
    kubectl.ok("taint node dc-a-3 broken=yes:NoExecute").await;
    for _ in 0..50 {
        if kubectl.ok("get pods --field-selector=spec.nodeName=dc-a-3 -o name").await.is_empty() {
            break;
        }
    }
    assert_eq!(kubectl.ok("get pods --field-selector=spec.nodeName=dc-a-3 -o name").await, "");
    kubectl.ok("taint node dc-a-3 broken-").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollouts_are_followed_undone_paused_and_restarted() {
    kubectl!(site, kubectl, "rollout");
    let file = site.file("web.yaml", &deployment("web", 2, "shop:1"));
    kubectl.ok(&format!("apply -f {file}")).await;
    kubectl.ok("rollout status deploy/web --timeout=30s").await;
    kubectl.ok("set image deploy/web main=shop:2").await;
    kubectl.ok("rollout status deploy/web --timeout=30s").await;
    assert_eq!(kubectl.ok("rollout history deploy/web").await.lines().filter(|l| l.starts_with(['1', '2'])).count(), 2);
    kubectl.ok("rollout undo deploy/web").await;
    assert_eq!(kubectl.ok("get deploy web -o 'jsonpath={.spec.template.spec.containers[0].image}'").await, "shop:1");
    kubectl.ok("rollout restart deploy/web").await;
    kubectl.ok("rollout pause deploy/web").await;
    kubectl.ok("rollout resume deploy/web").await;
    kubectl.ok("rollout status deploy/web --timeout=30s").await;
    kubectl.ok("wait --for=condition=Available deploy/web --timeout=20s").await;
    kubectl.ok("wait --for=create deploy/web --timeout=5s").await;
    assert!(kubectl.refused("wait --for=condition=Green deploy/web --timeout=1s").await.contains("timed out"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_sets_start_in_order_with_names_and_claims_of_their_own() {
    kubectl!(site, kubectl, "StatefulSet");
    let file = site.file(
        "db.yaml",
        "apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: main, image: 'db:1', volumeMounts: [{name: data, mountPath: /data}]}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
",
    );
    kubectl.ok(&format!("apply -f {file}")).await;
    kubectl.ok("rollout status sts/db --timeout=30s").await;
    assert_eq!(kubectl.ok("get pods -l app=db -o name").await.trim(), "pod/db-0\npod/db-1");
    assert!(kubectl.ok("get pvc data-db-1").await.contains("Bound"));
    kubectl.ok("set image sts/db main=db:2").await;
    kubectl.ok("rollout status sts/db --timeout=30s").await;
    assert_eq!(kubectl.ok("get pods -o 'jsonpath={.items[*].spec.containers[0].image}'").await, "db:2 db:2");
    kubectl.ok("scale sts/db --replicas=1").await;
    kubectl.ok("wait --for=delete pod/db-1 --timeout=20s").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_follow_grace_and_propagation() {
    kubectl!(site, kubectl, "delete");
    let file = site.file("web.yaml", &deployment("web", 2, "shop:1"));
    kubectl.ok(&format!("apply -f {file}")).await;
    kubectl.ok("rollout status deploy/web --timeout=30s").await;
    kubectl.ok("delete deploy web --cascade=orphan").await;
    assert_eq!(kubectl.ok("get rs -o name").await.lines().count(), 1, "orphans stay");
    kubectl.ok("delete rs --all --cascade=foreground --timeout=20s").await;
    assert_eq!(kubectl.ok("get pods -o name").await, "");
    kubectl.ok("run one --image=shop:1").await;
    kubectl.ok("wait --for=condition=Ready pod/one --timeout=20s").await;
    kubectl.ok("delete pod one --grace-period=0 --force").await;
    kubectl.ok("create ns shop").await;
    kubectl.ok("create cm c -n shop --from-literal=a=b").await;
    kubectl.ok("delete ns shop --timeout=20s").await;
    assert!(kubectl.refused("get ns shop").await.contains("not found"));
    assert!(kubectl.refused("delete pod none").await.contains("not found"));
    kubectl.ok("delete pod none --ignore-not-found").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_explains_itself() {
    kubectl!(site, kubectl, "explain and discovery");
    assert!(kubectl.ok("version").await.contains("Server Version: v1.36"));
    let resources = kubectl.ok("api-resources -o wide").await;
    for kind in ["Deployment", "NodeMetrics", "CertificateSigningRequest", "HorizontalPodAutoscaler"] {
        assert!(resources.contains(kind), "{kind}");
    }
    assert!(kubectl.ok("api-versions").await.contains("apps/v1"));
    assert!(
        kubectl.ok("explain deployment.spec.template.spec.containers.image").await.contains("FIELD: image <string>")
    );
    assert!(kubectl.ok("explain pdb --recursive").await.contains("maxUnavailable"));
    let crd = site.file(
        "crd.yaml",
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lamps.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {plural: lamps, kind: Lamp, shortNames: [lm], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.bulbs, statusReplicasPath: .status.bulbs}}
    additionalPrinterColumns: [{name: Bulbs, type: integer, jsonPath: .spec.bulbs}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {bulbs: {type: integer, minimum: 1, description: How many bulbs it has.}, color: {type: string, default: white}}
          status: {type: object, properties: {bulbs: {type: integer}}}
",
    );
    kubectl.ok(&format!("apply -f {crd}")).await;
    kubectl.ok("wait --for=condition=Established crd/lamps.example.org --timeout=5s").await;
    let lamp =
        site.file("lamp.yaml", "{apiVersion: example.org/v1, kind: Lamp, metadata: {name: l}, spec: {bulbs: 2}}");
    kubectl.ok(&format!("apply -f {lamp}")).await;
    assert!(kubectl.ok("get lm").await.contains("BULBS"));
    assert_eq!(kubectl.ok("get lamp l -o 'jsonpath={.spec.color}'").await, "white");
    assert!(kubectl.ok("explain lamp.spec.bulbs").await.contains("How many bulbs it has."));
    kubectl.ok("scale lamp l --replicas=5").await;
    assert!(
        kubectl
            .refused(r#"patch lamp l --type=merge -p '{"spec":{"bulbs":0}}'"#)
            .await
            .contains("greater than or equal to 1")
    );
    kubectl.ok(r#"patch lamp l --subresource=status --type=merge -p '{"status":{"bulbs":5}}'"#).await;
    kubectl.ok("delete crd lamps.example.org").await;
    kubectl.refused("get lm").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_about_rights_use_and_containers_are_answered_or_told() {
    kubectl!(site, kubectl, "auth, top, logs");
    let file = site.file("web.yaml", &deployment("web", 1, "shop:1"));
    kubectl.ok(&format!("apply -f {file}")).await;
    kubectl.ok("rollout status deploy/web --timeout=30s").await;
    assert_eq!(kubectl.ok("auth can-i create pods").await.trim(), "yes");
    assert!(kubectl.ok("auth can-i --list").await.contains("*.*"));
    assert!(kubectl.ok("auth whoami").await.contains("Username"));
    assert!(kubectl.ok("top nodes").await.contains("dc-a-1"));
    assert!(kubectl.ok("top pods").await.contains("web-"));
    for line in ["logs deploy/web", "exec deploy/web -- ls"] {
        assert!(kubectl.refused(line).await.contains("a twin runs no containers"), "{line}");
    }
    kubectl.ok("create sa robot").await;
    assert!(kubectl.ok("get events").await.is_empty());
    assert!(kubectl.ok("get --raw /readyz").await.contains("ok"));
    assert!(kubectl.ok("cluster-info").await.contains("is running at"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_shows_changes_as_they_come() {
    kubectl!(site, kubectl, "watch");
    let watching = {
        let kubectl = kubectl.clone();
        tokio::spawn(async move {
            kubectl.run(&["get", "cm", "-l", "w=1", "--watch", "--output-watch-events", "--request-timeout=6s"]).await
        })
    };
    let file =
        site.file("c.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, labels: {w: '1'}}, data: {a: '1'}}");
    let changed = site.file(
        "c2.yaml",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, labels: {w: '1'}}, data: {a: '2', b: '3'}}",
    );
    kubectl.ok(&format!("apply -f {file}")).await;
    kubectl.ok("wait --for=create cm/c --timeout=5s").await;
    // The watch is open once it is known to the server; until then a change could be part of its first list.
    for _ in 0..10 {
        kubectl.ok("get cm c").await;
    }
    kubectl.ok(&format!("apply -f {changed}")).await;
    kubectl.ok("delete cm c").await;
    let said = watching.await.unwrap();
    let events: Vec<&str> = said.out.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(events, ["EVENT", "ADDED", "MODIFIED", "DELETED"], "{}{}", said.out, said.err);
}
