//! The report as a page that loads nothing and runs nothing.

use lowtide_train::report::number::{NONE, bytes, three, whole};
use lowtide_train::report::parts::{card, document, footer, legend, swatch, tile};
use lowtide_train::report::{Words, bar};
use maud::{Markup, html};

use crate::{
    About, Ceiling, GradientRow, Limit, Measured, MemoryRow, PaperRow, Peer, Report, Row, beside,
};

/// The text of a page.
#[must_use]
pub fn page(report: &Report) -> String {
    let title = report.model.as_deref().map_or("Operations", |model| model);
    let body = html! {
        header {
            h1 { (title) }
            p { (place(report)) }
            p { "Ratios are times over those of " strong { (first(report)) }
                " within the same round: below 1 is faster." }
        }
        dl class="tiles" { @for ceiling in &report.ceilings { (ceilings(ceiling)) } }
        div class="cards" {
            @for (suite, words, remark) in SUITES {
                @let rows: Vec<_> = report.rows.iter().filter(|row| row.suite == suite).collect();
                @if !rows.is_empty() { (card("wide", words, remark, &timed(report, suite, &rows))) }
            }
            @if !report.memory.is_empty() { (memory(&report.memory)) }
            @if !report.gradients.is_empty() { (gradients(&report.gradients)) }
            @if !report.papers.is_empty() { (papers(&report.papers)) }
            @if !report.tradeoff.is_empty() { (tradeoff::card_of(&report.tradeoff)) }
        }
        (footer(&report.lowtide))
    };
    document(&format!("{title} · Lowtide bench"), &body)
}

/// Suites with their headings.
const SUITES: [(&str, &str, &str); 3] = [
    (
        "step",
        "Steps",
        "LoRA of rank 8 on every linear, one sequence in which all tokens carry loss; forward is \
         the bare base. Bars are tokens a second.",
    ),
    (
        "generate",
        "Generation",
        "Reading a prompt, and one token after the other. Bars are tokens a second.",
    ),
    (
        "kernels",
        "Operations",
        "Bars are the share of the limit that binds: the f32 peak, or reading memory.",
    ),
];

fn place(report: &Report) -> String {
    let machine = &report.machine;
    let processor = machine.processor.as_deref().unwrap_or("unknown processor");
    let plural = if machine.cores == 1 { "" } else { "s" };
    format!("{processor} · {} core{plural} · {} {}", machine.cores, machine.os, machine.arch)
}

fn first(report: &Report) -> &str {
    report.contenders.first().map_or(NONE, |contender| contender.label.as_str())
}

fn ceilings(ceiling: &Ceiling) -> Markup {
    let threads = ceiling.threads;
    let plural = if threads == 1 { "" } else { "s" };
    let remark = format!("{threads} thread{plural}");
    let giga = |value: f64, unit: &str| format!("{} {unit}", three(value / 1e9));
    html! {
        @if let Some(flops) = ceiling.f32_flops {
            (tile("f32 peak", &giga(flops, "GFLOP/s"), &remark))
        }
        @if let Some(ops) = ceiling.int8_ops {
            (tile("int8 peak", &giga(ops, "GOP/s"), &remark))
        }
        @if let Some(read) = ceiling.reads.last() {
            @let remark = format!("{remark}, {} again and again", bytes(read.bytes));
            (tile("Reading memory", &giga(read.bytes_per_second, "GB/s"), &remark))
        }
    }
}

