//! The gate: answers who asks, by token, by session or not at all, and bounds how often. Holds everything that logging
//! in needs.

use std::{
    collections::BTreeMap,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{
    access::{Access, Anonymous},
    oidc::Provider,
    random,
    rate::Limiter,
    role::{Grant, Identity, Role, Scope, Via},
    session::{Open, Sessions},
    trail::Trail,
};

/// File of the tokens that the first start makes.
const INITIAL: &str = "initial-tokens.json";

/// Everything about who may do what.
pub struct Gate {
    /// The access file.
    pub access: Access,
    /// The provider, if there is one.
    pub provider: Option<Provider>,
    /// Open sessions.
    pub sessions: Sessions,
    /// What people did.
    pub trail: Trail,
    /// Requests of somebody, by name and address.
    pub requests: Limiter,
    /// Attempts to log in, by address.
    pub attempts: Limiter,
    anonymous: Option<Arc<Identity>>,
}

/// Somebody who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub identity: Arc<Identity>,
    /// Their session, if they have one.
    pub session: Option<Open>,
}

/// The credentials are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongToken;

impl Gate {
    /// Reads the access file, or makes the tokens of a first start, and opens the log of acts.
    ///
    /// # Errors
    /// Place and remedy.
    pub fn open(data_dir: &Path, access: Option<&Path>) -> Result<Self, String> {
        let access = match access {
            Some(path) => Access::read(path)?,
            None => Access::initial(&initial_tokens(data_dir)?),
        };
        let provider = match (&access.oidc, &access.public_url) {
            (Some(oidc), Some(url)) => Some(Provider::new(oidc.clone(), url)?),
            _ => None,
        };
        let trail = Trail::open(&data_dir.join("audit")).map_err(|error| {
            let why = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            format!("{error}{why}")
        })?;
        let viewer = Identity {
            name: "anonymous".into(),
            via: Via::Anonymous,
            grants: vec![Grant { role: Role::Viewer, scope: Scope::default() }],
        };
        Ok(Self {
            anonymous: (access.anonymous == Anonymous::Viewer).then(|| Arc::new(viewer)),
            sessions: Sessions::new(access.sessions.0, access.sessions.1),
            provider,
            access,
            trail,
            // A page asks a few times a second at most; scripts of many pages share an address.
            requests: Limiter::new(50.0, 200.0),
            // Ten guesses at once, then one in six seconds.
            attempts: Limiter::new(1.0 / 6.0, 10.0),
        })
    }

    /// Who asks. None when nobody is known and nobody unknown may look.
    ///
    /// # Errors
    /// When a token is given and nobody bears it.
    pub fn caller(
        &self,
        bearer: Option<&str>,
        cookie: Option<&str>,
        now: Instant,
    ) -> Result<Option<Caller>, WrongToken> {
        if let Some(token) = bearer {
            let identity = self.access.bearer(token).filter(|who| who.via != Via::BreakGlass).ok_or(WrongToken)?;
            return Ok(Some(Caller { identity: Arc::new(identity.clone()), session: None }));
        }
        if let Some(open) = cookie.and_then(|cookie| self.sessions.touch(cookie, now)) {
            return Ok(Some(Caller { identity: open.identity.clone(), session: Some(open) }));
        }
        Ok(self.anonymous.clone().map(|identity| Caller { identity, session: None }))
    }

    /// Whether cookies are sent over TLS only.
    pub fn is_secure(&self) -> bool {
        self.access.public_url.as_deref().is_some_and(|url| url.starts_with("https://"))
    }
}

/// Where the tokens of the first start are.
pub fn initial_tokens_path(data_dir: &Path) -> PathBuf {
    data_dir.join(INITIAL)
}

/// Reads the tokens of the first start; makes them, readable by this user only, when there are none.
fn initial_tokens(data_dir: &Path) -> Result<BTreeMap<Role, String>, String> {
    let path = initial_tokens_path(data_dir);
    let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}; remove it to have new tokens made", path.display());
    match std::fs::read_to_string(&path) {
        Ok(text) => return serde_json::from_str(&text).map_err(|error| wrong(&error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(wrong(&error)),
    }
    let mut tokens = BTreeMap::new();
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Viewer) {
        tokens.insert(role, random(32)?);
    }
    let text = serde_json::to_string_pretty(&tokens).map_err(|error| wrong(&error))?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| wrong(&error))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| wrong(&error))?;
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::role::Permission;

    #[test]
    fn a_first_start_makes_tokens_that_stay_and_lets_anybody_look() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::open(dir.path(), None).unwrap();
        let path = initial_tokens_path(dir.path());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let tokens: BTreeMap<Role, String> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        drop(gate);
        let gate = Gate::open(dir.path(), None).unwrap();
        let now = Instant::now();
        let auditor = gate.caller(Some(&tokens[&Role::Auditor]), None, now).unwrap().unwrap().identity;
        assert!(auditor.may(Permission::Audit) && !auditor.may(Permission::Operate));
        let nobody = gate.caller(None, None, now).unwrap().unwrap().identity;
        assert!(nobody.may(Permission::Read) && !nobody.may(Permission::Operate));
        assert_eq!(gate.caller(Some("guess"), None, now).unwrap_err(), WrongToken);
    }

    #[test]
    fn with_a_file_nobody_unknown_looks_and_break_glass_is_for_sessions_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("access.yaml");
        let hash = hex::encode(crate::security::digest("hammer"));
        std::fs::write(&file, format!("breakGlass: {{name: night, sha256: {hash}}}")).unwrap();
        let gate = Gate::open(dir.path(), Some(&file)).unwrap();
        assert!(gate.caller(None, None, Instant::now()).unwrap().is_none());
        assert_eq!(gate.caller(Some("hammer"), None, Instant::now()).unwrap_err(), WrongToken);
        assert!(gate.access.bearer("hammer").is_some());
    }
}
