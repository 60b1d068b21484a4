//! CEL over `node` and `before`: compiled once, checked before it is ever used, bounded in cost.
//!
//! | name | is |
//! | --- | --- |
//! | `node.name`, `node.metadata.name`, `node.metadata.labels['pool']` | as in the Node object; an absent label reads as `''` |
//! | `node.ready` | whether the Ready condition is True |
//! | `node.bootID` | changes with every boot |
//! | `node.unschedulable` | whether it is cordoned |
//! | `node.podCount` | pods on it that have not finished |
//! | `node.condition('KernelOops')` | whether that condition is True |
//! | `before.node` | the same, as it was when the run began; only in wait and verify |
//!
//! CEL itself has no cost limit, so the length of an expression and its loops are limited here.

use std::sync::{Arc, LazyLock};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Program, Value,
    common::ast::{EntryExpr, Expr, LiteralValue},
    extractors::This,
    objects::Key,
};
use serde_json::Map;

use crate::{parse::suggest, view::NodeView};

/// Longest expression in characters. What a person can review at a glance; it also bounds the work of one evaluation.
pub const MAX_LENGTH: usize = 1_000;
/// Loops (`all`, `exists`, `map`, ...) in one expression: each runs over the labels of a node at most.
const MAX_LOOPS: usize = 2;
/// Labels that an expression may find absent in one evaluation.
const MAX_ABSENT_LABELS: usize = 8;

const NODE_FIELDS: &[&str] = &["name", "ready", "bootID", "unschedulable", "podCount", "metadata", "condition"];
const METADATA_FIELDS: &[&str] = &["name", "labels"];
/// Functions that people may call, apart from operators.
const FUNCTIONS: &[&str] = &[
    "condition",
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "double",
    "bool",
    "has",
    "all",
    "exists",
    "exists_one",
    "map",
    "filter",
];

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// Which variables an expression may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `node`.
    Trigger,
    /// `node` and `before`.
    Run,
}

