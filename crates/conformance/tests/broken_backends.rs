//! Backends that break one promise each, and what the suite says about them.

use lowtide_backend::{
    AdamHyper, AttentionShape, Backend, Direction, DropoutKey, Moments8, OpShape, Pairing, Req,
    Span, spec,
};
use lowtide_conformance::{backend, threads};
use lowtide_quant::QMat;
use lowtide_tensor::{Mat, MatMut};

/// Rounds differently when it is given an even number of rows.
struct ManyRows;

impl Backend for ManyRows {
    fn name(&self) -> &'static str {
        "many-rows"
    }

    fn qmatmul(&self, x: Mat<'_, f32>, w: QMat<'_>, mut y: MatMut<'_, f32>, scratch: &mut [f32]) {
        spec::qmatmul(x, w, y.rb(), scratch);
        if x.rows().is_multiple_of(2) && !y.is_empty() {
            *y.at(0, 0) *= 1.0 + f32::EPSILON;
        }
    }
}

#[test]
#[should_panic(expected = "many-rows: qmatmul of 5 rows, F32 [33, 24]: rows cut at 1: element 33")]
fn rows_that_know_of_each_other_are_found() {
    backend(&ManyRows);
}

/// Multiplies what `beta` zero should overwrite.
struct TimesZero;

impl Backend for TimesZero {
    fn name(&self) -> &'static str {
        "times-zero"
    }

    fn matmul(
        &self,
        alpha: f32,
        a: Mat<'_, f32>,
        b: Mat<'_, f32>,
        beta: f32,
        mut c: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        for i in 0..c.rows() {
            for j in 0..c.cols() {
                *c.at(i, j) *= beta;
            }
        }
        spec::matmul(alpha, a, b, 1.0, c, scratch);
    }
}

#[test]
#[should_panic(expected = "times-zero: matmul [1, 1] [1, 1], alpha 1, beta 0")]
fn poison_that_survives_is_found() {
    backend(&TimesZero);
}

/// Contracts in one go.
struct OneChain;

impl Backend for OneChain {
    fn name(&self) -> &'static str {
        "one-chain"
    }

    fn matmul(
        &self,
        alpha: f32,
        a: Mat<'_, f32>,
        b: Mat<'_, f32>,
        beta: f32,
        mut c: MatMut<'_, f32>,
        _: &mut [f32],
    ) {
        for i in 0..c.rows() {
            for j in 0..c.cols() {
                let sum = (0..a.cols()).fold(0.0, |sum, k| sum + a.get(i, k) * b.get(k, j));
                let before = if beta == 0.0 { 0.0 } else { beta * c.get(i, j) };
                *c.at(i, j) = before + alpha * sum;
            }
        }
    }
}

#[test]
#[should_panic(expected = "contraction cut at [64]")]
fn contractions_without_quanta_are_found() {
    backend(&OneChain);
}

/// Asks for less when there is more to do.
struct Shrinking;

impl Backend for Shrinking {
    fn name(&self) -> &'static str {
        "shrinking"
    }

    fn req(&self, op: OpShape) -> Req {
        match op {
            OpShape::AttentionVjp { keys, .. } => {
                Req { scratch: spec::req(op).scratch + 5000 / (keys + 1), library_bytes: 0 }
            }
            _ => spec::req(op),
        }
    }
}

#[test]
#[should_panic(expected = "shrinking: req of attention_vjp")]
fn shrinking_requirements_are_found() {
    backend(&Shrinking);
}

/// Adds to what scratch held.
struct DirtyScratch;

impl Backend for DirtyScratch {
    fn name(&self) -> &'static str {
        "dirty-scratch"
    }

    fn qmatmul_t(
        &self,
        dy: Mat<'_, f32>,
        w: QMat<'_>,
        mut dx: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        if !dx.is_empty() {
            *dx.at(0, 0) += scratch[0];
        }
        spec::qmatmul_t(dy, w, dx, scratch);
    }
}

#[test]
#[should_panic(expected = "dirty-scratch: qmatmul_t of 5 rows, F32 [33, 24]: element 0 is NaN")]
fn scratch_that_is_read_before_it_is_written_is_found() {
    backend(&DirtyScratch);
}

/// Lets sequences see each other.
struct OneSpan;

impl Backend for OneSpan {
    fn name(&self) -> &'static str {
        "one-span"
    }

    fn attention(
        &self,
        q: Mat<'_, f32>,
        k: Mat<'_, f32>,
        v: Mat<'_, f32>,
        shape: AttentionShape,
        _: &[Span],
        o: MatMut<'_, f32>,
        lse: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        let all = [Span { start: 0, prompt_end: 0, end: k.rows() }];
        spec::attention(q, k, v, shape, &all, o, lse, scratch);
    }
}

#[test]
#[should_panic(expected = "one-span: attention [3, 0, 70, 1], 4 / 2 heads of 16, window None")]
fn sequences_that_see_each_other_are_found() {
    backend(&OneSpan);
}

/// Sums gradients of a call's keys and values before they go to the others.
struct OwnSum;

impl Backend for OwnSum {
    fn name(&self) -> &'static str {
        "own-sum"
    }

    fn attention_vjp(
        &self,
        q: Mat<'_, f32>,
        k: Mat<'_, f32>,
        v: Mat<'_, f32>,
        o: Mat<'_, f32>,
        lse: Mat<'_, f32>,
        dout: Mat<'_, f32>,
        shape: AttentionShape,
        spans: &[Span],
        dq: MatMut<'_, f32>,
        dk: MatMut<'_, f32>,
        dv: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        let (rows, cols) = (k.rows(), k.cols());
        let mut sums = [vec![0.0; rows * cols], vec![0.0; rows * cols]];
        let [keys, values] = sums.each_mut().map(|sum| MatMut::new(sum, rows, cols));
        spec::attention_vjp(q, k, v, o, lse, dout, shape, spans, dq, keys, values, scratch);
        for (sum, to) in sums.iter().zip([dk, dv]) {
            spec::axpby(1.0, Mat::new(sum, rows, cols), 1.0, to);
        }
    }
}

