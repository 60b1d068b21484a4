//! Steps that reach outside of what the run is for: Jobs, questions to endpoints, messages to people.

use std::time::Duration;

use evergreen_api::{
    names,
    resources::{HttpStep, JobStep, NotifyStep, ObjectName, StepOutcome, spec_hash},
};
use serde_json::{Value, json};

use super::super::{
    Act, Action, Message, Outbound,
    decision::{Decision, settle},
    text,
};

/// How often a Job is looked at.
const JOB_INTERVAL: Duration = Duration::from_secs(2);
/// How long a finished Job is kept for people to look at, in seconds.
const KEEP_JOB_SECONDS: u32 = 86_400;
/// A message to people that does not get through by then is given up.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(30);

impl Decision<'_> {
    pub(in super::super) fn create_job(&self, step: &JobStep) -> Action {
        let name = ObjectName {
            api_version: "batch/v1".to_owned(),
            kind: "Job".to_owned(),
            namespace: Some(names::SYSTEM_NAMESPACE.to_owned()),
            name: format!("evergreen-{}", &spec_hash(&self.record.key)[..16]),
        };
        let job = match self.looked(&name) {
            Ok(job) => job,
            Err(look) => return *look,
        };
        let deadline = self.deadline(step.timeout.get());
        let Some(job) = job else {
            let body = self.job_body(step, &name);
            let act = Act::Create { object: name, body, image: Some(step.image.clone()) };
            return self.act_within(act, step.timeout.get());
        };
        let conditions = job.body.pointer("/status/conditions").and_then(Value::as_array);
        let is = |type_: &str| conditions.into_iter().flatten().any(|c| c["type"] == type_ && c["status"] == "True");
        if is("Complete") {
            return settle(StepOutcome::Done, format!("Job {} succeeded", name.name));
        }
        if is("Failed") || self.now >= deadline {
            let why = if is("Failed") { "failed" } else { "has not ended by the timeout" };
            return settle(StepOutcome::Failed, format!("Job {} {why}; its pod has the log", name.name));
        }
        self.look_again(JOB_INTERVAL, deadline, format!("Job {} runs", name.name))
    }

    fn job_body(&self, step: &JobStep, name: &ObjectName) -> Value {
        let spec = self.run.spec();
        let args: Vec<String> = step.args.iter().map(|arg| text::filled(arg, self.run)).collect();
        let mut container = json!({
            "name": "step", "image": step.image, "args": args,
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}
            },
            "resources": {"limits": {"cpu": "1", "memory": "512Mi"}},
        });
        if !step.command.is_empty() {
            container["command"] = json!(step.command);
        }
        let mut pod = json!({
            "restartPolicy": "Never", "automountServiceAccountToken": false, "containers": [container],
        });
        if let (true, Some(node)) = (step.on_node, &spec.node) {
            pod["nodeName"] = node.clone().into();
            pod["tolerations"] = json!([{"operator": "Exists"}]);
        }
        let labels = json!({names::LABEL_PLAYBOOK: spec.playbook});
        json!({
            "apiVersion": name.api_version, "kind": name.kind,
            "metadata": {
                "name": name.name, "namespace": name.namespace, "labels": labels,
                "annotations": {"evergreen.dev/step": self.record.key}
            },
            "spec": {
                "backoffLimit": 0, "activeDeadlineSeconds": step.timeout.get().as_secs().max(1),
                "ttlSecondsAfterFinished": KEEP_JOB_SECONDS,
                "template": {"metadata": {"labels": labels}, "spec": pod}
            }
        })
    }

    pub(in super::super) fn http(&self, step: &HttpStep) -> Action {
        if let Some((outcome, message)) = self.memory.answer() {
            return settle(*outcome, message.clone());
        }
        if !self.memory.intended_here() && !step.method.is_idempotent() {
            let message =
                format!("whether {} was asked before the restart cannot be told; it is not asked twice", step.endpoint);
            return settle(StepOutcome::Ambiguous, message);
        }
        let what = Message::Request {
            method: step.method,
            path: step.path.clone(),
            body: step.body.as_ref().map(|body| text::filled_json(body, self.run)),
            expect: step.expect.clone(),
        };
        self.act_within(self.send(&step.endpoint, what, step.timeout.get()), step.timeout.get())
    }

    pub(in super::super) fn notify(&self, step: &NotifyStep) -> Action {
        let failed = |why: String| match step.required {
            true => settle(StepOutcome::Failed, why),
            false => settle(StepOutcome::Skipped, format!("{why}; the run goes on")),
        };
        if let Some((outcome, message)) = self.memory.answer() {
            return match outcome {
                StepOutcome::Done => settle(StepOutcome::Done, message.clone()),
                _ => failed(message.clone()),
            };
        }
        if !self.memory.intended_here() {
            return failed(
                "whether the message went out before the restart cannot be told; it is not sent twice".into(),
            );
        }
        if let Some(failure) = self.memory.failure()
            && (failure.permanent || self.now >= self.deadline(NOTIFY_TIMEOUT))
        {
            return failed(failure.message.clone());
        }
        let spec = self.run.spec();
        let what = Message::Text {
            title: format!("{}: {}", spec.playbook, spec.subject.display()),
            text: text::filled(&step.text, self.run),
        };
        self.act_within(self.send(&step.endpoint, what, Duration::from_secs(10)), NOTIFY_TIMEOUT)
    }

    fn send(&self, endpoint: &str, what: Message, timeout: Duration) -> Act {
        Act::Send(Outbound {
            endpoint: endpoint.to_owned(),
            what,
            key: self.record.key.clone(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        })
    }
}
