//! Loss and gradient in one pass: close to double precision where the general suite does not look.

use lowtide_backend::{Backend, OpShape, Scalar};
use lowtide_kernels::Kernels;
use lowtide_quant::formats::{F32, Q4_1, Q8_0};
use lowtide_quant::{BlockFormat, QMat};
use lowtide_simd::{Compute, Simd};
use lowtide_tensor::{Float, Mat, MatMut};

/// A head whose elements come from a function of word and column.
struct Head {
    format: &'static dyn BlockFormat,
    vocab_size: usize,
    hidden_size: usize,
    bytes: Vec<u8>,
}

impl Head {
    fn new(
        format: &'static dyn BlockFormat,
        vocab_size: usize,
        hidden_size: usize,
        of: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let element = |i| of(i / hidden_size, i % hidden_size);
        let values: Vec<f32> = (0..vocab_size * hidden_size).map(element).collect();
        let row = format.row_bytes(hidden_size).expect("whole blocks");
        let mut bytes = vec![0; vocab_size * row];
        format.encode(&values, &mut bytes);
        Self { format, vocab_size, hidden_size, bytes }
    }

    fn w(&self) -> QMat<'_> {
        let Self { format, vocab_size, hidden_size, .. } = *self;
        QMat::new(format, vocab_size, hidden_size, &self.bytes).expect("made for it")
    }

    /// Loss of each row, and the gradient, over scratch that holds NaN.
    fn trained<F: Float>(&self, be: &dyn Backend<F>, h: &[F], targets: &[u32]) -> [Vec<F>; 2] {
        let Self { vocab_size, hidden_size, .. } = *self;
        let (rows, nan) = (targets.len(), F::from_f32(f32::NAN));
        let op = OpShape::XentHeadGrad { rows, vocab_size, hidden_size };
        let (w, scratch) = (self.w(), &mut vec![nan; be.req(op).scratch]);
        let (mut loss, mut lse, mut argmax) = (vec![nan; rows], vec![nan; rows], vec![0; rows]);
        let mut grad = vec![nan; rows * hidden_size];
        let (h, out) = (Mat::new(h, rows, hidden_size), MatMut::new(&mut grad, rows, hidden_size));
        let (loss_out, lse, argmax) = (&mut loss, &mut lse, &mut argmax);
        be.xent_head_grad(h, w, targets, F::from_f32(0.5), loss_out, lse, argmax, out, scratch);
        [loss, grad]
    }

    /// The same from the two separate calls.
    fn apart(&self, be: &dyn Backend, h: &[f32], targets: &[u32]) -> [Vec<f32>; 2] {
        let Self { vocab_size, hidden_size, .. } = *self;
        let (rows, w) = (targets.len(), self.w());
        let there = be.req(OpShape::XentHead { rows, vocab_size, hidden_size });
        let back = be.req(OpShape::XentHeadVjp { rows, vocab_size, hidden_size });
        let (there, back) = (&mut vec![f32::NAN; there.scratch], &mut vec![f32::NAN; back.scratch]);
        let (mut loss, mut lse, mut argmax) = (vec![0.0; rows], vec![0.0; rows], vec![0; rows]);
        let mut grad = vec![0.0; rows * hidden_size];
        let (h, out) = (Mat::new(h, rows, hidden_size), MatMut::new(&mut grad, rows, hidden_size));
        be.xent_head(h, w, targets, &mut loss, &mut lse, &mut argmax, there);
        be.xent_head_vjp(h, w, targets, &lse, 0.5, out, back);
        [loss, grad]
    }
}

/// Numbers in ±1 without a pattern that widths share.
fn wave(i: usize) -> f32 {
    ((i * i % 8191) as f32 * 0.37 + i as f32 * 0.11).sin()
}

fn assert_near(what: &str, got: &[f32], want: &[f64], relative: f64, absolute: f64) {
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= relative * want.abs() + absolute, "{what} at {i}: {got} for {want}");
    }
}

/// Widths at which the words of a tile shrink, and vocabularies that end inside a unit.
#[test]
fn wide_rows_are_close_to_double_precision() {
    for (vocab_size, hidden_size) in [(1500, 1024), (1200, 2816), (600, 4224), (961, 96)] {
        let scale = (hidden_size as f32).sqrt().recip() * 3.0;
        let head = Head::new(&Q8_0, vocab_size, hidden_size, |word, column| {
            wave(word * hidden_size + column) * scale
        });
        let targets = [0, vocab_size as u32 - 1, 575];
        let h: Vec<f32> = (0..targets.len() * hidden_size).map(|i| wave(3 * i + 1)).collect();
        let wide: Vec<f64> = h.iter().map(|&h| h.into()).collect();
        let want = head.trained::<f64>(&Scalar, &wide, &targets);
        for kernels in Kernels::available() {
            let got = head.trained(&Simd::with(kernels, 2), &h, &targets);
            let what = format!("{}: [{vocab_size}, {hidden_size}]", kernels.isa().name());
            assert_near(&format!("{what}: loss"), &got[0], &want[0], 1e-5, 1e-5);
            assert_near(&format!("{what}: gradient"), &got[1], &want[1], 1e-4, 2e-6);
        }
    }
}

