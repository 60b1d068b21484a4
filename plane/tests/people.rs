//! Who may do what, over real HTTP: roles apart, scopes, sessions, requests that are not from our page, the audit log.
#![allow(clippy::unwrap_used)]

mod common;

use std::{net::SocketAddr, path::Path};

use common::{Answer, host_energy, metrics_client, root_span, send, settings, spans, trace_client};
use evergreen_plane::Plane;
use http_body_util::Full;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const ID: &str = "09090909090909090909090909090909";

fn access() -> String {
    let hash = |secret: &str| hex::encode(Sha256::digest(secret));
    let token = |name: &str, role: &str, more: &str| {
        format!("  - {{name: {name}, role: {role}, sha256: {}{more}}}\n", hash(name))
    };
    let tokens: String = [
        token("viewer", "viewer", ""),
        token("operator", "operator", ""),
        token("approver", "approver", ""),
        token("auditor", "auditor", ""),
        token("admin", "admin", ""),
        token("only-a", "operator", ", sites: [dc-a]"),
        token("only-b", "operator", ", sites: [dc-b]"),
    ]
    .concat();
    format!("tokens:\n{tokens}breakGlass: {{name: night, sha256: {}}}\n", hash("hammer"))
}

/// A plane with an access file, two data centers and one open incident at dc-a.
async fn guarded(directory: &Path) -> Plane {
    let file = directory.join("access.yaml");
    std::fs::write(&file, access()).unwrap();
    let plane =
        Plane::start(evergreen_plane::args::Settings { access: Some(file), ..settings(directory) }).await.unwrap();
    let now = jiff::Timestamp::now().as_millisecond();
    let mut client = metrics_client(plane.grpc).await;
    for (site, node) in [("dc-a", "a1"), ("dc-b", "b1")] {
        client.export(host_energy(site, node, now, 4)).await.unwrap();
    }
    trace_client(plane.grpc).await.export(spans("evergreen-agent", "dc-a", "a1", vec![root_span(now)])).await.unwrap();
    plane
}

async fn ask(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
    let mut request = http::Request::builder().method(method).uri(format!("http://{at}{path}"));
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = body.map(|json| json.to_string()).unwrap_or_default();
    send(request.body(Full::from(body)).unwrap()).await
}

async fn with(at: SocketAddr, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
    ask(at, method, path, &[("authorization", &format!("Bearer {token}"))], body).await
}

