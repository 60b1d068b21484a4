//! Faults at the edge of an API server: latency, lost links, and answers that a healthy server would not give.
//!
//! The store never sees them. A link is told apart by the client's identity (its bearer token).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::apiserver::error::ApiError;

/// How a lost link feels to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing answers and nothing closes, as when packets vanish. What was sent meanwhile arrives when the link
    /// comes back, unless the client has given up.
    Silent,
    /// Connections are reset, as when the machine is gone and its address answers for it.
    Reset,
}

/// Which requests a fault hits. `None` fits all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matcher {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: Option<String>,
    /// Plural, or `pods/eviction` and the like for a subresource.
    pub resource: Option<String>,
    /// Prefix of the client's identity.
    pub identity: Option<String>,
}

impl Matcher {
    /// All requests of a verb on a resource; `*` fits all.
    pub fn of(verb: &str, resource: &str) -> Self {
        let part = |text: &str| (text != "*").then(|| text.to_owned());
        Matcher { verb: part(verb), resource: part(resource), identity: None }
    }

    /// The same, only for clients whose identity starts with this.
    pub fn from_client(mut self, identity_prefix: &str) -> Self {
        self.identity = Some(identity_prefix.to_owned());
        self
    }

    fn fits(&self, verb: &str, resource: &str, identity: &str) -> bool {
        self.verb.as_deref().is_none_or(|v| v == verb)
            && self.resource.as_deref().is_none_or(|r| r == resource)
            && self.identity.as_deref().is_none_or(|i| identity.starts_with(i))
    }
}

/// An answer that is given in place of the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 409 Conflict.
    Conflict,
    /// 410 Expired. On `watch`: an ERROR event.
    Gone,
    /// 429 with `Retry-After` in seconds.
    TooManyRequests(u32),
    /// 500.
    InternalError,
    /// 503 with `Retry-After` in seconds.
    Unavailable(u32),
}

impl Answer {
    fn error(self) -> ApiError {
        let with_retry = |code, reason, message: &str, seconds| {
            let mut error = ApiError::new(code, reason, message);
            error.retry_after_seconds = Some(seconds);
            error
        };
        match self {
            Answer::Conflict => ApiError::new(
                409,
                "Conflict",
                "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again",
            ),
            Answer::Gone => ApiError::expired("The resourceVersion is too old"),
            Answer::TooManyRequests(after) => with_retry(
                429,
                "TooManyRequests",
                "the server has received too many requests and has asked us to try again later",
                after,
            ),
            Answer::InternalError => ApiError::new(500, "InternalError", "Internal error occurred: injected"),
            Answer::Unavailable(after) => {
                with_retry(503, "ServiceUnavailable", "the server is currently unable to handle the request", after)
            }
        }
    }
}

/// What of an exchange is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    Request,
    Answer,
}

#[derive(Debug, Clone)]
struct Injected {
    matcher: Matcher,
    answer: Answer,
    left: u32,
}

#[derive(Debug, Default)]
struct Rules {
    latency: Vec<(String, Duration)>,
    cuts: Vec<(String, Loss)>,
    injected: Vec<Injected>,
    frozen: bool,
    /// (prefix, requests lost of a thousand, requests so far).
    lossy: Vec<(String, u32, u64)>,
}

#[derive(Debug)]
struct Inner {
    rules: Mutex<Rules>,
    changed: watch::Sender<u64>,
}

/// The faults of one data center. Clones share everything.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Inner>);

impl Default for Faults {
    fn default() -> Self {
        Faults(Arc::new(Inner { rules: Mutex::default(), changed: watch::Sender::new(0) }))
    }
}

impl Faults {
    fn change(&self, edit: impl FnOnce(&mut Rules)) {
        edit(&mut self.0.rules.lock());
        self.0.changed.send_modify(|n| *n += 1);
    }

    /// Every request of clients whose identity starts so takes this much longer; watch events too.
    pub fn latency(&self, identity_prefix: &str, delay: Duration) {
        self.change(|r| {
            r.latency.retain(|(p, _)| p != identity_prefix);
            r.latency.push((identity_prefix.to_owned(), delay));
        });
    }

    /// Clients whose identity starts so are cut off, silently.
    pub fn partition(&self, identity_prefix: &str) {
        self.cut(identity_prefix, Loss::Silent);
    }

    /// Clients whose identity starts so are cut off.
    pub fn cut(&self, identity_prefix: &str, loss: Loss) {
        self.change(|r| {
            r.cuts.retain(|(p, _)| p != identity_prefix);
            r.cuts.push((identity_prefix.to_owned(), loss));
        });
    }

    /// Ends the cut that was made for exactly this prefix.
    pub fn heal(&self, identity_prefix: &str) {
        self.change(|r| r.cuts.retain(|(p, _)| p != identity_prefix));
    }

    /// The whole API server is lost to everyone, the data center's own controllers included.
    pub fn lose(&self, loss: Loss) {
        self.cut("", loss);
    }

    /// Whether [`Faults::lose`] or [`Faults::freeze`] holds.
    pub fn is_lost(&self) -> bool {
        let rules = self.0.rules.lock();
        rules.frozen || rules.cuts.iter().any(|(p, _)| p.is_empty())
    }

    /// Of the requests of clients whose identity starts so, so many of a thousand are lost: half of them before they
    /// arrive, half after they were carried out and before the answer arrives. Which ones is the same every time.
    pub fn lose_some(&self, identity_prefix: &str, per_mille: u32) {
        self.change(|r| {
            r.lossy.retain(|(p, ..)| p != identity_prefix);
            if per_mille > 0 {
                r.lossy.push((identity_prefix.to_owned(), per_mille.min(1000), 0));
            }
        });
    }

