//! kubectl against a twin, continued: who may come in, and the rarer commands of an operator's day.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod twin_tools;

use serde_json::Value;
use twin_tools::{Site, Tool, deployment};

async fn started(check: &str) -> Option<(Site, Tool)> {
    let site = Site::start_tls().await;
    let kubectl = Tool::find("kubectl", &format!("twin: kubectl {check}"), &site)?;
    Some((site, kubectl))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_clients_are_known_by_token_or_certificate_and_others_turned_away() {
    let Some((site, kubectl)) = started("authentication").await else { return };
    let who = |said: String| serde_json::from_str::<Value>(&said).unwrap()["status"]["userInfo"].clone();
    for context in ["dc-a", "dc-a-certificate"] {
        let user = who(kubectl.ok(&format!("auth whoami -o json --context={context}")).await);
        assert_eq!(user["username"], "admin", "{context}");
        assert_eq!(user["groups"], serde_json::json!(["system:masters", "system:authenticated"]), "{context}");
    }
    // Neither a wrong token nor somebody's mere name opens the door.
    for token in ["wrong", "admin", "system:serviceaccount:default:default"] {
        let said = kubectl.run(&["get", "pods", "--token", token, "--context", "dc-a"]).await;
        assert!(!said.ok && said.err.contains("You must be logged in to the server"), "{token}: {}", said.err);
    }
    // The exact answers, and what a stranger may see.
    let config = kube::config::Kubeconfig::read_from(site.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
    for (token, path, status, wanted) in [
        (
            Some("wrong"),
            "/api/v1/pods",
            401,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#,
        ),
        (
            None,
            "/api/v1/namespaces/default/pods",
            403,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"","reason":"Forbidden","details":{"kind":"pods"},"code":403}"#,
        ),
        (
            None,
            "/apis",
            403,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"forbidden: User \"system:anonymous\" cannot get path \"/apis\"","reason":"Forbidden","details":{},"code":403}"#,
        ),
        (None, "/readyz", 200, "ok"),
    ] {
        let mut config = config.clone();
        config.auth_info = kube::config::AuthInfo { token: token.map(|t| t.to_owned().into()), ..Default::default() };
        let client = kube::Client::try_from(config).unwrap();
        let request = hyper::Request::get(path).body(kube::client::Body::empty()).unwrap();
        let response = client.send(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert_eq!(String::from_utf8_lossy(&body), wanted, "{path}");
    }
    // An authority that is not the twin's is not believed.
    let other = Site::start_tls().await;
    let text = std::fs::read_to_string(site.kubeconfig()).unwrap();
    let line = |text: &str| text.lines().find(|l| l.contains("certificate-authority-data")).unwrap().to_owned();
    let foreign = line(&std::fs::read_to_string(other.kubeconfig()).unwrap());
    let mixed = site.file("mixed", &text.replace(&line(&text), &foreign));
    let why = kubectl.refused(&format!("get pods --kubeconfig={mixed}")).await;
    assert!(why.contains("x509") || why.contains("tls"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_accounts_have_signed_tokens_that_end_with_them() {
    let Some((_site, kubectl)) = started("tokens of service accounts").await else { return };
    kubectl.ok("create sa robot").await;
    let token = kubectl.ok("create token robot --duration=15m --audience=shop").await.trim().to_owned();
    let name = "system:serviceaccount:default:robot";
    let said = kubectl.ok(&format!("auth whoami -o json --token={token} --context=dc-a")).await;
    let user = serde_json::from_str::<Value>(&said).unwrap()["status"]["userInfo"].clone();
    assert_eq!(user["username"], name);
    assert_eq!(user["groups"][1], "system:serviceaccounts:default");
    assert!(kubectl.ok(&format!("auth whoami --as={name}")).await.contains("system:serviceaccounts"));
    assert_eq!(kubectl.ok(&format!("auth can-i list pods --as={name}")).await.trim(), "yes");
    assert!(kubectl.refused("create token robot --duration=1m").await.contains("10 minutes"));
    assert!(kubectl.refused("create token nobody").await.contains("serviceaccounts \"nobody\" not found"));
    kubectl.ok("delete sa robot").await;
    let why = kubectl.refused(&format!("auth whoami --token={token} --context=dc-a")).await;
    assert!(why.contains("logged in") || why.contains("Unauthorized"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_changes_what_the_editor_changed_and_nothing_when_it_did_not() {
    let Some((site, kubectl)) = started("edit").await else { return };
    kubectl.ok(&format!("apply -f {}", site.file("web.yaml", &deployment("web", 2, "shop:1")))).await;
    let editor = |name: &str, script: &str| {
        let path = site.file(name, &format!("#!/bin/sh\n{script}\n"));
        std::process::Command::new("chmod").args(["+x", &path]).status().unwrap();
        path
    };
    let change = editor("change", "sed -i 's/replicas: 2/replicas: 3/' \"$1\"");
    let kubectl = kubectl.with("KUBE_EDITOR", &change);
    assert!(kubectl.ok("edit deploy/web").await.contains("deployment.apps/web edited"));
    assert_eq!(kubectl.ok("get deploy web -o 'jsonpath={.spec.replicas}'").await, "3");
    let same = kubectl.with("KUBE_EDITOR", &editor("same", "true"));
    assert!(same.run(&["edit", "deploy/web"]).await.err.contains("Edit cancelled, no changes made."));
    // What the server refuses is written back into the file as a comment, and the editor opens again.
    let breaks = editor("breaks", "grep -q 'is invalid' \"$1\" && exit 1; sed -i 's/replicas: 3/replicas: -3/' \"$1\"");
    let said = kubectl.with("KUBE_EDITOR", &breaks).run(&["edit", "deploy/web"]).await;
    assert!(!said.ok, "{}", said.out);
    assert_eq!(kubectl.ok("get deploy web -o 'jsonpath={.spec.replicas}'").await, "3");
    let status = editor("status", "sed -i 's/observedGeneration: .*/observedGeneration: 77/' \"$1\"");
    kubectl.with("KUBE_EDITOR", &status).ok("edit deploy/web --subresource=status").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_replaced_diffed_pruned_and_deleted_by_selector() {
    let Some((site, kubectl)) = started("replace, diff, prune").await else { return };
    let file = site.file("web.yaml", &deployment("web", 1, "shop:1"));
    kubectl.ok(&format!("apply -f {file}")).await;
    let uid = kubectl.ok("get deploy web -o 'jsonpath={.metadata.uid}'").await;
    let changed = site.file("web2.yaml", &deployment("web", 1, "shop:2"));
    let diff = kubectl.run(&["diff", "-f", &changed]).await;
    assert!(
        !diff.ok && diff.out.contains("-      - env:") | diff.out.contains("+        image: shop:2"),
        "{}",
        diff.out
    );
    assert!(kubectl.run(&["diff", "-f", &file]).await.ok, "no difference, exit code 0");
    kubectl.ok(&format!("replace --force -f {changed}")).await;
    assert_ne!(kubectl.ok("get deploy web -o 'jsonpath={.metadata.uid}'").await, uid, "made anew");
    for n in ["a", "b", "c"] {
        kubectl.ok(&format!("create cm {n} --from-literal=n={n}")).await;
        kubectl.ok(&format!("label cm {n} set=x")).await;
    }
    assert!(
        kubectl.ok("delete cm -l set=x --field-selector=metadata.name!=c --wait=true").await.contains("\"b\" deleted")
    );
    assert_eq!(kubectl.ok("get cm -l set=x -o name").await.trim(), "configmap/c");
    kubectl.ok("delete cm c --dry-run=server").await;
    kubectl.ok("get cm c").await;
    // What an applied set no longer holds is pruned.
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|n| format!("---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {n}, labels: {{app: p}}}}}}\n"))
            .collect::<String>()
    };
    let (two, one) = (site.file("two.yaml", &set(&["p1", "p2"])), site.file("one.yaml", &set(&["p1"])));
    let prune = "--prune -l app=p --prune-allowlist=core/v1/ConfigMap";
    kubectl.ok(&format!("apply {prune} -f {two}")).await;
    assert!(kubectl.ok(&format!("apply {prune} -f {one}")).await.contains("configmap/p2 pruned"));
    // Owners that go foreground wait for what they own; orphans stay.
    kubectl.ok("rollout status deploy/web --timeout=30s").await;
    kubectl.ok("delete deploy web --cascade=foreground --timeout=20s").await;
    assert_eq!(kubectl.ok("get rs,pods -o name").await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_paths_events_and_lists_of_kinds_are_readable() {
    let Some((site, kubectl)) = started("raw, events, api-resources").await else { return };
    assert!(
        kubectl
            .ok("get --raw /api/v1/namespaces/default")
            .await
            .starts_with(r#"{"kind":"Namespace","apiVersion":"v1""#)
    );
    assert_eq!(kubectl.ok("get --raw /livez").await, "ok");
    assert!(kubectl.ok("get --raw '/readyz?verbose'").await.contains("ok"));
    assert!(kubectl.ok("get --raw /openapi/v3").await.contains("apis/apps/v1"));
    assert!(
        kubectl.refused("get --raw /api/v1/lamps").await.contains("the server could not find the requested resource")
    );
    let body = site.file("cm.json", r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"raw"}}"#);
    kubectl.ok(&format!("create --raw /api/v1/namespaces/default/configmaps -f {body}")).await;
    kubectl.ok("delete --raw /api/v1/namespaces/default/configmaps/raw").await;
    let event = site.file(
        "event.yaml",
        "{apiVersion: v1, kind: Event, metadata: {name: e}, involvedObject: {apiVersion: v1, kind: Pod, name: p, namespace: default},
          reason: Tried, message: it was tried, type: Warning, count: 2, source: {component: c},
          firstTimestamp: '2026-01-01T00:00:00Z', lastTimestamp: '2026-01-01T00:00:00Z'}",
    );
    kubectl.ok(&format!("create -f {event}")).await;
    let table = kubectl.ok("get events").await;
    assert!(table.contains("Tried") && table.contains("pod/p") && table.contains("it was tried"), "{table}");
    assert!(kubectl.ok("events --for=pod/p").await.contains("it was tried"));
    assert!(kubectl.ok("get events --field-selector=type=Warning -o name").await.contains("event/e"));
    let names = kubectl.ok("api-resources --api-group=apps --namespaced -o name").await;
    assert!(names.contains("deployments.apps") && names.contains("controllerrevisions.apps"), "{names}");
    assert!(kubectl.ok("api-resources --verbs=list,watch --categories=all -o name").await.contains("pods"));
    assert!(kubectl.ok("get cs").await.contains("scheduler"));
    assert!(kubectl.ok("get clusterrole cluster-admin view").await.contains("cluster-admin"));
    assert!(kubectl.ok("get pods,nodes -A --chunk-size=1 -o name").await.contains("node/dc-a-3"));
    let template = "'go-template={{range .items}}{{.metadata.name}} {{end}}'";
    assert_eq!(kubectl.ok(&format!("get nodes -o {template}")).await, "dc-a-1 dc-a-2 dc-a-3 ");
    assert!(kubectl.ok("describe ns default").await.contains("Active"));
    assert!(kubectl.ok("describe svc kubernetes").await.contains("component=apiserver"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_are_shown_by_revision_and_undone_to_one() {
    let Some((site, kubectl)) = started("rollout history").await else { return };
    kubectl.ok(&format!("apply -f {}", site.file("web.yaml", &deployment("web", 1, "shop:1")))).await;
    for image in ["shop:2", "shop:3"] {
        kubectl.ok(&format!("set image deploy/web main={image}")).await;
        kubectl.ok(&format!("annotate deploy/web kubernetes.io/change-cause={image} --overwrite")).await;
        kubectl.ok("rollout status deploy/web --timeout=30s").await;
    }
    assert!(kubectl.ok("rollout history deploy/web --revision=2").await.contains("shop:2"));
    kubectl.ok("rollout undo deploy/web --to-revision=1").await;
    kubectl.ok("rollout status deploy/web --timeout=30s").await;
    assert_eq!(kubectl.ok("get deploy web -o 'jsonpath={.spec.template.spec.containers[0].image}'").await, "shop:1");
    assert!(kubectl.refused("rollout undo deploy/web --to-revision=77").await.contains("unable to find"));
    kubectl.ok("scale deploy web --replicas=0 --current-replicas=1").await;
    assert!(
        kubectl
            .refused("scale deploy web --replicas=2 --current-replicas=5")
            .await
            .contains("Expected replicas to be 5")
    );
    kubectl.ok("wait --for=delete pods -l app=web --timeout=20s").await;
    let said = kubectl.ok("get deploy web -w --request-timeout=2s --output-watch-events --no-headers").await;
    assert!(said.starts_with("ADDED"), "{said}");
}
