//! Rules for what starts a playbook.

use std::str::FromStr;

use cron::Cron;
use evergreen_api::{
    ProblemKind,
    resources::{
        AlertTrigger, DATA_CENTER, EventTrigger, ObjectTrigger, PlaybookSpec, PredictionTrigger, ScheduleTrigger,
        Trigger,
    },
};
use jiff::tz::TimeZone;

use super::{super::suggest, SpecError, check_expression, check_wait, is_dns_name, push};
use crate::expression::Scope;

/// Conditions that Kubernetes itself sets on nodes.
const KUBERNETES_CONDITIONS: &[&str] =
    &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];
/// Reasons of the Events that runs themselves write: a playbook on them would start itself.
const OWN_REASONS: &str = "Playbook";
/// Own kinds that runs change: a playbook on them would start itself.
const OWN_KINDS: &[&str] = &["Playbook", "PlaybookRun", "ChangeWindow", "Event", "Lease"];
/// Most reasons and labels of one trigger.
const MAX_NAMES: usize = 20;

pub(super) fn check(spec: &PlaybookSpec, errors: &mut Vec<SpecError>) {
    for (index, trigger) in spec.matches.iter().enumerate() {
        let path = format!("spec.match[{index}]");
        check_source(&path, trigger, errors);
        if let Some((when, scope)) = trigger.when.as_ref().zip(scope_of(trigger)) {
            let path = format!("{path}.when");
            match check_expression(&path, when, scope, errors) {
                Some(false) => push(errors, path, "it is always false: this trigger never starts anything"),
                Some(true) => push(errors, path, "it is always true: leave it out"),
                None => {}
            }
        }
    }
    let kinds: Vec<&str> = spec.matches.iter().filter_map(Trigger::subject_kind).collect();
    if let Some(index) = kinds.iter().position(|kind| *kind != kinds[0]) {
        let message = format!(
            "it starts runs for a {}, the first trigger for a {}: one playbook is for one kind; write two",
            kinds[index], kinds[0]
        );
        push(errors, format!("spec.match[{index}]"), message);
    }
}

/// What `when` sees; `None` where it may not stand.
pub(crate) fn scope_of(trigger: &Trigger) -> Option<Scope> {
    match trigger.sources().first().copied()? {
        "nodeCondition" => Some(Scope::NodeTrigger),
        "event" => Some(Scope::EventTrigger),
        "prediction" => Some(Scope::PredictionTrigger),
        "alert" => Some(Scope::AlertTrigger),
        "object" => Some(Scope::ObjectTrigger),
        _ => None,
    }
}

fn check_source(path: &str, trigger: &Trigger, errors: &mut Vec<SpecError>) {
    if let Some(condition) = &trigger.node_condition {
        let path = format!("{path}.nodeCondition");
        check_condition_type(&format!("{path}.type"), &condition.type_, errors);
        if !["True", "False", "Unknown"].contains(&condition.status.as_str()) {
            push(errors, format!("{path}.status"), "a condition is \"True\", \"False\" or \"Unknown\"");
        }
        check_wait(&format!("{path}.for"), condition.for_.get().as_secs(), errors);
    }
    if let Some(event) = &trigger.event {
        check_event(&format!("{path}.event"), event, errors);
    }
    if let Some(prediction) = &trigger.prediction {
        check_prediction(&format!("{path}.prediction"), prediction, errors);
    }
    if let Some(alert) = &trigger.alert {
        check_alert(&format!("{path}.alert"), alert, errors);
    }
    if let Some(schedule) = &trigger.schedule {
        check_schedule(&format!("{path}.schedule"), schedule, errors);
        if trigger.when.is_some() {
            push(errors, format!("{path}.when"), "a time has nothing that CEL could look at: leave it out");
        }
    }
    if let Some(object) = &trigger.object {
        check_object(path, object, trigger.when.is_some(), errors);
    }
}

fn check_event(path: &str, event: &EventTrigger, errors: &mut Vec<SpecError>) {
    let reasons = format!("{path}.reasons");
    if event.reasons.is_empty() || event.reasons.len() > MAX_NAMES {
        push(errors, &reasons, format!("name 1 to {MAX_NAMES} reasons, as in [FailedAttachVolume]"));
    }
    for reason in &event.reasons {
        if !is_word(reason) {
            push(errors, &reasons, format!("`{reason}` is no reason of an Event: one word, as in BackOff"));
        } else if reason.starts_with(OWN_REASONS) {
            push(
                errors,
                &reasons,
                format!("`{reason}` is written by runs themselves: the playbook would start itself"),
            );
        }
    }
    if !["Warning", "Normal"].contains(&event.type_.as_str()) {
        push(errors, format!("{path}.type"), "an Event is of type Warning or Normal");
    }
    check_kind(&format!("{path}.kind"), &event.kind, errors);
    check_namespace(&format!("{path}.namespace"), event.namespace.as_deref(), errors);
    if event.count == 0 {
        push(errors, format!("{path}.count"), "0 is never reached: leave it out, or give 1 or more");
    }
    if event.within.get().as_secs() == 0 {
        push(errors, format!("{path}.within"), "0s starts nothing: every Event is older");
    }
    check_wait(&format!("{path}.within"), event.within.get().as_secs(), errors);
}

