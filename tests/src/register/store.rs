//! The resource behind the register: a real etcd that compares the writer's token in the same transaction that writes.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::http::{Http, NoAnswer};

/// Longest wait for the store.
const BOUND: Duration = Duration::from_millis(800);
const FENCE: &str = "fence";
const VALUE: &str = "value";
const LOG: &str = "log/";

/// The store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The token is not the newest one.
    #[error("refused: the token is not the newest one")]
    Stale,
    /// Whether it was done is not known.
    #[error("unknown: {0}")]
    Unknown(String),
}

/// One write that took effect, in the order in which the store made them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// What was written.
    pub value: String,
    /// Token of the writer.
    pub token: u64,
    /// Site of the writer.
    pub site: String,
    /// etcd's revision.
    pub revision: u64,
}

/// A client of the store.
#[derive(Clone, Debug)]
pub struct Store {
    base: String,
    http: Http,
    fenced: bool,
}

impl Store {
    /// A store at the etcd of that address; an unfenced one writes without comparing.
    pub fn new(base: &str, fenced: bool) -> Self {
        Self { base: base.to_owned(), http: Http::new(BOUND), fenced }
    }

    /// Makes an empty register.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn reset(&self) -> Result<(), StoreError> {
        let all = json!({"requestDeleteRange": {"key": encode("\0"), "rangeEnd": encode("\0")}});
        self.transact(json!({"success": [all]})).await?;
        self.transact(json!({"success": [put(FENCE, &pad(0)), put(VALUE, "")]})).await.map(drop)
    }

    /// What the register holds.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn value(&self) -> Result<String, StoreError> {
        let answer = self.transact(json!({"success": [range(VALUE)]})).await?;
        found(&answer, 0).ok_or_else(|| malformed(&answer))
    }

    /// Raises the fence to `token` and answers the value: what a new holder does before anything else.
    ///
    /// # Errors
    /// When a higher token was there already, or nobody knows.
    pub async fn raise(&self, token: u64) -> Result<String, StoreError> {
        if !self.fenced {
            return self.value().await;
        }
        let answer = self
            .transact(json!({"compare": [compare("LESS", token)],
                "success": [put(FENCE, &pad(token)), range(VALUE)], "failure": [range(FENCE), range(VALUE)]}))
            .await?;
        // An equal fence is the own earlier call whose answer was lost.
        if answer["succeeded"] != json!(true) && found(&answer, 0) != Some(pad(token)) {
            return Err(StoreError::Stale);
        }
        found(&answer, 1).ok_or_else(|| malformed(&answer))
    }

    /// Writes under `token`, and into the log that tells the order of writes.
    ///
    /// # Errors
    /// When the token is not the newest one, or nobody knows.
    pub async fn write(&self, token: u64, site: &str, value: &str) -> Result<(), StoreError> {
        let entry = format!("{}/{token}/{site}/{value}", if self.fenced { "f" } else { "u" });
        let writes = json!([put(VALUE, value), put(&format!("{LOG}{value}"), &entry)]);
        let compare = if self.fenced { json!([compare("EQUAL", token)]) } else { json!([]) };
        let answer = self.transact(json!({"compare": compare, "success": writes})).await?;
        if answer["succeeded"] == json!(true) { Ok(()) } else { Err(StoreError::Stale) }
    }

    /// All writes that took effect, first to last.
    ///
    /// # Errors
    /// When etcd does not answer or holds something else.
    pub async fn effective(&self) -> Result<Vec<Effective>, StoreError> {
        let mut end = LOG.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let request = json!({"key": encode(LOG), "rangeEnd": STANDARD.encode(end), "sortTarget": "CREATE",
            "sortOrder": "ASCEND"});
        let answer = self.call("/v3/kv/range", request).await?;
        let kvs = answer["kvs"].as_array().cloned().unwrap_or_default();
        kvs.iter().map(|kv| effective(kv).ok_or_else(|| malformed(kv))).collect()
    }

    async fn transact(&self, request: Value) -> Result<Value, StoreError> {
        self.call("/v3/kv/txn", request).await
    }

    async fn call(&self, path: &str, request: Value) -> Result<Value, StoreError> {
        let answer = self.http.post(&format!("{}{path}", self.base), request.to_string()).await;
        match answer {
            Ok((200, body)) => serde_json::from_str(&body).map_err(|error| StoreError::Unknown(error.to_string())),
            Ok((status, body)) => Err(StoreError::Unknown(format!("{status}: {body}"))),
            Err(NoAnswer::NotSent(why) | NoAnswer::Unknown(why)) => Err(StoreError::Unknown(why)),
        }
    }
}

fn effective(kv: &Value) -> Option<Effective> {
    let text = decode(kv["value"].as_str()?)?;
    let mut parts = text.splitn(4, '/').skip(1);
    Some(Effective {
        token: parts.next()?.parse().ok()?,
        site: parts.next()?.to_owned(),
        value: parts.next()?.to_owned(),
        revision: kv["create_revision"].as_str()?.parse().ok()?,
    })
}

fn malformed(answer: &Value) -> StoreError {
    StoreError::Unknown(format!("the store answered {answer}"))
}

fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

fn decode(text: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// Numbers that compare as text.
fn pad(token: u64) -> String {
    format!("{token:020}")
}

fn put(key: &str, value: &str) -> Value {
    json!({"requestPut": {"key": encode(key), "value": encode(value)}})
}

fn range(key: &str) -> Value {
    json!({"requestRange": {"key": encode(key)}})
}

fn compare(result: &str, token: u64) -> Value {
    json!({"key": encode(FENCE), "target": "VALUE", "result": result, "value": encode(&pad(token))})
}

/// The value that the range at `index` of a transaction found; an empty one for a key with an empty value.
fn found(answer: &Value, index: usize) -> Option<String> {
    let ranges = answer["responses"].as_array()?;
    let kv = ranges.get(index)?.get("response_range")?["kvs"].as_array()?.first()?.clone();
    decode(kv.get("value").and_then(Value::as_str).unwrap_or_default())
}
