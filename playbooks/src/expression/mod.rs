//! CEL over what a playbook sees: compiled once, checked before it is ever used, bounded in cost.
//!
//! | name | is |
//! | --- | --- |
//! | `node.name`, `node.metadata.name`, `node.metadata.labels['pool']` | as in the Node object; an absent label reads as `''` |
//! | `node.ready` | whether the Ready condition is True |
//! | `node.bootID` | changes with every boot |
//! | `node.unschedulable` | whether it is cordoned |
//! | `node.podCount` | pods on it that have not finished |
//! | `node.condition('KernelOops')` | whether that condition is True |
//! | `object` | an object as the API server shows it; absent labels and annotations read as `''` |
//! | `gone` | whether the object that a run is for is not there any more |
//! | `workload.wanted`, `.total`, `.updated`, `.available`, `.rolledOut` | the workload that a run is for, or that owns its pod |
//! | `event`, `prediction`, `alert` | what raised a trigger |
//! | `before.node`, `before.object` | the same, as it was when the run began; only in steps |
//!
//! CEL itself has no cost limit, so the length of an expression, its loops, its patterns and the size of what it looks at
//! are limited here.

mod check;
mod names;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use cel::{Context, Env, ExecutionError, Program, Value, extractors::This, objects::Key};
use serde_json::{Map, json};

use check::Check;
pub use names::Scope;

use crate::view::NodeView;

/// Longest expression in characters. What a person can review at a glance; it also bounds the work of one evaluation.
pub const MAX_LENGTH: usize = 1_000;
/// Longest list or map that is looked at: two nested loops over it are 65,536 turns, some tens of milliseconds.
pub const MAX_ENTRIES: usize = 256;
/// Most values in everything that one evaluation looks at.
const MAX_VALUES: usize = 20_000;
/// Keys that an expression may find absent in one evaluation.
const MAX_ABSENT_KEYS: usize = 8;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// What an expression is evaluated on: variables by name.
pub type Variables = Map<String, serde_json::Value>;

/// A compiled expression that yields a boolean.
#[derive(Clone, Debug)]
pub struct Expression {
    source: String,
    program: Arc<Program>,
    constant: Option<bool>,
    paths: BTreeSet<Vec<String>>,
}

/// What is wrong with an expression, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// Characters before the place, counted from 0.
    pub offset: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

/// An expression that is right in itself could not be evaluated on this world.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{expression}` cannot be told: {reason}")]
pub struct EvaluationError {
    /// The expression.
    pub expression: String,
    /// Why.
    pub reason: String,
}

impl Expression {
    /// Compiles and checks.
    ///
    /// # Errors
    /// Syntax, unknown variables, fields and functions, too long or too costly expressions, and expressions that do not
    /// yield true or false.
    pub fn compile(source: &str, scope: Scope) -> Result<Self, ExpressionError> {
        let length = source.chars().count();
        if length > MAX_LENGTH {
            let message = format!("{length} characters are too many: at most {MAX_LENGTH}");
            return Err(ExpressionError { offset: 0, message });
        }
        if source.trim().is_empty() {
            return Err(ExpressionError { offset: 0, message: "empty: write a condition, as in node.ready".into() });
        }
        let program = ENVIRONMENT.compile(source).map_err(|errors| syntax_error(source, &errors))?;
        let mut check = Check::new(&program, scope);
        check.all()?;
        let (uses_variables, paths) = (check.uses_variables, std::mem::take(&mut check.paths));
        let mut expression = Self { source: source.to_owned(), program: Arc::new(program), constant: None, paths };
        match expression.execute(&sample(scope)) {
            Ok(Value::Bool(value)) => expression.constant = (!uses_variables).then_some(value),
            Ok(other) => {
                let message = format!("yields {}, but true or false is needed", other.type_of());
                return Err(ExpressionError { offset: 0, message });
            }
            // The sample is nearly empty: an index or a division may fail on it and work on a real thing.
            Err(error @ (ExecutionError::NoSuchOverload(_) | ExecutionError::UndeclaredReference(_))) => {
                return Err(ExpressionError { offset: 0, message: error.to_string() });
            }
            Err(_) => {}
        }
        Ok(expression)
    }

    /// The text that it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The value that it always has, when it does not depend on anything.
    pub fn constant(&self) -> Option<bool> {
        self.constant
    }

    /// Paths below `object` that it reads; an empty path is all of it.
    pub fn paths(&self) -> &BTreeSet<Vec<String>> {
        &self.paths
    }

    /// Evaluates it on a node, and on the node as it was when the run began.
    ///
    /// # Errors
    /// When it cannot be told, as in a division by zero. The caller must treat that as "does not hold".
    pub fn holds(
        &self,
        node: &NodeView,
        before: Option<&Map<String, serde_json::Value>>,
    ) -> Result<bool, EvaluationError> {
        let mut variables = Variables::new();
        variables.insert("node".into(), node.to_fields().into());
        if let Some(before) = before {
            variables.insert("before".into(), json!({"node": before}));
        }
        self.holds_on(&variables)
    }

