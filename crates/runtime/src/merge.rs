//! An adapter folded into its base.
//!
//! A conversion streams the base's tensors; where one is adapted, its rows become those of the
//! adapted matrix on the way, a few at a time. Of the adapter, one site is held at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use lowtide_adapter::{Adapter, Config, FrozenLinear, Linear, Registry};
use lowtide_backend::{Backend, Req};
use lowtide_convert::{ChangeReport, Changes, ConvertError, Event, Kept, Kind, Report};
use lowtide_formats::Hyperparameters;
use lowtide_lora::QaLora;
use lowtide_memory::{Budget, ByCategory, Category, Ledger, ReserveError, Slab};
use lowtide_model::Site;
use lowtide_quant::QMat;
use lowtide_tensor::{MatMut, QUANTUM};
use serde::Serialize;

use crate::kinds::GROUP_SIZE;
use crate::{LoadedAdapter, OpenBase, RuntimeError};

/// Which adapter is to be folded into which base, and what is written.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeSettings {
    /// HF folder, `.gguf` file, or hub id.
    pub model: PathBuf,
    /// Adapter: a folder of PEFT or mlx-lm, or a GGUF file.
    pub adapter: PathBuf,
    /// What is written: a GGUF file if the name ends so, else an HF folder.
    pub output: PathBuf,
    /// The type of the weights. Without one, as [`lowtide_convert::Settings::kind`] says: a GGUF
    /// file keeps the type of every tensor, a folder gets the smallest float type that holds the
    /// base as it is.
    pub kind: Option<Kind>,
    /// Bytes that may be held.
    pub memory_budget: u64,
    /// Largest file of weights in a folder; above it they are cut into several.
    pub shard_bytes: u64,
    /// Whether an output that is there may be replaced.
    pub overwrite: bool,
}

impl Default for MergeSettings {
    fn default() -> Self {
        let lowtide_convert::Settings { memory_budget, shard_bytes, .. } = Default::default();
        Self {
            model: PathBuf::new(),
            adapter: PathBuf::new(),
            output: PathBuf::new(),
            kind: None,
            memory_budget,
            shard_bytes,
            overwrite: false,
        }
    }
}

/// What was written, and how much of the adapter is in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeReport {
    /// The conversion that it was.
    #[serde(flatten)]
    pub conversion: Report,
    /// Name of the adapter's method.
    pub method: String,
    /// Frobenius norm of the update over all matrices.
    pub update_norm: f64,
    /// What rounding added, over the size of the update, as [`Kept::error`].
    pub update_error: f64,
    /// The share of the update that is there after rounding, as [`Kept::survived`].
    pub update_survived: f64,
    /// Tensors of which only minima of blocks moved, so that codes and scales are the base's.
    pub minima_only: usize,
    /// The same as of the update for every tensor that is adapted.
    pub updates: Vec<ChangeReport>,
}

/// Folds an adapter into its base and writes the result, a row at a time within the budget.
///
/// # Errors
/// When a file is unsound, the adapter is of another base, its method is no change of a matrix, the
/// budget is too small, or the output cannot be written. Then nothing was written.
pub fn merge(
    settings: &MergeSettings,
    methods: &Registry<f32>,
    be: &dyn Backend<f32>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<MergeReport, RuntimeError> {
    let base = OpenBase::open(&settings.model)?.with_budget(Some(settings.memory_budget));
    let adapter = LoadedAdapter::open(&settings.adapter)?;
    let output = settings.output.canonicalize();
    if output.is_ok_and(|output| adapter.path().canonicalize().is_ok_and(|path| path == output)) {
        return Err(Box::new(ConvertError::OverInput { path: settings.output.clone() }).into());
    }
    let parts = Parts::new(&base, &adapter, methods)?;
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut folding = parts.reserve(be, &mut ledger)?;
    let own = ledger.live().held();
    if own < settings.memory_budget {
        // What cannot be read is told before anything is written.
        (0..folding.parts.sites.len()).try_for_each(|site| folding.look_at(site, &base))?;
    }
    let conversion = lowtide_convert::Settings {
        source: base.file().path().to_owned(),
        output: settings.output.clone(),
        kind: settings.kind,
        // A budget that holds nothing but the adapter is refused by the conversion.
        memory_budget: settings.memory_budget.saturating_sub(own),
        shard_bytes: settings.shard_bytes,
        overwrite: settings.overwrite,
    };
    let done = lowtide_convert::convert_changed(&conversion, &mut folding, tell);
    let (mut conversion, updates) = done.map_err(|error| match error {
        ConvertError::Budget { needed, .. } => {
            let (budget, needed) = (settings.memory_budget, needed + own);
            Box::new(ConvertError::Budget { budget, needed })
        }
        other => Box::new(other),
    })?;
    conversion.peak_bytes += own;
    let kept = updates.iter().fold(Kept::default(), |sum, update| sum.plus(update.kept));
    Ok(MergeReport {
        conversion,
        method: adapter.kind.clone(),
        update_norm: kept.update_norm(),
        update_error: kept.error(),
        update_survived: kept.survived(),
        minima_only: updates.iter().filter(|update| update.minima_only).count(),
        updates,
    })
}

/// A base and the adapters of its sites.
struct Parts<'a> {
    hyper: &'a Hyperparameters,
    loaded: &'a LoadedAdapter,
    sites: Vec<SitePart<'a>>,
    /// Which site a tensor belongs to.
    of_tensor: BTreeMap<String, usize>,
}

