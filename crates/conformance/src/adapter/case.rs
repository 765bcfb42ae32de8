//! An adapter on a base, with everything that is lent to it guarded.

use core::ops::Range;

use lowtide_adapter::{
    Adapter, BuildError, Config, Cx, Forward, FrozenLinear, Identity, Init, Keeps, Linear, Method,
    ParamSpec, Phase, Place, Rows, SiteInfo, State, Vjp,
};
use lowtide_backend::{Backend, DropoutKey, Scalar, Span};
use lowtide_quant::{
    BlockFormat, QMat,
    formats::{F32, Q8_0},
};
use lowtide_tensor::{Float, Mat};

use crate::draw::Draw;
use crate::guarded::Guarded;

/// What is to be adapted.
pub(super) struct Site {
    pub(super) info: SiteInfo,
    format: &'static dyn BlockFormat,
    bias: bool,
}

/// Small linears whose names are those that methods look for, and a branch.
pub(super) fn sites() -> [Site; 4] {
    let site = |name: &str, layer, out_features, in_features, format, bias| Site {
        info: SiteInfo {
            name: format!("model.layers.{layer}.{name}"),
            layer,
            in_features,
            out_features,
            place: if name == "mlp" { Place::Branch } else { Place::Linear },
        },
        format,
        bias,
    };
    [
        site("self_attn.k_proj", 0, 7, 5, &F32, true),
        site("mlp.down_proj", 1, 9, 64, &Q8_0, false),
        site("self_attn.o_proj", 2, 32, 32, &F32, true),
        site("mlp", 3, 6, 6, &F32, false),
    ]
}

/// The rows of one call.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) rows: usize,
    pub(super) phase: Phase,
    row0: usize,
    spans: Vec<Span>,
}

impl Batch {
    /// Two sequences, the first shorter, each with a prompt.
    pub(super) fn new(rows: usize, phase: Phase) -> Self {
        let cut = rows * 3 / 7;
        let span = |start: usize, end: usize| Span {
            start,
            prompt_end: start + (end - start).div_ceil(2),
            end,
        };
        Self { rows, phase, row0: 0, spans: vec![span(0, cut), span(cut, rows)] }
    }

    /// Some of the rows as a call of their own.
    pub(super) fn part(&self, range: &Range<usize>) -> Self {
        Self { rows: range.len(), row0: self.row0 + range.start, ..self.clone() }
    }

    fn rows(&self) -> Rows<'_> {
        let key = DropoutKey { seed: 7, step: 3, site: 11 };
        Rows { spans: &self.spans, row0: self.row0, past: 0, key, phase: self.phase }
    }

    /// One sequence with a prompt.
    pub(super) fn prompted(rows: usize, prompt_end: usize) -> Self {
        let spans = vec![Span { start: 0, prompt_end, end: rows }];
        Self { rows, phase: Phase::Prefill, row0: 0, spans }
    }

    /// The whole batch as the first rows of one sequence that is being decoded.
    fn sequence(rows: usize) -> Self {
        let spans = vec![Span { start: 0, prompt_end: rows, end: rows }];
        Self { rows, phase: Phase::Prefill, row0: 0, spans }
    }
}

/// Gradients of the parameters and, when asked for, of the input.
#[derive(Clone)]
pub(super) struct Grads<F> {
    pub(super) p: Vec<F>,
    pub(super) x: Option<Vec<F>>,
}

/// One adapter on one base, at parameters away from the initial ones.
pub(super) struct Case<F: Float> {
    /// Method and site, for messages.
    pub(super) label: String,
    /// The adapter under test.
    pub(super) adapter: Box<dyn Adapter<F>>,
    pub(super) in_features: usize,
    pub(super) out_features: usize,
    /// Initial values.
    pub(super) initial: Vec<F>,
    /// Initial values, moved.
    pub(super) p: Vec<F>,
    /// Values of the frozen tensors.
    pub(super) frozen: Vec<F>,
    place: Place,
    format: &'static dyn BlockFormat,
    weight: Vec<u8>,
    bias: Option<Vec<F>>,
}

