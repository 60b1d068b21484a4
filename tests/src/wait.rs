//! Waiting for other processes: always with a bound, always with a reason when it passes.

use std::time::{Duration, Instant};

/// How often the world is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Looks until `look` finds something, for at most `bound`; `look` answers what it saw instead otherwise.
///
/// # Panics
/// When the bound has passed, with what was waited for and what was seen last.
pub async fn eventually<T, F>(what: &str, bound: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let begin = Instant::now();
    loop {
        let seen = match tokio::time::timeout(bound, look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(seen)) => seen,
            Err(_) => "no answer".to_owned(),
        };
        assert!(begin.elapsed() < bound, "{what}: not within {bound:?}; last seen: {seen}");
        tokio::time::sleep(LOOK).await;
    }
}
