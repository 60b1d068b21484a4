//! The report as one self-contained page: the answer first, then the table, then the evidence. No scripts, no foreign
//! requests; light, dark, and on paper.

use std::fmt::Write as _;

use super::phrases::{self, Phrases};
use crate::{
    outcome::{Capacity, LossOutcome, Report, ServiceOutcome, SiteRead, Verdict},
    words::{Lang, cores, gibibytes, seconds},
};

/// Evidence of the worst losses stands open; the rest opens on a click.
const OPEN: usize = 1;

/// Renders it.
pub fn html(report: &Report, lang: Lang) -> String {
    let words = Phrases { lang };
    let tag = match lang {
        Lang::En => "en",
        Lang::Zh => "zh-CN",
    };
    let mut out = String::with_capacity(64 << 10);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"{tag}\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{} · Evergreen</title><style>{}</style></head><body><main>\n",
        words.title(),
        include_str!("report.css")
    );
    head(&mut out, report, &words);
    table(&mut out, report, &words);
    let _ = write!(out, "<h2>{}</h2>", words.evidence());
    for (index, loss) in report.losses.iter().enumerate() {
        evidence(&mut out, loss, index, index < OPEN || report.losses.len() == 1, &words);
    }
    sureness(&mut out, report, &words);
    out.push_str("</main></body></html>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Survives => "good",
        Verdict::Degraded => "warn",
        Verdict::Lost => "bad",
    }
}

fn badge(verdict: Verdict, lang: Lang) -> String {
    // The sign says the same as the color, for who does not see it.
    let sign = match verdict {
        Verdict::Survives => "✓",
        Verdict::Degraded => "!",
        Verdict::Lost => "✕",
    };
    format!(
        "<span class=\"badge {}\"><i aria-hidden=\"true\">{sign}</i>{}</span>",
        class(verdict),
        verdict.words().pick(lang)
    )
}

fn head(out: &mut String, report: &Report, words: &Phrases) {
    let lang = words.lang;
    let _ = write!(
        out,
        "<header><p class=\"brand\">Evergreen 常青 · {}</p><h1 class=\"{}\">{}</h1><p class=\"meta\">{}</p></header>",
        words.title(),
        class(report.verdict),
        escape(phrases::answer(report).pick(lang)),
        escape(phrases::setting(report).pick(lang))
    );
    let all: usize = report.tried.values().sum();
    let of = |verdict| -> usize {
        report.losses.iter().filter(|loss| loss.verdict == verdict).map(|loss| 1 + loss.same.len()).sum()
    };
    out.push_str("<div class=\"tiles\">");
    for verdict in [Verdict::Lost, Verdict::Degraded, Verdict::Survives] {
        let _ = write!(
            out,
            "<div class=\"{}\"><b>{}</b><span>{}</span></div>",
            class(verdict),
            of(verdict),
            verdict.words().pick(lang)
        );
    }
    let level = phrases::level(report.sureness.level);
    let _ = write!(out, "<div><b>{}</b><span>{}</span></div></div>", level.pick(lang), words.how_sure());
    if all > 1 {
        let _ = write!(
            out,
            "<div class=\"bar\" role=\"img\" aria-label=\"{}\">",
            escape(phrases::answer(report).pick(lang))
        );
        for verdict in [Verdict::Lost, Verdict::Degraded, Verdict::Survives] {
            let count = of(verdict);
            if count > 0 {
                let _ = write!(out, "<i class=\"{}\" style=\"flex:{count}\"></i>", class(verdict));
            }
        }
        out.push_str("</div>\n");
    }
    let worst: Vec<&LossOutcome> =
        report.losses.iter().filter(|loss| loss.verdict != Verdict::Survives).take(3).collect();
    if !worst.is_empty() {
        out.push_str("<ul class=\"worst\">");
        for loss in worst {
            let remedy = phrases::first_remedy(loss);
            let remedy = remedy.map_or_else(String::new, |remedy| {
                format!("<span class=\"remedy\">{} · {}</span>", words.remedy(), escape(remedy.pick(lang)))
            });
            let _ = write!(
                out,
                "<li>{} <strong>{}</strong> — {}{remedy}</li>",
                badge(loss.verdict, lang),
                escape(phrases::name(loss).pick(lang)),
                escape(phrases::breaks(loss).pick(lang))
            );
        }
        out.push_str("</ul>\n");
    }
}

