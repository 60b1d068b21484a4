//! Order of moves: what a service depends on serves where it goes before it goes there. Services of one group move in one
//! act, for which all of them have to be ready at the site; there the order is that of their traffic (`order`).

use crate::failover::facts::ServiceFacts;

/// Whether everything that the service depends on serves; `to` is the site that it shall be given to.
pub(super) fn gate(facts: &ServiceFacts, to: &str) -> Result<(), String> {
    for dependency in &facts.dependencies {
        let name = &dependency.name;
        if dependency.sites.is_empty() {
            return Err(format!("it depends on {name}, which is no service here"));
        }
        if dependency.same_group {
            continue;
        }
        if dependency.sites.contains(to) && !dependency.serves_at.contains(to) {
            return Err(format!("it depends on {name}, which has to serve at {to} first"));
        }
        if dependency.serves_at.is_empty() {
            return Err(format!("it depends on {name}, which serves nowhere"));
        }
    }
    Ok(())
}
