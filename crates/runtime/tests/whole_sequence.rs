//! A method that needs all tokens of a sequence at once is refused by name, before anything runs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lowtide_adapter::{
    Adapter, BuildError, Config, Cx, Facts, Forward, Linear, Method, ParamSpec, SiteInfo, Vjp,
};
use lowtide_backend::{Backend, Req, Scalar};
use lowtide_lora::LoraMethod;
use lowtide_model::{Adaptation, Layers, SitePatterns, TargetModules};
use lowtide_runtime::{BaseText, OpenBase, RuntimeError, Session};
use lowtide_tape::{DecodeLimits, DecodePlan};
use lowtide_testkit::golden::golden_dir;

/// LoRA that says it needs whole sequences.
struct Pooled(Box<dyn Adapter<f32>>);

struct PooledMethod;

impl Method<f32> for PooledMethod {
    fn kind(&self) -> &'static str {
        "pooled"
    }

    fn build(
        &self,
        site: &SiteInfo,
        config: &Config,
    ) -> Result<Option<Box<dyn Adapter<f32>>>, BuildError> {
        let adapter = LoraMethod.build(site, config)?;
        Ok(adapter.map(|adapter| Box::new(Pooled(adapter)) as Box<dyn Adapter<f32>>))
    }
}

impl Adapter<f32> for Pooled {
    fn kind(&self) -> &'static str {
        "pooled"
    }

    fn params(&self) -> &[ParamSpec] {
        self.0.params()
    }

    fn facts(&self) -> Facts {
        Facts { whole_sequence: true, ..self.0.facts() }
    }

    fn req(&self, be: &dyn Backend<f32>, base: &dyn Linear<f32>, rows: usize) -> Req {
        self.0.req(be, base, rows)
    }

    fn apply(&self, cx: &Cx<'_, f32>, operands: Forward<'_, f32>) {
        self.0.apply(cx, operands);
    }

    fn vjp(&self, cx: &Cx<'_, f32>, operands: Vjp<'_, f32>) {
        self.0.vjp(cx, operands);
    }
}

#[test]
fn generating_is_refused_by_name() {
    let base = OpenBase::open(&golden_dir().join("llama_tied")).unwrap();
    let (config, layers) = (Config { rank: 2, ..Config::default() }, Layers::All);
    let targets: TargetModules = "v_proj".parse().unwrap();
    let adaptation = Adaptation {
        patterns: &SitePatterns::NONE,
        method: &PooledMethod,
        config: &config,
        targets: &targets,
        layers: &layers,
    };
    let model = base.build(Some(adaptation)).unwrap();
    let text = BaseText::open(&base).unwrap();
    let refused = Session::reserve(&model, &text, &Scalar, 64, None).map(|_| ());
    let Err(error @ RuntimeError::WholeSequence { .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(
        error.to_string(),
        "method `pooled` at `model.layers.0.self_attn.v_proj` needs all tokens of a sequence at \
         once: it can be evaluated, and no text can be generated with it"
    );

    // A caller of the layer below that did not ask is stopped as well.
    let limits = DecodeLimits { context: 64, rows: 16 };
    let plan = || DecodePlan::new(&model.program, &Scalar, limits);
    let panic = catch_unwind(AssertUnwindSafe(plan)).unwrap_err();
    let words = panic.downcast_ref::<String>().unwrap();
    assert_eq!(words, "`linear` cannot read a sequence call by call");
}
