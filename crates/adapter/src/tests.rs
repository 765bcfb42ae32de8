//! A frozen linear against numbers by hand, and what errors say.

use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use lowtide_backend::Scalar;
use lowtide_quant::{QMat, formats::F32};
use lowtide_tensor::{Mat, MatMut};

use crate::{BadValue, FrozenLinear, Linear, NotMergeable, ParamSpec};

/// `W [2, 3]`.
fn weight() -> Vec<u8> {
    [1.0_f32, 2.0, 3.0, -1.0, 0.5, 4.0].iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn linear<'w>(weight: &'w [u8], bias: Option<&'w [f64]>) -> FrozenLinear<'w, f64> {
    FrozenLinear::new(QMat::new(&F32, 2, 3, weight).unwrap(), bias)
}

#[test]
fn a_frozen_linear_multiplies_both_ways() {
    let (weight, bias) = (weight(), [10.0, 20.0]);
    let base = linear(&weight, Some(&bias));
    let be = &Scalar;
    assert_eq!(base.dims(), (3, 2));
    let scratch = &mut vec![0.0; base.req(be, 2).scratch];

    let x = [1.0, 1.0, 1.0, 2.0, 0.0, -1.0];
    let x = Mat::new(&x, 2, 3);
    let mut y = [f64::NAN; 4];
    base.apply(be, x, MatMut::new(&mut y, 2, 2), scratch);
    assert_eq!(y, [16.0, 23.5, 9.0, 14.0]);
    base.apply_no_bias(be, x, MatMut::new(&mut y, 2, 2), scratch);
    assert_eq!(y, [6.0, 3.5, -1.0, -6.0]);

    let mut dx = [100.0; 3];
    base.vjp(be, Mat::new(&[1.0, 2.0], 1, 2), MatMut::new(&mut dx, 1, 3), scratch);
    assert_eq!(dx, [99.0, 103.0, 111.0]);

    let mut row = [0.0; 3];
    base.decode_rows(be, 1..2, MatMut::new(&mut row, 1, 3));
    assert_eq!(row, [-1.0, 0.5, 4.0]);
}

#[test]
#[should_panic(expected = "a bias of 3 elements for 2 outputs")]
fn a_bias_of_another_width_is_refused() {
    let _ = linear(&weight(), Some(&[0.0; 3]));
}

#[test]
fn a_parameter_counts_its_elements() {
    let (shape, init) = ([3, 4], crate::Init::Zeros);
    let spec = ParamSpec { name: "v", shape, init, output_axis: None, rank_axis: None };
    assert_eq!((spec.len(), spec.is_empty()), (12, false));
    assert!(ParamSpec { shape: [3, 0], ..spec }.is_empty());
    let pairs = |rank_axis, pair| {
        let spec = ParamSpec { rank_axis, ..spec };
        let elements: Vec<_> = spec.pair(pair).collect();
        assert!(elements.iter().all(|&at| spec.pair_of(at) == Some(pair)));
        (spec.rank(), elements)
    };
    assert_eq!(pairs(Some(0), 2), (Some(3), [8, 9, 10, 11].into()));
    assert_eq!(pairs(Some(1), 2), (Some(4), [2, 6, 10].into()));
    assert_eq!((spec.rank(), spec.pair_of(0), spec.pair(0).count()), (None, None, 0));
}

#[test]
fn errors_name_method_field_value_and_expectation() {
    let bad = BadValue { method: "lora", field: "rank", value: 0.0, expected: "at least 1" };
    assert_eq!(bad.to_string(), "lora: `rank` is 0, expected at least 1");
    let text: String = NotMergeable.to_string();
    assert_eq!(text, "this adapter method cannot be merged into its base");
}

#[cfg(feature = "alloc")]
mod registry {
    use std::boxed::Box;
    use std::format;
    use std::string::ToString;
    use std::vec::Vec;

    use crate::{Adapter, BuildError, Config, Method, Place, Registry, SiteInfo};

    /// Leaves every site alone.
    struct Nothing(&'static str, u8);

    impl Method<f32> for Nothing {
        fn kind(&self) -> &'static str {
            self.0
        }

        fn build(
            &self,
            site: &SiteInfo,
            _config: &Config,
        ) -> Result<Option<Box<dyn Adapter<f32>>>, BuildError> {
            assert_eq!(site.layer, usize::from(self.1), "which of two methods answers");
            Ok(None)
        }
    }

    #[test]
    fn a_method_is_found_by_name_and_replaced_by_its_namesake() {
        let registry: Registry =
            Registry::new().with(Nothing("a", 0)).with(Nothing("b", 0)).with(Nothing("a", 1));
        assert_eq!(registry.kinds().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(format!("{registry:?}"), r#"{"b", "a"}"#);
        let site = SiteInfo {
            name: "x".into(),
            layer: 1,
            in_features: 1,
            out_features: 1,
            place: Place::Linear,
        };
        let built = registry.get("a").unwrap().build(&site, &Config::default()).unwrap();
        assert!(built.is_none());
    }

    #[test]
    fn an_unknown_method_lists_the_known_ones() {
        let registry: Registry = Registry::default().with(Nothing("a", 0)).with(Nothing("b", 0));
        let error = registry.get("dora").map(Method::kind).unwrap_err();
        assert_eq!(error.to_string(), "unknown method `dora`, known: a, b");
        let known = ["a", "b"].to_vec();
        assert_eq!(error, BuildError::UnknownMethod { name: "dora".into(), known });
    }
}
