//! Every kernel that works on rows, on every table, against plain arithmetic in f64: odd lengths,
//! unaligned beginnings, tails, zeros, infinities, NaN and denormals.

use lowtide_kernels::{AdamW, Draws, Gate, Kernels, Lion};
use lowtide_tensor::Mat;
use proptest::prelude::*;

/// Any float that a model may meet, and some it should not.
fn any_float() -> impl Strategy<Value = f32> + Clone {
    prop_oneof![
        8 => -4.0_f32..4.0,
        2 => -100.0_f32..100.0,
        1 => prop_oneof![
            Just(0.0_f32), Just(-0.0), Just(1e-40), Just(-1e-42), Just(f32::MIN_POSITIVE),
            Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(f32::NAN), Just(3e38),
        ],
    ]
}

fn finite() -> impl Strategy<Value = f32> + Clone {
    prop_oneof![8 => -4.0_f32..4.0, 1 => Just(0.0_f32), 1 => Just(1e-40), 1 => Just(-1e-42)]
}

/// Up to four rows of one length, which begin one element into their memory.
fn rows(of: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = [Vec<f32>; 4]> {
    (1_usize..140).prop_flat_map(move |n| {
        let row = prop::collection::vec(of.clone(), n + 1);
        [row.clone(), row.clone(), row.clone(), row]
    })
}

/// Both numbers, or neither; then close.
fn close(got: f32, want: f64, tolerance: f64) -> bool {
    let single = want as f32;
    if single.is_nan() || got.is_nan() {
        return single.is_nan() && got.is_nan();
    }
    got == single || (f64::from(got) - want).abs() <= tolerance * (1.0 + want.abs())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `act(x)` and its derivative.
fn gate(act: Gate, x: f64) -> (f64, f64) {
    let (u, du) = match act {
        Gate::Silu => (x, 1.0),
        Gate::GeluTanh => {
            let c = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            (c * (x + 0.044_715 * x * x * x), c * (1.0 + 3.0 * 0.044_715 * x * x))
        }
    };
    let s = sigmoid(u);
    (x * s, s + x * s * (1.0 - s) * du)
}

fn wide(x: f32) -> f64 {
    f64::from(x)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn maxima_and_sums([a, b, ..] in rows(any_float())) {
        for kernels in Kernels::available() {
            let (a, b) = (&a[1..], &b[1..]);
            let most = a.iter().copied().filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(kernels.max(a), most);
            if a.iter().chain(b).all(|x| x.abs() < 1e3) {
                let sum: f64 = a.iter().map(|&x| wide(x)).sum();
                let dot: f64 = a.iter().zip(b).map(|(&a, &b)| wide(a) * wide(b)).sum();
                let size: f64 = a.iter().zip(b).map(|(&a, &b)| wide(a * b).abs()).sum();
                prop_assert!(close(kernels.sum(a), sum, 1e-5 * (1.0 + a.len() as f64)));
                prop_assert!((wide(kernels.dot(a, b)) - dot).abs() <= 1e-5 * (1.0 + size));
            }
            let stats = kernels.stats(a);
            let whole = || a.iter().copied().filter(|x| x.is_finite());
            let squares: f64 = whole().map(|x| wide(x) * wide(x)).sum();
            prop_assert!((stats.sum_squares - squares).abs() <= 1e-12 * squares);
            prop_assert_eq!(stats.max_abs, whole().map(f32::abs).fold(0.0, f32::max));
            prop_assert_eq!(stats.non_finite, a.iter().filter(|x| !x.is_finite()).count());
        }
    }

    #[test]
    fn exponentials([a, ..] in rows(any_float()), shift in -3.0_f32..3.0) {
        for kernels in Kernels::available() {
            let mut x = a.clone();
            let total = kernels.exp_sum(&mut x[1..], shift);
            let mut scaled = a.clone();
            kernels.exp_scaled(&mut scaled[1..], shift, 0.5);
            let mut sum = 0.0;
            for ((&a, &x), &scaled) in a.iter().zip(&x).zip(&scaled).skip(1) {
                // Above 88 it stays; below the smallest normal number it is zero.
                let want = wide((a - shift).min(88.0)).exp();
                let want = if (a - shift).is_nan() { f64::NAN } else { want };
                let fits = close(x, want, 1e-6) || (want < 1.2e-38 && x == 0.0);
                prop_assert!(fits, "{}: e^({a} - {shift}): {x}, expected {want}", kernels.isa());
                prop_assert_eq!((0.5 * x).to_bits(), scaled.to_bits());
                prop_assert!(x.is_nan() || kernels.exp(a - shift).to_bits() == x.to_bits());
                sum += wide(x);
            }
            prop_assert!(close(total, sum, 1e-5));
            prop_assert_eq!(x[0].to_bits(), a[0].to_bits());
        }
    }

    #[test]
    fn gates([g, u, dy, old] in rows(any_float())) {
        for kernels in Kernels::available() {
            for act in [Gate::Silu, Gate::GeluTanh] {
                let mut y = old.clone();
                kernels.glu(act, &g[1..], &u[1..], &mut y[1..]);
                let mut inside = g.clone();
                kernels.glu_in_place(act, &mut inside[1..], &u[1..]);
                let (mut dg, mut du) = (g.clone(), u.clone());
                kernels.glu_vjp(act, &dy[1..], &mut dg[1..], &mut du[1..]);
                for i in 1..g.len() {
                    prop_assert!(y[i].is_nan() || y[i].to_bits() == inside[i].to_bits());
                    let all = [g[i], u[i], dy[i]];
                    if all.iter().all(|x| x.abs() <= 100.0) {
                        let (value, slope) = gate(act, wide(g[i]));
                        let (u, dy) = (wide(u[i]), wide(dy[i]));
                        let tolerance = 4e-6 * (1.0 + (u * dy).abs()) * (1.0 + wide(g[i]).abs());
                        prop_assert!(close(y[i], value * u, tolerance));
                        prop_assert!(close(dg[i], dy * u * slope, tolerance));
                        prop_assert!(close(du[i], dy * value, tolerance));
                    }
                    if g[i].is_nan() {
                        prop_assert!(y[i].is_nan() && dg[i].is_nan() && du[i].is_nan());
                    }
                }
                prop_assert_eq!(y[0].to_bits(), old[0].to_bits());
            }
        }
    }

    #[test]
    fn combinations([x, y, ..] in rows(any_float()), alpha in -2.0_f32..2.0, beta in 0_u8..3) {
        let beta = [0.0, 1.0, -0.4][usize::from(beta)];
        for kernels in Kernels::available() {
            let (mut z, mut added, mut scaled) = (y.clone(), y.clone(), y.clone());
            kernels.axpby(alpha, &x[1..], beta, &mut z[1..]);
            kernels.add(&x[1..], &mut added[1..]);
            kernels.mul(&x[1..], &mut scaled[1..]);
            for i in 1..x.len() {
                let rest = if beta == 0.0 { 0.0 } else { wide(beta) * wide(y[i]) };
                let size = (wide(alpha) * wide(x[i])).abs() + rest.abs();
                let want = wide(alpha) * wide(x[i]) + rest;
                let huge = size > 3e38;
                let tolerance = 1e-6 * (1.0 + size);
                prop_assert!(huge || close(z[i], want, tolerance), "{} {want}", z[i]);
                prop_assert!(close(added[i], wide(x[i] + y[i]), 0.0));
                prop_assert!(close(scaled[i], wide(x[i] * y[i]), 0.0));
            }
        }
    }

    #[test]
    fn norms([x, w, dy, dx] in rows(finite()), eps in 1e-6_f32..1e-3) {
        for kernels in Kernels::available() {
            let n = (x.len() - 1) as f64;
            let mut y = dx.clone();
            let rstd = kernels.rmsnorm(&x[1..], &w[1..], eps, &mut y[1..]);
            let mean = x[1..].iter().map(|&x| wide(x) * wide(x)).sum::<f64>() / n;
            let want = 1.0 / (mean + wide(eps)).sqrt();
            prop_assert!((wide(rstd) - want).abs() <= 1e-5 * want);
            let mut got = dx.clone();
            kernels.rmsnorm_vjp(&x[1..], &w[1..], rstd, &dy[1..], &mut got[1..]);
            let r = wide(rstd);
            let terms = || (1..x.len()).map(|i| wide(dy[i]) * wide(w[i]) * wide(x[i]));
            let pull = terms().sum::<f64>() / n * r * r * r;
            let size = terms().map(f64::abs).sum::<f64>() / n * r * r * r;
            for i in 1..x.len() {
                prop_assert!(close(y[i], wide(x[i]) * r * wide(w[i]), 1e-5));
                let g = wide(dy[i]) * wide(w[i]) * r;
                let want = wide(dx[i]) + g - wide(x[i]) * pull;
                let most = 1.0 + g.abs() + wide(x[i]).abs() * size;
                prop_assert!((wide(got[i]) - want).abs() <= 1e-5 * most);
            }
        }
    }

    #[test]
    fn rotations([a, b, f, ..] in rows(finite()), pos in 0_u32..200_000) {
        let n = a.len() - 1;
        for kernels in Kernels::available() {
            let (mut cos, mut sin) = (vec![0.0; n], vec![0.0; n]);
            kernels.turns(pos as f32, &f[1..], &mut cos, &mut sin);
            let (mut first, mut second) = (a.clone(), b.clone());
            kernels.rotate_halves(&mut first[1..], &mut second[1..], &cos, &sin);
            let mut pairs: Vec<f32> = (1..=n).flat_map(|i| [a[i], b[i]]).collect();
            kernels.rotate_adjacent(&mut pairs, &cos, &sin);
            for i in 0..n {
                let angle = wide(pos as f32 * f[i + 1]);
                prop_assert!((wide(cos[i]) - angle.cos()).abs() < 3e-7, "cos {angle}");
                prop_assert!((wide(sin[i]) - angle.sin()).abs() < 3e-7, "sin {angle}");
                let (a, b) = (a[i + 1], b[i + 1]);
                let want = (a * cos[i] - b * sin[i], b * cos[i] + a * sin[i]);
                prop_assert_eq!((first[i + 1], second[i + 1]), want);
                prop_assert_eq!((pairs[2 * i], pairs[2 * i + 1]), want);
            }
        }
    }

    #[test]
    fn updates([p, g, m, v] in rows(finite())) {
        let f = AdamW {
            grad_scale: 0.5,
            shrink: 0.999,
            beta1: 0.9,
            fresh1: 0.1,
            beta2: 0.99,
            fresh2: 0.01,
            root_correction2: 0.7,
            eps: 1e-8,
            step_size: 1e-2,
        };
        let v: Vec<f32> = v.iter().map(|v| v.abs()).collect();
        for kernels in Kernels::available() {
            let (mut p2, mut m2, mut v2) = (p.clone(), m.clone(), v.clone());
            kernels.adamw(&f, &mut p2[1..], &g[1..], &mut m2[1..], &mut v2[1..]);
            let mut p3 = p.clone();
            kernels.sgd(0.1, 0.5, 0.01, &mut p3[1..], &g[1..]);
            for i in 1..p.len() {
                let g2 = f.grad_scale * g[i];
                let m = f.beta1 * m[i] + f.fresh1 * g2;
                let v = f.beta2 * v[i] + f.fresh2 * g2 * g2;
                let p1 = p[i] * f.shrink
                    - f.step_size * m / (v.sqrt() / f.root_correction2 + f.eps);
                prop_assert_eq!((p2[i], m2[i], v2[i]), (p1, m, v));
                prop_assert_eq!(p3[i], p[i] - 0.1 * (0.5 * g[i] + 0.01 * p[i]));
            }
        }
    }

    #[test]
    fn updates_with_one_moment([p, g, m, _] in rows(finite())) {
        let f = Lion {
            grad_scale: 0.5,
            shrink: 0.999,
            beta1: 0.9,
            fresh1: 0.1,
            beta2: 0.99,
            fresh2: 0.01,
            lr: 1e-2,
        };
        for kernels in Kernels::available() {
            let (mut p2, mut m2) = (p.clone(), m.clone());
            kernels.lion(&f, &mut p2[1..], &g[1..], &mut m2[1..]);
            let (mut p3, mut m3) = (p.clone(), m.clone());
            kernels.sgd_momentum([0.1, 0.5, 0.01, 0.9], &mut p3[1..], &g[1..], &mut m3[1..]);
            for i in 1..p.len() {
                let g2 = f.grad_scale * g[i];
                let direction = f.beta1 * m[i] + f.fresh1 * g2;
                let sign = f32::from(i8::from(direction > 0.0) - i8::from(direction < 0.0));
                let want = p[i] * f.shrink - f.lr * sign;
                prop_assert_eq!((p2[i], m2[i]), (want, f.beta2 * m[i] + f.fresh2 * g2));
                let want = 0.9 * m[i] + (0.5 * g[i] + 0.01 * p[i]);
                prop_assert_eq!((p3[i], m3[i]), (p[i] - 0.1 * want, want));
            }
        }
    }

    #[test]
    fn column_sums_and_dropout(
        values in prop::collection::vec(finite(), 1200),
        cols in 1_usize..300,
        state: u64,
        threshold in 0_u64..1 << 53,
    ) {
        let count = values.len() / cols;
        let x = Mat::new(&values[..count * cols], count, cols);
        let mut first: Option<Vec<f32>> = None;
        for kernels in Kernels::available() {
            let mut dsum = vec![1.0; cols];
            kernels.sum_rows(x, &mut dsum);
            for (c, &sum) in dsum.iter().enumerate() {
                let want = 1.0 + (0..count).map(|t| wide(x.get(t, c))).sum::<f64>();
                prop_assert!((wide(sum) - want).abs() < 1e-6 * (8.0 + 4.0 * count as f64));
            }
            let mut y = vec![f32::NAN; cols];
            kernels.dropout(Draws { state, threshold }, 2.0, x.row(0), &mut y);
            for (y, x) in y.iter().zip(x.row(0)) {
                prop_assert!(*y == 0.0 || *y == 2.0 * x);
            }
            let first = first.get_or_insert_with(|| y.clone());
            prop_assert_eq!(&*first, &y);
        }
    }
}
