//! Weights of a Gateway API HTTPRoute, for everybody, by unit and for the whitelist.

use std::collections::{BTreeMap, BTreeSet};

use evergreen_api::resources::HttpRouteActuator;
use kube::Client;
use serde_json::{Value, json};

use super::{
    Outcome, TrafficError, TrafficPlan,
    object::{Fenced, api},
};

/// Makes the route's weights those of the plan.
pub(super) async fn apply(
    client: &Client,
    namespace: &str,
    actuator: &HttpRouteActuator,
    plan: &TrafficPlan,
) -> Result<Outcome, TrafficError> {
    let routes = api(client, namespace, "gateway.networking.k8s.io", "v1", "HTTPRoute");
    let mut route = Fenced::read(routes, "HTTPRoute", &actuator.name, plan).await?;
    set_weights(&mut route.object.data, actuator, plan)?;
    route.write(plan).await
}

/// Sets the weights in every rule that leads to the service's backends; other backends stay as they are.
fn set_weights(data: &mut Value, actuator: &HttpRouteActuator, plan: &TrafficPlan) -> Result<(), TrafficError> {
    let what = format!("HTTPRoute {}", actuator.name);
    let missing = |missing: String, remedy: &str| TrafficError::Missing {
        what: what.clone(),
        missing,
        remedy: remedy.to_owned(),
    };
    let names: BTreeMap<&str, &str> = actuator
        .backends
        .iter()
        .map(|backend| {
            let service = if backend.site == plan.own { &backend.local } else { &backend.remote };
            (service.as_str(), backend.site.as_str())
        })
        .collect();
    let mut served = false;
    let mut units_found = BTreeSet::new();
    let rules = data.pointer_mut("/spec/rules").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten() {
        let shares = shares_of_rule(rule, actuator, plan, &mut units_found)?;
        let Some(references) = rule.get_mut("backendRefs").and_then(Value::as_array_mut) else { continue };
        let mut found = BTreeSet::new();
        for reference in references {
            let Some(site) = reference["name"].as_str().and_then(|name| names.get(name)) else { continue };
            found.insert(*site);
            let weight = shares.get(*site).copied().unwrap_or(0);
            // An absent weight means 1.
            if reference.get("weight").and_then(Value::as_u64).unwrap_or(1) != u64::from(weight) {
                reference["weight"] = json!(weight);
            }
        }
        if found.is_empty() {
            continue;
        }
        served = true;
        if let Some((site, _)) = shares.iter().find(|(site, share)| **share > 0 && !found.contains(site.as_str())) {
            let service = names.iter().find(|(_, of)| *of == site).map_or("?", |(service, _)| *service);
            return Err(missing(format!("backendRef `{service}`"), "add it with weight 0"));
        }
    }
    if !served {
        return Err(missing("rule that leads to this service".into(), "add the backendRefs of every site"));
    }
    match plan.units.keys().find(|unit| !units_found.contains(*unit)) {
        Some(unit) if actuator.unit_header.is_some() => {
            Err(missing(format!("rule for unit `{unit}`"), "add one that matches it by the header named in unitHeader"))
        }
        Some(_) => Err(TrafficError::Unsupported {
            what: what.clone(),
            why: "the service has units, and unitHeader does not say which header names them".into(),
        }),
        None => Ok(()),
    }
}

