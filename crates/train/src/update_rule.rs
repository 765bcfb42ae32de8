//! Which optimizer makes the updates, with which constants.

use lowtide_optim::{AdamW, AdamW8, Lion, Lion8, Optimizer, Sgd};

use crate::{Settings, SettingsError, SparseUpdates};

/// Names of optimizers; `auto` is the first of `adamw` and `adamw8bit` that fits the budget.
pub const OPTIMIZERS: [&str; 6] = ["auto", "adamw", "adamw8bit", "lion", "lion8bit", "sgd"];

/// The optimizers that settings allow, for any decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct UpdateRule {
    adamw: AdamW,
    lion: Lion,
    sgd: Sgd,
    sparse: SparseUpdates,
}

impl UpdateRule {
    /// That of a run, with the names to choose among, the most exact first.
    pub(crate) fn of(settings: &Settings) -> Result<(Self, Vec<&'static str>), SettingsError> {
        let sparse = SparseUpdates::named(&settings.sparse_updates)?;
        let names = names(&settings.optimizer, sparse)?;
        check_constants(settings, names[0])?;
        let Settings { beta1, beta2, eps, momentum, weight_decay, .. } = *settings;
        let (adamw, lion) = (AdamW::default(), Lion::default());
        let rule = Self {
            adamw: AdamW {
                beta1: beta1.unwrap_or(adamw.beta1),
                beta2: beta2.unwrap_or(adamw.beta2),
                eps: eps.unwrap_or(adamw.eps),
                weight_decay,
            },
            lion: Lion {
                beta1: beta1.unwrap_or(lion.beta1),
                beta2: beta2.unwrap_or(lion.beta2),
                weight_decay,
            },
            sgd: Sgd { weight_decay, momentum },
            sparse,
        };
        Ok((rule, names))
    }

    /// The same with another decay.
    pub(crate) fn with_decay(self, weight_decay: f64) -> Self {
        Self {
            adamw: AdamW { weight_decay, ..self.adamw },
            lion: Lion { weight_decay, ..self.lion },
            sgd: Sgd { weight_decay, ..self.sgd },
            ..self
        }
    }

    /// The optimizer that one of [`OPTIMIZERS`] other than `auto` stands for.
    ///
    /// # Panics
    /// When `name` is none of them.
    pub(crate) fn optimizer(&self, name: &str) -> Box<dyn Optimizer> {
        match name {
            "adamw" => self.sparse.of(self.adamw),
            "adamw8bit" => self.sparse.of(AdamW8(self.adamw)),
            "lion" => self.sparse.of(self.lion),
            "lion8bit" => self.sparse.of(Lion8(self.lion)),
            "sgd" => self.sparse.of(self.sgd),
            other => panic!("no optimizer is called {other}"),
        }
    }
}

/// What a name stands for.
fn names(name: &str, sparse: SparseUpdates) -> Result<Vec<&'static str>, SettingsError> {
    let threshold = matches!(sparse, SparseUpdates::Threshold(_));
    let known = OPTIMIZERS.into_iter().find(|known| *known == name);
    match known {
        // Entries that are left alone one by one cannot share a scale with others.
        Some("auto" | "adamw8bit" | "lion8bit") | None if threshold => None,
        Some("auto") => Some(vec!["adamw", "adamw8bit"]),
        Some(name) => Some(vec![name]),
        None => None,
    }
    .ok_or_else(|| SettingsError::BadValue {
        field: "optimizer",
        found: name.into(),
        expected: match threshold {
            true => "adamw, lion or sgd with sparse-updates threshold: 8-bit states are shared",
            false => "auto, adamw, adamw8bit, lion, lion8bit or sgd",
        },
    })
}

