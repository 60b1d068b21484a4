//! Sends a sequence and takes the answers down.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use http_body_util::BodyExt;
use hyper::http;
use kube::client::Body;
use serde_json::{Value, json};

use crate::normal::normal;
use crate::script::{Sequence, Step};

/// A watch that stays silent for this long has no more events to give.
const SILENCE: Duration = Duration::from_millis(1500);

/// How often a step is repeated `until` its status is as wanted, ten times a second.
const PATIENCE: usize = 100;

/// One answer, in comparable form.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

pub fn namespace(index: usize) -> String {
    format!("diff-{}-{index}", std::process::id())
}

pub async fn play(client: &kube::Client, sequence: &Sequence, namespace: &str) -> Vec<Answer> {
    let mut values = sequence.values.clone();
    values.insert("ns".to_owned(), json!(namespace));
    let own = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    send(client, "POST", "/api/v1/namespaces", Some(own.to_string()), None, None).await;
    let mut answers = Vec::new();
    for step in &sequence.steps {
        let (mut status, mut body) = perform(client, step, &values).await;
        for _ in 0..PATIENCE {
            if step.until.is_none_or(|wanted| wanted == status) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            (status, body) = perform(client, step, &values).await;
        }
        for (name, pointer) in &step.save {
            values.insert(name.clone(), body.pointer(pointer).cloned().unwrap_or(json!("missing")));
        }
        answers.push(Answer { status, body: normal(body, namespace, sequence.owners) });
    }
    send(client, "DELETE", &format!("/api/v1/namespaces/{namespace}"), None, None, None).await;
    answers
}

async fn perform(client: &kube::Client, step: &Step, values: &BTreeMap<String, Value>) -> (u16, Value) {
    let line = fill_text(&step.r#do, values);
    let (verb, path) = line.split_once(' ').expect("a step is a verb and a path");
    let content = step.r#as.as_deref().map(|name| match name {
        "json" => "application/json-patch+json",
        "merge" => "application/merge-patch+json",
        "strategic" => "application/strategic-merge-patch+json",
        "apply" => "application/apply-patch+yaml",
        other => other,
    });
    let body = step.body.as_ref().map(|b| fill(b, values).to_string()).or_else(|| step.text.clone());
    if verb == "WATCH" {
        return watch(client, path, step).await;
    }
    send(client, verb, path, body, content, step.accept.as_deref()).await
}

async fn send(
    client: &kube::Client,
    verb: &str,
    path: &str,
    body: Option<String>,
    content: Option<&str>,
    accept: Option<&str>,
) -> (u16, Value) {
    let request = http::Request::builder()
        .method(verb)
        .uri(path)
        .header("accept", accept.unwrap_or("application/json"))
        .header("content-type", content.unwrap_or("application/json"))
        .header("user-agent", "differential/1.0")
        .body(Body::from(body.unwrap_or_default().into_bytes()))
        .unwrap();
    let response = client.send(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    (status, body)
}

async fn watch(client: &kube::Client, path: &str, step: &Step) -> (u16, Value) {
    let request = http::Request::builder()
        .uri(path)
        .header("accept", step.accept.as_deref().unwrap_or("application/json"))
        .body(Body::empty())
        .unwrap();
    // A real server may hold the headers back until there is something to say.
    let Ok(response) = tokio::time::timeout(2 * SILENCE, client.send(request)).await else {
        return (200, Value::Array(Vec::new()));
    };
    let response = response.unwrap();
    let status = response.status().as_u16();
    let mut stream = response.into_body().into_data_stream();
    let (mut text, mut events) = (Vec::new(), Vec::new());
    while events.len() < step.events.max(1) {
        match tokio::time::timeout(SILENCE, stream.next()).await {
            Ok(Some(Ok(bytes))) => text.extend_from_slice(&bytes),
            _ => break,
        }
        events = text.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice::<Value>(l).ok()).collect();
    }
    (status, Value::Array(events))
}

/// Replaces `$name` in texts; a text that is nothing but `$name` becomes the value itself.
fn fill(value: &Value, values: &BTreeMap<String, Value>) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix('$').and_then(|name| values.get(name)) {
            Some(found) => fill(found, values),
            None => Value::from(fill_text(text, values)),
        },
        Value::Array(items) => items.iter().map(|i| fill(i, values)).collect(),
        Value::Object(fields) => {
            // {"$with": [base, change]}: the base with a merge patch applied.
            if let Some([base, change]) = fields.get("$with").and_then(Value::as_array).map(Vec::as_slice) {
                let mut made = fill(base, values);
                evergreen_twin::objects::patch::merge_patch(&mut made, &fill(change, values));
                return made;
            }
            Value::Object(fields.iter().map(|(k, v)| (k.clone(), fill(v, values))).collect())
        }
        other => other.clone(),
    }
}

fn fill_text(text: &str, values: &BTreeMap<String, Value>) -> String {
    let mut out = text.to_owned();
    // Longer names first, so that `$path` does not eat the beginning of `$path2`.
    for (name, value) in values.iter().rev() {
        let Some(shown) = value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|n| n.to_string())) else {
            continue;
        };
        if out.contains(&format!("${name}")) {
            // Values may name others, such as the namespace in a path.
            let shown = if shown.contains('$') { fill_text(&shown, values) } else { shown };
            out = out.replace(&format!("${name}"), &shown);
        }
    }
    out
}
