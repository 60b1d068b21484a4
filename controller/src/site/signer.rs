//! The site's Ed25519 key: signs grants, so that a node cannot mint them.
//!
//! The key belongs to the site, not to a replica: it lives in a Secret that the first replica makes and all share.

use base64::{Engine, engine::general_purpose::STANDARD};
use evergreen_api::{grants::signed_payload, names::SYSTEM_NAMESPACE};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};

/// Secret that holds the key.
const SECRET: &str = "evergreen-site-key";
/// Key of the Secret's data: a PKCS#8 document.
const DATA_KEY: &str = "ed25519.pk8";

/// The key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The Secret could not be read or made.
    #[error("Secret {SECRET} in {SYSTEM_NAMESPACE} cannot be read or created")]
    Secret(#[source] Box<kube::Error>),
    /// The Secret holds no Ed25519 key.
    #[error(
        "Secret {SECRET} in {SYSTEM_NAMESPACE} holds no PKCS#8 Ed25519 key under {DATA_KEY}; delete it to have one made"
    )]
    Malformed,
    /// No key could be generated.
    #[error("no signing key could be generated: the system's random source failed")]
    Generate,
}

/// Signs the grants of a site.
pub struct Signer {
    site: String,
    key: Ed25519KeyPair,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("site", &self.site).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads the site's key from its Secret; makes the Secret if there is none.
    ///
    /// # Errors
    /// When the Secret can be neither read nor made, or holds no key.
    pub async fn load(site: &str, client: &Client) -> Result<Self, SignerError> {
        let api: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let failed = |error| SignerError::Secret(Box::new(error));
        let secret = match api.get_opt(SECRET).await.map_err(failed)? {
            Some(secret) => secret,
            None => match api.create(&PostParams::default(), &fresh_secret()?).await {
                Err(kube::Error::Api(status)) if status.code == 409 => api.get(SECRET).await.map_err(failed)?,
                made => made.map_err(failed)?,
            },
        };
        let document = secret.data.as_ref().and_then(|data| data.get(DATA_KEY)).ok_or(SignerError::Malformed)?;
        Self::from_pkcs8(site, &document.0)
    }

    /// A signer with a key at hand.
    ///
    /// # Errors
    /// When the document is no Ed25519 key.
    pub fn from_pkcs8(site: &str, document: &[u8]) -> Result<Self, SignerError> {
        let key = Ed25519KeyPair::from_pkcs8(document).map_err(|_| SignerError::Malformed)?;
        Ok(Self { site: site.to_owned(), key })
    }

    /// Signature of a grant, base64.
    pub fn sign(&self, group: &str, epoch: u64, incarnation: &str) -> String {
        STANDARD.encode(self.key.sign(&signed_payload(group, &self.site, epoch, incarnation)))
    }

    /// Signature of an energy report's SHA-256 (hex), base64: over the line `evergreen.dev/energy-report`, the site's name
    /// and the hash, each ended by a line feed, so that it is never mistaken for a grant.
    pub fn sign_report(&self, sha256: &str) -> String {
        let payload = format!("evergreen.dev/energy-report\n{}\n{sha256}\n", self.site);
        STANDARD.encode(self.key.sign(payload.as_bytes()))
    }

    /// Signature of a statement of a drill of this site, base64. The tag of statements keeps it from being taken for a grant.
    pub fn sign_statement(&self, text: &str) -> String {
        STANDARD.encode(self.key.sign(&crate::consent::signed_bytes(text)))
    }

    /// The public key, base64.
    pub fn public_key(&self) -> String {
        STANDARD.encode(self.key.public_key())
    }
}

fn fresh_secret() -> Result<Secret, SignerError> {
    let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| SignerError::Generate)?;
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([(DATA_KEY.to_owned(), ByteString(made.as_ref().to_vec()))].into()),
        ..Secret::default()
    })
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_signature_verifies_for_this_grant_only() {
        let secret = fresh_secret().unwrap();
        let signer = Signer::from_pkcs8("dc-a", &secret.data.unwrap()[DATA_KEY].0).unwrap();
        let signature = STANDARD.decode(signer.sign("g", 3, "i")).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, STANDARD.decode(signer.public_key()).unwrap());
        assert!(public.verify(&signed_payload("g", "dc-a", 3, "i"), &signature).is_ok());
        assert!(public.verify(&signed_payload("g", "dc-a", 4, "i"), &signature).is_err());
    }

    #[test]
    fn a_damaged_key_is_refused_with_the_remedy() {
        assert!(Signer::from_pkcs8("dc-a", b"garbage").unwrap_err().to_string().contains("delete it"));
    }
}