struct SitePart<'a> {
    site: Site,
    adapter: Box<dyn Adapter>,
    /// The same where its update is one number for each group of a row.
    grouped: Option<QaLora>,
    weight: QMat<'a>,
}

impl<'a> Parts<'a> {
    fn new(
        base: &'a OpenBase,
        loaded: &'a LoadedAdapter,
        methods: &Registry<f32>,
    ) -> Result<Self, RuntimeError> {
        // The model checks that the adapter is of this base.
        let model = base.build_adapted(methods, loaded)?;
        let method = methods.get(&loaded.kind)?;
        let mut parts = Self {
            hyper: base.file().hyper(),
            loaded,
            sites: Vec::with_capacity(model.sites.len()),
            of_tensor: BTreeMap::new(),
        };
        loaded.check_base(parts.hyper)?;
        loaded.check_projections(&model.sites)?;
        if let Some(site) = model.sites.iter().find(|site| !site.facts.mergeable) {
            return Err(parts.refuse(site));
        }
        let in_use = loaded.config_in_use();
        let config_of = |site: &Site| {
            let config = loaded.patterns.config_of(&site.info.name, &in_use);
            config.expect("a site that has an adapter")
        };
        let configs: Vec<Config> = model.sites.iter().map(config_of).collect();
        let asked: Vec<_> = model.sites.iter().map(|site| &site.info).zip(&configs).collect();
        let adapters = base.build_adapters(method, &asked)?;
        for ((site, adapter), config) in model.sites.into_iter().zip(adapters).zip(&configs) {
            let adapter = adapter.expect("a site that its method adapts");
            let grouped = grouped(loaded, &site, config);
            let name = format!("{}.weight", site.info.name);
            let weight = base.file().tensor(&name).and_then(|tensor| tensor.qmat().ok());
            let weight = weight.expect("a matrix that the model was built on");
            parts.of_tensor.insert(name, parts.sites.len());
            parts.sites.push(SitePart { site, adapter, grouped, weight });
        }
        Ok(parts)
    }

    fn refuse(&self, site: &Site) -> RuntimeError {
        let (path, module) = (self.loaded.path().to_owned(), site.info.name.clone());
        RuntimeError::NotMergeable { path, method: site.kind, module }
    }

    /// Reserves room for the largest site.
    fn reserve(
        self,
        be: &'a dyn Backend<f32>,
        ledger: &mut Ledger,
    ) -> Result<Folding<'a>, ReserveError> {
        let largest = |of: &dyn Fn(&SitePart<'_>) -> usize| {
            self.sites.iter().map(of).max().unwrap_or(0) * size_of::<f32>()
        };
        let params = largest(&|part| part.site.range.len());
        let fixed = largest(&|part| part.site.fixed.len());
        let scratch = largest(&|part| part.req(be).scratch);
        let library = self.sites.iter().map(|part| part.req(be).library_bytes).max().unwrap_or(0);
        let mut reserve =
            |category, bytes: usize| Slab::reserve(ledger, ByCategory::of(category, bytes as u64));
        let params = reserve(Category::Adapter, params)?;
        let fixed = reserve(Category::Adapter, fixed)?;
        let scratch = reserve(Category::Scratch, scratch)?;
        let held: usize = self.sites.iter().map(|part| part.adapter.held()).sum();
        let held = (held * size_of::<f32>()) as u64;
        let _held = ledger.charge(ByCategory::of(Category::Adapter, held))?;
        // What a library takes inside a call is held nowhere else.
        let _library = ledger.charge(ByCategory::of(Category::Scratch, library as u64))?;
        Ok(Folding { parts: self, be, params, fixed, scratch, held: None })
    }
}

/// QA-LoRA at a site, which the methods built there too, if it is the adapter's.
fn grouped(loaded: &LoadedAdapter, site: &Site, config: &Config) -> Option<QaLora> {
    if loaded.kind != QaLora::KIND {
        return None;
    }
    let given = config.options.get(GROUP_SIZE).and_then(|size| size.parse().ok());
    let size = given.unwrap_or(QaLora::GROUP_SIZE);
    QaLora::new(site.info.in_features, site.info.out_features, size, config).ok()
}

