//! Calls the hooks of databases: one call in flight for each site of a group, repeated until it is answered. Makes no
//! choices: which calls there are says the planner.

use std::{collections::BTreeMap, time::Duration};

use evergreen_api::resources::DatabaseHooks;
use futures::FutureExt as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    data_gate::{GateClient, position},
    facts::{DatabaseFacts, HookAnswer, HookCall, HookTrouble, HookVerb, HookWish, ServiceFacts},
    planner::DatabaseDuty,
};
use crate::quorum::Mono;

/// A call that failed is made again after this time.
const PAUSE: Duration = Duration::from_secs(1);

/// Service and group.
type Key = (String, String);

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Yes(HookAnswer),
    /// It answered, and it is no yes.
    No(String),
    /// No answer at all.
    Silent(String),
}

struct Flight {
    call: HookCall,
    task: JoinHandle<Reply>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of one service's database for one group.
#[derive(Default)]
struct Known {
    version: u64,
    wish: Option<HookWish>,
    answers: BTreeMap<String, Vec<HookAnswer>>,
    troubles: BTreeMap<String, HookTrouble>,
    asked_since: BTreeMap<String, Mono>,
    not_before: BTreeMap<String, Mono>,
    flights: BTreeMap<String, Flight>,
}

/// All hooks.
pub(super) struct HookBook {
    own: String,
    client: GateClient,
    known: BTreeMap<Key, Known>,
}

impl HookBook {
    pub fn new(own: &str, client: GateClient) -> Self {
        Self { own: own.to_owned(), client, known: BTreeMap::new() }
    }

    /// What is known for this service and group now; none where it has no hooks.
    pub fn facts(&mut self, facts: &ServiceFacts, now: Mono) -> Option<DatabaseFacts> {
        facts.spec.database.as_ref()?;
        let known = self.known.entry((facts.name.clone(), facts.group.clone())).or_default();
        if known.version != facts.entry.version {
            // What was answered under another version says nothing about this one.
            *known = Known { version: facts.entry.version, wish: known.wish, ..Known::default() };
        }
        known.land(now);
        let silent = |(site, since): (&String, &Mono)| (site.clone(), now.saturating_sub(*since));
        Some(DatabaseFacts {
            own: self.own.clone(),
            wish: known.wish,
            answers: known.answers.clone(),
            troubles: known.troubles.clone(),
            silent: known.asked_since.iter().map(silent).collect(),
        })
    }

    /// Makes the calls of a duty; those that are not wanted any more are given up.
    pub fn carry_out(&mut self, facts: &ServiceFacts, duty: &DatabaseDuty, now: Mono) {
        let Some(hooks) = &facts.spec.database else { return };
        let Some(known) = self.known.get_mut(&(facts.name.clone(), facts.group.clone())) else { return };
        known.wish = duty.wish.or(known.wish);
        known.flights.retain(|_, flight| duty.calls.contains(&flight.call));
        for call in &duty.calls {
            known.asked_since.entry(call.site.clone()).or_insert(now);
            let due = known.not_before.get(&call.site).is_none_or(|at| now >= *at);
            if !due || known.flights.contains_key(&call.site) {
                continue;
            }
            let (client, hooks, with) = (self.client.clone(), hooks.clone(), call.clone());
            let task = tokio::spawn(async move { ask(&client, &hooks, &with).await });
            known.flights.insert(call.site.clone(), Flight { call: call.clone(), task });
        }
    }

