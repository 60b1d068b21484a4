//! The API as an unmodified kube-rs client sees it, in process and over loopback.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};

use evergreen_twin::{Answer, Loss, Matcher, Twin};

fn twin() -> Twin {
    Twin::builder("dc-a").build()
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"v": value}})).unwrap()
}

fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("not an API error: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_is_created_read_replaced_and_deleted() {
    let api: Api<ConfigMap> = Api::default_namespaced(twin().client("test"));
    let made = api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    assert!(made.uid().is_some() && made.creation_timestamp().is_some());
    assert_eq!(code(api.create(&PostParams::default(), &config_map("a", "1")).await), (409, "AlreadyExists".into()));
    let mut newer = made.clone();
    newer.data.as_mut().unwrap().insert("v".into(), "2".into());
    let replaced = api.replace("a", &PostParams::default(), &newer).await.unwrap();
    assert_ne!(replaced.resource_version(), made.resource_version());
    let again = api.replace("a", &PostParams::default(), &replaced).await.unwrap();
    assert_eq!(again.resource_version(), replaced.resource_version(), "a write that changes nothing keeps the version");
    assert_eq!(code(api.replace("a", &PostParams::default(), &newer).await), (409, "Conflict".into()));
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(api.get("a").await), (404, "NotFound".into()));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_won_by_exactly_one_of_two_writers() {
    let api: Api<Lease> = Api::namespaced(twin().client("test"), "kube-system");
    let lease: Lease =
        serde_json::from_value(json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "none"}})).unwrap();
    let seen = api.create(&PostParams::default(), &lease).await.unwrap();
    let (mut one, mut two) = (seen.clone(), seen);
    one.spec.as_mut().unwrap().holder_identity = Some("one".into());
    two.spec.as_mut().unwrap().holder_identity = Some("two".into());
    api.replace("l", &PostParams::default(), &one).await.unwrap();
    assert_eq!(code(api.replace("l", &PostParams::default(), &two).await).0, 409);
    one.metadata.resource_version = None;
    assert_eq!(
        code(api.replace("l", &PostParams::default(), &one).await).0,
        422,
        "a Lease is never overwritten blindly"
    );
}

#[tokio::test(start_paused = true)]
async fn all_four_kinds_of_patches_work() {
    let client = twin().client("test");
    let api: Api<Node> = Api::all(client);
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
    .unwrap();
    api.create(&PostParams::default(), &node).await.unwrap();
    let merged =
        api.patch("n", &PatchParams::default(), &Patch::Merge(json!({"spec": {"unschedulable": true}}))).await.unwrap();
    assert_eq!(merged.spec.unwrap().unschedulable, Some(true));
    let strategic = json!({"status": {"conditions": [{"type": "HungTask", "status": "True"}]}});
    let patched = api.patch_status("n", &PatchParams::default(), &Patch::Strategic(strategic)).await.unwrap();
    assert_eq!(patched.status.unwrap().conditions.unwrap().len(), 2);
    let operations = serde_json::from_value(json!([{"op": "remove", "path": "/spec/unschedulable"}])).unwrap();
    let removed = api.patch("n", &PatchParams::default(), &Patch::Json::<()>(operations)).await.unwrap();
    assert_eq!(removed.spec.unwrap_or_default().unschedulable, None);
    let applied = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"labels": {"a": "b"}}});
    let owned = api.patch("n", &PatchParams::apply("me"), &Patch::Apply(applied)).await.unwrap();
    assert_eq!(owned.labels()["a"], "b");
}