fn table(out: &mut String, report: &Report, words: &Phrases) {
    let lang = words.lang;
    let _ = write!(
        out,
        "<h2>{}</h2><div class=\"wide\"><table class=\"losses\"><thead><tr><th scope=\"col\">{}</th><th scope=\"col\">{}</th>\
         <th scope=\"col\">{}</th><th scope=\"col\" class=\"num\">{}</th><th scope=\"col\">{}</th></tr></thead><tbody>",
        words.table(),
        words.loss(),
        words.verdict(),
        words.what_breaks(),
        words.worst_rto(),
        words.remedy()
    );
    for (index, loss) in report.losses.iter().enumerate() {
        let remedy = phrases::first_remedy(loss).map_or_else(|| "–".to_owned(), |remedy| escape(remedy.pick(lang)));
        let same = if loss.same.is_empty() {
            String::new()
        } else {
            format!("<small>{}</small>", escape(&loss.same.join(", ")))
        };
        let _ = write!(
            out,
            "<tr><th scope=\"row\"><a href=\"#loss-{index}\">{}</a>{same}</th><td>{}</td><td>{}</td><td class=\"num\">{}</td><td>{remedy}</td></tr>",
            escape(phrases::name(loss).pick(lang)),
            badge(loss.verdict, lang),
            escape(phrases::breaks(loss).pick(lang)),
            escape(&phrases::worst_rto(loss, lang)),
        );
    }
    out.push_str("</tbody></table></div>\n");
}

fn evidence(out: &mut String, loss: &LossOutcome, index: usize, open: bool, words: &Phrases) {
    let lang = words.lang;
    let open = if open { " open" } else { "" };
    let _ = write!(
        out,
        "<details id=\"loss-{index}\"{open}><summary>{} {}</summary><div class=\"body\">",
        badge(loss.verdict, lang),
        escape(loss.loss.sentence().pick(lang))
    );
    for service in &loss.services {
        self::service(out, service, words);
    }
    if loss.untouched > 0 {
        let _ = write!(out, "<p class=\"meta\">{}: {}</p>", words.untouched(), loss.untouched);
    }
    pods(out, loss, words);
    if !loss.capacity.is_empty() {
        room(out, &loss.capacity, words);
    }
    if !loss.playbooks.is_empty() || !loss.blocked.is_empty() {
        let _ = write!(out, "<h4>{}</h4><ul>", words.playbooks());
        for playbook in &loss.playbooks {
            let _ = write!(out, "<li>{}</li>", escape(phrases::playbook(playbook).pick(lang)));
        }
        for blocked in &loss.blocked {
            let _ = write!(
                out,
                "<li>{}: {} ({})</li>",
                words.blocked(),
                escape(&blocked.reason),
                escape(&blocked.nodes.join(", "))
            );
        }
        out.push_str("</ul>");
    }
    if !loss.notes.is_empty() {
        let _ = write!(out, "<h4>{}</h4><ul>", words.notes());
        for note in &loss.notes {
            let _ = write!(out, "<li>{}</li>", escape(note.pick(lang)));
        }
        out.push_str("</ul>");
    }
    out.push_str("</div></details>\n");
}

fn service(out: &mut String, service: &ServiceOutcome, words: &Phrases) {
    let lang = words.lang;
    let [before, low, after] = service.serving;
    let _ = write!(
        out,
        "<section class=\"service\"><h3>{} {} <small>{}</small></h3>",
        badge(service.verdict, lang),
        escape(&service.service),
        service.kind
    );
    if let Some(breaks) = &service.breaks {
        let _ = write!(out, "<p>{}</p>", escape(breaks.pick(lang)));
    }
    out.push_str("<dl>");
    let mut row = |name: &str, value: String| {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    row(words.replicas(), format!("<b>{before} → {low} → {after}</b> <small>{}</small>", words.before_low_after()));
    let places = |sites: &[String]| if sites.is_empty() { "–".to_owned() } else { escape(&sites.join(", ")) };
    row(words.holders(), format!("{} → {}", places(&service.sites[0]), places(&service.sites[1])));
    if let Some(rto) = &service.rto {
        let objective = service.objective_seconds.map_or_else(String::new, |most| {
            format!(" <small>({} {})</small>", words.objective(), seconds(most, lang))
        });
        let parts: Vec<String> = rto
            .parts
            .iter()
            .map(|part| format!("<li>{} <b>{}</b></li>", escape(part.what.pick(lang)), seconds(part.seconds, lang)))
            .collect();
        row(words.rto(), format!("<b>≤ {}</b>{objective}<ul>{}</ul>", seconds(rto.seconds, lang), parts.join("")));
    }
    row(words.data(), escape(service.data_loss.pick(lang)));
    for (entry, [then, now]) in &service.weights {
        let list = |weights: &std::collections::BTreeMap<String, u32>| {
            let shares: Vec<String> = weights
                .iter()
                .filter(|(_, share)| **share > 0)
                .map(|(site, share)| format!("{site} {share}"))
                .collect();
            if shares.is_empty() { "–".to_owned() } else { escape(&shares.join(", ")) }
        };
        row(&format!("{} ({})", words.weights(), escape(entry)), format!("{} → {}", list(then), list(now)));
    }
    if !service.moves.is_empty() {
        let steps: Vec<String> = service
            .moves
            .iter()
            .map(|step| {
                let rejected: Vec<String> =
                    step.rejected.iter().map(|why| format!("<li>{}</li>", escape(why))).collect();
                format!("<li>{}<ul>{}</ul></li>", escape(phrases::step(step).pick(lang)), rejected.join(""))
            })
            .collect();
        row(words.moves(), format!("<ul>{}</ul>", steps.join("")));
    }
    if let Some(remedy) = &service.remedy {
        row(words.remedy(), format!("<strong>{}</strong>", escape(phrases::remedy(remedy).pick(lang))));
    }
    out.push_str("</dl></section>\n");
}

fn pods(out: &mut String, loss: &LossOutcome, words: &Phrases) {
    if !loss.moved.is_empty() {
        let _ = write!(
            out,
            "<h4>{}</h4><div class=\"wide\"><table><thead><tr><th>{}</th><th>{}</th><th>{}</th></tr></thead><tbody>",
            words.moves(),
            words.workload(),
            words.from(),
            words.to()
        );
        for moved in &loss.moved {
            let _ = write!(
                out,
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&moved.workload),
                escape(&phrases::places(&moved.from)),
                escape(&phrases::places(&moved.to))
            );
        }
        out.push_str("</tbody></table></div>");
    }
    if !loss.pending.is_empty() {
        let _ = write!(
            out,
            "<h4>{}</h4><div class=\"wide\"><table><thead><tr><th>{}</th><th>{}</th><th class=\"num\">{}</th><th class=\"num\">CPU</th><th class=\"num\">{}</th><th>{}</th></tr></thead><tbody>",
            words.pending(),
            words.workload(),
            words.site(),
            words.pods(),
            words.memory(),
            words.reason()
        );
        for pending in &loss.pending {
            let _ = write!(
                out,
                "<tr><td>{}</td><td>{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td>{}</td></tr>",
                escape(&pending.workload),
                escape(&pending.site),
                pending.pods,
                cores(pending.cpu_millis),
                gibibytes(pending.memory_bytes),
                escape(&pending.reason)
            );
        }
        out.push_str("</tbody></table></div>");
    }
}

