//! Asks the data gates where each site's data stand, beside the loop: a gate that hangs holds its service and nothing else.

mod answer;
mod client;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(super) use self::answer::position;
pub use self::client::GateClient;
pub(super) use self::client::Question;
use super::facts::{DataFacts, DataPosition};
use crate::{quorum::Mono, site::BootClock};

/// Every gate is asked this often, or as often as the last round allows.
const INTERVAL: Duration = Duration::from_secs(2);
/// Questions in flight.
const AT_A_TIME: usize = 32;

#[derive(Clone, Debug, Default)]
struct Known {
    last: Option<(DataPosition, Mono)>,
    trouble: Option<String>,
}

/// What was answered, by group and site.
#[derive(Debug)]
pub(super) struct DataBook {
    known: RwLock<BTreeMap<(String, String), Known>>,
    wanted: watch::Sender<Vec<Question>>,
}

impl DataBook {
    /// Starts asking.
    pub fn start(client: GateClient, cancel: CancellationToken) -> Arc<Self> {
        let (wanted, questions) = watch::channel(Vec::new());
        let book = Arc::new(Self { known: RwLock::default(), wanted });
        let own = book.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                let round = questions.borrow().clone();
                let asked = futures::stream::iter(round).map(|question| {
                    let client = client.clone();
                    async move {
                        let sent = BootClock.now();
                        (client.ask(&question).await, question, sent)
                    }
                });
                let mut answers = asked.buffer_unordered(AT_A_TIME);
                while let Some((answer, question, sent)) = answers.next().await {
                    own.take(question, answer, sent);
                }
            }
        });
        book
    }

    /// What shall be asked from now on.
    pub fn want(&self, questions: Vec<Question>) {
        self.wanted.send_if_modified(|known| {
            let changed = *known != questions;
            *known = questions;
            changed
        });
        let wanted = self.wanted.borrow();
        let pairs: BTreeSet<(&str, &str)> = wanted.iter().map(|q| (q.group.as_str(), q.site.as_str())).collect();
        self.known.write().retain(|(group, site), _| pairs.contains(&(group.as_str(), site.as_str())));
    }

    fn take(&self, question: Question, answer: Result<DataPosition, String>, sent: Mono) {
        let mut known = self.known.write();
        let known = known.entry((question.group, question.site)).or_default();
        match answer {
            // An answer is as old as its question.
            Ok(position) => *known = Known { last: Some((position, sent)), trouble: None },
            Err(why) => known.trouble = Some(why),
        }
    }

    /// Where a site's data stand now.
    pub fn of(&self, group: &str, site: &str, now: Mono) -> Option<DataFacts> {
        let known = self.known.read();
        let known = known.get(&(group.to_owned(), site.to_owned()))?;
        let last =
            known.last.as_ref().map(|(position, at)| DataPosition { age: now.saturating_sub(*at), ..position.clone() });
        match (&known.trouble, last) {
            (None, Some(position)) => Some(DataFacts::Answer(position)),
            (Some(why), last) => Some(DataFacts::Silent { why: why.clone(), last }),
            (None, None) => None,
        }
    }
}
