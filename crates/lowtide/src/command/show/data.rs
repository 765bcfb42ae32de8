//! How much data there is, and one example with its loss mask.

use lowtide::train::{DataReport, PackingReport};

use super::Facts;
use super::number::{count, counted, percent};

/// Characters of an example that are shown at its beginning, and as many at its end.
const SHOWN: usize = 700;

/// The escape sequences an example is coloured with; no other is passed on to a terminal.
const COLOURS: [&str; 3] = ["\x1b[32m", "\x1b[2m", "\x1b[0m"];
const RESET: &str = COLOURS[2];

/// The data summary, and one example when the data has text.
pub(crate) fn data(report: &DataReport, max_seq_len: usize, coloured: bool) -> String {
    let mut facts = Facts::default();
    let mut amount = counted(report.examples as u64, "example");
    if report.valid_examples > 0 {
        let held_out = counted(report.valid_labelled_tokens, "labelled token");
        let examples = count(report.valid_examples as u64);
        amount.push_str(&format!(", and {examples} held out ({held_out})"));
    }
    let share = percent(report.labelled_tokens as f64, report.tokens as f64);
    let labelled = count(report.labelled_tokens);
    facts.add("training", amount);
    facts.add("tokens", format!("{}, {labelled} of them labelled ({share})", count(report.tokens)));
    facts.add("longest", counted(report.longest as u64, "token"));
    if let Some(packing) = &report.packing {
        facts.add("packed", packed(packing));
    }
    facts.add("truncated", truncated(report, max_seq_len));
    if report.dropped > 0 {
        let examples = counted(report.dropped, "example");
        facts.add("left out", format!("{examples}: no labelled token is left after the cut"));
    }
    let mut text = facts.under("Data");
    let (sample, ansi) = (report.sample.as_deref(), report.sample_ansi.as_deref());
    if let Some(example) = marked(sample, ansi, coloured) {
        text.push('\n');
        text.push_str(&example);
    }
    text
}

fn packed(packing: &PackingReport) -> String {
    let bins = counted(packing.bins as u64, "sequence");
    let (longest, capacity) = (count(packing.longest as u64), count(packing.capacity as u64));
    let examples = counted(packing.examples_max as u64, "example");
    let fill = percent(packing.fill, 1.0);
    format!("{bins}, {fill} full, of up to {longest} of {capacity} tokens and {examples}")
}

fn truncated(report: &DataReport, max_seq_len: usize) -> String {
    if report.truncated == 0 {
        return "nothing".into();
    }
    let examples = counted(report.truncated as u64, "example");
    let tokens = counted(report.tokens_cut, "token");
    format!("{examples}, by {tokens} in all (--max-seq-len {max_seq_len})")
}

/// An example with its loss mask visible, from its two forms: with brackets and with colours.
pub(crate) fn marked(sample: Option<&str>, ansi: Option<&str>, coloured: bool) -> Option<String> {
    let (sample, title) = match (ansi, sample) {
        (Some(sample), _) if coloured => (sample, "Example (green text carries loss)"),
        (_, Some(sample)) => (sample, "Example (⟦text in brackets⟧ carries loss)"),
        _ => return None,
    };
    let mut text = format!("{title}\n");
    for line in shortened(&visible(sample, coloured)).lines() {
        super::line(&mut text, &format!("  {line}"));
    }
    Some(text)
}

/// The text with its control characters made visible, so that data cannot steer a terminal.
pub(crate) fn visible(text: &str, coloured: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = COLOURS.into_iter().find(|code| coloured && rest.starts_with(code));
        match (colour, c) {
            (Some(code), _) => shown.push_str(code),
            (None, '\n' | '\t') => shown.push(c),
            (None, c) if c.is_control() => shown.extend(c.escape_default()),
            (None, c) => shown.push(c),
        }
        rest = &rest[colour.map_or(c.len_utf8(), str::len)..];
    }
    shown
}

