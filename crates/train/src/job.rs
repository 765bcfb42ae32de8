//! A job: settings read, files opened, data counted, a plan chosen; nothing reserved.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;

use lowtide_adapter::{Config, Registry};
use lowtide_backend::Backend;
use lowtide_model::{Adaptation, Layers, Model, TargetModules};
use lowtide_optim::{AdamW, AdamW8, Optimizer, Sgd};
use lowtide_runtime::{LoadedAdapter, OpenBase, RuntimeError, WeightParts};
use lowtide_tape::Checkpointing;

use crate::metrics::by_name;
use crate::pace;
use crate::planner::{Candidate, choose};
use crate::prepare::limits_of;
use crate::room::{Allowed, Room, cache_bytes};
use crate::softmax::{Neighbours, Union};
use crate::{
    Clip, Gradient, Needs, PlanReport, Prepared, PreparedData, RunPlan, Settings, SettingsError,
    Softmax, StreamWeights, TrainError, Warning,
};

/// The inputs of a run, opened and understood.
pub(crate) struct Job<'s> {
    pub(crate) settings: &'s Settings,
    pub(crate) base: OpenBase,
    pub(crate) data: PreparedData,
    pub(crate) init_adapter: Option<LoadedAdapter>,
    pub(crate) optimizer: Box<dyn Optimizer>,
    pub(crate) config: Config,
    /// Where the weights lie.
    pub(crate) parts: WeightParts,
    targets: TargetModules,
    layers: Layers,
    candidates: Vec<Checkpointing>,
}

/// The chosen plan, and what to tell the user of it.
pub(crate) struct Planned {
    pub(crate) plan: RunPlan,
    pub(crate) clip: Clip,
    pub(crate) report: PlanReport,
}

impl<'s> Job<'s> {
    /// Opens everything that `settings` name, for a backend that does what they ask for.
    pub(crate) fn open(settings: &'s Settings, be: &dyn Backend<f32>) -> Result<Self, TrainError> {
        settings.check()?;
        settings.check_backend(be.caps().compute)?;
        let targets = settings.target_modules.parse()?;
        let layers = settings.layers.parse()?;
        let optimizer = optimizer(settings)?;
        let candidates = settings.candidates()?;
        let config = Config {
            rank: settings.rank,
            alpha: settings.alpha,
            dropout: settings.dropout,
            use_rslora: settings.use_rslora,
        };
        check_output(&settings.output)?;
        let base = OpenBase::open(&settings.model)?.with_window(settings.sliding_window)?;
        let init_adapter = settings.init_adapter.as_deref().map(LoadedAdapter::open).transpose()?;
        if let Some(adapter) = &init_adapter {
            check_start(adapter, &config)?;
        }
        let prepared = Prepared {
            max_seq_len: settings.max_seq_len,
            mask_prompt: settings.mask_prompt,
            val_split: settings.val_split,
            packing: settings.packing,
            seed: settings.seed,
        };
        let data = prepared.for_training(&base, &settings.data)?;
        let parts = WeightParts::of(&base);
        let job = Self {
            settings,
            base,
            data,
            init_adapter,
            optimizer,
            config,
            parts,
            targets,
            layers,
            candidates,
        };
        Ok(job)
    }

