//! What was held and what was learned, as a picture and a table.

use lowtide_train::report::number::{NONE, bytes, whole};
use lowtide_train::report::parts::{card, legend};
use lowtide_train::report::{Mark, Words, scatter};
use maud::{Markup, html};

use super::{colour, time};
use crate::TradeoffRow;

const MIB: f64 = (1_u64 << 20) as f64;

/// The card with both.
pub(super) fn card_of(rows: &[TradeoffRow]) -> Markup {
    let mut levers: Vec<&str> = Vec::new();
    for row in rows {
        if !levers.contains(&row.lever.as_str()) {
            levers.push(&row.lever);
        }
    }
    let place = |lever: &str| levers.iter().position(|known| *known == lever).unwrap_or(0);
    let names: Vec<_> = levers.iter().map(|lever| (colour(place(lever)), *lever)).collect();
    let entries: Vec<_> = names.iter().map(|(c, name)| (c.as_str(), (*name).to_owned())).collect();
    let marks: Vec<_> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| Mark {
            colour: colour(place(&row.lever)),
            label: (index + 1).to_string(),
            tip: tip(index, row),
            at: (held(row) as f64 / MIB, row.loss_after.unwrap_or(f64::NAN)),
        })
        .collect();
    let words = Words {
        id: "tradeoff".into(),
        title: "Held-out loss over memory".into(),
        describes: rows
            .iter()
            .enumerate()
            .map(|(i, row)| tip(i, row))
            .collect::<Vec<_>>()
            .join("; "),
        across: "held and weights, MiB".into(),
    };
    let inside = html! {
        (legend(&entries))
        (scatter(&words, &marks))
        (table(rows))
    };
    let remark = "The same short run with one lever moved at a time: the same data, seed and \
                  number of updates. Up is the held-out loss after it; across is what was held, \
                  with the mapped weights.";
    card("wide", "Memory against held-out loss", remark, &inside)
}

/// What was held, and the weights.
fn held(row: &TradeoffRow) -> u64 {
    row.charged_bytes + row.mapped_bytes
}

fn tip(index: usize, row: &TradeoffRow) -> String {
    let (charged, mapped) = (bytes(row.charged_bytes), bytes(row.mapped_bytes));
    let (number, TradeoffRow { lever, choice, .. }) = (index + 1, row);
    let loss = loss(row.loss_after);
    format!(
        "{number} · {lever} {choice}: {charged} held, {mapped} of weights, held-out loss {loss}"
    )
}

fn loss(loss: Option<f64>) -> String {
    loss.map_or(NONE.into(), |loss| format!("{loss:.4}"))
}

fn table(rows: &[TradeoffRow]) -> Markup {
    html! {
        div class="scroll" { table {
            thead { tr {
                th { "run" } th { "plan" } th { "planned" } th { "held" } th { "weights" }
                th { "loss before" } th { "loss after" } th { "an update" }
            } }
            tbody { @for (index, row) in rows.iter().enumerate() { tr {
                th {
                    (index + 1) " · " (row.lever) " " (row.choice)
                    @if row.approximate() { " (approximate)" }
                }
                td { (row.plan) }
                td title={ (whole(row.planned_bytes)) " bytes" } { (bytes(row.planned_bytes)) }
                td { (bytes(row.charged_bytes)) }
                td { (bytes(row.mapped_bytes)) }
                td { (loss(row.loss_before)) }
                td { (loss(row.loss_after)) }
                td { (row.seconds.map_or(NONE.into(), time)) }
            } } }
        } }
    }
}
