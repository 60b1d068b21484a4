//! What fails when paths fail: a link, a node, a rack, a zone, a site, or only what lies between two of them. Pure:
//! figures of paths come in, culprits with their evidence go out; it knows no time and asks nobody.
//!
//! Every path runs through its two nodes and, where these stand apart, through the ways out of their racks, zones and
//! sites. A culprit has to explain all that is seen of it: nearly all paths through it fail, towards nearly everybody, and
//! for all that it holds. Of those that do, the one that explains most is blamed first, and the narrowest of equals; what
//! it explains is then left out of sight. A failing path that nothing explains is a failing link. What cannot be told
//! apart is told as it is: with two sites, nobody can say whether one of them or the way between them fails.

mod culprit;
mod evidence;

use std::collections::{BTreeMap, BTreeSet};

pub use self::culprit::{Culprit, End, Fault};

/// Paths of fewer probes say nothing yet.
pub const FEWEST: u32 = 8;
/// Above this share of bad probes everywhere nobody in particular can be blamed.
const TOO_NOISY: f64 = 0.7;
/// Where this share is bad everywhere, that is told as well.
const NOISY: f64 = 0.25;
/// Share of the paths through a culprit, and of those that it is seen from, that have to be bad. Not all: near the
/// threshold one path in ten looks well by chance.
const NEARLY_ALL: f64 = 0.8;
/// Share of a member's paths that have to be bad for the member to belong to a bad whole.
const MOST: f64 = 0.5;
/// Chance below which bad paths are no accident, all those of a culprit together; there are many paths, and they are
/// judged often.
const CHANCE: f64 = 1e-8;

/// Figures of one directed path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Index of the end that probes.
    pub from: usize,
    /// Index of the end that is probed.
    pub to: usize,
    /// Probes.
    pub sent: u32,
    /// Lost ones.
    pub lost: u32,
    /// Ones that came far too late.
    pub late: u32,
}

impl Path {
    fn bad(&self) -> f64 {
        f64::from(self.lost + self.late) / f64::from(self.sent.max(1))
    }
}

/// Who is to blame, the most telling first.
pub fn blame(ends: &[End], paths: &[Path]) -> Vec<Fault> {
    let mut sight = Sight::new(ends, paths);
    let mut faults = Vec::new();
    if sight.background > NOISY {
        let all: Vec<usize> = sight.open.iter().copied().filter(|path| sight.is_local(*path)).collect();
        faults.push(evidence::fault(&sight, Culprit::Everywhere, &all));
    }
    if sight.background > TOO_NOISY {
        return faults;
    }
    while let Some((culprit, explained)) = sight.best() {
        faults.push(evidence::fault(&sight, culprit.clone(), &explained));
        sight.leave_out(&culprit);
    }
    faults.extend(sight.links());
    faults
}

/// What is looked at, and what is left to be explained.
struct Sight<'a> {
    ends: &'a [End],
    paths: &'a [Path],
    /// Share that is bad on the better paths of a site: what nobody in particular is blamed for.
    background: f64,
    /// Mean share that is bad on the paths that are not: higher than the background, and what chance alone gives.
    usual: f64,
    bad: Vec<bool>,
    /// Paths that no culprit explains yet, good ones included.
    open: Vec<usize>,
}

