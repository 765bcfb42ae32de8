//! The page of one run.

use std::time::{Duration, UNIX_EPOCH};

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{self, Drawn, Series, Words};
use super::number::{NONE, bytes, change, joules, loss, three, time, whole};
use super::parts::{card, carried, document, footer, legend, name, tile, title};
use super::smooth::{Smoothed, smoothed};
use super::{Reported, Run, Sample, memory, times};
use crate::Summary;

/// The text of a run's page.
#[must_use]
pub fn page(run: &Run) -> String {
    let body = html! {
        header {
            h1 { (title(run)) }
            p { (subtitle(run)) }
            @if run.notes.interrupted {
                p class="warning" {
                    "Stopped before its last update; what it had learned is saved."
                }
            }
        }
        dl class="tiles" { (tiles(run)) }
        div class="cards" {
            (curves(run))
            (memory::memory(run))
            (times::times(&run.notes.times))
            (samples(&run.notes.samples))
            section class="card wide" {
                details { summary { h2 { "Resolved configuration" } }
                    pre { code { (run.settings.to_toml()) } } }
            }
        }
        (footer(&run.notes.version))
        (carried(&run.notes))
    };
    document(&format!("{} · Lowtide report", title(run)), &body)
}

fn subtitle(run: &Run) -> String {
    let (settings, notes) = (&run.settings, &run.notes);
    let mut parts =
        vec![format!("{}, rank {}, alpha {}", settings.method, settings.rank, settings.alpha)];
    if notes.sites > 0 {
        parts[0].push_str(&format!(", on {} linears", whole(notes.sites as u64)));
    }
    parts.push(name(&settings.data));
    let updates = run.summary.steps;
    parts.push(format!("{} update{}", whole(updates), if updates == 1 { "" } else { "s" }));
    parts.extend(notes.ended.and_then(date));
    parts.join(" · ")
}

/// `2026-11-22 02:05 UTC`; nothing for a time that no calendar has.
fn date(seconds: u64) -> Option<String> {
    // Year 9999 is the last with four digits.
    let time = UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .filter(|_| seconds < 253_402_300_800)?;
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let (day, clock) = text.split_once('T')?;
    Some(format!("{day} {} UTC", clock.get(..5)?))
}

fn tiles(run: &Run) -> Markup {
    let s = &run.summary;
    let total = s.tokens_per_second.filter(|rate| *rate > 0.0).map(|rate| s.tokens as f64 / rate);
    let each = s.seconds_per_step_median.map(|each| format!("{} an update", time(each)));
    let as_planned = match s.peak_bytes == s.planned_peak_bytes {
        true => "as planned, to the byte".to_owned(),
        false => format!("planned {}", bytes(s.planned_peak_bytes)),
    };
    let speed = s.tokens_per_second.map(|rate| format!("{} tokens/s", three(rate)));
    let speed = speed.unwrap_or(NONE.into());
    let plural = if s.threads == 1 { "" } else { "s" };
    let arithmetic = match s.compute.as_str() {
        "" => String::new(),
        compute => format!(" in {compute}"),
    };
    let computing = format!("{}{arithmetic}, {} thread{plural}", s.backend, s.threads);
    let over = s.rss_anon_peak_bytes.map(|anon| anon.saturating_sub(s.peak_bytes));
    html! {
        @if s.eval_loss_before.is_some() || s.eval_loss_after.is_some() {
            (change_tile("Held-out loss", s.eval_loss_before, s.eval_loss_after))
        }
        (change_tile("Training loss", s.loss_first, s.loss_last))
        @if let Some(error) = &s.softmax_error {
            @let off = format!("gradient cosine {:.6} to the exact one", error.gradient_cosine);
            (tile("Softmax", &format!("{}, approximate", s.softmax), &off))
        }
        @if let Some(how) = shortcut(&s.gradient) {
            (tile("Gradient", &format!("{}, approximate", s.gradient), how))
        }
        @if let Some(window) = s.sliding_window {
            (tile("Sliding window", &format!("{} tokens", whole(window as u64)),
                "the most that a token sees in any layer"))
        }
        (tile("Peak memory held", &bytes(s.peak_bytes), &as_planned))
        @if let (Some(anon), Some(over)) = (s.rss_anon_peak_bytes, over) {
            @let beyond = format!("{} beyond the plan", bytes(over));
            (tile("Process (RssAnon)", &bytes(anon), &beyond))
        }
        (tile("Time in updates", &total.map_or(NONE.into(), time), &each.unwrap_or_default()))
        (tile("Speed", &speed, &computing))
        @if let Some(energy) = s.energy_joules {
            (tile("Energy", &joules(energy), &drawn(s)))
        }
        (tile("Trained", &whole(s.trainable_parameters as u64), "numbers in the adapter"))
        @if let Some(left) = &s.ranks {
            @let none = match left.left_out {
                0 => String::new(),
                some => format!(", {} linears left out", whole(some as u64)),
            };
            @let range = format!("{} to {}{none}", left.smallest, left.largest);
            @let asked = left.not_reached();
            @let asked = asked.map_or_else(String::new, |asked| format!(", {asked} asked for"));
            (tile("Rank at the end", &format!("{:.2} on average{asked}", left.average), &range))
        }
        (tile("Learned from", &format!("{} tokens", whole(s.tokens)),
            &format!("{} of them labelled", whole(s.labelled_tokens))))
    }
}

