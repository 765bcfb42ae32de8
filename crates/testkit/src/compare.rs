//! Closeness of two slices, with messages that name the worst element.

/// The element at which two slices differ most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worst {
    /// Position in both slices.
    pub index: usize,
    /// The value under test.
    pub got: f64,
    /// The reference.
    pub want: f64,
    /// `|got - want|`; NaN when exactly one of the two is NaN.
    pub abs: f64,
    /// `|got - want| / |want|`; infinite where the reference is zero and the value is not.
    pub rel: f64,
}

/// Steps between two floats on the number line of representable values; `u32::MAX` when either is
/// NaN. Zeros of both signs are one step apart from nothing: their distance is 0.
#[must_use]
pub fn ulp_distance(a: f32, b: f32) -> u32 {
    if a.is_nan() || b.is_nan() {
        return u32::MAX;
    }
    let order = |v: f32| {
        let bits = v.to_bits() as i32;
        i64::from(if bits < 0 { i32::MIN.wrapping_sub(bits) } else { bits })
    };
    order(a).abs_diff(order(b)) as u32
}

/// The largest absolute difference; `None` for empty slices. A NaN on one side only is larger than
/// any number.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn worst_abs<G, W>(got: &[G], want: &[W]) -> Option<Worst>
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    worst_by(got, want, |difference| difference.abs)
}

/// The largest difference relative to the reference; `None` for empty slices.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn worst_rel<G, W>(got: &[G], want: &[W]) -> Option<Worst>
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    worst_by(got, want, |difference| difference.rel)
}

/// Passes when `|got - want| <= atol + rtol * |want|` for every element; two NaNs are equal.
///
/// # Panics
/// When the lengths differ or an element is further off; the message names the element that is
/// furthest beyond its tolerance, both values, and how many are off.
#[track_caller]
pub fn assert_close<G, W>(name: &str, got: &[G], want: &[W], atol: f64, rtol: f64)
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    let excess = |d: &Worst| d.abs - (atol + rtol * d.want.abs());
    let off = |d: &Worst| d.abs.is_nan() || excess(d) > 0.0;
    let count = differences(name, got, want).filter(|d| off(d)).count();
    if count == 0 {
        return;
    }
    let worst = differences(name, got, want)
        .filter(|d| off(d))
        .max_by(|a, b| nan_last(excess(a), excess(b)))
        .expect("at least one element is off");
    let Worst { index, got: g, want: w, abs, rel } = worst;
    panic!(
        "{name}: {count} of {} elements are off; the worst is [{index}]: got {g:e}, want {w:e}, \
         difference {abs:.3e} ({rel:.3e} relative), allowed {:.3e} (atol {atol:e}, rtol {rtol:e})",
        got.len(),
        atol + rtol * w.abs(),
    );
}

/// Passes when every element is within `ulp_max` representable steps of the reference.
///
/// # Panics
/// When the lengths differ or an element is further off.
#[track_caller]
pub fn assert_ulp(name: &str, got: &[f32], want: &[f32], ulp_max: u32) {
    same_len(name, got.len(), want.len());
    let worst = got.iter().zip(want).map(|(&g, &w)| ulp_distance(g, w)).enumerate();
    if let Some((index, distance)) = worst.max_by_key(|&(_, distance)| distance) {
        assert!(
            distance <= ulp_max,
            "{name}: [{index}] is {distance} ULP off (at most {ulp_max}): got {:e}, want {:e}",
            got[index],
            want[index],
        );
    }
}

/// Passes when the slices hold the same bits: signs of zero and NaN payloads included.
///
/// # Panics
/// When the lengths or any bits differ; the message names the first difference and their number.
#[track_caller]
pub fn assert_bits(name: &str, got: &[f32], want: &[f32]) {
    same_len(name, got.len(), want.len());
    let differs = |&index: &usize| got[index].to_bits() != want[index].to_bits();
    let count = (0..got.len()).filter(differs).count();
    if let Some(index) = (0..got.len()).find(differs) {
        panic!(
            "{name}: bits differ in {count} of {} elements; first at [{index}]: \
             got {:e} ({:#010x}), want {:e} ({:#010x})",
            got.len(),
            got[index],
            got[index].to_bits(),
            want[index],
            want[index].to_bits(),
        );
    }
}

/// Cosine of the angle between two vectors, summed in `f64`; 1 when both are all zero, 0 when one
/// is.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn cosine<A, B>(a: &[A], b: &[B]) -> f64
where
    A: Copy + Into<f64>,
    B: Copy + Into<f64>,
{
    same_len("cosine", a.len(), b.len());
    let (mut dot, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y): (f64, f64) = (x.into(), y.into());
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    match (aa == 0.0, bb == 0.0) {
        (true, true) => 1.0,
        (false, false) => dot / (aa.sqrt() * bb.sqrt()),
        _ => 0.0,
    }
}