#[tokio::test(start_paused = true)]
async fn server_side_apply_makes_objects_and_refuses_foreign_fields() {
    let api: Api<ConfigMap> = Api::default_namespaced(twin().client("test"));
    let wanted =
        |v: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"v": v}});
    api.patch("c", &PatchParams::apply("one"), &Patch::Apply(wanted("1"))).await.unwrap();
    let refused = api.patch("c", &PatchParams::apply("two"), &Patch::Apply(wanted("2"))).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused:?}") };
    assert!(status.is_conflict());
    assert_eq!(status.details.as_ref().unwrap().causes[0].field, ".data.v");
    let forced = api.patch("c", &PatchParams::apply("two").force(), &Patch::Apply(wanted("2"))).await.unwrap();
    assert_eq!(forced.data.unwrap()["v"], "2");
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_what_happens_and_too_old_versions_are_gone() {
    let twin = Twin::builder("dc-a").watch_ring(4).build();
    let api: Api<ConfigMap> = Api::default_namespaced(twin.client("test"));
    let start = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut events = api.watch(&WatchParams::default(), &start).await.unwrap().boxed();
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    api.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"v": "2"}}))).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match events.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(_) => seen.push("added"),
            WatchEvent::Modified(_) => seen.push("modified"),
            WatchEvent::Deleted(_) => seen.push("deleted"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["added", "modified", "deleted"]);
    for i in 0..9 {
        api.create(&PostParams::default(), &config_map(&format!("x{i}"), "1")).await.unwrap();
    }
    let mut old = api.watch(&WatchParams::default(), &start).await.unwrap().boxed();
    match old.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!(status.code, 410),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_label_selected_watch_sees_objects_enter_and_leave() {
    let api: Api<ConfigMap> = Api::default_namespaced(twin().client("test"));
    let mut events = api.watch(&WatchParams::default().labels("on=yes"), "0").await.unwrap().boxed();
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let label = |v: Value| Patch::Merge(json!({"metadata": {"labels": {"on": v}}}));
    api.patch("a", &PatchParams::default(), &label(json!("yes"))).await.unwrap();
    api.patch("a", &PatchParams::default(), &label(Value::Null)).await.unwrap();
    assert!(matches!(events.try_next().await.unwrap().unwrap(), WatchEvent::Added(_)));
    assert!(matches!(events.try_next().await.unwrap().unwrap(), WatchEvent::Deleted(_)));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_survives_410_and_lost_connections() {
    let twin = twin();
    let api: Api<ConfigMap> = Api::default_namespaced(twin.client("watcher"));
    let writer: Api<ConfigMap> = Api::default_namespaced(twin.client("writer"));
    let stream = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
    let mut stream = std::pin::pin!(stream.filter_map(|r| async move { r.ok() }));
    writer.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    assert_eq!(stream.next().await.unwrap().name_any(), "a");
    twin.api().compact();
    writer.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
    while stream.next().await.unwrap().name_any() != "b" {}
    twin.faults().cut("watcher", Loss::Reset);
    writer.create(&PostParams::default(), &config_map("c", "1")).await.unwrap();
    let heal = tokio::spawn({
        let faults = twin.faults();
        async move {
            tokio::time::sleep(Duration::from_secs(30)).await;
            faults.clear();
        }
    });
    while stream.next().await.unwrap().name_any() != "c" {}
    heal.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_streams_its_first_list_gets_it_and_what_follows() {
    let api: Api<ConfigMap> = Api::default_namespaced(twin().client("test"));
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let stream = watcher(api.clone(), watcher::Config::default().streaming_lists()).applied_objects();
    let mut stream = std::pin::pin!(stream);
    assert_eq!(stream.try_next().await.unwrap().unwrap().name_any(), "a");
    api.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
    assert_eq!(stream.try_next().await.unwrap().unwrap().name_any(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_controller_reconciles_each_object_and_its_children() {
    use kube::runtime::Controller;
    use kube::runtime::controller::Action;
    let client = twin().client("controller");
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let reconcile = |object: std::sync::Arc<ConfigMap>, api: std::sync::Arc<Api<ConfigMap>>| async move {
        let seen = json!({"metadata": {"annotations": {"seen": "yes"}}});
        api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(seen)).await?;
        Ok::<Action, kube::Error>(Action::await_change())
    };
    let policy = |_: std::sync::Arc<ConfigMap>, _: &kube::Error, _: std::sync::Arc<Api<ConfigMap>>| {
        Action::requeue(Duration::from_secs(1))
    };
    let runs = Controller::new(api.clone(), watcher::Config::default()).run(
        reconcile,
        policy,
        std::sync::Arc::new(api.clone()),
    );
    let mut runs = std::pin::pin!(runs);
    runs.next().await.unwrap().unwrap();
    assert_eq!(api.get("a").await.unwrap().annotations()["seen"], "yes");
    api.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
    while api.get("b").await.unwrap().annotations().is_empty() {
        runs.next().await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_a_list_are_of_one_moment() {
    let api: Api<ConfigMap> = Api::default_namespaced(twin().client("test"));
    for i in 0..5 {
        api.create(&PostParams::default(), &config_map(&format!("c{i}"), "1")).await.unwrap();
    }
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    api.delete("c4", &DeleteParams::default()).await.unwrap();
    let mut names: Vec<String> = first.iter().map(ResourceExt::name_any).collect();
    let mut token = first.metadata.continue_;
    while let Some(next) = token.filter(|t| !t.is_empty()) {
        let page = api.list(&ListParams::default().limit(2).continue_token(&next)).await.unwrap();
        names.extend(page.iter().map(ResourceExt::name_any));
        token = page.metadata.continue_;
    }
    assert_eq!(names, ["c0", "c1", "c2", "c3", "c4"]);
}

fn colors() -> CustomResourceDefinition {
    serde_json::from_value(json!({
        "metadata": {"name": "colors.example.dev"},
        "spec": {
            "group": "example.dev", "scope": "Namespaced",
            "names": {"plural": "colors", "singular": "color", "kind": "Color", "shortNames": ["co"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Hue", "type": "string", "jsonPath": ".spec.hue"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["hue"], "properties": {
                        "hue": {"type": "string", "enum": ["red", "blue"]}, "size": {"type": "integer", "default": 3, "maximum": 9}}},
                    "status": {"type": "object", "properties": {"seen": {"type": "boolean"}}}
                }}}
            }]
        }
    }))
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_custom_resource_is_defaulted_pruned_validated_and_shown_in_a_table() {
    let twin = twin();
    let client = twin.client("test");
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = crds.create(&PostParams::default(), &colors()).await.unwrap();
    assert!(crd.status.unwrap().conditions.unwrap().iter().any(|c| c.type_ == "Established" && c.status == "True"));
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.dev", "v1", "Color"), "colors");
    let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    let object = |spec: Value| {
        let mut object = DynamicObject::new("sky", &resource);
        object.data = json!({"spec": spec, "status": {"seen": true}});
        object
    };
    let refused = api.create(&PostParams::default(), &object(json!({"hue": "green", "size": 12}))).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused:?}") };
    assert_eq!((status.code, status.details.as_ref().unwrap().causes.len()), (422, 2));
    let made = api.create(&PostParams::default(), &object(json!({"hue": "blue", "unknown": 1}))).await.unwrap();
    assert_eq!(made.data["spec"], json!({"hue": "blue", "size": 3}));
    assert_eq!(made.data.get("status"), None, "status is written through its subresource only");
    let status = Patch::Merge(json!({"status": {"seen": true}, "spec": {"hue": "red"}}));
    let seen = api.patch_status("sky", &PatchParams::default(), &status).await.unwrap();
    assert_eq!((&seen.data["status"]["seen"], &seen.data["spec"]["hue"]), (&json!(true), &json!("blue")));
    assert_eq!(seen.metadata.generation, Some(1));
    let request = http::Request::get("/apis/example.dev/v1/namespaces/default/colors")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(Vec::new())
        .unwrap();
    let table: Value = client.request(request).await.unwrap();
    assert_eq!(table["columnDefinitions"][1]["name"], "Hue");
    assert_eq!(table["rows"][0]["cells"], json!(["sky", "blue"]));
    crds.delete("colors.example.dev", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(api.get("sky").await).0, 404);
}

#[tokio::test(start_paused = true)]
async fn every_custom_resource_of_the_product_is_served() {
    let client = twin().client("test");
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in evergreen_api::resources::all_crds() {
        crds.patch(&crd.name_any(), &PatchParams::apply("test").force(), &Patch::Apply(&crd)).await.unwrap();
    }
    let served = client.list_api_group_resources("evergreen.dev/v1alpha1").await.unwrap().resources;
    let kinds: Vec<&str> = served.iter().filter(|r| !r.name.contains('/')).map(|r| r.kind.as_str()).collect();
    assert_eq!(kinds.len(), evergreen_api::resources::all_crds().len(), "{kinds:?}");
}

#[tokio::test(start_paused = true)]
async fn injected_answers_reach_the_client_with_their_retry_hint() {
    let twin = twin();
    let api: Api<ConfigMap> = Api::default_namespaced(twin.client("agent:n1"));
    twin.faults().inject(Matcher::of("get", "configmaps").from_client("agent:"), Answer::TooManyRequests(7), 1);
    let refused = api.get("a").await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused:?}") };
    assert_eq!((status.code, status.details.unwrap().retry_after_seconds), (429, 7));
    assert_eq!(code(api.get("a").await).0, 404, "the answer was used up");
    for (answer, expected) in
        [(Answer::Conflict, 409), (Answer::Gone, 410), (Answer::InternalError, 500), (Answer::Unavailable(1), 503)]
    {
        twin.faults().inject(Matcher::of("*", "configmaps"), answer, 1);
        assert_eq!(code(api.get("a").await).0, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_silent_for_its_client_and_unseen_by_others() {
    let twin = twin();
    let (cut, whole) =
        (Api::<Namespace>::all(twin.client("controller:dc-b")), Api::<Namespace>::all(twin.client("controller:dc-a")));
    twin.faults().partition("controller:dc-b");
    assert!(tokio::time::timeout(Duration::from_secs(60), cut.get("default")).await.is_err());
    whole.get("default").await.unwrap();
    twin.faults().heal("controller:dc-b");
    cut.get("default").await.unwrap();
    twin.faults().lose(Loss::Reset);
    assert!(matches!(whole.get("default").await, Err(kube::Error::Service(_))));
    twin.faults().clear();
    twin.faults().latency("controller:", Duration::from_secs(3));
    let before = tokio::time::Instant::now();
    whole.get("default").await.unwrap();
    assert_eq!(before.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn the_recorder_writes_events_that_are_read_in_both_groups() {
    use kube::runtime::events::{EventType, Recorder, Reporter};
    let client = twin().client("test");
    let node: Node = Api::all(client.clone())
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap())
        .await
        .unwrap();
    let recorder = Recorder::new(client.clone(), Reporter { controller: "test".into(), instance: Some("i".into()) });
    let event = kube::runtime::events::Event {
        type_: EventType::Warning,
        reason: "Why".into(),
        note: Some("note".into()),
        action: "Act".into(),
        secondary: None,
    };
    use kube::Resource as _;
    recorder.publish(&event, &node.object_ref(&())).await.unwrap();
    recorder.publish(&event, &node.object_ref(&())).await.unwrap();
    let seen = Api::<Event>::namespaced(client, "default")
        .list(&ListParams::default().fields("involvedObject.name=n"))
        .await
        .unwrap();
    assert_eq!(seen.items.len(), 1);
    assert_eq!(seen.items[0].message.as_deref(), Some("note"));
    assert_eq!(seen.items[0].series.as_ref().unwrap().count, Some(2));
}

#[tokio::test]
async fn the_same_api_is_served_on_loopback_with_a_kubeconfig() {
    let twin = twin();
    let served = twin.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&served.kubeconfig("controller:dc-a")).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    assert_eq!(client.apiserver_version().await.unwrap().minor, "36");
    assert!(client.list_api_groups().await.unwrap().groups.iter().any(|g| g.name == "apps"));
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let mut events = api.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    assert!(matches!(events.try_next().await.unwrap().unwrap(), WatchEvent::Added(_)));
    twin.faults().lose(Loss::Reset);
    // The open watch breaks instead of staying silent.
    assert!(matches!(events.try_next().await, Err(_) | Ok(None)));
    twin.faults().clear();
    assert_eq!(api.get("a").await.unwrap().name_any(), "a");
    served.stop();
}
