//! Sessions of people: in memory, known by the hash of their cookie, ended by idleness, by age, by log-out, by an admin
//! or by a restart.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{digest, random, role::Identity};

/// Sessions that may be open at once.
const MOST: usize = 10_000;
/// The identity for emergencies is for an hour at a time.
pub const BREAK_GLASS: Duration = Duration::from_secs(3_600);

/// How a session is known inside: never its cookie.
pub type Key = [u8; 32];

#[derive(Debug, Clone)]
struct Kept {
    identity: Arc<Identity>,
    csrf: String,
    began: Instant,
    used: Instant,
    longest: Duration,
    began_at: String,
}

/// A session that is open.
#[derive(Debug, Clone)]
pub struct Open {
    /// Who.
    pub identity: Arc<Identity>,
    /// What changing requests must bring along in a header.
    pub csrf: String,
    /// How it is known inside.
    pub key: Key,
    /// When it began, RFC 3339.
    pub began_at: String,
    /// Time until it ends at the latest.
    pub left: Duration,
}

/// What a new session's owner gets.
#[derive(Debug, Clone)]
pub struct Begun {
    /// The cookie's value.
    pub cookie: String,
    /// As in [`Open::csrf`].
    pub csrf: String,
    /// Seconds until it ends at the latest.
    pub seconds: u64,
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    idle: Duration,
    longest: Duration,
    kept: Mutex<HashMap<Key, Kept>>,
}

impl Sessions {
    /// No session yet.
    pub fn new(idle: Duration, longest: Duration) -> Self {
        Self { idle, longest, kept: Mutex::new(HashMap::new()) }
    }

    /// Begins one.
    ///
    /// # Errors
    /// When there are no random bytes, or too many sessions are open.
    pub fn begin(
        &self,
        identity: Identity,
        longest: Option<Duration>,
        now: Instant,
        at: String,
    ) -> Result<Begun, String> {
        let (cookie, csrf) = (random(32)?, random(32)?);
        let longest = longest.map_or(self.longest, |own| own.min(self.longest));
        let mut kept = self.kept.lock();
        kept.retain(|_, session| alive(session, self.idle, now));
        if kept.len() >= MOST {
            return Err(format!("{MOST} sessions are open: log out somewhere, or ask an admin to end some"));
        }
        let session =
            Kept { identity: Arc::new(identity), csrf: csrf.clone(), began: now, used: now, longest, began_at: at };
        kept.insert(digest(&cookie), session);
        Ok(Begun { cookie, csrf, seconds: longest.as_secs() })
    }

    /// The session of a cookie, used now.
    pub fn touch(&self, cookie: &str, now: Instant) -> Option<Open> {
        let key = digest(cookie);
        let mut kept = self.kept.lock();
        let session = kept.get_mut(&key)?;
        if !alive(session, self.idle, now) {
            kept.remove(&key);
            return None;
        }
        session.used = now;
        Some(open(key, session, now))
    }

    /// Whether a session is still open; looking does not use it.
    pub fn is_open(&self, key: &Key, now: Instant) -> bool {
        self.kept.lock().get(key).is_some_and(|session| alive(session, self.idle, now))
    }

    /// Ends a session; answers whose it was.
    pub fn end(&self, key: &Key) -> Option<Arc<Identity>> {
        self.kept.lock().remove(key).map(|session| session.identity)
    }

    /// Everything that is open.
    pub fn list(&self, now: Instant) -> Vec<Open> {
        let kept = self.kept.lock();
        let mut all: Vec<Open> =
            kept.iter().filter(|(_, s)| alive(s, self.idle, now)).map(|(key, s)| open(*key, s, now)).collect();
        all.sort_by(|a, b| (&a.began_at, a.key).cmp(&(&b.began_at, b.key)));
        all
    }
}

fn open(key: Key, session: &Kept, now: Instant) -> Open {
    Open {
        identity: session.identity.clone(),
        csrf: session.csrf.clone(),
        key,
        began_at: session.began_at.clone(),
        left: session.longest.saturating_sub(now.saturating_duration_since(session.began)),
    }
}

fn alive(session: &Kept, idle: Duration, now: Instant) -> bool {
    now.saturating_duration_since(session.used) < idle && now.saturating_duration_since(session.began) < session.longest
}

#[cfg(test)]
mod tests {
    use super::{super::role::Via, *};

    const MINUTE: Duration = Duration::from_secs(60);

    fn someone() -> Identity {
        Identity { name: "li".into(), via: Via::Token, grants: Vec::new() }
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_at_the_latest_when_it_is_old() {
        let sessions = Sessions::new(10 * MINUTE, 60 * MINUTE);
        let start = Instant::now();
        let begun = sessions.begin(someone(), None, start, "now".into()).unwrap();
        for minutes in (9..60).step_by(9) {
            assert!(sessions.touch(&begun.cookie, start + minutes * MINUTE).is_some(), "{minutes}");
        }
        assert!(sessions.touch(&begun.cookie, start + 60 * MINUTE).is_none(), "old");
        let begun = sessions.begin(someone(), None, start, "now".into()).unwrap();
        assert!(sessions.touch(&begun.cookie, start + 10 * MINUTE).is_none(), "idle");
    }

    #[test]
    fn an_emergency_is_shorter_and_an_ended_session_is_gone() {
        let sessions = Sessions::new(120 * MINUTE, 600 * MINUTE);
        let start = Instant::now();
        let begun = sessions.begin(someone(), Some(BREAK_GLASS), start, "now".into()).unwrap();
        assert!(sessions.touch(&begun.cookie, start + 59 * MINUTE).is_some());
        assert!(sessions.touch(&begun.cookie, start + 60 * MINUTE).is_none());
        let begun = sessions.begin(someone(), None, start, "now".into()).unwrap();
        let key = sessions.touch(&begun.cookie, start).unwrap().key;
        assert!(sessions.end(&key).is_some());
        assert!(sessions.touch(&begun.cookie, start).is_none() && !sessions.is_open(&key, start));
    }
}