    /// Builds the model with its adapters.
    pub(crate) fn build<'j>(
        &'j self,
        methods: &'j Registry<f32>,
    ) -> Result<Model<'j, f32>, TrainError> {
        let method = methods.get(&self.settings.method)?;
        let (config, targets, layers) = (&self.config, &self.targets, &self.layers);
        Ok(self.base.build(Some(Adaptation { method, config, targets, layers }))?)
    }

    /// Updates of one pass over the data.
    pub(crate) fn steps_per_epoch(&self) -> u64 {
        let per_update = self.settings.batch_size * self.settings.grad_accum;
        self.data.train.len().div_ceil(per_update) as u64
    }

    /// Updates of the run.
    pub(crate) fn steps(&self) -> u64 {
        let epochs = self.settings.epochs;
        self.settings.max_steps.unwrap_or(epochs.saturating_mul(self.steps_per_epoch()))
    }

    /// Finds the neighbours of all targets, where the softmax of training runs over those only;
    /// `tell` hears how many targets are done, of how many.
    pub(crate) fn neighbours(
        &self,
        model: &Model<'_, f32>,
        be: &dyn Backend<f32>,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<Neighbours>, TrainError> {
        let Softmax::Union(count) = Softmax::named(&self.settings.softmax)? else {
            return Ok(None);
        };
        let (head, data, folder) =
            (model.program.head.weight, &self.data.train, self.settings.scratch_dir());
        let found = Neighbours::find(head, be, data, count, &folder, tell)?;
        // What the search took would otherwise stay with the allocator and count as held.
        lowtide_memory::release_free_heap();
        Ok(Some(found))
    }

    /// Chooses a plan within the budget.
    pub(crate) fn plan(
        &self,
        model: &Model<'_, f32>,
        be: &dyn Backend<f32>,
        threads: usize,
        neighbours: Option<&Neighbours>,
    ) -> Result<Planned, TrainError> {
        let settings = self.settings;
        let room = Room::now();
        let allowed = Allowed::of(settings.budget()?, &room, cache_bytes(&self.parts));
        let trained = model.tensors_per_segment().iter().filter(|&&tensors| tensors > 0).count();
        let gradient = settings.gradient_for(trained)?;
        let (budget, needs) = (allowed.bytes, Needs { gradient, ..self.needs()? });
        let optimizer = self.optimizer.as_ref();
        let words = neighbours.map(|n| n.words_max(&self.data.train, settings.batch_size));
        let words = words.transpose()?;
        let union = neighbours.zip(words).map(|(neighbours, words)| {
            let head = model.program.head.weight;
            Union::bytes(neighbours, head, words, needs.limits.labelled)
        });
        let union = union.unwrap_or_default();
        let (chosen, rows) = choose(self.ways()?, budget, |way: Candidate| {
            let needs = Needs { apply_and_free: way.clipping.frees(settings.grad_accum), ..needs };
            RunPlan { union, ..RunPlan::new(model, be, optimizer, needs, way.checkpointing) }
        });
        let leanest = rows.iter().min_by_key(|row| row.peak_bytes).cloned();
        let (smallest, leanest) =
            leanest.map_or((0, String::new()), |row| (row.peak_bytes, row.policy));
        let Some((way, plan)) = chosen else {
            let budget = budget.unwrap_or(0);
            let from = allowed.source;
            return Err(TrainError::NoPlanFits { budget, smallest, policy: leanest, from });
        };
        let mapped_bytes = self.base.file().file_bytes();
        let streamed = StreamWeights::named(&settings.stream_weights)?;
        let streamed_bytes = streamed.room_for(&self.parts, &room, plan.bytes().held());
        let steps = way.clipping.passes() * settings.grad_accum as u64;
        let seconds = plan.exec.work() as f64 / pace::work_per_second(be);
        let report = PlanReport {
            model: settings.model.clone(),
            architecture: self.base.file().hyper().architecture.clone(),
            method: settings.method.clone(),
            sites: model.sites.len(),
            trainable_parameters: plan.parameters,
            optimizer: optimizer.name().into(),
            gradient: gradient.name(),
            approximation: gradient.is_approximate().then(|| gradient.to_string()),
            policy: plan.policy(),
            store: plan.exec.checkpointing().store.name(),
            tile_rows: plan.exec.checkpointing().tile.map(NonZeroUsize::get),
            apply_and_free: plan.needs.apply_and_free,
            clipping: way.clipping.name(),
            steps: self.steps(),
            tokens_max: needs.limits.tokens,
            labelled_max: needs.limits.labelled,
            seconds_per_update: steps as f64 * seconds,
            disk_bytes_per_update: steps
                * pace::disk_bytes(&plan.exec, mapped_bytes, streamed_bytes),
            planned_peak_bytes: plan.bytes().held(),
            peak_by_category: by_name(plan.bytes()),
            mapped_bytes,
            memory_budget: budget,
            budget_source: allowed.source,
            streamed_bytes,
            smallest_budget: smallest,
            alternatives: rows,
            backend: format!("{}/{}", be.name(), be.caps().isa),
            precision: settings.precision()?.name(),
            compute: be.caps().compute,
            softmax: settings.softmax.clone(),
            sliding_window: settings.sliding_window,
            union: neighbours.zip(words).map(|(n, w)| n.report(w, union.head + union.data)),
            threads,
            warnings: Warning::all(
                settings,
                self.steps(),
                self.data.valid_file.as_ref(),
                self.data.valid.is_some(),
            ),
        };
        let clip = way.clipping.clip(settings.max_grad_norm);
        Ok(Planned { plan, clip, report })
    }

    /// Everything worth planning, fastest first. What computes a step twice comes last.
    fn ways(&self) -> Result<impl Iterator<Item = Candidate>, SettingsError> {
        let all = |clipping| {
            let way = move |&checkpointing| Candidate { checkpointing, clipping };
            self.candidates.iter().map(way)
        };
        Ok(self.settings.clippings()?.into_iter().flat_map(all))
    }

    /// What every plan has to have room for, gradients aside.
    fn needs(&self) -> Result<Needs, TrainError> {
        let settings = self.settings;
        let datasets = || [Some(&self.data.train), self.data.valid.as_ref()].into_iter().flatten();
        Ok(Needs {
            limits: limits_of(datasets(), settings.batch_size)?,
            longest: datasets().map(|data| data.stats().longest).max().unwrap_or(0),
            data_bytes: datasets().map(|data| data.heap_bytes() as u64).sum(),
            apply_and_free: false,
            train: true,
            gradient: Gradient::Backprop,
        })
    }
}

fn optimizer(settings: &Settings) -> Result<Box<dyn Optimizer>, SettingsError> {
    let weight_decay = settings.weight_decay;
    let adamw = AdamW { weight_decay, ..AdamW::default() };
    match settings.optimizer.as_str() {
        "adamw" => Ok(Box::new(adamw)),
        "adamw8bit" => Ok(Box::new(AdamW8(adamw))),
        "sgd" => Ok(Box::new(Sgd { weight_decay })),
        other => Err(SettingsError::BadValue {
            field: "optimizer",
            found: other.into(),
            expected: "adamw, adamw8bit or sgd",
        }),
    }
}

/// Refuses to go on with an adapter at another scale: the same numbers would mean another change of
/// the base.
fn check_start(adapter: &LoadedAdapter, config: &Config) -> Result<(), RuntimeError> {
    let told = |c: &Config| {
        let flag = if c.use_rslora { " --use-rslora" } else { "" };
        format!("--rank {} --alpha {}{flag}", c.rank, c.alpha)
    };
    let (own, asked) = (told(&adapter.config), told(config));
    if own == asked {
        return Ok(());
    }
    let reason = format!("it was trained with {own}, and this run has {asked}: give its own");
    Err(RuntimeError::Adapter { path: adapter.path().to_owned(), reason })
}

/// Refuses an output folder that cannot be written, before any work is done. Leaves no trace.
fn check_output(output: &Path) -> Result<(), TrainError> {
    let refuse = |source| TrainError::Output { path: output.to_owned(), source };
    let there = output.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    if !there.is_dir() {
        return Err(refuse(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    tempfile::tempfile_in(there).map(drop).map_err(refuse)
}