impl<F: Float> Case<F> {
    pub(super) fn build<M: Method<F> + ?Sized>(
        method: &M,
        config: &Config,
        site: &Site,
    ) -> Result<Option<Self>, BuildError> {
        let Some(adapter) = method.build(&site.info, config)? else { return Ok(None) };
        let SiteInfo { in_features, out_features, place, .. } = site.info;
        let label = format!("{} on {}", method.kind(), site.info.name);
        assert!(
            adapter.kind() == method.kind(),
            "{label}: the adapter calls itself {}",
            adapter.kind()
        );
        let mut draw = Draw::new(site.info.layer as u64);
        let weights: Vec<f32> = draw.vec(out_features * in_features, 0.5);
        let row_bytes = site.format.row_bytes(in_features).expect("sites have whole blocks");
        let mut weight = vec![0; out_features * row_bytes];
        site.format.encode(&weights, &mut weight);
        let bias = site.bias.then(|| draw.vec(out_features, 0.5));
        let (initial, frozen) =
            (initial(adapter.params(), &mut draw), initial(adapter.frozen(), &mut draw));
        let format = site.format;
        let mut case = Self {
            label,
            adapter,
            in_features,
            out_features,
            initial,
            p: Vec::new(),
            frozen,
            place,
            format,
            weight,
            bias,
        };
        case.start();
        case.p = case.initial.iter().map(|&p| p + draw.value(0.4)).collect();
        Ok(Some(case))
    }

    /// Lets the adapter set what starts from the base.
    fn start(&mut self) {
        let be = &Scalar;
        let mut p = Guarded::copy(&self.initial, 1, self.initial.len());
        let mut fixed = Guarded::filled(1, self.frozen.len() + self.adapter.derived(), F::NAN);
        fixed.slice()[..self.frozen.len()].copy_from_slice(&self.frozen);
        self.with_scratch(be, 1, |scratch| {
            self.adapter.start(be, &*self.base(), p.slice(), fixed.slice(), scratch);
        });
        let mut fixed = fixed.take(&self.what("frozen tensors at the start"));
        fixed.truncate(self.frozen.len());
        self.frozen = fixed;
        self.initial = self.finite(p, "a parameter at the start");
    }

