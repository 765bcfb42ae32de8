//! Learning rates over the course of a run.

use core::f64::consts::PI;

/// How the learning rate moves after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleKind {
    /// It stays.
    Constant,
    /// It falls in a straight line.
    Linear,
    /// It falls along half a cosine wave.
    Cosine,
    /// It stays, and falls in a straight line at the end: warm-up, stable, decay.
    Wsd,
    /// It falls with the root of the number of updates.
    InverseSqrt,
}

impl ScheduleKind {
    /// Every kind, in the order in which they are documented.
    pub const ALL: [Self; 5] =
        [Self::Constant, Self::Linear, Self::Cosine, Self::Wsd, Self::InverseSqrt];

    /// Name in configurations: `cosine`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::Wsd => "wsd",
            Self::InverseSqrt => "inverse-sqrt",
        }
    }

    /// Names that it has in Hugging Face's trainers, where they are other ones.
    #[must_use]
    pub fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::Constant => &["constant_with_warmup"],
            Self::Linear => &[],
            Self::Cosine => &["cosine_with_min_lr"],
            Self::Wsd => &["warmup_stable_decay"],
            Self::InverseSqrt => &["inverse_sqrt"],
        }
    }

    /// The kind of this name or alias, if there is one.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let called = |kind: &Self| kind.name() == name || kind.aliases().contains(&name);
        Self::ALL.into_iter().find(called)
    }

    /// Whether it has a floor: whether it would fall to zero without one.
    #[must_use]
    pub fn has_floor(self) -> bool {
        matches!(self, Self::Linear | Self::Cosine | Self::Wsd)
    }
}

/// What the inverse root counts from where there is no warm-up to count from.
const TIMESCALE: u64 = 10_000;

/// A learning rate as a function of the update: a rise over `warmup_steps`, then `kind`.
///
/// Updates are counted from 0, as Hugging Face's schedulers count: the `i`-th update of `total`
/// runs at `lr * factor(i)` with `w = warmup_steps`, `d = decay_steps`, at most `total - w`, and
///
/// | | factor of update `i` |
/// |---|---|
/// | `i < w` | `(i + 1) / w` |
/// | constant | 1 |
/// | linear | `(total - i) / (total - w)` |
/// | cosine | `(1 + cos(π (i - w) / (total - w))) / 2` |
/// | wsd | 1, and from `total - d` on `(total - i) / d` |
/// | inverse-sqrt | `1 / sqrt(1 + (i - w) / s)`, where `s` is `w`, or 10,000 without warm-up |
///
/// Factors `f` of linear, cosine and wsd become `floor + (1 - floor) f` after warm-up.
///
/// From update `w` on these are the values of Hugging Face's `get_*_schedule_with_warmup`,
/// `get_cosine_with_min_lr_schedule_with_warmup`, `get_wsd_schedule` with a linear decay and
/// `get_inverse_sqrt_schedule` at the same update. During warm-up Hugging Face has `i / w`, so that
/// its first update moves nothing; here no update is wasted and the last one of warm-up runs at the
/// full rate. An update at or past `total`, which a run does not make, has the floor as its factor
/// (constant and inverse-sqrt, which have none, go on).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What happens after warm-up.
    pub kind: ScheduleKind,
    /// The highest learning rate.
    pub lr: f64,
    /// Updates over which the learning rate rises to `lr`; 0 for none.
    pub warmup_steps: u64,
    /// Updates at the end over which it falls; for wsd.
    pub decay_steps: u64,
    /// Share of `lr` that linear, cosine and wsd end at.
    pub floor: f64,
}

impl Schedule {
    /// One that falls to zero where it falls, without warm-up; wsd over the last tenth of `total`
    /// updates.
    #[must_use]
    pub fn new(kind: ScheduleKind, lr: f64, total: u64) -> Self {
        Self { kind, lr, warmup_steps: 0, decay_steps: total.div_ceil(10), floor: 0.0 }
    }

    /// The learning rate of update `step`, from 0, of a run of `total` updates.
    #[must_use]
    pub fn lr(&self, step: u64, total: u64) -> f64 {
        self.lr * self.factor(step, total)
    }

