//! One turn over all sources. Files of sick hardware may not come back when they are read: each source is asked on a
//! thread that can be left behind with it, and only so many of them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    ProbeArgs,
    source::{About, Findings, Look, Source, Trouble},
};
use crate::{host::Root, sources::Sample};

/// A source that takes longer is left behind. The slowest honest one asks two disks, 10 s each at most.
pub const BACK_WITHIN: Duration = Duration::from_secs(25);
/// Sources that may be left behind at a time; behind that none is asked, for each keeps a thread.
const MAX_LEFT_BEHIND: usize = 6;
/// Enough for a few files of 4 MiB, which are on the heap, and for what libraries need.
const STACK: usize = 512 << 10;

/// What all sources are asked about.
#[derive(Clone)]
pub struct Turn {
    /// Where the host is.
    pub root: Root,
    /// What the user set.
    pub settings: Arc<ProbeArgs>,
    /// What the collector read last.
    pub sample: Option<Arc<Sample>>,
    /// Milliseconds since boot.
    pub now_ms: u64,
}

/// How one source went.
pub struct Answer {
    /// What it found.
    pub outcome: io::Result<Findings>,
    /// What it left out.
    pub trouble: Trouble,
}

/// A source and whether it came back.
pub struct Slot {
    /// What it is.
    pub about: &'static About,
    source: Arc<Mutex<Box<dyn Source>>>,
    left_behind: Arc<AtomicBool>,
}

fn silent(why: &str) -> Answer {
    Answer { outcome: Err(io::Error::new(io::ErrorKind::TimedOut, why.to_owned())), trouble: Trouble::default() }
}

impl Slot {
    /// A source that was never asked.
    pub fn new(source: Box<dyn Source>) -> Self {
        let about = source.about();
        Self { about, source: Arc::new(Mutex::new(source)), left_behind: Arc::default() }
    }

    /// Asks it, here and now.
    pub fn ask(&self, turn: &Turn) -> Answer {
        ask(&self.source, turn)
    }
}

fn ask(source: &Mutex<Box<dyn Source>>, turn: &Turn) -> Answer {
    let Some(mut source) = source.try_lock() else { return silent("an earlier reading has not come back") };
    let look = Look::new(&turn.root, &turn.settings, turn.sample.as_ref(), turn.now_ms);
    let outcome = source.read(&look);
    Answer { outcome, trouble: look.trouble() }
}

/// Asks all sources, one after the other, each no longer than `within`.
pub async fn ask_all(slots: &[Slot], turn: &Arc<Turn>, within: Duration) -> Vec<Answer> {
    let mut answers: Vec<Option<Answer>> = slots.iter().map(|_| None).collect();
    let mut next = 0;
    while next < slots.len() {
        let left = slots.iter().filter(|slot| slot.left_behind.load(Ordering::Acquire)).count();
        if left >= MAX_LEFT_BEHIND {
            break;
        }
        let Some(mut receiver) = spawn(&slots[next..], next, turn) else { break };
        loop {
            match tokio::time::timeout(within, receiver.recv()).await {
                Ok(Some((index, answer))) => {
                    answers[index] = Some(answer);
                    next = index + 1;
                }
                Ok(None) => {
                    // The thread is through, or the source that was next made it end.
                    if next < slots.len() {
                        answers[next] = Some(silent("its reading failed"));
                        next += 1;
                    }
                    break;
                }
                Err(_) => {
                    slots[next].left_behind.store(true, Ordering::Release);
                    tracing::warn!(source = slots[next].about.name, "a source does not come back; it is left behind");
                    answers[next] = Some(silent("its reading does not come back"));
                    next += 1;
                    break;
                }
            }
        }
    }
    let why = "not asked, because other sources do not come back";
    answers.into_iter().map(|answer| answer.unwrap_or_else(|| silent(why))).collect()
}