#[track_caller]
fn worst_by<G, W>(got: &[G], want: &[W], key: impl Fn(&Worst) -> f64) -> Option<Worst>
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    differences("worst difference", got, want).max_by(|a, b| nan_last(key(a), key(b)))
}

#[track_caller]
fn differences<'a, G, W>(
    name: &str,
    got: &'a [G],
    want: &'a [W],
) -> impl Iterator<Item = Worst> + use<'a, G, W>
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    same_len(name, got.len(), want.len());
    got.iter().zip(want).enumerate().map(|(index, (&g, &w))| {
        let (got, want): (f64, f64) = (g.into(), w.into());
        let same = got == want || (got.is_nan() && want.is_nan());
        let abs = if same { 0.0 } else { (got - want).abs() };
        let rel = if same { 0.0 } else { abs / want.abs() };
        Worst { index, got, want, abs, rel }
    })
}

#[track_caller]
fn same_len(name: &str, got: usize, want: usize) {
    assert!(got == want, "{name}: got {got} elements, want {want}");
}

fn nan_last(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulps_are_steps_on_the_number_line() {
        assert_eq!(ulp_distance(1.0, 1.0), 0);
        assert_eq!(ulp_distance(1.0, f32::from_bits(1.0_f32.to_bits() + 3)), 3);
        assert_eq!(ulp_distance(0.0, -0.0), 0);
        let tiny = f32::from_bits(1);
        assert_eq!(ulp_distance(-tiny, tiny), 2);
        assert_eq!(ulp_distance(f32::NAN, 1.0), u32::MAX);
        assert_eq!(ulp_distance(f32::MIN, f32::MAX), 2 * f32::MAX.to_bits());
    }

    #[test]
    fn worst_finds_the_element() {
        let worst = worst_abs(&[1.0_f32, 5.5, -2.0], &[1.0_f32, 5.0, -2.25]).unwrap();
        assert_eq!((worst.index, worst.abs, worst.rel), (1, 0.5, 0.1));
        let worst = worst_rel(&[1.0_f32, 5.5, -2.0], &[1.0_f64, 5.0, -2.25]).unwrap();
        assert_eq!(worst.index, 2);
        assert_eq!(worst_abs::<f32, f32>(&[], &[]), None);
        let worst = worst_abs(&[9.0_f32, f32::NAN], &[0.0_f32, 0.0]).unwrap();
        assert_eq!(worst.index, 1);
    }

    #[test]
    fn close_accepts_within_both_tolerances() {
        assert_close("a", &[1.001_f32, 100.0], &[1.0_f32, 100.09], 2e-3, 1e-3);
        assert_close("nan", &[f32::NAN, f32::INFINITY], &[f32::NAN, f32::INFINITY], 0.0, 0.0);
    }

    #[test]
    #[should_panic(
        expected = "logits: 2 of 3 elements are off; the worst is [2]: got 3e0, want 2e0"
    )]
    fn close_names_the_worst() {
        assert_close("logits", &[1.0_f32, 1.5, 3.0], &[1.0_f32, 1.0, 2.0], 0.1, 0.0);
    }

    #[test]
    #[should_panic(expected = "grads: 1 of 1 elements are off; the worst is [0]: got NaN")]
    fn close_refuses_a_nan() {
        assert_close("grads", &[f32::NAN], &[1.0_f32], 1e9, 1e9);
    }

    #[test]
    #[should_panic(expected = "x: got 1 elements, want 2")]
    fn close_refuses_other_lengths() {
        assert_close("x", &[1.0_f32], &[1.0_f32, 2.0], 0.0, 0.0);
    }

    #[test]
    #[should_panic(expected = "y: [1] is 2 ULP off (at most 1)")]
    fn ulp_assertion_names_the_element() {
        let b = f32::from_bits(2.0_f32.to_bits() + 2);
        assert_ulp("y", &[1.0, b], &[1.0, 2.0], 1);
    }

    #[test]
    #[should_panic(expected = "z: bits differ in 1 of 2 elements; first at [1]")]
    fn bits_tell_zeros_apart() {
        assert_bits("z", &[1.0, 0.0], &[1.0, -0.0]);
    }

    #[test]
    fn cosine_of_simple_angles() {
        assert_eq!(cosine(&[1.0_f32, 0.0], &[0.0_f32, 2.0]), 0.0);
        assert!((cosine(&[1.0_f32, 1.0], &[1.0_f32, 0.0]) - 0.5_f64.sqrt()).abs() < 1e-15);
        assert_eq!(cosine(&[0.0_f32], &[0.0_f32]), 1.0);
        assert_eq!(cosine(&[0.0_f32], &[1.0_f32]), 0.0);
    }
}
