//! What a run would hold, as tables.

use lowtide::train::{AdaptiveRank, BudgetSource, PlanReport, WorstCase};

use super::number::{bytes, count, counted};
use super::{Facts, amounts};

/// The plan: what is trained, what is held at the peak by category, and what each checkpoint policy
/// would hold.
pub(crate) fn plan(report: &PlanReport) -> String {
    let mut text = run(report);
    text.push('\n');
    text.push_str(&peak(report));
    text.push('\n');
    text.push_str(&alternatives(report));
    text.push_str(&warnings(report));
    text
}

fn run(report: &PlanReport) -> String {
    let numbers = counted(report.trainable_parameters as u64, "trainable number");
    let sites = counted(report.sites as u64, "linear");
    let mut facts = Facts::default();
    facts
        .add("base", format!("{} ({})", report.model.display(), report.architecture))
        .add("", kept(report))
        .add("adapter", format!("{} on {sites}, {numbers}", report.method))
        .add("", saved(report));
    if let Some(course) = &report.adaptive_rank {
        facts.add("ranks", ranks(course, report.sites));
    }
    facts
        .add("training", training(report))
        .add("micro-batch", micro_batch(report))
        .add("", worst_case(report))
        .add("gradients", gradients(report))
        .add("arena", arena(report))
        .add("computing", computing(report))
        .add("an update", pace(report));
    if let Some(approximation) = &report.approximation {
        facts.add("approximate", approximation);
    }
    if let Some(window) = report.sliding_window {
        facts.add("attention", format!("to the last {} only", counted(window as u64, "token")));
    }
    if let Some(words) = softmax(report) {
        facts.add("softmax", words);
    }
    if let Some(source) = source(report) {
        facts.add("budget", source);
    }
    facts.under("Plan")
}

/// What the adapter takes as a file.
fn saved(report: &PlanReport) -> String {
    let most = if report.adaptive_rank.is_some() { "at most " } else { "" };
    let trained = match report.param_dtype.as_str() {
        "f32" => String::new(),
        other => format!(", trained in {other} rounded by chance"),
    };
    format!("{most}{} when saved as {}{trained}", bytes(report.adapter_bytes), report.adapter_type)
}

/// How they become smaller.
fn ranks(course: &AdaptiveRank, sites: usize) -> String {
    let average = |pairs: usize| pairs as f64 / sites.max(1) as f64;
    let (start, target) = (average(course.start), average(course.target));
    let (from, until) = (count(course.from), count(course.until));
    format!(
        "{start:.2} on average, {target:.2} at the end: they fall from update {from} to {until}"
    )
}

/// How many updates, and of what.
fn training(report: &PlanReport) -> String {
    let (updates, optimizer) = (counted(report.steps, "update"), &report.optimizer);
    let filed = if report.optimizer_states == "file" { ", its states in a file" } else { "" };
    match report.sparse_updates.as_str() {
        "off" => format!("{updates} with {optimizer}{filed}"),
        sparse => format!("{updates} with {optimizer} of {sparse} of each gradient{filed}"),
    }
}

/// What is computed at once.
fn micro_batch(report: &PlanReport) -> String {
    let (tokens, labelled) = (report.tokens_max as u64, report.labelled_max as u64);
    let most = format!("up to {}, {} labelled", counted(tokens, "token"), count(labelled));
    match (report.micro_batch, report.sequences_per_update) {
        (_, 1) => most,
        (all, of) if all == of => format!("an update's {of} sequences, {most}"),
        (some, of) => format!("{some} of an update's {of} sequences, {most}"),
    }
}

/// Where those numbers come from.
fn worst_case(report: &PlanReport) -> String {
    let WorstCase { sequences, tokens_held_out, labelled_held_out } = report.worst_case;
    let of = counted(sequences as u64, "sequence");
    let longest = match report.micro_batch.min(sequences) {
        1 => format!("as in the longest of {of}"),
        n => format!("as in the {n} longest of {of} together"),
    };
    match (tokens_held_out, labelled_held_out) {
        (true, _) => format!("{longest}, held out"),
        (false, true) => format!("{longest}, and in the most labelled, held out"),
        (false, false) => longest,
    }
}

/// What operations work in.
fn arena(report: &PlanReport) -> String {
    let (reserved, over) = (bytes(report.arena_bytes), 100.0 * report.packing_overhead);
    format!("{reserved} reserved once, {over:.1} % more than is alive in it at most")
}

