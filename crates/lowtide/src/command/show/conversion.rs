//! What a conversion wrote.

use lowtide::convert::{AdapterReport, LoftqReport, MatrixReport, Report};

use super::number::{bytes, count, counted};
use super::{Facts, amounts};

/// The result of `lowtide convert`.
pub(crate) fn report(report: &Report) -> String {
    facts(report).under("Converted")
}

/// What a conversion wrote, as facts.
pub(super) fn facts(report: &Report) -> Facts {
    let mut facts = Facts::default();
    let tensors = counted(report.tensors as u64, "tensor");
    facts.add("written", &report.output);
    facts.add("weights", format!("{} in {tensors}", count(report.parameters)));
    facts.add("size", format!("{} from {}", bytes(report.bytes_after), bytes(report.bytes_before)));
    for own in &report.types {
        let error = error(own.relative_error);
        let tensors = counted(own.tensors as u64, "tensor");
        facts.add(own.name, format!("{tensors}, {}, {error}", bytes(own.bytes)));
    }
    facts.add("rounding", error(report.relative_error));
    facts.add("held", format!("{} at most", bytes(report.peak_bytes)));
    for note in &report.notes {
        facts.add("note", note);
    }
    facts
}

/// The result of `lowtide convert --adapter`.
pub(crate) fn adapter(report: &AdapterReport) -> String {
    let AdapterReport { rank, alpha, .. } = report;
    let mut facts = Facts::default();
    let kind = if report.format == "gguf" { "GGUF adapter" } else { "PEFT folder" };
    facts.add("written", format!("{}, a {kind}", report.output));
    facts.add("scale", format!("rank {rank}, alpha {alpha}"));
    let modules = counted(report.modules as u64, "linear");
    facts.add("adapts", format!("{modules} with {}", counted(report.parameters, "number")));
    facts.add("size", bytes(report.bytes_after));
    for note in &report.notes {
        facts.add("note", note);
    }
    facts.under("Converted")
}

/// The result of `lowtide convert --loftq`; with `every`, each matrix by itself.
pub(crate) fn loftq(report: &LoftqReport, every: bool) -> String {
    let mut facts = facts(&report.conversion);
    let size = bytes(report.adapter_bytes);
    facts.add("adapter", format!("{}, rank {}, {size}", report.adapter, report.rank));
    let text = facts.under("Converted");
    let share = |ratio: f64| format!("{:.1} %", 100.0 * ratio);
    let mut rows: Vec<(&str, String, String)> = Vec::new();
    if every {
        rows.extend(report.matrices.iter().map(|own| {
            let errors = (100.0 * own.error_alone, 100.0 * own.error);
            let remark =
                format!("{:.2} % of W is lost, then {:.2} %, {}", errors.0, errors.1, own.kind);
            (own.tensor.as_str(), share(own.error_ratio), remark)
        }));
    } else {
        rows.extend(by_module(&report.matrices).into_iter().map(|(name, sums, count)| {
            let ratio = if sums.0 > 0.0 { (sums.1 / sums.0).sqrt() } else { 1.0 };
            (name, share(ratio), counted(count, "tensor"))
        }));
    }
    let all = report.matrices.len() as u64;
    let turns = counted(report.steps as u64, "turn");
    let remark = format!("{}, {turns}", counted(all, "tensor"));
    rows.push(("in all", share(report.error_ratio), remark));
    text + &amounts("Error that is left of that of packing alone", &rows)
}

/// Sums over all layers' modules of one name, in the order in which they first come.
fn by_module(matrices: &[MatrixReport]) -> Vec<(&str, (f64, f64), u64)> {
    let mut sums: Vec<(&str, (f64, f64), u64)> = Vec::new();
    for own in matrices {
        let name = own.module.rsplit('.').next().unwrap_or(&own.module);
        match sums.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, sum, count)) => {
                *sum = (sum.0 + own.squares.0, sum.1 + own.squares.1);
                *count += 1;
            }
            None => sums.push((name, own.squares, 1)),
        }
    }
    sums
}

/// The mean change of a weight, in words.
fn error(relative: f64) -> String {
    match relative {
        0.0 => "nothing was rounded".to_owned(),
        r if r < 1e-4 => format!("changed weights by {r:.1e} of their size"),
        r => format!("changed weights by {:.2} % of their size", 100.0 * r),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let result = Report {
            event: "done",
            output: "m.gguf".into(),
            kind: Some("q8_0"),
            tensors: 2,
            parameters: 1_000_000,
            bytes_before: 4 << 20,
            bytes_after: 1 << 20,
            relative_error: 0.0051,
            types: Vec::new(),
            peak_bytes: 3 << 20,
            notes: vec!["no tokenizer".into()],
        };
        let expected = "\
Converted
  written       m.gguf
  weights       1,000,000 in 2 tensors
  size          1.00 MiB from 4.00 MiB
  rounding      changed weights by 0.51 % of their size
  held          3.00 MiB at most
  note          no tokenizer
";
        assert_eq!(report(&result), expected);
        let result = AdapterReport {
            event: "done",
            output: "a.gguf".into(),
            format: "gguf",
            rank: 4,
            alpha: 8.0,
            modules: 2,
            tensors: 4,
            parameters: 2048,
            bytes_after: 9 << 10,
            notes: vec!["alpha is 16".into()],
        };
        let expected = "\
Converted
  written       a.gguf, a GGUF adapter
  scale         rank 4, alpha 8
  adapts        2 linears with 2,048 numbers
  size          9.0 KiB
  note          alpha is 16
";
        assert_eq!(adapter(&result), expected);
        assert_eq!(error(0.0), "nothing was rounded");
        assert_eq!(error(3e-8), "changed weights by 3.0e-8 of their size");
    }
}
