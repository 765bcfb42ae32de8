//! What sites promise: a table of layers and kinds of linears, and what to make of it.

use std::collections::BTreeMap;
use std::fmt::Write;

use lowtide::train::{BudgetReport, PlanReport, Proposal, SensitivityReport};

use super::number::{bytes, count, counted, percent};
use super::{Facts, line};

/// Width of the longest bar.
const BAR: usize = 24;

/// The table, the proposal, and the ranks that were chosen, if any were.
pub(crate) fn sensitivity(report: &SensitivityReport) -> String {
    let mut text = table(report);
    text.push('\n');
    match &report.budget {
        Some(budget) => text.push_str(&chosen(budget)),
        None => text.push_str(&proposed(&report.proposal)),
    }
    text
}

/// Layers from top to bottom, in per mille of what all sites promise.
fn table(report: &SensitivityReport) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    let mut layers: BTreeMap<usize, BTreeMap<&str, f64>> = BTreeMap::new();
    for site in &report.sites {
        let kind = site.name.rsplit('.').next().unwrap_or(&site.name);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
        *layers.entry(site.layer).or_default().entry(kind).or_default() += site.share;
    }
    let all = |row: &BTreeMap<&str, f64>| row.values().sum::<f64>();
    let most = layers.values().map(all).fold(f64::MIN_POSITIVE, f64::max);
    let probes = counted(report.probes as u64, "probe");
    let of = counted(report.sequences as u64, "sequence");
    let held = bytes(report.peak_bytes);
    let mut text = format!(
        "Sensitivity: what each linear promises, in per mille of all\n  from the gradients of \
         {probes}, {of}, which held {held}\n"
    );
    let width = kinds.iter().map(|kind| kind.len()).max().unwrap_or(0).max(5) + 2;
    let mut head = format!("  {:>5}", "layer");
    kinds.iter().for_each(|kind| write!(head, "{kind:>width$}").expect("a string takes any text"));
    line(&mut text, &format!("{head}{:>8}", "all"));
    for (layer, row) in layers.iter().rev() {
        let mut cells = format!("  {layer:>5}");
        for kind in &kinds {
            let cell = row.get(kind).map_or_else(|| "-".into(), |share| per_mille(*share));
            write!(cells, "{cell:>width$}").expect("a string takes any text");
        }
        let bar = "█".repeat((BAR as f64 * all(row) / most).round() as usize);
        line(&mut text, &format!("{cells}{:>8}  {bar}", per_mille(all(row))));
    }
    text
}

fn per_mille(share: f64) -> String {
    format!("{:.1}", 1000.0 * share)
}

fn proposed(proposal: &Proposal) -> String {
    if !proposal.freezes() {
        return "Proposal: freeze nothing, since no layer and no kind of linear can be left out and \
                90 % of the promise kept\n"
            .to_owned();
    }
    let Proposal { layers, target_modules, share, parameters } = proposal;
    let keeps = format!(
        "{} of what is promised, with {} of the numbers",
        percent(*share, 1.0),
        percent(*parameters, 1.0)
    );
    let mut facts = Facts::default();
    facts.add("flags", format!("--layers {layers} --target-modules {target_modules}"));
    facts.add("keeps", keeps);
    facts.under("Proposal: freeze the rest")
}

fn chosen(budget: &BudgetReport) -> String {
    let sites = counted(budget.sites as u64, "linear");
    let mut facts = Facts::default();
    facts
        .add("bytes", format!("{} of {}", count(budget.bytes), count(budget.budget)))
        .add("adapter", format!("on {sites}; {} get none", count(budget.frozen as u64)))
        .add("keeps", format!("{} of what is promised", percent(budget.share, 1.0)));
    let mut label = "ranks";
    for (pattern, rank) in budget.rank_pattern.iter().filter(|(_, rank)| *rank > 0) {
        facts.add(label, format!("{pattern} = {rank}"));
        label = "";
    }
    facts.under("Ranks for the adapter's budget")
}

/// What a run with the proposal would hold and take, beside the run as it is.
pub(crate) fn saved(all: &PlanReport, proposed: &PlanReport) -> String {
    let mut facts = Facts::default();
    let from_to = |from: String, to: String| format!("{from} instead of {to}");
    let (peak, time) =
        (|p: &PlanReport| bytes(p.planned_peak_bytes), |p: &PlanReport| p.work_per_update as f64);
    facts
        .add("held", from_to(peak(proposed), peak(all)))
        .add("saved", from_to(bytes(proposed.adapter_bytes), bytes(all.adapter_bytes)))
        .add("an update", format!("{} of the work", percent(time(proposed), time(all))));
    facts.under("What the proposal takes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leaves_something_out_is_proposed() {
        let proposal = |parameters| Proposal {
            layers: "last:2".into(),
            target_modules: "v_proj".into(),
            share: 0.93,
            parameters,
        };
        let some = proposed(&proposal(0.25));
        assert!(some.starts_with("Proposal: freeze the rest\n  flags         --layers last:2 "));
        let none = proposed(&proposal(1.0));
        assert!(none.starts_with("Proposal: freeze nothing") && !none.contains("--"), "{none}");
    }
}
