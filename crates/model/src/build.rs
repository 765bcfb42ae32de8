//! From a configuration and weights to a program: embedding, blocks, head.

use alloc::vec::Vec;
use core::ops::Range;

use lowtide_adapter::{Config as AdapterConfig, Facts, Method, ParamSpec, SiteInfo};
use lowtide_tape::{Embedding, LossHead, Program};
use lowtide_tensor::Float;

use crate::block::Blocks;
use crate::weights::{matrix, vector};
use crate::{Config, Layers, ModelError, SitePatterns, TargetModules, Weights};

/// Which sites get which adapter.
#[derive(Clone, Copy)]
pub struct Adaptation<'a, F: Float> {
    /// Builds the adapters.
    pub method: &'a dyn Method<F>,
    /// What the method is told.
    pub config: &'a AdapterConfig,
    /// What it is told otherwise at some sites.
    pub patterns: &'a SitePatterns,
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
    /// What the method says of itself.
    pub facts: Facts,
    /// The trainable tensors, in order.
    pub params: Vec<ParamSpec>,
    /// Where they lie in the adapter slab.
    pub range: Range<usize>,
    /// Tensors that go with them and are not trained.
    pub frozen: Vec<ParamSpec>,
    /// Where these and what is derived from parameters lie in the slab of such values, the frozen
    /// tensors first.
    pub fixed: Range<usize>,
    /// Floats that it keeps of a sequence that is being decoded.
    pub state: usize,
}

/// The values of all sites' tensors, as the sites' ranges divide them.
#[derive(Debug)]
pub struct SiteValues<'a> {
    /// What is trained.
    pub params: &'a mut [f32],
    /// What goes with it and is not: frozen tensors, and room for what is derived.
    pub fixed: &'a mut [f32],
}

impl<'a> From<&'a mut [f32]> for SiteValues<'a> {
    /// Values of methods that have parameters only.
    fn from(params: &'a mut [f32]) -> Self {
        Self { params, fixed: &mut [] }
    }
}

impl Site {
    /// Its tensors with their values: those that are trained, then the frozen ones.
    pub fn tensors<'v>(
        &self,
        values: &'v mut SiteValues<'_>,
    ) -> impl Iterator<Item = (&ParamSpec, &'v mut [f32])> {
        let SiteValues { params, fixed } = values;
        let at = if self.frozen.is_empty() { 0..0 } else { self.fixed.clone() };
        self.tensors_in(&mut params[self.range.clone()], &mut fixed[at])
    }

    /// The same, where the values are this site's alone.
    pub fn tensors_in<'v>(
        &self,
        params: &'v mut [f32],
        fixed: &'v mut [f32],
    ) -> impl Iterator<Item = (&ParamSpec, &'v mut [f32])> {
        cut(&self.params, params).chain(cut(&self.frozen, fixed))
    }
}

/// Each tensor with its piece of the values, which lie one behind the other.
fn cut<'s, 'v>(
    specs: &'s [ParamSpec],
    mut rest: &'v mut [f32],
) -> impl Iterator<Item = (&'s ParamSpec, &'v mut [f32])> + use<'s, 'v> {
    specs.iter().map(move |spec| {
        let (piece, after) = core::mem::take(&mut rest).split_at_mut(spec.len());
        rest = after;
        (spec, piece)
    })
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
    let mut blocks = Blocks::new(config, weights, adaptation)?;
    let table = matrix(weights, "model.embed_tokens.weight", vocab, hidden)?;
    let segments = (0..config.num_hidden_layers)
        .map(|layer| blocks.segment(layer))
        .collect::<Result<Vec<_>, _>>()?;
    let norm = vector(weights, "model.norm.weight", hidden, config.norm_offset)?;
    let weight = match config.tie_word_embeddings {
        true => table,
        false => matrix(weights, "lm_head.weight", vocab, hidden)?,
    };
    let head = LossHead { norm, eps: F::from_f32(config.rms_norm_eps), weight };
    let embedding = Embedding { table, scale: F::from_f32(config.embedding_scale) };
    let resident_bytes = ((blocks.floats + hidden) * size_of::<F>()) as u64;
    let program = Program { embedding, segments, head };
    Ok(Model { program, sites: blocks.sites, resident_bytes })
}
