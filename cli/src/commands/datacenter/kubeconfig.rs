//! The kubeconfig that other data centers reach one by: its address, its authority, a token of its peer account.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Text of a kubeconfig (YAML) with a single cluster, user and context, all called `site`.
pub fn render(site: &str, server: &str, authorities: Option<&str>, token: &str) -> String {
    let mut cluster = json!({"server": server});
    if let Some(pem) = authorities {
        cluster["certificate-authority-data"] = Value::from(STANDARD.encode(pem));
    }
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": site, "cluster": cluster}],
        "users": [{"name": site, "user": {"token": token}}],
        "contexts": [{"name": site, "context": {"cluster": site, "user": site}}],
        "current-context": site,
    });
    serde_yaml::to_string(&kubeconfig).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use kube::config::Kubeconfig;

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let text = render("dc-b", "https://10.0.0.1:6443", Some("PEM"), "secret");
        let read = Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("dc-b"));
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://10.0.0.1:6443"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some(STANDARD.encode("PEM").as_str()));
        assert!(read.auth_infos[0].auth_info.as_ref().unwrap().token.is_some());
    }
}
