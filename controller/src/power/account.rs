//! Whose energy it is that a BMC measured. Pure.
//!
//! Every joule of a node is counted once: by its agent, or by the site. An agent that is not heard may still run, keep its
//! ledger and tell it later, also after a reboot; so the site counts only what no agent can have counted: machines without
//! an agent, and machines that are off. What a hung machine takes is in the BMC's own figures and in nobody's account.

/// Whether the site accounts for energy that was measured. `has_agent`: the node has an agent, heard or not; `off`: the
/// machine was off at both ends of the interval.
pub const fn is_the_sites(has_agent: bool, off: bool) -> bool {
    off || !has_agent
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// An agent counts whenever its machine is on, whether anyone hears it or not.
        #[test]
        fn no_joule_is_counted_twice_and_none_of_a_machine_without_agent_is_lost(steps in proptest::collection::vec((1_u64..1_000, any::<bool>(), any::<bool>()), 1..200)) {
            for has_agent in [true, false] {
                let (mut site, mut agent, mut all) = (0, 0, 0);
                for (microjoules, on_before, on_after) in &steps {
                    all += microjoules;
                    if has_agent && (*on_before || *on_after) {
                        agent += microjoules;
                    }
                    if is_the_sites(has_agent, !on_before && !on_after) {
                        site += microjoules;
                    }
                }
                prop_assert!(site + agent <= all);
                prop_assert!(has_agent || site == all);
            }
        }
    }
}