/// A table of bars: one row a contender, under the name of what was timed.
fn timed(report: &Report, suite: &str, rows: &[&Row]) -> Markup {
    let by_share = suite == "kernels";
    let label = |(index, about): (usize, &About)| (colour(index), about.label.clone());
    let labels: Vec<_> = report.contenders.iter().enumerate().map(label).collect();
    let entries: Vec<_> = labels.iter().map(|(c, label)| (c.as_str(), label.clone())).collect();
    html! {
        (legend(&entries))
        @for (number, row) in rows.iter().enumerate() {
            @let full = if by_share { 1.0 } else { fastest(report, row) };
            h3 class="bar-name" { (row.name) @if by_share { b { (limit(row)) } } }
            @for (index, measured) in row.results.iter().enumerate() {
                @let share = measured.share.unwrap_or(0.0);
                @let value = if by_share { share } else { rate(row, measured.seconds.median) };
                @let id = format!("{suite}-{number}-{index}");
                (line(&id, &colour(index), value, full, &figures(row, measured)))
            }
            @for (index, (peer, seconds)) in beside(&report.peers, row).enumerate() {
                @let value = if by_share { 0.0 } else { rate(row, seconds) };
                @let words = peer_words(report, row, peer, seconds);
                (line(&format!("{suite}-{number}-p{index}"), "plan", value, full, &words))
            }
        }
    }
}

fn colour(index: usize) -> String {
    format!("r{}", index % 8)
}

/// Calls, or tokens, a second.
fn rate(row: &Row, seconds: f64) -> f64 {
    row.tokens.unwrap_or(1) as f64 / seconds
}

fn fastest(report: &Report, row: &Row) -> f64 {
    let ours = row.results.iter().map(|measured| measured.seconds.median);
    let all = ours.chain(beside(&report.peers, row).map(|(_, seconds)| seconds));
    all.map(|seconds| rate(row, seconds)).fold(0.0, f64::max)
}

/// A bar with what it stands for; a value beyond the full width fills it.
fn line(id: &str, colour: &str, value: f64, full: f64, words: &str) -> Markup {
    let described = Words {
        id: id.to_owned(),
        title: words.to_owned(),
        describes: words.to_owned(),
        across: String::new(),
    };
    html! {
        p class="bar-name" { (swatch(colour)) (words) }
        (bar(&described, full, &[(colour.to_owned(), value.min(full))]))
    }
}

fn limit(row: &Row) -> &'static str {
    match row.results.first().and_then(|measured| measured.limit) {
        Some(Limit::Compute) => "f32 peak",
        Some(Limit::Memory) => "reading memory",
        None => "",
    }
}

/// Time, spread, ratio, rate and share in words.
fn figures(row: &Row, measured: &Measured) -> String {
    let mut parts = vec![
        measured.contender.clone(),
        format!("{} ±{:.0} %", time(measured.seconds.median), 100.0 * measured.seconds.noise()),
    ];
    if let Some(tokens) = measured.tokens_per_second {
        parts.push(format!("{} tokens/s", three(tokens)));
    }
    if row.work.flops > 0 {
        parts.push(format!("{} GFLOP/s", three(measured.flops_per_second / 1e9)));
    } else {
        parts.push(format!("{} GB/s", three(measured.bytes_per_second / 1e9)));
    }
    parts.push(format!("×{:.2}", measured.ratio.median));
    if let Some(share) = measured.share {
        parts.push(format!("{:.0} % of the limit", 100.0 * share));
    }
    if let Some(planned) = measured.planned_bytes {
        parts.push(format!("{} planned", bytes(planned)));
    }
    parts.join(" · ")
}

fn peer_words(report: &Report, row: &Row, peer: &Peer, seconds: f64) -> String {
    let mut parts = vec![peer.name.clone()];
    if let Some(threads) = peer.threads {
        parts.push(format!("{threads} thread{}", if threads == 1 { "" } else { "s" }));
    }
    parts.push(time(seconds));
    if row.tokens.is_some() {
        parts.push(format!("{} tokens/s", three(rate(row, seconds))));
    }
    for (measured, about) in row.results.iter().zip(&report.contenders) {
        if peer.threads.is_none_or(|threads| threads == about.threads) {
            let ratio = measured.seconds.median / seconds;
            parts.push(format!("{} takes ×{ratio:.2}", measured.contender));
        }
    }
    parts.join(" · ")
}