    /// Evaluates it.
    ///
    /// # Errors
    /// When it cannot be told: a field that is not there, a division by zero, something too large to look at. The caller
    /// must treat that as "does not hold".
    pub fn holds_on(&self, variables: &Variables) -> Result<bool, EvaluationError> {
        let failed = |reason: String| EvaluationError { expression: self.source.clone(), reason };
        let mut values = 0;
        for (name, value) in variables {
            bounded(value, &mut values).map_err(|why| failed(format!("{name} {why}")))?;
        }
        match self.execute(variables) {
            Ok(Value::Bool(value)) => Ok(value),
            Ok(other) => Err(failed(format!("it yields {}", other.type_of()))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn execute(&self, variables: &Variables) -> Result<Value, ExecutionError> {
        let result = self.execute_strictly(variables);
        let Err(ExecutionError::NoSuchKey(key)) = &result else { return result };
        // Absent labels and annotations read as ''; fields were checked when compiling, or are really not there.
        let (mut variables, mut key) = (variables.clone(), Arc::clone(key));
        for _ in 0..MAX_ABSENT_KEYS {
            if !add_key(&mut variables, &key) {
                return Err(ExecutionError::NoSuchKey(key));
            }
            match self.execute_strictly(&variables) {
                Err(ExecutionError::NoSuchKey(next)) if next != key => key = next,
                result => return result,
            }
        }
        self.execute_strictly(&variables)
    }

    fn execute_strictly(&self, variables: &Variables) -> Result<Value, ExecutionError> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context
            .add_function("condition", |This(node): This<Value>, type_: Arc<String>| condition(&node, &type_))
            .map_err(|error| ExecutionError::function_error("condition", error))?;
        for (name, value) in variables {
            let bad = |error: cel::SerializationError| ExecutionError::function_error(name, error);
            context.add_variable_from_value(name.as_str(), cel::to_value(value).map_err(bad)?);
        }
        self.program.execute(&context)
    }
}

/// Whether a thing is small enough to be looked at.
fn bounded(value: &serde_json::Value, values: &mut usize) -> Result<(), String> {
    *values += 1;
    if *values > MAX_VALUES {
        return Err(format!("is too large: at most {MAX_VALUES} values are looked at"));
    }
    let entries = value.as_array().map_or_else(|| value.as_object().map_or(0, Map::len), Vec::len);
    if entries > MAX_ENTRIES {
        return Err(format!("holds a list of {entries}: at most {MAX_ENTRIES} are looked at"));
    }
    match value {
        serde_json::Value::Array(items) => items.iter().try_for_each(|item| bounded(item, values)),
        serde_json::Value::Object(fields) => fields.values().try_for_each(|field| bounded(field, values)),
        _ => Ok(()),
    }
}

fn condition(node: &Value, type_: &str) -> bool {
    let Value::Map(node) = node else { return false };
    let Some(Value::Map(conditions)) = node.map.get(&Key::from("conditions".to_owned())) else { return false };
    matches!(conditions.map.get(&Key::from(type_.to_owned())), Some(Value::String(status)) if status.as_str() == "True")
}

/// Adds an absent key to every map of text; whether there was any to add it to.
fn add_key(variables: &mut Variables, key: &str) -> bool {
    let mut added = false;
    for path in names::OPEN_MAPS {
        let Some((last, parents)) = path.split_last() else { continue };
        let pointer = format!("/{}", parents[1..].join("/"));
        let Some(first) = variables.get_mut(parents[0]) else { continue };
        let parent = if parents.len() == 1 { Some(first) } else { first.pointer_mut(&pointer) };
        let Some(parent) = parent.and_then(serde_json::Value::as_object_mut) else { continue };
        // An object without any label has no map of them at all.
        let map = parent.entry((*last).to_owned()).or_insert_with(|| json!({}));
        if let Some(map) = map.as_object_mut().filter(|map| !map.contains_key(key)) {
            map.insert(key.to_owned(), "".into());
            added = true;
        }
    }
    added
}

/// Something to try an expression on: what it yields, not whether it holds.
fn sample(scope: Scope) -> Variables {
    let node = NodeView::default().to_fields();
    let workload = json!({
        "kind": "Deployment", "namespace": "n", "name": "w", "wanted": 1, "total": 1, "updated": 1, "available": 1,
        "rolledOut": true
    });
    let object = json!({"metadata": {"name": "o", "labels": {}, "annotations": {}}});
    let mut all = json!({
        "node": node, "object": object, "workload": workload, "gone": false,
        "event": {
            "reason": "r", "type": "Warning", "message": "m", "count": 1, "kind": "Pod", "namespace": "n", "name": "o",
            "source": "s"
        },
        "prediction": {
            "kind": "k", "basis": "b", "subject": "s", "summary": "s", "method": "m", "expectedInSeconds": 1,
            "earliestInSeconds": 1, "latestInSeconds": 1
        },
        "alert": {"name": "a", "labels": {}, "annotations": {}, "startsAt": "2026-01-01T00:00:00Z"},
    });
    let before = if scope == Scope::NodeRun { json!({"node": node}) } else { json!({"object": object}) };
    all["before"] = before;
    let mut variables = Variables::new();
    if let serde_json::Value::Object(all) = all {
        variables.extend(all.into_iter().filter(|(name, _)| scope.variables().contains(&name.as_str())));
    }
    variables
}

fn syntax_error(source: &str, errors: &cel::ParseErrors) -> ExpressionError {
    let Some(first) = errors.errors.first() else {
        return ExpressionError { offset: 0, message: errors.to_string() };
    };
    let line_start: usize = source
        .split_inclusive('\n')
        .take(usize::try_from(first.pos.0.max(1) - 1).unwrap_or(0))
        .map(|line| line.chars().count())
        .sum();
    let message = first.msg.strip_prefix("Syntax error: ").unwrap_or(&first.msg);
    ExpressionError {
        offset: line_start + usize::try_from(first.pos.1.max(1) - 1).unwrap_or(0),
        message: format!("not an expression: {}", message.trim()),
    }
}