/// A compiled expression that yields a boolean.
#[derive(Clone, Debug)]
pub struct Expression {
    source: String,
    program: Arc<Program>,
    constant: Option<bool>,
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
        let mut check = Check { program: &program, scope, bound: Vec::new(), loops: 0, uses_variables: false };
        check.walk(program.expression())?;
        let uses_variables = check.uses_variables;
        let mut expression = Self { source: source.to_owned(), program: Arc::new(program), constant: None };
        let sample = sample_fields();
        match expression.execute(&sample, Some(&sample)) {
            Ok(Value::Bool(value)) => expression.constant = (!uses_variables).then_some(value),
            Ok(other) => {
                let message = format!("yields {}, but true or false is needed", other.type_of());
                return Err(ExpressionError { offset: 0, message });
            }
            // The sample has no custom labels: an index or a division may fail on it and work on a real node.
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

    /// Evaluates it on a node, and on the node as it was when the run began.
    ///
    /// # Errors
    /// When it cannot be told, as in a division by zero. The caller must treat that as "does not hold".
    pub fn holds(
        &self,
        node: &NodeView,
        before: Option<&Map<String, serde_json::Value>>,
    ) -> Result<bool, EvaluationError> {
        let failed = |reason: String| EvaluationError { expression: self.source.clone(), reason };
        match self.execute(&node.to_fields(), before) {
            Ok(Value::Bool(value)) => Ok(value),
            Ok(other) => Err(failed(format!("it yields {}", other.type_of()))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn execute(
        &self,
        node: &Map<String, serde_json::Value>,
        before: Option<&Map<String, serde_json::Value>>,
    ) -> Result<Value, ExecutionError> {
        let (mut node, mut before) = (node.clone(), before.cloned());
        for _ in 0..MAX_ABSENT_LABELS {
            match self.execute_strictly(&node, before.as_ref()) {
                // Only label maps are open: fields were checked when compiling. An absent label reads as ''.
                Err(ExecutionError::NoSuchKey(key)) => {
                    add_label(&mut node, &key);
                    before.iter_mut().for_each(|before| add_label(before, &key));
                }
                result => return result,
            }
        }
        self.execute_strictly(&node, before.as_ref())
    }

    fn execute_strictly(
        &self,
        node: &Map<String, serde_json::Value>,
        before: Option<&Map<String, serde_json::Value>>,
    ) -> Result<Value, ExecutionError> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context
            .add_function("condition", |This(node): This<Value>, type_: Arc<String>| condition(&node, &type_))
            .map_err(|error| ExecutionError::function_error("condition", error))?;
        let bad = |error: cel::SerializationError| ExecutionError::function_error("node", error);
        context.add_variable_from_value("node", cel::to_value(node).map_err(bad)?);
        if let Some(before) = before {
            let before = Map::from_iter([("node".to_owned(), serde_json::Value::Object(before.clone()))]);
            context.add_variable_from_value("before", cel::to_value(before).map_err(bad)?);
        }
        self.program.execute(&context)
    }
}

fn condition(node: &Value, type_: &str) -> bool {
    let Value::Map(node) = node else { return false };
    let Some(Value::Map(conditions)) = node.map.get(&Key::from("conditions".to_owned())) else { return false };
    matches!(conditions.map.get(&Key::from(type_.to_owned())), Some(Value::String(status)) if status.as_str() == "True")
}

fn add_label(node: &mut Map<String, serde_json::Value>, key: &str) {
    let labels = node.get_mut("metadata").and_then(|metadata| metadata.get_mut("labels"));
    if let Some(labels) = labels.and_then(serde_json::Value::as_object_mut) {
        labels.entry(key.to_owned()).or_insert_with(|| "".into());
    }
}

fn sample_fields() -> Map<String, serde_json::Value> {
    let node = NodeView {
        name: "node".into(),
        uid: "uid".into(),
        boot_id: "boot".into(),
        unschedulable: false,
        cordoned_by: None,
        labels: Default::default(),
        conditions: Default::default(),
        pod_count: 0,
    };
    node.to_fields()
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

/// Static checks that CEL leaves to run time.
struct Check<'a> {
    program: &'a Program,
    scope: Scope,
    bound: Vec<String>,
    loops: usize,
    uses_variables: bool,
}

impl Check<'_> {
    fn error(&self, at: &IdedExpr, message: String) -> ExpressionError {
        let offset = self.program.source_info().offset_for(at.id).map_or(0, |(start, _)| start as usize);
        ExpressionError { offset, message }
    }

    /// An error at a name: the parser places a selection at its dot and a call at its parenthesis.
    fn error_at_name(&self, at: &IdedExpr, name: &str, message: String) -> ExpressionError {
        let mut error = self.error(at, message);
        let source: Vec<char> = self.program.source_info().source.chars().collect();
        let is_name = |from: usize| name.chars().enumerate().all(|(i, c)| source.get(from + i) == Some(&c));
        let length = name.chars().count();
        let places = [error.offset, error.offset + 1, error.offset.saturating_sub(length)];
        error.offset = places.into_iter().find(|from| is_name(*from)).unwrap_or(error.offset);
        error
    }

    fn walk(&mut self, at: &IdedExpr) -> Result<(), ExpressionError> {
        match &at.expr {
            Expr::Ident(name) => self.variable(at, name),
            Expr::Select(select) => {
                self.field(at, &select.operand, &select.field)?;
                self.walk(&select.operand)
            }
            Expr::Call(call) => {
                self.function(at, &call.func_name)?;
                let index = call.func_name == "_[_]" || call.func_name == "_[?_]";
                if let [operand, IdedExpr { expr: Expr::Literal(LiteralValue::String(field)), .. }] = &call.args[..]
                    && index
                {
                    self.field(at, operand, field.inner())?;
                }
                if call.func_name == "condition" {
                    self.condition_call(at, call.target.as_deref(), call.args.len())?;
                }
                call.target.iter().map(AsRef::as_ref).chain(&call.args).try_for_each(|part| self.walk(part))
            }
            Expr::Comprehension(comprehension) => {
                self.loops += 1;
                if self.loops > MAX_LOOPS {
                    return Err(self.error(at, format!("too many loops: at most {MAX_LOOPS} in one expression")));
                }
                self.walk(&comprehension.iter_range)?;
                self.walk(&comprehension.accu_init)?;
                let depth = self.bound.len();
                self.bound.push(comprehension.iter_var.clone());
                self.bound.push(comprehension.accu_var.clone());
                self.bound.extend(comprehension.iter_var2.clone());
                for part in [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result] {
                    self.walk(part)?;
                }
                self.bound.truncate(depth);
                Ok(())
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.walk(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => self.walk(&entry.key).and_then(|()| self.walk(&entry.value)),
                EntryExpr::StructField(field) => self.walk(&field.value),
            }),
            Expr::Struct(structure) => {
                Err(self.error(at, format!("`{}` is unknown: there are no types to build", structure.type_name)))
            }
            Expr::Literal(_) | Expr::Unspecified => Ok(()),
        }
    }

    fn variable(&mut self, at: &IdedExpr, name: &str) -> Result<(), ExpressionError> {
        if name.starts_with('@') || self.bound.iter().any(|bound| bound == name) {
            return Ok(());
        }
        self.uses_variables = true;
        let known: &[&str] = if self.scope == Scope::Run { &["node", "before"] } else { &["node"] };
        if known.contains(&name) {
            return Ok(());
        }
        let remedy = match name {
            "before" => "a trigger sees only `node`; `before` is for wait and verify".to_owned(),
            _ => suggest::remedy(name, known),
        };
        Err(self.error(at, format!("unknown variable `{name}`: {remedy}")))
    }

    fn field(&self, at: &IdedExpr, operand: &IdedExpr, field: &str) -> Result<(), ExpressionError> {
        let known = match path_of(operand).as_deref() {
            Some(["node"] | ["before", "node"]) => NODE_FIELDS,
            Some(["node", "metadata"] | ["before", "node", "metadata"]) => METADATA_FIELDS,
            Some(["before"]) => &["node"],
            _ => return Ok(()),
        };
        if known.contains(&field) && field != "condition" {
            return Ok(());
        }
        let remedy = match field {
            "condition" | "conditions" => "ask for one condition, as in node.condition('KernelOops')".to_owned(),
            _ => suggest::remedy(field, known),
        };
        Err(self.error_at_name(at, field, format!("unknown field `{field}`: {remedy}")))
    }

    fn function(&self, at: &IdedExpr, name: &str) -> Result<(), ExpressionError> {
        let operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
        if operator || FUNCTIONS.contains(&name) {
            return Ok(());
        }
        let message = format!("unknown function `{name}`: {}", suggest::remedy(name, FUNCTIONS));
        Err(self.error_at_name(at, name, message))
    }

    fn condition_call(
        &self,
        at: &IdedExpr,
        target: Option<&IdedExpr>,
        arguments: usize,
    ) -> Result<(), ExpressionError> {
        let of_a_node = target.is_some_and(|t| matches!(path_of(t).as_deref(), Some(["node"] | ["before", "node"])));
        if of_a_node && arguments == 1 {
            return Ok(());
        }
        Err(self.error(at, "condition is asked of a node with one type, as in node.condition('KernelOops')".into()))
    }
}

/// `before.node.metadata` as its parts.
fn path_of(expression: &IdedExpr) -> Option<Vec<&str>> {
    match &expression.expr {
        Expr::Ident(name) => Some(vec![name]),
        Expr::Select(select) => {
            let mut path = path_of(&select.operand)?;
            path.push(&select.field);
            Some(path)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::view::ConditionView;

    fn node() -> NodeView {
        let condition = |status: &str| ConditionView { status: status.into(), seen_since: Timestamp::UNIX_EPOCH };
        NodeView {
            name: "n1".into(),
            uid: "u1".into(),
            boot_id: "b2".into(),
            unschedulable: true,
            cordoned_by: None,
            labels: [("pool".to_owned(), "db".to_owned())].into(),
            conditions: [("Ready".to_owned(), condition("True")), ("KernelOops".to_owned(), condition("False"))].into(),
            pod_count: 3,
        }
    }

    fn holds(source: &str) -> bool {
        let mut before = node();
        before.boot_id = "b1".into();
        Expression::compile(source, Scope::Run).unwrap().holds(&node(), Some(&before.to_fields())).unwrap()
    }

    #[test]
    fn sees_the_node_and_what_it_was_before() {
        assert!(holds("node.ready && node.bootID != before.node.bootID"));
        assert!(holds("node.unschedulable && node.podCount == 3 && node.name == 'n1'"));
        assert!(holds("!node.condition('KernelOops') && node.condition('Ready') && !node.condition('Never')"));
        assert!(holds("node.metadata.labels['pool'] == 'db'"));
        assert!(holds("before.node.condition('Ready')"));
    }

    #[test]
    fn an_absent_label_reads_as_the_empty_text_and_membership_stays_true_to_the_labels() {
        assert!(holds("node.metadata.labels['tier'] != 'gold'"));
        assert!(holds("node.metadata.labels['tier'] == ''"));
        assert!(!holds("'tier' in node.metadata.labels && node.metadata.labels['tier'] != 'gold'"));
        assert!(holds("node.metadata.labels.exists(key, key == 'pool')"));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (source, offset, part) in [
            ("node.ready &&", 13, "not an expression"),
            ("nod.ready", 0, "did you mean `node`"),
            ("node.ready && node.bootId == 'x'", 19, "did you mean `bootID`"),
            ("node.conditions['KernelOops'] == 'True'", 5, "node.condition('KernelOops')"),
            ("node.metadata.lables['x'] == 'y'", 14, "did you mean `labels`"),
            ("node.name.startswith('a')", 10, "did you mean `startsWith`"),
            ("now() > 3", 0, "unknown function `now`"),
            ("node.podCount", 0, "true or false is needed"),
            ("node.condition()", 0, "with one type"),
            ("", 0, "empty"),
        ] {
            let error = Expression::compile(source, Scope::Run).expect_err(source);
            assert!(error.message.contains(part), "{source}: {error}");
            if offset > 0 {
                assert_eq!(error.offset, offset, "{source}: {error}");
            }
        }
        let error = Expression::compile("before.node.ready", Scope::Trigger).unwrap_err();
        assert!(error.message.contains("only `node`"), "{error}");
    }

    #[test]
    fn costly_expressions_are_refused() {
        assert!(Expression::compile(&"x".repeat(MAX_LENGTH + 1), Scope::Run).is_err());
        assert!(Expression::compile(&"(".repeat(900), Scope::Run).is_err());
        assert!(Expression::compile(&format!("{}node.ready", "!".repeat(900)), Scope::Run).is_ok());
        let nested = "node.metadata.labels.all(a, node.metadata.labels.all(b, node.metadata.labels.all(c, a == b)))";
        assert!(Expression::compile(nested, Scope::Run).unwrap_err().message.contains("too many loops"));
    }

    #[test]
    fn knows_what_does_not_depend_on_anything() {
        assert_eq!(Expression::compile("1 + 1 == 2", Scope::Run).unwrap().constant(), Some(true));
        assert_eq!(Expression::compile("false", Scope::Run).unwrap().constant(), Some(false));
        assert_eq!(Expression::compile("node.ready", Scope::Run).unwrap().constant(), None);
    }
}