    /// Whether this request of a client is lost, and where.
    pub(crate) fn take_loss(&self, identity: &str) -> Option<Lost> {
        let mut rules = self.0.rules.lock();
        let (prefix, per_mille, count) = rules.lossy.iter_mut().find(|(p, ..)| identity.starts_with(p.as_str()))?;
        *count += 1;
        // FNV-1a over prefix and number: spread evenly and the same in every run.
        let hash = prefix
            .bytes()
            .chain(count.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let lost = (hash >> 20) % 1000 < u64::from(*per_mille);
        lost.then_some(if (hash >> 40) & 1 == 0 { Lost::Request } else { Lost::Answer })
    }

    /// The server stands still: requests wait, watches are silent, nothing is refused.
    pub fn freeze(&self) {
        self.change(|r| r.frozen = true);
    }

    /// Ends [`Faults::freeze`].
    pub fn thaw(&self) {
        self.change(|r| r.frozen = false);
    }

    /// The next `count` fitting requests get this answer.
    pub fn inject(&self, matcher: Matcher, answer: Answer, count: u32) {
        self.change(|r| r.injected.push(Injected { matcher, answer, left: count }));
    }

    /// Ends all faults.
    pub fn clear(&self) {
        self.change(|r| *r = Rules::default());
    }

    /// How a client's link is now; `None` is fine.
    pub fn link(&self, identity: &str) -> Option<Loss> {
        let rules = self.0.rules.lock();
        let cut = |wanted: Loss| rules.cuts.iter().any(|(p, l)| *l == wanted && identity.starts_with(p.as_str()));
        if cut(Loss::Reset) {
            Some(Loss::Reset)
        } else if rules.frozen || cut(Loss::Silent) {
            Some(Loss::Silent)
        } else {
            None
        }
    }

    /// Tells of every change of the faults.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Waits until a client's link is up.
    ///
    /// # Errors
    /// [`LinkReset`] when the link resets instead.
    pub async fn pass(&self, identity: &str) -> Result<(), LinkReset> {
        let mut changes = self.changes();
        loop {
            match self.link(identity) {
                None => return Ok(()),
                Some(Loss::Reset) => return Err(LinkReset),
                Some(Loss::Silent) => {
                    if changes.changed().await.is_err() {
                        return Err(LinkReset);
                    }
                }
            }
        }
    }

    /// The delay of a client's requests.
    pub fn delay(&self, identity: &str) -> Duration {
        let rules = self.0.rules.lock();
        rules
            .latency
            .iter()
            .filter(|(p, _)| identity.starts_with(p.as_str()))
            .map(|(_, d)| *d)
            .max()
            .unwrap_or_default()
    }

    /// The injected answer for a request, if one is due; it is used up by this.
    pub(crate) fn take_injected(&self, verb: &str, resource: &str, identity: &str) -> Option<ApiError> {
        let mut rules = self.0.rules.lock();
        let index = rules.injected.iter().position(|i| i.left > 0 && i.matcher.fits(verb, resource, identity))?;
        rules.injected[index].left -= 1;
        let answer = rules.injected[index].answer;
        if rules.injected[index].left == 0 {
            rules.injected.remove(index);
        }
        Some(answer.error())
    }
}

/// The link to the client was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connection reset by peer (the data center is cut off)")]
pub struct LinkReset;

impl From<LinkReset> for std::io::Error {
    fn from(reset: LinkReset) -> Self {
        std::io::Error::new(std::io::ErrorKind::ConnectionReset, reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_injected_answer_is_used_up() {
        let faults = Faults::default();
        faults.inject(Matcher::of("update", "leases").from_client("controller:"), Answer::Conflict, 1);
        assert!(faults.take_injected("update", "leases", "agent:n1").is_none());
        assert!(faults.take_injected("update", "leases", "controller:a").is_some());
        assert!(faults.take_injected("update", "leases", "controller:a").is_none());
    }

    #[test]
    fn a_lossy_link_loses_its_share_and_the_same_requests_every_time() {
        let run = || {
            let faults = Faults::default();
            faults.lose_some("agent:", 100);
            assert_eq!(faults.take_loss("controller:a"), None);
            (0..10_000).map(|_| faults.take_loss("agent:n1")).collect::<Vec<_>>()
        };
        let (first, second) = (run(), run());
        assert_eq!(first, second);
        let of = |what: Lost| first.iter().filter(|l| **l == Some(what)).count();
        assert!(
            (400..600).contains(&of(Lost::Request)) && (400..600).contains(&of(Lost::Answer)),
            "{}",
            of(Lost::Answer)
        );
    }

    #[test]
    fn a_partition_hits_only_its_clients_and_heals() {
        let faults = Faults::default();
        faults.partition("controller:dc-b");
        assert_eq!(faults.link("controller:dc-b"), Some(Loss::Silent));
        assert_eq!(faults.link("controller:dc-a"), None);
        assert!(!faults.is_lost());
        faults.heal("controller:dc-b");
        assert_eq!(faults.link("controller:dc-b"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_link_waits_and_a_reset_link_does_not() {
        let faults = Faults::default();
        faults.lose(Loss::Reset);
        assert_eq!(faults.pass("x").await, Err(LinkReset));
        faults.lose(Loss::Silent);
        let waiting = tokio::spawn({
            let faults = faults.clone();
            async move { faults.pass("x").await }
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!waiting.is_finished());
        faults.clear();
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }
}
