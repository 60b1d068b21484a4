//! Canary annotations of ingress-nginx: the primary Ingress leads to one site, the canary Ingress to another.
//!
//! ingress-nginx takes one canary for a host, so that two sites can share an entry and no more.

use std::collections::BTreeMap;

use evergreen_api::resources::{IngressActuator, TrafficWhitelist};
use kube::{Client, api::DynamicObject};
use serde_json::{Value, json};

use super::{
    Outcome, TrafficError, TrafficPlan,
    object::{Fenced, api},
};

const CANARY: &str = "nginx.ingress.kubernetes.io/canary";
const WEIGHT: &str = "nginx.ingress.kubernetes.io/canary-weight";
const WEIGHT_TOTAL: &str = "nginx.ingress.kubernetes.io/canary-weight-total";
const HEADER: &str = "nginx.ingress.kubernetes.io/canary-by-header";
const HEADER_VALUE: &str = "nginx.ingress.kubernetes.io/canary-by-header-value";

/// Makes the two Ingresses share as the plan says.
pub(super) async fn apply(
    client: &Client,
    namespace: &str,
    actuator: &IngressActuator,
    plan: &TrafficPlan,
) -> Result<Outcome, TrafficError> {
    let split = split(actuator, plan)?;
    let ingresses = || api(client, namespace, "networking.k8s.io", "v1", "Ingress");
    // Both are read and compared before the first is written.
    let mut primary = Fenced::read(ingresses(), "Ingress", &actuator.primary, plan).await?;
    let mut canary = Fenced::read(ingresses(), "Ingress", &actuator.canary, plan).await?;
    if annotation(&canary.object, CANARY) != Some("true") {
        return Err(TrafficError::Missing {
            what: format!("Ingress {}", actuator.canary),
            missing: format!("annotation {CANARY}: \"true\""),
            remedy: "without it ingress-nginx takes it for a second primary; add it".into(),
        });
    }
    lead(&mut primary.object, actuator, plan, split.primary)?;
    if let Some(site) = split.canary {
        lead(&mut canary.object, actuator, plan, site)?;
    }
    let annotations = canary.object.metadata.annotations.get_or_insert_default();
    annotations.insert(WEIGHT.into(), split.weight.to_string());
    annotations.insert(WEIGHT_TOTAL.into(), split.total.to_string());
    match split.list {
        Some(list) => {
            annotations.insert(HEADER.into(), list.header.clone());
            annotations.insert(HEADER_VALUE.into(), list.value.clone());
        }
        None => [HEADER, HEADER_VALUE].into_iter().for_each(|key| drop(annotations.remove(key))),
    }
    // Either order leaves somebody to serve: both lead to sites that serve before or after.
    let first = primary.write(plan).await?;
    let second = canary.write(plan).await?;
    Ok(if first == Outcome::Unchanged { second } else { first })
}

/// Which site each Ingress leads to.
#[derive(Debug, PartialEq, Eq)]
struct Split<'a> {
    primary: &'a str,
    /// None: it stays where it leads, with weight 0.
    canary: Option<&'a str>,
    weight: u32,
    total: u32,
    list: Option<&'a TrafficWhitelist>,
}

fn split<'a>(actuator: &IngressActuator, plan: &'a TrafficPlan) -> Result<Split<'a>, TrafficError> {
    let cannot = |why: &str| TrafficError::Unsupported {
        what: format!("ingress-nginx ({} and {})", actuator.primary, actuator.canary),
        why: why.to_owned(),
    };
    if !plan.units.is_empty() {
        return Err(cannot("a canary cannot tell units apart: use httpRoute or haproxy"));
    }
    let mut serving = plan.serving().into_iter();
    let (first, first_share) = serving.next().ok_or_else(|| cannot("nobody serves"))?;
    let second = serving.next();
    if serving.next().is_some() {
        return Err(cannot("there is one canary, so two sites can share an entry, not more: use httpRoute"));
    }
    let total = first_share + second.map_or(0, |(_, share)| share);
    let plain = Split {
        primary: first,
        canary: second.map(|(site, _)| site),
        weight: second.map_or(0, |s| s.1),
        total,
        list: None,
    };
    let Some(list) = plan.whitelist.as_ref() else { return Ok(plain) };
    match second {
        None if list.site == first => Ok(plain),
        None => Ok(Split { canary: Some(&list.site), list: Some(list), ..plain }),
        Some((site, _)) if list.site == site => Ok(Split { list: Some(list), ..plain }),
        Some((site, _)) if list.site == first => {
            Ok(Split { primary: site, canary: Some(first), weight: first_share, list: Some(list), ..plain })
        }
        Some(_) => Err(cannot("the whitelist names a third site, and there is one canary")),
    }
}

