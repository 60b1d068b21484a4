//! Waiting for the world, with a bound: every wait of the demo says what it waits for and when it gives up.

use std::time::Duration;

use super::{
    messages::{self, Text},
    timeline::Timeline,
};

/// How often the world is looked at: fine enough to time a detection, coarse enough for two cores.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until `look` sees something, for at most `limit`.
///
/// # Errors
/// The sentence that says what was waited for in vain.
pub async fn until<T, F, Fut>(timeline: &Timeline, what: Text, limit: Duration, mut look: F) -> Result<T, Text>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    timeline.waiting(Some(what.clone()));
    let watch = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let seen = tokio::time::timeout(limit, watch).await;
    timeline.waiting(None);
    seen.map_err(|_| messages::late(&what, limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::messages::Lang;

    #[tokio::test]
    async fn a_wait_ends_with_what_it_saw_or_says_what_it_missed() {
        let timeline = Timeline::begin(Lang::En, true);
        let seen = until(&timeline, Text::same("x"), Duration::from_secs(5), || async { Some(3) }).await;
        assert_eq!(seen, Ok(3));
        let missed = until(&timeline, Text::same("rain"), Duration::ZERO, || async { None::<()> }).await;
        assert!(missed.unwrap_err().en.contains("rain"));
    }
}