fn room(out: &mut String, capacity: &[Capacity], words: &Phrases) {
    let _ = write!(
        out,
        "<h4>{}</h4><div class=\"wide\"><table><thead><tr><th>{}</th><th class=\"num\">{}</th><th>CPU</th><th>{}</th></tr></thead><tbody>",
        words.capacity(),
        words.site(),
        words.nodes(),
        words.memory()
    );
    for site in capacity {
        let cell = |asked: [u64; 2], all: [u64; 2], show: fn(u64) -> String| {
            let one = |index: usize| {
                if all[index] == 0 {
                    return "–".to_owned();
                }
                let percent = asked[index] * 100 / all[index];
                format!(
                    "{} / {} <small>{percent} %</small><meter min=\"0\" max=\"100\" low=\"70\" high=\"90\" optimum=\"0\" value=\"{percent}\">{percent} %</meter>",
                    show(asked[index]),
                    show(all[index])
                )
            };
            format!("{} → {}", one(0), one(1))
        };
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"num\">{} → {}</td><td>{}</td><td>{}</td></tr>",
            escape(&site.site),
            site.nodes[0],
            site.nodes[1],
            cell(site.cpu_requested, site.cpu_millis, cores),
            cell(site.memory_requested, site.memory_bytes, gibibytes)
        );
    }
    out.push_str("</tbody></table></div>");
}

fn sureness(out: &mut String, report: &Report, words: &Phrases) {
    let lang = words.lang;
    let sure = &report.sureness;
    let _ = write!(out, "<h2>{}: {}</h2>", words.how_sure(), phrases::level(sure.level).pick(lang));
    let mut list = |title: &str, items: Vec<String>| {
        if !items.is_empty() {
            let _ = write!(out, "<h4>{title}</h4><ul>");
            for item in items {
                let _ = write!(out, "<li>{}</li>", escape(&item));
            }
            out.push_str("</ul>\n");
        }
    };
    list(words.reason(), sure.why.iter().map(|why| why.pick(lang).to_owned()).collect());
    let found = sure.left_out.iter().map(|found| format!("{} {}: {}", found.site, found.object, found.why.pick(lang)));
    list(words.left_out(), found.collect());
    list(words.assumptions(), sure.assumptions.iter().map(|text| text.pick(lang).to_owned()).collect());
    list(words.deviations(), sure.deviations.clone());
    let _ = write!(out, "<h2>{}</h2>", words.read());
    for site in &report.sites {
        read(out, site, words);
    }
    let _ = write!(out, "<p class=\"meta\">{}</p>", escape(&report.made_by));
}

fn read(out: &mut String, site: &SiteRead, words: &Phrases) {
    let _ = write!(
        out,
        "<details><summary>{} <small>{} · {} · Kubernetes {}</small></summary><div class=\"body wide\"><table><thead><tr><th>{}</th><th class=\"num\">{}</th><th class=\"num\">{}</th></tr></thead><tbody>",
        escape(&site.name),
        escape(&site.source),
        escape(&site.server),
        escape(&site.kubernetes),
        words.kind(),
        words.objects(),
        words.version()
    );
    for kind in &site.read {
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td></tr>",
            escape(&kind.kind),
            kind.count,
            escape(&kind.resource_version)
        );
    }
    for kind in &site.not_read {
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"num\">–</td><td>{}</td></tr>",
            escape(&kind.kind),
            escape(&kind.why)
        );
    }
    out.push_str("</tbody></table></div></details>\n");
}
