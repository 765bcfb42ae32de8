//! Several runs on one page.

use maud::{Markup, html};

use super::Run;
use super::axis::Axis;
use super::chart::{self, Drawn, Series, Words};
use super::number::{NONE, bytes, joules, loss, three, time, whole};
use super::parts::{STACK, card, colour, document, footer, legend, spoken, swatch};
use super::smooth::smoothed;

/// How many colours tell runs apart; further runs begin again with the first.
const COLOURS: usize = 8;

/// The text of a page that compares runs.
#[must_use]
pub fn comparison(runs: &[Run]) -> String {
    let names = names(runs);
    let body = html! {
        header {
            h1 { (runs.len()) " runs compared" }
            p { (names.join(" · ")) }
        }
        div class="cards" {
            (table(runs, &names))
            (losses(runs, &names))
            (memory(runs, &names))
        }
        (footer(env!("CARGO_PKG_VERSION")))
    };
    document(&format!("{} runs · Lowtide report", runs.len()), &body)
}

/// Each run by its folder: the last part of it where that tells all of them apart.
fn names(runs: &[Run]) -> Vec<String> {
    let whole = |run: &Run| run.folder.display().to_string();
    let last = |run: &Run| super::parts::name(&run.folder);
    let mut short: Vec<_> = runs.iter().map(last).collect();
    short.sort();
    short.dedup();
    let apart = short.len() == runs.len();
    runs.iter().map(|run| if apart { last(run) } else { whole(run) }).collect()
}

fn run_colour(index: usize) -> String {
    format!("r{}", index % COLOURS)
}

/// A row a figure, a column a run.
fn table(runs: &[Run], names: &[String]) -> Markup {
    type Figure = (&'static str, fn(&Run) -> String);
    let figures: [Figure; 18] = [
        ("base", |run| super::parts::name(&run.settings.model)),
        ("data", |run| super::parts::name(&run.settings.data)),
        ("method", |run| format!("{}, rank {}", run.settings.method, run.settings.rank)),
        ("learning rate", |run| format!("{:e}, {}", run.settings.lr, run.settings.lr_scheduler)),
        ("optimizer", |run| run.settings.optimizer.to_string()),
        ("policy", |run| run.summary.policy.clone()),
        ("updates", |run| whole(run.summary.steps)),
        ("tokens", |run| whole(run.summary.tokens)),
        ("held-out loss before", |run| told(run.summary.eval_loss_before, loss)),
        ("held-out loss after", |run| told(run.summary.eval_loss_after, loss)),
        ("training loss, last", |run| told(run.summary.loss_last, loss)),
        ("planned peak", |run| bytes(run.summary.planned_peak_bytes)),
        ("held peak", |run| bytes(run.summary.peak_bytes)),
        ("process (RssAnon)", |run| run.summary.rss_anon_peak_bytes.map_or(NONE.into(), bytes)),
        ("an update takes", |run| told(run.summary.seconds_per_step_median, time)),
        ("tokens a second", |run| told(run.summary.tokens_per_second, three)),
        ("rests and pauses", |run| time(run.summary.seconds_rested + run.summary.seconds_paused)),
        ("energy", |run| told(run.summary.energy_joules, joules)),
    ];
    let inside = html! {
        div class="scroll" {
            table class="runs" {
                thead {
                    tr { th {}
                        @for (index, name) in names.iter().enumerate() {
                            th scope="col" { (swatch(&run_colour(index))) (name) }
                        } }
                }
                tbody {
                    @for (label, figure) in figures {
                        tr { th scope="row" { (label) } @for run in runs { td { (figure(run)) } } }
                    }
                }
            }
        }
    };
    card("wide", "Figures", "", &inside)
}

fn told(value: Option<f64>, tell: fn(f64) -> String) -> String {
    value.map_or(NONE.into(), tell)
}

fn losses(runs: &[Run], names: &[String]) -> Markup {
    let mut series = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let tip = |x: f64, y: f64| format!("update {x}: {}", loss(y));
        let mut add = |drawn, points: Vec<(f64, f64)>| {
            if !points.is_empty() {
                series.push(Series { colour: run_colour(index), drawn, points, tip });
            }
        };
        let trained = run.updates.iter();
        let points: Vec<_> = trained.map(|u| (u.step as f64, u.loss.unwrap_or(f64::NAN))).collect();
        add(Drawn::Line, smoothed(&points).map_or(points, |smooth| smooth.points));
        add(Drawn::Marks, run.notes.evaluations.iter().map(|e| (e.step as f64, e.loss)).collect());
    }
    let points = || series.iter().flat_map(|one| one.points.iter());
    if points().next().is_none() {
        return html! {};
    }
    let across = Axis::whole(points().map(|(x, _)| *x), 6);
    let up = Axis::around(points().map(|(_, y)| *y), 5);
    let words = Words {
        id: "loss".into(),
        title: "Loss over updates, run by run".into(),
        describes: format!("Loss curves of {}.", names.join(", ")),
        across: "update".into(),
    };
    let colours: Vec<_> = (0..runs.len()).map(run_colour).collect();
    let entries: Vec<_> = colours.iter().map(String::as_str).zip(names.iter().cloned()).collect();
    let inside = html! { (chart::lines(&words, &across, &up, &series)) (legend(&entries)) };
    let remark =
        "Lines: training, many updates smoothed as in the page of each run. Marks: held out.";
    card("tall", "Loss", remark, &inside)
}

/// A bar a run, as long as its peak.
fn memory(runs: &[Run], names: &[String]) -> Markup {
    let full = runs.iter().map(|run| run.summary.peak_bytes).max().unwrap_or(0) as f64;
    let there =
        |run: &Run, name: &str| run.summary.peak_by_category.get(name).copied().unwrap_or(0);
    let categories: Vec<_> = STACK
        .iter()
        .map(|(category, _)| *category)
        .filter(|category| runs.iter().any(|run| there(run, category.name()) > 0))
        .collect();
    let colours: Vec<_> = categories.iter().map(|category| colour(*category)).collect();
    let entries: Vec<_> = colours
        .iter()
        .map(String::as_str)
        .zip(categories.iter().map(|category| spoken(*category)))
        .collect();
    let inside = html! {
        @for (index, (run, name)) in runs.iter().zip(names).enumerate() {
            @let size = bytes(run.summary.peak_bytes);
            p class="bar-name" { (swatch(&run_colour(index))) (name) b { (size) } }
            (chart::bar(
                &Words {
                    id: format!("bar-{index}"),
                    title: name.clone(),
                    describes: format!("{name} held {size} at its peak."),
                    across: String::new(),
                },
                full,
                &categories.iter().map(|category| {
                    (colour(*category), there(run, category.name()) as f64)
                }).collect::<Vec<_>>(),
            ))
        }
        (legend(&entries))
    };
    card("tall", "Memory held at the peak", "", &inside)
}
