//! Rests between pieces of work, and pauses.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Control, PauseCause};
use crate::Settings;

/// How long a sleep lasts before it is looked whether anything calls.
const SLICE: Duration = Duration::from_millis(50);

/// Time between two looks for the pause file.
const LOOK: Duration = Duration::from_secs(1);

/// When a run works and when it does not.
#[derive(Debug)]
pub(crate) struct Rests<'a> {
    control: Control<'a>,
    file: Option<PathBuf>,
    /// Share of its time that a run works.
    duty: f64,
    /// When the work began that the next rest is due for.
    since: Instant,
    rested: Duration,
    paused: Duration,
}

impl<'a> Rests<'a> {
    pub(crate) fn new(settings: &Settings, control: Control<'a>) -> Self {
        let (file, duty) = (settings.pause_file.clone(), settings.duty);
        let (rested, paused) = (Duration::ZERO, Duration::ZERO);
        Self { control, file, duty, since: Instant::now(), rested, paused }
    }

    /// Rests as long as the work since the last rest asks for, unless the run is to stop or to
    /// pause.
    pub(crate) fn rest(&mut self) {
        let start = Instant::now();
        let due = due(start - self.since, self.duty);
        if !due.is_zero() {
            let control = self.control;
            sleep(due, || control.stopped() || control.cause(None).is_some());
            self.rested += start.elapsed();
        }
        self.since = Instant::now();
    }

    /// Why the run has to wait now, if it has to; one that is to stop does not wait.
    pub(crate) fn cause(&self) -> Option<PauseCause> {
        if self.control.stopped() { None } else { self.control.cause(self.file.as_deref()) }
    }

    /// Waits until nothing asks for it any more; how many seconds that took.
    pub(crate) fn pause(&mut self) -> f64 {
        let start = Instant::now();
        while let Some(cause) = self.cause() {
            let control = self.control;
            let called = || match &cause {
                PauseCause::Signal => control.cause(None).is_none(),
                PauseCause::File(_) => false,
            };
            sleep(LOOK, || control.stopped() || called());
        }
        let waited = start.elapsed();
        self.paused += waited;
        self.since = Instant::now();
        waited.as_secs_f64()
    }

    /// Seconds of all rests so far.
    pub(crate) fn rested(&self) -> f64 {
        self.rested.as_secs_f64()
    }

    /// Seconds of all pauses so far.
    pub(crate) fn paused(&self) -> f64 {
        self.paused.as_secs_f64()
    }
}

/// The rest that so much work asks for.
fn due(worked: Duration, duty: f64) -> Duration {
    if duty >= 1.0 { Duration::ZERO } else { worked.mul_f64((1.0 - duty) / duty) }
}

/// Sleeps so long, or until something calls.
fn sleep(long: Duration, called: impl Fn() -> bool) {
    let start = Instant::now();
    while !called() {
        let Some(left) = long.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
            return;
        };
        std::thread::sleep(left.min(SLICE));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_rest_is_as_long_as_the_share_asks() {
        let second = Duration::from_secs(1);
        let cases = [(1.0, 0.0), (0.5, 1.0), (0.25, 3.0), (0.8, 0.25), (0.01, 99.0)];
        for (duty, seconds) in cases {
            let off = due(second, duty).as_secs_f64() - seconds;
            assert!(off.abs() < 1e-9, "{duty}: {off}");
        }
    }

    #[test]
    fn whoever_calls_ends_a_rest_and_a_pause() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("wait");
        std::fs::write(&file, "").unwrap();
        let (stop, pause) = (AtomicBool::new(false), AtomicUsize::new(0));
        let settings =
            Settings { duty: 0.01, pause_file: Some(file.clone()), ..Settings::default() };
        let mut rests = Rests::new(&settings, Control { stop: &stop, pause: &pause });
        // A day's work: nobody would see the end of a rest that was not ended.
        let long = Duration::from_secs(86_400);
        let Some(yesterday) = Instant::now().checked_sub(long) else { return };
        rests.since = yesterday;
        pause.store(1, Ordering::Relaxed);
        rests.rest();
        assert!(rests.rested() < 3600.0 && rests.since > yesterday);
        assert_eq!(rests.cause(), Some(PauseCause::Signal));
        pause.store(0, Ordering::Relaxed);
        assert_eq!(rests.cause(), Some(PauseCause::File(file.clone())));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(rests.cause(), None);
        assert!(rests.pause() < 3600.0);
        std::fs::write(&file, "").unwrap();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(rests.cause(), None);
        rests.since = yesterday;
        rests.rest();
        rests.pause();
        assert!(rests.rested() < 3600.0 && rests.paused() < 3600.0);
    }
}
