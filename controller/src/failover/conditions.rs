//! What keeps a service from being moved, and its traffic from following, for its status: said while all is well, so that
//! nobody learns of it on the day of a loss. Pure. Messages hold no running numbers, or the status would never rest.

use super::facts::{DataFacts, ServiceFacts};
use crate::traffic::ActuatorState;

/// Whether something holds, one word why, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Said {
    fn new(holds: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds, reason, message: message.into() }
    }
}

/// Whether the groups of a service may be moved at all.
pub(super) fn movable<'a>(mut groups: impl Iterator<Item = &'a ServiceFacts>) -> Said {
    let held = |facts: &ServiceFacts| {
        if let Some(why) = &facts.blocked {
            return Some(Said::new(false, "Blocked", format!("nothing is moved: {why}")));
        }
        if facts.same_spec_at * 2 <= facts.members {
            let message = "nothing is moved: sites hold different specs; apply the same one everywhere";
            return Some(Said::new(false, "SpecDrift", message));
        }
        facts.spec.profile.filter(|profile| *profile != facts.profile).map(|profile| {
            let message = format!(
                "nothing is moved: it is planned for timing profile {profile:?}, the sites run with {:?}",
                facts.profile
            );
            Said::new(false, "WrongProfile", message)
        })
    };
    groups.find_map(held).unwrap_or_else(|| Said::new(true, "Movable", "its spec and those beside it allow moves"))
}

/// Whether the data gate tells where every site's data stand; none where the service has no gate.
pub(super) fn data<'a>(groups: impl Iterator<Item = &'a ServiceFacts>) -> Option<Said> {
    let (mut gated, mut silent) = (false, Vec::new());
    for facts in groups {
        let Some(gate) = &facts.spec.data_gate else { continue };
        gated = true;
        for site in &facts.candidates {
            let why = match facts.sites.get(site).and_then(|known| known.data.as_ref()) {
                Some(DataFacts::Answer(at)) if at.age <= gate.max_age.get() => continue,
                Some(DataFacts::Answer(_)) => format!("its last answer is older than maxAge ({})", gate.max_age),
                Some(DataFacts::Silent { why, .. }) => why.clone(),
                None => "not asked yet".to_owned(),
            };
            silent.push(format!("{site}: {why}"));
        }
    }
    silent.dedup();
    gated.then(|| match silent.as_slice() {
        [] => Said::new(true, "Answers", "where the data stand is known for every site"),
        _ => Said::new(
            false,
            "Silent",
            format!("the service is not moved to a site whose data gate is silent: {}", silent.join("; ")),
        ),
    })
}

/// Whether a service's traffic is where it should be. `first` is a dependency that it waits for.
pub(super) fn traffic(first: Option<&str>, states: &[(String, ActuatorState)]) -> Said {
    if let Some(name) = first {
        return Said::new(false, "Waits", format!("it depends on {name}, whose traffic follows first"));
    }
    let failed: Vec<String> = states
        .iter()
        .filter_map(|(_, state)| match state {
            ActuatorState::Failed(why) => Some(why.clone()),
            ActuatorState::Done(_) | ActuatorState::Pending(_) => None,
        })
        .collect();
    let pending: Vec<&str> = states
        .iter()
        .filter(|(_, state)| matches!(state, ActuatorState::Pending(_)))
        .map(|(what, _)| what.as_str())
        .collect();
    match (failed.is_empty(), pending.is_empty()) {
        (false, _) => Said::new(false, "Refused", failed.join("; ")),
        (true, false) => Said::new(false, "Pending", format!("not written yet: {}", pending.join(", "))),
        (true, true) => Said::new(true, "Follows", "traffic is where the group is"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failover::{
        facts::{DataPosition, DependencyFacts},
        planner::{
            plan_all,
            testing::{active, answer, single},
        },
    };

    #[test]
    fn what_is_wrong_is_said_before_anything_has_to_move() {
        assert_eq!(movable([&active(&["a", "b"])].into_iter()).reason, "Movable");
        let mut drift = active(&["a", "b"]);
        drift.same_spec_at = 1;
        assert_eq!(movable([&drift].into_iter()).reason, "SpecDrift");

        // A cycle of healthy services that nothing has to be done about.
        let depends = |name: &str, on: &str| {
            let mut facts = active(&["a", "b"]);
            (facts.name, facts.group) = (name.into(), name.into());
            facts.dependencies = vec![DependencyFacts { name: on.into(), ..DependencyFacts::default() }];
            facts
        };
        let mut all = [depends("n/x", "n/y"), depends("n/y", "n/x")];
        assert_eq!(plan_all(&mut all), [None, None], "all is well");
        let said = movable(all.iter());
        assert_eq!((said.holds, said.reason), (false, "Blocked"));
        assert!(said.message.contains("dependency cycle: n/x -> n/y -> n/x"), "{}", said.message);
    }

    #[test]
    fn a_data_gate_that_hangs_is_said_with_its_site() {
        assert_eq!(data([&single("compute", &["a"])].into_iter()), None);
        let mut facts = single("account", &["a"]);
        assert_eq!(data([&facts].into_iter()).unwrap().reason, "Answers");
        let hangs = DataFacts::Silent { why: "no answer within 3s".into(), last: None };
        facts.sites.get_mut("b").unwrap().data = Some(hangs);
        let old = DataPosition { age: Duration::from_secs(3_600), ..answer(0) };
        facts.sites.get_mut("c").unwrap().data = Some(DataFacts::Answer(old));
        let said = data([&facts].into_iter()).unwrap();
        assert_eq!((said.holds, said.reason), (false, "Silent"));
        assert!(said.message.contains("b: no answer within 3s; c: its last answer is older"), "{}", said.message);
    }

    #[test]
    fn traffic_that_does_not_follow_says_which_actuator_and_why() {
        let state = |state: ActuatorState| vec![("dnsUpdate pay.example".to_owned(), state)];
        assert!(traffic(None, &state(ActuatorState::Done(false))).holds);
        assert_eq!(traffic(Some("n/db"), &[]).reason, "Waits");
        assert_eq!(traffic(None, &state(ActuatorState::Pending("3 s left".into()))).reason, "Pending");
        let refused =
            traffic(None, &state(ActuatorState::Failed("dnsUpdate pay.example: nobody would be left".into())));
        assert_eq!((refused.holds, refused.reason), (false, "Refused"));
        assert!(refused.message.contains("dnsUpdate pay.example: nobody would be left"), "{}", refused.message);
    }
}