    /// Forgets services that are gone.
    pub fn retain(&mut self, all: &[ServiceFacts]) {
        let there: std::collections::BTreeSet<(&str, &str)> =
            all.iter().map(|facts| (facts.name.as_str(), facts.group.as_str())).collect();
        self.known.retain(|(name, group), _| there.contains(&(name.as_str(), group.as_str())));
    }
}

impl Known {
    /// Takes in the calls that have ended.
    fn land(&mut self, now: Mono) {
        let ended: Vec<String> =
            self.flights.iter().filter(|(_, flight)| flight.task.is_finished()).map(|(site, _)| site.clone()).collect();
        for site in ended {
            let Some(mut flight) = self.flights.remove(&site) else { continue };
            let reply = match (&mut flight.task).now_or_never() {
                Some(Ok(reply)) => reply,
                _ => Reply::Silent("the call ended before its time".into()),
            };
            let verb = flight.call.verb;
            let why = match reply {
                Reply::Yes(answer) => {
                    tracing::info!(group = flight.call.group, site, verb = verb.path(), token = ?flight.call.token,
                        evidence = answer.evidence, "the database's hook did it");
                    self.answers.entry(site.clone()).or_default().push(answer);
                    self.troubles.remove(&site);
                    // Whoever answered is not silent; its next call begins anew.
                    self.asked_since.remove(&site);
                    continue;
                }
                Reply::No(why) => {
                    self.asked_since.remove(&site);
                    why
                }
                Reply::Silent(why) => why,
            };
            let trouble = HookTrouble { verb, why };
            if self.troubles.get(&site) != Some(&trouble) {
                tracing::warn!(
                    group = flight.call.group,
                    site,
                    verb = verb.path(),
                    why = trouble.why,
                    "the database's hook did not do it; it is asked again"
                );
            }
            self.troubles.insert(site.clone(), trouble);
            self.not_before.insert(site, now + PAUSE);
        }
    }
}

/// One call; the same call may be made any number of times.
async fn ask(client: &GateClient, hooks: &DatabaseHooks, call: &HookCall) -> Reply {
    let fill = |text: &str| {
        let text = text.replace("{site}", &call.site).replace("{group}", &call.group);
        text.replace("{epoch}", &call.token.epoch.to_string())
    };
    let url = format!("{}/{}", fill(&hooks.endpoint.url).trim_end_matches('/'), call.verb.path());
    let body = json!({
        "apiVersion": "evergreen.dev/database.v1", "group": call.group, "site": call.site, "holder": call.holder,
        "epoch": call.token.epoch, "step": call.token.step,
    });
    match tokio::time::timeout(hooks.timeout.get(), client.exchange("POST", &url, Some(body))).await {
        Err(_) => Reply::Silent(format!("no answer within {}", hooks.timeout)),
        Ok(Err(why)) => Reply::Silent(why),
        Ok(Ok((status, answer))) => read(call, status.as_u16(), &answer),
    }
}

/// Whether an answer is the yes that was asked for: to this token, with the role that it leads to.
fn read(call: &HookCall, status: u16, answer: &Value) -> Reply {
    let number = |key: &str| answer.get(key).and_then(Value::as_u64);
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
    let (epoch, step) = (call.token.epoch, call.token.step);
    match status {
        200 => {}
        202 => return Reply::No(format!("it is at it: {}", brief(text("message")))),
        409 => {
            let (found, at) = (number("epoch").unwrap_or(0), number("step").unwrap_or(0));
            return Reply::No(format!("it has seen epoch {found} step {at} and refuses epoch {epoch} step {step}"));
        }
        other => return Reply::No(format!("it answers {other}: {}", brief(text("message")))),
    }
    if number("epoch") != Some(epoch) || number("step") != Some(u64::from(step)) {
        let (found, at) = (number("epoch"), number("step"));
        return Reply::No(format!("it answers for epoch {found:?} step {at:?}, asked for epoch {epoch} step {step}"));
    }
    let role = text("role");
    let fits = match call.verb {
        HookVerb::Promote => role == "primary",
        HookVerb::Demote => matches!(role, "standby" | "stopped"),
        HookVerb::ProveFenced => answer.get("fenced").and_then(Value::as_bool) == Some(true) && role != "primary",
    };
    if !fits {
        return Reply::No(format!("it says that it did, and that its role is `{}`", brief(role)));
    }
    let evidence = brief(text("evidence"));
    if call.verb == HookVerb::ProveFenced && evidence.is_empty() {
        return Reply::No("it says that it is fenced and does not say how it knows".into());
    }
    match answer.get("position").map(position).transpose() {
        Ok(at) => Reply::Yes(HookAnswer { verb: call.verb, token: call.token, position: at.flatten(), evidence }),
        Err(why) => Reply::No(why),
    }
}

/// What somebody else's program said, shortened: it goes into logs and status.
fn brief(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::facts::HookToken;

    fn call(verb: HookVerb) -> HookCall {
        let token = HookToken { epoch: 7, step: 1 };
        HookCall { group: "g".into(), site: "b".into(), verb, token, holder: "b".into() }
    }

    fn no(verb: HookVerb, status: u16, answer: &Value) -> String {
        match read(&call(verb), status, answer) {
            Reply::No(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_very_token_with_the_very_role_is_a_yes() {
        let yes = json!({"epoch": 7, "step": 1, "role": "primary", "position": "0/10"});
        assert!(matches!(read(&call(HookVerb::Promote), 200, &yes), Reply::Yes(a) if a.position == Some(16)));
        assert!(
            no(HookVerb::Promote, 200, &json!({"epoch": 6, "step": 1, "role": "primary"}))
                .contains("asked for epoch 7")
        );
        assert!(no(HookVerb::Promote, 200, &json!({"epoch": 7, "step": 0, "role": "primary"})).contains("step"));
        assert!(no(HookVerb::Promote, 200, &json!({"epoch": 7, "step": 1, "role": "standby"})).contains("standby"));
        assert!(no(HookVerb::Demote, 200, &yes).contains("primary"));
        assert!(no(HookVerb::Promote, 200, &json!("done")).contains("asked for"));
        assert!(no(HookVerb::Promote, 409, &json!({"epoch": 9, "step": 0})).contains("seen epoch 9"));
        assert!(no(HookVerb::Promote, 202, &json!({"message": "replaying"})).contains("replaying"));
        assert!(no(HookVerb::Promote, 500, &json!(null)).contains("500"));
    }

    #[test]
    fn a_proof_has_to_say_how_it_knows() {
        let proof = |fenced: bool, role: &str, evidence: &str| json!({"epoch": 7, "step": 1, "fenced": fenced, "role": role, "evidence": evidence});
        let verb = HookVerb::ProveFenced;
        assert!(matches!(read(&call(verb), 200, &proof(true, "stopped", "no postmaster")), Reply::Yes(_)));
        assert!(no(verb, 200, &proof(true, "standby", "")).contains("how it knows"));
        assert!(no(verb, 200, &proof(false, "standby", "x")).contains("role"));
        assert!(no(verb, 200, &proof(true, "primary", "x")).contains("primary"));
    }
}
