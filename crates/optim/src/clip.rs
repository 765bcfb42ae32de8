//! Clipping by the global norm.

/// The factor that brings a gradient whose squares sum to `sum_squares` down to the norm
/// `max_norm`: `max_norm / (norm + 1e-6)`, at most 1, as `torch.nn.utils.clip_grad_norm_` computes
/// it.
///
/// The sum runs over all trained tensors; a caller who meets the gradients segment by segment adds
/// the segments' sums in their order. A sum that is NaN gives NaN, and an infinite one gives 0:
/// whoever must survive such a gradient looks at the sum first.
///
/// ```
/// use lowtide_optim::clip_factor;
/// assert_eq!(clip_factor(0.25, 1.0), 1.0);
/// assert_eq!(clip_factor(16.0, 1.0), 1.0 / 4.000001);
/// ```
#[must_use]
pub fn clip_factor(sum_squares: f64, max_norm: f64) -> f64 {
    let factor = max_norm / (libm::sqrt(sum_squares) + 1e-6);
    // Not `min`, which would turn NaN into 1.
    if factor > 1.0 { 1.0 } else { factor }
}

#[cfg(test)]
mod tests {
    use super::clip_factor;

    #[test]
    fn scales_down_and_never_up() {
        assert_eq!(clip_factor(0.0, 1.0), 1.0);
        assert_eq!(clip_factor(1.0, 1.0), 1.0 / (1.0 + 1e-6));
        assert_eq!(clip_factor(9.0, 0.5), 0.5 / (3.0 + 1e-6));
        assert_eq!(clip_factor(9.0, 100.0), 1.0);
    }

    #[test]
    fn broken_gradients_are_not_hidden() {
        assert!(clip_factor(f64::NAN, 1.0).is_nan());
        assert_eq!(clip_factor(f64::INFINITY, 1.0), 0.0);
    }
}
