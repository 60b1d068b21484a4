//! Steps that set fields of one object: taints, labels, annotations, replicas, patches. The fields with their values
//! before and after are the record; undoing sets back those that still have the value that the step gave them.

use evergreen_api::{
    names,
    resources::{MetadataStep, ObjectName, ScaleStep, StepKind, StepOutcome, StepRecord},
};
use serde_json::{Map, Value, json};

use super::super::{
    Act, Action, Image, RunProgram,
    decision::{Decision, image_text, settle},
};
use crate::view::ObjectView;

/// Marks the part of a path that names an element of the list of taints, as `#key:effect`.
const TAINT: char = '#';

/// A field of an object.
struct Field {
    path: Vec<String>,
    before: Value,
    want: Value,
}

/// The object that a step changes.
pub(super) fn target(run: &RunProgram, step: &StepKind<'_>) -> Option<ObjectName> {
    match step {
        StepKind::Taint(_) | StepKind::Untaint(_) | StepKind::Label(_) | StepKind::Annotate(_) => Some(run.subject()),
        StepKind::Patch(patch) => Some(patch.object.clone().unwrap_or_else(|| run.subject())),
        StepKind::Scale(scale) => super::workload_named(
            run,
            scale.namespace.as_ref(),
            &[("Deployment", scale.deployment.as_ref()), ("StatefulSet", scale.stateful_set.as_ref())],
        ),
        _ => None,
    }
}

/// The fields as they are and as they are to be.
pub(super) fn image(run: &RunProgram, step: &StepKind<'_>, object: Option<&ObjectView>) -> Image {
    let Some(object) = object else { return Image::new() };
    let fields: Vec<Value> = wanted(run, step, object)
        .into_iter()
        .map(|(path, want)| json!({"before": get(&object.body, &path), "want": want, "path": path}))
        .collect();
    Image::from_iter([("uid".to_owned(), object.uid.clone().into()), ("fields".to_owned(), fields.into())])
}

/// Whether there is anything to undo.
pub(super) fn undo_image(record: &StepRecord, object: Option<&ObjectView>) -> Image {
    let applied = object.is_some_and(|object| {
        is_ours(&record.pre_image, object) && !to_restore(&fields_of(&record.pre_image), object).is_empty()
    });
    Image::from_iter([("applied".to_owned(), applied.into())])
}

fn wanted(run: &RunProgram, step: &StepKind<'_>, object: &ObjectView) -> Vec<(Vec<String>, Value)> {
    match step {
        StepKind::Taint(taint) => {
            let mut value = json!({"key": taint.key, "effect": taint.effect.as_str()});
            if let Some(text) = &taint.value {
                value["value"] = text.clone().into();
            }
            vec![(taint_path(&taint.key, taint.effect.as_str()), value)]
        }
        StepKind::Untaint(untaint) => vec![(taint_path(&untaint.key, untaint.effect.as_str()), Value::Null)],
        StepKind::Label(label) => metadata("labels", label),
        StepKind::Annotate(annotate) => metadata("annotations", annotate),
        StepKind::Scale(scale) => vec![(path(&["spec", "replicas"]), replicas(scale, object).into())],
        StepKind::Patch(patch) => {
            let mut leaves = Vec::new();
            flatten(&patch.fields, &mut Vec::new(), &mut leaves);
            leaves
        }
        _ => {
            debug_assert!(false, "{} is no step of fields", run.name());
            Vec::new()
        }
    }
}

fn path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

pub(super) fn taint_path(key: &str, effect: &str) -> Vec<String> {
    path(&["spec", "taints", &format!("{TAINT}{key}:{effect}")])
}

fn metadata(which: &str, step: &MetadataStep) -> Vec<(Vec<String>, Value)> {
    let set = step.set.iter().map(|(key, value)| (key, Value::from(value.clone())));
    let removed = step.remove.iter().map(|key| (key, Value::Null));
    set.chain(removed).map(|(key, value)| (path(&["metadata", which, key]), value)).collect()
}

fn replicas(step: &ScaleStep, object: &ObjectView) -> i64 {
    let now = object.workload().map_or(0, |workload| workload.wanted);
    match (step.to, step.by) {
        (Some(to), _) => i64::from(to),
        (None, Some(by)) => (now + i64::from(by)).clamp(i64::from(step.min), i64::from(step.max)),
        (None, None) => now,
    }
}

fn flatten(fields: &Map<String, Value>, at: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, Value)>) {
    for (key, value) in fields {
        at.push(key.clone());
        match value {
            Value::Object(inner) => flatten(inner, at, leaves),
            leaf => leaves.push((at.clone(), leaf.clone())),
        }
        at.pop();
    }
}

/// The value at a path; null where there is none.
pub(super) fn get(body: &Value, path: &[String]) -> Value {
    let mut at = body;
    for part in path {
        let next = match part.strip_prefix(TAINT) {
            Some(taint) => at.as_array().and_then(|taints| taints.iter().find(|found| is_taint(found, taint))),
            None => at.get(part),
        };
        match next {
            Some(next) => at = next,
            None => return Value::Null,
        }
    }
    match at {
        // The time at which it was added is the server's, not a person's.
        Value::Object(taint) if path.last().is_some_and(|part| part.starts_with(TAINT)) => {
            let mut taint = taint.clone();
            taint.remove("timeAdded");
            taint.into()
        }
        other => other.clone(),
    }
}

fn is_taint(taint: &Value, key_and_effect: &str) -> bool {
    let text = |field: &str| taint.get(field).and_then(Value::as_str).unwrap_or_default();
    key_and_effect.strip_suffix(text("effect")).and_then(|rest| rest.strip_suffix(':')) == Some(text("key"))
}

