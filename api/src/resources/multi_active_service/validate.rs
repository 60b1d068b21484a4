//! What is wrong with a spec that its schema lets through.

use super::{Authority, CapacityAction, Decision, MultiActiveServiceSpec, OnTimeout, ServiceMode, gates::url_error};
use crate::{FieldError, Validate};

impl Validate for MultiActiveServiceSpec {
    fn validate(&self) -> Vec<FieldError> {
        let mut errors = sites(self);
        errors.extend(mode(self));
        errors.extend(dependencies(self));
        errors.extend(decision(self));
        errors.extend(gates(self));
        if self.traffic.is_empty() {
            errors.push(FieldError::new("spec.traffic", "name what moves traffic, as in `- httpRoute: {name: ...}`"));
        }
        for (index, actuator) in self.traffic.iter().enumerate() {
            errors.extend(actuator.validate_for(&format!("spec.traffic[{index}]"), &self.sites));
        }
        errors.extend(whitelist(self));
        errors.extend(self.failback.validate_at("spec.failback", self.mode.single_writer()));
        errors
    }
}

fn sites(spec: &MultiActiveServiceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for (index, site) in spec.sites.iter().enumerate() {
        if !seen.insert(site) {
            errors.push(FieldError::new(format!("spec.sites[{index}]"), format!("`{site}` is named twice")));
        }
    }
    if spec.sites.is_empty() {
        errors.push(FieldError::new("spec.sites", "name at least one site"));
    }
    if spec.min_active == 0 || spec.min_active as usize > spec.sites.len() {
        errors.push(FieldError::new(
            "spec.minActive",
            format!("must be between 1 and the number of sites ({}), but is {}", spec.sites.len(), spec.min_active),
        ));
    }
    errors
}

fn mode(spec: &MultiActiveServiceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec.mode.single_writer() && spec.min_active > 1 {
        errors.push(FieldError::new("spec.minActive", "must be 1: this mode has a single writer"));
    }
    if spec.kind.no_loss() && !spec.mode.single_writer() {
        errors.push(FieldError::new(
            "spec.mode",
            "kinds flow and account have a single writer: use ActiveStandby or Unitized",
        ));
    }
    match (&spec.units, spec.mode) {
        (None, ServiceMode::Unitized) => {
            errors.push(FieldError::new("spec.units", "mode Unitized needs the shard header and the cells"));
        }
        (Some(units), ServiceMode::Unitized) => errors.extend(units.validate_for("spec.units", &spec.sites)),
        (Some(_), _) => errors.push(FieldError::new("spec.units", "only mode Unitized has cells")),
        (None, _) => {}
    }
    errors
}

/// A cycle shows only with the other services; the planner holds those.
fn dependencies(spec: &MultiActiveServiceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for (index, other) in spec.depends_on.iter().enumerate() {
        let at = format!("spec.dependsOn[{index}]");
        if !seen.insert(other) {
            errors.push(FieldError::new(at, format!("`{other}` is named twice")));
        } else if other.split('/').any(str::is_empty) || other.matches('/').count() > 1 {
            errors.push(FieldError::new(at, format!("`{other}` is no service: write name or namespace/name")));
        }
    }
    errors
}

fn decision(spec: &MultiActiveServiceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let approval = &spec.decision.approval;
    let at = "spec.decision.approval";
    if !(1..=5).contains(&approval.people) {
        errors.push(FieldError::new(format!("{at}.people"), "must be between 1 and 5"));
    }
    if approval.timeout.get().as_secs() < 1 || approval.timeout.get().as_secs() > 86_400 {
        errors.push(FieldError::new(format!("{at}.timeout"), "must be between 1s and 1d"));
    }
    if approval.on_timeout == OnTimeout::Proceed && spec.kind.no_loss() {
        errors.push(FieldError::new(
            format!("{at}.onTimeout"),
            "must be hold for kinds flow and account: nobody's silence accepts a loss",
        ));
    }
    let automatic = [Some(spec.decision.planned), spec.decision.unplanned].contains(&Some(Decision::Auto));
    if spec.authority == Authority::Person && automatic {
        errors.push(FieldError::new("spec.decision", "must not be auto while authority is person"));
    }
    if spec.authority == Authority::Database && !(spec.mode.single_writer() && spec.data_gate.is_some()) {
        errors.push(FieldError::new(
            "spec.authority",
            "database needs a single-writer mode and a data gate that tells which site leads",
        ));
    }
    errors
}

