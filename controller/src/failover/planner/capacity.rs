//! Room: whether a site can carry what it is given, and whether those that stay could carry any one that is lost.

use std::collections::BTreeMap;

use evergreen_api::resources::{CapacityAction, HeadroomStatus};

use crate::{
    failover::facts::{Room, ServiceFacts, WorkloadFacts},
    quorum::Holder,
};

/// Replicas that the service needs over all its holders.
fn needed(facts: &ServiceFacts) -> u32 {
    if let Some(replicas) = facts.spec.capacity_gate.replicas {
        return replicas.saturating_mul(facts.spec.min_active);
    }
    let at = |site: &str| facts.sites.get(site).and_then(|site| site.workload).map_or(0, |workload| workload.wanted);
    let most = facts.entry.holders.iter().map(|holder| at(&holder.site)).max().unwrap_or(0);
    most.saturating_mul(facts.spec.min_active)
}

/// Whether `site` has room for its part when `holders` share the service.
pub(super) fn gate(facts: &ServiceFacts, site: &str, holders: &[Holder]) -> Result<(), String> {
    let share = needed(facts).div_ceil(u32::try_from(holders.len()).unwrap_or(u32::MAX).max(1));
    let Some(known) = facts.sites.get(site) else { return Ok(()) };
    let Some(workload) = known.workload else { return Err(format!("what {site} has room for is not known")) };
    let extra = replicas(site, &workload, share)?;
    let Some(room) = known.room else {
        // Where nothing more has to be started nobody has to know the room.
        return if extra == 0 { Ok(()) } else { Err(format!("the room at {site} is not known")) };
    };
    fits(site, &room, facts.spec.capacity_gate.reserve_percent, demand(&workload, extra))
}