impl SitePart<'_> {
    fn base(&self) -> FrozenLinear<'_> {
        FrozenLinear::new(self.weight, None)
    }

    fn req(&self, be: &dyn Backend<f32>) -> Req {
        let base: &dyn Linear = &self.base();
        self.adapter.req(be, base, QUANTUM)
    }
}

/// The adapter as changes of the base's tensors.
struct Folding<'a> {
    parts: Parts<'a>,
    be: &'a dyn Backend<f32>,
    params: Slab,
    fixed: Slab,
    scratch: Slab,
    /// The site whose parameters are held.
    held: Option<usize>,
}

impl Folding<'_> {
    /// Reads the parameters of a site, and prepares what is derived from them.
    fn load(&mut self, site: usize) -> Result<(), RuntimeError> {
        if self.held == Some(site) {
            return Ok(());
        }
        let part = &self.parts.sites[site];
        let params: &mut [f32] = &mut self.params.get_mut()[..part.site.range.len()];
        let fixed: &mut [f32] = &mut self.fixed.get_mut()[..part.site.fixed.len()];
        let tensors = part.site.tensors_in(params, fixed);
        self.parts.loaded.fill_site(self.parts.hyper, &part.site, tensors)?;
        part.adapter.prepare(self.be, &part.base(), params, fixed, self.scratch.get_mut());
        self.held = Some(site);
        Ok(())
    }
}

impl Folding<'_> {
    /// Reads a site, and sees what it makes of the base's bias.
    fn look_at(&mut self, site: usize, base: &OpenBase) -> Result<(), RuntimeError> {
        self.load(site)?;
        let part = &self.parts.sites[site];
        let info = &part.site.info;
        let name = format!("{}.bias", info.name);
        let bias = base.file().tensor(&name).map(|tensor| tensor.to_f32_vec());
        let has_bias = bias.is_some();
        let before = bias.unwrap_or_else(|| vec![0.0; info.out_features]);
        let mut after = before.clone();
        part.merge_bias(&self.params, &self.fixed, 0..info.out_features, &mut after);
        match (after == before, has_bias) {
            (true, _) => Ok(()),
            (false, true) => {
                self.parts.of_tensor.insert(name, site);
                Ok(())
            }
            // A bias that the family does not have cannot be written.
            (false, false) => Err(self.parts.refuse(&part.site)),
        }
    }
}

impl SitePart<'_> {
    fn merge_bias(&self, params: &Slab, fixed: &Slab, rows: Range<usize>, out: &mut [f32]) {
        let params: &[f32] = &params.get()[..self.site.range.len()];
        let fixed: &[f32] = &fixed.get()[..self.site.fixed.len()];
        self.adapter.merge_bias(params, fixed, rows, out);
    }
}

impl Changes for Folding<'_> {
    fn touches(&self, tensor: &str) -> bool {
        self.parts.of_tensor.contains_key(tensor)
    }

    fn change(&mut self, tensor: &str, rows: Range<usize>, values: &mut [f32]) {
        let site = self.parts.of_tensor[tensor];
        self.load(site).expect("an adapter that was read whole before");
        let part = &self.parts.sites[site];
        if tensor.ends_with(".bias") {
            return part.merge_bias(&self.params, &self.fixed, rows, values);
        }
        let params = &self.params.get()[..part.site.range.len()];
        let fixed = &self.fixed.get()[..part.site.fixed.len()];
        let cols = part.weight.cols();
        for (i, values) in values.chunks_mut(QUANTUM * cols).enumerate() {
            let start = rows.start + i * QUANTUM;
            let count = values.len() / cols;
            let out = MatMut::new(values, count, cols);
            let scratch = self.scratch.get_mut();
            part.adapter
                .merge_rows(self.be, params, fixed, start..start + count, out, scratch)
                .expect("a method whose facts say that it can be merged");
        }
    }

    fn group(&self, tensor: &str) -> Option<usize> {
        let part = &self.parts.sites[*self.parts.of_tensor.get(tensor)?];
        part.grouped.as_ref().filter(|_| !tensor.ends_with(".bias")).map(QaLora::group_size)
    }

    fn shifts(&mut self, tensor: &str, rows: Range<usize>, out: &mut [f32]) {
        let site = self.parts.of_tensor[tensor];
        self.load(site).expect("an adapter that was read whole before");
        let part = &self.parts.sites[site];
        let grouped = part.grouped.as_ref().expect("a tensor that was said to change in groups");
        let params = &self.params.get()[..part.site.range.len()];
        let groups = grouped.groups();
        for (i, out) in out.chunks_mut(QUANTUM * groups).enumerate() {
            let (start, count) = (rows.start + i * QUANTUM, out.len() / groups);
            let out = MatMut::new(out, count, groups);
            let scratch = self.scratch.get_mut();
            grouped.group_corrections(self.be, params, start..start + count, out, scratch);
        }
    }
}
