//! Where files meet models: a base on disk as a model's configuration and weights.

use std::path::{Path, PathBuf};

use lowtide_adapter::{self as adapter, BuildError, Built, Method, Registry, SiteInfo};
use lowtide_backend as backend;
use lowtide_bottleneck::BottleneckMethod;
use lowtide_formats::{self as formats, Base, rows};
use lowtide_ia3::Ia3Method;
use lowtide_lars::LarsMethod;
use lowtide_lora::{
    CodedInOrder, DoraMethod, LoraFaMethod, LoraMethod, QaLoraMethod, RsLoraMethod,
    SHARED_BYTES_MAX, Vera, VeraInOrder, VeraMethod,
};
use lowtide_model::{
    Adaptation, Config, Layers, LocalAttention, Model, ModelError, Rope, RopeScaling,
    TargetModules, Weights, build,
};
use lowtide_quant::QMat;
use lowtide_tensor::Float;

use crate::kinds::can_be_coded;
use crate::{LoadedAdapter, RuntimeError};

/// The adapter methods that come with Lowtide.
#[must_use]
pub fn registry<F: Float>() -> Registry<F> {
    Registry::new()
        .with(LoraMethod)
        .with(RsLoraMethod)
        .with(LoraFaMethod)
        .with(DoraMethod)
        .with(VeraMethod)
        .with(QaLoraMethod)
        .with(Ia3Method)
        .with(LarsMethod)
        .with(BottleneckMethod)
}

/// A mapped base and what it means as a model.
#[derive(Debug)]
pub struct OpenBase {
    name: PathBuf,
    base: Base,
    config: Config,
    /// What the matrices that sites share may take.
    shared_max: u64,
}

impl OpenBase {
    /// Maps the base at `path`, or the one in the hub's cache whose id `path` is.
    ///
    /// # Errors
    /// When the file is unsound, or of a family or with a setting that is not known, or when it is
    /// an id whose files are not in the cache.
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        let name = path.to_owned();
        let path = &lowtide_hub::locate(path).map_err(Box::new)?;
        let base = Base::open(path)?;
        let config = config_of(base.hyper()).map_err(|error| RuntimeError::model(path, error))?;
        tracing::debug!(path = %path.display(), bytes = base.file_bytes(), "base mapped");
        Ok(Self { name, base, config, shared_max: SHARED_BYTES_MAX })
    }

    /// The same, where a token sees at most so many of the last tokens in any layer, itself
    /// included. It computes another function than the base was trained for.
    ///
    /// # Errors
    /// [`RuntimeError::Window`] when that is none.
    pub fn with_window(mut self, window: Option<usize>) -> Result<Self, RuntimeError> {
        if window == Some(0) {
            return Err(RuntimeError::Window);
        }
        self.config.sliding_window = window;
        Ok(self)
    }

    /// The same, where what the adapters of sites share may not be larger than `budget`: it is made
    /// before there is a plan to compare with the budget. Without one, a gigabyte is the bound.
    #[must_use]
    pub fn with_budget(mut self, budget: Option<u64>) -> Self {
        self.shared_max = budget.unwrap_or(u64::MAX).min(SHARED_BYTES_MAX);
        self
    }

    /// What it was opened by: its path, or its hub id.
    #[must_use]
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Base {
        &self.base
    }

    /// The model's shape and constants.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Builds the model over the mapped weights.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen, or the adaptation does not fit.
    pub fn build<F: Float>(
        &self,
        adaptation: Option<Adaptation<'_, F>>,
    ) -> Result<Model<'_, F>, RuntimeError> {
        let build = |adaptation: Option<Adaptation<'_, F>>| {
            build(&self.config, &FileWeights(&self.base), adaptation)
                .map_err(|error| RuntimeError::model(self.base.path(), error))
        };
        match adaptation {
            None => build(None),
            Some(given) => {
                self.in_order(given.method, &|method| build(Some(Adaptation { method, ..given })))
            }
        }
    }

    /// The adapters of sites, as [`build`](Self::build) builds them.
    pub(crate) fn build_adapters<F: Float>(
        &self,
        method: &dyn Method<F>,
        sites: &[(&SiteInfo, &adapter::Config)],
    ) -> Result<Vec<Built<F>>, BuildError> {
        self.in_order(method, &|method| method.build_all(sites))
    }

    /// Hands on a method that knows how the base orders its rows, where it has to: VeRA has frozen
    /// rows that are in no file and follow the outputs, and the groups of coded adapters of the
    /// LoRA family are those of Hugging Face's order.
    fn in_order<F: Float, T>(
        &self,
        method: &dyn Method<F>,
        then: &dyn Fn(&dyn Method<F>) -> T,
    ) -> T {
        let order = |site: &SiteInfo| self.row_order(site);
        let vera = VeraInOrder { bytes_max: self.shared_max, order: &order };
        let method = if method.kind() == Vera::<F>::KIND { &vera } else { method };
        match can_be_coded(method.kind()) {
            true => then(&CodedInOrder { method, order: &order }),
            false => then(method),
        }
    }

    /// For each output of a linear the one it is in Hugging Face's order, where they differ.
    fn row_order(&self, site: &SiteInfo) -> Option<Vec<usize>> {
        let hyper = self.base.hyper();
        let heads = hyper.permuted_heads(&site.name)?;
        let row = |row| rows::gguf_row_to_hf_row(row, heads, hyper.head_dim);
        Some((0..site.out_features).map(row).collect())
    }

    /// Builds the model with an adapter at exactly the modules it adapts.
    ///
    /// # Errors
    /// When the base is unsound, `methods` lacks the adapter's, or the adapter is of another base.
    pub fn build_adapted<F: Float>(
        &self,
        methods: &Registry<F>,
        adapter: &LoadedAdapter,
    ) -> Result<Model<'_, F>, RuntimeError> {
        let method = methods.get(&adapter.kind)?;
        let targets = TargetModules::List(adapter.modules.clone());
        let (config, patterns) = (&adapter.config_in_use(), &adapter.patterns);
        let (targets, layers) = (&targets, &Layers::All);
        let adaptation = Adaptation { method, config, patterns, targets, layers };
        self.build(Some(adaptation)).map_err(|error| adapter.blame(error))
    }
}

