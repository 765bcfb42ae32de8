//! How a run is going: one line an update, and how long the rest will take.

use lowtide::train::{PauseCause, StepReport};

use super::number::{bytes, counted, rate, time};

/// What the updates so far took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    tokens: u64,
    seconds: f64,
    updates: u64,
    /// Seconds of rest that come with each second of work.
    rest: f64,
}

impl Pace {
    /// Of a run that works this share of its time.
    pub(crate) fn of_duty(duty: f64) -> Self {
        Self { rest: (1.0 - duty) / duty, ..Self::default() }
    }

    /// Counts an update.
    pub(crate) fn count(&mut self, step: &StepReport) {
        self.tokens += step.tokens;
        self.seconds += step.seconds;
        self.updates += 1;
    }

    fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 }
    }

    /// Seconds that the updates after `step` will take if they are like those before, with the
    /// rests between them.
    fn left(&self, step: &StepReport) -> f64 {
        let updates = step.steps.saturating_sub(step.step) as f64;
        (1.0 + self.rest) * updates * self.seconds / self.updates.max(1) as f64
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

/// The run waits, and how to let it go on.
pub(crate) fn paused(updates: u64, cause: &PauseCause) -> String {
    let call = match cause {
        PauseCause::Signal => "send SIGUSR2 to go on".to_owned(),
        PauseCause::File(path) => format!("remove {} to go on", path.display()),
    };
    match updates {
        0 => format!("paused before the first update: {call}"),
        _ => format!("paused after {}, which are saved: {call}", counted(updates, "update")),
    }
}

/// The run goes on.
pub(crate) fn continued(seconds: f64) -> String {
    format!("goes on after a pause of {}", time(seconds))
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
    fn rests_count_in_the_time_left_and_not_in_the_speed() {
        let mut pace = Pace::of_duty(0.25);
        pace.count(&StepReport { step: 98, ..STEP });
        let line = live(&StepReport { step: 98, ..STEP }, &pace);
        assert!(line.ends_with("250 tokens/s  65.00 MiB held  16 s left"), "{line}");
    }

    #[test]
    fn a_pause_tells_how_it_ends() {
        let line = paused(0, &PauseCause::Signal);
        assert_eq!(line, "paused before the first update: send SIGUSR2 to go on");
        let line = paused(12, &PauseCause::File("wait".into()));
        assert_eq!(line, "paused after 12 updates, which are saved: remove wait to go on");
        assert_eq!(continued(137.4), "goes on after a pause of 2 min 17 s");
    }

    #[test]
    fn a_clock_that_stands_still_is_no_trouble() {
        let mut pace = Pace::default();
        pace.count(&StepReport { seconds: 0.0, ..STEP });
        assert!(live(&STEP, &pace).ends_with("0.0 tokens/s  65.00 MiB held  0 s left"));
    }
}
