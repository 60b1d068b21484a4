//! The report as text for a terminal: the answer, the table, then the evidence of each loss that hurts.

use std::fmt::Write as _;

use comfy_table::{Cell, ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};

use super::phrases::{self, Phrases};
use crate::{
    outcome::{LossOutcome, Report, ServiceOutcome, Verdict},
    words::{Lang, cores, gibibytes, seconds},
};

/// Losses whose evidence is shown; the others are in the table, in HTML and in JSON.
const SHOWN: usize = 8;
/// Wide enough for a table, narrow enough for a ticket.
const WIDTH: u16 = 120;

/// Renders it.
pub fn terminal(report: &Report, lang: Lang) -> String {
    let words = Phrases { lang };
    let mut out = String::new();
    let _ = writeln!(out, "{}\n", phrases::answer(report).pick(lang));
    let _ = writeln!(out, "{}\n", phrases::setting(report).pick(lang));
    let _ = writeln!(out, "{}\n", table(report, &words));
    let hurting = report.losses.iter().filter(|loss| loss.verdict != Verdict::Survives);
    let shown: Vec<&LossOutcome> =
        if report.losses.len() == 1 { report.losses.iter().collect() } else { hurting.take(SHOWN).collect() };
    for loss in shown {
        evidence(&mut out, loss, &words);
    }
    sureness(&mut out, report, &words);
    out
}

fn table(report: &Report, words: &Phrases) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header([words.loss(), words.verdict(), words.what_breaks(), words.worst_rto(), words.remedy()]);
    for loss in &report.losses {
        table.add_row([
            Cell::new(phrases::name(loss).pick(words.lang)),
            Cell::new(loss.verdict.words().pick(words.lang)),
            Cell::new(phrases::breaks(loss).pick(words.lang)),
            Cell::new(phrases::worst_rto(loss, words.lang)),
            Cell::new(phrases::first_remedy(loss).map_or_else(|| "–".to_owned(), |r| r.pick(words.lang).to_owned())),
        ]);
    }
    table
}

fn evidence(out: &mut String, loss: &LossOutcome, words: &Phrases) {
    let lang = words.lang;
    let _ = writeln!(out, "── {} · {}", loss.loss.sentence().pick(lang), loss.verdict.words().pick(lang));
    for service in
        loss.services.iter().filter(|service| service.verdict != Verdict::Survives || loss.services.len() < 6)
    {
        self::service(out, service, words);
    }
    let fine = loss.services.iter().filter(|service| service.verdict == Verdict::Survives).count();
    if fine > 0 && loss.services.len() >= 6 {
        let _ = writeln!(out, "   {}", phrases::others_survive(fine).pick(lang));
    }
    for moved in &loss.moved {
        let list = |nodes: &std::collections::BTreeMap<String, u32>| phrases::places(nodes);
        let _ = writeln!(out, "   {}: {} → {}", moved.workload, list(&moved.from), list(&moved.to));
    }
    for pending in &loss.pending {
        let (cpu, memory) = (cores(pending.cpu_millis), gibibytes(pending.memory_bytes));
        let _ = writeln!(
            out,
            "   {} {}: {} × {} ({cpu} CPU, {memory}): {}",
            words.no_room(),
            pending.site,
            pending.pods,
            pending.workload,
            pending.reason
        );
    }
    for playbook in &loss.playbooks {
        let _ = writeln!(out, "   {}", phrases::playbook(playbook).pick(lang));
    }
    for blocked in &loss.blocked {
        let _ = writeln!(out, "   {}: {} ({})", words.blocked(), blocked.reason, blocked.nodes.join(", "));
    }
    for note in &loss.notes {
        let _ = writeln!(out, "   {}", note.pick(lang));
    }
    out.push('\n');
}

fn service(out: &mut String, service: &ServiceOutcome, words: &Phrases) {
    let lang = words.lang;
    let [before, low, after] = service.serving;
    let verdict = service.verdict.words();
    let _ = writeln!(
        out,
        "   {} [{}] {} {before} → {low} → {after}",
        service.service,
        verdict.pick(lang),
        words.replicas()
    );
    if let Some(breaks) = &service.breaks {
        let _ = writeln!(out, "      {}", breaks.pick(lang));
    }
    for step in &service.moves {
        let _ = writeln!(out, "      {}", phrases::step(step).pick(lang));
    }
    if let Some(rto) = &service.rto {
        let parts: Vec<String> =
            rto.parts.iter().map(|p| format!("{} {}", p.what.pick(lang), seconds(p.seconds, lang))).collect();
        let _ = writeln!(out, "      RTO ≤ {} = {}", seconds(rto.seconds, lang), parts.join(" + "));
    }
    if let Some(remedy) = &service.remedy {
        let _ = writeln!(out, "      {}: {}", words.remedy(), phrases::remedy(remedy).pick(lang));
    }
}

fn sureness(out: &mut String, report: &Report, words: &Phrases) {
    let lang = words.lang;
    let sure = &report.sureness;
    let why: Vec<&str> = sure.why.iter().map(|why| why.pick(lang)).collect();
    let reasons = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
    let _ = writeln!(out, "{}: {}{reasons}", words.how_sure(), phrases::level(sure.level).pick(lang));
    for finding in &sure.left_out {
        let _ = writeln!(out, "  - {} {}: {}", finding.site, finding.object, finding.why.pick(lang));
    }
    for assumption in &sure.assumptions {
        let _ = writeln!(out, "  - {}", assumption.pick(lang));
    }
    for deviation in &sure.deviations {
        let _ = writeln!(out, "  - {}: {deviation}", words.deviation());
    }
}