    pub(super) fn base(&self) -> Box<dyn Linear<F> + '_> {
        if self.place == Place::Branch {
            return Box::new(Identity { width: self.in_features });
        }
        let weight = QMat::new(self.format, self.out_features, self.in_features, &self.weight);
        let weight = weight.expect("encoded to this shape");
        Box::new(FrozenLinear::new(weight, self.bias.as_deref()))
    }

    pub(super) fn scratch_len(&self, be: &dyn Backend<F>, rows: usize) -> usize {
        self.adapter.req(be, &*self.base(), rows).scratch
    }

    /// The frozen tensors and the derived values of `p`, which must not depend on what the memory
    /// held.
    pub(super) fn prepare(&self, be: &dyn Backend<F>, p: &[F]) -> Vec<F> {
        let frozen = self.frozen.len();
        let mut fixed = Guarded::filled(1, frozen + self.adapter.derived(), F::NAN);
        fixed.slice()[..frozen].copy_from_slice(&self.frozen);
        self.with_scratch(be, 1, |scratch| {
            self.adapter.prepare(be, &*self.base(), p, fixed.slice(), scratch);
        });
        let fixed = self.finite(fixed, "the derived values");
        assert!(fixed[..frozen] == self.frozen, "{}: a frozen tensor was changed", self.label);
        fixed
    }

    /// Room for what forward leaves for backward.
    fn kept(&self, batch: &Batch) -> Option<Guarded<F>> {
        match self.adapter.keeps() {
            Keeps::Nothing => None,
            Keeps::PerRow(n) => Some(Guarded::filled(batch.rows, n, F::NAN)),
            Keeps::PerSequence(n) => Some(Guarded::filled(batch.spans.len(), n, F::NAN)),
        }
    }

    /// The adapted output `[T, O]`.
    pub(super) fn apply(
        &self,
        be: &dyn Backend<F>,
        p: &[F],
        fixed: &[F],
        batch: &Batch,
        x: &[F],
    ) -> Vec<F> {
        self.run(be, p, fixed, batch, x).0
    }

    /// The adapted output, and what is kept for backward.
    fn run(
        &self,
        be: &dyn Backend<F>,
        p: &[F],
        fixed: &[F],
        batch: &Batch,
        x: &[F],
    ) -> (Vec<F>, Option<Vec<F>>) {
        let mut x = Guarded::copy(x, batch.rows, self.in_features);
        let mut y = Guarded::filled(batch.rows, self.out_features, F::NAN);
        let mut kept = self.kept(batch);
        self.with_scratch(be, batch.rows, |scratch| {
            let (base, x) = (self.base(), x.view().into_ref());
            let cx = Cx { be, base: &*base, p, fixed, rows: batch.rows() };
            let (y, kept) = (y.view(), kept.as_mut().map(Guarded::view));
            self.adapter.apply(&cx, Forward { x, y, kept, state: None, scratch });
        });
        let kept = kept.map(|kept| self.finite(kept, "what forward keeps"));
        (self.finite(y, "the output"), kept)
    }

    /// Outputs of one sequence that is read in several calls: `first` rows, then one after the
    /// other.
    pub(super) fn decode(&self, be: &dyn Backend<F>, fixed: &[F], first: usize, x: &[F]) -> Vec<F> {
        let rows = x.len() / self.in_features;
        let mut values = Guarded::filled(1, self.adapter.state(), F::NAN);
        let (mut made_from, mut out, mut past) = (0, Vec::new(), 0);
        while past < rows {
            let count = if past == 0 { first } else { 1 };
            let mut batch = Batch::sequence(count);
            batch.phase = if past == 0 { Phase::Prefill } else { Phase::Decode };
            let x = &x[past * self.in_features..][..count * self.in_features];
            let mut x = Guarded::copy(x, count, self.in_features);
            let mut y = Guarded::filled(count, self.out_features, F::NAN);
            let mut kept = self.kept(&batch);
            self.with_scratch(be, count, |scratch| {
                let (base, rows) = (self.base(), Rows { past, ..batch.rows() });
                let cx = Cx { be, base: &*base, p: &self.p, fixed, rows };
                let state = (self.adapter.state() > 0)
                    .then(|| State { values: values.slice(), made_from: &mut made_from });
                let (x, y) = (x.view().into_ref(), y.view());
                let kept = kept.as_mut().map(Guarded::view);
                self.adapter.apply(&cx, Forward { x, y, kept, state, scratch });
            });
            out.extend(self.finite(y, "the output while decoding"));
            past += count;
            assert!(made_from <= past, "{}: a state made from {made_from} tokens", self.label);
        }
        values.take(&self.what("the state"));
        out
    }

    /// `grads` with the gradients of `dy` added. `x` and `y` are lent as the facts say.
    pub(super) fn vjp(
        &self,
        be: &dyn Backend<F>,
        fixed: &[F],
        batch: &Batch,
        x: &[F],
        dy: &[F],
        grads: Grads<F>,
    ) -> Grads<F> {
        let (rows, facts) = (batch.rows, self.adapter.facts());
        let keeps = self.adapter.keeps() != Keeps::Nothing;
        let forward = (facts.reads_y || keeps).then(|| self.run(be, &self.p, fixed, batch, x));
        let (y, kept) = forward.unzip();
        let mut y = y.filter(|_| facts.reads_y).map(|y| Guarded::copy(&y, rows, self.out_features));
        let mut kept = kept.flatten().zip(self.kept(batch)).map(|(kept, room)| room.with(&kept));
        let mut x = facts.reads_x.then(|| Guarded::copy(x, rows, self.in_features));
        let mut dy = Guarded::copy(dy, rows, self.out_features);
        let mut dx = grads.x.map(|dx| Guarded::copy(&dx, rows, self.in_features));
        let mut grad = Guarded::copy(&grads.p, 1, self.p.len());
        self.with_scratch(be, rows, |scratch| {
            let base = self.base();
            let cx = Cx { be, base: &*base, p: &self.p, fixed, rows: batch.rows() };
            self.adapter.vjp(
                &cx,
                Vjp {
                    x: x.as_mut().map(view),
                    y: y.as_mut().map(view),
                    kept: kept.as_mut().map(view),
                    dy: dy.view().into_ref(),
                    dx: dx.as_mut().map(Guarded::view),
                    grad: grad.slice(),
                    scratch,
                },
            );
        });
        let x = dx.map(|dx| self.finite(dx, "the gradient of the input"));
        Grads { p: self.finite(grad, "the gradient of the parameters"), x }
    }

    /// The merged matrix `[O, I]`, in tiles of `tile` rows.
    ///
    /// `None` when the method refuses.
    pub(super) fn merge(&self, be: &dyn Backend<F>, fixed: &[F], tile: usize) -> Option<Vec<F>> {
        let mut merged = Vec::new();
        for start in (0..self.out_features).step_by(tile) {
            let rows = start..self.out_features.min(start + tile);
            let mut out = Guarded::filled(rows.len(), self.in_features, F::NAN);
            self.base().decode_rows(be, rows.clone(), out.view());
            let done = self.with_scratch(be, rows.len(), |scratch| {
                self.adapter.merge_rows(be, &self.p, fixed, rows.clone(), out.view(), scratch)
            });
            done.ok()?;
            merged.extend(out.take(&self.what("the merged rows")));
        }
        Some(merged)
    }

    /// The bias after merging, zeros where there is none.
    pub(super) fn merged_bias(&self, fixed: &[F]) -> Vec<F> {
        let bias = self.bias.clone().unwrap_or_else(|| vec![F::ZERO; self.out_features]);
        let mut merged = bias.clone();
        for start in (0..bias.len()).step_by(4) {
            let rows = start..bias.len().min(start + 4);
            let out = &mut merged[rows.clone()];
            let changed = self.adapter.merge_bias(&self.p, fixed, rows.clone(), out);
            assert!(
                changed || merged[rows.clone()] == bias[rows],
                "{}: merging changed a bias and did not say so",
                self.label
            );
        }
        merged
    }

    pub(super) fn what(&self, thing: &str) -> String {
        format!("{}: {thing}", self.label)
    }

    /// The elements, in which no NaN of lent memory may be left.
    fn finite(&self, guarded: Guarded<F>, thing: &str) -> Vec<F> {
        let values = guarded.take(&self.what(thing));
        let bad = values.iter().position(|value| !value.is_finite());
        assert!(
            bad.is_none(),
            "{}: {thing} is not finite at element {}: lent memory was read before it was written",
            self.label,
            bad.unwrap_or_default()
        );
        values
    }

    fn with_scratch<R>(
        &self,
        be: &dyn Backend<F>,
        rows: usize,
        work: impl FnOnce(&mut [F]) -> R,
    ) -> R {
        let mut scratch = Guarded::filled(1, self.scratch_len(be, rows), F::NAN);
        let result = work(scratch.slice());
        scratch.take(&self.what("scratch"));
        result
    }
}

fn view<F: Float>(guarded: &mut Guarded<F>) -> Mat<'_, F> {
    guarded.view().into_ref()
}

/// Initial values of all parameters, one after another.
fn initial<F: Float>(specs: &[ParamSpec], draw: &mut Draw) -> Vec<F> {
    let mut values = Vec::new();
    for spec in specs {
        for i in 0..spec.len() {
            values.push(match spec.init {
                Init::Identity if i / spec.shape[1] == i % spec.shape[1] => F::ONE,
                Init::Identity | Init::Zeros => F::ZERO,
                Init::Constant(value) => F::from_f32(value),
                Init::Uniform { bound } => draw.value(bound),
                // The uniform distribution of the same deviation: the suite needs the size only.
                Init::Normal { std } => draw.value(std * 3.0_f32.sqrt()),
            });
        }
    }
    values
}
