//! The parts blocks are made of, each recorded by one call: what families wire.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use lowtide_adapter::{Built, Config as AdapterConfig, ParamSpec, Place, SiteInfo, check_options};
use lowtide_backend::AttentionShape;
use lowtide_tape::ops::{AdaptedLinear, Add, Attention, Glu, RmsNorm, Rope};
use lowtide_tape::{Graph, Segment, ValueId};
use lowtide_tensor::Float;

use crate::rope::inv_freq;
use crate::targets::select;
use crate::weights::{matrix, vector};
use crate::{Adaptation, Config, ModelError, Site, TargetsError, Weights};

/// A linear of a block.
struct Linear {
    /// Its name within the block.
    module: &'static str,
    in_features: usize,
    out_features: usize,
    bias: bool,
}

/// The linears of a block, in the order of their sites.
fn linears(config: &Config) -> [Linear; 7] {
    let hidden = config.hidden_size;
    let query = config.num_attention_heads * config.head_dim;
    let key = config.num_key_value_heads * config.head_dim;
    let inner = config.intermediate_size;
    let linear = |module, in_features, out_features, bias| Linear {
        module,
        in_features,
        out_features,
        bias,
    };
    [
        linear("self_attn.q_proj", hidden, query, config.attention_bias),
        linear("self_attn.k_proj", hidden, key, config.attention_bias),
        linear("self_attn.v_proj", hidden, key, config.attention_bias),
        linear("self_attn.o_proj", query, hidden, config.attention_output_bias),
        linear("mlp.gate_proj", hidden, inner, config.mlp_bias),
        linear("mlp.up_proj", hidden, inner, config.mlp_bias),
        linear("mlp.down_proj", inner, hidden, config.mlp_bias),
    ]
}

/// The branches of a block, whose sites come after those of its linears.
const BRANCHES: [&str; 2] = ["self_attn", "mlp"];

/// The sites of a block.
fn sites(config: &Config, layer: usize) -> impl Iterator<Item = SiteInfo> + use<> {
    let linears = linears(config);
    let linears = linears.map(|l| (l.module, l.in_features, l.out_features, Place::Linear));
    let width = config.hidden_size;
    let branches = BRANCHES.map(|module| (module, width, width, Place::Branch));
    linears.into_iter().chain(branches).map(move |(module, in_features, out_features, place)| {
        let name = format!("model.layers.{layer}.{module}");
        SiteInfo { name, layer, in_features, out_features, place }
    })
}

/// Sites of a block.
const SITES: usize = 7 + BRANCHES.len();

/// What the blocks of a model under construction share.
pub(crate) struct Blocks<'a, 'w, F: Float> {
    config: &'a Config,
    weights: &'a dyn Weights<'w>,
    inv_freq: Box<[F]>,
    /// Of local layers; empty where there are none.
    local_inv_freq: Box<[F]>,
    /// Every site of every block.
    infos: Vec<SiteInfo>,
    /// Their adapters, until they are taken.
    adapters: Vec<Built<F>>,
    /// Those that are trained, so far.
    pub(crate) sites: Vec<Site>,
    /// Parameters of all sites so far.
    params: usize,
    /// Values that go with them.
    fixed: usize,
    /// Floats that operations hold so far.
    pub(crate) floats: usize,
}

impl<'a, 'w, F: Float> Blocks<'a, 'w, F> {
    pub(crate) fn new(
        config: &'a Config,
        weights: &'a dyn Weights<'w>,
        adaptation: Option<Adaptation<'a, F>>,
    ) -> Result<Self, ModelError> {
        let layers = 0..config.num_hidden_layers;
        let infos: Vec<SiteInfo> = layers.flat_map(|layer| sites(config, layer)).collect();
        let adapters = match &adaptation {
            Some(adaptation) => {
                let Adaptation { targets, layers, .. } = adaptation;
                let selected = select(targets, layers, &infos, config.num_hidden_layers)?;
                adapters(adaptation, &infos, &selected)?
            }
            None => infos.iter().map(|_| None).collect(),
        };
        let held = adapters.iter().flatten().map(|adapter| adapter.held()).sum();
        let local = config.local.as_ref().map(|local| inv_freq(&local.rope, config.head_dim));
        Ok(Self {
            config,
            weights,
            inv_freq: inv_freq(&config.rope, config.head_dim)?,
            local_inv_freq: local.transpose()?.unwrap_or_default(),
            infos,
            adapters,
            sites: Vec::new(),
            params: 0,
            fixed: 0,
            floats: held,
        })
    }

