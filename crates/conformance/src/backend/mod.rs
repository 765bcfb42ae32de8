//! The suite for backends.

mod attention;
mod case;
mod elementwise;
mod glu;
mod head;
mod matmul;
mod optim;
mod packed;
mod qmatmul;
mod req;
mod rmsnorm;
mod rope;
mod threads;
mod tolerance;

use lowtide_backend::Backend;

pub use threads::threads;

/// Runs every operation of a backend against the scalar specification.
///
/// - *Values*: every operation, over a table of shapes that has odd widths, tails, one row and
///   none, several spans, windows, grouped heads and every block format, is close to the
///   specification computed in double precision; the tolerances are named and reasoned in one file.
/// - *Memory*: outputs that are overwritten begin as NaN and as a large number; arguments that are
///   added to keep what they held; scratch has exactly the size that `req` says and begins as NaN;
///   operands and results may have gaps between their rows; nothing outside is written.
/// - *Bits*: the same twice; the same for any cut of the rows; the same when a contraction over
///   tokens is cut at a multiple of [`QUANTUM`](lowtide_tensor::QUANTUM), that of attention's
///   backward included; a sequence gives the same alone, in a batch, and with a key/value cache.
/// - *Plans*: `req` never shrinks when rows are added.
///
/// A backend whose [`Caps`](lowtide_backend::Caps) say `int8x2` or `int8` may round what it
/// multiplies with packed weights, 32 neighbours at a time, to 16,256 or 127 steps of the largest:
/// its values may be as far from the specification as such errors add up to. Bits are held to the
/// same.
///
/// That results do not depend on threads is checked by [`threads`].
///
/// ```no_run
/// use lowtide_backend::{Checked, Scalar};
/// lowtide_conformance::backend(&Checked::new(Scalar));
/// ```
///
/// # Panics
/// At the first thing that does not hold; the message names operation and shape.
pub fn backend(backend: &dyn Backend) {
    packed_weights(backend);
    matmul::check_family(backend);
    elementwise::check_family(backend);
    glu::check_family(backend);
    rmsnorm::check_family(backend);
    rope::check_family(backend);
    attention::check_family(backend);
    optim::check_family(backend);
}

/// The part of [`backend`] that the arithmetic of packed weights has to do with: their products and
/// rows, the head, and what `req` says. Enough for a backend that passed in other arithmetic.
///
/// # Panics
/// As [`backend`].
pub fn packed_weights(backend: &dyn Backend) {
    let name = backend.name();
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
    assert!(plain, "a backend is called {name:?}");
    req::check_family(backend);
    qmatmul::check_family(backend);
    head::check_family(backend);
}
