//! The database hook contract served by a test: databases that do as they are told, or hang, or lie.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use serde_json::{Value, json};

/// How a site's hook behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It does as it is told.
    #[default]
    Well,
    /// It takes the call and never answers.
    Hangs,
    /// It answers for another epoch.
    Lies,
}

/// One database.
#[derive(Clone, Debug, Default)]
struct Database {
    primary: bool,
    token: (u64, u64),
    mood: Mood,
}

#[derive(Debug, Default)]
struct Kept {
    databases: BTreeMap<String, Database>,
    calls: Vec<(String, String, u64)>,
    most_primaries: usize,
}

/// Databases of several sites behind one address, `http://<address>/<site>/<verb>`.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    kept: Arc<Mutex<Kept>>,
    /// `host:port`.
    pub address: String,
}

impl Hooks {
    /// Serves them; `leader` is where the data lead.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn serve(leader: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let hooks = Self { address, ..Self::default() };
        hooks.database(leader, |database| database.primary = true);
        let router = Router::new().route("/{site}/{verb}", post(Self::answer)).with_state(hooks.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        hooks
    }

    /// Changes how a site's hook behaves.
    pub fn mood(&self, site: &str, mood: Mood) {
        self.database(site, |database| database.mood = mood);
    }

    /// Calls that were made: site, verb and epoch, in their order.
    ///
    /// # Panics
    /// When a call panicked.
    pub fn calls(&self) -> Vec<(String, String, u64)> {
        self.kept.lock().expect("nobody panics").calls.clone()
    }

    /// The most databases that took writes at one time.
    ///
    /// # Panics
    /// When a call panicked.
    pub fn most_primaries(&self) -> usize {
        self.kept.lock().expect("nobody panics").most_primaries
    }

    fn database<T>(&self, site: &str, change: impl FnOnce(&mut Database) -> T) -> T {
        let mut kept = self.kept.lock().expect("nobody panics");
        let changed = change(kept.databases.entry(site.to_owned()).or_default());
        let primaries = kept.databases.values().filter(|database| database.primary).count();
        kept.most_primaries = kept.most_primaries.max(primaries);
        changed
    }

    async fn answer(
        State(hooks): State<Self>,
        Path((site, verb)): Path<(String, String)>,
        Json(body): Json<Value>,
    ) -> (StatusCode, Json<Value>) {
        let number = |key: &str| body.get(key).and_then(Value::as_u64).unwrap_or(0);
        let token = (number("epoch"), number("step"));
        if verb == "position" {
            let leads = hooks.database(&site, |database| database.primary);
            return (StatusCode::OK, Json(json!({"lagSeconds": 0, "complete": true, "leads": leads, "position": 100})));
        }
        hooks.kept.lock().expect("nobody panics").calls.push((site.clone(), verb.clone(), token.0));
        let mood = hooks.database(&site, |database| database.mood);
        if mood == Mood::Hangs {
            std::future::pending::<()>().await;
        }
        if mood == Mood::Lies {
            let lie =
                json!({"epoch": token.0 + 1, "step": token.1, "role": "standby", "fenced": true, "evidence": "none"});
            return (StatusCode::OK, Json(lie));
        }
        hooks.database(&site, |database| {
            if token < database.token {
                let seen = json!({"epoch": database.token.0, "step": database.token.1});
                return (StatusCode::CONFLICT, Json(seen));
            }
            database.token = token;
            match verb.as_str() {
                "promote" => database.primary = true,
                "demote" => database.primary = false,
                _ => {}
            }
            let role = if database.primary { "primary" } else { "standby" };
            let answer = json!({"epoch": token.0, "step": token.1, "role": role, "fenced": !database.primary,
                "evidence": format!("its role is {role}")});
            (StatusCode::OK, Json(answer))
        })
    }
}
