//! What PEFT counts as LoRA and computes otherwise.

use serde_json::Value;

use super::lora::is_on;
use crate::DocumentError;
use crate::json::{Object, shown_value};

/// DoRA's trained lengths of rows `[outputs]`, below their module.
pub const MAGNITUDE: &str = "lora_magnitude_vector";
/// Setting of DoRA.
pub(super) const USE_DORA: &str = "use_dora";
/// Setting of QA-LoRA.
pub(super) const USE_QALORA: &str = "use_qalora";
/// Setting of QA-LoRA.
pub(super) const GROUP_SIZE: &str = "qalora_group_size";

/// Which of the methods that PEFT counts as LoRA an adapter is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoraVariant {
    /// LoRA, rank-stabilised or not.
    #[default]
    Plain,
    /// DoRA: beside each pair the trained lengths of the rows, [`MAGNITUDE`].
    Dora,
    /// QA-LoRA: `A` `[rank, inputs / group_size]` sees inputs that are pooled in groups.
    QaLora {
        /// Inputs of a group.
        group_size: usize,
    },
}

impl LoraVariant {
    /// The variant that the settings ask for.
    pub(super) fn read(config: Object<'_>) -> Result<Self, DocumentError> {
        let dora = config.bool(USE_DORA)?.unwrap_or(false);
        match (dora, config.bool(USE_QALORA)?.unwrap_or(false)) {
            (false, false) => Ok(Self::Plain),
            (true, false) => Ok(Self::Dora),
            (true, true) => {
                let supported = "false where `use_dora` is true";
                Err(DocumentError::unsupported(USE_QALORA, "true", supported))
            }
            (false, true) => {
                let group_size = config.usize(GROUP_SIZE)?.unwrap_or(16);
                if group_size == 0 {
                    let expected = "a whole number from 1";
                    return Err(DocumentError::out_of_range(GROUP_SIZE, group_size, expected));
                }
                Ok(Self::QaLora { group_size })
            }
        }
    }

    /// The settings that say it.
    pub(super) fn fields(self) -> Vec<(&'static str, Value)> {
        let mut fields = vec![(USE_DORA, Value::from(self == Self::Dora))];
        if let Self::QaLora { group_size } = self {
            fields.push((USE_QALORA, Value::from(true)));
            fields.push((GROUP_SIZE, Value::from(group_size)));
        }
        fields
    }

    /// Refuses what is not plain LoRA, for files that hold nothing else.
    ///
    /// # Errors
    /// [`DocumentError`], naming the setting.
    pub fn check_plain(self) -> Result<(), DocumentError> {
        let key = match self {
            Self::Plain => return Ok(()),
            Self::Dora => USE_DORA,
            Self::QaLora { .. } => USE_QALORA,
        };
        Err(DocumentError::unsupported(key, "true", "false"))
    }
}

/// Refuses variants of LoRA that are not known here: PEFT names them `use_...` and their settings
/// `..._config`.
pub(super) fn refuse_unknown(config: Object<'_>) -> Result<(), DocumentError> {
    let known = ["use_rslora", USE_DORA, USE_QALORA];
    let unknown =
        |key: &str| key.starts_with("use_") && !known.contains(&key) || key.ends_with("_config");
    match config.fields().find(|(key, value)| unknown(key) && is_on(value)) {
        Some((key, value)) => Err(DocumentError::unsupported(key, shown_value(value), "none")),
        None => Ok(()),
    }
}
