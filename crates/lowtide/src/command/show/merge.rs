//! What merging wrote, and how much of the adapter is in it.

use lowtide::convert::{ChangeReport, Kept};
use lowtide::runtime::MergeReport;

use super::number::counted;
use super::{Facts, amounts, conversion};
use crate::command::merge::Losses;

/// Below this share, the report says how to keep more of the update.
const LITTLE: f64 = 0.9;

/// The result of `lowtide merge`; with `every`, each tensor by itself.
pub(crate) fn report(report: &MergeReport, every: bool) -> String {
    let mut facts = conversion::facts(&report.conversion);
    if report.minima_only > 0 {
        let tensors = counted(report.minima_only as u64, "tensor");
        facts.add("minima", format!("moved in {tensors}; codes and scales are the base's"));
    }
    if report.update_survived < LITTLE {
        let note = "the weights written are too coarse for a part of the update; a --type of more \
                    bits holds more of it, and so does the adapter beside its base";
        facts.add("note", note);
    }
    let text = facts.under("Merged");
    let sum = (report.update_norm, report.update_survived, report.update_error);
    let mut rows: Vec<(String, String, String)> = if every {
        report.updates.iter().map(|own| row(&own.tensor, of(own.kept), own.kind)).collect()
    } else {
        by_module(&report.updates)
    };
    let title = format!("Update of {}: share that survived rounding", report.method);
    rows.push(row("in all", sum, &counted(report.updates.len() as u64, "tensor")));
    let rows: Vec<_> = rows.iter().map(|(a, b, c)| (a.as_str(), b.clone(), c.clone())).collect();
    text + &amounts(&title, &rows)
}

/// The loss before merging and after it.
pub(crate) fn losses(losses: &Losses) -> String {
    let Losses { adapted, merged } = losses;
    let mut facts = Facts::default();
    facts.add("with adapter", format!("{:.6}", adapted.loss));
    facts.add("merged", format!("{:.6}", merged.loss));
    facts.add("difference", format!("{:+.2e}", merged.loss - adapted.loss));
    let tokens = counted(merged.labelled_tokens, "labelled token");
    facts.under(&format!("Loss on {tokens}"))
}

/// One row for all layers' modules of one name, in the order in which they first come.
fn by_module(updates: &[ChangeReport]) -> Vec<(String, String, String)> {
    let mut sums: Vec<(&str, Kept, u64)> = Vec::new();
    for update in updates {
        let mut parts = update.hf_name.rsplit('.');
        let (leaf, module) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let name = if leaf == "weight" { module } else { update.hf_name.as_str() };
        match sums.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, kept, count)) => {
                *kept = kept.plus(update.kept);
                *count += 1;
            }
            None => sums.push((name, update.kept, 1)),
        }
    }
    let row_of =
        |(name, kept, count): &(&str, Kept, u64)| row(name, of(*kept), &counted(*count, "tensor"));
    sums.iter().map(row_of).collect()
}

fn of(kept: Kept) -> (f64, f64, f64) {
    (kept.update_norm(), kept.survived(), kept.error())
}

fn row(name: &str, sum: (f64, f64, f64), remark: &str) -> (String, String, String) {
    let (norm, survived, error) = sum;
    let error = match error {
        0.0 => "nothing was rounded".to_owned(),
        e if e < 1e-3 => format!("rounding is {e:.1e} of it"),
        e => format!("rounding is {:.1} % of it", 100.0 * e),
    };
    let share = format!("{:.2} %", 100.0 * survived);
    (name.to_owned(), share, format!("of norm {norm:.4}, {error}, {remark}"))
}
