//! A shift: a trained bias behind a frozen linear, `y = base(x) + shift`, as BitFit trains biases.
//!
//! This is all that a method is. Backward needs neither the input nor the output of the linear, and
//! says so: the planner then keeps neither for it.
#![forbid(unsafe_code)]

use lowtide_adapter::{
    Adapter, BuildError, Built, Config, Cx, Facts, Forward, Init, Linear, Method, ParamSpec, Place,
    SiteInfo, Vjp,
};
use lowtide_backend::{Backend, Req};
use lowtide_tensor::Float;

/// The name that `--method` and configurations have for it.
pub const KIND: &str = "shift";

/// `y = base(x) + shift` behind one linear.
#[derive(Debug)]
pub struct Shift([ParamSpec; 1]);

/// Builds a [`Shift`] behind every linear it is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShiftMethod;

impl<F: Float> Adapter<F> for Shift {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn params(&self) -> &[ParamSpec] {
        &self.0
    }

    fn facts(&self) -> Facts {
        Facts { reads_x: false, reads_y: false, whole_sequence: false, mergeable: false }
    }

    fn req(&self, be: &dyn Backend<F>, base: &dyn Linear<F>, rows: usize) -> Req {
        base.req(be, rows)
    }

    fn apply(&self, cx: &Cx<'_, F>, Forward { x, mut y, scratch, .. }: Forward<'_, F>) {
        cx.base.apply(cx.be, x, y.rb(), scratch);
        for t in 0..y.rows() {
            y.row_mut(t).iter_mut().zip(cx.p).for_each(|(y, &shift)| *y += shift);
        }
    }

    fn vjp(&self, cx: &Cx<'_, F>, Vjp { dy, dx, grad, scratch, .. }: Vjp<'_, F>) {
        cx.be.sum_rows(dy, grad);
        if let Some(dx) = dx {
            cx.base.vjp(cx.be, dy, dx, scratch);
        }
    }
}

impl<F: Float> Method<F> for ShiftMethod {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn build(&self, site: &SiteInfo, _config: &Config) -> Result<Built<F>, BuildError> {
        if site.place != Place::Linear {
            return Ok(None);
        }
        let shape = [site.out_features, 1];
        let (init, output_axis, rank_axis) = (Init::Zeros, Some(0), None);
        let shift = ParamSpec { name: "shift", shape, init, output_axis, rank_axis };
        Ok(Some(Box::new(Shift([shift]))))
    }
}

#[cfg(test)]
mod tests {
    use lowtide_adapter::Config;
    use lowtide_conformance::{AtInit, adapter};

    use super::ShiftMethod;

    #[test]
    fn it_conforms() {
        adapter(&ShiftMethod, &Config::default(), AtInit::EqualsBase);
    }
}