/// Replicas that have to be started for the site to have `share`, unless something forbids them.
fn replicas(site: &str, workload: &WorkloadFacts, share: u32) -> Result<u32, String> {
    if workload.budget_short {
        return Err(format!("{site} has fewer healthy pods than its disruption budget demands"));
    }
    let extra = share.saturating_sub(workload.wanted);
    if extra == 0 {
        return Ok(0);
    }
    match workload.max_replicas {
        Some(max) if max < share => return Err(format!("the autoscaler at {site} stops at {max} of {share} replicas")),
        Some(_) => {}
        None => return Err(format!("{site} has {} of {share} replicas and no autoscaler", workload.wanted)),
    }
    match workload.quota_replicas {
        Some(quota) if quota < extra => Err(format!("the quota at {site} leaves room for {quota} of {extra} replicas")),
        _ => Ok(extra),
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    cpu_millis: u64,
    memory_bytes: u64,
}

fn demand(workload: &WorkloadFacts, replicas: u32) -> Demand {
    Demand {
        cpu_millis: workload.cpu_millis.saturating_mul(replicas.into()),
        memory_bytes: workload.memory_bytes.saturating_mul(replicas.into()),
    }
}

fn fits(site: &str, room: &Room, reserve_percent: u8, demand: Demand) -> Result<(), String> {
    let usable = |whole: u64, requested: u64| {
        let reserve = u128::from(whole) * u128::from(reserve_percent) / 100;
        whole.saturating_sub(requested).saturating_sub(u64::try_from(reserve).unwrap_or(u64::MAX))
    };
    let cpu = usable(room.cpu_millis, room.cpu_requested_millis);
    let memory = usable(room.memory_bytes, room.memory_requested_bytes);
    if demand.cpu_millis > cpu {
        return Err(format!("{site} has {cpu} of {} milli-CPU free", demand.cpu_millis));
    }
    if demand.memory_bytes > memory {
        return Err(format!("{site} has {} of {} MiB free", memory >> 20, demand.memory_bytes >> 20));
    }
    Ok(())
}

/// For every group what would be short if one of its holders were lost: N-1. The extra demand of all groups that lose
/// the same site is added up, because they would come at once.
pub fn headroom(all: &[ServiceFacts]) -> BTreeMap<String, HeadroomStatus> {
    let mut found: BTreeMap<String, HeadroomStatus> =
        all.iter().map(|facts| (facts.group.clone(), HeadroomStatus::default())).collect();
    let mut asked: BTreeMap<(&str, &str), Demand> = BTreeMap::new();
    let mut users: Vec<(&ServiceFacts, &str, &str)> = Vec::new();
    for facts in all
        .iter()
        .filter(|facts| facts.spec.capacity_gate.action != CapacityAction::Warn || !facts.entry.holders.is_empty())
    {
        for lost in facts.entry.holders.iter().map(|holder| holder.site.as_str()) {
            if let Err(why) = survive(facts, lost, &mut asked, &mut users)
                && let Some(status) = found.get_mut(&facts.group)
            {
                status.short.insert(lost.to_owned(), why);
            }
        }
    }
    for (facts, lost, survivor) in users {
        let (Some(demand), Some(room)) =
            (asked.get(&(lost, survivor)), facts.sites.get(survivor).and_then(|site| site.room))
        else {
            continue;
        };
        if let Err(why) = fits(survivor, &room, facts.spec.capacity_gate.reserve_percent, *demand)
            && let Some(status) = found.get_mut(&facts.group)
        {
            status.short.entry(lost.to_owned()).or_insert_with(|| format!("{why}, with all services that lose {lost}"));
        }
    }
    for status in found.values_mut() {
        let lost: Vec<&str> = status.short.keys().map(String::as_str).collect();
        status.summary = if lost.is_empty() { "N-1 ok".into() } else { format!("short without {}", lost.join(", ")) };
    }
    found
}

/// Adds what the survivors of `lost` would have to start.
fn survive<'a>(
    facts: &'a ServiceFacts,
    lost: &'a str,
    asked: &mut BTreeMap<(&'a str, &'a str), Demand>,
    users: &mut Vec<(&'a ServiceFacts, &'a str, &'a str)>,
) -> Result<(), String> {
    let rest = facts.entry.holders.iter().map(|holder| holder.site.as_str()).filter(|site| *site != lost);
    let mut survivors: Vec<&str> = rest.collect();
    let spare = facts
        .candidates
        .iter()
        .map(String::as_str)
        .find(|site| *site != lost && facts.entry.at(site).is_none() && facts.can_serve(site));
    survivors.extend(spare);
    if survivors.is_empty() {
        return Err("no other site can serve".into());
    }
    let share = needed(facts).div_ceil(u32::try_from(survivors.len()).unwrap_or(u32::MAX));
    for survivor in survivors {
        let Some(workload) = facts.sites.get(survivor).and_then(|site| site.workload) else {
            return Err(format!("what {survivor} has room for is not known"));
        };
        let extra = replicas(survivor, &workload, share)?;
        if extra > 0 {
            let more = demand(&workload, extra);
            let sum = asked.entry((lost, survivor)).or_default();
            sum.cpu_millis = sum.cpu_millis.saturating_add(more.cpu_millis);
            sum.memory_bytes = sum.memory_bytes.saturating_add(more.memory_bytes);
            users.push((facts, lost, survivor));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::planner::testing::{active, holder, single};

    fn workload(wanted: u32, max: Option<u32>) -> Option<WorkloadFacts> {
        Some(WorkloadFacts { wanted, cpu_millis: 500, memory_bytes: 1 << 30, max_replicas: max, ..Default::default() })
    }

    fn room(cpu_free: u64) -> Option<Room> {
        Some(Room {
            cpu_millis: 10_000,
            cpu_requested_millis: 10_000 - cpu_free,
            memory_bytes: 64 << 30,
            memory_requested_bytes: 0,
        })
    }

    fn facts() -> ServiceFacts {
        let mut facts = single("compute", &["a"]);
        for (site, wanted) in [("a", 4), ("b", 1), ("c", 1)] {
            let known = facts.sites.get_mut(site).unwrap();
            (known.workload, known.room) = (workload(wanted, Some(10)), room(2_000));
        }
        facts
    }

    #[test]
    fn a_site_must_have_room_for_what_it_is_given() {
        let mut facts = facts();
        assert_eq!(gate(&facts, "b", &[holder("b", 1)]), Ok(()), "3 more replicas of 500 m fit into 2,000 m");
        facts.sites.get_mut("b").unwrap().room = room(1_499);
        assert!(gate(&facts, "b", &[holder("b", 1)]).unwrap_err().contains("1499 of 1500 milli-CPU"));
        facts.sites.get_mut("b").unwrap().room = room(1_500);
        facts.spec.capacity_gate.reserve_percent = 1;
        assert!(gate(&facts, "b", &[holder("b", 1)]).is_err(), "the reserve stays free");
    }

    #[test]
    fn autoscaler_quota_and_budget_bound_what_can_be_started() {
        let mut facts = facts();
        let set = |facts: &mut ServiceFacts, change: &dyn Fn(&mut WorkloadFacts)| {
            change(facts.sites.get_mut("b").unwrap().workload.as_mut().unwrap());
        };
        set(&mut facts, &|w| w.max_replicas = Some(3));
        assert!(gate(&facts, "b", &[holder("b", 1)]).unwrap_err().contains("stops at 3 of 4"));
        set(&mut facts, &|w| w.max_replicas = None);
        assert!(gate(&facts, "b", &[holder("b", 1)]).unwrap_err().contains("no autoscaler"));
        set(&mut facts, &|w| (w.max_replicas, w.quota_replicas) = (Some(9), Some(2)));
        assert!(gate(&facts, "b", &[holder("b", 1)]).unwrap_err().contains("quota"));
        set(&mut facts, &|w| (w.quota_replicas, w.budget_short) = (None, true));
        assert!(gate(&facts, "b", &[holder("b", 1)]).unwrap_err().contains("budget"));
    }

    #[test]
    fn what_is_not_known_is_not_taken_for_room() {
        let mut facts = facts();
        facts.sites.get_mut("b").unwrap().room = None;
        assert!(gate(&facts, "b", &[holder("b", 1)]).unwrap_err().contains("not known"));
    }

    #[test]
    fn headroom_adds_up_what_all_services_would_bring_at_once() {
        let one = facts();
        assert_eq!(headroom(std::slice::from_ref(&one))["g"].summary, "N-1 ok");
        let two = ServiceFacts { group: "h".into(), ..one.clone() };
        let both = headroom(&[one, two]);
        assert_eq!(both["g"].summary, "short without a");
        assert!(both["h"].short["a"].contains("2000 of 3000 milli-CPU"), "{both:?}");
    }

    #[test]
    fn a_service_whose_last_other_site_is_gone_has_no_headroom() {
        let mut facts = active(&["a"]);
        for site in ["b", "c"] {
            facts.sites.get_mut(site).unwrap().ready = Some(0);
        }
        assert!(headroom(&[facts])["g"].short["a"].contains("no other site"));
    }
}
