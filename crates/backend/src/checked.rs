//! A decorator that words broken contracts.

use lowtide_tensor::Float;

use crate::Backend;

/// Verifies every operand's shape before it delegates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked<B>(B);

impl<B> Checked<B> {
    /// Wraps a backend.
    pub fn new(inner: B) -> Self {
        Self(inner)
    }

    /// The backend inside.
    pub fn inner(&self) -> &B {
        &self.0
    }
}

impl<F: Float, B: Backend<F>> Backend<F> for Checked<B> {
    fn name(&self) -> &'static str {
        self.0.name()
    }
}
