//! What a run came to, and what can be done with its adapter.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use lowtide::train::RanksLeft;
use lowtide::train::report::FILE;
use lowtide::{Settings, Summary};

use super::Facts;
use super::number::{bytes, counted, rate, seconds, time};

/// What the command that measures an adapter is made of, besides settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Next<'a> {
    /// The program, as it was called.
    pub(crate) program: &'a OsStr,
    /// What to measure on.
    pub(crate) data: &'a Path,
}

/// Loss, speed and memory of a finished run, and the command that measures its adapter.
pub(crate) fn summary(summary: &Summary, settings: &Settings, next: Next<'_>) -> String {
    let output = settings.output.display().to_string();
    let mut facts = Facts::default();
    facts.add("loss", change(summary.loss_first, summary.loss_last, "first and last update"));
    let held_out = match summary.eval_loss_before.or(summary.eval_loss_after) {
        Some(_) => {
            change(summary.eval_loss_before, summary.eval_loss_after, "before and after training")
        }
        None => "not measured: no valid.jsonl, and no --val-split".into(),
    };
    facts.add("held-out loss", held_out);
    if let (Some(before), Some(after)) = (summary.eval_loss_before, summary.eval_loss_after)
        && after > before
    {
        facts.add("", "training made it worse: a lower --lr or fewer updates may help");
    }
    facts.add("speed", speed(summary));
    if let Some(idle) = idle(summary) {
        facts.add("idle", idle);
    }
    if let Some(joules) = summary.energy_joules {
        facts.add("energy", energy(joules, summary.energy_source.as_deref()));
    }
    facts.add("memory", memory(summary));
    if !["", "backprop"].contains(&summary.gradient.as_str()) {
        facts.add("gradient", format!("{}, which is approximate", summary.gradient));
    }
    if let Some(anonymous) = summary.rss_anon_peak_bytes {
        let resident = summary.rss_peak_bytes.map(|all| format!(", {} with files", bytes(all)));
        let resident = resident.unwrap_or_default();
        facts.add("process", format!("{} resident{resident}", bytes(anonymous)));
    }
    if let Some(read) = summary.storage_read_bytes.filter(|_| summary.stream_weights) {
        facts.add("weights", format!("streamed, {} read from storage", bytes(read)));
    }
    if let Some(error) = &summary.softmax_error {
        let name = &summary.softmax;
        let cosine = error.gradient_cosine;
        facts.add("softmax", format!("{name}, approximate: gradient cosine {cosine:.6} at first"));
    }
    if let Some(left) = &summary.ranks {
        facts.add("ranks", ranks(left, summary.adapter_bytes));
    }
    facts.add("adapter", &output);
    facts.add("report", settings.output.join(FILE).display().to_string());
    let mut text = facts.under(if summary.interrupted { "Stopped" } else { "Done" });
    text.push_str("\nNext, measure it\n  ");
    text.push_str(&eval_command(settings, next));
    text.push('\n');
    if !peft_has(&settings.method) {
        return text;
    }
    if ["int8", "int4"].contains(&settings.adapter_type.as_str()) {
        let decoded = beside(&settings.output);
        text.push_str("or decode it for Hugging Face PEFT\n  ");
        let words = [quoted(Path::new(next.program)), quoted(&settings.output), quoted(&decoded)];
        let [program, output, decoded] = words;
        text.push_str(&format!("{program} convert --adapter {output} --output {decoded}\n"));
    } else {
        text.push_str("or load it with Hugging Face PEFT\n  ");
        text.push_str(&format!("PeftModel.from_pretrained(model, {output:?})\n"));
    }
    text
}

/// Whether PEFT has this method, on the bases that Lowtide has too: QA-LoRA it computes on GPTQ
/// bases only.
fn peft_has(method: &str) -> bool {
    ["lora", "rslora", "lora-fa", "dora", "vera", "ia3"].contains(&method)
}

/// Where an adapter is decoded to unless one says otherwise: beside it, by a longer name.
fn beside(output: &Path) -> PathBuf {
    let Some(name) = output.file_name() else { return "adapter.peft".into() };
    let mut name = name.to_owned();
    name.push(".peft");
    output.with_file_name(name)
}

/// A loss then and later.
pub(crate) fn change(before: Option<f64>, after: Option<f64>, when: &str) -> String {
    let number = |loss: Option<f64>| loss.map_or("not measured".into(), |n| format!("{n:.4}"));
    format!("{} → {} ({when})", number(before), number(after))
}

/// Which ranks remain, where they became smaller, and which were asked for where that is less: a
/// run that was stopped has not got there.
fn ranks(left: &RanksLeft, saved: u64) -> String {
    let RanksLeft { average, smallest, largest, left_out, .. } = left;
    let none = match left_out {
        0 => String::new(),
        some => format!(", {} left out", counted(*some as u64, "linear")),
    };
    let asked = left.not_reached();
    let asked = asked.map_or_else(String::new, |asked| format!(" ({asked} asked for)"));
    let saved = bytes(saved);
    format!("{average:.2} on average{asked}, {smallest} to {largest}{none}; {saved} saved")
}

