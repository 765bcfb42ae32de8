//! What a method declares.

use lowtide_adapter::{Init, Keeps, ParamSpec};

use super::Pair;

/// Specs make sense, and are the same for both floats.
pub(super) fn check(pair: &Pair) {
    let Pair { single, double } = pair;
    let label = &single.label;
    let specs = single.adapter.params();
    assert!(specs == double.adapter.params(), "{label}: parameters differ between f32 and f64");
    assert!(
        single.adapter.facts() == double.adapter.facts(),
        "{label}: facts differ between f32 and f64"
    );
    assert!(
        single.adapter.derived() == double.adapter.derived(),
        "{label}: derived values differ in number between f32 and f64"
    );
    let frozen = single.adapter.frozen();
    assert!(frozen == double.adapter.frozen(), "{label}: frozen tensors differ in f32 and f64");
    assert!(
        single.adapter.keeps() == double.adapter.keeps()
            && single.adapter.state() == double.adapter.state(),
        "{label}: what is kept differs between f32 and f64"
    );
    let per_sequence = matches!(single.adapter.keeps(), Keeps::PerSequence(_));
    assert!(
        !per_sequence || single.adapter.facts().whole_sequence,
        "{label}: keeps values per sequence and does not say that it needs whole sequences"
    );
    assert!(!specs.is_empty(), "{label}: nothing to train");
    let specs: Vec<ParamSpec> = specs.iter().chain(frozen).copied().collect();
    for (i, spec) in specs.iter().enumerate() {
        let name = spec.name;
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
        assert!(plain, "{label}: a parameter is called {name:?}");
        let unique = specs[..i].iter().all(|other| other.name != name);
        assert!(unique, "{label}: two parameters are called {name}");
        assert!(!spec.is_empty(), "{label}: {name} has shape {:?}", spec.shape);
        assert!(is_sane(spec.init), "{label}: {name} starts as {:?}", spec.init);
        check_output_axis(label, spec, single.out_features);
    }
}

fn is_sane(init: Init) -> bool {
    match init {
        Init::Zeros | Init::Identity => true,
        Init::Constant(value) => value.is_finite(),
        Init::Uniform { bound: size } | Init::Normal { std: size } => {
            size.is_finite() && size >= 0.0
        }
    }
}

fn check_output_axis(label: &str, spec: &ParamSpec, out_features: usize) {
    let ParamSpec { name, shape, output_axis, .. } = *spec;
    let Some(axis) = output_axis else { return };
    let len = shape.get(axis).copied();
    assert!(
        len == Some(out_features),
        "{label}: output axis {axis} of {name} {shape:?} does not run over {out_features} outputs"
    );
}
