//! The suite for adapter methods.

mod bits;
mod case;
mod gradients;
mod ranks;
mod specs;

use lowtide_adapter::{BuildError, Config, Method};
use lowtide_backend::{Backend, Scalar};

use case::{Case, Site, sites};

/// What a method is at its initial values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtInit {
    /// The adapted linear equals its base: training starts where the base stands.
    EqualsBase,
    /// Nothing is promised.
    Anything,
}

/// Runs a method through everything an adapter owes to the engine.
///
/// The method is built for several sites, small ones of odd shapes, over plain and packed bases,
/// with and without bias; a site that it leaves alone or refuses is skipped, but one must remain.
/// With its initial values moved by random amounts, so that no gradient vanishes by chance, the
/// suite checks
///
/// - *specs*: parameters and frozen tensors have unique names, elements, finite initial values and
///   an output axis of the output's length; f32 and f64 agree on them, on facts and on results;
/// - *ranks*: tensors with a rank axis have one rank, and a pair that is zero has gradients of
///   exactly zero;
/// - *gradients*, in f64 over sequences of two spans in training, dropout included: of every
///   parameter and of the input, against central differences. Values that `prepare` derives are
///   held fixed, as backward treats them;
/// - *accumulation*: gradients are added to what is there; leaving out `dx` changes no other bit;
/// - *memory*: outputs full of NaN are overwritten, scratch of exactly `req` elements full of NaN
///   is enough, views with gaps between rows keep their gaps, `req` never shrinks when rows are
///   added;
/// - *facts*: backward is lent `x` and `y` only as declared; a mergeable method's merged matrix
///   gives its output, whatever tiles it was merged in, and another method refuses;
/// - *decoding*: a sequence that is read call by call gives the output of one call, the prompt
///   first where the method needs it whole, unless it says that it looks ahead;
/// - *bits*: the same twice, and the same when rows are split at multiples of
///   [`QUANTUM`](lowtide_tensor::QUANTUM), unless the method needs whole sequences;
/// - the promise about initial values.
///
/// ```no_run
/// use lowtide_adapter::{Config, Method};
/// use lowtide_conformance::adapter::{AtInit, adapter};
///
/// fn my_method_conforms(method: &(impl Method<f32> + Method<f64>)) {
///     let config = Config { rank: 3, dropout: 0.25, ..Config::default() };
///     adapter(method, &config, AtInit::EqualsBase);
/// }
/// ```
///
/// # Panics
/// At the first thing that does not hold; the message names method, site and element.
pub fn adapter<M>(method: &M, config: &Config, at_init: AtInit)
where
    M: Method<f32> + Method<f64> + ?Sized,
{
    adapter_on(&Scalar, &Scalar, method, config, at_init);
}

/// [`adapter`] on other backends than the scalar specification: `single` computes what is checked
/// in f32, `double` what is checked in f64.
///
/// # Panics
/// As [`adapter`].
pub fn adapter_on<M>(
    single: &dyn Backend<f32>,
    double: &dyn Backend<f64>,
    method: &M,
    config: &Config,
    at_init: AtInit,
) where
    M: Method<f32> + Method<f64> + ?Sized,
{
    let mut refusals = Vec::new();
    let mut built = 0;
    for site in sites() {
        match Pair::build(method, config, &site) {
            Ok(None) => refusals.push(format!("{}: left alone", site.info.name)),
            Err(error) => refusals.push(format!("{}: {error}", site.info.name)),
            Ok(Some(mut pair)) => {
                built += 1;
                pair.check(single, double, at_init);
                ranks::check(&mut pair.single, single);
            }
        }
    }
    assert!(built > 0, "no site can be adapted: {}", refusals.join("; "));
}

/// The same adapter for both floats.
struct Pair {
    single: Case<f32>,
    double: Case<f64>,
}

impl Pair {
    fn build<M>(method: &M, config: &Config, site: &Site) -> Result<Option<Self>, BuildError>
    where
        M: Method<f32> + Method<f64> + ?Sized,
    {
        let single = Case::build(method, config, site)?;
        let double = Case::build(method, config, site)?;
        match (single, double) {
            (Some(single), Some(double)) => Ok(Some(Self { single, double })),
            (None, None) => Ok(None),
            _ => panic!("{}: adapted for one float type and not for the other", site.info.name),
        }
    }

    fn check(&self, single: &dyn Backend<f32>, double: &dyn Backend<f64>, at_init: AtInit) {
        specs::check(self);
        gradients::check(&self.double, double);
        if at_init == AtInit::EqualsBase {
            gradients::check_equals_base(&self.double, double);
        }
        gradients::check_merge(&self.double, double);
        bits::check(&self.single, single);
        bits::check_close(self, single, double);
        gradients::check_decoding(&self.double, double);
    }
}