fn speed(summary: &Summary) -> String {
    let mut text = counted(summary.steps, "update");
    if let Some(median) = summary.seconds_per_step_median {
        text.push_str(&format!(", {} each (median)", seconds(median)));
    }
    if let Some(tokens) = summary.tokens_per_second {
        text.push_str(&format!(", {}", rate(tokens)));
    }
    text
}

/// When the run did not work, where there was such a time.
fn idle(summary: &Summary) -> Option<String> {
    let (rests, pauses) = (summary.seconds_rested, summary.seconds_paused);
    match (rests > 0.0, pauses > 0.0) {
        (false, false) => None,
        (true, false) => Some(format!("{} of rests", time(rests))),
        (false, true) => Some(format!("{} of pauses", time(pauses))),
        (true, true) => Some(format!("{} of rests, {} of pauses", time(rests), time(pauses))),
    }
}

/// What was drawn, and by whom.
fn energy(joules: f64, source: Option<&str>) -> String {
    let whose = if source == Some("rapl") { "processor" } else { "machine" };
    match joules {
        few @ ..1000.0 => format!("{few:.1} J, all that the {whose} drew"),
        many => format!("{:.1} kJ, all that the {whose} drew", many / 1e3),
    }
}

fn memory(summary: &Summary) -> String {
    let (held, planned) = (bytes(summary.peak_bytes), bytes(summary.planned_peak_bytes));
    if summary.peak_bytes == summary.planned_peak_bytes {
        format!("{held} held at the peak, as planned to the byte")
    } else {
        format!("{held} held at the peak, {planned} planned")
    }
}

fn eval_command(settings: &Settings, next: Next<'_>) -> String {
    let mut words = vec![quoted(Path::new(next.program)), "eval".into()];
    words.extend(["--model".into(), quoted(&settings.model)]);
    words.extend(["--adapter".into(), quoted(&settings.output)]);
    words.extend(["--data".into(), quoted(next.data)]);
    let default = Settings::default();
    if settings.max_seq_len != default.max_seq_len {
        words.push(format!("--max-seq-len {}", settings.max_seq_len));
    }
    if let Some(window) = settings.sliding_window {
        words.push(format!("--sliding-window {window}"));
    }
    if !settings.mask_prompt {
        words.push("--no-mask-prompt".into());
    }
    words.join(" ")
}

