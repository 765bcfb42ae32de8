//! How far results may stray for speed, and which arithmetic that allows.

use crate::{Settings, SettingsError};

/// How far results may stray from those of f32, for speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Products in f32, stores that lose nothing.
    #[default]
    Exact,
    /// Products with packed weights may take two 8-bit digits of a number: gradients keep a cosine
    /// of at least 0.9999 with the exact ones.
    Balanced,
    /// Whatever is quick, one 8-bit digit included: visibly rounded.
    Fast,
}

impl Precision {
    /// All of them, the most exact first.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Balanced, Self::Fast];

    /// The name it goes by in flags and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Balanced => "balanced",
            Self::Fast => "fast",
        }
    }

    /// The precision with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name)
    }

    /// The arithmetic of packed products that it allows, by the names of
    /// [`Caps::compute`](lowtide_backend::Caps), the most exact first and the quickest last.
    #[must_use]
    pub const fn allows(self) -> &'static [&'static str] {
        match self {
            Self::Exact => &["f32"],
            Self::Balanced => &["f32", "int8x2"],
            Self::Fast => &["f32", "int8x2", "int8"],
        }
    }

    /// Checks that arithmetic, by name or `auto`, is allowed.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] that says what is.
    pub fn check(self, compute: &str) -> Result<(), SettingsError> {
        if compute == "auto" || self.allows().contains(&compute) {
            return Ok(());
        }
        let expected = match (Self::Fast.allows().contains(&compute), self) {
            (true, Self::Exact) => "auto or f32, because `precision` is exact",
            (true, Self::Balanced) => "auto, f32 or int8x2, because `precision` is balanced",
            _ => "auto, f32, int8x2 or int8",
        };
        Err(SettingsError::BadValue { field: "compute", found: compute.into(), expected })
    }
}

impl Settings {
    /// The precision by name.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] that lists the names.
    pub fn precision(&self) -> Result<Precision, SettingsError> {
        Precision::by_name(&self.precision).ok_or_else(|| SettingsError::BadValue {
            field: "precision",
            found: self.precision.clone(),
            expected: "exact, balanced or fast",
        })
    }

    /// Checks that a backend, which computes as `caps` say, does what was asked for.
    pub(crate) fn check_backend(&self, compute: &'static str) -> Result<(), SettingsError> {
        let precision = self.precision()?;
        precision.check(&self.compute)?;
        let as_asked = match self.compute.as_str() {
            "auto" => precision.allows().contains(&compute),
            asked => asked == compute,
        };
        if as_asked {
            return Ok(());
        }
        let (precision, asked) = (precision.name(), self.compute.clone());
        Err(SettingsError::Arithmetic { precision, asked, compute })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(precision: &str, compute: &str) -> Settings {
        Settings { precision: precision.into(), compute: compute.into(), ..Settings::default() }
    }

    #[test]
    fn each_precision_allows_what_the_one_before_it_does_and_more() {
        for pair in Precision::ALL.windows(2) {
            assert!(pair[1].allows().starts_with(pair[0].allows()));
        }
        for precision in Precision::ALL {
            assert_eq!(Precision::by_name(precision.name()), Some(precision));
            assert_eq!(precision.check("auto"), Ok(()));
        }
        assert_eq!(Precision::by_name("auto"), None);
    }

    #[test]
    fn contradictions_and_unknown_names_say_what_is_expected() {
        for (precision, compute, says) in [
            (
                "exact",
                "int8",
                "`compute` is int8, expected auto or f32, because `precision` is exact",
            ),
            ("exact", "int8x2", "because `precision` is exact"),
            ("balanced", "int8", "expected auto, f32 or int8x2, because `precision` is balanced"),
            ("fast", "bf16", "`compute` is bf16, expected auto, f32, int8x2 or int8"),
            ("exact", "bf16", "`compute` is bf16, expected auto, f32, int8x2 or int8"),
            ("quick", "f32", "`precision` is quick, expected exact, balanced or fast"),
        ] {
            let error = asked(precision, compute).check().unwrap_err().to_string();
            assert!(error.ends_with(says), "{error}");
        }
        for (precision, compute) in [("balanced", "f32"), ("balanced", "int8x2"), ("fast", "int8")]
        {
            assert_eq!(asked(precision, compute).check(), Ok(()));
        }
    }

    #[test]
    fn a_backend_may_be_more_exact_than_asked_unless_arithmetic_is_named() {
        assert_eq!(asked("exact", "auto").check_backend("f32"), Ok(()));
        assert_eq!(asked("balanced", "auto").check_backend("f32"), Ok(()));
        assert_eq!(asked("balanced", "auto").check_backend("int8x2"), Ok(()));
        assert_eq!(asked("fast", "int8x2").check_backend("int8x2"), Ok(()));
        for (settings, compute) in [
            (asked("exact", "auto"), "int8x2"),
            (asked("balanced", "auto"), "int8"),
            (asked("balanced", "int8x2"), "f32"),
            (asked("fast", "f32"), "int8"),
        ] {
            let error = settings.check_backend(compute).unwrap_err();
            assert!(matches!(error, SettingsError::Arithmetic { .. }), "{error}");
        }
    }
}
