//! Timing contenders in turns, so that what disturbs the machine disturbs all of them.
//!
//! A laptop that grows warm or a neighbour on the same host makes everything slower for a while.
//! Figures that were taken one contender after the other then compare moments, not contenders. Here
//! they take turns, and the ratio of two is the median of the ratios within the rounds.

use std::time::{Duration, Instant};

use crate::Spread;

/// Tells time; tests have one of their own.
pub trait Clock {
    /// Time since some moment that stays the same.
    fn now(&self) -> Duration;
}

/// The clock of the system.
#[derive(Clone, Copy, Debug)]
pub struct Wall(Instant);

impl Default for Wall {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Wall {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// How long and how often is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// What one turn should take at least; a call that takes longer is a turn by itself.
    pub turn: Duration,
    /// Turns that each contender gets.
    pub rounds: usize,
}

/// What was measured of one contender.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Seconds a call.
    pub seconds: Spread,
    /// Seconds over those of the first contender in the same round: below 1 is faster.
    pub ratio: Spread,
    /// Calls of one turn.
    pub calls: usize,
}

/// The most calls of one turn.
const CALLS_MAX: usize = 1 << 20;

/// Times `contenders` things in turns. `call(c, n)` lets contender `c` do its work `n` times.
///
/// Each is called once before anything is timed, and then until it is known how many of its calls
/// make a turn.
///
/// # Panics
/// When there is no round.
pub fn alternate(
    clock: &dyn Clock,
    pace: Pace,
    contenders: usize,
    call: &mut dyn FnMut(usize, usize),
) -> Vec<Timing> {
    assert!(pace.rounds > 0, "nothing is timed in no round");
    let mut timed = |contender: usize, calls: usize| {
        let start = clock.now();
        call(contender, calls);
        (clock.now() - start).as_secs_f64()
    };
    let calls: Vec<_> =
        (0..contenders).map(|c| calibrated(pace.turn, |calls| timed(c, calls))).collect();
    let mut rounds = vec![Vec::with_capacity(pace.rounds); contenders];
    for _ in 0..pace.rounds {
        for contender in 0..contenders {
            let seconds = timed(contender, calls[contender]) / calls[contender] as f64;
            rounds[contender].push(seconds);
        }
    }
    let timing = |(own, &calls): (&Vec<f64>, &usize)| {
        let ratios: Vec<_> = own.iter().zip(&rounds[0]).map(|(own, first)| own / first).collect();
        Timing { seconds: Spread::of(own), ratio: Spread::of(&ratios), calls }
    };
    rounds.iter().zip(&calls).map(timing).collect()
}

/// How many calls take a turn.
fn calibrated(turn: Duration, mut timed: impl FnMut(usize) -> f64) -> usize {
    let turn = turn.as_secs_f64();
    // The first call touches memory for the first time: what it takes says little.
    if timed(1) >= 4.0 * turn {
        return 1;
    }
    let mut calls = 1;
    loop {
        let seconds = timed(calls);
        let wanted = (calls as f64 * turn / seconds.max(1e-9)).ceil() as usize;
        if seconds >= turn / 2.0 || calls >= CALLS_MAX {
            return wanted.clamp(1, CALLS_MAX);
        }
        calls = wanted.clamp(calls + 1, calls.saturating_mul(16)).min(CALLS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A clock that stands still unless somebody works.
    #[derive(Default)]
    struct Stopped(Cell<Duration>);

    impl Clock for Stopped {
        fn now(&self) -> Duration {
            self.0.get()
        }
    }

    impl Stopped {
        fn pass(&self, micros: u64) {
            self.0.set(self.0.get() + Duration::from_micros(micros));
        }
    }

    fn pace(turn_micros: u64, rounds: usize) -> Pace {
        Pace { turn: Duration::from_micros(turn_micros), rounds }
    }

    #[test]
    fn contenders_take_turns_of_about_one_length() {
        let clock = Stopped::default();
        let heard = RefCell::new(Vec::new());
        let timings = alternate(&clock, pace(1000, 3), 2, &mut |contender, calls| {
            clock.pass([10, 100][contender] * calls as u64);
            heard.borrow_mut().push((contender, calls));
        });
        assert_eq!([timings[0].calls, timings[1].calls], [100, 10]);
        let turns = heard.into_inner();
        let turns = &turns[turns.len() - 6..];
        assert_eq!(turns, [(0, 100), (1, 10), (0, 100), (1, 10), (0, 100), (1, 10)]);
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        assert!(near(timings[0].seconds.median, 1e-5), "{timings:?}");
        assert!(near(timings[1].seconds.median, 1e-4), "{timings:?}");
        assert!(near(timings[1].ratio.median, 10.0), "{timings:?}");
        assert_eq!(timings[0].ratio, Spread { low: 1.0, median: 1.0, high: 1.0 });
    }

    #[test]
    fn what_slows_a_whole_round_leaves_the_ratio_alone() {
        let clock = Stopped::default();
        let turns = Cell::new(0);
        let timings = alternate(&clock, pace(50, 5), 2, &mut |contender, calls| {
            // Two calls each before the rounds; then the machine is slower in every round.
            let slow = 1 + (turns.get() as u64).saturating_sub(2) / 2;
            turns.set(turns.get() + 1);
            clock.pass([400, 200][contender] * slow * calls as u64);
        });
        assert_eq!(timings[1].ratio, Spread { low: 0.5, median: 0.5, high: 0.5 });
        assert!(timings[0].seconds.high > 1.5 * timings[0].seconds.low, "{timings:?}");
    }

    #[test]
    fn a_long_call_is_a_turn_and_an_instant_one_has_a_limit() {
        let clock = Stopped::default();
        let counted = Cell::new(0);
        let timings = alternate(&clock, pace(10, 1), 1, &mut |_, calls| {
            counted.set(counted.get() + calls);
            clock.pass(5_000_000);
        });
        assert_eq!((timings[0].calls, counted.get()), (1, 2));
        let timings = alternate(&clock, pace(10, 1), 1, &mut |_, _| ());
        assert_eq!(timings[0].calls, CALLS_MAX);
    }

    #[test]
    #[should_panic(expected = "nothing is timed in no round")]
    fn no_round_is_a_broken_contract() {
        alternate(&Stopped::default(), pace(1, 0), 1, &mut |_, _| ());
    }
}
