//! What steps and generation run on: a base from a file, or a shape with numbers that mean nothing.

use std::collections::BTreeMap;
use std::path::Path;

use lowtide_adapter::Config as AdapterConfig;
use lowtide_backend::{Activation, Pairing};
use lowtide_model::{
    Adaptation, Config, Family, Layers, Model, Rope, RopeScaling, SitePatterns, TargetModules,
    Weights, build,
};
use lowtide_quant::formats::{Q4_1, Q8_0};
use lowtide_quant::{BlockFormat, QMat};
use lowtide_runtime::{BaseText, OpenBase, registry};

use crate::BenchError;
use crate::kernels::Packed;

/// Names that stand for a shape instead of a file, with the tokens of a step unless told otherwise.
pub const SHAPES: &[(&str, usize)] = &[("qwen2.5-0.5b-shape", 256)];

/// A base to measure with.
pub struct Base(Kind);

enum Kind {
    File(Box<OpenBase>),
    Shape(Box<Shape>),
}

impl Base {
    /// The base at `path`, or the shape of that name.
    ///
    /// # Errors
    /// When there is no sound base of a known family at `path`.
    pub fn open(path: &Path) -> Result<Self, BenchError> {
        if SHAPES.iter().any(|(name, _)| Path::new(name) == path) {
            return Ok(Self::shape(SHAPES[0].0, &qwen25(896, 24, 14, 64, 4864)));
        }
        Ok(Self(Kind::File(Box::new(OpenBase::open(path)?))))
    }

    pub(super) fn shape(name: &str, config: &Config) -> Self {
        Self(Kind::Shape(Box::new(Shape::new(name, config, Packed::new))))
    }

    /// A shape to plan with, whose weights are zeros that take no memory until they are read.
    pub(super) fn outline(name: &str, config: &Config) -> Self {
        let blank = |format, rows, cols, _| Packed::blank(format, rows, cols);
        Self(Kind::Shape(Box::new(Shape::new(name, config, blank))))
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.0 {
            Kind::File(base) => {
                let name = base.name();
                name.file_name().unwrap_or(name.as_os_str()).to_string_lossy().into_owned()
            }
            Kind::Shape(shape) => shape.name.clone(),
        }
    }

    /// Bytes of its packed weights.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            Kind::File(base) => base.file().file_bytes(),
            Kind::Shape(shape) => {
                shape.matrices.values().map(|m| m.view().size_bytes() as u64).sum()
            }
        }
    }

    pub(super) fn config(&self) -> &Config {
        match &self.0 {
            Kind::File(base) => base.config(),
            Kind::Shape(shape) => &shape.config,
        }
    }

    /// Ids of a text, where the base is a file that has a tokenizer.
    pub(super) fn ids_of(&self, text: &str) -> Result<Option<Vec<u32>>, BenchError> {
        let Kind::File(base) = &self.0 else { return Ok(None) };
        let reader = BaseText::open(base)?;
        Ok(reader.tokenizer.is_some().then(|| reader.plain(text)).transpose()?)
    }

    /// That `tokens` are a sequence for it.
    ///
    /// # Errors
    /// [`BenchError::Tokens`], with the longest.
    pub fn check(&self, tokens: usize) -> Result<(), BenchError> {
        let longest = match &self.0 {
            Kind::File(base) => base.file().hyper().max_position_embeddings,
            Kind::Shape(_) => 32_768,
        };
        match (2..=longest).contains(&tokens) {
            true => Ok(()),
            false => Err(BenchError::Tokens { tokens, longest }),
        }
    }

    /// The bare model.
    pub(super) fn bare(&self) -> Result<Model<'_, f32>, BenchError> {
        self.build(None)
    }

    /// The model with LoRA of rank 8 on every linear.
    pub(super) fn adapted(&self) -> Result<Model<'_, f32>, BenchError> {
        self.adapted_to(AdapterConfig::default().rank)
    }

    /// The model with LoRA of another rank on every linear.
    pub(super) fn adapted_to(&self, rank: usize) -> Result<Model<'_, f32>, BenchError> {
        self.adapted_by("lora", rank)
    }

    /// The model with a method of this rank on every linear.
    pub(super) fn adapted_by(&self, kind: &str, rank: usize) -> Result<Model<'_, f32>, BenchError> {
        let methods = registry();
        let method = methods.get(kind).expect("the method comes with Lowtide");
        let targets: TargetModules = "all-linear".parse().expect("a selection that is known");
        let (config, layers) = (&AdapterConfig { rank, ..AdapterConfig::default() }, &Layers::All);
        self.build(Some(Adaptation {
            patterns: &SitePatterns::NONE,
            method,
            config,
            targets: &targets,
            layers,
        }))
    }

    fn build(&self, with: Option<Adaptation<'_, f32>>) -> Result<Model<'_, f32>, BenchError> {
        match &self.0 {
            Kind::File(base) => Ok(base.build(with)?),
            Kind::Shape(shape) => build(&shape.config, &Lent(shape), with)
                .map_err(|source| BenchError::Shape { name: shape.name.clone(), source }),
        }
    }
}

