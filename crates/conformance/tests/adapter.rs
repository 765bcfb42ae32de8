//! The adapter suite passes a method that keeps the contract and catches ones that do not.

use lowtide_adapter::{
    Adapter, BuildError, Config, Cx, Facts, Forward, Init, Linear, Method, ParamSpec, SiteInfo, Vjp,
};
use lowtide_backend::{Backend, Req};
use lowtide_conformance::{AtInit, adapter};
use lowtide_tensor::Float;

/// What is wrong with a trained bias.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    Nothing,
    Axis,
    RankAxis,
    NotZero,
    HalfGradient,
    OverwritesGradient,
    AddsToOutput,
    ForgetsInput,
    ReadsHiddenInput,
    CountsRowsOfTheCall,
    SaysMergeable,
    LeavesAll,
}

use Flaw::*;

/// `y = base(x) + shift`, with a flaw.
struct Shift {
    flaw: Flaw,
    params: [ParamSpec; 1],
}

impl<F: Float> Adapter<F> for Shift {
    fn kind(&self) -> &'static str {
        "shift"
    }

    fn params(&self) -> &[ParamSpec] {
        &self.params
    }

    fn facts(&self) -> Facts {
        let mergeable = self.flaw == SaysMergeable;
        Facts { reads_x: false, reads_y: false, whole_sequence: false, mergeable }
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        base.req(be, rows)
    }

    fn apply(&self, cx: &Cx<'_, F>, operands: Forward<'_, F>) {
        let (Cx { be, base, p, .. }, Forward { x, mut y, scratch, .. }) = (*cx, operands);
        if self.flaw == AddsToOutput {
            be.add_bias(p, y);
            return;
        }
        base.apply(be, x, y.rb(), scratch);
        for t in 0..y.rows() {
            for (y, &p) in y.row_mut(t).iter_mut().zip(p) {
                *y += p * self.weight(t);
            }
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, operands: Vjp<'_, F>) {
        let Vjp { x, dy, dx, grad, scratch, .. } = operands;
        assert!(self.flaw != ReadsHiddenInput || x.is_some(), "x was not lent");
        if self.flaw == OverwritesGradient {
            grad.fill(F::ZERO);
        }
        let share = F::from_f32(if self.flaw == HalfGradient { 0.5 } else { 1.0 });
        for t in 0..dy.rows() {
            for (grad, &dy) in grad.iter_mut().zip(dy.row(t)) {
                *grad += share * dy * self.weight(t);
            }
        }
        if let (Some(dx), true) = (dx, self.flaw != ForgetsInput) {
            cx.base.vjp(cx.be, dy, dx, scratch);
        }
    }
}

impl Shift {
    fn weight<F: Float>(&self, row: usize) -> F {
        F::from_f32(if self.flaw == CountsRowsOfTheCall { row as f32 } else { 1.0 })
    }
}

/// Builds shifts with a flaw.
struct ShiftMethod(Flaw);

impl<F: Float> Method<F> for ShiftMethod {
    fn kind(&self) -> &'static str {
        "shift"
    }

    fn build(
        &self,
        site: &SiteInfo,
        _config: &Config,
    ) -> Result<Option<Box<dyn Adapter<F>>>, BuildError> {
        let flaw = self.0;
        if flaw == LeavesAll {
            return Ok(None);
        }
        let init = if flaw == NotZero { Init::Constant(0.5) } else { Init::Zeros };
        let output_axis = Some(usize::from(flaw == Axis));
        let shape = [site.out_features, 1];
        let rank_axis = (flaw == RankAxis).then_some(0);
        let params = [ParamSpec { name: "shift", shape, init, output_axis, rank_axis }];
        Ok(Some(Box::new(Shift { flaw, params })))
    }
}

fn run(flaw: Flaw) {
    adapter(&ShiftMethod(flaw), &Config::default(), AtInit::EqualsBase);
}

#[test]
fn a_sound_method_passes() {
    run(Nothing);
    adapter(&ShiftMethod(NotZero), &Config::default(), AtInit::Anything);
}

#[test]
#[should_panic(expected = "output axis 1 of shift [7, 1] does not run over 7 outputs")]
fn a_wrong_output_axis_is_caught() {
    run(Axis);
}

#[test]
#[should_panic(expected = "shift [7, 1] has a gradient of")]
fn a_wrong_rank_axis_is_caught() {
    run(RankAxis);
}

#[test]
#[should_panic(expected = "self_attn.k_proj: output at the initial values: element 0")]
fn a_broken_promise_about_the_start_is_caught() {
    run(NotZero);
}

#[test]
#[should_panic(expected = "gradient of the parameters: element 0")]
fn a_wrong_gradient_is_caught() {
    run(HalfGradient);
}

#[test]
#[should_panic(expected = "gradient of the input: element 0 is 0")]
fn a_missing_gradient_is_caught() {
    run(ForgetsInput);
}

#[test]
#[should_panic(expected = "gradient of the parameters, added to another: element 0")]
fn an_overwritten_gradient_is_caught() {
    run(OverwritesGradient);
}

#[test]
#[should_panic(expected = "the output is not finite at element 0: lent memory was read")]
fn an_output_that_is_not_overwritten_is_caught() {
    run(AddsToOutput);
}

#[test]
#[should_panic(expected = "x was not lent")]
fn an_undeclared_read_is_caught() {
    run(ReadsHiddenInput);
}

#[test]
#[should_panic(expected = "output, rows split after the first quantum: element 448")]
fn dependence_on_the_call_is_caught() {
    run(CountsRowsOfTheCall);
}

#[test]
#[should_panic(expected = "declared mergeable: true, merged: false")]
fn a_false_declaration_is_caught() {
    run(SaysMergeable);
}

#[test]
#[should_panic(expected = "no site can be adapted: model.layers.0.self_attn.k_proj: left alone")]
fn a_method_that_adapts_nothing_is_caught() {
    run(LeavesAll);
}
