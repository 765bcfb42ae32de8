//! Adapter methods beside each other, a line a run.

use lowtide::bench::{MethodRow, TaskRow};

use super::bench::time;
use super::number::{bytes, count};

/// What the columns are.
pub(crate) fn head() -> String {
    let sizes = format!("{:>12}{:>12}{:>12}{:>12}", "trained", "adapter", "store", "leanest");
    let losses = format!("{:>9}{:>9}{:>11}{:>10}", "before", "after", "an update", "lr");
    format!("{:16}{sizes}{losses}\n", "Methods")
}

/// A method.
pub(crate) fn row(row: &MethodRow) -> String {
    let sizes = [row.adapter_bytes, row.store_bytes, row.leanest_bytes].map(bytes);
    let loss = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
    let (before, after) = (loss(row.loss_before), loss(row.loss_after));
    let seconds = row.seconds.map_or_else(|| "-".to_owned(), time);
    let trained = count(row.trainable_parameters as u64);
    let sizes = format!("{trained:>12}{:>12}{:>12}{:>12}", sizes[0], sizes[1], sizes[2]);
    format!("  {:14}{sizes}{before:>9}{after:>9}{seconds:>11}{:>10}\n", row.name, row.lr)
}

/// What the columns of tasks are.
pub(crate) fn tasks_head() -> String {
    format!("{:12}{:16}{:>10}{:>10}{:>10}\n", "Tasks", "method", "updates", "right", "loss")
}

/// A method on a task.
pub(crate) fn task(row: &TaskRow) -> String {
    let TaskRow { task, method, updates, accuracy, loss } = row;
    let right = format!("{:.1} %", 100.0 * accuracy);
    format!("  {task:10}{method:16}{updates:>10}{right:>10}{loss:>10.4}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_under_their_heads() {
        let line = row(&MethodRow {
            name: "lars prompt".into(),
            lr: 1e-3,
            trainable_parameters: 1234,
            adapter_bytes: 4 << 10,
            store_bytes: 3 << 20,
            leanest_bytes: 2 << 20,
            loss_before: Some(2.5),
            loss_after: None,
            tokens: 10,
            updates: 3,
            seconds: Some(0.25),
        });
        let words: Vec<_> = line.split_whitespace().collect();
        let want = ["lars", "prompt", "1,234", "4.0", "KiB", "3.00", "MiB", "2.00", "MiB"];
        assert_eq!(words[..9], want);
        assert_eq!(words[9..], ["2.5000", "-", "250", "ms", "0.001"]);
        assert_eq!(line.trim_end().chars().count(), head().trim_end().chars().count());
        let one = TaskRow {
            task: "style".into(),
            method: "ia3".into(),
            updates: 60,
            accuracy: 0.5,
            loss: 1.25,
        };
        let words: Vec<_> = task(&one).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["style", "ia3", "60", "50.0", "%", "1.2500"]);
    }
}