/// Packed numbers under the names of weights: the table in Q8_0, all else in Q4_1, as small files
/// of such models are made.
struct Shape {
    name: String,
    config: Config,
    matrices: BTreeMap<String, Packed>,
}

impl Shape {
    fn new(
        name: &str,
        config: &Config,
        packed: impl Fn(&'static dyn BlockFormat, usize, usize, f32) -> Packed,
    ) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let query = config.num_attention_heads * config.head_dim;
        let key = config.num_key_value_heads * config.head_dim;
        // Small enough that activations stay about as large as those of a trained model.
        let scale = |cols: usize| (cols as f32).sqrt().recip();
        let table = packed(&Q8_0, config.vocab_size, hidden, scale(hidden));
        let mut matrices = BTreeMap::from([("model.embed_tokens.weight".to_owned(), table)]);
        for layer in 0..config.num_hidden_layers {
            for (module, rows, cols) in [
                ("self_attn.q_proj", query, hidden),
                ("self_attn.k_proj", key, hidden),
                ("self_attn.v_proj", key, hidden),
                ("self_attn.o_proj", hidden, query),
                ("mlp.gate_proj", inner, hidden),
                ("mlp.up_proj", inner, hidden),
                ("mlp.down_proj", hidden, inner),
            ] {
                let name = format!("model.layers.{layer}.{module}.weight");
                matrices.insert(name, packed(&Q4_1, rows, cols, scale(cols)));
            }
        }
        Self { name: name.to_owned(), config: config.clone(), matrices }
    }
}

/// Lends what a shape holds; vectors are made as they are asked for.
struct Lent<'w>(&'w Shape);

impl<'w> Weights<'w> for Lent<'w> {
    fn matrix(&self, name: &str) -> Option<QMat<'w>> {
        self.0.matrices.get(name).map(Packed::view)
    }

    fn vector(&self, name: &str) -> Option<Vec<f32>> {
        let config = &self.0.config;
        if name.ends_with("norm.weight") {
            return Some(vec![1.0; config.hidden_size]);
        }
        let matrix = name.strip_suffix(".bias").map(|module| format!("{module}.weight"));
        matrix.and_then(|name| self.matrix(&name)).map(|matrix| vec![0.0; matrix.rows()])
    }
}

/// A model of the Qwen2.5 series with a tied table.
pub(super) fn qwen25(
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    head_dim: usize,
    intermediate_size: usize,
) -> Config {
    Config {
        family: Family::Qwen2,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: 2,
        head_dim,
        vocab_size: 151_936,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
        hidden_act: Activation::Silu,
        attention_bias: true,
        attention_output_bias: false,
        mlp_bias: false,
        attention_scale: (head_dim as f64).sqrt().recip(),
        embedding_scale: 1.0,
        norm_offset: 0.0,
        rope: Rope { theta: 1e6, scaling: RopeScaling::Default, pairing: Pairing::Halves },
        local: None,
        sliding_window: None,
    }
}

/// The numbers of Llama-3.2-3B.
pub(super) fn llama3() -> Config {
    Config {
        family: Family::Llama,
        num_key_value_heads: 8,
        vocab_size: 128_256,
        rms_norm_eps: 1e-5,
        attention_bias: false,
        rope: Rope { theta: 5e5, scaling: RopeScaling::Default, pairing: Pairing::Halves },
        ..qwen25(3072, 28, 24, 128, 8192)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A shape as small as they come.
    pub(in crate::suites) fn tiny() -> Base {
        let config = Config {
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 16,
            vocab_size: 64,
            attention_scale: 0.25,
            ..qwen25(896, 24, 14, 64, 4864)
        };
        Base::shape("tiny", &config)
    }

    #[test]
    fn a_shape_is_a_model() {
        let base = tiny();
        assert_eq!(base.name(), "tiny");
        let linears = 2 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 64 * 32);
        assert_eq!(base.bytes(), (linears / 32 * 20 + 64 * 34) as u64);
        assert_eq!(base.adapted().unwrap().sites.len(), 14);
        assert_eq!(base.bare().unwrap().sites.len(), 0);
        assert!(base.check(2).is_ok());
        let error = base.check(1).unwrap_err().to_string();
        assert_eq!(error, "1 tokens: expected 2 to 32768");
    }

    #[test]
    fn what_is_neither_file_nor_shape_is_told_by_its_path() {
        let error = Base::open(Path::new("no-such-base.gguf")).err().unwrap().to_string();
        assert!(error.contains("no-such-base.gguf"), "{error}");
    }
}