/// A thread that asks the given sources until nobody listens any more.
fn spawn(slots: &[Slot], first: usize, turn: &Arc<Turn>) -> Option<mpsc::Receiver<(usize, Answer)>> {
    let (sender, receiver) = mpsc::channel(64);
    let turn = Arc::clone(turn);
    let sources: Vec<_> = slots.iter().map(|slot| (Arc::clone(&slot.source), Arc::clone(&slot.left_behind))).collect();
    let spawned = thread::Builder::new().name("sources".into()).stack_size(STACK).spawn(move || {
        for (index, (source, left_behind)) in sources.into_iter().enumerate() {
            let answer = ask(&source, &turn);
            let gone = sender.blocking_send((first + index, answer)).is_err();
            // It came back after all.
            if source.try_lock().is_some() {
                left_behind.store(false, Ordering::Release);
            }
            if gone {
                return;
            }
        }
    });
    match spawned {
        Ok(_) => Some(receiver),
        Err(error) => {
            tracing::warn!(%error, "health sources cannot be asked: no thread");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;
    use crate::probes::source::absent;

    struct Hangs(std_mpsc::Receiver<()>);
    struct Panics;
    struct Well;

    const ABOUT: About = About { name: "x", reads: &["x"], measures: &[], series: &[], says: "x", needs: "x" };

    impl Source for Hangs {
        fn about(&self) -> &'static About {
            &ABOUT
        }
        fn read(&mut self, _: &Look<'_>) -> io::Result<Findings> {
            let _ = self.0.recv();
            Ok(Findings::default())
        }
    }

    impl Source for Panics {
        fn about(&self) -> &'static About {
            &ABOUT
        }
        fn read(&mut self, _: &Look<'_>) -> io::Result<Findings> {
            panic!("a source that is wrong")
        }
    }

    impl Source for Well {
        fn about(&self) -> &'static About {
            &ABOUT
        }
        fn read(&mut self, _: &Look<'_>) -> io::Result<Findings> {
            Err(absent("well"))
        }
    }

    fn turn() -> Arc<Turn> {
        let settings = Arc::new(ProbeArgs::default());
        Arc::new(Turn { root: Root::new("/nowhere"), settings, sample: None, now_ms: 0 })
    }

    fn reasons(answers: &[Answer]) -> Vec<String> {
        answers
            .iter()
            .map(|answer| answer.outcome.as_ref().map_or_else(ToString::to_string, |_| String::new()))
            .collect()
    }

    #[tokio::test]
    async fn a_source_that_hangs_is_left_behind_until_it_comes_back_and_the_others_go_on() {
        let (release, held) = std_mpsc::channel();
        let slots = [Slot::new(Box::new(Well)), Slot::new(Box::new(Hangs(held))), Slot::new(Box::new(Well))];
        let within = Duration::from_millis(50);
        let answers = ask_all(&slots, &turn(), within).await;
        assert_eq!(reasons(&answers), ["well", "its reading does not come back", "well"]);
        let answers = ask_all(&slots, &turn(), within).await;
        assert_eq!(reasons(&answers), ["well", "an earlier reading has not come back", "well"]);
        drop(release);
        for _ in 0..1000 {
            let answers = ask_all(&slots, &turn(), Duration::from_secs(5)).await;
            if answers[1].outcome.is_ok() {
                assert!(!slots[1].left_behind.load(Ordering::Acquire));
                return;
            }
        }
        panic!("it never came back");
    }

    #[tokio::test]
    async fn only_so_many_sources_are_left_behind() {
        let (releases, slots): (Vec<_>, Vec<_>) = (0..8)
            .map(|_| {
                let (release, held) = std_mpsc::channel();
                (release, Slot::new(Box::new(Hangs(held)) as Box<dyn Source>))
            })
            .unzip();
        let answers = ask_all(&slots, &turn(), Duration::from_millis(10)).await;
        let hanging = reasons(&answers).into_iter().filter(|reason| reason.contains("does not come back")).count();
        assert_eq!(hanging, MAX_LEFT_BEHIND);
        assert!(reasons(&answers)[7].starts_with("not asked"));
        drop(releases);
    }

    #[tokio::test]
    async fn a_source_that_is_wrong_takes_no_other_with_it() {
        let slots = [Slot::new(Box::new(Panics)), Slot::new(Box::new(Well))];
        let answers = ask_all(&slots, &turn(), Duration::from_secs(5)).await;
        assert_eq!(reasons(&answers)[1], "well");
    }
}