/// What is done with the gradients of an update.
fn gradients(report: &PlanReport) -> &'static str {
    match (report.gradient, report.apply_and_free, report.clipping) {
        ("mezo", ..) => "made and freed block by block, from two losses an update",
        (_, true, "two-pass") => {
            "each block's are applied and freed at once; to clip them, an update is computed twice"
        }
        (_, true, "per-block") => {
            "each block's are clipped by themselves, applied and freed at once"
        }
        (_, true, _) => "each block's are applied and freed at once",
        ("partial", false, _) => "those of the blocks that are drawn are kept until the update",
        (_, false, "per-block") => {
            "all blocks' are kept until the update, each block's clipped by themselves"
        }
        (_, false, _) => "all blocks' are kept until the update",
    }
}

/// How the weights are kept.
fn kept(report: &PlanReport) -> String {
    let mapped = bytes(report.mapped_bytes);
    match report.streamed_bytes {
        None => format!("{mapped} mapped, which the system may evict"),
        Some(room) => format!("{mapped} mapped and streamed, {} in memory", bytes(room)),
    }
}

/// Which words the softmax runs over, where not all.
fn softmax(report: &PlanReport) -> Option<String> {
    report.union.as_ref().map(|union| {
        format!(
            "{}, approximate: up to {} of {} words, {} for their rows",
            report.softmax,
            count(union.words_max as u64),
            count(union.vocabulary as u64),
            bytes(union.bytes)
        )
    })
}

/// Where a budget comes from that was not asked for.
fn source(report: &PlanReport) -> Option<String> {
    match report.budget_source {
        BudgetSource::Group { limit, held, cache } => Some(format!(
            "the control group's limit of {}, less {} held and {} for weights",
            bytes(limit),
            bytes(held),
            bytes(cache)
        )),
        BudgetSource::None | BudgetSource::Asked => None,
    }
}

fn computing(report: &PlanReport) -> String {
    let threads = counted(report.threads as u64, "thread");
    format!("{} in {}, {threads}", report.backend, report.compute)
}

/// What an update costs besides memory.
fn pace(report: &PlanReport) -> String {
    let time = |seconds: f64| match seconds {
        little @ ..0.1 => format!("{:.0} ms", little * 1e3),
        few @ ..10.0 => format!("{few:.1} s"),
        many => format!("{many:.0} s"),
    };
    let disk = match report.disk_bytes_per_update {
        0 => String::new(),
        traffic => format!(", and {} to and from disk", bytes(traffic)),
    };
    let work = report.seconds_per_update;
    let rest = match report.duty {
        1.0 => String::new(),
        duty => format!("; with the rest after it, {}", time(work / duty)),
    };
    format!("about {} at most{disk}{rest}", time(work))
}

fn peak(report: &PlanReport) -> String {
    let mut held: Vec<_> = report.peak_by_category.iter().filter(|(_, n)| **n > 0).collect();
    held.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), **name));
    let mut rows: Vec<_> =
        held.into_iter().map(|(name, n)| (*name, bytes(*n), String::new())).collect();
    let allowed = report.memory_budget.map(|budget| format!("of {} allowed", bytes(budget)));
    rows.push(("in all", bytes(report.planned_peak_bytes), allowed.unwrap_or_default()));
    amounts("Held at the peak", &rows)
}

fn alternatives(report: &PlanReport) -> String {
    let rows: Vec<_> = report
        .alternatives
        .iter()
        .map(|row| {
            let remark = match (row.chosen, row.fits) {
                (true, _) => ", chosen",
                (false, true) => "",
                (false, false) => ", over the budget",
            };
            let remark = format!("{:.2} x the time{remark}", row.time);
            let mut name = row.policy.clone();
            if row.store != "f32" {
                name = format!("{name}, {}", row.store);
            }
            if let Some(rows) = row.tile_rows {
                name = format!("{name}, {rows} rows");
            }
            if row.micro_batch < report.batch_size {
                name = format!("{name}, {} at once", row.micro_batch);
            }
            if row.clipping == "two-pass" {
                name = format!("{name}, two passes");
            }
            (name, bytes(row.peak_bytes), remark)
        })
        .collect();
    let rows: Vec<_> = rows
        .iter()
        .map(|(name, bytes, remark)| (name.as_str(), bytes.clone(), remark.clone()))
        .collect();
    amounts("Ways to run it: what each would hold, and the predicted time of an update", &rows)
}

