//! Records of a PowerDNS authoritative server over its HTTP API, weighted with LUA records.
//!
//! The API changes several RRsets in one act but takes no condition, so this is unfenced: the epoch is read, compared and
//! then written, and the first change under a new epoch waits out the lock delay.

use std::time::Duration;

use evergreen_api::resources::PowerDnsActuator;
use http::{Method, Request, StatusCode, Uri};
use serde_json::{Value, json};

use super::{
    Outcome, TrafficAllow, TrafficError, TrafficPlan,
    apply::lock_wait,
    calls::{self, Answer},
    dns::epoch_of,
    error::brief,
    secrets::Keys,
};

/// Makes the name's addresses those of the sites that serve, with their weights.
pub(super) async fn apply(
    allow: &TrafficAllow,
    keys: &Keys,
    actuator: &PowerDnsActuator,
    plan: &TrafficPlan,
    epoch_for: Duration,
) -> Result<Outcome, TrafficError> {
    let what = format!("PowerDNS {}", actuator.url);
    let wanted = rrsets(actuator, plan)?;
    let zone = absolute(&actuator.zone);
    let address = format!("{}/api/v1/servers/{}/zones/{zone}", actuator.url.trim_end_matches('/'), actuator.server);
    let address = address.parse::<Uri>().map_err(|error| unreachable(&what, &error.to_string()))?;
    let authority = keys.get("ca.crt");
    let key = keys.text("api-key")?;
    let request = |method: Method| Request::builder().method(method).header("x-api-key", key);
    let target = calls::Target { allow, what: &what, url: &address, authority };
    let answer = calls::http(&target, request(Method::GET), Vec::new()).await?;
    let found: Value = serde_json::from_slice(&expect(&what, answer, StatusCode::OK)?.body)
        .map_err(|_| unreachable(&what, "its answer is no JSON"))?;
    let epoch = epoch_at(&found, &format!("_evergreen.{}", absolute(&actuator.name)));
    if epoch > plan.epoch {
        return Err(TrafficError::Stale {
            what: format!("{what}: {}", actuator.name),
            found: epoch,
            planned: plan.epoch,
        });
    }
    if wanted.iter().all(|rrset| is_so(&found, rrset)) {
        return Ok(Outcome::Unchanged);
    }
    if epoch < plan.epoch
        && let Some(waiting) = lock_wait(actuator.lock_delay.get(), epoch_for)
    {
        return Ok(waiting);
    }
    let body = json!({"rrsets": wanted}).to_string().into_bytes();
    let patch = request(Method::PATCH).header("content-type", "application/json");
    let answer = calls::http(&target, patch, body).await?;
    expect(&what, answer, StatusCode::NO_CONTENT)?;
    Ok(Outcome::Written)
}

fn unreachable(what: &str, why: &str) -> TrafficError {
    TrafficError::Unreachable { what: what.to_owned(), why: why.to_owned() }
}

fn expect(what: &str, answer: Answer, status: StatusCode) -> Result<Answer, TrafficError> {
    if answer.status == status {
        return Ok(answer);
    }
    let remedy = match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "compare `api-key` of the Secret, and webserver-allow-from",
        StatusCode::NOT_FOUND => "compare zone and server with GET /api/v1/servers",
        StatusCode::UNPROCESSABLE_ENTITY => "LUA records need enable-lua-records=yes",
        _ => "look into its log",
    };
    let why = format!("{} {}: {remedy}", answer.status, brief(&String::from_utf8_lossy(&answer.body)));
    Err(TrafficError::Refused { what: what.to_owned(), why })
}