    /// The block `layer`, as the family wires it.
    pub(crate) fn segment(&mut self, layer: usize) -> Result<Segment<'w, F>, ModelError> {
        let config = self.config;
        let (graph, x) = Graph::new(config.hidden_size);
        let mut block = Block { blocks: self, graph, layer };
        config.family.record(&mut block, x)?;
        Ok(Segment::new(block.graph))
    }

    /// The adapter of a site, if it has one; sites are asked for in the order of their operations.
    fn adapter(&mut self, site: usize) -> Built<F> {
        let adapter = self.adapters[site].take()?;
        let (params, frozen) = (adapter.params().to_vec(), adapter.frozen().to_vec());
        let len = |specs: &[ParamSpec]| specs.iter().map(ParamSpec::len).sum::<usize>();
        let (start, fixed) = (self.params, self.fixed);
        self.params += len(&params);
        self.fixed += len(&frozen) + adapter.derived();
        self.sites.push(Site {
            info: self.infos[site].clone(),
            kind: adapter.kind(),
            facts: adapter.facts(),
            params,
            range: start..self.params,
            frozen,
            fixed: fixed..self.fixed,
            state: adapter.state(),
        });
        Some(adapter)
    }
}

/// The adapters of the selected sites, where their method makes one.
fn adapters<F: Float>(
    adaptation: &Adaptation<'_, F>,
    infos: &[SiteInfo],
    selected: &[bool],
) -> Result<Vec<Built<F>>, ModelError> {
    let Adaptation { method, config, patterns, targets, .. } = *adaptation;
    check_options(method, config)?;
    patterns.check(infos)?;
    // A site whose rank is 0 has no adapter.
    let config_of = |site: usize| Some((site, patterns.config_of(&infos[site].name, config)?));
    let selected = (0..infos.len()).filter(|&site| selected[site]);
    let chosen: Vec<(usize, AdapterConfig)> = selected.filter_map(config_of).collect();
    if chosen.is_empty() {
        return Err(TargetsError::NothingLeft.into());
    }
    let asked: Vec<(&SiteInfo, &AdapterConfig)> =
        chosen.iter().map(|(site, config)| (&infos[*site], config)).collect();
    let built = method.build_all(&asked)?;
    assert!(built.len() == asked.len(), "{} gives one answer a site", method.kind());
    let taken = |at: usize| (asked[at].0, built[at].is_some());
    if let Some(text) = targets.left_alone(&(0..asked.len()).map(taken).collect::<Vec<_>>()) {
        return Err(TargetsError::NotForMethod { method: method.kind(), text }.into());
    }
    let mut adapters: Vec<_> = infos.iter().map(|_| None).collect();
    for ((site, _), adapter) in chosen.into_iter().zip(built) {
        adapters[site] = adapter;
    }
    Ok(adapters)
}

/// A block that is being recorded. Names of modules are those within the block.
pub(crate) struct Block<'b, 'a, 'w, F: Float> {
    blocks: &'b mut Blocks<'a, 'w, F>,
    graph: Graph<'w, F>,
    layer: usize,
}