fn warnings(report: &PlanReport) -> String {
    if report.warnings.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nTake note\n");
    for warning in &report.warnings {
        super::line(&mut text, &format!("  {warning}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use lowtide::train::{PlanRow, UnionReport, Warning};

    use super::*;

    fn report() -> PlanReport {
        let row = |policy: &str, store, tile_rows, time, peak_bytes, chosen| PlanRow {
            policy: policy.into(),
            store,
            tile_rows,
            time,
            clipping: "whole",
            micro_batch: 1,
            peak_bytes,
            fits: peak_bytes <= 128 << 20,
            chosen,
        };
        PlanReport {
            model: "m.gguf".into(),
            architecture: "llama".into(),
            method: "lora".into(),
            sites: 210,
            trainable_parameters: 2_442_240,
            adapter_bytes: 9_826_840,
            adapter_type: "f32".into(),
            adaptive_rank: None,
            sensitivity: None,
            optimizer: "adamw8bit".into(),
            param_dtype: "f32".into(),
            optimizer_states: "ram",
            sparse_updates: "off".into(),
            gradient: "backprop",
            approximation: None,
            policy: "block".into(),
            store: "f32",
            tile_rows: None,
            apply_and_free: false,
            clipping: "whole",
            steps: 96,
            sequences_per_update: 1,
            batch_size: 1,
            micro_batch: 1,
            tokens_max: 512,
            labelled_max: 500,
            worst_case: WorstCase {
                sequences: 96,
                tokens_held_out: false,
                labelled_held_out: false,
            },
            seconds_per_update: 2.449,
            duty: 1.0,
            work_per_update: 1 << 33,
            disk_bytes_per_update: 0,
            planned_peak_bytes: 65 << 20,
            peak_by_category: [("adapter", 9 << 20), ("workspace", 56 << 20), ("data", 0)].into(),
            arena_bytes: 56 << 20,
            packing_overhead: 0.0042,
            mapped_bytes: 93 << 20,
            memory_budget: Some(128 << 20),
            budget_source: BudgetSource::Asked,
            streamed_bytes: None,
            smallest_budget: 65 << 20,
            alternatives: vec![
                row("store", "f32", None, 1.0, 210 << 20, false),
                row("block", "f32", None, 1.377, 65 << 20, true),
                row("every:12", "bf16", Some(64), 2.0, 60 << 20, false),
            ],
            backend: "simd/avx2".into(),
            precision: "exact",
            compute: "f32",
            softmax: "exact".into(),
            union: None,
            sliding_window: None,
            threads: 2,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_plan_shows_bytes_by_category_and_every_alternative() {
        let expected = "\
Plan
  base          m.gguf (llama)
                93.00 MiB mapped, which the system may evict
  adapter       lora on 210 linears, 2,442,240 trainable numbers
                9.37 MiB when saved as f32
  training      96 updates with adamw8bit
  micro-batch   up to 512 tokens, 500 labelled
                as in the longest of 96 sequences
  gradients     all blocks' are kept until the update
  arena         56.00 MiB reserved once, 0.4 % more than is alive in it at most
  computing     simd/avx2 in f32, 2 threads
  an update     about 2.4 s at most

Held at the peak
  workspace     56.00 MiB
  adapter        9.00 MiB
  in all        65.00 MiB  of 128.00 MiB allowed

Ways to run it: what each would hold, and the predicted time of an update
  store                    210.00 MiB  1.00 x the time, over the budget
  block                     65.00 MiB  1.38 x the time, chosen
  every:12, bf16, 64 rows   60.00 MiB  2.00 x the time
";
        assert_eq!(plan(&report()), expected);
    }

    #[test]
    fn without_a_budget_nothing_is_said_of_one() {
        let mut report = PlanReport { memory_budget: None, apply_and_free: true, ..report() };
        report.alternatives[0].fits = true;
        let text = plan(&report);
        assert!(text.contains("  in all        65.00 MiB\n"), "{text}");
        let row = "  store                    210.00 MiB  1.00 x the time\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("applied and freed at once"), "{text}");
    }

    #[test]
    fn ranks_that_become_smaller_are_told() {
        let adaptive_rank = Some(AdaptiveRank::new(2520, 1680, 120));
        let text = plan(&PlanReport { adaptive_rank, ..report() });
        let lines = "                at most 9.37 MiB when saved as f32\n  ranks         12.00 on \
                     average, 8.00 at the end: they fall from update 12 to 84\n";
        assert!(text.contains(lines), "{text}");
    }

    #[test]
    fn what_is_computed_at_once_and_where_its_size_comes_from_are_told() {
        let base =
            PlanReport { sequences_per_update: 8, batch_size: 8, micro_batch: 8, ..report() };
        let text = plan(&base);
        assert!(text.contains("an update's 8 sequences, up to 512 tokens"), "{text}");
        let mut parts = PlanReport { micro_batch: 2, ..base };
        parts.alternatives[0].micro_batch = 8;
        parts.worst_case.tokens_held_out = true;
        let text = plan(&parts);
        for part in [
            "  micro-batch   2 of an update's 8 sequences, up to 512 tokens, 500 labelled\n",
            "                as in the 2 longest of 96 sequences together, held out\n",
            "  store ",
            "  block, 1 at once ",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn an_approximate_gradient_is_called_so() {
        let of = |gradient, words: &str| {
            plan(&PlanReport { gradient, approximation: Some(words.into()), ..report() })
        };
        let mezo = of("mezo", "mezo, eps 0.01");
        assert!(mezo.contains("  gradients     made and freed block by block, from two"), "{mezo}");
        assert!(mezo.contains("\n  approximate   mezo, eps 0.01\n"), "{mezo}");
        let partial = of("partial", "partial, 8 blocks an update");
        assert!(
            partial.contains("  gradients     those of the blocks that are drawn"),
            "{partial}"
        );
        assert!(partial.contains("\n  approximate   partial, 8 blocks"), "{partial}");
        assert!(!plan(&report()).contains("approximate"));
    }

    #[test]
    fn ways_to_clip_are_told() {
        let told = |clipping, apply_and_free| {
            let text = plan(&PlanReport { clipping, apply_and_free, ..report() });
            text.lines().find_map(|line| line.strip_prefix("  gradients     ")).unwrap().to_owned()
        };
        assert!(told("two-pass", true).ends_with("to clip them, an update is computed twice"));
        assert!(told("per-block", true).starts_with("each block's are clipped by themselves"));
        assert!(told("per-block", false).starts_with("all blocks' are kept"));
        assert_eq!(told("off", false), told("whole", false));
        let mut twice = report();
        twice.alternatives[2].clipping = "two-pass";
        assert!(
            plan(&twice)
                .contains("  every:12, bf16, 64 rows, two passes   60.00 MiB  2.00 x the time\n")
        );
    }

    #[test]
    fn a_budget_from_a_limit_and_streamed_weights_are_told() {
        let budget_source =
            BudgetSource::Group { limit: 512 << 20, held: 8 << 20, cache: 160 << 20 };
        let streamed_bytes = Some(84 << 20);
        let text = plan(&PlanReport { budget_source, streamed_bytes, ..report() });
        for part in [
            "                93.00 MiB mapped and streamed, 84.00 MiB in memory\n",
            "  budget        the control group's limit of 512.00 MiB, less 8.00 MiB held and \
             160.00 MiB for weights\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn an_approximate_softmax_is_called_so() {
        let union = Some(UnionReport {
            neighbours: 100,
            targets: 3000,
            words_max: 12_345,
            vocabulary: 49_152,
            bytes: 7 << 20,
            file_bytes: 1_200_000,
        });
        let text = plan(&PlanReport { softmax: "union:100".into(), union, ..report() });
        let line = "  softmax       union:100, approximate: up to 12,345 of 49,152 words, 7.00 MiB \
                    for their rows\n";
        assert!(text.contains(line), "{text}");
        assert!(!plan(&report()).contains("softmax"));
        let text = plan(&PlanReport { sliding_window: Some(128), ..report() });
        assert!(text.contains("  attention     to the last 128 tokens only\n"), "{text}");
    }

    #[test]
    fn disk_traffic_is_told_where_there_is_any() {
        let report =
            PlanReport { seconds_per_update: 61.3, disk_bytes_per_update: 70 << 20, ..report() };
        let line = "  an update     about 61 s at most, and 70.00 MiB to and from disk\n";
        assert!(plan(&report).contains(line));
    }

    #[test]
    fn rests_are_told_beside_the_work() {
        let text = plan(&PlanReport { duty: 0.5, ..report() });
        let line = "  an update     about 2.4 s at most; with the rest after it, 4.9 s\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn what_will_not_be_heeded_is_told_at_the_end() {
        let warnings = vec![Warning::NothingHeldOut { eval_every: 5 }];
        let text = plan(&PlanReport { warnings, ..report() });
        let (_, notes) = text.split_once("\nTake note\n").unwrap();
        assert!(
            notes.starts_with("  `eval-every` is 5 and there is nothing to measure"),
            "{notes}"
        );
        assert!(!plan(&report()).contains("Take note"));
    }
}
