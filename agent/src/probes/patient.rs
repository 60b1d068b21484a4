//! Asking what may never answer: on a thread of its own, one question at a time. What hangs is left behind and not asked
//! again until it comes back.

use std::{sync::mpsc, thread, time::Duration};

/// Something that may never answer.
#[derive(Debug)]
pub struct Patient<T> {
    waiting: Option<mpsc::Receiver<Result<T, String>>>,
}

impl<T> Default for Patient<T> {
    fn default() -> Self {
        Self { waiting: None }
    }
}

impl<T: Send + 'static> Patient<T> {
    /// Asks, unless the last question is still open.
    ///
    /// # Errors
    /// What the answer says, or that there is none.
    pub fn ask(
        &mut self,
        within: Duration,
        question: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        if let Some(waiting) = &self.waiting
            && matches!(waiting.try_recv(), Err(mpsc::TryRecvError::Empty))
        {
            return Err("an earlier question is still without an answer".into());
        }
        self.waiting = None;
        let (answer, answers) = mpsc::sync_channel(1);
        let spawned = thread::Builder::new().name("probe".into()).stack_size(256 << 10).spawn(move || {
            // Nobody listens any more when it took too long.
            let _ = answer.send(question());
        });
        spawned.map_err(|error| error.to_string())?;
        answers.recv_timeout(within).unwrap_or_else(|_| {
            self.waiting = Some(answers);
            Err(format!("no answer within {within:?}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_without_an_answer_is_left_behind_and_not_asked_again() {
        let mut patient = Patient::default();
        let (release, held) = mpsc::channel::<()>();
        let hang = move || {
            let _ = held.recv();
            Ok(())
        };
        assert!(patient.ask(Duration::from_millis(20), hang).unwrap_err().contains("no answer"));
        assert!(patient.ask(Duration::from_secs(5), || Ok(())).unwrap_err().contains("earlier question"));
        drop(release);
        // The question ends now; what it answers nobody wants, but the next one may be asked.
        let asked = std::iter::repeat_with(|| patient.ask(Duration::from_secs(5), || Ok(())));
        assert!(asked.take(100_000).any(|answer| answer.is_ok()));
    }
}
