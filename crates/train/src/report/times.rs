//! Where the time of an update goes: block by block, and by what is done.

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{self, Column, Words};
use super::number::{three, whole};
use super::parts::{card, swatch};
use crate::{BlockTimes, Times};

/// What takes time in a block: a name, a class for its colour, a part of the times.
type Kind = (&'static str, &'static str, fn(&BlockTimes) -> f64);

/// From the ground of a column upwards.
const KINDS: [Kind; 4] = [
    ("forward", "t-forward", |block| block.forward),
    ("forward again", "t-again", |block| block.again),
    ("backward", "t-backward", |block| block.backward),
    ("update", "t-update", |block| block.update),
];
const HEAD: &str = "t-head";

/// The card, or nothing where nothing was measured.
pub(super) fn times(times: &Times) -> Markup {
    if times.updates == 0 || times.blocks.is_empty() {
        return html! {};
    }
    let inside = html! {
        div class="memory" {
            div { (columns(times)) }
            div class="scroll" { (table(times)) }
        }
    };
    let of = match times.updates {
        1 => "One update, measured.".to_owned(),
        n => format!("The mean of {} updates that were reported.", whole(n)),
    };
    let remark = format!(
        "{of} Backward takes in what is computed again within a block; the head is logits, loss \
         and their gradient."
    );
    card("wide", "Time in the blocks", &remark, &inside)
}

fn columns(times: &Times) -> Markup {
    let total = |block: &BlockTimes| KINDS.iter().map(|(_, _, of)| of(block)).sum::<f64>();
    let blocks = times.blocks.iter().enumerate().map(|(index, block)| Column {
        tip: format!("block {index}: {}", time(total(block))),
        values: KINDS.iter().map(|(_, _, of)| 1e3 * of(block)).chain([0.0]).collect(),
    });
    let head = Column {
        tip: format!("head: {}", time(times.head)),
        values: [0.0; KINDS.len()].into_iter().chain([1e3 * times.head]).collect(),
    };
    let columns: Vec<_> = blocks.chain([head]).collect();
    let mut up = Axis::from_zero(columns.iter().map(|column| column.values.iter().sum()), 5);
    up.ticks.iter_mut().skip(1).for_each(|(_, label)| label.push_str(" ms"));
    let colours: Vec<_> =
        KINDS.iter().map(|(_, colour, _)| *colour).chain([HEAD]).map(str::to_owned).collect();
    let slowest = times.blocks.iter().map(total).enumerate();
    let (at, most) = slowest.fold((0, 0.0), |most, one| if one.1 > most.1 { one } else { most });
    let words = Words {
        id: "times".into(),
        title: "Time of an update by block".into(),
        describes: format!(
            "Stacked columns of {} blocks and the head, from the bottom. The slowest block is {at} \
             with {}; the head takes {}.",
            times.blocks.len(),
            time(most),
            time(times.head),
        ),
        across: "block, from the bottom, and the head".into(),
    };
    let phases = [("blocks".to_owned(), times.blocks.len()), ("head".to_owned(), 1)];
    chart::stack(&words, &up, &colours, &columns, &phases, &[])
}

fn table(times: &Times) -> Markup {
    let sum = |of: fn(&BlockTimes) -> f64| times.blocks.iter().map(of).sum::<f64>();
    let mut rows: Vec<_> =
        KINDS.iter().map(|(name, colour, of)| (*name, *colour, sum(*of))).collect();
    rows.push(("head", HEAD, times.head));
    let all: f64 = rows.iter().map(|(_, _, seconds)| seconds).sum();
    html! {
        table class="sizes" {
            thead {
                tr { th scope="col" { "In an update" } th scope="col" { "time" }
                    th scope="col" { "share" } }
            }
            tbody {
                @for (name, colour, seconds) in rows.iter().filter(|(_, _, s)| *s > 0.0) {
                    tr {
                        th scope="row" { (swatch(colour)) (name) }
                        td { (time(*seconds)) }
                        td { (format!("{:.1} %", 100.0 * seconds / all)) }
                    }
                }
                tr class="sum" { th scope="row" { "in all" } td { (time(all)) } td {} }
            }
        }
    }
}

fn time(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{} ms", three(1e3 * seconds))
    } else {
        super::number::time(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(forward: f64, backward: f64) -> BlockTimes {
        BlockTimes { forward, again: 0.0, backward, update: 0.001 }
    }

    #[test]
    fn times_are_shown_block_by_block() {
        let blocks = vec![block(0.010, 0.019), block(0.010, 0.029)];
        let page = times(&Times { updates: 3, blocks, head: 0.03 }).into_string();
        for part in [
            "The mean of 3 updates that were reported.",
            "The slowest block is 1 with 40.0 ms; the head takes 30.0 ms.",
            "<title>block 0: 30.0 ms</title>",
            "<title>head: 30.0 ms</title>",
            "<td>48.0 ms</td><td>48.0 %</td>",
            "<td>100 ms</td>",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("forward again"), "{page}");
    }

    #[test]
    fn without_times_there_is_no_card() {
        assert_eq!(times(&Times::default()).into_string(), "");
    }
}