/// Tensors of a mapped file under their Hugging Face names.
struct FileWeights<'w>(&'w Base);

impl<'w> Weights<'w> for FileWeights<'w> {
    fn matrix(&self, name: &str) -> Option<QMat<'w>> {
        self.0.tensor(name)?.qmat().ok()
    }

    fn vector(&self, name: &str) -> Option<Vec<f32>> {
        self.0.tensor(name).filter(|tensor| tensor.shape.len() == 1).map(|t| t.to_f32_vec())
    }
}

fn config_of(hyper: &formats::Hyperparameters) -> Result<Config, ModelError> {
    Ok(Config {
        family: hyper.architecture.parse()?,
        hidden_size: hyper.hidden_size,
        intermediate_size: hyper.intermediate_size,
        num_hidden_layers: hyper.num_hidden_layers,
        num_attention_heads: hyper.num_attention_heads,
        num_key_value_heads: hyper.num_key_value_heads,
        head_dim: hyper.head_dim,
        vocab_size: hyper.vocab_size,
        rms_norm_eps: hyper.rms_norm_eps,
        tie_word_embeddings: hyper.tie_word_embeddings,
        hidden_act: match hyper.hidden_act {
            formats::Activation::Silu => backend::Activation::Silu,
            formats::Activation::GeluTanh => backend::Activation::GeluTanh,
        },
        attention_bias: hyper.attention_bias,
        attention_output_bias: hyper.attention_output_bias,
        mlp_bias: hyper.mlp_bias,
        attention_scale: hyper.attention_scale,
        embedding_scale: hyper.embedding_scale,
        norm_offset: hyper.norm_offset,
        rope: rope_of(&hyper.rope),
        local: hyper.local.as_ref().map(|local| LocalAttention {
            window: local.window,
            rope: rope_of(&local.rope),
            layers: local.layers.clone(),
        }),
        sliding_window: None,
    })
}

fn rope_of(rope: &formats::Rope) -> Rope {
    let scaling = match rope.scaling.clone() {
        formats::RopeScaling::Default => RopeScaling::Default,
        formats::RopeScaling::Linear { factor } => RopeScaling::Linear { factor },
        formats::RopeScaling::Factors(factors) => RopeScaling::Factors(factors),
        formats::RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        },
    };
    let pairing = match rope.pairing {
        formats::Pairing::Halves => backend::Pairing::Halves,
        formats::Pairing::Adjacent => backend::Pairing::Adjacent,
    };
    Rope { theta: rope.theta, scaling, pairing }
}