    fn factor(&self, step: u64, total: u64) -> f64 {
        let warmup = self.warmup_steps;
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let left = total.saturating_sub(step) as f64;
        let falling = total.saturating_sub(warmup).max(1);
        let above_floor = match self.kind {
            ScheduleKind::Constant => return 1.0,
            ScheduleKind::InverseSqrt => {
                let scale = if warmup > 0 { warmup } else { TIMESCALE };
                return 1.0 / libm::sqrt(1.0 + (step - warmup) as f64 / scale as f64);
            }
            ScheduleKind::Linear => left / falling as f64,
            ScheduleKind::Cosine => 0.5 * (1.0 + libm::cos(PI * (1.0 - left / falling as f64))),
            ScheduleKind::Wsd => (left / self.decay_steps.clamp(1, falling) as f64).min(1.0),
        };
        self.floor + (1.0 - self.floor) * above_floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lrs(kind: ScheduleKind, warmup_steps: u64, total: u64) -> [f64; 8] {
        let schedule = Schedule { warmup_steps, ..Schedule::new(kind, 2.0, total) };
        core::array::from_fn(|step| schedule.lr(step as u64, total))
    }

    #[test]
    fn constant_rises_and_stays() {
        assert_eq!(lrs(ScheduleKind::Constant, 0, 6), [2.0; 8]);
        assert_eq!(lrs(ScheduleKind::Constant, 4, 6), [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn linear_falls_to_zero_after_the_last_update() {
        assert_eq!(lrs(ScheduleKind::Linear, 0, 4), [2.0, 1.5, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(lrs(ScheduleKind::Linear, 2, 6), [1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn cosine_falls_along_half_a_wave() {
        let got = lrs(ScheduleKind::Cosine, 2, 8);
        // 1 + cos(k π / 6) for k = 0..6.
        let root = 3.0_f64.sqrt() / 2.0;
        let want = [1.0, 2.0, 2.0, 1.0 + root, 1.5, 1.0, 0.5, 1.0 - root];
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-15, "{got} for {want}");
        }
        // Hugging Face's wave would rise again past the end.
        let schedule = Schedule { warmup_steps: 2, ..Schedule::new(ScheduleKind::Cosine, 2.0, 8) };
        assert_eq!((schedule.lr(8, 8), schedule.lr(11, 8)), (0.0, 0.0));
    }

    #[test]
    fn wsd_stays_and_falls_at_the_end() {
        let schedule = |decay_steps, floor| Schedule {
            warmup_steps: 2,
            decay_steps,
            floor,
            ..Schedule::new(ScheduleKind::Wsd, 2.0, 8)
        };
        let lrs = |schedule: Schedule| -> [f64; 10] {
            core::array::from_fn(|step| schedule.lr(step as u64, 8))
        };
        let want = [1.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0];
        // The decay begins at 4 with the full rate still.
        assert_eq!(lrs(schedule(4, 0.0)), want);
        let want = [1.0, 2.0, 2.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 1.0];
        assert_eq!(lrs(schedule(4, 0.5)), want);
        // More than what warm-up leaves is all of it.
        assert_eq!(lrs(schedule(100, 0.0)), lrs(schedule(6, 0.0)));
        assert_eq!(lrs(schedule(0, 0.0))[..8], [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn the_inverse_root_counts_from_warm_up() {
        let schedule =
            Schedule { warmup_steps: 4, ..Schedule::new(ScheduleKind::InverseSqrt, 2.0, 8) };
        assert_eq!([3, 4, 16, 64].map(|step| schedule.lr(step, 8)), [2.0, 2.0, 1.0, 0.5]);
        let without = Schedule { warmup_steps: 0, ..schedule };
        assert_eq!([0, 30_000].map(|step| without.lr(step, 8)), [2.0, 1.0]);
    }

    #[test]
    fn a_floor_is_where_falling_ends() {
        for kind in ScheduleKind::ALL {
            let schedule = Schedule { floor: 0.25, ..Schedule::new(kind, 2.0, 8) };
            assert_eq!(schedule.lr(0, 8), 2.0, "{kind:?}");
            let end = schedule.lr(8, 8);
            assert_eq!(end == 0.5, kind.has_floor(), "{kind:?}: {end}");
        }
        let schedule = Schedule { floor: 0.25, ..Schedule::new(ScheduleKind::Cosine, 2.0, 8) };
        // Half way down from 2 to 0.5.
        assert!((schedule.lr(4, 8) - 1.25).abs() < 1e-15);
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_only_rises() {
        for kind in ScheduleKind::ALL {
            assert_eq!(lrs(kind, 8, 3), [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]);
        }
    }

    #[test]
    fn names_lead_back() {
        for kind in ScheduleKind::ALL {
            for name in [kind.name()].iter().chain(kind.aliases()) {
                assert_eq!(ScheduleKind::by_name(name), Some(kind));
            }
        }
        assert_eq!(ScheduleKind::by_name("polynomial"), None);
    }
}
