//! Whether a node takes a pod for the sake of the other pods: affinity, anti-affinity (both ways) and topology spread.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::cache::{Cache, NodeInfo, PodFacts};
use super::fitting::wants;
use crate::objects::meta;
use crate::objects::selectors::LabelSelector;

/// A required term of pod affinity or anti-affinity.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    topology: Box<str>,
    selector: LabelSelector,
    /// `None` for all namespaces.
    namespaces: Option<Box<[Box<str>]>>,
}

impl Term {
    /// The required terms below `affinity.podAffinity` or `affinity.podAntiAffinity`. A term without a selector fits
    /// no pod. A namespace selector counts as all namespaces when it is empty; others are not known and add none.
    pub(crate) fn required(spec: &Value, kind: &str, own_namespace: &str) -> Box<[Term]> {
        let path = ["affinity", kind, "requiredDuringSchedulingIgnoredDuringExecution"];
        let read = |term: &Value| {
            let all = term["namespaceSelector"].as_object().is_some_and(|s| s.is_empty());
            let listed = meta::list(term, &["namespaces"]).iter().filter_map(|n| n.as_str().map(Box::from));
            let mut namespaces: Vec<Box<str>> = listed.collect();
            if namespaces.is_empty() {
                namespaces.push(own_namespace.into());
            }
            Some(Term {
                topology: term["topologyKey"].as_str()?.into(),
                selector: LabelSelector::from_object(term.get("labelSelector"))?,
                namespaces: (!all).then(|| namespaces.into()),
            })
        };
        meta::list(spec, &path).iter().filter_map(read).collect()
    }

    fn fits(&self, pod: &PodFacts) -> bool {
        self.namespaces.as_ref().is_none_or(|n| n.iter().any(|n| **n == *pod.namespace())) && pod.fits(&self.selector)
    }

    /// The domains (values of the topology key) in which fitting pods run.
    fn domains(&self, cache: &Cache) -> std::collections::BTreeSet<Box<str>> {
        let domain = |pod: &Arc<PodFacts>| -> Option<Box<str>> {
            let fits = pod.node.is_some() && !pod.is_over() && self.fits(pod);
            fits.then(|| cache.nodes.get(pod.node.as_ref()?)?.domain(&self.topology).map(Box::from))?
        };
        match &self.namespaces {
            Some(names) => names.iter().flat_map(|n| cache.in_namespace(n)).filter_map(domain).collect(),
            None => cache.pods.values().filter_map(domain).collect(),
        }
    }
}

/// A topology spread constraint and how the pods that it counts are spread now.
#[derive(Debug)]
struct Spread {
    topology: Box<str>,
    max_skew: i64,
    hard: bool,
    /// Whether the pod counts itself.
    own: i64,
    counts: BTreeMap<Box<str>, i64>,
    min_domains: usize,
}

impl Spread {
    fn read(constraint: &Value, pod: &PodFacts, spec: &Value, cache: &Cache, nodes: &[Arc<NodeInfo>]) -> Option<Self> {
        let topology = constraint["topologyKey"].as_str()?;
        let selector = LabelSelector::from_object(constraint.get("labelSelector"))?;
        let keys: Vec<&str> = meta::list(constraint, &["matchLabelKeys"]).iter().filter_map(Value::as_str).collect();
        let counted = |p: &PodFacts| p.fits(&selector) && keys.iter().all(|k| p.label(k) == pod.label(k));
        let mut counts: BTreeMap<Box<str>, i64> = nodes
            .iter()
            .filter(|n| constraint["nodeAffinityPolicy"] == "Ignore" || wants(n, spec))
            .filter(|n| constraint["nodeTaintsPolicy"] != "Honor" || super::fitting::tolerates(n, spec))
            .filter_map(|n| Some((n.domain(topology)?.into(), 0)))
            .collect();
        for other in cache.in_namespace(pod.namespace()).filter(|p| p.is_active() && counted(p)) {
            let node = other.node.as_ref().and_then(|n| cache.nodes.get(n));
            if let Some(count) = node.and_then(|n| n.domain(topology)).and_then(|d| counts.get_mut(d)) {
                *count += 1;
            }
        }
        Some(Spread {
            topology: topology.into(),
            max_skew: constraint["maxSkew"].as_i64().unwrap_or(1),
            hard: constraint["whenUnsatisfiable"] != "ScheduleAnyway",
            own: i64::from(counted(pod)),
            counts,
            min_domains: constraint["minDomains"].as_u64().unwrap_or(1) as usize,
        })
    }