/// `12.3 µs`, `4.56 ms`, `1.23 s`.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{} µs", three(s * 1e6)),
        s if s < 1.0 => format!("{} ms", three(s * 1e3)),
        s => format!("{} s", three(s)),
    }
}

fn memory(rows: &[MemoryRow]) -> Markup {
    let inside = html! {
        div class="scroll" { table {
            thead { tr {
                th { "run" } th { "contender" } th { "planned" } th { "charged" } th { "grown" }
                th { "beyond the plan" }
            } }
            tbody { @for row in rows { tr {
                th { (row.name) }
                td { (row.contender) }
                td title={ (whole(row.planned_bytes)) " bytes" } { (bytes(row.planned_bytes)) }
                td { (bytes(row.charged_bytes)) }
                td { (row.grown_bytes.map_or(NONE.into(), bytes)) }
                td { (beyond(row)) }
            } } }
        } }
    };
    let remark = "Planned before anything was reserved, charged to the ledger at its peak, and by \
                  how much the anonymous memory of the process grew.";
    card("wide", "Memory", remark, &inside)
}

fn gradients(rows: &[GradientRow]) -> Markup {
    let inside = html! {
        div class="scroll" { table {
            thead { tr {
                th { "gradient" } th { "contender" } th { "cosine" } th { "relative error" }
                th { "planned" } th { "charged" } th { "an update" }
            } }
            tbody { @for row in rows { tr {
                th { (row.name) }
                td { (row.contender) }
                td { (format!("{:.7}", row.cosine)) }
                td { (format!("{:.2e}", row.relative_error)) }
                td title={ (whole(row.planned_bytes)) " bytes" } { (bytes(row.planned_bytes)) }
                td { (bytes(row.charged_bytes)) }
                td { (time(row.seconds)) }
            } } }
        } }
    };
    let remark = "Gradients of one batch beside the exact one, which is the first contender's with \
                  block inputs kept as they are; memory with an optimizer without state.";
    card("wide", "Gradients", remark, &inside)
}

fn papers(rows: &[PaperRow]) -> Markup {
    let inside = html! {
        div class="scroll" { table {
            thead { tr {
                th { "setting" } th { "tokens" } th { "contender" } th { "published" }
                th { "planned" } th { "share" } th { "charged" } th { "grown" }
                th { "with base" } th { "an update" }
            } }
            tbody { @for row in rows { tr {
                th { (row.model) ", " (row.terms) }
                td { (row.tokens) }
                td { (row.contender) }
                td { (row.published_bytes.map_or(NONE.into(), bytes)) }
                td title={ (whole(row.planned_bytes)) " bytes" } { (bytes(row.planned_bytes)) }
                td { (share(row).map_or(NONE.into(), |share| format!("{:.0} %", 100.0 * share))) }
                td { (row.run.map_or(NONE.into(), |run| bytes(run.charged_bytes))) }
                td { (row.run.and_then(|run| run.grown_bytes).map_or(NONE.into(), bytes)) }
                td { (row.run.and_then(|run| run.resident_bytes).map_or(NONE.into(), bytes)) }
                td { (row.run.map_or("planned alone".into(), |run| time(run.seconds))) }
            } } }
        } }
    };
    let remark = "The leanest plan for each setting, over weights of random numbers, which are \
                  apart as they are in the papers.";
    card("wide", "Published tables", remark, &inside)
}

/// Our plan as a share of the published figure.
fn share(row: &PaperRow) -> Option<f64> {
    row.published_bytes.map(|published| row.planned_bytes as f64 / published as f64)
}

fn beyond(row: &MemoryRow) -> String {
    let Some(grown) = row.grown_bytes else { return NONE.into() };
    match grown.checked_sub(row.planned_bytes) {
        Some(more) => format!("+{}", bytes(more)),
        None => format!("−{}", bytes(row.planned_bytes - grown)),
    }
}

mod tradeoff;

#[cfg(test)]
mod tests;
