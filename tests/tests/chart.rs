//! The chart with the real Helm: lint, golden templates, values that must be refused, and the promises about privileges.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use evergreen_tests::{chart, programs, root, skip::skipped};
use serde_yaml::Value;

/// Set to write the golden files anew.
const WRITE: &str = "EVERGREEN_WRITE_GOLDEN";

fn helm(check: &str) -> Option<PathBuf> {
    let helm = programs::tool("helm");
    if helm.is_none() {
        skipped(check, "no helm on the PATH or in target/tools (make setup)");
    }
    helm
}

fn two_sites() -> String {
    chart::folder().join("ci/two-sites-values.yaml").display().to_string()
}

#[test]
fn helm_lints_the_chart_strictly_with_all_its_example_values() {
    let Some(helm) = helm("chart: lint") else { return };
    for values in [None, Some(two_sites())] {
        let mut command = Command::new(&helm);
        command.args(["lint", "--strict"]).arg(chart::folder());
        if let Some(values) = values {
            command.args(["--values", &values]);
        }
        let answer = command.output().unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stdout));
    }
}

/// Rendered objects in a stable order, one YAML document each, keys and certificates blanked.
fn canonical(manifest: &str) -> String {
    let mut objects = chart::objects(&chart::without_secrets(manifest));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    objects.sort_by_key(|object| {
        (text(&object["kind"]), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
    });
    objects.iter().map(|object| format!("---\n{}", serde_yaml::to_string(object).expect("plain data"))).collect()
}

fn compare(helm: &Path, golden: &str, arguments: &[&str]) {
    let arguments: Vec<&str> = ["--set", "crds.install=false"].into_iter().chain(arguments.iter().copied()).collect();
    let rendered = canonical(&chart::template(helm, &arguments).expect("the chart renders"));
    let path = root().join("tests/golden").join(golden);
    if std::env::var_os(WRITE).is_some() {
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a writable tree");
        std::fs::write(&path, &rendered).expect("a writable tree");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (was, is)) in known.lines().zip(rendered.lines()).enumerate() {
        assert_eq!(is, was, "{golden} line {}; look at the change, then {WRITE}=1 writes it anew", number + 1);
    }
    assert_eq!(rendered.lines().count(), known.lines().count(), "{golden}; {WRITE}=1 writes it anew");
}

#[test]
fn default_values_render_as_they_did() {
    let Some(helm) = helm("chart: golden template of the default values") else { return };
    compare(&helm, "chart-default.yaml", &["--kube-version", "1.36.0"]);
}

#[test]
fn values_of_two_sites_render_as_they_did_on_the_oldest_kubernetes() {
    let Some(helm) = helm("chart: golden template of two sites") else { return };
    compare(&helm, "chart-two-sites.yaml", &["--values", &two_sites(), "--kube-version", "1.20.2"]);
}

#[test]
fn wrong_values_are_refused_in_plain_words() {
    let Some(helm) = helm("chart: refused values") else { return };
    for (values, word) in [
        (&["--set", "sight.name=dc-a"][..], "sight"),
        (&["--set", "site.name="], "site"),
        (&["--set", "site.name=DC_A"], "site"),
        (&["--set", "controller.replicas=0"], "replicas"),
        (&["--set", "controller.replicas=two"], "replicas"),
        (&["--set", "image.pullPolicy=Sometimes"], "pullPolicy"),
        (&["--set", "playbooks.mode=yolo"], "mode"),
        (&["--set", "plane.retention.raw=soon"], "raw"),
        (&["--set", "plane.storage.maxBytes=1"], "maxBytes"),
        (&["--set", "telemetry.endpoint=plane"], "endpoint"),
        (&["--set", "agent.hostPort=70000"], "hostPort"),
        (&["--set", "agent.privileged=true"], "privileged"),
        (&["--set", "agent.hostFiles.filesystems={data}"], "hostFiles"),
        (&["--set", "agent.hostFiles.root=true"], "root"),
        (&["--set", "siteTls.controllerSecret=mine"], "agentSecret"),
        (&["--set", "peers[0].name=local,peers[0].kubeconfigSecret=s"], "this site itself"),
        (&["--set", "peers[0].name=dc-b"], "kubeconfigSecret"),
        (&["--set", "site.role=hub"], "role"),
        (&["--set", "site.role=witness,peers[0].name=dc-b,peers[0].kubeconfigSecret=s"], "only votes"),
        (&["--kube-version", "1.19.0"], "1.20"),
    ] {
        let refused = chart::template(&helm, values).expect_err(&format!("{values:?} is accepted"));
        assert!(refused.contains(word), "{values:?} should name `{word}`: {refused}");
    }
}

/// Two volumes, or two mounts at one place, are refused by the API server, not by Helm.
fn names_are_unique(pod: &Value, values: &str) {
    let mut lists = vec![(&pod["volumes"], "name")];
    lists.extend(pod["containers"].as_sequence().into_iter().flatten().map(|one| (&one["volumeMounts"], "mountPath")));
    for (list, key) in lists {
        let names: Vec<&Value> = list.as_sequence().into_iter().flatten().map(|entry| &entry[key]).collect();
        for (number, name) in names.iter().enumerate() {
            assert!(!names[..number].contains(name), "{values}: {key} {name:?} twice");
        }
    }
}

#[test]
fn a_witness_gets_the_register_and_the_account_of_its_peers_and_runs_nothing() {
    let Some(helm) = helm("chart: witness") else { return };
    let manifest = chart::template(&helm, &["--set", "site.role=witness,site.name=w"]).unwrap();
    let objects = chart::objects(&manifest);
    let has = |kind: &str, name: &str| objects.iter().any(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    assert!(has("ConfigMap", "evergreen-assignments") && has("ServiceAccount", "evergreen-peer"), "{manifest}");
    for kind in ["Deployment", "DaemonSet", "StatefulSet", "Job", "Pod", "Playbook", "DataCenter", "Secret"] {
        assert!(objects.iter().all(|object| object["kind"] != kind), "a witness needs no {kind}");
    }
}

#[test]
fn every_switch_renders_on_old_and_new_kubernetes() {
    let Some(helm) = helm("chart: matrix of values") else { return };
    for version in ["1.20.2", "1.25.0", "1.37.0"] {
        for values in [
            "plane.enabled=false",
            "plane.enabled=false,telemetry.endpoint=http://collector:4317",
            "crds.install=false,playbooks.install=false",
            "playbooks.mode=enforce",
            "controller.replicas=1,bootstrap.create=false",
            "site.profile=fast,site.gridRegion=CN-East",
            "agent.kernelLog.enabled=false",
            "agent.hostPort=9464",
            "agent.hostFiles.filesystems={/data},agent.hostFiles.certificates={/etc/kubernetes/pki},agent.hostFiles.runtimeSocket=/run/containerd",
            "image.registry=registry.example:5000/mirror,image.pullSecrets={a,b}",
            "plane.podDisruptionBudget.enabled=true",
            "networkPolicy.enabled=true,uninstallGuard.enabled=false",
            "site.role=witness",
            "crds.rules=true",
            "controller.topologySpreadConstraints[0].maxSkew=1,controller.topologySpreadConstraints[0].topologyKey=zone,controller.topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule",
            "agent.podLabels.team=sre,controller.podAnnotations.note=x",
        ] {
            // Generating keys takes Helm half a second a time; that is rendered elsewhere.
            let given = "siteTls.controllerSecret=a,siteTls.agentSecret=b";
            let manifest = chart::template(&helm, &["--kube-version", version, "--set", given, "--set", values])
                .unwrap_or_else(|error| panic!("{values} on {version}: {error}"));
            let budget = if version == "1.20.2" { "policy/v1beta1" } else { "policy/v1" };
            for object in chart::objects(&manifest) {
                assert!(object["kind"].is_string() && object["metadata"]["name"].is_string(), "{values}: {object:?}");
                names_are_unique(&object["spec"]["template"]["spec"], values);
                if object["kind"] == "PodDisruptionBudget" {
                    assert_eq!(object["apiVersion"], budget, "{values} on {version}");
                }
            }
        }
    }
}

#[test]
fn the_release_may_be_recorded_in_another_namespace() {
    let Some(helm) = helm("chart: namespace") else { return };
    let elsewhere = chart::template(&helm, &["--namespace", "ops"]).unwrap();
    for object in chart::objects(&elsewhere) {
        let namespace = &object["metadata"]["namespace"];
        assert!(namespace.is_null() || namespace == "evergreen-system", "{object:?}");
    }
    assert!(chart::objects(&elsewhere).iter().any(|object| object["kind"] == "Namespace"));
}

#[test]
fn no_container_is_privileged_and_none_keeps_more_than_it_names() {
    let Some(helm) = helm("chart: privileges") else { return };
    let manifest = chart::template(&helm, &["--values", &two_sites()]).unwrap();
    let mut containers = 0;
    for object in chart::objects(&manifest) {
        let pod = &object["spec"]["template"]["spec"];
        if pod.is_null() {
            continue;
        }
        let name = object["metadata"]["name"].as_str().unwrap();
        for shared in ["hostPID", "hostIPC", "hostNetwork"] {
            assert!(pod[shared].is_null(), "{name} has {shared}");
        }
        for container in pod["containers"].as_sequence().unwrap() {
            containers += 1;
            let security = &container["securityContext"];
            assert!(security["privileged"].is_null(), "{name} is privileged");
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
            let added = security["capabilities"]["add"].as_sequence().cloned().unwrap_or_default();
            let allowed: &[&str] = if name.ends_with("-agent") { &["SYSLOG"] } else { &[] };
            assert!(added.iter().all(|c| allowed.contains(&c.as_str().unwrap())), "{name} adds {added:?}");
            let ends_by_itself = object["kind"] == "Job";
            for probe in ["livenessProbe", "readinessProbe"].iter().filter(|_| !ends_by_itself) {
                assert!(!container[*probe].is_null(), "{name} has no {probe}");
            }
            assert!(!container["resources"]["requests"]["memory"].is_null(), "{name} asks for no memory");
            for mount in container["volumeMounts"].as_sequence().into_iter().flatten() {
                let path = mount["mountPath"].as_str().unwrap();
                // The audit log, waiting telemetry and the pause file of the controller.
                let writable = ["/state", "/data", "/audit", "/spool"].contains(&path)
                    || path == "/run/evergreen" && name.ends_with("-controller");
                assert!(writable || mount["readOnly"] == true, "{name} may write {path}");
            }
        }
    }
    // Three programs, and the guard of the uninstallation.
    assert_eq!(containers, 4);
}

#[test]
fn no_role_reaches_further_than_named_things() {
    let Some(helm) = helm("chart: roles") else { return };
    let manifest = chart::template(&helm, &["--values", &two_sites()]).unwrap();
    for object in chart::objects(&manifest) {
        let name = object["metadata"]["name"].as_str().unwrap();
        for rule in object["rules"].as_sequence().into_iter().flatten() {
            let text = serde_yaml::to_string(rule).unwrap();
            assert!(!text.contains('*'), "{name} has a wildcard: {text}");
            if rule["resources"].as_sequence().unwrap().iter().any(|resource| resource == "secrets") {
                // A Secret that is created cannot be named beforehand; reading one is for named ones only.
                let verbs: Vec<_> = rule["verbs"].as_sequence().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
                let named = !rule["resourceNames"].is_null();
                assert!(verbs == ["create"] || (verbs == ["get"] && named), "{name} reads Secrets: {text}");
            }
        }
    }
}
