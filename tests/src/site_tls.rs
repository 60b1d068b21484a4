//! Certificates of a site endpoint for tests, and everything that a controller needs at a simulated API server.

use std::path::Path;

use evergreen_api::{names, resources::all_crds};
use evergreen_twin::Served;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
    core::GroupVersionKind,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};

/// Writes `ca.crt`, `server.crt`, `server.key`, `agent.crt`, `agent.key`, and for each of `nodes` a certificate
/// `agent-<node>` that names it. The server is `localhost` and whatever else is in `hosts`.
///
/// # Panics
/// When the folder cannot be written.
pub fn certificates(dir: &Path, hosts: &[&str], nodes: &[&str]) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let certificate = authority.self_signed(&key).expect("a certificate");
    std::fs::write(dir.join("ca.crt"), certificate.pem()).expect("a file");
    let issuer = Issuer::new(authority, key);
    let make = |file: &str, usage: ExtendedKeyUsagePurpose, common: Option<String>| {
        let names = hosts.iter().copied().chain(["localhost"]).map(str::to_owned).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![usage];
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        std::fs::write(dir.join(format!("{file}.crt")), certificate.pem()).expect("a file");
        std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).expect("a file");
    };
    make("server", ExtendedKeyUsagePurpose::ServerAuth, None);
    make("agent", ExtendedKeyUsagePurpose::ClientAuth, None);
    for node in nodes {
        let common = format!("evergreen-agent:{node}");
        make(&format!("agent-{node}"), ExtendedKeyUsagePurpose::ClientAuth, Some(common));
    }
}

/// Creates at a simulated API server what a controller of `site` needs there; `sites` are all data centers with their
/// API servers.
///
/// # Panics
/// When the API server refuses.
pub async fn prepare(client: &Client, sites: &[(&str, &Served)]) {
    let make = |kind: &'static str, group: &'static str, version: &'static str, mut object: Value| async move {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(kind);
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
    };
    for crd in all_crds() {
        let crd = serde_json::to_value(crd).expect("a CRD is plain data");
        make("CustomResourceDefinition", "apiextensions.k8s.io", "v1", crd).await;
    }
    let namespace = names::SYSTEM_NAMESPACE;
    make("Namespace", "", "v1", json!({"metadata": {"name": namespace}})).await;
    let register =
        json!({"metadata": {"name": names::ASSIGNMENTS, "namespace": namespace}, "data": {"register": "{}"}});
    make("ConfigMap", "", "v1", register).await;
    for (site, served) in sites {
        let secret = json!({"metadata": {"name": format!("evergreen-site-{site}"), "namespace": namespace},
            "stringData": {"kubeconfig": served.kubeconfig(&format!("controller:{site}"))}});
        make("Secret", "", "v1", secret).await;
        let data_center = json!({"metadata": {"name": site}, "spec": {"profile": "fast",
            "apiServer": {"kubeconfigSecret": format!("evergreen-site-{site}")}}});
        make("DataCenter", "evergreen.dev", "v1alpha1", data_center).await;
    }
}