/// What counted the energy, and what a token took of it.
fn drawn(summary: &Summary) -> String {
    let what = match summary.energy_source.as_deref() {
        Some("rapl") => "of the processor",
        _ => "of the machine",
    };
    match (summary.energy_joules, summary.tokens) {
        (Some(energy), tokens @ 1..) => {
            format!("{what}, {} a thousand tokens", joules(1e3 * energy / tokens as f64))
        }
        _ => what.to_owned(),
    }
}

/// What an approximate gradient is made of; none for the gradient itself.
fn shortcut(gradient: &str) -> Option<&'static str> {
    match gradient {
        "mezo" => Some("two losses in a random direction"),
        "partial" => Some("backward through a few drawn blocks"),
        _ => None,
    }
}

fn change_tile(name: &str, before: Option<f64>, after: Option<f64>) -> Markup {
    let told = |value: Option<f64>| value.map_or(NONE.into(), loss);
    let share = before.zip(after).and_then(|(before, after)| change(before, after));
    tile(name, &format!("{} → {}", told(before), told(after)), &share.unwrap_or_default())
}

/// Loss, and beside it what drives it.
fn curves(run: &Run) -> Markup {
    let inside = html! {
        div class="curves" {
            div { (losses(run)) }
            div { (rate_and_norm(run)) }
        }
    };
    card("wide", "Loss", "", &inside)
}

fn losses(run: &Run) -> Markup {
    let points = points(&run.updates, |update| update.loss);
    let held_out: Vec<_> = run.notes.evaluations.iter().map(|e| (e.step as f64, e.loss)).collect();
    if points.is_empty() && held_out.is_empty() {
        return html! {};
    }
    let all = || points.iter().chain(&held_out).copied();
    let across = Axis::whole(all().map(|(x, _)| x), 6);
    let up = Axis::around(all().map(|(_, y)| y), 5);
    let describes = match (run.summary.loss_first, run.summary.loss_last) {
        (Some(first), Some(last)) => format!(
            "Training loss goes from {} to {} in {} updates.{}",
            loss(first),
            loss(last),
            run.summary.steps,
            held_out_words(&held_out),
        ),
        _ => held_out_words(&held_out).trim_start().to_owned(),
    };
    let mut series = Vec::new();
    let mut entries = Vec::new();
    let training = "mean of an update's labelled tokens, before it";
    if let Some(Smoothed { weight, points: smooth }) = smoothed(&points) {
        series.push(of("train", Drawn::Faint, points));
        series.push(of("train", Drawn::Line, smooth));
        entries.push(("train", format!("training, and smoothed by {weight:.2}: {training}")));
    } else if !points.is_empty() {
        series.push(of("train", Drawn::Line, points));
        entries.push(("train", format!("training: {training}")));
    }
    if !held_out.is_empty() {
        series.push(of("held-out", Drawn::Marks, held_out));
        entries.push(("held-out", "held out: mean of all its labelled tokens".into()));
    }
    let words = Words {
        id: "loss".into(),
        title: "Loss over updates".into(),
        describes,
        across: "update".into(),
    };
    html! { (chart::lines(&words, &across, &up, &series)) (legend(&entries)) }
}

fn of(colour: &str, drawn: Drawn, points: Vec<(f64, f64)>) -> Series {
    let tip = |x: f64, y: f64| format!("update {x}: {}", loss(y));
    Series { colour: colour.into(), drawn, points, tip }
}

