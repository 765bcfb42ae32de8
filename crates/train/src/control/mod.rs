//! What a run can be asked while it runs: to stop, to wait, and to take its time.

mod rests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde::Serialize;

use crate::{Settings, SettingsError};

pub(crate) use self::rests::Rests;

/// What a run looks at between its updates.
#[derive(Clone, Copy, Debug)]
pub struct Control<'a> {
    /// Once it is set, the update under way is the last one.
    pub stop: &'a AtomicBool,
    /// While it is not 0, the run waits before its next update. A number and not a flag, so that a
    /// signal handler, which can only store a value, can set it back.
    pub pause: &'a AtomicUsize,
}

/// The pause of those who never ask for one.
static NEVER: AtomicUsize = AtomicUsize::new(0);

impl<'a> From<&'a AtomicBool> for Control<'a> {
    /// A run that can be stopped, and waits for a pause file only.
    fn from(stop: &'a AtomicBool) -> Self {
        Self { stop, pause: &NEVER }
    }
}

impl<'a> From<&'a Arc<AtomicBool>> for Control<'a> {
    fn from(stop: &'a Arc<AtomicBool>) -> Self {
        Self::from(&**stop)
    }
}

impl Control<'_> {
    /// Whether the run was asked to stop.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Why the run has to wait, if it has to.
    fn cause(&self, file: Option<&Path>) -> Option<PauseCause> {
        if self.pause.load(Ordering::Relaxed) != 0 {
            return Some(PauseCause::Signal);
        }
        file.filter(|file| file.exists()).map(|file| PauseCause::File(file.to_owned()))
    }
}

/// Why a run waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseCause {
    /// [`Control::pause`] is set.
    Signal,
    /// There is this file, which `pause-file` names.
    File(PathBuf),
}

/// The least share of its time that a run may work: rests are 99 times as long then.
const DUTY_MIN: f64 = 0.01;

impl Settings {
    /// How a run is paced.
    pub(crate) fn check_pacing(&self) -> Result<(), SettingsError> {
        let bad = |field, found: String, expected| {
            Err(SettingsError::BadValue { field, found, expected })
        };
        if !(DUTY_MIN..=1.0).contains(&self.duty) {
            return bad("duty", self.duty.to_string(), "a share from 0.01 to 1");
        }
        match &self.pause_file {
            Some(file) if file.as_os_str().is_empty() => {
                bad("pause-file", "empty".into(), "a path")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_has_a_cause() {
        let (stop, pause) = (AtomicBool::new(false), AtomicUsize::new(0));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("wait");
        let control = Control { stop: &stop, pause: &pause };
        assert_eq!((control.cause(None), control.cause(Some(&file))), (None, None));
        std::fs::write(&file, "").unwrap();
        assert_eq!(control.cause(Some(&file)), Some(PauseCause::File(file.clone())));
        pause.store(1, Ordering::Relaxed);
        assert_eq!(control.cause(Some(&file)), Some(PauseCause::Signal));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(control.cause(None), Some(PauseCause::Signal));
        pause.store(0, Ordering::Relaxed);
        assert_eq!(control.cause(Some(&file)), None);
        assert!(!control.stopped() && !Control::from(&stop).stopped());
        stop.store(true, Ordering::Relaxed);
        assert!(control.stopped() && Control::from(&stop).stopped());
    }

    #[test]
    fn a_duty_is_a_share() {
        let field = |settings: Settings| match settings.check() {
            Err(SettingsError::BadValue { field, .. }) => Some(field),
            _ => None,
        };
        let duty = |duty| field(Settings { duty, ..Settings::default() });
        assert_eq!([duty(1.0), duty(0.5), duty(0.01)], [None; 3]);
        assert_eq!([duty(0.0), duty(1.5), duty(f64::NAN)], [Some("duty"); 3]);
        let nowhere = Settings { pause_file: Some("".into()), ..Settings::default() };
        assert_eq!(field(nowhere), Some("pause-file"));
    }
}
