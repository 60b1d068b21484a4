//! One call for every actuator.

use std::time::Duration;

use evergreen_api::resources::TrafficActuator;
use kube::Client;

use super::{
    Outcome, TrafficAllow, TrafficError, TrafficPlan, dns, dns_endpoint, haproxy, ingress, powerdns, routes,
    secrets::Keys, service, webhook,
};

/// What actuators need.
#[derive(Clone)]
pub struct TrafficContext {
    /// Client of the own API server.
    pub client: Client,
    /// What may be connected to outside of it.
    pub allow: TrafficAllow,
}

/// Makes `actuator` do what `plan` says. `epoch_for` is how long the caller has seen the plan's epoch without a break, on its
/// own monotonic clock; `remembered` the newest epoch that it knows this actuator was driven to.
///
/// # Errors
/// [`TrafficError`]. Whatever it is: the last endpoint is still there, and the call may be made again.
pub async fn apply(
    context: &TrafficContext,
    namespace: &str,
    actuator: &TrafficActuator,
    plan: &TrafficPlan,
    epoch_for: Duration,
    remembered: u64,
) -> Result<Outcome, TrafficError> {
    plan.check()?;
    if remembered > plan.epoch {
        return Err(TrafficError::Stale { what: actuator.describe(), found: remembered, planned: plan.epoch });
    }
    let TrafficContext { client, allow } = context;
    match actuator {
        TrafficActuator { http_route: Some(a), .. } => routes::apply(client, namespace, a, plan).await,
        TrafficActuator { ingress: Some(a), .. } => ingress::apply(client, namespace, a, plan).await,
        TrafficActuator { service: Some(a), .. } => service::apply(client, namespace, a, plan).await,
        TrafficActuator { dns_endpoint: Some(a), .. } => dns_endpoint::apply(client, namespace, a, plan).await,
        TrafficActuator { dns_update: Some(a), .. } => {
            dns::apply(allow, &Keys::read(client, &a.secret).await?, a, plan).await
        }
        TrafficActuator { power_dns: Some(a), .. } => {
            powerdns::apply(allow, &Keys::read(client, &a.secret).await?, a, plan, epoch_for).await
        }
        TrafficActuator { haproxy: Some(a), .. } => haproxy::apply(allow, a, plan, epoch_for, remembered).await,
        TrafficActuator { webhook: Some(a), .. } => {
            webhook::apply(allow, &Keys::read(client, &a.secret).await?, a, plan, epoch_for, remembered).await
        }
        _ => Err(TrafficError::Unsupported { what: "spec.traffic".into(), why: "an entry names no actuator".into() }),
    }
}

/// What is left of the lock delay, on the fastest clock that the protocol allows: delay x (1 + rho).
pub(super) fn lock_wait(delay: Duration, epoch_for: Duration) -> Option<Outcome> {
    let remaining = (delay * 11 / 10).checked_sub(epoch_for).filter(|left| !left.is_zero())?;
    let why = format!(
        "it cannot compare epochs by itself: a late change of the last epoch may land for {} s more",
        remaining.as_secs() + 1
    );
    Some(Outcome::Waiting { remaining, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_delay_is_waited_out_on_the_fastest_clock() {
        let delay = Duration::from_secs(10);
        assert!(lock_wait(delay, Duration::from_millis(10_999)).is_some());
        assert_eq!(lock_wait(delay, Duration::from_secs(11)), None);
    }
}