/// Cookie and CSRF token of a new session.
async fn log_in(at: SocketAddr, token: &str) -> (String, String) {
    let answer = ask(at, "POST", "/api/v1/session", &[], Some(json!({"token": token}))).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let cookie = answer.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    (cookie.split(';').next().unwrap().to_owned(), answer.json()["csrf"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn each_role_does_its_own_and_nobody_unknown_does_anything() {
    let directory = tempfile::tempdir().unwrap();
    let plane = guarded(directory.path()).await;
    let at = plane.web;
    let acknowledge = format!("/api/v1/incidents/{ID}/acknowledge");
    let acts = [
        ("read", "GET", "/api/v1/fleet", None),
        ("operate", "POST", acknowledge.as_str(), Some(json!({"note": "mine"}))),
        ("audit", "GET", "/api/v1/audit", None),
        ("administer", "GET", "/api/v1/sessions", None),
    ];
    for (role, allowed) in [
        ("viewer", &["read"][..]),
        ("operator", &["read", "operate"]),
        ("approver", &["read"]),
        ("auditor", &["read", "audit"]),
        ("admin", &["read", "administer"]),
    ] {
        for (act, method, path, body) in &acts {
            let status = with(at, role, method, path, body.clone()).await.status;
            assert_eq!(status, if allowed.contains(act) { 200 } else { 403 }, "{role} {act}");
        }
    }
    for path in ["fleet", "incidents", "energy", "mesh", "predictions", "stream", "audit", "metrics/series?name=x"] {
        let answer = ask(at, "GET", &format!("/api/v1/{path}"), &[], None).await;
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (401, Some("login_needed")), "{path}");
    }
    assert_eq!(with(at, "guess", "GET", "/api/v1/fleet", None).await.status, 401);
    assert_eq!(with(at, "hammer", "GET", "/api/v1/fleet", None).await.status, 401, "break glass is for sessions");
    plane.stop().await;
}

#[tokio::test]
async fn a_scope_hides_what_is_outside_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let plane = guarded(directory.path()).await;
    let at = plane.web;
    for (token, site, incidents) in [("only-a", "dc-a", 1), ("only-b", "dc-b", 0)] {
        let fleet = with(at, token, "GET", "/api/v1/fleet", None).await.json();
        let names: Vec<&str> = fleet["sites"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
        assert_eq!(names, [site]);
        let list = with(at, token, "GET", "/api/v1/incidents", None).await.json();
        assert_eq!(list["incidents"].as_array().unwrap().len(), incidents);
        assert_eq!(list["counts"]["open"].as_u64().unwrap_or(0), incidents as u64);
        let energy = with(at, token, "GET", "/api/v1/energy", None).await.json();
        assert_eq!(energy["rows"].as_array().unwrap().len(), 1);
        assert_eq!(energy["total"]["microjoules"], energy["rows"][0]["microjoules"]);
        let series = with(at, token, "GET", "/api/v1/metrics/series?name=hw.host.power", None).await.json();
        assert_eq!(series["series"].as_array().unwrap().len(), 1);
    }
    for path in [format!("/api/v1/incidents/{ID}"), format!("/api/v1/traces/{ID}")] {
        assert_eq!(with(at, "only-b", "GET", &path, None).await.status, 404, "{path}");
        assert_eq!(with(at, "only-a", "GET", &path, None).await.status, 200, "{path}");
    }
    assert_eq!(with(at, "only-b", "GET", "/api/v1/energy?site=dc-a", None).await.status, 403);
    assert_eq!(with(at, "only-b", "GET", "/api/v1/energy/ledger", None).await.status, 403);
    let acknowledge = format!("/api/v1/incidents/{ID}/acknowledge");
    assert_eq!(with(at, "only-b", "POST", &acknowledge, Some(json!({}))).await.status, 403);
    assert_eq!(with(at, "only-a", "POST", &acknowledge, Some(json!({"note": "looking"}))).await.status, 200);
    let seen = with(at, "viewer", "GET", &format!("/api/v1/incidents/{ID}"), None).await.json();
    assert_eq!(
        (seen["acknowledged"][0]["by"].as_str(), seen["acknowledged"][0]["note"].as_str()),
        (Some("only-a"), Some("looking"))
    );
    plane.stop().await;
}

#[tokio::test]
async fn a_session_acts_only_from_our_own_page_and_ends_when_it_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let plane = guarded(directory.path()).await;
    let at = plane.web;
    let path = format!("/api/v1/incidents/{ID}/acknowledge");
    let (cookie, csrf) = log_in(at, "operator").await;
    let own = format!("http://{at}");
    for (headers, status) in [
        (vec![], 403),
        (vec![("x-evergreen-csrf", "guess")], 403),
        (vec![("x-evergreen-csrf", csrf.as_str()), ("origin", "https://evil.example")], 403),
        (vec![("x-evergreen-csrf", csrf.as_str()), ("sec-fetch-site", "cross-site")], 403),
        (vec![("x-evergreen-csrf", csrf.as_str()), ("origin", own.as_str()), ("sec-fetch-site", "same-origin")], 200),
    ] {
        let headers = [vec![("cookie", cookie.as_str())], headers].concat();
        assert_eq!(ask(at, "POST", &path, &headers, Some(json!({}))).await.status, status, "{headers:?}");
    }
    let foreign = [("origin", "https://evil.example")];
    assert_eq!(ask(at, "POST", "/api/v1/session", &foreign, Some(json!({"token": "operator"}))).await.status, 403);

    let (admin, admin_csrf) = log_in(at, "admin").await;
    let list = ask(at, "GET", "/api/v1/sessions", &[("cookie", &admin)], None).await.json();
    let id = list["sessions"].as_array().unwrap().iter().find(|s| s["name"] == "operator").unwrap()["id"].clone();
    let end = format!("/api/v1/sessions/{}", id.as_str().unwrap());
    let headers = [("cookie", admin.as_str()), ("x-evergreen-csrf", admin_csrf.as_str())];
    assert_eq!(ask(at, "DELETE", &end, &headers, None).await.status, 204);
    assert_eq!(ask(at, "GET", "/api/v1/fleet", &[("cookie", &cookie)], None).await.status, 401, "revoked");
    assert_eq!(ask(at, "DELETE", "/api/v1/session", &headers, None).await.status, 204);
    assert_eq!(ask(at, "GET", "/api/v1/fleet", &[("cookie", &admin)], None).await.status, 401, "logged out");
    plane.stop().await;
}

#[tokio::test]
async fn every_act_is_in_the_log_break_glass_too_and_the_chain_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let plane = guarded(directory.path()).await;
    let at = plane.web;
    let wrong = ask(at, "POST", "/api/v1/session", &[], Some(json!({"token": "guess"}))).await;
    assert_eq!(wrong.status, 401);
    let (glass, _) = log_in(at, "hammer").await;
    let session = ask(at, "GET", "/api/v1/session", &[("cookie", &glass)], None).await.json();
    assert_eq!((session["via"].as_str(), session["break_glass_in_use"].as_bool()), (Some("break-glass"), Some(true)));
    assert!(session["expires_in_s"].as_u64().unwrap() <= 3_600);
    with(at, "operator", "POST", &format!("/api/v1/incidents/{ID}/acknowledge"), Some(json!({"note": "n"}))).await;
    let log = with(at, "auditor", "GET", "/api/v1/audit", None).await.json();
    let kinds: Vec<&str> = log["records"].as_array().unwrap().iter().map(|r| r["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["audit.read", "incident.acknowledged", "break-glass.began", "session.refused"]);
    assert_eq!(log["chain_holds"], true);
    assert!(!log.to_string().contains("hammer") && !log.to_string().contains("guess"), "no secret is recorded");
    plane.stop().await;
    assert!(evergreen_audit::verify(&directory.path().join("audit")).unwrap().broken.is_empty());
}

#[tokio::test]
async fn guessing_tokens_is_slowed_down() {
    let directory = tempfile::tempdir().unwrap();
    let plane = guarded(directory.path()).await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let answer = ask(plane.web, "POST", "/api/v1/session", &[], Some(json!({"token": "guess"}))).await;
        statuses.push(answer.status);
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    assert_eq!((statuses[0], statuses[11]), (401, 429));
    plane.stop().await;
}

#[tokio::test]
async fn pages_of_incidents_follow_each_other_and_an_answer_that_is_known_is_not_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let plane = common::plane(directory.path()).await;
    let (at, now) = (plane.web, jiff::Timestamp::now().as_millisecond());
    let mut client = trace_client(plane.grpc).await;
    for n in 0..25_u8 {
        // Several begin in the same millisecond.
        let mut root = root_span(now - i64::from(n / 3));
        root.trace_id = vec![n + 1; 16];
        client.export(spans("evergreen-agent", "dc-a", "a1", vec![root])).await.unwrap();
    }
    let (mut seen, mut before) = (Vec::new(), String::new());
    loop {
        let page = ask(at, "GET", &format!("/api/v1/incidents?limit=10&before={before}"), &[], None).await.json();
        assert_eq!(page["counts"]["open"], 25);
        seen.extend(page["incidents"].as_array().unwrap().iter().map(|i| i["trace_id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => before = next.to_owned(),
            None => break,
        }
    }
    let mut once = seen.clone();
    once.sort();
    once.dedup();
    assert_eq!((seen.len(), once.len()), (25, 25));
    assert_eq!(ask(at, "GET", "/api/v1/incidents?before=later", &[], None).await.status, 400);

    let first = ask(at, "GET", "/api/v1/incidents", &[], None).await;
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    let again = ask(at, "GET", "/api/v1/incidents", &[("if-none-match", &tag)], None).await;
    assert_eq!((again.status, again.body.len(), again.headers["etag"].to_str().unwrap()), (304, 0, tag.as_str()));
    plane.stop().await;
}