/// However wide the model and however many its words.
#[test]
fn scratch_is_at_most_four_mebibytes_a_thread() {
    for hidden_size in [64, 576, 896, 1152, 2048, 2560, 4096, 8192] {
        for (vocab_size, rows) in [(49_152, 2048), (151_936, 2048), (262_144, 2048), (151_936, 37)]
        {
            let ops = [
                OpShape::XentHead { rows, vocab_size, hidden_size },
                OpShape::XentHeadVjp { rows, vocab_size, hidden_size },
                OpShape::XentHeadGrad { rows, vocab_size, hidden_size },
            ];
            for (compute, threads) in Compute::ALL.into_iter().flat_map(|c| [(c, 1), (c, 2)]) {
                for kernels in Kernels::available() {
                    let be = Simd::with(kernels, threads).computing(compute);
                    for op in ops {
                        let bytes = be.req(op).scratch * size_of::<f32>();
                        let what = format!("{op:?}, {threads} threads, {compute:?}");
                        assert!(bytes <= threads << 22, "{what}: {bytes} bytes");
                    }
                }
            }
        }
    }
}

/// Logits that grow from word to word, so that every tile finds a larger one: what was summed
/// before shrinks, down to nothing.
#[test]
fn growing_logits_shrink_what_was_summed() {
    for step in [0.004_f32, 0.2, 1.5] {
        let head = Head::new(&F32, 2000, 4, |word, column| match column {
            0 => word as f32 * step,
            _ => wave(word * 4 + column),
        });
        let (h, targets) = ([1.0_f32, 0.1, -0.2, 0.3], [1999]);
        let want = head.trained::<f64>(&Scalar, &h.map(f64::from), &targets);
        for kernels in Kernels::available() {
            let got = head.trained(&Simd::with(kernels, 1), &h, &targets);
            let what = format!("{}: logits that grow by {step}", kernels.isa().name());
            assert_near(&format!("{what}: loss"), &got[0], &want[0], 1e-4, 1e-3);
            assert_near(&format!("{what}: gradient"), &got[1], &want[1], 1e-3, 1e-4);
        }
    }
}

/// The probability of all words but the target keeps its digits, however small it is.
#[test]
fn nothing_cancels_where_the_target_is_sure() {
    let (vocab_size, word) = (1100, 7);
    let head = Head::new(&F32, vocab_size, 4, |at, _| if at == word { 1.0 } else { 0.0 });
    for lead in [8.0_f32, 20.0, 40.0] {
        let others = (vocab_size - 1) as f64;
        let want = -0.5 * others / (others + f64::from(lead).exp());
        for kernels in Kernels::available() {
            let targets = [word as u32];
            let [_, grad] = head.trained(&Simd::with(kernels, 1), &[lead / 4.0; 4], &targets);
            let what = format!("{}: a lead of {lead}", kernels.isa().name());
            assert_near(&what, &grad, &[want; 4], 1e-5, 0.0);
        }
    }
}

/// In integers: near to floats, the loss of both ways the same, and no bit moved by other rows.
#[test]
fn integers_are_near_and_keep_their_bits() {
    let formats: [&'static dyn BlockFormat; 2] = [&Q4_1, &Q8_0];
    for (format, compute) in
        formats.into_iter().flat_map(|format| [(format, Compute::Int8x2), (format, Compute::Int8)])
    {
        let (vocab_size, hidden_size) = (1700, 288);
        let head = Head::new(format, vocab_size, hidden_size, |word, column| {
            wave(word * hidden_size + column) * 0.4
        });
        let targets: Vec<u32> = (0..7).map(|t| t * 283).collect();
        let h: Vec<f32> = (0..targets.len() * hidden_size).map(|i| wave(3 * i + 1)).collect();
        let wide: Vec<f64> = h.iter().map(|&h| h.into()).collect();
        let want = head.trained::<f64>(&Scalar, &wide, &targets);
        let (loss, slope) = if compute == Compute::Int8 { (0.1, 0.01) } else { (2e-3, 1e-4) };
        for kernels in Kernels::available() {
            let what = format!("{} {compute:?} {}", kernels.isa().name(), format.name());
            let be = Simd::with(kernels, 2).computing(compute);
            let got = head.trained(&be, &h, &targets);
            assert_near(&format!("{what}: loss"), &got[0], &want[0], 0.0, loss);
            assert_near(&format!("{what}: gradient"), &got[1], &want[1], 0.0, slope);
            let apart = head.apart(&be, &h, &targets);
            assert_eq!(got[0], apart[0], "{what}: loss of one call and of two");
            let separate: Vec<f64> = apart[1].iter().map(|&g| g.into()).collect();
            assert_near(&format!("{what}: for two calls"), &got[1], &separate, 0.0, slope);
            for (t, (h, target)) in h.chunks(hidden_size).zip(&targets).enumerate() {
                let one = head.trained(&be, h, &[*target]);
                assert_eq!(one[0], got[0][t..=t], "{what}: loss of row {t} alone");
                let row = &got[1][t * hidden_size..][..hidden_size];
                assert_eq!(one[1], row, "{what}: gradient of row {t} alone");
            }
        }
    }
}