/// A merge patch that sets the fields, on the version that was looked at.
pub(super) fn merge_patch(object: &ObjectView, values: &[(&[String], &Value)]) -> Value {
    let mut patch = json!({"metadata": {"resourceVersion": object.version}});
    for (path, value) in values {
        let Some((last, parents)) = path.split_last() else { continue };
        if let Some(taint) = last.strip_prefix(TAINT) {
            // A list is replaced as a whole; what an earlier field of this patch put there stays.
            let known = patch.pointer("/spec/taints").or_else(|| object.body.pointer("/spec/taints")).cloned();
            let mut taints = known.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
            taints.retain(|found| !is_taint(found, taint));
            if !value.is_null() {
                taints.push((*value).clone());
            }
            patch["spec"]["taints"] = taints.into();
            continue;
        }
        let mut at = &mut patch;
        for part in parents {
            at = &mut at[part.as_str()];
        }
        at[last.as_str()] = (*value).clone();
    }
    patch
}

fn fields_of(image: &Image) -> Vec<Field> {
    let fields = image.get("fields").and_then(Value::as_array).into_iter().flatten();
    fields
        .filter_map(|field| {
            let path = field.get("path")?.as_array()?.iter().filter_map(Value::as_str).map(ToOwned::to_owned);
            Some(Field { path: path.collect(), before: field.get("before")?.clone(), want: field.get("want")?.clone() })
        })
        .collect()
}

fn is_ours(image: &Image, object: &ObjectView) -> bool {
    image_text(image, "uid").as_deref() == Some(&object.uid)
}

/// Fields that still have the value that the step gave them, and had another one before.
fn to_restore<'a>(fields: &'a [Field], object: &ObjectView) -> Vec<&'a Field> {
    fields.iter().filter(|field| field.before != field.want && get(&object.body, &field.path) == field.want).collect()
}

impl Decision<'_> {
    fn target(&self) -> Option<ObjectName> {
        let step = self.run.spec().plan.steps.get(self.record.index as usize).or_else(|| {
            self.run
                .spec()
                .plan
                .on_failure
                .get((self.record.index as usize).checked_sub(self.run.spec().plan.steps.len() + 1)?)
        });
        step.and_then(|step| step.kind()).and_then(|step| target(self.run, &step))
    }

    pub(in super::super) fn fields(&self) -> Action {
        let Some(target) = self.target() else {
            return settle(StepOutcome::Failed, "the run knows no workload to change: name one".into());
        };
        let object = match self.looked(&target) {
            Ok(Some(object)) => object,
            Ok(None) => return settle(StepOutcome::Failed, format!("{} is not there", target.display())),
            Err(look) => return *look,
        };
        if !is_ours(&self.record.pre_image, object) {
            let message = format!("{} is not the one that was there before", target.display());
            return settle(StepOutcome::Failed, message);
        }
        let fields = fields_of(&self.record.pre_image);
        let differing: Vec<&Field> = fields.iter().filter(|f| get(&object.body, &f.path) != f.want).collect();
        if differing.is_empty() {
            return match fields.iter().all(|field| field.before == field.want) {
                true => settle(StepOutcome::Skipped, format!("{} was like that already", target.display())),
                false => settle(StepOutcome::Done, format!("{} changed", target.display())),
            };
        }
        if object.label(names::LABEL_HEALING) == Some("off") {
            let message = format!("{} is labelled {}=off: nothing acts on it", target.display(), names::LABEL_HEALING);
            return settle(StepOutcome::Failed, message);
        }
        if self.memory.succeeded() {
            let named: Vec<String> = differing.iter().map(|field| field.path.join(".")).collect();
            let message = format!("{} does not keep what was set: {}", target.display(), named.join(", "));
            return settle(StepOutcome::Failed, message);
        }
        let applied = self.record.action == "patch" && fields.iter().all(|field| !field.want.is_null());
        let values: Vec<(&[String], &Value)> =
            fields.iter().map(|field| (field.path.as_slice(), &field.want)).collect();
        let mut patch = merge_patch(object, &values);
        if !applied {
            return self.act(Act::Merge { object: target, patch });
        }
        patch["apiVersion"] = target.api_version.clone().into();
        patch["kind"] = target.kind.clone().into();
        patch["metadata"]["name"] = target.name.clone().into();
        self.act(Act::Apply { object: target, body: patch })
    }

    pub(in super::super) fn undo_fields(&self) -> Action {
        let Some(target) = self.target() else {
            return settle(StepOutcome::Skipped, "nothing was changed: there is nothing to undo".into());
        };
        let object = match self.looked(&target) {
            Ok(Some(object)) => object,
            Ok(None) => {
                let message = format!("{} is gone: there is nothing to undo", target.display());
                return settle(StepOutcome::Skipped, message);
            }
            Err(look) => return *look,
        };
        let done = self.status.log.iter().find(|record| !record.undo && record.index == self.record.index);
        let image = done.map(|record| &record.pre_image);
        let fields = image.filter(|image| is_ours(image, object)).map(fields_of).unwrap_or_default();
        let restored = to_restore(&fields, object);
        if restored.is_empty() {
            return match self.record.pre_image.get("applied") == Some(&Value::Bool(true)) {
                true => settle(StepOutcome::Done, format!("{} is as it was before", target.display())),
                false => {
                    settle(StepOutcome::Skipped, "nothing of it is there any more: there is nothing to undo".into())
                }
            };
        }
        let values: Vec<(&[String], &Value)> =
            restored.iter().map(|field| (field.path.as_slice(), &field.before)).collect();
        self.act(Act::Merge { patch: merge_patch(object, &values), object: target })
    }
}