impl<'a> Sight<'a> {
    fn new(ends: &'a [End], paths: &'a [Path]) -> Self {
        let open: Vec<usize> = (0..paths.len())
            .filter(|path| {
                let Path { from, to, sent, .. } = paths[*path];
                sent >= FEWEST && from != to && from < ends.len() && to < ends.len()
            })
            .collect();
        let mut sight = Self { ends, paths, background: 0.0, usual: 0.0, bad: vec![false; paths.len()], open };
        let local: Vec<&Path> =
            sight.open.iter().filter(|path| sight.is_local(**path)).map(|path| &paths[*path]).collect();
        let mut shares: Vec<f64> = local.iter().map(|path| path.bad()).collect();
        shares.sort_unstable_by(f64::total_cmp);
        let nodes: BTreeSet<usize> = local.iter().flat_map(|path| [path.from, path.to]).collect();
        // The lower quartile: in a site of three nodes, one bad node spoils two paths of three. Two nodes have but one
        // path, and nothing to compare it with.
        if nodes.len() > 2 {
            sight.background = shares[shares.len() / 4];
        }
        let threshold = threshold(sight.background);
        for path in &sight.open {
            sight.bad[*path] = paths[*path].bad() > threshold;
        }
        let good: Vec<f64> = shares.into_iter().filter(|share| *share <= threshold).collect();
        sight.usual = good.iter().sum::<f64>() / good.len().max(1) as f64;
        sight
    }

    fn is_local(&self, path: usize) -> bool {
        self.ends[self.paths[path].from].site == self.ends[self.paths[path].to].site
    }

    /// Everybody who could be blamed for a path, each with those who see it from the other side and the member it
    /// concerns.
    fn suspects(&self, path: usize) -> Vec<(Culprit, Seen)> {
        let Path { from, to, .. } = self.paths[path];
        let mut suspects = Vec::with_capacity(8);
        for (this, other) in [(from, to), (to, from)] {
            let (a, b) = (&self.ends[this], &self.ends[other]);
            for group in a.groups() {
                // A rack or zone is judged by its own site: what lies between two sites would look like both.
                if a.site != b.site && !group.is_site() {
                    continue;
                }
                // A group is left by this path only when the other end stands outside of it.
                if let Some(opposite) = group.opposite(b) {
                    suspects.push((group, Seen { by: opposite, member: this }));
                }
            }
            if !a.node.is_empty() {
                suspects.push((
                    Culprit::Node { site: a.site.clone(), node: a.node.clone() },
                    Seen { by: format!("{}/{}", b.site, b.node), member: this },
                ));
            }
            if this == from {
                for between in a.between(b) {
                    suspects.push((between, Seen { by: String::new(), member: this }));
                }
            }
        }
        suspects
    }

    /// The culprit that explains most, with the bad paths that it explains.
    fn best(&self) -> Option<(Culprit, Vec<usize>)> {
        if !self.open.iter().any(|path| self.bad[*path]) {
            return None;
        }
        let mut cases: BTreeMap<Culprit, Case> = BTreeMap::new();
        for path in &self.open {
            for (culprit, seen) in self.suspects(*path) {
                cases.entry(culprit).or_default().add(*path, seen, self.bad[*path], self.paths[*path]);
            }
        }
        let best = cases
            .into_iter()
            .filter(|(culprit, case)| case.holds(culprit) && self.is_no_accident(&case.bad))
            .max_by(|(a, x), (b, y)| {
                x.bad.len().cmp(&y.bad.len()).then_with(|| b.breadth().cmp(&a.breadth()).then_with(|| b.cmp(a)))
            });
        best.map(|(culprit, case)| (culprit, case.bad))
    }

    /// Paths through a culprit say nothing about anybody else.
    fn leave_out(&mut self, culprit: &Culprit) {
        let open = std::mem::take(&mut self.open);
        let concerns = |path: &usize| {
            let Path { from, to, .. } = self.paths[*path];
            culprit.concerns(&self.ends[from], &self.ends[to])
        };
        self.open = open.into_iter().filter(|path| !concerns(path)).collect();
    }