/// The RRsets that the plan wants: the epoch, the addresses, and no others of the kind that is not used.
fn rrsets(actuator: &PowerDnsActuator, plan: &TrafficPlan) -> Result<Vec<Value>, TrafficError> {
    if !plan.units.is_empty() || plan.whitelist.is_some() {
        let why = "a name is the same for everybody: units and whitelists need httpRoute or haproxy".into();
        return Err(TrafficError::Unsupported { what: format!("PowerDNS {}", actuator.url), why });
    }
    let weighted: Vec<(u32, &String)> = actuator
        .targets
        .iter()
        .filter(|target| plan.share(&target.site) > 0)
        .flat_map(|target| target.addresses.iter().map(|address| (plan.share(&target.site), address)))
        .collect();
    if weighted.is_empty() {
        return Err(TrafficError::LastEndpoint(format!("{} would have no address", actuator.name)));
    }
    let kind = if weighted.iter().any(|(_, address)| address.contains(':')) { "AAAA" } else { "A" };
    let (name, ttl) = (absolute(&actuator.name), actuator.ttl);
    let replace = |name: &str, kind: &str, contents: Vec<String>| {
        let records: Vec<Value> = contents.iter().map(|text| json!({"content": text, "disabled": false})).collect();
        json!({"name": name, "type": kind, "ttl": ttl, "changetype": "REPLACE", "records": records})
    };
    let delete = |kind: &str| json!({"name": name, "type": kind, "changetype": "DELETE"});
    let mark = format!("\"evergreen epoch={} plan={}\"", plan.epoch, plan.digest());
    let epoch = replace(&format!("_evergreen.{name}"), "TXT", vec![mark]);
    let plain = plan.is_even();
    let addresses = if plain {
        [replace(&name, kind, weighted.iter().map(|(_, address)| (*address).clone()).collect()), delete("LUA")]
    } else {
        let list: Vec<String> = weighted.iter().map(|(weight, address)| format!("{{{weight}, '{address}'}}")).collect();
        let script = format!("{kind} \"pickwrandom({{{}}})\"", list.join(", "));
        [replace(&name, "LUA", vec![script]), delete(kind)]
    };
    Ok([epoch].into_iter().chain(addresses).collect())
}

/// Whether an RRset of the zone is as wanted.
fn is_so(zone: &Value, wanted: &Value) -> bool {
    let same = |rrset: &&Value| rrset["name"] == wanted["name"] && rrset["type"] == wanted["type"];
    let found = zone["rrsets"].as_array().into_iter().flatten().find(same);
    if wanted["changetype"] == "DELETE" {
        return found.is_none();
    }
    let contents = |rrset: &Value| {
        let records = rrset["records"].as_array().into_iter().flatten();
        records
            .filter_map(|record| record["content"].as_str().map(str::to_owned))
            .collect::<std::collections::BTreeSet<_>>()
    };
    found.is_some_and(|found| contents(found) == contents(wanted) && found["ttl"] == wanted["ttl"])
}

fn epoch_at(zone: &Value, name: &str) -> u64 {
    let rrsets = zone["rrsets"].as_array().into_iter().flatten();
    rrsets.filter(|rrset| rrset["name"] == name && rrset["type"] == "TXT").filter_map(epoch_in).max().unwrap_or(0)
}

fn epoch_in(rrset: &Value) -> Option<u64> {
    let records = rrset["records"].as_array()?;
    records.iter().filter_map(|record| epoch_of(record["content"].as_str()?)).max()
}

fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::{super::plan::example, *};

    fn actuator() -> PowerDnsActuator {
        serde_json::from_value(json!({"url": "http://127.0.0.1:8081", "zone": "bank.example", "name": "pay.bank.example",
            "secret": "s", "targets": [{"site": "a", "addresses": ["192.0.2.1"]}, {"site": "b", "addresses": ["192.0.2.2"]}]}))
        .unwrap()
    }

    #[test]
    fn uneven_shares_are_a_lua_record_and_the_plain_one_goes_in_the_same_act() {
        let sets = rrsets(&actuator(), &example(7, "a", &[("a", 90), ("b", 10)])).unwrap();
        assert_eq!(sets[1]["records"][0]["content"], "A \"pickwrandom({{90, '192.0.2.1'}, {10, '192.0.2.2'}})\"");
        assert_eq!((sets[2]["type"].as_str(), sets[2]["changetype"].as_str()), (Some("A"), Some("DELETE")));
    }

    #[test]
    fn what_was_written_is_recognized_and_its_epoch_read() {
        let plan = example(7, "a", &[("a", 100), ("b", 0)]);
        let sets = rrsets(&actuator(), &plan).unwrap();
        let zone = json!({"rrsets": [sets[0], sets[1]]});
        assert!(sets.iter().all(|set| is_so(&zone, set)));
        assert_eq!(epoch_at(&zone, "_evergreen.pay.bank.example."), 7);
        let other = rrsets(&actuator(), &example(7, "a", &[("a", 0), ("b", 100)])).unwrap();
        assert!(!other.iter().all(|set| is_so(&zone, set)));
    }
}
