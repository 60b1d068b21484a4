//! Order of traffic among services of one group. They move in one act; then the traffic of each follows that of the services
//! it depends on. Pure.

use std::time::Duration;

use super::facts::ServiceFacts;

/// Traffic waits no longer than this after the move for that of a dependency: the old site serves nobody any more, so that
/// clients would be refused for as long as a dependency's actuator is out of order.
const PATIENCE: Duration = Duration::from_secs(10);

/// The dependency in the same group whose traffic has to follow first; none when this service's traffic may.
///
/// `followed` tells the version of the group's entry at which a service's traffic was last seen to be as wanted.
pub(super) fn waits_for(facts: &ServiceFacts, followed: impl Fn(&str) -> Option<u64>) -> Option<&str> {
    if facts.entry_stable_for >= PATIENCE {
        return None;
    }
    let mut first = facts.dependencies.iter().filter(|dependency| dependency.same_group);
    let behind = |name: &str| followed(name).is_none_or(|version| version < facts.entry.version);
    first.find(|dependency| behind(&dependency.name)).map(|dependency| dependency.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::{facts::DependencyFacts, planner::testing::single};

    fn depending(same_group: bool) -> ServiceFacts {
        let mut facts = single("compute", &["b"]);
        facts.entry.version = 7;
        facts.entry_stable_for = Duration::from_secs(1);
        facts.dependencies = vec![DependencyFacts { name: "n/db".into(), same_group, ..DependencyFacts::default() }];
        facts
    }

    #[test]
    fn traffic_follows_that_of_the_dependencies_in_the_group() {
        let facts = depending(true);
        assert_eq!(waits_for(&facts, |_| None), Some("n/db"));
        assert_eq!(waits_for(&facts, |_| Some(6)), Some("n/db"), "as it was before the move");
        assert_eq!(waits_for(&facts, |_| Some(7)), None);
        assert_eq!(waits_for(&depending(false), |_| None), None, "another group's order is that of its moves");
    }

    #[test]
    fn nobody_waits_for_ever_for_an_actuator_that_is_out_of_order() {
        let mut facts = depending(true);
        facts.entry_stable_for = PATIENCE;
        assert_eq!(waits_for(&facts, |_| None), None);
    }
}
