//! An EnergyReport from real parts: agent, plane, controller and API server, with the rights that the chart gives.

use std::{process::Command, time::Duration};

use evergreen_api::resources::{ConditionStatus, DataCenter, EnergyReport, EnergyReportSpec};
use evergreen_tests::{
    agent::{Agent, Host},
    controller::{self, SITE, prepare},
    http,
    kubernetes::cluster,
    node::SimulatedNode,
    programs::{Process, free_port, program},
    rights::kubeconfig_of,
    wait::eventually,
};
use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_energy_report_says_what_was_metered_and_names_what_nobody_declared() {
    let Some(cluster) = cluster("cluster: energy report").await else { return };
    prepare(&cluster).await;
    let dir = tempfile::tempdir().unwrap();
    let (grpc, web) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut command = Command::new(program("evergreen-plane"));
    command.args([
        "--grpc-listen",
        &grpc,
        "--web-listen",
        &web,
        "--http-listen",
        &format!("127.0.0.1:{}", free_port()),
    ]);
    command.arg("--data-dir").arg(dir.path().join("plane"));
    let _plane = Process::start("plane", command, dir.path()).unwrap();
    let (otlp, plane) = (format!("http://{grpc}"), format!("http://{web}"));
    let as_agent = kubeconfig_of("agent", &cluster, dir.path()).await;
    let as_controller = kubeconfig_of("controller", &cluster, dir.path()).await;
    let flags = ["--plane-url", plane.as_str()];
    let _controller = controller::start_with(&as_controller, "one", dir.path(), Some(&otlp), &flags);
    let node = SimulatedNode::create(&cluster.client, "energy-1", "zone-1").await;
    let host = Host::boot("energy-1", dir.path());
    let from = Timestamp::now();
    let _agent = Agent::start("energy-1", &host, &as_agent, dir.path(), Some(&otlp));
    let url = format!("{plane}/api/v1/energy?by=site&from={from}&to={}", Timestamp::now() + Duration::from_secs(600));
    let url = &url;
    eventually("the plane knows of energy", BOUND, || async move {
        let (status, body) = http::get(url).await?;
        let answer: Value = serde_json::from_str(&body).map_err(|error| format!("{status}: {error}"))?;
        let row = answer["rows"].as_array().into_iter().flatten().find(|row| row["key"] == SITE);
        if row.is_some_and(|row| row["microjoules"].as_u64() > Some(0)) { Ok(()) } else { Err(body) }
    })
    .await;

    cluster.namespace("reports").await;
    let reports: Api<EnergyReport> = Api::namespaced(cluster.client.clone(), "reports");
    let _ = reports.delete("run", &DeleteParams::default()).await;
    let spec = EnergyReportSpec {
        from: Some(from.to_string()),
        to: Some(Timestamp::now().to_string()),
        data_centers: vec![SITE.to_owned()],
        ..EnergyReportSpec::default()
    };
    reports.create(&PostParams::default(), &EnergyReport::new("run", spec)).await.unwrap();
    let reports = &reports;
    let ready = |name: &'static str, wanted: ConditionStatus| async move {
        let status = reports.get(name).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").cloned();
        let settled = ready.as_ref().is_some_and(|ready| ready.status == wanted && ready.reason != "PeriodNotOver");
        if settled { Ok((status, ready)) } else { Err(format!("{:?}", status.conditions)) }
    };
    let (status, _) = eventually("the report is ready", BOUND, || ready("run", ConditionStatus::True)).await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "reports");
    let kept = maps.get(status.kept_in.as_deref().unwrap()).await.unwrap().data.unwrap();
    let report: Value = serde_json::from_str(&kept["report.json"]).unwrap();
    let site = &report["data_centers"][0];
    assert_eq!(site["name"], SITE);
    assert!(status.signature.is_some() && status.public_key.is_some() && status.sha256.is_some());
    assert_eq!(report["total"]["it_kwh"].as_str(), status.it_kwh.as_deref());
    assert!(report["total"]["it_microjoules"].as_str().unwrap().parse::<u128>().unwrap() > 0);
    assert!(site["facility"].is_null() && site["scope2"].is_null(), "nobody declared a PUE or a region: {site:#}");
    assert!(kept["report.html"].contains("no declared PUE") && kept["report.zh-CN.html"].contains("未申报 PUE"));

    // A region that has no factor is an error in plain words, not a default.
    let sites: Api<DataCenter> = Api::all(cluster.client.clone());
    let patch = Patch::Merge(json!({"spec": {"gridRegion": "XX-Nowhere"}}));
    sites.patch(SITE, &PatchParams::default(), &patch).await.unwrap();
    let _ = reports.delete("unknown-region", &DeleteParams::default()).await;
    let spec = EnergyReportSpec {
        from: Some(from.to_string()),
        to: Some(Timestamp::now().to_string()),
        ..EnergyReportSpec::default()
    };
    reports.create(&PostParams::default(), &EnergyReport::new("unknown-region", spec)).await.unwrap();
    let (_, refused) =
        eventually("the report is refused", BOUND, || ready("unknown-region", ConditionStatus::False)).await;
    let refused = refused.unwrap();
    assert_eq!(refused.reason, "UnknownGridRegion");
    assert!(refused.message.contains("XX-Nowhere") && refused.message.contains("CN-East"), "{}", refused.message);
    node.remove().await;
}
