//! The Llama family: pre-norm blocks of grouped-query attention and a gated feed-forward part.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use lowtide_adapter::{Adapter, Config as AdapterConfig, Method, ParamSpec, SiteInfo};
use lowtide_backend::AttentionShape;
use lowtide_quant::QMat;
use lowtide_tape::ops::{AdaptedLinear, Add, Attention, Glu, RmsNorm, Rope};
use lowtide_tape::{Embedding, Graph, LossHead, Program, Segment, ValueId};
use lowtide_tensor::Float;

use crate::rope::inv_freq;
use crate::targets::select;
use crate::{Config, Layers, ModelError, TargetModules, Weights};

/// Which sites get which adapter.
#[derive(Clone, Copy)]
pub struct Adaptation<'a, F: Float> {
    /// Builds the adapters.
    pub method: &'a dyn Method<F>,
    /// What the method is told.
    pub config: &'a AdapterConfig,
    /// Which linears of a block.
    pub targets: &'a TargetModules,
    /// Which blocks.
    pub layers: &'a Layers,
}

/// A site with its adapter's tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Name, layer and widths.
    pub info: SiteInfo,
    /// Name of the method.
    pub kind: &'static str,
    /// The trainable tensors, in order.
    pub params: Vec<ParamSpec>,
    /// Where they lie in the adapter slab.
    pub range: Range<usize>,
}

/// A program and the sites that are trained in it, bottom to top.
pub struct Model<'w, F: Float> {
    /// What the executor runs.
    pub program: Program<'w, F>,
    /// What is trained.
    pub sites: Vec<Site>,
    /// Bytes of norms, biases and rotary frequencies, which the program holds as floats.
    pub resident_bytes: u64,
}

impl<F: Float> Model<'_, F> {
    /// Length of every trainable tensor, in the order of the adapter slab.
    #[must_use]
    pub fn tensor_lens(&self) -> Vec<usize> {
        self.sites.iter().flat_map(|site| site.params.iter().map(ParamSpec::len)).collect()
    }

    /// Number of trainable tensors of each block.
    #[must_use]
    pub fn tensors_per_segment(&self) -> Vec<usize> {
        let mut counts = alloc::vec![0; self.program.segments.len()];
        for site in &self.sites {
            counts[site.info.layer] += site.params.len();
        }
        counts
    }
}

/// The linears of a block: module name, width in, width out, whether they have a bias.
fn linears(config: &Config) -> [(&'static str, usize, usize, bool); 7] {
    let hidden = config.hidden_size;
    let query = config.num_attention_heads * config.head_dim;
    let key = config.num_key_value_heads * config.head_dim;
    let inner = config.intermediate_size;
    let (attention, mlp) = (config.attention_bias, config.mlp_bias);
    [
        ("self_attn.q_proj", hidden, query, attention),
        ("self_attn.k_proj", hidden, key, attention),
        ("self_attn.v_proj", hidden, key, attention),
        ("self_attn.o_proj", query, hidden, attention),
        ("mlp.gate_proj", hidden, inner, mlp),
        ("mlp.up_proj", hidden, inner, mlp),
        ("mlp.down_proj", inner, hidden, mlp),
    ]
}

/// Builds the program over `weights`, with adapters where `adaptation` says; without one it can be
/// evaluated only.
///
/// # Errors
/// [`ModelError`] when a tensor is missing or has another shape than `config` says, or when the
/// adaptation does not fit.
pub fn build<'w, F: Float>(
    config: &Config,
    weights: &dyn Weights<'w>,
    adaptation: Option<Adaptation<'_, F>>,
) -> Result<Model<'w, F>, ModelError> {
    let (hidden, vocab) = (config.hidden_size, config.vocab_size);
    let infos: Vec<SiteInfo> = (0..config.num_hidden_layers)
        .flat_map(|layer| linears(config).map(|linear| site_info(layer, linear)))
        .collect();
    let selected = match &adaptation {
        Some(a) => select(a.targets, a.layers, &infos, config.num_hidden_layers)?,
        None => alloc::vec![false; infos.len()],
    };
    let mut blocks = Blocks {
        config,
        weights,
        inv_freq: inv_freq(&config.rope, config.head_dim)?,
        adaptation,
        infos,
        selected,
        sites: Vec::new(),
        params: 0,
        floats: 0,
    };
    let table = matrix(weights, "model.embed_tokens.weight", vocab, hidden)?;
    let segments = (0..config.num_hidden_layers)
        .map(|layer| blocks.segment(layer))
        .collect::<Result<Vec<_>, _>>()?;
    let norm = vector(weights, "model.norm.weight", hidden)?;
    let weight = match config.tie_word_embeddings {
        true => table,
        false => matrix(weights, "lm_head.weight", vocab, hidden)?,
    };
    let head = LossHead { norm, eps: F::from_f32(config.rms_norm_eps), weight };
    let embedding = Embedding { table, scale: F::ONE };
    let resident_bytes = ((blocks.floats + hidden) * size_of::<F>()) as u64;
    let program = Program { embedding, segments, head };
    Ok(Model { program, sites: blocks.sites, resident_bytes })
}

fn site_info(layer: usize, linear: (&str, usize, usize, bool)) -> SiteInfo {
    let (module, in_features, out_features, _) = linear;
    SiteInfo { name: format!("model.layers.{layer}.{module}"), layer, in_features, out_features }
}