impl<F: Float> Block<'_, '_, '_, F> {
    /// A norm of whole rows.
    pub(crate) fn norm(&mut self, module: &str, x: ValueId) -> Result<ValueId, ModelError> {
        self.norm_of(module, self.blocks.config.hidden_size, x)
    }

    /// A norm of each head of `x` by itself.
    pub(crate) fn head_norm(&mut self, module: &str, x: ValueId) -> Result<ValueId, ModelError> {
        self.norm_of(module, self.blocks.config.head_dim, x)
    }

    fn norm_of(&mut self, module: &str, width: usize, x: ValueId) -> Result<ValueId, ModelError> {
        let Blocks { config, weights, .. } = *self.blocks;
        let name = format!("model.layers.{}.{module}.weight", self.layer);
        let weight = vector(weights, &name, width, config.norm_offset)?;
        self.blocks.floats += weight.len();
        let eps = F::from_f32(config.rms_norm_eps);
        Ok(self.graph.push(RmsNorm { weight, eps }, &[x]))
    }

    /// Queries, keys and values of `x`.
    pub(crate) fn queries_keys_values(
        &mut self,
        x: ValueId,
    ) -> Result<(ValueId, ValueId, ValueId), ModelError> {
        let q = self.linear("self_attn.q_proj", x)?;
        let k = self.linear("self_attn.k_proj", x)?;
        let v = self.linear("self_attn.v_proj", x)?;
        Ok((q, k, v))
    }

    /// Rotates each head of `x` by its position.
    pub(crate) fn rope(&mut self, x: ValueId) -> ValueId {
        let config = self.blocks.config;
        let (pairing, inv_freq) = match config.local(self.layer) {
            Some(local) => (local.rope.pairing, self.blocks.local_inv_freq.clone()),
            None => (config.rope.pairing, self.blocks.inv_freq.clone()),
        };
        self.blocks.floats += inv_freq.len();
        self.graph.push(Rope { head_dim: config.head_dim, inv_freq, pairing }, &[x])
    }

    /// Attention over all keys or over a window of them, as the layer has it, and the output
    /// projection.
    pub(crate) fn attention(
        &mut self,
        q: ValueId,
        k: ValueId,
        v: ValueId,
    ) -> Result<ValueId, ModelError> {
        let config = self.blocks.config;
        let shape = AttentionShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale,
            window: config.window(self.layer),
        };
        let o = self.graph.push(Attention { shape }, &[q, k, v]);
        self.linear("self_attn.o_proj", o)
    }

    /// The gated feed-forward part.
    pub(crate) fn feed_forward(&mut self, x: ValueId) -> Result<ValueId, ModelError> {
        let gate = self.linear("mlp.gate_proj", x)?;
        let up = self.linear("mlp.up_proj", x)?;
        let inner = self.graph.push(Glu { act: self.blocks.config.hidden_act }, &[gate, up]);
        self.linear("mlp.down_proj", inner)
    }

    /// Adds what a branch, `self_attn` or `mlp`, gives to the residual stream `x`; what it gives is
    /// adapted if it is selected.
    pub(crate) fn add(&mut self, branch: &str, x: ValueId, given: ValueId) -> ValueId {
        let index = BRANCHES.iter().position(|name| *name == branch);
        let index = SITES - BRANCHES.len() + index.expect("a branch of a block");
        let site = self.layer * SITES + index;
        let width = self.blocks.config.hidden_size;
        let given = match self.blocks.adapter(site) {
            Some(adapter) => {
                self.graph.push(AdaptedLinear::branch(width, adapter, site as u64), &[given])
            }
            None => given,
        };
        self.graph.push(Add, &[x, given])
    }

    /// A linear, adapted if it is selected.
    fn linear(&mut self, module: &str, x: ValueId) -> Result<ValueId, ModelError> {
        let Blocks { config, weights, .. } = *self.blocks;
        let linears = linears(config);
        let index = linears.iter().position(|linear| linear.module == module);
        let index = index.expect("a linear of a block");
        let Linear { in_features, out_features, bias, .. } = linears[index];
        let site = self.layer * SITES + index;
        let name = &self.blocks.infos[site].name;
        let weight = matrix(weights, &format!("{name}.weight"), out_features, in_features)?;
        let bias = match bias {
            true => Some(vector(weights, &format!("{name}.bias"), out_features, 0.0)?),
            false => None,
        };
        self.blocks.floats += bias.as_ref().map_or(0, |bias| bias.len());
        let adapter = self.blocks.adapter(site);
        let op = AdaptedLinear::new(weight, bias, adapter, site as u64);
        Ok(self.graph.push(op, &[x]))
    }
}
