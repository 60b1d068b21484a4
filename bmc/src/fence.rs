//! Switching a machine off and making sure that it is off.
//!
//! Nobody may conclude "off" from an accepted order, from a lost answer or from a BMC that has fallen silent: a machine
//! that lost its feed takes its BMC with it, and so does a cable that was pulled. Off is what the BMC itself says, twice.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Bmc, BmcError, PowerAction, PowerState};

/// How long, and how often.
#[derive(Clone, Copy, Debug)]
pub struct FenceBounds {
    /// The whole of it.
    pub within: Duration,
    /// One question.
    pub call: Duration,
    /// Between two questions.
    pub pause: Duration,
}

impl Default for FenceBounds {
    /// A forced power-off takes 4 s to 10 s on common servers.
    fn default() -> Self {
        Self { within: Duration::from_secs(60), call: Duration::from_secs(10), pause: Duration::from_secs(1) }
    }
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PowerOff {
    /// The BMC said twice in a row that the machine is off.
    Verified {
        /// Since the beginning.
        after: Duration,
        /// It was off before anything was ordered.
        already: bool,
    },
    /// The machine must be taken for running.
    NotVerified {
        /// The last state that was read.
        last: Option<PowerState>,
        /// What stood in the way.
        why: String,
    },
}

/// Switches a machine off and asks until it is off or the bound has passed.
pub async fn power_off_verified(bmc: &mut dyn Bmc, bounds: FenceBounds) -> PowerOff {
    let begin = Instant::now();
    let deadline = begin + bounds.within;
    let (mut last, mut why) = (None, String::from("the time is up"));
    let (mut seen_off, mut ordered) = (0, false);
    loop {
        match call(bounds.call, deadline, bmc.power_state()).await {
            Ok(PowerState::Off) => {
                last = Some(PowerState::Off);
                seen_off += 1;
                if seen_off == 2 {
                    return PowerOff::Verified { after: begin.elapsed(), already: !ordered };
                }
            }
            Ok(state) => {
                last = Some(state);
                seen_off = 0;
                why = format!("the machine is still {state}");
                if !ordered {
                    match call(bounds.call, deadline, bmc.act(PowerAction::ForceOff)).await {
                        Ok(()) => ordered = true,
                        Err(error) => {
                            why = error.to_string();
                            if error.is_lasting() {
                                return PowerOff::NotVerified { last, why };
                            }
                            // It may have been taken: ordering again is harmless, and so is asking.
                        }
                    }
                }
            }
            Err(error) => {
                seen_off = 0;
                why = error.to_string();
                if error.is_lasting() {
                    return PowerOff::NotVerified { last, why };
                }
            }
        }
        if Instant::now() + bounds.pause >= deadline {
            return PowerOff::NotVerified { last, why };
        }
        tokio::time::sleep(bounds.pause).await;
    }
}

async fn call<T>(
    bound: Duration,
    deadline: Instant,
    question: impl Future<Output = Result<T, BmcError>>,
) -> Result<T, BmcError> {
    let until = deadline.min(Instant::now() + bound);
    tokio::time::timeout_at(until, question)
        .await
        .unwrap_or_else(|_| Err(BmcError::Unreachable(format!("nothing within {} s", bound.as_secs()))))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use async_trait::async_trait;

    use super::*;
    use crate::{Identity, Reading};

    struct Scripted {
        states: VecDeque<Result<PowerState, BmcError>>,
        orders: usize,
        order: Result<(), BmcError>,
    }

    #[async_trait]
    impl Bmc for Scripted {
        async fn identify(&mut self) -> Result<Identity, BmcError> {
            Ok(Identity::default())
        }
        async fn power_state(&mut self) -> Result<PowerState, BmcError> {
            match self.states.len() {
                0 => std::future::pending().await,
                1 => self.states[0].clone(),
                _ => self.states.pop_front().unwrap(),
            }
        }
        async fn power(&mut self) -> Result<Reading, BmcError> {
            Err(BmcError::Unsupported("power".into()))
        }
        async fn act(&mut self, action: PowerAction) -> Result<(), BmcError> {
            assert_eq!(action, PowerAction::ForceOff);
            self.orders += 1;
            self.order.clone()
        }
        async fn close(&mut self) {}
    }

    async fn fence(states: impl IntoIterator<Item = Result<PowerState, BmcError>>) -> (PowerOff, usize) {
        let mut bmc = Scripted { states: states.into_iter().collect(), orders: 0, order: Ok(()) };
        let outcome = power_off_verified(&mut bmc, FenceBounds::default()).await;
        (outcome, bmc.orders)
    }

    use PowerState::{Off, On, Unknown};

    #[tokio::test(start_paused = true)]
    async fn off_is_believed_when_it_is_said_twice() {
        let (outcome, orders) = fence([Ok(On), Ok(On), Ok(Off), Ok(Off)]).await;
        assert!(matches!(outcome, PowerOff::Verified { already: false, .. }), "{outcome:?}");
        assert_eq!(orders, 1);
        let (outcome, orders) = fence([Ok(Off), Ok(Off)]).await;
        assert!(matches!(outcome, PowerOff::Verified { already: true, .. }));
        assert_eq!(orders, 0, "a machine that is off is not switched");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flicker_of_off_is_not_off() {
        let (outcome, _) = fence([Ok(On), Ok(Off), Ok(On), Ok(Off), Ok(On)]).await;
        assert!(matches!(outcome, PowerOff::NotVerified { last: Some(On), .. }), "{outcome:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_after_the_order_is_not_off() {
        let begin = Instant::now();
        let silent = || Err(BmcError::Unreachable("nothing".into()));
        let (outcome, orders) = fence([Ok(On), silent()]).await;
        assert!(matches!(outcome, PowerOff::NotVerified { last: Some(On), .. }), "{outcome:?}");
        assert_eq!(orders, 1);
        assert!(begin.elapsed() <= FenceBounds::default().within, "it is bounded");
        let (outcome, _) = fence([]).await;
        assert!(matches!(outcome, PowerOff::NotVerified { last: None, .. }), "{outcome:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_state_is_not_off() {
        let (outcome, orders) = fence([Ok(Unknown)]).await;
        assert!(matches!(outcome, PowerOff::NotVerified { last: Some(Unknown), .. }));
        assert_eq!(orders, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_lasts_ends_it_at_once() {
        let mut bmc = Scripted {
            states: [Ok(On)].into(),
            orders: 0,
            order: Err(BmcError::Privilege("operator is needed".into())),
        };
        let begin = Instant::now();
        let outcome = power_off_verified(&mut bmc, FenceBounds::default()).await;
        assert!(matches!(&outcome, PowerOff::NotVerified { why, .. } if why.contains("operator")), "{outcome:?}");
        assert_eq!((bmc.orders, begin.elapsed()), (1, Duration::ZERO));
    }
}
