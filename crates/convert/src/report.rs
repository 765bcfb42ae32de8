//! What a conversion says while it goes on, and in the end.

use serde::Serialize;

/// How far a conversion is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event<'a> {
    /// The tensor that is being written, by its name in the output.
    pub tensor: &'a str,
    /// Values written.
    pub done: u64,
    /// Values in all.
    pub total: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Always `done`.
    pub event: &'static str,
    /// The output.
    pub output: String,
    /// The type, or `null` where every tensor kept its own.
    pub kind: Option<&'static str>,
    /// Tensors written.
    pub tensors: usize,
    /// Values in them.
    pub parameters: u64,
    /// Size of the files read.
    pub bytes_before: u64,
    /// Size of the weights and tokenizer files written.
    pub bytes_after: u64,
    /// Root of the mean square of what rounding changed, over that of the weights; 0 where
    /// everything was copied.
    pub relative_error: f64,
    /// What each type of tensor came to.
    pub types: Vec<TypeReport>,
    /// The most bytes held at once, as charged.
    pub peak_bytes: u64,
    /// What a user should know about the output.
    pub notes: Vec<String>,
}

/// All tensors of one type.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TypeReport {
    /// The type, as in `Q4_K`.
    pub name: &'static str,
    /// How many tensors have it.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// As [`Report::relative_error`], over these tensors.
    pub relative_error: f64,
    /// Sum of the squares of the weights.
    #[serde(skip)]
    pub(crate) squares: f64,
    /// Sum of the squares of what rounding changed.
    #[serde(skip)]
    pub(crate) errors: f64,
}

impl TypeReport {
    pub(crate) fn settle(&mut self) {
        self.relative_error = relative(self.errors, self.squares);
    }
}

pub(crate) fn relative(errors: f64, squares: f64) -> f64 {
    if squares > 0.0 { (errors / squares).sqrt() } else { 0.0 }
}
