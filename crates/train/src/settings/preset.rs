//! Settings that suit a kind of machine.

use super::{Settings, SettingsError};

/// A kind of machine, and what a run is given on it unless something else is said. The guide to
/// devices, docs/devices.md, says why each value is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A phone: little memory beside other programs, a battery, no fan.
    Phone,
    /// A single-board computer: 1 to 8 GiB, a memory card, on the mains.
    Pi,
    /// A laptop: 8 GiB or more, somebody working on it.
    Laptop,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Phone, Self::Pi, Self::Laptop];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Pi => "pi",
            Self::Laptop => "laptop",
        }
    }

    /// The one of this name.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] with the names there are.
    pub fn named(name: &str) -> Result<Self, SettingsError> {
        let found = Self::ALL.into_iter().find(|preset| preset.name() == name);
        found.ok_or_else(|| SettingsError::BadValue {
            field: "preset",
            found: name.to_owned(),
            expected: "phone, pi or laptop",
        })
    }

    /// The defaults on such a machine.
    #[must_use]
    pub fn settings(self) -> Settings {
        let usual = Settings::default();
        match self {
            Self::Phone => Settings {
                memory_budget: Some("256MiB".into()),
                max_seq_len: 256,
                precision: "balanced".into(),
                duty: 0.5,
                save_every: 25,
                samples: 1,
                ..usual
            },
            Self::Pi => Settings { memory_budget: Some("512MiB".into()), save_every: 50, ..usual },
            Self::Laptop => Settings {
                memory_budget: Some("2GiB".into()),
                max_seq_len: 1024,
                optimizer: "auto".into(),
                micro_batch: "auto".into(),
                save_every: 100,
                ..usual
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_names_and_hold_together() {
        for preset in Preset::ALL {
            assert_eq!(Preset::named(preset.name()), Ok(preset));
            assert_eq!(preset.settings().check(), Ok(()), "{}", preset.name());
            assert_ne!(preset.settings(), Settings::default());
        }
        let error = Preset::named("mainframe").unwrap_err().to_string();
        assert_eq!(error, "`preset` is mainframe, expected phone, pi or laptop");
    }
}
