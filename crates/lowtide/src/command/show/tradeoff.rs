//! Memory against held-out loss, a line a run.

use lowtide::bench::TradeoffRow;

use super::bench::time;
use super::number::bytes;

/// What the columns are.
pub(crate) fn head() -> String {
    let figures = format!("{:>12}{:>12}{:>12}", "planned", "held", "weights");
    let losses = format!("{:>9}{:>9}{:>11}", "before", "after", "an update");
    format!("{:28}{figures}{losses}  plan\n", "Memory and held-out loss")
}

/// A run; what is not exact is marked.
pub(crate) fn row(row: &TradeoffRow) -> String {
    let mark = if row.approximate() { " ~" } else { "" };
    let title = format!("{} {}{mark}", row.lever, row.choice);
    let sizes = [row.planned_bytes, row.charged_bytes, row.mapped_bytes].map(bytes);
    let loss = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
    let (before, after) = (loss(row.loss_before), loss(row.loss_after));
    let seconds = row.seconds.map_or_else(|| "-".to_owned(), time);
    let figures = format!("{:>12}{:>12}{:>12}", sizes[0], sizes[1], sizes[2]);
    format!("  {title:26}{figures}{before:>9}{after:>9}{seconds:>11}  {}\n", row.plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_a_line_and_what_is_approximate_is_marked() {
        let one = TradeoffRow {
            lever: "softmax".into(),
            choice: "union:100".into(),
            plan: "block, f32".into(),
            planned_bytes: 3 << 20,
            charged_bytes: 3 << 20,
            mapped_bytes: 4 << 20,
            loss_before: Some(2.5),
            loss_after: None,
            updates: 3,
            seconds: Some(0.25),
            gradient_cosine: Some(0.99),
        };
        let line = row(&one);
        let words: Vec<_> = line.split_whitespace().collect();
        let sizes = ["3.00", "MiB", "3.00", "MiB", "4.00", "MiB"];
        assert_eq!(words[..3], ["softmax", "union:100", "~"]);
        assert_eq!(words[3..9], sizes);
        assert_eq!(words[9..], ["2.5000", "-", "250", "ms", "block,", "f32"]);
        let exact = TradeoffRow { lever: "rank".into(), choice: "2".into(), ..one };
        assert!(!row(&exact).contains('~'));
        let (head, line) = (head(), row(&exact));
        let held = head.trim_start_matches('\n').rfind(" held ").map(|at| at + 5);
        assert_eq!(held, line.match_indices("MiB").nth(1).map(|(at, _)| at + 3), "{head}{line}");
    }
}
