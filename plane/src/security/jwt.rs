//! ID tokens: a signature by one of the provider's keys, and claims that say the right things (OpenID Connect Core
//! 3.1.3.7, RFC 7515, RFC 7518). RS256, ES256 and EdDSA; never `none` nor a shared secret. Pure.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Seconds that two clocks may differ.
const LEEWAY_S: i64 = 60;
/// Longest token that is looked at.
const LONGEST: usize = 64 << 10;

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// It is no token.
    #[error("the ID token is malformed: {0}")]
    Malformed(&'static str),
    /// No key of the provider has its id; the keys may have changed.
    #[error("the ID token is signed by a key that the provider does not publish")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the signature of the ID token is wrong")]
    Signature,
    /// A claim is wrong.
    #[error("the ID token is not for this login: {0}")]
    Claim(&'static str),
}

/// A key of the provider (RFC 7517).
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// What a token must say.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// Who signed.
    pub issuer: &'a str,
    /// For whom.
    pub client_id: &'a str,
    /// For which login.
    pub nonce: &'a str,
    /// Unix seconds.
    pub now_s: i64,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// Checks a token; answers its claims.
///
/// # Errors
/// [`JwtError`]; of [`JwtError::UnknownKey`] newer keys may cure.
pub fn verify(token: &str, keys: &[Jwk], expected: &Expected<'_>) -> Result<Map<String, Value>, JwtError> {
    if token.len() > LONGEST {
        return Err(JwtError::Malformed("too long"));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed("no signature"))?;
    let (header, payload) = signed.split_once('.').ok_or(JwtError::Malformed("no payload"))?;
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| JwtError::Malformed("no base64url"));
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| JwtError::Malformed("no header"))?;
    if header.crit.is_some() {
        return Err(JwtError::Malformed("a critical extension that is not known"));
    }
    let signature = decode(signature)?;
    let fits = |key: &&Jwk| {
        key.usage.as_deref().is_none_or(|usage| usage == "sig")
            && (header.kid.is_none() || key.kid == header.kid)
            && kind(key) == Some(header.alg.as_str())
    };
    let mut candidates = keys.iter().filter(fits).peekable();
    if candidates.peek().is_none() {
        return Err(match header.alg.as_str() {
            "RS256" | "ES256" | "EdDSA" => JwtError::UnknownKey,
            _ => JwtError::Malformed("its algorithm is none of RS256, ES256 and EdDSA"),
        });
    }
    if !candidates.any(|key| is_signed(key, signed.as_bytes(), &signature).is_some()) {
        return Err(JwtError::Signature);
    }
    let claims: Map<String, Value> =
        serde_json::from_slice(&decode(payload)?).map_err(|_| JwtError::Malformed("no claims"))?;
    check(&claims, expected)?;
    Ok(claims)
}

/// The one algorithm that a key is used with here.
fn kind(key: &Jwk) -> Option<&'static str> {
    match (key.kty.as_str(), key.crv.as_deref()) {
        ("RSA", _) => Some("RS256"),
        ("EC", Some("P-256")) => Some("ES256"),
        ("OKP", Some("Ed25519")) => Some("EdDSA"),
        _ => None,
    }
}

fn is_signed(key: &Jwk, message: &[u8], signature: &[u8]) -> Option<()> {
    let part = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    match kind(key)? {
        "RS256" => {
            let components = RsaPublicKeyComponents { n: part(&key.n)?, e: part(&key.e)? };
            components.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature).ok()
        }
        "ES256" => {
            let point = [vec![4], part(&key.x)?, part(&key.y)?].concat();
            UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature).ok()
        }
        _ => UnparsedPublicKey::new(&signature::ED25519, part(&key.x)?).verify(message, signature).ok(),
    }
}

