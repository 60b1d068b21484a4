//! What an API server refuses by itself, because one object alone tells that it is wrong: bounds of the schema, and rules in
//! CEL (`x-kubernetes-validations`, Kubernetes >= 1.25; servers before 1.23 refuse the field, so that only the files for the chart hold them; the controllers refuse the same specs
//! with `Accepted=False`). Each says less than `Validate`, never more.

use serde_json::{Value, json};

/// A rule at a place of the schema: what must hold, and what to do where it does not.
type Rule = (&'static str, &'static str);

/// Rules of a MultiActiveService's spec. Lists that they count have an upper bound, so that the API server can tell what a
/// rule costs at most.
const SERVICE: [Rule; 9] = [
    ("!has(self.minActive) || self.minActive <= size(self.sites)", "minActive must be at most the number of sites"),
    (
        "self.mode == 'ActiveActive' || !has(self.minActive) || self.minActive == 1",
        "minActive must be 1: modes ActiveStandby and Unitized have a single writer",
    ),
    (
        "!(self.kind in ['flow', 'account']) || (self.mode != 'ActiveActive' && has(self.dataGate))",
        "kinds flow and account lose nothing: use mode ActiveStandby or Unitized, and say in dataGate where data stand",
    ),
    (
        "has(self.units) == (self.mode == 'Unitized')",
        "mode Unitized needs units (the shard header and the cells), and no other mode has them",
    ),
    (
        "!has(self.authority) || self.authority != 'database' || (self.mode != 'ActiveActive' && has(self.dataGate))",
        "authority database needs a single-writer mode and a data gate that tells which site leads",
    ),
    (
        "!has(self.authority) || self.authority != 'person' || !has(self.decision) || ((!has(self.decision.planned) || \
         self.decision.planned != 'auto') && (!has(self.decision.unplanned) || self.decision.unplanned != 'auto'))",
        "decision must not be auto while authority is person",
    ),
    (
        "!(self.kind in ['flow', 'account']) || !has(self.decision) || !has(self.decision.approval) || \
         !has(self.decision.approval.onTimeout) || self.decision.approval.onTimeout != 'proceed'",
        "approval.onTimeout must be hold for kinds flow and account: nobody's silence accepts a loss",
    ),
    (
        "self.mode == 'ActiveActive' || !has(self.failback) || !has(self.failback.mode) || self.failback.mode != 'gradual'",
        "a single writer moves whole: use failback automatic or manual, and mode Unitized to move cell by cell",
    ),
    (
        "!has(self.whitelist) || (self.mode == 'ActiveActive' && self.whitelist.site in self.sites)",
        "a whitelist leads to one of the sites, and only in mode ActiveActive",
    ),
];

/// The shortest cycle shows in the service itself; longer ones are held by the controllers.
const ITSELF: Rule = (
    "!has(self.spec) || !has(self.spec.dependsOn) || !(self.metadata.name in self.spec.dependsOn)",
    "a service must not depend on itself",
);

const GATE: Rule = (
    "(has(self.metric) ? 1 : 0) + (has(self.sqlOverHttp) ? 1 : 0) + (has(self.hook) ? 1 : 0) == 1",
    "set exactly one of metric, sqlOverHttp and hook",
);

const DRILL: Rule = (
    "!has(self.objectives) || !has(self.objectives.maxErrorPercent) || has(self.probe)",
    "objectives.maxErrorPercent needs a probe to be measured with",
);

/// Adds the bounds of a kind to its definition.
pub(super) fn bounds(definition: &mut Value) {
    let spec = "/properties/spec/properties";
    let bounds: &[(&str, &[(&str, u64)])] = match kind(definition).as_str() {
        "MultiActiveService" => &[
            ("sites", &[("minItems", 1), ("maxItems", 64)]),
            ("sites/items", &[("minLength", 1), ("maxLength", 63)]),
            ("dependsOn", &[("maxItems", 64)]),
            ("dependsOn/items", &[("minLength", 1), ("maxLength", 320)]),
            ("whitelist/properties/site", &[("minLength", 1), ("maxLength", 63)]),
            ("minActive", &[("minimum", 1)]),
            ("traffic", &[("minItems", 1)]),
            // Exactly one actuator in each entry.
            ("traffic/items", &[("minProperties", 1), ("maxProperties", 1)]),
        ],
        "DataCenter" => &[
            ("apiServer/properties/kubeconfigSecret", &[("minLength", 1)]),
            ("pue/properties/value", &[("minimum", 1)]),
        ],
        "FailoverDrill" => &[
            ("site", &[("minLength", 1)]),
            ("recoveryClass", &[("minimum", 1), ("maximum", 3)]),
            ("objectives/properties/maxErrorPercent", &[("maximum", 100)]),
        ],
        _ => &[],
    };
    for schema in schemas(definition) {
        for (at, bounds) in bounds {
            if let Some(place) = schema.pointer_mut(&format!("{spec}/{at}")).and_then(Value::as_object_mut) {
                place.extend(bounds.iter().map(|(name, bound)| ((*name).to_owned(), json!(bound))));
            }
        }
    }
}

