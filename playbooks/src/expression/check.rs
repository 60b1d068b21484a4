//! Static checks of an expression that CEL leaves to run time: names, fields, functions, loops, patterns.

use std::collections::BTreeSet;

use cel::{
    IdedExpr, Program,
    common::ast::{EntryExpr, Expr, LiteralValue},
};
use regex::RegexBuilder;

use super::{
    ExpressionError,
    names::{FUNCTIONS, Scope, fields_of},
};
use crate::parse::suggest;

/// Loops (`all`, `exists`, `map`, ...) in one expression; what they run over is bounded when it is evaluated.
const MAX_LOOPS: usize = 2;
/// Largest compiled pattern: a hundred times what a sensible one takes.
const MAX_PATTERN_BYTES: usize = 64 * 1024;

/// Static checks that CEL leaves to run time.
pub(super) struct Check<'a> {
    program: &'a Program,
    scope: Scope,
    bound: Vec<String>,
    loops: usize,
    inside_path: usize,
    /// Whether it depends on anything.
    pub(super) uses_variables: bool,
    /// Paths below `object` that it reads.
    pub(super) paths: BTreeSet<Vec<String>>,
}

impl<'a> Check<'a> {
    pub(super) fn new(program: &'a Program, scope: Scope) -> Self {
        Self {
            program,
            scope,
            bound: Vec::new(),
            loops: 0,
            inside_path: 0,
            uses_variables: false,
            paths: BTreeSet::new(),
        }
    }

    /// Checks everything.
    pub(super) fn all(&mut self) -> Result<(), ExpressionError> {
        self.walk(self.program.expression())
    }

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
        let Some(path) = path_of(at) else { return self.walk_parts(at) };
        // The parts of a path are shorter paths, which nobody reads by themselves.
        if self.inside_path == 0 {
            self.note_path(&path);
        }
        self.inside_path += 1;
        let result = self.walk_parts(at);
        self.inside_path -= 1;
        result
    }

    fn walk_parts(&mut self, at: &IdedExpr) -> Result<(), ExpressionError> {
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
                if call.func_name == "matches" {
                    self.pattern(at, call.args.last())?;
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
        let known = self.scope.variables();
        if known.contains(&name) {
            return Ok(());
        }
        let remedy = match name {
            "before" if self.scope.is_trigger() => {
                format!("a trigger sees only `{}`; `before` is for wait and verify", known.join("`, `"))
            }
            "node" | "object" => format!("only `{}` can be seen here", known.join("`, `")),
            _ => suggest::remedy(name, known),
        };
        Err(self.error(at, format!("unknown variable `{name}`: {remedy}")))
    }

    fn field(&self, at: &IdedExpr, operand: &IdedExpr, field: &str) -> Result<(), ExpressionError> {
        let Some(known) = path_of(operand).and_then(|path| fields_of(&path, self.scope)) else { return Ok(()) };
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

    /// A pattern is compiled here, within bounds, and never from data.
    fn pattern(&self, at: &IdedExpr, pattern: Option<&IdedExpr>) -> Result<(), ExpressionError> {
        let Some(IdedExpr { expr: Expr::Literal(LiteralValue::String(pattern)), .. }) = pattern else {
            return Err(self.error(at, "matches takes a pattern in quotes, nothing computed".into()));
        };
        let compiled = RegexBuilder::new(pattern.inner()).size_limit(MAX_PATTERN_BYTES).build();
        compiled.map(|_| ()).map_err(|error| {
            let why = error.to_string();
            let why = why.lines().last().unwrap_or("it cannot be compiled").trim();
            self.error(at, format!("the pattern is refused: {}", why.strip_prefix("error: ").unwrap_or(why)))
        })
    }

    /// Remembers a path below `object` that is read; nothing after `object`: all of it.
    fn note_path(&mut self, path: &[&str]) {
        if let ["object", rest @ ..] | ["before", "object", rest @ ..] = path {
            self.paths.insert(rest.iter().map(|part| (*part).to_owned()).collect());
        }
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
        Expr::Call(call) if call.func_name == "_[_]" => match &call.args[..] {
            [operand, IdedExpr { expr: Expr::Literal(LiteralValue::String(key)), .. }] => {
                let mut path = path_of(operand)?;
                path.push(key.inner());
                Some(path)
            }
            _ => None,
        },
        _ => None,
    }
}
