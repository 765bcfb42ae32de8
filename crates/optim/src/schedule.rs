//! Learning rates over the course of a run.

use core::f64::consts::PI;

/// How the learning rate moves after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleKind {
    /// It stays.
    Constant,
    /// It falls to zero in a straight line.
    Linear,
    /// It falls to zero along half a cosine wave.
    Cosine,
}

impl ScheduleKind {
    /// Every kind, in the order in which they are documented.
    pub const ALL: [Self; 3] = [Self::Constant, Self::Linear, Self::Cosine];

    /// Name in configurations: `cosine`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }

    /// The kind of this name, if there is one.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A learning rate as a function of the update: a rise over `warmup_steps`, then `kind`.
///
/// Updates are counted from 0, as Hugging Face's schedulers count: the `i`-th update of `total`
/// runs at `lr * factor(i)` with `w = warmup_steps` and
///
/// | | factor of update `i` |
/// |---|---|
/// | `i < w` | `(i + 1) / w` |
/// | constant | 1 |
/// | linear | `(total - i) / (total - w)` |
/// | cosine | `(1 + cos(π (i - w) / (total - w))) / 2` |
///
/// From update `w` on these are the values of Hugging Face's `get_*_schedule_with_warmup` at the
/// same update. During warm-up Hugging Face has `i / w`, so that its first update moves nothing;
/// here no update is wasted and the last one of warm-up runs at the full rate. An update at or past
/// `total`, which a run does not make, has factor 0 (1 when constant).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What happens after warm-up.
    pub kind: ScheduleKind,
    /// The highest learning rate.
    pub lr: f64,
    /// Updates over which the learning rate rises to `lr`; 0 for none.
    pub warmup_steps: u64,
}

impl Schedule {
    /// The learning rate of update `step`, from 0, of a run of `total` updates.
    #[must_use]
    pub fn lr(&self, step: u64, total: u64) -> f64 {
        self.lr * self.factor(step, total)
    }

    fn factor(&self, step: u64, total: u64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let left = total.saturating_sub(step) as f64;
        let falling = total.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => left / falling,
            ScheduleKind::Cosine => 0.5 * (1.0 + libm::cos(PI * (1.0 - left / falling))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lrs(kind: ScheduleKind, warmup_steps: u64, total: u64) -> [f64; 8] {
        let schedule = Schedule { kind, lr: 2.0, warmup_steps };
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
        let schedule = Schedule { kind: ScheduleKind::Cosine, lr: 2.0, warmup_steps: 2 };
        assert_eq!((schedule.lr(8, 8), schedule.lr(11, 8)), (0.0, 0.0));
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
            assert_eq!(ScheduleKind::by_name(kind.name()), Some(kind));
        }
        assert_eq!(ScheduleKind::by_name("polynomial"), None);
    }
}