/// Whether the constants are such as optimizer `name` has.
fn check_constants(settings: &Settings, name: &str) -> Result<(), SettingsError> {
    let bad = |field, found: f64, expected| {
        Err(SettingsError::BadValue { field, found: found.to_string(), expected })
    };
    let share = |value: f64| (0.0..1.0).contains(&value);
    for (field, beta) in [("beta1", settings.beta1), ("beta2", settings.beta2)] {
        match beta {
            Some(beta) if name == "sgd" => {
                return bad(field, beta, "nothing with sgd: it has momentum");
            }
            Some(beta) if !share(beta) => return bad(field, beta, "a share from 0 to below 1"),
            _ => {}
        }
    }
    match settings.eps {
        Some(eps) if !name.starts_with("adamw") => {
            return bad("eps", eps, "nothing but with adamw or adamw8bit: no other divides by it");
        }
        Some(eps) if !eps.is_finite() || eps <= 0.0 => {
            return bad("eps", eps, "a finite number above 0");
        }
        _ => {}
    }
    let momentum = settings.momentum;
    if !share(momentum) {
        return bad("momentum", momentum, "a share from 0 to below 1");
    }
    if momentum > 0.0 && name != "sgd" {
        return bad("momentum", momentum, "0 but with sgd: other optimizers have beta1");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(optimizer: &str, sparse_updates: &str) -> Settings {
        let (optimizer, sparse_updates) = (optimizer.into(), sparse_updates.into());
        Settings { optimizer, sparse_updates, ..Settings::default() }
    }

    /// Words of state for a tensor of 1000, of each optimizer to choose among.
    fn words(settings: &Settings) -> Option<Vec<usize>> {
        let (rule, names) = UpdateRule::of(settings).ok()?;
        let words = |name| rule.optimizer(name).state_words(&[1000]);
        Some(names.into_iter().map(words).collect())
    }

    #[test]
    fn every_name_has_its_states() {
        let words = |name: &str, sparse: &str| words(&settings(name, sparse));
        assert_eq!(words("auto", "off").unwrap(), [2000, 508]);
        assert_eq!(words("adamw8bit", "off").unwrap(), [508]);
        assert_eq!(words("lion", "off").unwrap(), [1000]);
        assert_eq!(words("lion8bit", "off").unwrap(), [254]);
        assert_eq!(words("sgd", "off").unwrap(), [0]);
        assert_eq!(words("adamw", "top:10%").unwrap(), [300]);
        assert_eq!(words("lion", "top:10%").unwrap(), [200]);
        assert_eq!(words("sgd", "threshold:1").unwrap(), [0]);
        assert_eq!(words("lion", "threshold:1").unwrap(), [1500]);
        assert_eq!(words("adamw8bit", "threshold:1"), None);
        assert_eq!(words("lion8bit", "threshold:1"), None);
        assert_eq!(words("adam", "off"), None);
    }

    #[test]
    fn names_are_those_of_the_optimizers() {
        let (rule, _) = UpdateRule::of(&Settings::default()).unwrap();
        for name in &OPTIMIZERS[1..] {
            assert_eq!(rule.optimizer(name).name(), *name);
        }
    }

    #[test]
    fn constants_reach_the_optimizer_that_has_them() {
        let base = |name: &str| settings(name, "off");
        let given = Settings { beta1: Some(0.8), eps: Some(1e-6), ..base("adamw") };
        let (rule, _) = UpdateRule::of(&given).unwrap();
        assert_eq!((rule.adamw.beta1, rule.adamw.beta2, rule.adamw.eps), (0.8, 0.999, 1e-6));
        let (rule, _) = UpdateRule::of(&Settings { beta2: Some(0.5), ..base("lion") }).unwrap();
        assert_eq!((rule.lion.beta1, rule.lion.beta2), (0.9, 0.5));
        assert_eq!(words(&Settings { momentum: 0.9, ..base("sgd") }).unwrap(), [1000]);
        let refused = |settings: Settings| UpdateRule::of(&settings).unwrap_err().to_string();
        let error = refused(Settings { momentum: 0.9, ..base("lion") });
        assert!(error.contains("`momentum` is 0.9, expected 0 but with sgd"), "{error}");
        let error = refused(Settings { momentum: 1.0, ..base("sgd") });
        assert!(error.contains("`momentum` is 1, expected a share"), "{error}");
        let error = refused(Settings { beta1: Some(0.9), ..base("sgd") });
        assert!(error.contains("`beta1` is 0.9, expected nothing with sgd"), "{error}");
        let error = refused(Settings { beta2: Some(f64::NAN), ..base("adamw") });
        assert!(error.contains("`beta2` is NaN, expected a share"), "{error}");
        let error = refused(Settings { eps: Some(1e-8), ..base("lion8bit") });
        assert!(error.contains("`eps` is 0.00000001, expected nothing but with adamw"), "{error}");
        let error = refused(Settings { eps: Some(0.0), ..base("adamw") });
        assert!(error.contains("`eps` is 0, expected a finite number above 0"), "{error}");
    }
}
