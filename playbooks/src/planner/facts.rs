//! What the planner knows: nodes, signals, playbooks and runs, as values.

use std::{collections::BTreeMap, sync::Arc};

use evergreen_api::{
    FieldError,
    resources::{
        ChainLink, NodeConditionTrigger, ObjectName, PlaybookMode, PlaybookRunSpec, PlaybookRunStatus, PlaybookSpec,
        RunPhase, Subject,
    },
};
use jiff::Timestamp;

use crate::{
    check_spec, expression::Expression, parse, runner, schedule::Schedule, steps, view::NodeView, windows::Window,
};

/// Everything that a plan is made of.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Nodes of this data center.
    pub nodes: Vec<Arc<NodeView>>,
    /// Playbooks that were accepted.
    pub playbooks: Vec<Arc<CompiledPlaybook>>,
    /// Triggers that are raised by anything but the condition of a node.
    pub signals: Vec<Arc<Signal>>,
    /// Runs of all playbooks, finished ones included as long as they are kept.
    pub runs: Vec<RunView>,
    /// Runs that exist and cannot be understood. While there is one, nothing new is started.
    pub unreadable_runs: Vec<String>,
    /// When each playbook's storm bound was last exceeded, as the plan before said it.
    pub storms: BTreeMap<String, Timestamp>,
    /// ChangeWindows that were understood.
    pub windows: Vec<Arc<Window>>,
    /// Why people have stopped everything; absent: they have not.
    pub paused: Option<String>,
}

/// A trigger that is raised for an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// Playbook whose trigger it is.
    pub playbook: String,
    /// Index of the trigger.
    pub trigger: usize,
    /// What the run would be for. Without a UID where the source names objects only.
    pub subject: Subject,
    /// Node that it is on, where the source says so.
    pub node: Option<String>,
    /// Since when it is raised.
    pub raised_at: Timestamp,
    /// How long it must be raised before it starts anything.
    pub hold: std::time::Duration,
    /// From when on it no longer counts.
    pub expires_at: Option<Timestamp>,
    /// Whether it starts one run only: something that happened, not something that is.
    pub once: bool,
    /// What started it, for people.
    pub text: String,
    /// Why it cannot be told whether it is raised; absent: it is.
    pub untold: Option<String>,
}

/// A playbook that passed every check, its expressions compiled once.
#[derive(Clone, Debug)]
pub struct CompiledPlaybook {
    /// Name.
    pub name: String,
    /// Spec, as a run will carry it.
    pub spec: Arc<PlaybookSpec>,
    pub(crate) triggers: Vec<CompiledTrigger>,
    /// `when` and the schedule of each trigger, by its index in the spec.
    pub(crate) sources: Vec<CompiledSource>,
    pub(crate) destructive: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct CompiledTrigger {
    pub(crate) condition: NodeConditionTrigger,
    pub(crate) when: Option<Expression>,
}

#[derive(Clone, Debug)]
pub(crate) struct CompiledSource {
    pub(crate) when: Option<Expression>,
    pub(crate) schedule: Option<Schedule>,
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
        let wrong = |path: String, message: String| vec![FieldError::new(path, message)];
        let mut sources = Vec::with_capacity(spec.matches.len());
        for (index, trigger) in spec.matches.iter().enumerate() {
            let when = match trigger.when.as_deref().zip(parse::scope_of(trigger)) {
                Some((source, scope)) => Some(
                    Expression::compile(source, scope)
                        .map_err(|error| wrong(format!("spec.match[{index}].when"), error.message))?,
                ),
                None => None,
            };
            let schedule = match &trigger.schedule {
                Some(schedule) => Some(
                    Schedule::new(schedule)
                        .map_err(|error| wrong(format!("spec.match[{index}].schedule"), error.to_string()))?,
                ),
                None => None,
            };
            sources.push(CompiledSource { when, schedule });
        }
        let conditions = spec.matches.iter().zip(&sources);
        let triggers = conditions
            .filter_map(|(trigger, source)| {
                Some(CompiledTrigger { condition: trigger.node_condition.clone()?, when: source.when.clone() })
            })
            .collect();
        let destructive = steps::any_destructive(&spec);
        Ok(Self { name: name.into(), spec: Arc::new(spec), triggers, sources, destructive })
    }

