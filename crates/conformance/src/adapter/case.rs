//! An adapter on a base, with everything that is lent to it guarded.

use core::ops::Range;

use lowtide_adapter::{
    Adapter, BuildError, Config, FrozenLinear, Init, Linear, Method, ParamSpec, Phase, Rows,
    SiteInfo,
};
use lowtide_backend::{Backend, DropoutKey, Span};
use lowtide_quant::{
    BlockFormat, QMat,
    formats::{F32, Q8_0},
};
use lowtide_tensor::{Float, Mat};

use crate::draw::Draw;
use crate::guarded::Guarded;

/// A linear to adapt.
pub(super) struct Site {
    pub(super) info: SiteInfo,
    format: &'static dyn BlockFormat,
    bias: bool,
}

/// Small linears whose names are those that methods look for.
pub(super) fn sites() -> [Site; 3] {
    let site = |name: &str, layer, out_features, in_features, format, bias| Site {
        info: SiteInfo {
            name: format!("model.layers.{layer}.{name}"),
            layer,
            in_features,
            out_features,
        },
        format,
        bias,
    };
    [
        site("self_attn.k_proj", 0, 7, 5, &F32, true),
        site("mlp.down_proj", 1, 9, 64, &Q8_0, false),
        site("self_attn.o_proj", 2, 32, 32, &F32, true),
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
        Rows { spans: &self.spans, row0: self.row0, key, phase: self.phase }
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
        let SiteInfo { in_features, out_features, .. } = site.info;
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
        let initial = initial(adapter.params(), &mut draw);
        let p = initial.iter().map(|&p| p + draw.value(0.4)).collect();
        let format = site.format;
        Ok(Some(Self {
            label,
            adapter,
            in_features,
            out_features,
            initial,
            p,
            format,
            weight,
            bias,
        }))
    }

    pub(super) fn base(&self) -> FrozenLinear<'_, F> {
        let weight = QMat::new(self.format, self.out_features, self.in_features, &self.weight);
        FrozenLinear::new(weight.expect("encoded to this shape"), self.bias.as_deref())
    }

    pub(super) fn scratch_len(&self, be: &dyn Backend<F>, rows: usize) -> usize {
        self.adapter.req(be, &self.base(), rows).scratch
    }

    /// The derived values of `p`, which must not depend on what the memory held.
    pub(super) fn prepare(&self, be: &dyn Backend<F>, p: &[F]) -> Vec<F> {
        let mut derived = Guarded::filled(1, self.adapter.derived(), F::NAN);
        self.with_scratch(be, 1, |scratch| {
            self.adapter.prepare(be, &self.base(), p, derived.slice(), scratch);
        });
        self.finite(derived, "the derived values")
    }

    /// The adapted output `[T, O]`.
    pub(super) fn apply(
        &self,
        be: &dyn Backend<F>,
        p: &[F],
        derived: &[F],
        batch: &Batch,
        x: &[F],
    ) -> Vec<F> {
        let mut x = Guarded::copy(x, batch.rows, self.in_features);
        let mut y = Guarded::filled(batch.rows, self.out_features, F::NAN);
        self.with_scratch(be, batch.rows, |scratch| {
            let (base, x) = (self.base(), x.view().into_ref());
            self.adapter.apply(be, &base, p, derived, batch.rows(), x, y.view(), scratch);
        });
        self.finite(y, "the output")
    }

    /// `grads` with the gradients of `dy` added. `x` and `y` are lent as the facts say.
    pub(super) fn vjp(
        &self,
        be: &dyn Backend<F>,
        derived: &[F],
        batch: &Batch,
        x: &[F],
        dy: &[F],
        grads: Grads<F>,
    ) -> Grads<F> {
        let (rows, facts) = (batch.rows, self.adapter.facts());
        let mut y = facts.reads_y.then(|| {
            let y = self.apply(be, &self.p, derived, batch, x);
            Guarded::copy(&y, rows, self.out_features)
        });
        let mut x = facts.reads_x.then(|| Guarded::copy(x, rows, self.in_features));
        let mut dy = Guarded::copy(dy, rows, self.out_features);
        let mut dx = grads.x.map(|dx| Guarded::copy(&dx, rows, self.in_features));
        let mut grad = Guarded::copy(&grads.p, 1, self.p.len());
        self.with_scratch(be, rows, |scratch| {
            self.adapter.vjp(
                be,
                &self.base(),
                &self.p,
                derived,
                batch.rows(),
                grad.slice(),
                x.as_mut().map(view),
                y.as_mut().map(view),
                dy.view().into_ref(),
                dx.as_mut().map(Guarded::view),
                scratch,
            );
        });
        let x = dx.map(|dx| self.finite(dx, "the gradient of the input"));
        Grads { p: self.finite(grad, "the gradient of the parameters"), x }
    }

    /// The merged matrix `[O, I]`, in tiles of `tile` rows.
    ///
    /// `None` when the method refuses.
    pub(super) fn merge(&self, be: &dyn Backend<F>, derived: &[F], tile: usize) -> Option<Vec<F>> {
        let mut merged = Vec::new();
        for start in (0..self.out_features).step_by(tile) {
            let rows = start..self.out_features.min(start + tile);
            let mut out = Guarded::filled(rows.len(), self.in_features, F::NAN);
            self.base().decode_rows(be, rows.clone(), out.view());
            let done = self.with_scratch(be, rows.len(), |scratch| {
                self.adapter.merge_rows(be, &self.p, derived, rows.clone(), out.view(), scratch)
            });
            done.ok()?;
            merged.extend(out.take(&self.what("the merged rows")));
        }
        Some(merged)
    }

    /// The bias, zeros where the base has none.
    pub(super) fn bias(&self) -> Vec<F> {
        self.bias.clone().unwrap_or_else(|| vec![F::ZERO; self.out_features])
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
        for _ in 0..spec.len() {
            values.push(match spec.init {
                Init::Zeros => F::ZERO,
                Init::Constant(value) => F::from_f32(value),
                Init::Uniform { bound } => draw.value(bound),
                // The uniform distribution of the same deviation: the suite needs the size only.
                Init::Normal { std } => draw.value(std * 3.0_f32.sqrt()),
            });
        }
    }
    values
}