fn check(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<(), JwtError> {
    let text = |key: &str| claims.get(key).and_then(Value::as_str);
    let time = |key: &str| match claims.get(key) {
        None => Ok(None),
        Some(value) => value.as_f64().map(|s| Some(s as i64)).ok_or(JwtError::Claim("a time is no number")),
    };
    if text("iss") != Some(expected.issuer) {
        return Err(JwtError::Claim("another issuer"));
    }
    let audience: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audience.contains(&expected.client_id) {
        return Err(JwtError::Claim("another audience"));
    }
    let party = text("azp");
    if party.is_some_and(|azp| azp != expected.client_id) || (audience.len() > 1 && party.is_none()) {
        return Err(JwtError::Claim("another party"));
    }
    if text("nonce") != Some(expected.nonce) {
        return Err(JwtError::Claim("another nonce"));
    }
    if text("sub").is_none_or(str::is_empty) {
        return Err(JwtError::Claim("no subject"));
    }
    match time("exp")? {
        Some(end) if end > expected.now_s - LEEWAY_S => {}
        _ => return Err(JwtError::Claim("it has expired")),
    }
    if time("nbf")?.is_some_and(|from| from > expected.now_s + LEEWAY_S)
        || time("iat")?.is_none_or(|at| at > expected.now_s + LEEWAY_S)
    {
        return Err(JwtError::Claim("it is from the future, or does not say from when"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
    };
    use serde_json::json;

    use super::*;

    const EXPECTED: Expected<'_> =
        Expected { issuer: "https://idp", client_id: "plane", nonce: "n", now_s: 1_800_000_000 };

    fn claims() -> Value {
        json!({"iss": "https://idp", "aud": "plane", "sub": "li", "nonce": "n", "iat": 1_800_000_000, "exp": 1_800_000_300})
    }

    fn token(header: Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn ed25519() -> (Ed25519KeyPair, Jwk) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let x = Some(URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()));
        (pair, Jwk { kty: "OKP".into(), kid: Some("k".into()), crv: Some("Ed25519".into()), x, ..Jwk::default() })
    }

    fn sealed(claims: &Value) -> Result<Map<String, Value>, JwtError> {
        let (pair, key) = ed25519();
        let token = token(json!({"alg": "EdDSA", "kid": "k"}), claims, |m| pair.sign(m).as_ref().to_vec());
        verify(&token, &[key], &EXPECTED)
    }

    #[test]
    fn a_right_token_is_believed_and_any_changed_part_is_not() {
        assert_eq!(sealed(&claims()).unwrap()["sub"], "li");
        let (pair, key) = ed25519();
        let good = token(json!({"alg": "EdDSA", "kid": "k"}), &claims(), |m| pair.sign(m).as_ref().to_vec());
        let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
        parts[1] = URL_SAFE_NO_PAD.encode(claims().to_string().replace("li", "wu"));
        assert_eq!(verify(&parts.join("."), std::slice::from_ref(&key), &EXPECTED), Err(JwtError::Signature));
        let other = Jwk { kid: Some("other".into()), ..key };
        assert_eq!(verify(&good, &[other], &EXPECTED), Err(JwtError::UnknownKey));
    }

    #[test]
    fn no_signature_and_a_shared_secret_are_never_believed() {
        let (_, key) = ed25519();
        for alg in ["none", "HS256", "RS384"] {
            let token = token(json!({"alg": alg, "kid": "k"}), &claims(), |_| Vec::new());
            assert!(
                matches!(verify(&token, std::slice::from_ref(&key), &EXPECTED), Err(JwtError::Malformed(_))),
                "{alg}"
            );
        }
        // A key is used with its own algorithm only, whatever the header says.
        let token = token(json!({"alg": "RS256", "kid": "k"}), &claims(), |_| vec![0; 256]);
        assert_eq!(verify(&token, &[key], &EXPECTED), Err(JwtError::UnknownKey));
    }

    #[test]
    fn es256_is_believed() {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let part = |range: std::ops::Range<usize>| Some(URL_SAFE_NO_PAD.encode(&point[range]));
        let key =
            Jwk { kty: "EC".into(), crv: Some("P-256".into()), x: part(1..33), y: part(33..65), ..Jwk::default() };
        let token = token(json!({"alg": "ES256"}), &claims(), |m| pair.sign(&random, m).unwrap().as_ref().to_vec());
        assert!(verify(&token, &[key], &EXPECTED).is_ok());
    }

    #[test]
    fn each_claim_is_looked_at() {
        let changed = |key: &str, value: Value| {
            let mut all = claims();
            all[key] = value;
            sealed(&all)
        };
        for (key, value) in [
            ("iss", json!("https://evil")),
            ("aud", json!("other")),
            ("aud", json!(["plane", "other"])),
            ("azp", json!("other")),
            ("nonce", json!("m")),
            ("sub", json!("")),
            ("exp", json!(1_799_999_000)),
            ("exp", json!("1900000000")),
            ("exp", Value::Null),
            ("iat", json!(1_800_009_000)),
            ("nbf", json!(1_800_009_000)),
        ] {
            assert!(matches!(changed(key, value.clone()), Err(JwtError::Claim(_))), "{key} {value}");
        }
    }
}
