//! How many sequences are computed at once.

use crate::{Settings, SettingsError};

impl Settings {
    /// Sequences of an update.
    pub(crate) fn per_update(&self) -> usize {
        self.batch_size * self.grad_accum
    }

    /// Sequences at once that the planner tries, the most first: all of a micro-batch, then half
    /// and half again. An update stays what it is but for the last bits: gradients add up over its
    /// parts, and each is averaged over the labelled tokens of all. Not so where the softmax runs
    /// over the neighbours of a micro-batch's targets: parts have other unions, so there only a
    /// number makes parts.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when it is no number from 1 to the batch size.
    pub(crate) fn micro_batches(&self) -> Result<Vec<usize>, SettingsError> {
        match self.micro_batch.as_str() {
            "all" => Ok(vec![self.batch_size]),
            "auto" | "fit" if self.softmax != "exact" => Ok(vec![self.batch_size]),
            "auto" | "fit" => {
                let halves = std::iter::successors(Some(self.batch_size), |&n| {
                    (n > 1).then(|| n.div_ceil(2))
                });
                Ok(halves.collect())
            }
            name => match name.parse() {
                Ok(n) if (1..=self.batch_size).contains(&n) => Ok(vec![n]),
                _ => Err(SettingsError::BadValue {
                    field: "micro-batch",
                    found: format!("{name} with batch-size {}", self.batch_size),
                    expected: "fit, auto, all or a whole number from 1 to batch-size",
                }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(micro_batch: &str, batch_size: usize) -> Result<Vec<usize>, SettingsError> {
        let micro_batch = micro_batch.into();
        Settings { micro_batch, batch_size, ..Settings::default() }.micro_batches()
    }

    #[test]
    fn a_batch_is_halved_down_to_one_sequence() {
        assert_eq!(sizes("auto", 1).unwrap(), [1]);
        assert_eq!(sizes("auto", 6).unwrap(), [6, 3, 2, 1]);
        assert_eq!(sizes("fit", 6).unwrap(), [6, 3, 2, 1]);
        assert_eq!(sizes("all", 6).unwrap(), [6]);
        assert_eq!(sizes("4", 6).unwrap(), [4]);
        let union = Settings { softmax: "union:9".into(), batch_size: 6, ..Settings::default() };
        assert_eq!(union.micro_batches().unwrap(), [6], "parts have other unions");
    }

    #[test]
    fn what_is_no_part_of_a_batch_is_named() {
        for name in ["0", "7", "-1", "some", ""] {
            let error = sizes(name, 6).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`micro-batch` is {name} with batch-size 6")),
                "{error}"
            );
        }
    }
}
