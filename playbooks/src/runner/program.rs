//! A run with its expressions compiled once.

use std::collections::BTreeMap;

use evergreen_api::{
    FieldError,
    resources::{DATA_CENTER, ObjectName, PlaybookRunSpec, StepKind},
    validate,
};

use crate::{
    check_spec,
    expression::{Expression, Scope, Variables},
    parse,
};

/// A run that may be driven.
#[derive(Clone, Debug)]
pub struct RunProgram {
    name: String,
    pub(super) spec: PlaybookRunSpec,
    expressions: BTreeMap<String, Expression>,
}

/// The plan that a run carries does not pass the checks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan of run {run} is wrong: {}", validate::summary(.errors))]
pub struct InvalidRun {
    /// Name of the run.
    pub run: String,
    /// What is wrong.
    pub errors: Vec<FieldError>,
}

impl RunProgram {
    /// Checks the plan that a run carries and compiles it.
    ///
    /// # Errors
    /// When the plan is wrong: it was written by another version, or by hand.
    pub fn new(name: impl Into<String>, spec: PlaybookRunSpec) -> Result<Self, InvalidRun> {
        let name = name.into();
        let errors = check_spec(&spec.plan);
        if !errors.is_empty() {
            return Err(InvalidRun { run: name, errors });
        }
        let scope = parse::run_scope(&spec.plan);
        let steps = spec.plan.steps.iter().filter_map(|step| match step.kind()? {
            StepKind::Wait(wait) => Some(&wait.until),
            StepKind::Verify(verify) => Some(&verify.that),
            StepKind::Stop(stop) => Some(&stop.when),
            _ => None,
        });
        let sources = steps.chain(spec.plan.verify.as_ref().map(|verify| &verify.that));
        let expressions =
            sources.filter_map(|source| Some((source.clone(), Expression::compile(source, scope).ok()?))).collect();
        Ok(Self { name, spec, expressions })
    }

    /// Name of the run.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its spec.
    pub fn spec(&self) -> &PlaybookRunSpec {
        &self.spec
    }

    /// Whether its object is a Node.
    pub fn is_for_node(&self) -> bool {
        self.spec.subject.kind == "Node"
    }

    /// Whether it is for no single object.
    pub fn is_for_data_center(&self) -> bool {
        self.spec.subject.kind == DATA_CENTER
    }

    /// Its object by name.
    pub fn subject(&self) -> ObjectName {
        self.spec.subject.object()
    }

    pub(crate) fn scope(&self) -> Scope {
        parse::run_scope(&self.spec.plan)
    }

    pub(crate) fn holds(&self, source: &str, variables: &Variables) -> Result<bool, String> {
        let expression = self.expressions.get(source).ok_or_else(|| format!("`{source}` was not compiled"))?;
        expression.holds_on(variables).map_err(|error| error.to_string())
    }
}
