//! A run with its expressions compiled once.

use std::collections::BTreeMap;

use evergreen_api::{FieldError, resources::PlaybookRunSpec, validate};

use crate::{
    check_spec,
    expression::{Expression, Scope},
    view::NodeView,
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
        let steps = spec.plan.steps.iter();
        let sources = steps
            .flat_map(|step| {
                [step.wait.as_ref().map(|wait| &wait.until), step.verify.as_ref().map(|verify| &verify.that)]
            })
            .chain([spec.plan.verify.as_ref().map(|verify| &verify.that)])
            .flatten();
        let expressions = sources
            .filter_map(|source| Some((source.clone(), Expression::compile(source, Scope::Run).ok()?)))
            .collect();
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

    pub(crate) fn holds(&self, source: &str, node: &NodeView) -> Result<bool, String> {
        let expression = self.expressions.get(source).ok_or_else(|| format!("`{source}` was not compiled"))?;
        expression.holds(node, Some(&self.spec.before)).map_err(|error| error.to_string())
    }
}
