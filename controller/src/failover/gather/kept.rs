//! What a watch keeps of each object, after it was cut down; a list replaces everything at once.

use std::collections::BTreeMap;

use futures::StreamExt;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;

/// Cut-down objects by key.
#[derive(Debug)]
pub(crate) struct Kept<K, V> {
    state: RwLock<State<K, V>>,
}

#[derive(Debug)]
struct State<K, V> {
    now: BTreeMap<K, V>,
    /// What a list has brought so far.
    next: Option<BTreeMap<K, V>>,
    synced: bool,
    trouble: Option<String>,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self { state: RwLock::new(State { now: BTreeMap::new(), next: None, synced: false, trouble: None }) }
    }
}

impl<K: Ord, V> Kept<K, V> {
    /// Reads what is kept; keep it short, the watch waits.
    pub fn with<T>(&self, read: impl FnOnce(&BTreeMap<K, V>) -> T) -> T {
        read(&self.state.read().now)
    }

    /// Whether a list was taken in.
    pub fn synced(&self) -> bool {
        self.state.read().synced
    }

    /// Takes in an event: a key, and what is kept of the object; none where nothing is.
    fn take(&self, event: Event<(K, Option<V>)>) {
        fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        let mut state = self.state.write();
        state.trouble = None;
        match event {
            Event::Init => state.next = Some(BTreeMap::new()),
            Event::InitApply((key, value)) => put(state.next.get_or_insert_default(), key, value),
            Event::InitDone => {
                if let Some(next) = state.next.take() {
                    state.now = next;
                }
                state.synced = true;
            }
            Event::Apply((key, value)) => put(&mut state.now, key, value),
            Event::Delete((key, _)) => put(&mut state.now, key, None),
        }
    }

    /// Notes why the watch is broken; answers whether that is news.
    fn broken(&self, why: String) -> bool {
        let mut state = self.state.write();
        state.trouble.replace(why).is_none()
    }

    /// Watches until the task is dropped. `trim` answers the key of an object and what is kept of it, if anything.
    pub async fn follow<T>(&self, api: Api<T>, what: &str, trim: impl Fn(T) -> (K, Option<V>))
    where
        T: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let events = watcher(api, watcher::Config::default()).default_backoff();
        futures::pin_mut!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(match event {
                    Event::Init => Event::Init,
                    Event::InitDone => Event::InitDone,
                    Event::InitApply(object) => Event::InitApply(trim(object)),
                    Event::Apply(object) => Event::Apply(trim(object)),
                    Event::Delete(object) => Event::Delete(trim(object)),
                }),
                // The watcher backs off and tries again by itself.
                Err(error) => {
                    if self.broken(error.to_string()) {
                        tracing::debug!(%error, "{what} cannot be watched; trying again");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_replaces_everything_at_once_and_not_before_it_is_whole() {
        let kept: Kept<u8, &'static str> = Kept::default();
        let all = |kept: &Kept<u8, &'static str>| kept.with(|map| map.values().copied().collect::<Vec<_>>());
        kept.take(Event::Init);
        kept.take(Event::InitApply((1, Some("a"))));
        assert!(!kept.synced() && all(&kept).is_empty());
        kept.take(Event::InitDone);
        kept.take(Event::Apply((2, Some("b"))));
        assert_eq!(all(&kept), ["a", "b"]);
        kept.take(Event::Init);
        kept.take(Event::InitApply((2, Some("c"))));
        assert_eq!(all(&kept), ["a", "b"], "the old list stands until the new one is whole");
        kept.take(Event::InitDone);
        assert_eq!(all(&kept), ["c"]);
        kept.take(Event::Apply((2, None)));
        assert!(all(&kept).is_empty() && kept.synced(), "what is not worth keeping any more goes");
        kept.take(Event::Apply((3, Some("d"))));
        kept.take(Event::Delete((3, Some("d"))));
        assert!(all(&kept).is_empty());
    }
}
