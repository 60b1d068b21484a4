//! Who people and programs are, and what they may do: identities from tokens or an OpenID Connect provider, roles that
//! stay apart, sessions with an end, limits on how often, and a chained log of what people did.
//!
//! Nothing here knows the API; [`gate::Gate`] answers who asks, and the API decides what that allows.

pub mod access;
pub mod gate;
pub mod jwt;
pub mod oidc;
pub mod rate;
pub mod role;
pub mod session;
pub mod trail;

/// `bytes` random bytes as URL-safe text, from the system's generator.
///
/// # Errors
/// When the system gives no random bytes; then nobody may log in.
pub(crate) fn random(bytes: usize) -> Result<String, String> {
    use base64::Engine;
    use ring::rand::{SecureRandom, SystemRandom};
    let mut buffer = vec![0; bytes];
    SystemRandom::new().fill(&mut buffer).map_err(|_| "the system gives no random bytes".to_owned())?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(buffer))
}

/// SHA-256 of a secret: what is kept and looked up instead of it, so that comparing takes the same time for each guess.
pub(crate) fn digest(secret: &str) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(secret.as_bytes()).into()
}
