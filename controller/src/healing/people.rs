//! What people say about runs: signed approvals, and the kill switch.

use std::sync::Arc;

use evergreen_api::resources::{ConsentSpec, PlaybookRunSpec, spec_hash};
use evergreen_playbooks::runner::Approval;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::consent::{ConsentBook, ConsentWatch, Keyring, KillSwitch};

/// Everything that was said, and whose signatures count, as it is known now.
type Said = dyn Fn() -> (Keyring, Vec<ConsentSpec>) + Send + Sync;

/// Where healing hears people. Without anyone: nobody approves, nothing is paused.
#[derive(Clone, Default)]
pub struct People {
    said: Option<Arc<Said>>,
    switch: Option<KillSwitch>,
    book: Arc<Mutex<ConsentBook>>,
    began: Option<Instant>,
}

impl People {
    /// Hears statements of every site, and the switch of this one.
    pub fn new(watch: Arc<ConsentWatch>, switch: KillSwitch) -> Self {
        let said = move || {
            let all =
                watch.heard.values().flat_map(|heard| heard.with(|all| all.values().cloned().collect::<Vec<_>>()));
            (watch.keyring(), all.collect())
        };
        Self::saying(Arc::new(said), switch)
    }

    pub(crate) fn saying(said: Arc<Said>, switch: KillSwitch) -> Self {
        Self { said: Some(said), switch: Some(switch), book: Arc::default(), began: Some(Instant::now()) }
    }

    /// Why people have stopped everything here.
    pub(crate) fn paused(&self) -> Option<String> {
        self.switch.as_ref()?.everything()
    }

    /// Who approves exactly this run now. An approval counts for an hour after it was first seen; one that was taken back
    /// counts no more.
    pub(crate) fn approvals(&self, run: &str, spec: &PlaybookRunSpec) -> Vec<Approval> {
        let (Some(said), Some(began)) = (&self.said, self.began) else { return Vec::new() };
        let (keyring, all) = said();
        let now = began.elapsed();
        let mut book = self.book.lock();
        book.observe(&keyring, all.iter(), now);
        let approved = book.run_approvals(run, &spec_hash(spec), now);
        approved.into_iter().map(|(by, step)| Approval { by, step }).collect()
    }
}
