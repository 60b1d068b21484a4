//! What supports a blame, in figures and lines.

use super::{Culprit, Fault, Path, Sight};

/// Paths that are shown.
const SHOWN: usize = 5;

pub(super) fn fault(sight: &Sight<'_>, culprit: Culprit, explained: &[usize]) -> Fault {
    let sum =
        |figure: fn(&Path) -> u32| -> f64 { explained.iter().map(|path| f64::from(figure(&sight.paths[*path]))).sum() };
    let sent = sum(|path| path.sent).max(1.0);
    let mut worst: Vec<usize> = explained.to_vec();
    worst.sort_by(|a, b| sight.paths[*b].bad().total_cmp(&sight.paths[*a].bad()).then(a.cmp(b)));
    let lines = worst.into_iter().take(SHOWN).map(|path| line(sight, &sight.paths[path]));
    Fault {
        culprit,
        paths: explained.len(),
        loss: sum(|path| path.lost) / sent,
        late: sum(|path| path.late) / sent,
        background: sight.background,
        evidence: lines.collect(),
    }
}

fn line(sight: &Sight<'_>, path: &Path) -> String {
    let name = |index: usize| {
        let end = &sight.ends[index];
        if end.node.is_empty() { end.site.clone() } else { format!("{}/{}", end.site, end.node) }
    };
    let late = if path.late > 0 { format!(", {} far too late", path.late) } else { String::new() };
    format!("{} -> {}: {} of {} lost{late}", name(path.from), name(path.to), path.lost, path.sent)
}