    /// Failing paths that nothing explains.
    fn links(&self) -> Vec<Fault> {
        let mut pairs: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for path in &self.open {
            let Path { from, to, .. } = self.paths[*path];
            // What another site says of a third one is no link of ours.
            if self.ends[from].node.is_empty() || self.ends[to].node.is_empty() {
                continue;
            }
            pairs.entry((from.min(to), from.max(to))).or_default().push(*path);
        }
        let failing = pairs.into_iter().filter_map(|(pair, mut paths)| {
            paths.retain(|path| self.bad[*path]);
            (!paths.is_empty() && self.is_no_accident(&paths)).then_some((pair, paths))
        });
        let told = failing.map(|((a, b), bad)| {
            let name = |end: &End| (end.site.clone(), end.node.clone());
            let culprit = Culprit::Link { a: name(&self.ends[a]), b: name(&self.ends[b]) };
            evidence::fault(self, culprit, &bad)
        });
        told.collect()
    }

    fn is_no_accident(&self, bad: &[usize]) -> bool {
        bad.iter().map(|path| self.chance(*path).max(f64::MIN_POSITIVE).ln()).sum::<f64>() < CHANCE.ln()
    }

    /// How likely it is that so many probes of a path are bad by the background alone.
    fn chance(&self, path: usize) -> f64 {
        let Path { sent, lost, late, .. } = self.paths[path];
        let share = self.usual.max(self.background).clamp(0.02, 0.99);
        (lost + late..=sent).map(|bad| binomial(sent, bad, share)).sum()
    }
}

/// From where another end sees a culprit, and which end of it is concerned.
struct Seen {
    by: String,
    member: usize,
}

/// What speaks for and against one culprit.
#[derive(Default)]
struct Case {
    bad: Vec<usize>,
    paths: usize,
    /// Bad ones and all, by who sees it.
    by: BTreeMap<String, (usize, usize)>,
    /// Bad ones and all, by member.
    members: BTreeMap<usize, (usize, usize)>,
    /// The other ends.
    others: BTreeSet<usize>,
}

impl Case {
    fn add(&mut self, path: usize, seen: Seen, is_bad: bool, figures: Path) {
        let count = |entry: &mut (usize, usize)| {
            entry.0 += usize::from(is_bad);
            entry.1 += 1;
        };
        count(self.by.entry(seen.by).or_default());
        count(self.members.entry(seen.member).or_default());
        self.others.insert(if figures.from == seen.member { figures.to } else { figures.from });
        self.paths += 1;
        if is_bad {
            self.bad.push(path);
        }
    }

    fn holds(&self, culprit: &Culprit) -> bool {
        let share = |bad: usize, all: usize| bad as f64 / all.max(1) as f64;
        if share(self.bad.len(), self.paths) < NEARLY_ALL {
            return false;
        }
        let mostly_bad = |counts: &BTreeMap<usize, (usize, usize)>| {
            counts.values().filter(|(bad, all)| share(*bad, *all) >= MOST).count()
        };
        let seen_bad = self.by.values().filter(|(bad, all)| share(*bad, *all) > MOST).count();
        match culprit {
            // From one side alone it could as well be the link to that side.
            Culprit::Node { .. } => self.by.len() >= 2 && share(seen_bad, self.by.len()) >= NEARLY_ALL,
            Culprit::Between { .. } => self.members.len() >= 2 && self.others.len() >= 2,
            _ => {
                self.by.len() >= 2
                    && share(seen_bad, self.by.len()) >= NEARLY_ALL
                    && (self.members.len() >= 2 || culprit.is_site())
                    && share(mostly_bad(&self.members), self.members.len()) >= NEARLY_ALL
            }
        }
    }
}

/// A share of bad probes above this is a fault: halfway to total loss where much is lost anyway, a quarter of the way
/// where nothing is.
fn threshold(background: f64) -> f64 {
    background + (1.0 - background) * (0.25 + 0.25 * background.min(0.3) / 0.3)
}

fn binomial(n: u32, k: u32, p: f64) -> f64 {
    let choose = (0..k).fold(0.0, |log, i| log + (f64::from(n - i) / f64::from(i + 1)).ln());
    (choose + f64::from(k) * p.ln() + f64::from(n - k) * (1.0 - p).ln()).exp()
}

#[cfg(test)]
#[path = "blame/tests.rs"]
mod tests;
