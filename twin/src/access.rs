//! Who may come in where a twin is served over TLS: an authority of its own, client certificates, bearer tokens.
//!
//! Over plain loopback and in process nobody is asked: the bearer token is the client's name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::apiserver::users::User;

/// The group that may do anything, as kubeadm's first certificate has it.
const MASTERS: &str = "system:masters";

/// A certificate and its key, both in PEM.
#[derive(Clone)]
pub struct KeyAndCertificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for KeyAndCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAndCertificate").finish_non_exhaustive()
    }
}

/// The authority and the tokens of one served twin.
pub struct Access {
    authority: String,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) tls: Arc<ServerConfig>,
    tokens: RwLock<HashMap<String, User>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    /// A new authority, and a server certificate for `localhost`, the names that Pods know and these addresses.
    ///
    /// # Errors
    /// A certificate cannot be made.
    pub fn new(site: &str, addresses: &[IpAddr]) -> std::io::Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).map_err(std::io::Error::other)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name = named(&format!("{site} twin authority"), &[]);
        let key = KeyPair::generate().map_err(std::io::Error::other)?;
        let authority = params.self_signed(&key).map_err(std::io::Error::other)?;
        let issuer = Issuer::new(params, key);
        let mut names: Vec<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
        names.extend(["127.0.0.1".to_owned(), "::1".to_owned(), "10.96.0.1".to_owned()]);
        names.extend(addresses.iter().map(IpAddr::to_string));
        names.sort();
        names.dedup();
        let server = issue(&issuer, named("kube-apiserver", &[]), names, ExtendedKeyUsagePurpose::ServerAuth)?;
        let tls = server_config(authority.der(), &server)?;
        Ok(Access { authority: authority.pem(), issuer, tls: Arc::new(tls), tokens: RwLock::default() })
    }

    /// The authority's certificate in PEM, by which clients know the server.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// A new random token for a user of these groups.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn token(&self, name: &str, groups: &[&str]) -> std::io::Result<String> {
        let mut bytes = [0u8; 24];
        let random = ring::rand::SystemRandom::new();
        ring::rand::SecureRandom::fill(&random, &mut bytes)
            .map_err(|_| std::io::Error::other("the system has no random numbers"))?;
        let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        self.tokens.write().insert(token.clone(), User::named(name, groups));
        Ok(token)
    }

    /// A client certificate: the common name is the user, organizations are the groups.
    ///
    /// # Errors
    /// The certificate cannot be made.
    pub fn client_certificate(&self, name: &str, groups: &[&str]) -> std::io::Result<KeyAndCertificate> {
        issue(&self.issuer, named(name, groups), Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// The user of a token of [`Access::token`].
    pub(crate) fn user_of(&self, token: &str) -> Option<User> {
        self.tokens.read().get(token).cloned()
    }

    /// A kubeconfig (YAML) with two contexts: the site's name goes by token, `SITE-certificate` by certificate.
    ///
    /// # Errors
    /// Token or certificate cannot be made.
    pub(crate) fn kubeconfig(&self, site: &str, server: &str, identity: &str) -> std::io::Result<String> {
        let token = self.token(identity, &[MASTERS])?;
        let own = self.client_certificate(identity, &[MASTERS])?;
        let by_certificate = format!("{site}-certificate");
        let context = |name: &str, user: &str| serde_json::json!({"name": name, "context": {"cluster": site, "user": user, "namespace": "default"}});
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": site,
            "clusters": [{"name": site, "cluster": {
                "server": server, "certificate-authority-data": BASE64.encode(&self.authority)}}],
            "contexts": [context(site, identity), context(&by_certificate, &format!("{identity}-certificate"))],
            "users": [
                {"name": identity, "user": {"token": token}},
                {"name": format!("{identity}-certificate"), "user": {
                    "client-certificate-data": BASE64.encode(own.certificate),
                    "client-key-data": BASE64.encode(own.key)}},
            ],
        });
        serde_yaml::to_string(&config).map_err(std::io::Error::other)
    }
}

fn named(common: &str, organizations: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    for organization in organizations {
        name.push(DnType::OrganizationName, *organization);
    }
    name
}

fn issue(
    issuer: &Issuer<'static, KeyPair>,
    name: DistinguishedName,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> std::io::Result<KeyAndCertificate> {
    let mut params = CertificateParams::new(names).map_err(std::io::Error::other)?;
    params.distinguished_name = name;
    params.extended_key_usages = vec![usage];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(std::io::Error::other)?;
    let certificate = params.signed_by(&key, issuer).map_err(std::io::Error::other)?;
    Ok(KeyAndCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// TLS that asks for a client certificate and bears it when there is none.
fn server_config(authority: &CertificateDer<'_>, server: &KeyAndCertificate) -> std::io::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned()).map_err(std::io::Error::other)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(std::io::Error::other)?;
    let (_, chain) = x509_parser::pem::parse_x509_pem(server.certificate.as_bytes()).map_err(std::io::Error::other)?;
    let (_, key) = x509_parser::pem::parse_x509_pem(server.key.as_bytes()).map_err(std::io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.contents));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![CertificateDer::from(chain.contents)], key)
        .map_err(std::io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The user that a verified client certificate names; `None` when it names nobody.
pub(crate) fn user_of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    Some(User::named(&name, &groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_name_users_and_tokens_are_their_own() {
        let access = Access::new("dc-a", &["192.0.2.1".parse().unwrap()]).unwrap();
        let own = access.client_certificate("jane", &["devs"]).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(own.certificate.as_bytes()).unwrap();
        let user = user_of_certificate(&CertificateDer::from(pem.contents)).unwrap();
        assert_eq!((user.name.as_str(), user.groups[0].as_str()), ("jane", "devs"));
        let (one, two) = (access.token("jane", &[]).unwrap(), access.token("joe", &[]).unwrap());
        assert_ne!(one, two);
        assert_eq!(access.user_of(&two).unwrap().name, "joe");
        assert!(access.user_of("joe").is_none() && access.user_of("").is_none());
    }
}
