//! How a run is going: one line an update, and how long the rest will take.

use lowtide::train::StepReport;

use super::number::{bytes, rate, time};

/// What the updates so far took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    tokens: u64,
    seconds: f64,
    updates: u64,
}

impl Pace {
    /// Counts an update.
    pub(crate) fn count(&mut self, step: &StepReport) {
        self.tokens += step.tokens;
        self.seconds += step.seconds;
        self.updates += 1;
    }

    fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 }
    }

    /// Seconds that the updates after `step` will take if they are like those before.
    fn left(&self, step: &StepReport) -> f64 {
        let rest = step.steps.saturating_sub(step.step) as f64;
        rest * self.seconds / self.updates.max(1) as f64
    }
}

/// What stands on the live line before its bar.
pub(crate) fn number(step: &StepReport) -> String {
    format!("step {}/{}", step.step, step.steps)
}

/// What stands on the live line behind its bar.
pub(crate) fn live(step: &StepReport, pace: &Pace) -> String {
    let (rate, held, left) = (rate(pace.rate()), bytes(step.held_bytes), time(pace.left(step)));
    format!("loss {:.4}  {rate}  {held} held  {left} left", step.loss)
}

/// A line of its own about one update.
pub(crate) fn plain(step: &StepReport, pace: &Pace) -> String {
    let norm = step.grad_norm.map(|norm| format!("  norm {norm:.3}")).unwrap_or_default();
    let width = step.steps.to_string().len();
    let (n, of, loss, lr) = (step.step, step.steps, step.loss, step.lr);
    let (rate, held, left) = (rate(pace.rate()), bytes(step.held_bytes), time(pace.left(step)));
    format!(
        "step {n:>width$}/{of}  loss {loss:.4}  lr {lr:.2e}{norm}  {rate}  {held} held  {left} left"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: StepReport = StepReport {
        step: 9,
        steps: 100,
        loss: 2.103_44,
        lr: 1.9e-4,
        grad_norm: Some(1.25),
        tokens: 500,
        seconds: 2.0,
        held_bytes: 65 << 20,
        pairs: None,
        gradient: "backprop",
        report: true,
    };

    #[test]
    fn lines_tell_loss_speed_memory_and_time_left() {
        let mut pace = Pace::default();
        pace.count(&StepReport { tokens: 300, seconds: 1.0, ..STEP });
        pace.count(&STEP);
        let tail = "267 tokens/s  65.00 MiB held  2 min 17 s left";
        assert_eq!(live(&STEP, &pace), format!("loss 2.1034  {tail}"));
        assert_eq!(number(&STEP), "step 9/100");
        let line = plain(&STEP, &pace);
        assert_eq!(line, format!("step   9/100  loss 2.1034  lr 1.90e-4  norm 1.250  {tail}"));
        let line = plain(&StepReport { grad_norm: None, ..STEP }, &pace);
        assert!(line.contains("lr 1.90e-4  267"), "{line}");
    }

    #[test]
    fn a_clock_that_stands_still_is_no_trouble() {
        let mut pace = Pace::default();
        pace.count(&StepReport { seconds: 0.0, ..STEP });
        assert!(live(&STEP, &pace).ends_with("0.0 tokens/s  65.00 MiB held  0 s left"));
    }
}