/// Adds the rules of a kind to its definition.
pub(super) fn rules(definition: &mut Value) {
    let rules: &[(&str, &[Rule])] = match kind(definition).as_str() {
        "MultiActiveService" => {
            &[("", &[ITSELF]), ("/properties/spec", &SERVICE), ("/properties/spec/properties/dataGate", &[GATE])]
        }
        "FailoverDrill" => &[("/properties/spec", &[DRILL])],
        _ => &[],
    };
    for schema in schemas(definition) {
        for (at, rules) in rules {
            if let Some(place) = schema.pointer_mut(at).and_then(Value::as_object_mut) {
                let rules = rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message}));
                place.insert("x-kubernetes-validations".into(), rules.collect());
            }
        }
    }
}

fn kind(definition: &Value) -> String {
    definition["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned()
}

fn schemas(definition: &mut Value) -> impl Iterator<Item = &mut Value> {
    let versions = definition["spec"]["versions"].as_array_mut().into_iter().flatten();
    versions.filter_map(|version| version.pointer_mut("/schema/openAPIV3Schema"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        Validate,
        resources::{MultiActiveServiceSpec, all_crds_with_rules},
    };

    fn schema(kind: &str) -> Value {
        let all = all_crds_with_rules();
        let crd = all.iter().find(|crd| crd.spec.names.kind == kind).expect("a kind");
        serde_json::to_value(&crd.spec.versions[0].schema).expect("a schema")["openAPIV3Schema"].clone()
    }

    /// Every `self.a.b` of a rule is a field there: a renamed field would make the API server refuse the definition.
    #[test]
    fn rules_speak_of_fields_that_are_there() {
        let places = [
            ("MultiActiveService", "/properties/spec", SERVICE.len()),
            ("MultiActiveService", "/properties/spec/properties/dataGate", 1),
            ("FailoverDrill", "/properties/spec", 1),
        ];
        for (kind, at, count) in places {
            let schema = schema(kind);
            let place = schema.pointer(at).expect("a place");
            let rules = place["x-kubernetes-validations"].as_array().expect("rules");
            assert_eq!(rules.len(), count, "{kind} {at}");
            let mut named = BTreeSet::new();
            for rule in rules {
                assert!(rule["message"].as_str().is_some_and(|message| message.len() > 10));
                let text = rule["rule"].as_str().expect("a rule");
                named.extend(text.split("self.").skip(1).map(|rest| {
                    rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').next().unwrap_or_default().to_owned()
                }));
            }
            assert!(!named.is_empty());
            for path in named {
                let mut here = place;
                for field in path.split('.') {
                    here = here.pointer(&format!("/properties/{field}")).unwrap_or_else(|| panic!("{kind}: {path}"));
                }
            }
        }
    }

    /// Messages of the rules of a schema that an object breaks.
    fn broken(kind: &str, at: &str, object: &Value) -> Vec<String> {
        let schema = schema(kind);
        let rules = schema.pointer(at).and_then(|place| place["x-kubernetes-validations"].as_array()).expect("rules");
        let fails = |rule: &&Value| {
            let program = cel::Program::compile(rule["rule"].as_str().expect("a rule")).expect("CEL");
            let mut context = cel::Context::default();
            context.add_variable("self", object.clone()).expect("plain data");
            program.execute(&context).expect("a rule that can be told") == cel::Value::Bool(false)
        };
        rules.iter().filter(fails).map(|rule| rule["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// A service as the API server sees it: what was written and the defaults.
    fn service_with(change: Value) -> (MultiActiveServiceSpec, Value) {
        let mut spec = json!({
            "mode": "ActiveStandby", "kind": "account", "sites": ["a", "b"], "workload": {"deployment": "d"},
            "dataGate": {"hook": {"url": "http://db:8008"}},
            "traffic": [{"httpRoute": {"name": "r", "backends": [
                {"site": "a", "local": "d", "remote": "d-a", "port": 1},
                {"site": "b", "local": "d", "remote": "d-b", "port": 1}]}}],
        });
        for (key, value) in change.as_object().expect("a change") {
            spec[key] = value.clone();
        }
        let spec: MultiActiveServiceSpec = serde_json::from_value(spec).expect("a spec");
        let seen = serde_json::to_value(&spec).expect("plain data");
        (spec, seen)
    }

    #[test]
    fn each_rule_refuses_what_it_is_for_and_nothing_that_the_controllers_take() {
        let query = |change: Value| {
            let mut all = json!({"mode": "ActiveActive", "kind": "query", "dataGate": null});
            all.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
            all
        };
        let units =
            json!({"shardHeader": "x", "shards": 2, "cells": [{"name": "c", "shards": ["0-1"], "sites": ["a"]}]});
        for fine in [
            json!({}),
            json!({"mode": "Unitized", "units": units}),
            json!({"authority": "person", "decision": {"planned": "approve", "unplanned": "manual"}}),
            json!({"authority": "database"}),
            query(json!({"minActive": 2, "failback": {"mode": "gradual"}})),
            query(json!({"whitelist": {"header": "x", "value": "1", "site": "b"}})),
        ] {
            let (spec, seen) = service_with(fine);
            assert_eq!(spec.validate(), [], "{seen}");
            assert_eq!(broken("MultiActiveService", "/properties/spec", &seen), [""; 0], "{seen}");
        }
        for (wrong, word) in [
            (json!({"mode": "ActiveActive"}), "lose nothing"),
            (json!({"dataGate": null}), "lose nothing"),
            (json!({"mode": "Unitized"}), "needs units"),
            (json!({"units": units}), "needs units"),
            (json!({"minActive": 2}), "single writer"),
            (query(json!({"minActive": 3})), "number of sites"),
            (query(json!({"authority": "database"})), "authority database"),
            (json!({"authority": "person", "decision": {"unplanned": "auto"}}), "authority is person"),
            (json!({"authority": "person", "decision": {"planned": "auto"}}), "authority is person"),
            (json!({"decision": {"approval": {"onTimeout": "proceed"}}}), "silence accepts a loss"),
            (json!({"failback": {"mode": "gradual"}}), "moves whole"),
            (json!({"whitelist": {"header": "x", "value": "1", "site": "b"}}), "a whitelist leads"),
            (query(json!({"whitelist": {"header": "x", "value": "1", "site": "z"}})), "a whitelist leads"),
        ] {
            let (spec, seen) = service_with(wrong);
            assert_ne!(spec.validate(), [], "the controllers refuse it too: {seen}");
            let told = broken("MultiActiveService", "/properties/spec", &seen);
            assert!(matches!(told.as_slice(), [one] if one.contains(word)), "{word}: {told:?}");
        }
    }

    #[test]
    fn gates_drills_and_services_that_wait_for_themselves_are_refused() {
        let gate = |gate: Value| broken("MultiActiveService", "/properties/spec/properties/dataGate", &gate);
        let hook = json!({"url": "http://db"});
        assert_eq!(gate(json!({"hook": hook})), [""; 0]);
        assert_eq!(gate(json!({})).len(), 1);
        assert_eq!(gate(json!({"hook": hook, "metric": {"url": "http://p", "query": "q"}})).len(), 1);

        let drill = |drill: Value| broken("FailoverDrill", "/properties/spec", &drill);
        assert_eq!(drill(json!({"site": "a", "objectives": {"rto": "10s"}})), [""; 0]);
        assert_eq!(drill(json!({"site": "a", "objectives": {"maxErrorPercent": 5}})).len(), 1);

        let itself = |on: &str| {
            let object = json!({"metadata": {"name": "pay"}, "spec": {"dependsOn": ["core", on]}});
            broken("MultiActiveService", "", &object).len()
        };
        assert_eq!((itself("db"), itself("pay")), (0, 1));
    }

    #[test]
    fn bounds_reach_their_places() {
        let service = schema("MultiActiveService");
        let at = |path: &str| service.pointer(&format!("/properties/spec/properties/{path}")).cloned();
        assert_eq!(at("sites/minItems"), Some(json!(1)));
        assert_eq!(at("traffic/minItems"), Some(json!(1)));
        assert_eq!(at("traffic/items/maxProperties"), Some(json!(1)));
        let center = schema("DataCenter");
        let least = center.pointer("/properties/spec/properties/pue/properties/value/minimum").and_then(Value::as_f64);
        assert_eq!(least, Some(1.0));
        let drill = schema("FailoverDrill");
        let most = drill.pointer("/properties/spec/properties/recoveryClass/maximum").and_then(Value::as_f64);
        assert_eq!(most, Some(3.0));
    }
}