fn check_prediction(path: &str, prediction: &PredictionTrigger, errors: &mut Vec<SpecError>) {
    let known: Vec<&str> = ProblemKind::ALL.iter().map(|kind| kind.condition_type()).collect();
    if !known.contains(&prediction.kind.as_str()) {
        let remedy = suggest::remedy(&prediction.kind, &known);
        push(errors, format!("{path}.kind"), format!("`{}` is no kind of problem: {remedy}", prediction.kind));
    }
    if prediction.within.is_some_and(|within| within.get().is_zero()) {
        push(errors, format!("{path}.within"), "0s can never be met: give the time that is left to act");
    }
    check_wait(&format!("{path}.for"), prediction.for_.get().as_secs(), errors);
}

fn check_alert(path: &str, alert: &AlertTrigger, errors: &mut Vec<SpecError>) {
    if alert.labels.is_empty() || alert.labels.len() > MAX_NAMES {
        let message = format!("name 1 to {MAX_NAMES} labels, as in {{alertname: KubePodCrashLooping}}");
        push(errors, format!("{path}.labels"), message);
    }
    if let Some(subject) = &alert.subject {
        if subject.kind == DATA_CENTER {
            push(errors, format!("{path}.subject.kind"), "leave `subject` out for a run that is for no single object");
        } else {
            check_kind(&format!("{path}.subject.kind"), &subject.kind, errors);
            if crate::kinds::named(&subject.kind).is_none() {
                let known: Vec<&str> = crate::kinds::KINDS.iter().map(|kind| kind.kind).collect();
                let remedy = suggest::remedy(&subject.kind, &known);
                push(errors, format!("{path}.subject.kind"), format!("no run is for a {}: {remedy}", subject.kind));
            }
        }
        if subject.name_label.is_empty() {
            push(errors, format!("{path}.subject.nameLabel"), "name the label that holds the object's name");
        }
    }
    check_wait(&format!("{path}.for"), alert.for_.get().as_secs(), errors);
}

fn check_schedule(path: &str, schedule: &ScheduleTrigger, errors: &mut Vec<SpecError>) {
    let fields = schedule.cron.split_whitespace().count();
    if fields != 5 {
        push(errors, format!("{path}.cron"), format!("it has {fields} fields, five are needed, as in `0 3 * * 1`"));
    } else if let Err(error) = Cron::from_str(&schedule.cron) {
        push(errors, format!("{path}.cron"), format!("no schedule: {error}"));
    }
    if TimeZone::get(&schedule.time_zone).is_err() {
        let message = format!("`{}` is no known time zone; write it as in Asia/Shanghai", schedule.time_zone);
        push(errors, format!("{path}.timeZone"), message);
    }
    if schedule.within.get().as_secs() < 60 {
        push(
            errors,
            format!("{path}.within"),
            "too short: a run that is a moment late would be left out; give 1m or more",
        );
    }
    check_wait(&format!("{path}.within"), schedule.within.get().as_secs(), errors);
}

fn check_object(path: &str, object: &ObjectTrigger, narrowed: bool, errors: &mut Vec<SpecError>) {
    check_kind(&format!("{path}.object.kind"), &object.kind, errors);
    if OWN_KINDS.contains(&object.kind.as_str()) {
        let message = format!("{}s change with every run: the playbook would start itself", object.kind);
        push(errors, format!("{path}.object.kind"), message);
    }
    if object.kind == "Secret" {
        push(errors, format!("{path}.object.kind"), "Secrets are never looked at");
    }
    let version = object.api_version.rsplit('/').next().unwrap_or_default();
    let well = version.starts_with('v') && object.api_version.split('/').count() <= 2 && is_dns_name(version);
    if !well {
        push(errors, format!("{path}.object.apiVersion"), "write it as in apps/v1");
    }
    if let Some(known) =
        crate::kinds::named(&object.kind).filter(|known| well && known.api_version != object.api_version)
        && known.api_version.split('/').next() == object.api_version.split('/').next()
    {
        push(errors, format!("{path}.object.apiVersion"), format!("did you mean `{}`?", known.api_version));
    }
    check_namespace(&format!("{path}.object.namespace"), object.namespace.as_deref(), errors);
    if object.labels.len() > MAX_NAMES {
        push(errors, format!("{path}.object.labels"), format!("at most {MAX_NAMES}"));
    }
    if !narrowed {
        push(errors, format!("{path}.object"), "it would start a run for every such object: say which with `when`");
    }
    check_wait(&format!("{path}.object.for"), object.for_.get().as_secs(), errors);
}

fn check_kind(path: &str, kind: &str, errors: &mut Vec<SpecError>) {
    if !is_word(kind) || !kind.starts_with(|c: char| c.is_ascii_uppercase()) {
        push(errors, path, format!("`{kind}` is no kind: write it as in Deployment"));
    }
}

fn check_namespace(path: &str, namespace: Option<&str>, errors: &mut Vec<SpecError>) {
    if let Some(namespace) = namespace.filter(|namespace| !is_dns_name(namespace)) {
        push(errors, path, format!("`{namespace}` is no namespace"));
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric())
}

fn check_condition_type(path: &str, type_: &str, errors: &mut Vec<SpecError>) {
    if type_.is_empty() || !type_.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c)) {
        push(errors, path, "name the type of a Node condition, as in KernelOops");
        return;
    }
    let known: Vec<&str> = ProblemKind::ALL
        .iter()
        .map(|kind| kind.condition_type())
        .chain(KUBERNETES_CONDITIONS.iter().copied())
        .collect();
    // Other detectors set types of their own, so an unknown type is no error; a slip of the finger is.
    let meant = suggest::nearest(type_, &known).filter(|meant| meant.len().abs_diff(type_.len()) <= 2);
    if let Some(meant) = meant.filter(|_| !known.contains(&type_)) {
        push(errors, path, format!("`{type_}` is no known condition: did you mean `{meant}`?"));
    }
}
