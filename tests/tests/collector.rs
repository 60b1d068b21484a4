//! One incident is one trace, from the agent to the verified cure, as a real OTLP collector receives it.

use std::{collections::BTreeSet, time::Duration};

use evergreen_api::telemetry::{attribute, span};
use evergreen_tests::{
    agent::{Agent, Host},
    collector::{Collector, Span},
    controller::{self, leader, playbook, prepare, run_of},
    kubernetes::cluster,
    node::SimulatedNode,
    programs,
    rights::kubeconfig_of,
    skip::skipped,
    wait::eventually,
};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_incident_is_one_trace_from_the_symptom_to_the_verified_cure() {
    let check = "collector: one trace per incident";
    let Some(rotel) = programs::tool("rotel") else {
        skipped(check, "no rotel on the PATH or in target/tools (make setup)");
        return;
    };
    let Some(cluster) = cluster(check).await else { return };
    prepare(&cluster).await;
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(&rotel, dir.path()).await;
    let otlp = Some(collector.endpoint.as_str());
    let nodes = [
        SimulatedNode::create(&cluster.client, "trace-1", "zone-1").await,
        SimulatedNode::create(&cluster.client, "trace-2", "zone-1").await,
    ];
    let host = Host::boot("trace-1", dir.path());
    let as_controller = kubeconfig_of("controller", &cluster, dir.path()).await;
    let as_agent = kubeconfig_of("agent", &cluster, dir.path()).await;
    let mut controller = controller::start(&as_controller, "one", dir.path(), otlp);
    playbook(
        &cluster.client,
        "cordon-and-wait",
        json!({
            "summary": "A kernel hit an oops: keep new pods away until the node was rebooted.",
            "mode": "enforce",
            "match": [{"nodeCondition": {"type": "KernelOops"}}],
            "guards": {"budget": {"maxUnavailable": 1, "minHealthy": "50%"}, "storm": {"maxUnhealthy": "50%"}},
            "steps": [
                {"cordon": {}},
                {"wait": {"until": "!node.condition('KernelOops')", "timeout": "1m"}},
                {"uncordon": {}},
            ],
            "verify": {"that": "node.ready && !node.unschedulable", "for": "1s", "timeout": "30s"},
        }),
    )
    .await;
    leader(&cluster.client, |_| true).await;
    let mut agent = Agent::start("trace-1", &host, &as_agent, dir.path(), otlp);
    agent.ready().await;

    host.oops();
    run_of(&cluster.client, "trace-1", "the node is cordoned", MINUTE, |status| status.log.len() > 1).await;
    // A clean stop, because spans that were not sent yet end with the process.
    agent.process.stop(Duration::from_secs(15)).expect("the agent stops");
    host.files.reboot().unwrap();
    let mut agent = Agent::start("trace-1", &host, &as_agent, dir.path(), otlp);
    run_of(&cluster.client, "trace-1", "the run ends", MINUTE, |status| status.phase.is_final()).await;
    // Both send what they still hold when they stop.
    agent.process.stop(Duration::from_secs(15)).expect("the agent stops");
    controller.stop(Duration::from_secs(15)).expect("the controller stops");

    let named = |spans: &[Span], name: &str| spans.iter().filter(|s| s.name == name).cloned().collect::<Vec<_>>();
    let spans = eventually("the last span arrives", MINUTE, || async {
        let spans = collector.spans().await;
        if named(&spans, span::INCIDENT_CLOSE).is_empty() {
            Err(format!("{:?}", spans.iter().map(|s| s.name.as_str()).collect::<BTreeSet<_>>()))
        } else {
            Ok(spans)
        }
    })
    .await;
    let roots = named(&spans, span::PROBLEM_DETECTED);
    assert_eq!(roots.len(), 1, "{roots:#?}");
    let root = &roots[0];
    assert!(root.parent_span_id.is_empty());
    assert_eq!(root.service, "evergreen-agent");
    assert_eq!(root.attribute(attribute::INCIDENT), Some("true"));
    assert_eq!(root.attribute(attribute::PROBLEM_KIND), Some("KernelOops"));

    let incident: Vec<&Span> = spans.iter().filter(|s| s.trace_id == root.trace_id).collect();
    let names: BTreeSet<&str> = incident.iter().map(|s| s.name.as_str()).collect();
    for expected in [
        span::CONDITION_WRITE,
        span::PLAYBOOK_MATCH,
        span::PLAYBOOK_RUN,
        "step.cordon",
        "step.wait",
        "step.uncordon",
        span::VERIFY,
        span::INCIDENT_CLOSE,
    ] {
        assert!(names.contains(expected), "no span {expected} in the trace: {names:?}");
    }
    let services: BTreeSet<&str> = incident.iter().map(|s| s.service.as_str()).collect();
    assert_eq!(services, BTreeSet::from(["evergreen-agent", "evergreen-controller"]));
    let known: BTreeSet<&str> = incident.iter().map(|s| s.span_id.as_str()).collect();
    for child in incident.iter().filter(|s| s.span_id != root.span_id) {
        assert!(known.contains(child.parent_span_id.as_str()), "the parent of {child:?} was not received");
    }
    let close = named(&spans, span::INCIDENT_CLOSE);
    assert_eq!(close.len(), 1, "{close:#?}");
    assert_eq!(close[0].trace_id, root.trace_id);
    assert_eq!(close[0].attribute(attribute::INCIDENT_VERDICT), Some("healed"));
    for node in nodes {
        node.remove().await;
    }
}
