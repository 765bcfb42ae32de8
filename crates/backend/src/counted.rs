//! A decorator that counts calls and multiply-adds.

use lowtide_tensor::Float;

use crate::Backend;

/// Counts what passes through it.
#[derive(Debug, Default)]
pub struct Counted<B>(B);

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {}

impl<B> Counted<B> {
    /// Wraps a backend, counting from zero.
    pub fn new(inner: B) -> Self {
        Self(inner)
    }

    /// The backend inside.
    pub fn inner(&self) -> &B {
        &self.0
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        Counts {}
    }
}

impl<F: Float, B: Backend<F>> Backend<F> for Counted<B> {
    fn name(&self) -> &'static str {
        self.0.name()
    }
}
