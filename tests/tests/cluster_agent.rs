//! The real agent on a real API server, with the rights that the chart gives it.

use std::time::Duration;

use evergreen_api::{
    ProblemKind, TraceParent, names,
    resources::{NodeHealth, NodeHealthStatus},
};
use evergreen_tests::{
    agent::{Agent, Host},
    kubernetes::cluster,
    node::SimulatedNode,
    rights::kubeconfig_of,
    wait::eventually,
};
use k8s_openapi::api::{
    core::v1::{Node, NodeCondition},
    events::v1::Event,
};
use kube::{Api, ResourceExt, api::DeleteParams};

const BOUND: Duration = Duration::from_secs(30);

async fn condition(node: &SimulatedNode, type_: &str) -> Result<(Node, NodeCondition), String> {
    let object = node.get().await?;
    let conditions = object.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition.type_ == type_);
    Ok((object, found.ok_or(format!("the Node has no condition {type_}"))?))
}

#[tokio::test]
async fn a_kernel_oops_becomes_a_condition_an_event_and_a_node_health_and_a_reboot_ends_it() {
    let Some(cluster) = cluster("cluster: the agent's condition").await else { return };
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = kubeconfig_of("agent", &cluster, dir.path()).await;
    let healths: Api<NodeHealth> = Api::all(cluster.client.clone());
    let _ = healths.delete("agent-1", &DeleteParams::default()).await;
    let node = SimulatedNode::create(&cluster.client, "agent-1", "zone-1").await;
    let host = Host::boot("agent-1", dir.path());
    let mut agent = Agent::start(node.name(), &host, &kubeconfig, dir.path(), None);

    let healthy = |status: &NodeHealthStatus| status.verdict == "ok" && !status.sources.is_empty();
    let healths = &healths;
    let health = |wanted: fn(&NodeHealthStatus) -> bool| async move {
        let status = healths.get("agent-1").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        if wanted(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    };
    let status = eventually("a first verdict", BOUND, || health(healthy)).await;
    assert!(status.sources.iter().any(|source| source.present), "{:?}", status.sources);
    assert!(condition(&node, "KernelOops").await.is_err_and(|why| why.contains("no condition")), "raised for nothing");

    host.oops();
    let (object, raised) = eventually("the condition", BOUND, || async {
        let (object, condition) = condition(&node, "KernelOops").await?;
        if condition.status == "True" { Ok((object, condition)) } else { Err(format!("{condition:?}")) }
    })
    .await;
    let trace: TraceParent =
        object.annotations()[&names::node_traceparent_annotation("KernelOops")].parse().expect("a W3C trace context");
    let status = eventually("the NodeHealth", BOUND, || {
        health(|s| s.problems.iter().any(|p| p.kind == ProblemKind::KernelOops))
    })
    .await;
    let problem = status.problems.iter().find(|problem| problem.kind == ProblemKind::KernelOops).unwrap();
    assert_eq!(problem.traceparent.as_deref(), Some(trace.to_string().as_str()));
    let events: Api<Event> = Api::all(cluster.client.clone());
    eventually("the Event", BOUND, || async {
        let list = events.list(&Default::default()).await.map_err(|error| error.to_string())?;
        let about_it = |event: &&Event| {
            event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some("agent-1")
                && event.annotations().get(names::ANNOTATION_TRACEPARENT).is_some_and(|t| *t == trace.to_string())
        };
        list.iter().find(about_it).map(|_| ()).ok_or("none about this problem".to_owned())
    })
    .await;

    // Killed and started again: the same problem, the same trace, nothing told twice.
    agent.process.kill();
    let mut agent = Agent::start(node.name(), &host, &kubeconfig, dir.path(), None);
    agent.ready().await;
    let (object, after) = condition(&node, "KernelOops").await.unwrap();
    assert_eq!(after.last_transition_time, raised.last_transition_time, "the condition was raised anew");
    assert_eq!(
        object.annotations()[&names::node_traceparent_annotation("KernelOops")],
        trace.to_string(),
        "a second trace for one incident"
    );

    // A reboot ends it.
    agent.process.kill();
    host.files.reboot().unwrap();
    let mut agent = Agent::start(node.name(), &host, &kubeconfig, dir.path(), None);
    eventually("the condition ends", BOUND, || async {
        match condition(&node, "KernelOops").await {
            Ok((_, condition)) if condition.status == "True" => Err(format!("{condition:?}")),
            _ => Ok(()),
        }
    })
    .await;
    agent.process.stop(Duration::from_secs(10)).expect("the agent stops on SIGTERM");
    node.remove().await;
}
