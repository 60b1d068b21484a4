//! What the planner knows: nodes, playbooks and runs, as values.

use std::sync::Arc;

use evergreen_api::{
    FieldError,
    resources::{NodeConditionTrigger, PlaybookMode, PlaybookSpec, RunPhase, Subject},
};
use jiff::Timestamp;

use crate::{
    check_spec,
    expression::{Expression, Scope},
    view::NodeView,
};

/// Everything that a plan is made of.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Nodes of this data center.
    pub nodes: Vec<Arc<NodeView>>,
    /// Playbooks that were accepted.
    pub playbooks: Vec<Arc<CompiledPlaybook>>,
    /// Runs of all playbooks, finished ones included as long as they are kept.
    pub runs: Vec<RunView>,
    /// Runs that exist and cannot be understood. While there is one, nothing new is started.
    pub unreadable_runs: Vec<String>,
}

/// A playbook that passed every check, its expressions compiled once.
#[derive(Clone, Debug)]
pub struct CompiledPlaybook {
    /// Name.
    pub name: String,
    /// Spec, as a run will carry it.
    pub spec: Arc<PlaybookSpec>,
    pub(crate) triggers: Vec<CompiledTrigger>,
}

#[derive(Clone, Debug)]
pub(crate) struct CompiledTrigger {
    pub(crate) condition: NodeConditionTrigger,
    pub(crate) when: Option<Expression>,
}

impl CompiledPlaybook {
    /// Checks and compiles.
    ///
    /// # Errors
    /// Everything that is wrong with the spec.
    pub fn new(name: impl Into<String>, spec: PlaybookSpec) -> Result<Self, Vec<FieldError>> {
        let errors = check_spec(&spec);
        if !errors.is_empty() {
            return Err(errors);
        }
        let triggers = spec
            .matches
            .iter()
            .enumerate()
            .filter_map(|(index, trigger)| trigger.node_condition.clone().map(|condition| (index, trigger, condition)))
            .map(|(index, trigger, condition)| {
                let when =
                    trigger.when.as_deref().map(|source| Expression::compile(source, Scope::Trigger)).transpose();
                let path = format!("spec.match[{index}].when");
                when.map(|when| CompiledTrigger { condition, when })
                    .map_err(|error| vec![FieldError::new(path, error.message)])
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { name: name.into(), spec: Arc::new(spec), triggers })
    }

    /// Whether it acts, or only says what it would do.
    pub fn acts(&self) -> bool {
        self.spec.mode == PlaybookMode::Enforce
    }

    /// Whether a node has a condition that this playbook is for, guards and `when` aside.
    pub(crate) fn is_for(&self, node: &NodeView) -> bool {
        self.triggers.iter().any(|trigger| trigger.is_raised(node))
    }
}

impl CompiledTrigger {
    pub(crate) fn is_raised(&self, node: &NodeView) -> bool {
        node.conditions.get(&self.condition.type_).is_some_and(|found| found.status == self.condition.status)
    }
}

/// A run, as far as guards count it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunView {
    /// Name.
    pub name: String,
    /// Playbook that it executes.
    pub playbook: String,
    /// Object that it is for.
    pub subject: Subject,
    /// Which try.
    pub attempt: u32,
    /// Whether it acts.
    pub acts: bool,
    /// Where it stands.
    pub phase: RunPhase,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl RunView {
    /// Whether it holds a share of the budget.
    pub fn is_active(&self) -> bool {
        self.acts && !self.phase.is_final()
    }
}