fn held_out_words(points: &[(f64, f64)]) -> String {
    match points {
        [(_, first), .., (_, last)] => {
            format!(" Held-out loss goes from {} to {}.", loss(*first), loss(*last))
        }
        _ => String::new(),
    }
}

fn rate_and_norm(run: &Run) -> Markup {
    let rate = points(&run.updates, |update| update.lr);
    let norm = points(&run.updates, |update| update.grad_norm);
    let clip = clip(run).filter(|_| !norm.is_empty());
    let says = match clip {
        Some(clip) => clipped(&norm, clip),
        None => String::new(),
    };
    // A line far above the others would leave them no room.
    let rule = clip.filter(|clip| *clip <= 4.0 * highest(&norm));
    let line = |colour: &str, points, tip| Series {
        colour: colour.into(),
        drawn: Drawn::Line,
        points,
        tip,
    };
    let rate = line("rate", rate, |x, y| format!("update {x}: {y:.2e}"));
    let norm = line("norm", norm, |x, y| format!("update {x}: {}", three(y)));
    html! {
        (small("rate", "Learning rate", rate, None, ""))
        (small("norm", "Gradient norm before clipping", norm, rule, &says))
    }
}

/// A small chart of one line, with a rule across it, and a sentence under it.
fn small(id: &str, name: &str, line: Series, rule: Option<f64>, says: &str) -> Markup {
    if line.points.is_empty() {
        return html! {};
    }
    let across = Axis::whole(line.points.iter().map(|(x, _)| *x), 6);
    let up = Axis::from_zero(line.points.iter().map(|(_, y)| *y).chain(rule), 4);
    let words = Words {
        id: id.into(),
        title: format!("{name} over updates"),
        describes: format!("The highest is {:.3e}. {says}", highest(&line.points)).trim().into(),
        across: "update".into(),
    };
    let ends = [across.low, across.high];
    let rule = rule.map(|at| Series {
        colour: "budget".into(),
        drawn: Drawn::Rule,
        points: ends.map(|x| (x, at)).into(),
        tip: |_, y| three(y),
    });
    let series: Vec<_> = std::iter::once(line).chain(rule).collect();
    html! {
        h3 { (name) }
        (chart::lines(&words, &across, &up, &series))
        @if !says.is_empty() { p class="under" { (says) } }
    }
}

fn highest(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|(_, y)| *y).filter(|y| y.is_finite()).fold(0.0, f64::max)
}

/// The norm that all gradients together were scaled down to.
fn clip(run: &Run) -> Option<f64> {
    let whole = ["whole", "two-pass"].contains(&run.summary.clipping.as_str());
    Some(run.settings.max_grad_norm).filter(|norm| whole && *norm > 0.0)
}

/// How often the norm was above what it is clipped to.
fn clipped(norms: &[(f64, f64)], clip: f64) -> String {
    let above = norms.iter().filter(|(_, norm)| *norm > clip).count();
    let all = norms.iter().filter(|(_, norm)| norm.is_finite()).count();
    format!("Scaled down to {} in {above} of {all} updates shown.", three(clip))
}

/// What was measured, by update; nothing where nothing was.
fn points(updates: &[Reported], value: impl Fn(&Reported) -> Option<f64>) -> Vec<(f64, f64)> {
    if updates.iter().all(|update| value(update).is_none()) {
        return Vec::new();
    }
    let gap = f64::NAN;
    updates.iter().map(|update| (update.step as f64, value(update).unwrap_or(gap))).collect()
}

/// What stands over an answer.
fn after(sample: &Sample) -> &'static str {
    match sample.after.trim() == sample.expected.trim() {
        true => "After: as expected",
        false => "After",
    }
}

fn samples(samples: &[Sample]) -> Markup {
    if samples.is_empty() {
        return html! {};
    }
    let words = |name: &str, class: &str, text: &str| {
        html! {
            div class=(class) { h3 { (name) }
                pre { @if text.is_empty() { em { "nothing" } } @else { (text) } } }
        }
    };
    let inside = html! {
        @for sample in samples {
            div class="sample" {
                (words("Prompt", "prompt", &sample.prompt))
                (words("Before", "before", &sample.before))
                (words(after(sample), "after", &sample.after))
                (words("Expected", "expected", &sample.expected))
            }
        }
    };
    let remark = "Prompts that were not trained on, answered with the likeliest token each time.";
    card("wide", "Samples before and after", remark, &inside)
}
