//! Text of files as a terminal may show it.

use crate::command::show;

/// Lines of a long document that are shown unless all are asked for.
const LINES: usize = 12;
/// Characters of a line that are shown then.
const COLUMNS: usize = 160;

/// A titled text, indented, with control characters made visible; shortened unless `whole`, with
/// `how` to see the rest.
pub(super) fn block(title: &str, text: &str, whole: bool, how: &str) -> String {
    let mut shown = format!("{title}\n");
    let text = show::data::visible(text, false);
    let lines: Vec<&str> = text.lines().collect();
    let most = if whole { lines.len() } else { LINES };
    let mut cut = lines.len() > most;
    for line in lines.iter().take(most) {
        let short: String = match whole {
            true => (*line).to_owned(),
            false => line.chars().take(COLUMNS).collect(),
        };
        cut |= short.len() < line.len();
        shown.push_str(format!("  {short}").trim_end());
        shown.push('\n');
    }
    if cut {
        shown.push_str(&format!("  [… {how}]\n"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_and_control_characters_shown() {
        assert_eq!(block("T", "a\x1b[2J\nb", false, "more"), "T\n  a\\u{1b}[2J\n  b\n");
        let long = "é\n".repeat(LINES + 1);
        let cut = block("T", &long, false, "more");
        assert_eq!(cut.lines().count(), LINES + 2);
        assert!(cut.ends_with("  [… more]\n"), "{cut}");
        assert_eq!(block("T", &long, true, "more").lines().count(), LINES + 2);
        let wide = block("T", &"é".repeat(COLUMNS + 1), false, "more");
        assert_eq!(wide, format!("T\n  {}\n  [… more]\n", "é".repeat(COLUMNS)));
    }
}
