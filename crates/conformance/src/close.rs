//! Comparisons that name what differs.

use lowtide_tensor::Float;

/// Passes when every `|got - want| <= tolerance * (1 + |want|)`.
#[track_caller]
pub(crate) fn assert_close<F: Float>(what: &str, got: &[F], want: &[F], tolerance: f64) {
    assert!(got.len() == want.len(), "{what}: {} elements for {}", got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let (got, want) = (got.to_f64(), want.to_f64());
        let close = (got - want).abs() <= tolerance * (1.0 + want.abs());
        assert!(close, "{what}: element {i} is {got}, expected {want}");
    }
}

/// Passes when every element has the same bits; zeros of both signs are different.
#[track_caller]
pub(crate) fn assert_bits<F: Float>(what: &str, got: &[F], want: &[F]) {
    assert!(got.len() == want.len(), "{what}: {} elements for {}", got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_f64().to_bits() == want.to_f64().to_bits();
        assert!(same, "{what}: element {i} is {got:?}, expected the bits of {want:?}");
    }
}
