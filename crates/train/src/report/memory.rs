//! Where the memory of a run goes: over one step, and as planned against as it was.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{self, Column, Level, Words};
use super::number::{NONE, bytes, unit};
use super::parts::{STACK, card, colour, spoken, swatch};
use super::{Run, Stretch};

/// A budget that dwarfs the plan by more is told in words only: drawn in, it would leave the areas
/// no room.
const BUDGET_SHOWN: u64 = 3;

/// The card, or nothing where no step was planned.
pub(super) fn memory(run: &Run) -> Markup {
    let drawn = if run.notes.course.is_empty() {
        html! {}
    } else {
        course(run)
    };
    let inside = html! {
        div class="memory" {
            @if !run.notes.course.is_empty() { div { (drawn) } }
            div class="scroll" { (table(run)) }
        }
    };
    let remark = if run.notes.course.is_empty() {
        "Bytes held at the peak."
    } else {
        "Bytes in use while one micro-batch goes forward and backward through the blocks. The \
         whole plan is reserved before the first step; nothing of size is allocated after it."
    };
    card("wide", "Memory over one step", remark, &inside)
}

/// Areas over the stretches of a step.
fn course(run: &Run) -> Markup {
    let course = &run.notes.course;
    let (planned, budget) = (run.summary.planned_peak_bytes, run.notes.memory_budget);
    let budget = budget.filter(|budget| *budget <= planned.saturating_mul(BUDGET_SHOWN));
    let fullest = course.iter().map(held).max().unwrap_or(0);
    let top = fullest.max(planned).max(budget.unwrap_or(0));
    let (size, name) = unit(top);
    let scaled = |n: u64| n as f64 / size;
    let mut up = Axis::from_zero([scaled(top)].into_iter(), 5);
    up.ticks.iter_mut().skip(1).for_each(|(_, label)| label.push_str(&format!(" {name}")));
    let colours: Vec<_> = STACK.iter().map(|(category, _)| colour(*category)).collect();
    let columns: Vec<_> = course
        .iter()
        .map(|stretch| Column {
            tip: format!("{}: {}", place(stretch, course), bytes(held(stretch))),
            values: STACK.iter().map(|(c, _)| scaled(of(&stretch.live, c.name()))).collect(),
        })
        .collect();
    let mut levels = vec![Level { colour: "plan", at: scaled(planned) }];
    levels.extend(budget.map(|budget| Level { colour: "budget", at: scaled(budget) }));
    let fullest_at = course.iter().rev().max_by_key(|stretch| held(stretch));
    let words = Words {
        id: "memory".into(),
        title: "Memory by category over one step".into(),
        describes: format!(
            "Stacked areas over {} stretches. The fullest is {} with {}; the plan's peak is {}.",
            course.len(),
            fullest_at.map_or_else(String::new, |stretch| place(stretch, course)),
            bytes(fullest),
            bytes(planned),
        ),
        across: "course of one step".into(),
    };
    chart::stack(&words, &up, &colours, &columns, &phases(course), &levels)
}

/// Planned against held, by category, and what the system says of the process.
fn table(run: &Run) -> Markup {
    let (summary, notes) = (&run.summary, &run.notes);
    let held = &summary.peak_by_category;
    let rows = STACK.iter().filter(|(category, _)| {
        of(&notes.planned, category.name()) > 0 || of(held, category.name()) > 0
    });
    let planned = |name: &str| match notes.planned.is_empty() {
        true => NONE.into(),
        false => bytes(of(&notes.planned, name)),
    };
    html! {
        table class="sizes" {
            thead {
                tr { th scope="col" { "At the peak" } th scope="col" { "planned" }
                    th scope="col" { "held" } }
            }
            tbody {
                @for (category, holds) in rows {
                    tr {
                        th scope="row" { (swatch(&colour(*category))) (spoken(*category))
                            small { (holds) } }
                        td { (planned(category.name())) }
                        td { (bytes(of(held, category.name()))) }
                    }
                }
                tr class="sum" {
                    th scope="row" { (swatch("plan")) "in all, the plan's peak" }
                    td { (bytes(summary.planned_peak_bytes)) }
                    td { (bytes(summary.peak_bytes)) }
                }
                @if let Some(budget) = notes.memory_budget {
                    tr { th scope="row" { (swatch("budget")) "budget" }
                        td { (bytes(budget)) } td {} }
                }
            }
            tbody class="system" {
                (row("process, anonymous", "as the system counts, with stacks and libraries",
                    summary.rss_anon_peak_bytes))
                (row("process, with files", "mapped pages included", summary.rss_peak_bytes))
                (row("base", "mapped; the system may evict it", Some(summary.mapped_bytes)))
            }
        }
        @if summary.peak_bytes == summary.planned_peak_bytes {
            p class="remark" { "Held as planned, to the byte." }
        }
    }
}

fn row(name: &str, holds: &str, size: Option<u64>) -> Markup {
    html! {
        tr { th scope="row" { (name) small { (holds) } } td {}
            td { (size.map_or(NONE.into(), bytes)) } }
    }
}

/// Named ranges of a course: as many stretches as follow each other in one phase.
fn phases(course: &[Stretch]) -> Vec<(String, usize)> {
    let mut phases: Vec<(String, usize)> = Vec::new();
    for stretch in course {
        match phases.last_mut() {
            Some((phase, count)) if *phase == stretch.phase => *count += 1,
            _ => phases.push((stretch.phase.clone(), 1)),
        }
    }
    phases
}

fn place(stretch: &Stretch, course: &[Stretch]) -> String {
    let alone = course.iter().filter(|other| other.phase == stretch.phase).count() == 1;
    match alone {
        true => stretch.phase.clone(),
        false => format!("{}, block {}", stretch.phase, stretch.segment),
    }
}

fn held(stretch: &Stretch) -> u64 {
    let sizes = STACK.iter().map(|(category, _)| of(&stretch.live, category.name()));
    sizes.fold(0, u64::saturating_add)
}

fn of(sizes: &BTreeMap<String, u64>, name: &str) -> u64 {
    sizes.get(name).copied().unwrap_or(0)
}