/// Shares of one rule: those of its unit, of the whitelist, or of everybody.
fn shares_of_rule(
    rule: &Value,
    actuator: &HttpRouteActuator,
    plan: &TrafficPlan,
    units_found: &mut BTreeSet<String>,
) -> Result<BTreeMap<String, u32>, TrafficError> {
    let only = |site: &String| {
        plan.shares.keys().map(|other| (other.clone(), if other == site { 100 } else { 0 })).collect::<BTreeMap<_, _>>()
    };
    let matches = rule.get("matches").and_then(Value::as_array).into_iter().flatten();
    let headers: Vec<(&str, &str)> = matches
        .filter_map(|one| one.get("headers").and_then(Value::as_array))
        .flatten()
        .filter(|header| header.get("type").and_then(Value::as_str).unwrap_or("Exact") == "Exact")
        .filter_map(|header| Some((header["name"].as_str()?, header["value"].as_str()?)))
        .collect();
    if let Some(list) = &plan.whitelist
        && headers.iter().any(|(name, value)| name.eq_ignore_ascii_case(&list.header) && *value == list.value)
    {
        return Ok(only(&list.site));
    }
    let Some(unit_header) = &actuator.unit_header else { return Ok(plan.shares.clone()) };
    let named = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(unit_header)).map(|(_, value)| *value);
    let units: Vec<&str> = named.filter(|unit| plan.units.contains_key(*unit)).collect();
    units_found.extend(units.iter().map(|unit| (*unit).to_owned()));
    let sites: BTreeSet<&String> = units.iter().filter_map(|unit| plan.units.get(*unit)).collect();
    let mut sites = sites.into_iter();
    match (sites.next(), sites.next()) {
        (None, _) => Ok(plan.shares.clone()),
        (Some(site), None) => Ok(only(site)),
        (Some(_), Some(_)) => Err(TrafficError::Unsupported {
            what: format!("HTTPRoute {}", actuator.name),
            why: format!(
                "one rule serves the units {}, which are at different sites: one rule for each",
                units.join(", ")
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::plan::example, *};

    fn actuator(unit_header: Option<&str>) -> HttpRouteActuator {
        let mut value = json!({"name": "r", "backends": [
            {"site": "a", "local": "checkout", "remote": "checkout-a", "port": 8080},
            {"site": "b", "local": "checkout", "remote": "checkout-b", "port": 8080}]});
        if let Some(header) = unit_header {
            value["unitHeader"] = json!(header);
        }
        serde_json::from_value(value).unwrap()
    }

    fn references(a: u32, b: u32) -> Value {
        json!([{"name": "checkout", "port": 8080, "weight": a}, {"name": "checkout-b", "port": 8080, "weight": b},
            {"name": "stranger", "port": 1}])
    }

    #[test]
    fn only_the_named_backends_change_and_only_when_they_differ() {
        let mut data = json!({"spec": {"rules": [{"backendRefs": references(100, 0)}]}});
        let plan = example(1, "a", &[("a", 0), ("b", 100)]);
        set_weights(&mut data, &actuator(None), &plan).unwrap();
        assert_eq!(data, json!({"spec": {"rules": [{"backendRefs": references(0, 100)}]}}));
    }

    #[test]
    fn a_backend_that_should_serve_but_is_missing_is_an_error() {
        let mut data = json!({"spec": {"rules": [{"backendRefs": [{"name": "checkout"}]}]}});
        let plan = example(1, "a", &[("a", 50), ("b", 50)]);
        let error = set_weights(&mut data, &actuator(None), &plan).unwrap_err();
        assert!(error.to_string().contains("checkout-b"), "{error}");
    }

    #[test]
    fn a_unit_goes_where_the_plan_says_and_a_whitelist_goes_first() {
        let rule = |header: &str, value: &str| json!({"matches": [{"headers": [{"name": header, "value": value}]}], "backendRefs": references(100, 0)});
        let mut data = json!({"spec": {"rules": [rule("X-Unit", "07"), rule("X-Unit", "08"), rule("x-tester", "yes"),
            {"backendRefs": references(100, 0)}]}});
        let mut plan = example(1, "a", &[("a", 90), ("b", 10)]);
        plan.units = [("07".to_owned(), "b".to_owned()), ("08".to_owned(), "a".to_owned())].into();
        plan.whitelist = serde_json::from_value(json!({"header": "X-Tester", "value": "yes", "site": "b"})).unwrap();
        set_weights(&mut data, &actuator(Some("x-unit")), &plan).unwrap();
        let weights = |index: usize| {
            let of = |i: usize| data.pointer(&format!("/spec/rules/{index}/backendRefs/{i}/weight")).unwrap().as_u64();
            (of(0).unwrap(), of(1).unwrap())
        };
        assert_eq!([weights(0), weights(1), weights(2), weights(3)], [(0, 100), (100, 0), (0, 100), (90, 10)]);
        plan.units.insert("09".into(), "a".into());
        let error = set_weights(&mut data.clone(), &actuator(Some("x-unit")), &plan).unwrap_err().to_string();
        assert!(error.contains("unit `09`"), "{error}");
        assert!(set_weights(&mut data.clone(), &actuator(None), &plan).is_err());
    }
}