    fn allows(&self, node: &NodeInfo) -> bool {
        let Some(count) = node.domain(&self.topology).and_then(|d| self.counts.get(d)) else { return false };
        let least =
            if self.counts.len() < self.min_domains { 0 } else { self.counts.values().min().copied().unwrap_or(0) };
        count + self.own - least <= self.max_skew
    }
}

/// What a pod asks of the company it keeps, worked out once for all nodes.
#[derive(Debug)]
pub(crate) struct Company {
    /// (topology key, domains with a fitting pod, whether the pod itself would be the first).
    near: Vec<(Box<str>, std::collections::BTreeSet<Box<str>>, bool)>,
    far: Vec<(Box<str>, std::collections::BTreeSet<Box<str>>)>,
    /// Domains that other pods keep this one out of.
    kept_out: Vec<(Box<str>, Box<str>)>,
    spreads: Vec<Spread>,
}

impl Company {
    pub(crate) fn of(pod: &PodFacts, spec: &Value, cache: &Cache, nodes: &[Arc<NodeInfo>]) -> Self {
        let near = Term::required(spec, "podAffinity", pod.namespace());
        let far = Term::required(spec, "podAntiAffinity", pod.namespace());
        let near = near.iter().map(|term| {
            let domains = term.domains(cache);
            let first = domains.is_empty() && term.fits(pod);
            (term.topology.clone(), domains, first)
        });
        let kept_out = cache.repelling.iter().filter_map(|key| cache.pods.get(key)).flat_map(|other| {
            let node = other.node.as_ref().and_then(|n| cache.nodes.get(n)).filter(|_| !other.is_over());
            let terms = other.repels.iter().filter(|t| t.fits(pod));
            terms.filter_map(move |t| Some((t.topology.clone(), node?.domain(&t.topology)?.into())))
        });
        let constraints = meta::list(spec, &["topologySpreadConstraints"]);
        Company {
            near: near.collect(),
            far: far.iter().map(|term| (term.topology.clone(), term.domains(cache))).collect(),
            kept_out: kept_out.collect(),
            spreads: constraints.iter().filter_map(|c| Spread::read(c, pod, spec, cache, nodes)).collect(),
        }
    }

    /// Whether the pod goes only where certain others are.
    pub(crate) fn is_attached(&self) -> bool {
        !self.near.is_empty() || self.spreads.iter().any(|s| s.hard)
    }

    /// Why the node is wrong; none if it is not.
    pub(crate) fn wrong(&self, node: &NodeInfo) -> Option<&'static str> {
        let within = |key: &str, domains: &std::collections::BTreeSet<Box<str>>| {
            node.domain(key).is_some_and(|own| domains.contains(own))
        };
        if self.spreads.iter().any(|s| s.hard && !s.allows(node)) {
            return Some("node(s) didn't match pod topology spread constraints");
        }
        let fits = |(key, domains, first): &(Box<str>, _, bool)| {
            within(key, domains) || (*first && node.domain(key).is_some())
        };
        if !self.near.iter().all(fits) {
            return Some("node(s) didn't match pod affinity rules");
        }
        if self.far.iter().any(|(key, domains)| within(key, domains)) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        if self.kept_out.iter().any(|(key, domain)| node.domain(key) == Some(domain)) {
            return Some("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        None
    }

    /// How little a node is liked for constraints that are wishes only: the pods that they count in its domains.
    pub(crate) fn dislike(&self, node: &NodeInfo) -> i64 {
        let count = |s: &Spread| node.domain(&s.topology).and_then(|d| s.counts.get(d)).copied();
        self.spreads.iter().filter(|s| !s.hard).map(|s| count(s).unwrap_or(i64::from(u32::MAX))).sum()
    }
}