/// A long text without its middle. What marked the text there is marked again behind the gap.
fn shortened(text: &str) -> String {
    let chars = text.chars().count();
    if chars <= 2 * SHOWN + SHOWN / 4 {
        return text.to_owned();
    }
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    let (head, tail) = (whole(text, at(SHOWN)), whole(text, at(chars - SHOWN)));
    let mark = |cut: usize| {
        let last = |code: &&str| text[..cut].rfind(code);
        let colour = COLOURS.into_iter().filter(|code| last(code).is_some()).max_by_key(last);
        let bracket = text[..cut].rfind('⟦') > text[..cut].rfind('⟧');
        colour.unwrap_or(if bracket { "⟦" } else { "" })
    };
    let close = match mark(head) {
        "" => "",
        "⟦" => "⟧",
        _ => RESET,
    };
    let gap = count(text[head..tail].chars().count() as u64);
    format!("{}{close}\n[… {gap} characters …]\n{}{}", &text[..head], mark(tail), &text[tail..])
}

/// `cut`, moved behind an escape sequence that it would break.
fn whole(text: &str, cut: usize) -> usize {
    let inside = |(start, code): (usize, &str)| {
        (start < cut && cut < start + code.len()).then_some(start + code.len())
    };
    COLOURS.into_iter().flat_map(|code| text.match_indices(code)).find_map(inside).unwrap_or(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> DataReport {
        DataReport {
            examples: 1234,
            sequences: 700,
            packing: Some(PackingReport {
                bins: 700,
                capacity: 512,
                fill: 0.9645,
                longest: 512,
                examples_max: 7,
            }),
            tokens: 345_678,
            labelled_tokens: 123_456,
            longest: 512,
            truncated: 17,
            tokens_cut: 2345,
            dropped: 1,
            valid_examples: 100,
            valid_labelled_tokens: 9876,
            sample: Some("ask\n⟦answer\x1b]0;title\x07⟧\n".into()),
            sample_ansi: Some("\x1b[2mask\n\x1b[0m\x1b[32manswer\x1b[5m\x1b[0m".into()),
        }
    }

    #[test]
    fn amounts_truncation_and_the_mask_are_told() {
        let expected = "\
Data
  training      1,234 examples, and 100 held out (9,876 labelled tokens)
  tokens        345,678, 123,456 of them labelled (35.7 %)
  longest       512 tokens
  packed        700 sequences, 96.5 % full, of up to 512 of 512 tokens and 7 examples
  truncated     17 examples, by 2,345 tokens in all (--max-seq-len 512)
  left out      1 example: no labelled token is left after the cut

Example (⟦text in brackets⟧ carries loss)
  ask
  ⟦answer\\u{1b}]0;title\\u{7}⟧
";
        assert_eq!(data(&report(), 512, false), expected);
    }

    #[test]
    fn only_our_own_colours_reach_a_terminal() {
        let text = data(&report(), 512, true);
        let (_, example) = text.split_once("(green text carries loss)\n").unwrap();
        assert_eq!(example, "  \x1b[2mask\n  \x1b[0m\x1b[32manswer\\u{1b}[5m\x1b[0m\n");
    }

    #[test]
    fn what_is_not_there_is_not_told() {
        let few = DataReport { examples: 1, longest: 9, ..DataReport::default() };
        let expected = "\
Data
  training      1 example
  tokens        0, 0 of them labelled (0.0 %)
  longest       9 tokens
  truncated     nothing
";
        assert_eq!(data(&few, 512, true), expected);
    }

    #[test]
    fn a_long_example_loses_its_middle_and_keeps_its_marks() {
        let sample = format!("{}⟦{}⟧", "p".repeat(SHOWN), "é".repeat(3 * SHOWN));
        let short = shortened(&sample);
        let (head, rest) = short.split_once('\n').unwrap();
        let (gap, tail) = rest.split_once('\n').unwrap();
        assert_eq!(head, "p".repeat(SHOWN));
        assert_eq!(gap, format!("[… {} characters …]", count(2 * SHOWN as u64 + 2)));
        assert_eq!(tail, format!("⟦{}⟧", "é".repeat(SHOWN - 1)));

        let sample = format!("{}{}", COLOURS[0], "a".repeat(4 * SHOWN));
        let short = shortened(&sample);
        assert!(short.contains(&format!("a{RESET}\n[…")), "{short}");
        assert!(short.contains(&format!("…]\n{}a", COLOURS[0])), "{short}");
    }

    #[test]
    fn a_cut_never_breaks_an_escape_sequence() {
        let text = format!("{}{}{}", "a".repeat(SHOWN - 2), COLOURS[0], "b".repeat(4 * SHOWN));
        let short = shortened(&text);
        let head = short.lines().next().unwrap();
        assert_eq!(head, format!("{}{}{RESET}", "a".repeat(SHOWN - 2), COLOURS[0]));
    }
}