    /// Whether it acts, or only says what it would do.
    pub fn acts(&self) -> bool {
        self.spec.mode == PlaybookMode::Enforce
    }

    /// Kinds that its object triggers look at, as API version and kind.
    pub fn watched(&self) -> impl Iterator<Item = (&str, &str)> {
        self.spec.matches.iter().filter_map(|trigger| {
            trigger.object.as_ref().map(|object| (object.api_version.as_str(), object.kind.as_str()))
        })
    }

    /// Whether it looks at Events.
    pub fn watches_events(&self) -> bool {
        self.spec.matches.iter().any(|trigger| trigger.event.is_some())
    }

    /// Paths below `object` that its triggers on a kind read; an empty path is all of it.
    pub fn paths(&self, api_version: &str, kind: &str) -> impl Iterator<Item = &Vec<String>> {
        let of_kind = self.spec.matches.iter().zip(&self.sources).filter(move |(trigger, _)| {
            trigger.object.as_ref().is_some_and(|object| object.api_version == api_version && object.kind == kind)
        });
        of_kind.filter_map(|(_, source)| source.when.as_ref()).flat_map(|when| when.paths())
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
    /// Node that the object is, or is on.
    pub node: Option<String>,
    /// Which try.
    pub attempt: u32,
    /// Whether it acts.
    pub acts: bool,
    /// Whether it takes something away by force.
    pub destructive: bool,
    /// Where it stands.
    pub phase: RunPhase,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Runs that led to it.
    pub chain: Vec<ChainLink>,
    /// Another run that it asks for.
    pub asks: Option<Ask>,
    /// Who asked for it.
    pub requested_by: Option<String>,
}

/// A run that another run asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Playbook to run.
    pub playbook: String,
    /// Name that its run is to have.
    pub run: String,
}

impl RunView {
    /// Cuts a run down to what guards count.
    pub fn new(name: &str, spec: &PlaybookRunSpec, status: &PlaybookRunStatus, created: Option<Timestamp>) -> Self {
        let parsed = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
        let follow_up = status.follow_up.as_ref().map(|playbook| Ask {
            run: runner::child_name(playbook, &format!("{name}/follow-up")),
            playbook: playbook.clone(),
        });
        let open = status.log.last().filter(|record| record.outcome.is_none() && record.action == "runPlaybook");
        let asked = open.and_then(|record| {
            let step = spec.plan.steps.get(record.index as usize)?.run_playbook.as_ref()?;
            let run = record.pre_image.get("run")?.as_str()?.to_owned();
            Some(Ask { playbook: step.name.clone(), run })
        });
        let node = spec.node.clone().or_else(|| (spec.subject.kind == "Node").then(|| spec.subject.name.clone()));
        Self {
            name: name.to_owned(),
            playbook: spec.playbook.clone(),
            subject: spec.subject.clone(),
            node,
            attempt: spec.attempt,
            acts: spec.plan.mode == PlaybookMode::Enforce,
            destructive: steps::any_destructive(&spec.plan),
            phase: status.phase,
            created_at: created.or(parsed(&status.started_at)).unwrap_or(Timestamp::MIN),
            finished_at: parsed(&status.finished_at),
            chain: spec.chain.clone(),
            asks: follow_up.or(asked),
            requested_by: spec.requested_by.clone(),
        }
    }

    /// Whether it holds a share of the budget.
    pub fn is_active(&self) -> bool {
        self.acts && !self.phase.is_final()
    }

    /// Whether it is for an object. Where the UID is not known the name decides.
    pub fn is_for(&self, subject: &Subject) -> bool {
        let (a, b) = (&self.subject, subject);
        let uid = a.uid.is_empty() || b.uid.is_empty() || a.uid == b.uid;
        uid && a.kind == b.kind && a.namespace == b.namespace && a.name == b.name
    }

    /// What guards count of a run of an object that is known completely.
    pub(crate) fn object_name(&self) -> ObjectName {
        self.subject.object()
    }
}