/// Makes an Ingress lead to a site wherever it leads to a site of the service.
fn lead(
    ingress: &mut DynamicObject,
    actuator: &IngressActuator,
    plan: &TrafficPlan,
    site: &str,
) -> Result<(), TrafficError> {
    let services: BTreeMap<&str, &str> = actuator
        .backends
        .iter()
        .map(|backend| {
            (backend.site.as_str(), if backend.site == plan.own { &*backend.local } else { &*backend.remote })
        })
        .collect();
    let target = services.get(site).copied().unwrap_or_default();
    let port = actuator.backends.iter().find(|backend| backend.site == site).map_or(0, |backend| backend.port);
    let mut found = false;
    let mut set = |backend: Option<&mut Value>| {
        let Some(service) = backend.and_then(|backend| backend.get_mut("service")) else { return };
        let ours = service["name"].as_str().is_some_and(|name| services.values().any(|service| *service == name));
        if ours {
            found = true;
            *service = json!({"name": target, "port": {"number": port}});
        }
    };
    set(ingress.data.pointer_mut("/spec/defaultBackend"));
    let rules = ingress.data.pointer_mut("/spec/rules").and_then(Value::as_array_mut).into_iter().flatten();
    let paths = rules.filter_map(|rule| rule.pointer_mut("/http/paths").and_then(Value::as_array_mut)).flatten();
    for path in paths {
        set(path.get_mut("backend"));
    }
    if found {
        return Ok(());
    }
    let name = ingress.metadata.name.clone().unwrap_or_default();
    Err(TrafficError::Missing {
        what: format!("Ingress {name}"),
        missing: "path that leads to a backend of this service".into(),
        remedy: "let it lead to one of the Services in backends".into(),
    })
}

fn annotation<'a>(object: &'a DynamicObject, key: &str) -> Option<&'a str> {
    object.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::{super::plan::example, *};

    fn actuator() -> IngressActuator {
        serde_json::from_value(json!({"primary": "p", "canary": "c", "backends": [
            {"site": "a", "local": "pay", "remote": "pay-a", "port": 80},
            {"site": "b", "local": "pay", "remote": "pay-b", "port": 80},
            {"site": "c", "local": "pay", "remote": "pay-c", "port": 80}]}))
        .unwrap()
    }

    #[test]
    fn two_sites_share_and_a_third_is_refused() {
        let plan = example(1, "a", &[("a", 70), ("b", 30), ("c", 0)]);
        let wanted = Split { primary: "a", canary: Some("b"), weight: 30, total: 100, list: None };
        assert_eq!(split(&actuator(), &plan).unwrap(), wanted);
        assert!(split(&actuator(), &example(1, "a", &[("a", 40), ("b", 30), ("c", 30)])).is_err());
    }

    #[test]
    fn the_canary_is_where_the_whitelist_is() {
        let mut plan = example(1, "a", &[("a", 100), ("b", 0), ("c", 0)]);
        plan.whitelist = serde_json::from_value(json!({"header": "x-t", "value": "1", "site": "b"})).unwrap();
        let alone = split(&actuator(), &plan).unwrap();
        assert_eq!((alone.primary, alone.canary, alone.weight, alone.list.is_some()), ("a", Some("b"), 0, true));
        plan.shares = [("a".to_owned(), 30), ("b".to_owned(), 70), ("c".to_owned(), 0)].into();
        let first = split(&actuator(), &plan).unwrap();
        assert_eq!((first.primary, first.canary, first.weight, first.total), ("a", Some("b"), 70, 100));
    }

    #[test]
    fn only_paths_of_the_service_are_led_elsewhere() {
        let mut ingress: DynamicObject = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"rules": [
            {"host": "h", "http": {"paths": [
                {"path": "/", "backend": {"service": {"name": "pay", "port": {"number": 80}}}},
                {"path": "/x", "backend": {"service": {"name": "other", "port": {"number": 80}}}}]}}]}}))
        .unwrap();
        lead(&mut ingress, &actuator(), &example(1, "a", &[]), "b").unwrap();
        let name =
            |i: u32| ingress.data.pointer(&format!("/spec/rules/0/http/paths/{i}/backend/service/name")).cloned();
        assert_eq!((name(0), name(1)), (Some(json!("pay-b")), Some(json!("other"))));
    }
}
