//! How the learning rate moves over a run.

use lowtide_optim::{Schedule, ScheduleKind};

use super::{Settings, SettingsError};

/// Of all updates, the percentage that warm-up takes when nobody says.
const WARMUP_PERCENT: u64 = 3;

impl Settings {
    /// The schedule of a run of `steps` updates.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when the name is none, a share is out of range or given beside
    /// the number that it stands for, or something is given that the schedule does not have.
    pub(crate) fn schedule(&self, steps: u64) -> Result<Schedule, SettingsError> {
        let kind = ScheduleKind::by_name(&self.lr_scheduler);
        let kind = kind.ok_or_else(|| SettingsError::BadValue {
            field: "lr-scheduler",
            found: self.lr_scheduler.clone(),
            expected: "constant, linear, cosine, wsd or inverse-sqrt",
        })?;
        let ratio = part("warmup-ratio", self.warmup_ratio, self.warmup_steps, steps)?;
        let usual = steps.saturating_mul(WARMUP_PERCENT) / 100;
        let warmup_steps = self.warmup_steps.or(ratio).unwrap_or(usual);
        let ratio = part("decay-ratio", self.decay_ratio, self.decay_steps, steps)?;
        let decay_steps = self.decay_steps.or(ratio);
        let none_of = |field, found: &dyn ToString, expected| {
            Err(SettingsError::BadValue { field, found: found.to_string(), expected })
        };
        if kind != ScheduleKind::Wsd {
            let expected = "nothing but with lr-scheduler wsd: no other has a decay of its own";
            if let Some(steps) = self.decay_steps {
                return none_of("decay-steps", &steps, expected);
            }
            if let Some(ratio) = self.decay_ratio {
                return none_of("decay-ratio", &ratio, expected);
            }
        }
        let floor = self.min_lr_ratio;
        if !(0.0..=1.0).contains(&floor) {
            return none_of("min-lr-ratio", &floor, "a share from 0 to 1");
        }
        if floor > 0.0 && !kind.has_floor() {
            let expected = "0 but with lr-scheduler linear, cosine or wsd";
            return none_of("min-lr-ratio", &floor, expected);
        }
        let schedule = Schedule { warmup_steps, floor, ..Schedule::new(kind, self.lr, steps) };
        let decay_steps = decay_steps.unwrap_or(schedule.decay_steps);
        Ok(Schedule { decay_steps, ..schedule })
    }

    /// Takes over what a schedule settled.
    pub(crate) fn set_schedule(&mut self, schedule: &Schedule) {
        let has_decay = schedule.kind == ScheduleKind::Wsd;
        self.lr_scheduler = schedule.kind.name().into();
        self.warmup_steps = Some(schedule.warmup_steps);
        self.decay_steps = has_decay.then_some(schedule.decay_steps);
        (self.warmup_ratio, self.decay_ratio) = (None, None);
    }
}

/// A share of `steps`, rounded up as Hugging Face rounds it, where one is given.
fn part(
    field: &'static str,
    ratio: Option<f64>,
    given: Option<u64>,
    steps: u64,
) -> Result<Option<u64>, SettingsError> {
    let Some(ratio) = ratio else { return Ok(None) };
    let expected = match given {
        Some(_) => "either it or the number of updates",
        None if !(0.0..=1.0).contains(&ratio) => "a share from 0 to 1",
        None => return Ok(Some((ratio * steps as f64).ceil() as u64)),
    };
    Err(SettingsError::BadValue { field, found: ratio.to_string(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &Settings) -> (u64, u64) {
        let schedule = settings.schedule(200).unwrap();
        (schedule.warmup_steps, schedule.decay_steps)
    }

    #[test]
    fn steps_and_shares_of_them() {
        let base = || Settings { lr_scheduler: "wsd".into(), ..Settings::default() };
        assert_eq!(of(&base()), (6, 20));
        assert_eq!(of(&Settings { warmup_steps: Some(0), ..base() }), (0, 20));
        let shares = Settings { warmup_ratio: Some(0.101), decay_ratio: Some(0.5), ..base() };
        assert_eq!(of(&shares), (21, 100));
        assert_eq!(of(&Settings { decay_steps: Some(7), ..base() }), (6, 7));
    }

    #[test]
    fn what_was_settled_gives_the_same_schedule() {
        for kind in ScheduleKind::ALL {
            for &name in [kind.name()].iter().chain(kind.aliases()) {
                let mut settings = Settings {
                    lr_scheduler: name.into(),
                    warmup_ratio: Some(0.25),
                    ..Settings::default()
                };
                let schedule = settings.schedule(40).unwrap();
                settings.set_schedule(&schedule);
                assert_eq!(settings.schedule(40).unwrap(), schedule);
                assert_eq!(settings.lr_scheduler, kind.name());
                assert_eq!((settings.warmup_steps, settings.warmup_ratio), (Some(10), None));
            }
        }
    }

    #[test]
    fn what_a_schedule_does_not_have_is_refused() {
        let refused = |settings: Settings| settings.schedule(10).unwrap_err().to_string();
        let base = Settings::default;
        let both = Settings { warmup_steps: Some(1), warmup_ratio: Some(0.1), ..base() };
        assert!(refused(both).contains("`warmup-ratio` is 0.1, expected either it or"));
        let share = Settings { warmup_ratio: Some(1.5), ..base() };
        assert!(refused(share).contains("`warmup-ratio` is 1.5, expected a share from 0 to 1"));
        let decay = Settings { decay_steps: Some(3), ..base() };
        assert!(refused(decay).contains("`decay-steps` is 3, expected nothing but with"));
        let floor = Settings { lr_scheduler: "inverse-sqrt".into(), min_lr_ratio: 0.1, ..base() };
        assert!(refused(floor).contains("`min-lr-ratio` is 0.1, expected 0 but with"));
        let floor = Settings { min_lr_ratio: f64::NAN, ..base() };
        assert!(refused(floor).contains("`min-lr-ratio` is NaN, expected a share"));
    }
}
