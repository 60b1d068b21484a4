//! The data gate: the quorum says who may write, not who has the data.

use std::time::Duration;

use crate::failover::facts::{AcceptedLoss, DataFacts, DataPosition, ServiceFacts};

/// Whether a site's data allow it to take the group from `from`. Answers what has to be told (an accepted loss).
///
/// A planned move asks for the lag alone, because the writer that leaves stops first. After a loss an RPO of zero asks
/// the source to vouch that nothing acknowledged is missing, and for the last position that the lost site was seen at.
pub(super) fn gate(
    facts: &ServiceFacts,
    site: &str,
    from: Option<&str>,
    planned: bool,
    accepted: Option<AcceptedLoss>,
) -> Result<Option<String>, String> {
    let Some(rpo) = facts.spec.rpo() else { return Ok(None) };
    if accepted == Some(AcceptedLoss::Unknown) {
        return Ok(Some("a loss of unknown size is accepted".into()));
    }
    let answer = answered(facts, site)?;
    let allowed = match accepted {
        Some(AcceptedLoss::UpTo(loss)) => loss.max(rpo),
        _ => rpo,
    };
    if answer.lag > allowed {
        return Err(format!(
            "data gate: its data lag {:.3} s behind, {:.3} s are allowed",
            answer.lag.as_secs_f64(),
            allowed.as_secs_f64()
        ));
    }
    if let Some(AcceptedLoss::UpTo(loss)) = accepted.filter(|_| allowed > rpo) {
        return Ok(Some(format!("a loss of up to {:.3} s is accepted", loss.as_secs_f64())));
    }
    if rpo.is_zero() && !planned && from.is_some() {
        if !answer.complete {
            return Err(
                "data gate: with an RPO of 0 its database must vouch that no acknowledged commit is missing".into()
            );
        }
        let last = from.and_then(|from| last_known(facts, from)).and_then(|at| at.position);
        if let (Some(last), Some(position)) = (last, answer.position)
            && position < last
        {
            return Err(format!("data gate: its position {position} is before {last}, the last seen of the lost site"));
        }
    }
    Ok(None)
}

/// The site's answer, if it is fresh enough to count.
fn answered<'a>(facts: &'a ServiceFacts, site: &str) -> Result<&'a DataPosition, String> {
    let limit = facts.spec.data_gate.as_ref().map_or(Duration::ZERO, |gate| gate.max_age.get());
    match facts.sites.get(site).and_then(|site| site.data.as_ref()) {
        Some(DataFacts::Answer(at)) if at.age <= limit => Ok(at),
        Some(DataFacts::Answer(at)) => Err(format!("data gate: its last answer is {} s old", at.age.as_secs())),
        Some(DataFacts::Silent { why, .. }) => Err(format!("data gate: no answer: {why}")),
        None => Err("data gate: not asked yet".into()),
    }
}

fn last_known<'a>(facts: &'a ServiceFacts, site: &str) -> Option<&'a DataPosition> {
    match facts.sites.get(site)?.data.as_ref()? {
        DataFacts::Answer(at) => Some(at),
        DataFacts::Silent { last, .. } => last.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::planner::testing::{answer, single};

    fn facts(b: DataFacts, rpo: u64) -> ServiceFacts {
        let mut facts = single("account", &["a"]);
        facts.spec.objectives.rpo = Some(evergreen_api::HumanDuration::seconds(rpo));
        facts.sites.get_mut("b").unwrap().data = Some(b);
        facts.sites.get_mut("a").unwrap().data = Some(DataFacts::Silent {
            why: "gone".into(),
            last: Some(DataPosition { position: Some(100), ..answer(0) }),
        });
        facts
    }

    fn passes(b: DataFacts, rpo: u64, accepted: Option<AcceptedLoss>) -> Result<Option<String>, String> {
        gate(&facts(b, rpo), "b", Some("a"), false, accepted)
    }

    #[test]
    fn a_gate_that_hangs_holds_and_so_does_an_old_answer() {
        let hanging = DataFacts::Silent { why: "no answer within 3s".into(), last: Some(answer(0)) };
        assert!(passes(hanging.clone(), 5, None).unwrap_err().contains("no answer within 3s"));
        assert!(passes(hanging.clone(), 5, Some(AcceptedLoss::UpTo(Duration::from_secs(60)))).is_err());
        assert!(passes(hanging, 5, Some(AcceptedLoss::Unknown)).unwrap().is_some());
        let old = DataPosition { age: Duration::from_secs(61), ..answer(0) };
        assert!(passes(DataFacts::Answer(old), 5, None).unwrap_err().contains("old"));
    }

    #[test]
    fn the_lag_must_meet_the_objective_unless_a_person_accepts_the_named_loss() {
        let lags = |seconds| DataFacts::Answer(answer(seconds));
        assert_eq!(passes(lags(5), 5, None), Ok(None));
        assert!(passes(lags(6), 5, None).unwrap_err().contains("6.000 s behind"));
        let accepted = Some(AcceptedLoss::UpTo(Duration::from_secs(10)));
        assert!(passes(lags(6), 5, accepted).unwrap().unwrap().contains("10.000 s is accepted"));
        assert!(passes(lags(11), 5, accepted).is_err());
    }

    #[test]
    fn nothing_may_be_missing_where_the_objective_is_zero() {
        let at =
            |position, complete| DataFacts::Answer(DataPosition { position: Some(position), complete, ..answer(0) });
        assert!(passes(at(100, false), 0, None).unwrap_err().contains("vouch"));
        assert!(passes(at(99, true), 0, None).unwrap_err().contains("before 100"));
        assert_eq!(passes(at(100, true), 0, None), Ok(None));
        assert_eq!(
            gate(&facts(at(1, false), 0), "b", Some("a"), true, None),
            Ok(None),
            "a writer that leaves stops first"
        );
    }
}
