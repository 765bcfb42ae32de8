//! What parameters lie in while they are trained.

use lowtide_quant::LineCodes;

use crate::{Settings, SettingsError};

/// Names in configurations of what parameters lie in while they are trained.
pub const PARAM_DTYPES: [&str; 2] = ["f32", "bf16"];

impl Settings {
    /// Whether parameters lie in bf16; `codes` is what the adapter is trained or saved in.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when the name is none, or asks for bf16 beside codes: what was
    /// coded is no bf16 any more, and what is measured would not be what is saved.
    pub(crate) fn in_bf16(&self, codes: Option<LineCodes>) -> Result<bool, SettingsError> {
        let expected = match (self.param_dtype.as_str(), codes) {
            ("f32", _) => return Ok(false),
            ("bf16", None) => return Ok(true),
            ("bf16", Some(_)) => "f32 for an adapter in codes",
            _ => "f32 or bf16",
        };
        let (field, found) = ("param-dtype", self.param_dtype.clone());
        Err(SettingsError::BadValue { field, found, expected })
    }
}