/// Blocks under construction.
struct Blocks<'a, 'w, F: Float> {
    config: &'a Config,
    weights: &'a dyn Weights<'w>,
    inv_freq: Box<[F]>,
    adaptation: Option<Adaptation<'a, F>>,
    infos: Vec<SiteInfo>,
    selected: Vec<bool>,
    sites: Vec<Site>,
    /// Parameters of all sites so far.
    params: usize,
    /// Floats that operations hold so far.
    floats: usize,
}

impl<'w, F: Float> Blocks<'_, 'w, F> {
    fn segment(&mut self, layer: usize) -> Result<Segment<'w, F>, ModelError> {
        let config = self.config;
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let head_dim = config.head_dim;
        let (mut graph, x) = Graph::new(config.hidden_size);
        let g = &mut graph;

        let n = self.norm(g, layer, "input_layernorm", x)?;
        let q = self.linear(g, layer, 0, n)?;
        let k = self.linear(g, layer, 1, n)?;
        let v = self.linear(g, layer, 2, n)?;
        let q = g.push(self.rope(), &[q]);
        let k = g.push(self.rope(), &[k]);
        let scale = 1.0 / Float::sqrt(head_dim as f64);
        let shape = AttentionShape { heads, kv_heads, head_dim, scale, window: None };
        let o = g.push(Attention { shape }, &[q, k, v]);
        let o = self.linear(g, layer, 3, o)?;
        let h = g.push(Add, &[x, o]);

        let n = self.norm(g, layer, "post_attention_layernorm", h)?;
        let gate = self.linear(g, layer, 4, n)?;
        let up = self.linear(g, layer, 5, n)?;
        let inner = g.push(Glu { act: config.hidden_act }, &[gate, up]);
        let down = self.linear(g, layer, 6, inner)?;
        g.push(Add, &[h, down]);
        Ok(Segment::new(graph))
    }

    fn norm(
        &mut self,
        graph: &mut Graph<'w, F>,
        layer: usize,
        module: &str,
        x: ValueId,
    ) -> Result<ValueId, ModelError> {
        let name = format!("model.layers.{layer}.{module}.weight");
        let weight = vector(self.weights, &name, self.config.hidden_size)?;
        self.floats += weight.len();
        let eps = F::from_f32(self.config.rms_norm_eps);
        Ok(graph.push(RmsNorm { weight, eps }, &[x]))
    }

    fn rope(&mut self) -> Rope<F> {
        self.floats += self.inv_freq.len();
        let (head_dim, pairing) = (self.config.head_dim, self.config.rope.pairing);
        Rope { head_dim, inv_freq: self.inv_freq.clone(), pairing }
    }

    /// Records linear `index` of the block, adapted if it is selected.
    fn linear(
        &mut self,
        graph: &mut Graph<'w, F>,
        layer: usize,
        index: usize,
        x: ValueId,
    ) -> Result<ValueId, ModelError> {
        let (_, in_features, out_features, has_bias) = linears(self.config)[index];
        let site = layer * linears(self.config).len() + index;
        let name = self.infos[site].name.clone();
        let weight = matrix(self.weights, &format!("{name}.weight"), out_features, in_features)?;
        let bias = match has_bias {
            true => Some(vector(self.weights, &format!("{name}.bias"), out_features)?),
            false => None,
        };
        self.floats += if has_bias { out_features } else { 0 };
        let adapter = self.adapter(site)?;
        let op = AdaptedLinear::new(weight, bias, adapter, site as u64);
        Ok(graph.push(op, &[x]))
    }

    /// The adapter of a site, if it is selected and its method wants it.
    fn adapter(&mut self, site: usize) -> Result<Option<Box<dyn Adapter<F>>>, ModelError> {
        let Some(adaptation) = self.adaptation.filter(|_| self.selected[site]) else {
            return Ok(None);
        };
        let info = &self.infos[site];
        let adapter = adaptation.method.build(info, adaptation.config)?;
        if let Some(adapter) = &adapter {
            let params = adapter.params().to_vec();
            let start = self.params;
            self.params += params.iter().map(ParamSpec::len).sum::<usize>();
            let (info, kind) = (info.clone(), adapter.kind());
            self.sites.push(Site { info, kind, params, range: start..self.params });
        }
        Ok(adapter)
    }
}

fn matrix<'w>(
    weights: &dyn Weights<'w>,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<QMat<'w>, ModelError> {
    let expected = || alloc::vec![rows, cols];
    let found = weights.matrix(name).ok_or_else(|| ModelError::MissingTensor {
        name: String::from(name),
        expected: expected(),
    })?;
    if (found.rows(), found.cols()) == (rows, cols) {
        Ok(found)
    } else {
        let found = alloc::vec![found.rows(), found.cols()];
        Err(ModelError::Shape { name: String::from(name), expected: expected(), found })
    }
}

fn vector<F: Float>(
    weights: &dyn Weights<'_>,
    name: &str,
    len: usize,
) -> Result<Box<[F]>, ModelError> {
    let expected = || alloc::vec![len];
    let found = weights.vector(name).ok_or_else(|| ModelError::MissingTensor {
        name: String::from(name),
        expected: expected(),
    })?;
    if found.len() == len {
        Ok(found.into_iter().map(F::from_f32).collect())
    } else {
        let found = alloc::vec![found.len()];
        Err(ModelError::Shape { name: String::from(name), expected: expected(), found })
    }
}