fn whitelist(spec: &MultiActiveServiceSpec) -> Vec<FieldError> {
    let Some(list) = &spec.whitelist else { return Vec::new() };
    let mut errors = Vec::new();
    if spec.mode.single_writer() {
        errors.push(FieldError::new(
            "spec.whitelist",
            "a single writer serves everybody at one site: only mode ActiveActive can lead some clients elsewhere",
        ));
    }
    if !spec.sites.contains(&list.site) {
        errors.push(FieldError::new("spec.whitelist.site", format!("`{}` is not in spec.sites", list.site)));
    }
    let token = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && !text.is_empty();
    for (field, text) in [("header", &list.header), ("value", &list.value)] {
        if !token(text) {
            let message = "write letters, digits, `-`, `_` and `.` only, as in x-tester";
            errors.push(FieldError::new(format!("spec.whitelist.{field}"), message));
        }
    }
    errors
}

fn gates(spec: &MultiActiveServiceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match &spec.data_gate {
        Some(gate) => errors.extend(gate.validate_at("spec.dataGate")),
        None if spec.kind.no_loss() => {
            errors.push(FieldError::new("spec.dataGate", "kinds flow and account lose nothing: say where data stand"));
        }
        None => {}
    }
    if spec.kind.no_loss() && spec.objectives.rpo.is_some_and(|rpo| !rpo.get().is_zero()) {
        errors.push(FieldError::new("spec.objectives.rpo", "must be 0s for kinds flow and account"));
    }
    if spec.capacity_gate.reserve_percent >= 100 {
        errors.push(FieldError::new("spec.capacityGate.reservePercent", "must be below 100"));
    }
    if spec.capacity_gate.replicas == Some(0) && spec.capacity_gate.action != CapacityAction::Warn {
        errors.push(FieldError::new("spec.capacityGate.replicas", "must be at least 1"));
    }
    if let Some(database) = &spec.database {
        errors.extend(url_error(&database.endpoint.url, "spec.database.endpoint.url"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn errors(change: Value) -> Vec<String> {
        let mut spec = json!({
            "mode": "ActiveStandby", "kind": "account", "sites": ["a", "b"], "workload": {"deployment": "d"},
            "dataGate": {"hook": {"url": "http://db:8008"}}, "objectives": {"rpo": "0s", "rto": "30s"},
            "traffic": [{"httpRoute": {"name": "r", "backends": [
                {"site": "a", "local": "d", "remote": "d-a", "port": 1},
                {"site": "b", "local": "d", "remote": "d-b", "port": 1}]}}],
        });
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value::<MultiActiveServiceSpec>(spec)
            .unwrap()
            .validate()
            .iter()
            .map(|e| e.to_string())
            .collect()
    }

    #[track_caller]
    fn refused(change: Value, path: &str) {
        let errors = errors(change);
        assert!(errors.iter().any(|error| error.starts_with(path)), "{path}: {errors:?}");
    }

    #[test]
    fn a_complete_spec_has_nothing_wrong() {
        assert_eq!(errors(json!({})), Vec::<String>::new());
    }

    #[test]
    fn kinds_that_lose_nothing_need_a_single_writer_a_data_gate_and_no_rpo() {
        refused(json!({"mode": "ActiveActive"}), "spec.mode:");
        refused(json!({"dataGate": null}), "spec.dataGate:");
        refused(json!({"objectives": {"rpo": "5s"}}), "spec.objectives.rpo:");
        refused(json!({"decision": {"approval": {"onTimeout": "proceed"}}}), "spec.decision.approval.onTimeout:");
    }

    #[test]
    fn a_single_writer_has_one_active_site_and_does_not_come_back_by_and_by() {
        refused(json!({"minActive": 2}), "spec.minActive:");
        refused(json!({"failback": {"mode": "gradual"}}), "spec.failback.mode:");
        refused(json!({"failback": {"steps": [50, 10]}}), "spec.failback.steps:");
    }

    #[test]
    fn gates_have_one_source_and_no_credentials() {
        refused(json!({"dataGate": {}}), "spec.dataGate:");
        refused(json!({"dataGate": {"hook": {"url": "http://me:secret@db"}}}), "spec.dataGate.hook.url:");
        refused(json!({"dataGate": {"hook": {"url": "ftp://db"}}}), "spec.dataGate.hook.url:");
        refused(json!({"dataGate": {"hook": {"url": "http://db"}, "timeout": "0s"}}), "spec.dataGate.timeout:");
        refused(json!({"capacityGate": {"reservePercent": 100}}), "spec.capacityGate.reservePercent:");
        refused(json!({"database": {"endpoint": {"url": "http://"}}}), "spec.database.endpoint.url:");
    }

    #[test]
    fn authority_and_decision_must_agree() {
        refused(json!({"authority": "person", "decision": {"unplanned": "auto"}}), "spec.decision:");
        refused(
            json!({"authority": "database", "kind": "compute", "mode": "ActiveActive", "dataGate": null}),
            "spec.authority:",
        );
    }

    #[test]
    fn cells_cover_every_shard_once_and_stay_within_the_sites() {
        let units =
            |cells: Value| json!({"mode": "Unitized", "units": {"shardHeader": "x-uid", "shards": 10, "cells": cells}});
        let whole = json!([{"name": "c1", "shards": ["0-4"], "sites": ["a", "b"]}, {"name": "c2", "shards": ["5-9"], "sites": ["b", "a"]}]);
        assert_eq!(errors(units(whole)), Vec::<String>::new());
        let cell = |shards: Value, sites: Value| units(json!([{"name": "c1", "shards": shards, "sites": sites}]));
        refused(json!({"mode": "Unitized"}), "spec.units:");
        refused(cell(json!(["0-8"]), json!(["a"])), "spec.units.cells: shard 9");
        refused(cell(json!(["0-9", "3"]), json!(["a"])), "spec.units.cells[0].shards[1]:");
        refused(cell(json!(["0-10"]), json!(["a"])), "spec.units.cells[0].shards[0]:");
        refused(cell(json!(["9-0"]), json!(["a"])), "spec.units.cells[0].shards[0]:");
        refused(cell(json!(["0-9"]), json!(["z"])), "spec.units.cells[0].sites:");
    }

    #[test]
    fn a_whitelist_leads_to_a_site_of_a_service_with_several_and_smuggles_nothing() {
        let of = |list: Value| json!({"mode": "ActiveActive", "kind": "query", "dataGate": null, "whitelist": list});
        assert_eq!(errors(of(json!({"header": "x-tester", "value": "1", "site": "b"}))), Vec::<String>::new());
        refused(of(json!({"header": "x-tester", "value": "1", "site": "z"})), "spec.whitelist.site:");
        refused(of(json!({"header": "x\r\ny", "value": "1", "site": "b"})), "spec.whitelist.header:");
        refused(json!({"whitelist": {"header": "x", "value": "1", "site": "b"}}), "spec.whitelist:");
    }

    #[test]
    fn dependencies_are_named_once_and_readably() {
        refused(json!({"dependsOn": ["x", "x"]}), "spec.dependsOn[1]:");
        refused(json!({"dependsOn": ["a/b/c"]}), "spec.dependsOn[0]:");
    }
}