#[test]
#[should_panic(expected = "own-sum: gradient of attention [3, 0, 70, 1], 4 / 2 heads of 16")]
fn gradients_that_are_summed_by_call_are_found() {
    backend(&OwnSum);
}

/// Counts quanta of queries from the first of a span.
struct OwnRows;

impl Backend for OwnRows {
    fn name(&self) -> &'static str {
        "own-rows"
    }

    fn attention_vjp(
        &self,
        q: Mat<'_, f32>,
        k: Mat<'_, f32>,
        v: Mat<'_, f32>,
        o: Mat<'_, f32>,
        lse: Mat<'_, f32>,
        dout: Mat<'_, f32>,
        shape: AttentionShape,
        spans: &[Span],
        mut dq: MatMut<'_, f32>,
        mut dk: MatMut<'_, f32>,
        mut dv: MatMut<'_, f32>,
        scratch: &mut [f32],
    ) {
        let before = k.rows() - q.rows();
        for span in spans {
            let rows = span.queries(q.rows(), k.rows());
            if rows.is_empty() {
                continue;
            }
            let (keys, own) = (span.start..rows.end, rows.start - before..rows.end - before);
            let alone = [Span { start: 0, prompt_end: 0, end: keys.len() }];
            spec::attention_vjp(
                q.rows_range(own.clone()),
                k.rows_range(keys.clone()),
                v.rows_range(keys.clone()),
                o.rows_range(own.clone()),
                lse.rows_range(own.clone()),
                dout.rows_range(own.clone()),
                shape,
                &alone,
                dq.rb().rows_range(own.clone()),
                dk.rb().rows_range(keys.clone()),
                dv.rb().rows_range(keys),
                scratch,
            );
        }
    }
}

#[test]
#[should_panic(expected = "own-rows: gradient of attention [3, 0, 70, 1], 4 / 2 heads of 16")]
fn quanta_that_are_counted_from_a_span_are_found() {
    backend(&OwnRows);
}

/// Answers with the last of equal maxima.
struct LastBest;

impl Backend for LastBest {
    fn name(&self) -> &'static str {
        "last-best"
    }

    fn xent_head(
        &self,
        h: Mat<'_, f32>,
        w: QMat<'_>,
        targets: &[u32],
        loss: &mut [f32],
        lse: &mut [f32],
        argmax: &mut [u32],
        scratch: &mut [f32],
    ) {
        spec::xent_head(h, w, targets, loss, lse, argmax, scratch);
        for best in argmax {
            let same = |&word: &usize| w.row(word) == w.row(*best as usize);
            *best = (0..w.rows()).rev().find(same).unwrap_or(0) as u32;
        }
    }
}

#[test]
#[should_panic(expected = "last-best: xent_head with equal maxima")]
fn ties_are_broken_by_position() {
    backend(&LastBest);
}

/// Draws masks from the call's own first row.
struct LocalMask;

impl Backend for LocalMask {
    fn name(&self) -> &'static str {
        "local-mask"
    }

    fn dropout(&self, x: Mat<'_, f32>, p: f64, key: DropoutKey, _: usize, y: MatMut<'_, f32>) {
        spec::dropout(x, p, key, 0, y);
    }
}

#[test]
#[should_panic(expected = "local-mask: dropout")]
fn masks_that_do_not_follow_positions_are_found() {
    backend(&LocalMask);
}

/// Turns both ways alike.
struct OneWay;

impl Backend for OneWay {
    fn name(&self) -> &'static str {
        "one-way"
    }

    fn rope(
        &self,
        x: MatMut<'_, f32>,
        head_dim: usize,
        pos: &[u32],
        inv_freq: &[f32],
        pairing: Pairing,
        _: Direction,
    ) {
        spec::rope(x, head_dim, pos, inv_freq, pairing, Direction::Forward);
    }
}

#[test]
#[should_panic(expected = "one-way: rope Halves Backward of 8 in [5, 3 * 8]")]
fn rotations_that_do_not_turn_back_are_found() {
    backend(&OneWay);
}

/// Forgets the second moment.
struct NoMemory;

impl Backend for NoMemory {
    fn name(&self) -> &'static str {
        "no-memory"
    }

    fn adamw8(&self, p: &mut [f32], g: &[f32], moments: Moments8<'_>, hyper: &AdamHyper) {
        moments.v.fill(0);
        spec::adamw8(p, g, moments, hyper);
    }
}

#[test]
#[should_panic(expected = "no-memory: adamw8 of 1 parameters")]
fn forgotten_states_are_found() {
    backend(&NoMemory);
}

/// Rounds differently on every number of threads.
struct Threaded(usize);

impl Backend for Threaded {
    fn name(&self) -> &'static str {
        "threaded"
    }

    fn rmsnorm(
        &self,
        x: Mat<'_, f32>,
        w: &[f32],
        eps: f32,
        mut y: MatMut<'_, f32>,
        rstd: &mut [f32],
    ) {
        spec::rmsnorm(x, w, eps, y.rb(), rstd);
        *y.at(7, 0) *= 1.0 + (self.0 - 1) as f32 * f32::EPSILON;
    }
}

#[test]
#[should_panic(expected = "threaded: rmsnorm [150, 288]: 2 threads for 1: element 2023")]
fn results_that_depend_on_threads_are_found() {
    threads(&|count| Box::new(Threaded(count)), &[1, 2]);
}
