//! What stands between the two layers.

use lowtide_backend::{Activation, Backend};
use lowtide_tensor::{Float, Mat, MatMut};

/// The non-linearity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonLinearity {
    /// GELU in its tanh approximation.
    #[default]
    Gelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

impl NonLinearity {
    /// The one of this name, as in configurations.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "silu" => Some(Self::Silu),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }

    /// The backend's name for it, if it has it.
    fn activation(self) -> Option<Activation> {
        match self {
            Self::Gelu => Some(Activation::GeluTanh),
            Self::Silu => Some(Activation::Silu),
            Self::Relu => None,
        }
    }

    /// `x = act(x)`; `room` is as large as `x`.
    pub(crate) fn apply<F: Float>(
        self,
        be: &dyn Backend<F>,
        mut x: MatMut<'_, F>,
        mut room: MatMut<'_, F>,
    ) {
        if let Some(act) = self.activation() {
            room.fill(F::ONE);
            be.glu_in_place(act, x, room.as_ref());
            return;
        }
        for t in 0..x.rows() {
            x.row_mut(t).iter_mut().for_each(|x| *x = x.max(F::ZERO));
        }
    }

    /// `x = dy ⊙ act'(x)`; `room` is as large as `x`.
    pub(crate) fn vjp<F: Float>(
        self,
        be: &dyn Backend<F>,
        dy: Mat<'_, F>,
        mut x: MatMut<'_, F>,
        mut room: MatMut<'_, F>,
    ) {
        if let Some(act) = self.activation() {
            room.fill(F::ONE);
            be.glu_vjp(act, dy, x, room);
            return;
        }
        for t in 0..dy.rows() {
            for (x, &dy) in x.row_mut(t).iter_mut().zip(dy.row(t)) {
                *x = if *x > F::ZERO { dy } else { F::ZERO };
            }
        }
    }
}