/// A path as a POSIX shell reads it.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> Summary {
        Summary {
            steps: 96,
            loss_first: Some(3.0),
            loss_last: Some(2.0),
            eval_loss_before: Some(2.5),
            eval_loss_after: Some(1.75),
            seconds_per_step_median: Some(1.234),
            tokens_per_second: Some(412.4),
            planned_peak_bytes: 65 << 20,
            peak_bytes: 65 << 20,
            rss_anon_peak_bytes: Some(92 << 20),
            rss_peak_bytes: Some(180 << 20),
            ..Summary::default()
        }
    }

    fn settings() -> Settings {
        Settings { model: "m.gguf".into(), data: "my data".into(), ..Settings::default() }
    }

    fn next() -> Next<'static> {
        let program = OsStr::new("target/release/lowtide");
        Next { program, data: Path::new("held out.jsonl") }
    }

    #[test]
    fn a_summary_tells_loss_speed_memory_and_what_to_do_next() {
        let expected = "\
Done
  loss          3.0000 → 2.0000 (first and last update)
  held-out loss 2.5000 → 1.7500 (before and after training)
  speed         96 updates, 1.23 s each (median), 412 tokens/s
  memory        65.00 MiB held at the peak, as planned to the byte
  process       92.00 MiB resident, 180.00 MiB with files
  adapter       adapter
  report        adapter/report.html

Next, measure it
  target/release/lowtide eval --model m.gguf --adapter adapter --data 'held out.jsonl'
or load it with Hugging Face PEFT
  PeftModel.from_pretrained(model, \"adapter\")
";
        assert_eq!(summary(&done(), &settings(), next()), expected);
        let stopped = Summary { interrupted: true, ..done() };
        let expected = expected.replacen("Done", "Stopped", 1);
        assert_eq!(summary(&stopped, &settings(), next()), expected);
    }

    #[test]
    fn what_training_made_worse_is_told() {
        let worse = Summary { eval_loss_after: Some(7.25), ..done() };
        let text = summary(&worse, &settings(), next());
        let told =
            "2.5000 → 7.2500 (before and after training)\n                training made it worse";
        assert!(text.contains(told), "{text}");
        assert!(!summary(&done(), &settings(), next()).contains("worse"));
    }

    #[test]
    fn an_adapter_in_codes_is_decoded_for_others() {
        let coded = Settings { adapter_type: "int8".into(), ..settings() };
        let text = summary(&done(), &coded, next());
        let expected = "or decode it for Hugging Face PEFT\n  target/release/lowtide convert \
                        --adapter adapter --output adapter.peft\n";
        assert!(text.ends_with(expected), "{text}");
        let paths = ["runs/v1.5", "v1.5/", ".."].map(|path| beside(Path::new(path)));
        assert_eq!(paths, ["runs/v1.5.peft", "v1.5.peft", "adapter.peft"].map(PathBuf::from));
    }

    #[test]
    fn peft_is_told_of_where_it_has_the_method() {
        let text = |method: &str, r#type: &str| {
            let (method, adapter_type) = (method.into(), r#type.into());
            summary(&done(), &Settings { method, adapter_type, ..settings() }, next())
        };
        for method in ["rslora", "lora-fa", "dora", "vera", "ia3"] {
            let text = text(method, "bf16");
            assert!(text.contains("or load it with Hugging Face PEFT\n"), "{method}: {text}");
        }
        assert!(text("dora", "int4").contains("or decode it for Hugging Face PEFT\n"));
        for method in ["lars", "bottleneck", "qalora"] {
            for text in ["f32", "int8", "int4"].map(|r#type| text(method, r#type)) {
                assert!(!text.contains("PEFT"), "{method}: {text}");
            }
        }
    }

    #[test]
    fn streamed_weights_are_told() {
        let streamed =
            Summary { stream_weights: true, storage_read_bytes: Some(5 << 30), ..done() };
        let text = summary(&streamed, &settings(), next());
        assert!(
            text.contains("  weights       streamed, 5120.00 MiB read from storage\n"),
            "{text}"
        );
        let cached = Summary { stream_weights: false, ..streamed };
        assert!(!summary(&cached, &settings(), next()).contains("storage"));
    }

    #[test]
    fn rests_pauses_and_energy_are_told_where_there_are_any() {
        let rested = Summary { seconds_rested: 130.0, energy_joules: Some(999.94), ..done() };
        let text = summary(&rested, &settings(), next());
        assert!(text.contains("  idle          2 min 10 s of rests\n"), "{text}");
        assert!(text.contains("  energy        999.9 J, all that the machine drew\n"), "{text}");
        let energy_source = Some("rapl".to_owned());
        let both = Summary { seconds_paused: 5.0, energy_source, ..rested };
        let both = Summary { energy_joules: Some(12_340.0), ..both };
        let text = summary(&both, &settings(), next());
        assert!(text.contains("2 min 10 s of rests, 5 s of pauses\n"), "{text}");
        assert!(text.contains("12.3 kJ, all that the processor drew\n"), "{text}");
    }

    #[test]
    fn an_approximate_gradient_is_told() {
        let mezo = Summary { gradient: "mezo".into(), ..done() };
        let text = summary(&mezo, &settings(), next());
        assert!(text.contains("  gradient      mezo, which is approximate\n"), "{text}");
        let exact = Summary { gradient: "backprop".into(), ..done() };
        assert_eq!(summary(&exact, &settings(), next()), summary(&done(), &settings(), next()));
    }

    #[test]
    fn ranks_that_are_left_are_told() {
        let ranks = RanksLeft::of(&[3, 0, 1, 4]);
        let left = Summary { ranks: Some(ranks), adapter_bytes: 3 << 20, ..done() };
        let text = summary(&left, &settings(), next());
        let line = "  ranks         2.00 on average, 1 to 4, 1 linear left out; 3.00 MiB saved\n";
        assert!(text.contains(line), "{text}");
        let asked = |rank| {
            let ranks = Some(RanksLeft { asked: Some(rank), ..ranks });
            summary(&Summary { ranks, ..left.clone() }, &settings(), next())
        };
        assert_eq!(asked(2), text, "there is nothing to add where the run got there");
        let line = "  ranks         2.00 on average (1 asked for), 1 to 4, 1 linear left out; ";
        assert!(asked(1).contains(line), "{}", asked(1));
    }

    #[test]
    fn what_was_not_measured_is_said() {
        let short = Summary { steps: 1, peak_bytes: 1 << 20, ..Summary::default() };
        let other = Settings { method: "other".into(), max_seq_len: 64, ..settings() };
        let text = summary(&short, &Settings { mask_prompt: false, ..other }, next());
        for part in [
            "  loss          not measured → not measured (first and last update)\n",
            "  held-out loss not measured: no valid.jsonl, and no --val-split\n",
            "  speed         1 update\n",
            "  memory        1.00 MiB held at the peak, 0 B planned\n",
            "--data 'held out.jsonl' --max-seq-len 64 --no-mask-prompt\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("PEFT") && !text.contains("process"), "{text}");
    }

    #[test]
    fn paths_survive_a_shell() {
        let texts = ["a/b-1.gguf", "it's", "$x", ""].map(|text| quoted(Path::new(text)));
        assert_eq!(texts, ["a/b-1.gguf", r"'it'\''s'", "'$x'", "''"]);
    }
}
