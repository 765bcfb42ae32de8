//! A job: settings read, files opened, data counted, a plan chosen; nothing reserved.

mod adapted;
mod choice;

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;

use lowtide_adapter::{Config, Method, Registry};
use lowtide_backend::Backend;
use lowtide_formats::peft::QUANTIZE;
use lowtide_model::{Adaptation, Layers, Model, SitePatterns, TargetModules};
use lowtide_optim::Optimizer;
use lowtide_quant::LineCodes;
use lowtide_runtime::{
    LoadedAdapter, OpenBase, RuntimeError, WeightParts, codes_in_training, same_tensors,
};
use lowtide_tape::Checkpointing;

use self::adapted::Adapted;
use self::choice::Choice;
use crate::adapter_io::saved_bytes;
use crate::batches::Batches;
use crate::metrics::by_name;
use crate::pace;
use crate::place::{folder_of, nearest};
use crate::room::{Allowed, Room, cache_bytes};
use crate::sensitivity::{self, Chosen};
use crate::softmax::Neighbours;
use crate::update_rule::UpdateRule;
use crate::{
    AdaptiveRank, Clip, PlanReport, Prepared, PreparedData, RunPlan, SavedRun, SensitivityReport,
    Settings, SettingsError, Softmax, StreamWeights, TrainError, Warning,
};

/// The inputs of a run, opened and understood.
pub(crate) struct Job<'s> {
    pub(crate) settings: &'s Settings,
    pub(crate) base: OpenBase,
    pub(crate) data: PreparedData,
    /// None where a run goes on, which had it at its start.
    pub(crate) init_adapter: Option<LoadedAdapter>,
    /// The save that it goes on from.
    pub(crate) resumed: Option<SavedRun>,
    /// What the planner may choose among, the most exact first.
    pub(crate) optimizers: Vec<Box<dyn Optimizer>>,
    /// What makes them.
    pub(crate) rule: UpdateRule,
    pub(crate) config: Config,
    /// What sites have of their own, be it by the settings or by the adapter to start from.
    pub(crate) patterns: SitePatterns,
    /// How the ranks were chosen, where an adapter's budget did.
    pub(crate) sensitivity: Option<SensitivityReport>,
    /// Where the weights lie.
    pub(crate) parts: WeightParts,
    /// As the settings or the method have them.
    pub(crate) target_modules: String,
    targets: TargetModules,
    layers: Layers,
    candidates: Vec<Checkpointing>,
    /// Whether the method can be trained in codes.
    can_be_coded: bool,
}

/// The chosen plan, and what to tell the user of it.
pub(crate) struct Planned<'j> {
    pub(crate) plan: RunPlan,
    pub(crate) clip: Clip,
    pub(crate) optimizer: &'j dyn Optimizer,
    pub(crate) report: PlanReport,
}

impl<'s> Job<'s> {
    /// Opens everything that `settings` name, for a backend that does what they ask for.
    pub(crate) fn open(
        settings: &'s Settings,
        methods: &Registry<f32>,
        be: &dyn Backend<f32>,
    ) -> Result<Self, TrainError> {
        settings.check()?;
        settings.check_backend(be.caps().compute)?;
        let method = methods.get(&settings.method)?;
        let resumed = settings.resume.as_deref().map(SavedRun::open).transpose()?;
        if let Some(run) = &resumed {
            run.check_early(settings)?;
        }
        let init_adapter = settings.init_adapter.as_deref().filter(|_| resumed.is_none());
        let init_adapter = init_adapter.map(LoadedAdapter::open).transpose()?;
        let target_modules = match (settings.target_modules.as_str(), &init_adapter) {
            ("auto", Some(adapter)) => adapter.modules.join(","),
            ("auto", None) => method.default_targets().to_owned(),
            (given, _) => given.to_owned(),
        };
        let targets = target_modules.parse()?;
        let layers = settings.layers.parse()?;
        let (rule, names) = UpdateRule::of(settings)?;
        let optimizers = names.into_iter().map(|name| rule.optimizer(name)).collect();
        let candidates = settings.candidates()?;
        let mut config = Config {
            rank: settings.rank,
            alpha: settings.alpha,
            dropout: settings.dropout,
            use_rslora: settings.use_rslora,
            options: settings.method_option.clone(),
        };
        check_output(&settings.output)?;
        settings.tensorboard.as_deref().map_or(Ok(()), check_output)?;
        settings.trace.as_deref().map_or(Ok(()), check_file)?;
        let base = OpenBase::open(&settings.model)?.with_window(settings.sliding_window)?;
        let base = base.with_budget(settings.budget()?);
        let mut patterns = settings.patterns()?;
        if let Some(adapter) = &init_adapter {
            if patterns.is_empty() {
                patterns = adapter.patterns.clone();
            }
            check_start(adapter, &settings.method, &config, &patterns)?;
            take_options(adapter, method, &mut config)?;
        }
        settings.adapter_type()?.check(codes_in_training(&settings.method, &config))?;
        let adaptation = Adaptation {
            method,
            config: &config,
            patterns: &patterns,
            targets: &targets,
            layers: &layers,
        };
        let init = init_adapter.as_ref();
        Adapted { settings, base: &base, init_adapter: init, adaptation }.check()?;
        let prepared = prepared(settings, method.needs_prompts(&config));
        let data = prepared.for_training(&base, &settings.data)?;
        let parts = WeightParts::of(&base);
        let job = Self {
            settings,
            base,
            data,
            init_adapter,
            resumed,
            optimizers,
            rule,
            config,
            patterns,
            sensitivity: None,
            parts,
            target_modules,
            targets,
            layers,
            candidates,
            can_be_coded: method.options().contains(&QUANTIZE),
        };
        Ok(job)
    }

    /// Builds the model with its adapters, which can be saved as the settings say.
    pub(crate) fn build<'j>(
        &'j self,
        methods: &'j Registry<f32>,
    ) -> Result<Model<'j, f32>, TrainError> {
        let method = methods.get(&self.settings.method)?;
        let Self { config, patterns, targets, layers, .. } = self;
        let adaptation = Adaptation { method, config, patterns, targets, layers };
        let init_adapter = self.init_adapter.as_ref();
        Adapted { settings: self.settings, base: &self.base, init_adapter, adaptation }.build()
    }

    /// Chooses the ranks of sites for the adapter's budget, if there is one; `tell` hears how many
    /// batches are probed, of how many.
    pub(crate) fn settle_ranks(
        &mut self,
        methods: &Registry<f32>,
        be: &dyn Backend<f32>,
        tell: &mut dyn FnMut(usize, usize),
    ) -> Result<(), TrainError> {
        let Some(budget) = self.settings.adapter_bytes()? else { return Ok(()) };
        let mut probed = {
            let model = self.build(methods)?;
            sensitivity::probe(self, &model, be, tell)?
        };
        // What probing took would otherwise stay with the allocator, beside what is planned.
        lowtide_memory::release_free_heap();
        let r#type = self.settings.adapter_type()?;
        let rank = self.config.rank;
        let Chosen { report, patterns } = sensitivity::within(&probed.sites, budget, r#type, rank)?;
        let ranks = patterns.iter().map(|(key, rank)| (key.as_str(), *rank));
        self.patterns = SitePatterns::new(ranks, self.settings.alpha_pattern.iter())?;
        probed.budget = Some(report);
        self.sensitivity = Some(probed);
        Ok(())
    }

    /// The codes that the adapter is trained in, if it is.
    pub(crate) fn codes(&self) -> Option<LineCodes> {
        codes_in_training(&self.settings.method, &self.config)
    }

    /// Updates of one pass over the data.
    pub(crate) fn steps_per_epoch(&self) -> u64 {
        self.data.train.len().div_ceil(self.settings.per_update()) as u64
    }

    /// Which sequences an update takes.
    pub(crate) fn batches(&self) -> Batches<'_> {
        let Settings { seed, group_by_length, .. } = *self.settings;
        Batches::new(&self.data.train, seed, self.settings.per_update(), group_by_length)
    }

    /// Bytes that [`batches`](Self::batches) hold.
    fn batches_bytes(&self) -> u64 {
        let Settings { group_by_length, .. } = *self.settings;
        Batches::bytes(self.data.train.len(), self.settings.per_update(), group_by_length)
    }

    /// Updates of the run.
    pub(crate) fn steps(&self) -> u64 {
        let epochs = self.settings.epochs;
        self.settings.max_steps.unwrap_or(epochs.saturating_mul(self.steps_per_epoch()))
    }

    /// How many pairs of low rank are trained, where that changes on the way.
    pub(crate) fn adaptive_rank(
        &self,
        model: &Model<'_, f32>,
    ) -> Result<Option<AdaptiveRank>, SettingsError> {
        AdaptiveRank::of(self.settings, &model.sites, self.steps())
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

    fn warnings(&self) -> Result<Vec<Warning>, TrainError> {
        let (file, held_out) = (self.data.valid_file.as_ref(), self.data.valid.is_some());
        let mut warnings =
            Warning::all(self.settings, &self.config.options, self.steps(), file, held_out);
        if let (Some(codes), None) = (self.settings.adapter_type()?.codes(), self.codes()) {
            let (codes, has_option) = (codes.name(), self.can_be_coded);
            warnings.push(Warning::RoundedAtTheEnd { codes, has_option });
        }
        Ok(warnings)
    }

    /// Chooses a plan within the budget.
    pub(crate) fn plan(
        &self,
        model: &Model<'_, f32>,
        be: &dyn Backend<f32>,
        threads: usize,
        neighbours: Option<&Neighbours>,
    ) -> Result<Planned<'_>, TrainError> {
        let settings = self.settings;
        settings.groups(&model.sites)?;
        let room = Room::now();
        let allowed = Allowed::of(settings.budget()?, &room, cache_bytes(&self.parts));
        let (choice, smallest_budget) = self.choose(model, be, &allowed, neighbours)?;
        let Choice { way, plan, optimizer, found, words, rows } = choice;
        let (union, gradient) = (plan.union, plan.needs.gradient);
        let mapped_bytes = self.base.file().file_bytes();
        let streamed = StreamWeights::named(&settings.stream_weights)?;
        let streamed_bytes = streamed.room_for(&self.parts, &room, plan.bytes().held());
        let micro_batches = settings.per_update().div_ceil(way.micro_batch) as u64;
        let steps = way.passes() * micro_batches;
        let work = plan.exec.update_work(steps);
        let (clip, checkpointing) =
            (way.clipping.clip(settings.max_grad_norm), plan.exec.checkpointing());
        let (adaptive_rank, r#type) = (self.adaptive_rank(model)?, settings.adapter_type()?);
        let report = PlanReport {
            model: settings.model.clone(),
            architecture: self.base.file().hyper().architecture.clone(),
            method: settings.method.clone(),
            sites: model.sites.len(),
            trainable_parameters: plan.parameters,
            adapter_bytes: saved_bytes(&model.sites, adaptive_rank, r#type),
            adaptive_rank,
            adapter_type: settings.adapter_type.clone(),
            param_dtype: settings.param_dtype.clone(),
            sensitivity: self.sensitivity.clone(),
            optimizer: optimizer.name().into(),
            optimizer_states: if plan.state_words_filed > 0 { "file" } else { "ram" },
            sparse_updates: settings.sparse_updates.clone(),
            gradient: gradient.name(),
            approximation: gradient.is_approximate().then(|| gradient.to_string()),
            policy: plan.policy(),
            store: checkpointing.store.name(),
            tile_rows: checkpointing.tile.map(NonZeroUsize::get),
            apply_and_free: plan.needs.apply_and_free,
            clipping: way.clipping.name(),
            steps: self.steps(),
            sequences_per_update: settings.per_update(),
            batch_size: settings.batch_size,
            micro_batch: way.micro_batch,
            tokens_max: plan.needs.limits.tokens,
            labelled_max: plan.needs.limits.labelled,
            worst_case: found.into(),
            seconds_per_update: work as f64 / pace::work_per_second(be),
            duty: settings.duty,
            work_per_update: work,
            disk_bytes_per_update: plan.state_traffic()
                + steps * pace::disk_bytes(&plan.exec, mapped_bytes, streamed_bytes),
            planned_peak_bytes: plan.bytes().held(),
            peak_by_category: by_name(plan.bytes()),
            arena_bytes: plan.exec.arena_bytes(),
            packing_overhead: plan.exec.packing_overhead(),
            mapped_bytes,
            memory_budget: allowed.bytes,
            budget_source: allowed.source,
            streamed_bytes,
            smallest_budget,
            alternatives: rows,
            backend: format!("{}/{}", be.name(), be.caps().isa),
            precision: settings.precision()?.name(),
            compute: be.caps().compute,
            softmax: settings.softmax.clone(),
            sliding_window: settings.sliding_window,
            union: neighbours.zip(words).map(|(n, w)| n.report(w, union.head + union.data)),
            threads,
            warnings: self.warnings()?,
        };
        tracing::debug!(
            policy = report.policy,
            store = report.store,
            tile_rows = report.tile_rows,
            clipping = report.clipping,
            bytes = report.planned_peak_bytes,
            "plan chosen"
        );
        Ok(Planned { plan, clip, optimizer, report })
    }
}

/// How the data of a run is read.
fn prepared(settings: &Settings, needs_prompt: bool) -> Prepared {
    Prepared {
        max_seq_len: settings.max_seq_len,
        mask_prompt: settings.mask_prompt,
        needs_prompt,
        val_split: settings.val_split,
        packing: settings.packing,
        seed: settings.seed,
    }
}

/// Refuses to go on with an adapter of another method or at another scale: the same numbers would
/// mean another change of the base.
fn check_start(
    adapter: &LoadedAdapter,
    method: &str,
    config: &Config,
    patterns: &SitePatterns,
) -> Result<(), RuntimeError> {
    let refuse = |reason| Err(RuntimeError::Adapter { path: adapter.path().to_owned(), reason });
    if !same_tensors(&adapter.kind, method) {
        let own = &adapter.kind;
        return refuse(format!(
            "it is of method {own}, and this run has --method {method}: give its own"
        ));
    }
    // What PEFT's files of a method do not say, the method does not read.
    let (ranked, scaled) = (method != "ia3", method != "ia3" && method != "vera");
    let told = |c: &Config, stable: bool| match scaled {
        true if stable => format!("--rank {} --alpha {} --use-rslora", c.rank, c.alpha),
        true => format!("--rank {} --alpha {}", c.rank, c.alpha),
        false => format!("--rank {}", c.rank),
    };
    let own = |c: &Config| told(c, c.use_rslora);
    let asked = |c: &Config| told(c, c.use_rslora || method == "rslora");
    let (own_all, asked_all) = (own(&adapter.config), asked(config));
    if ranked && own_all != asked_all {
        return refuse(format!(
            "it was trained with {own_all}, and this run has {asked_all}: give its own"
        ));
    }
    for module in adapter.modules.iter().filter(|_| ranked) {
        let none = || "--rank 0".to_owned();
        let theirs = adapter.patterns.config_of(module, &adapter.config);
        let own = theirs.map_or_else(none, |c| own(&c));
        let asked = patterns.config_of(module, config).map_or_else(none, |c| asked(&c));
        if own != asked {
            return refuse(format!(
                "`{module}` was trained with {own}, and this run's patterns give it {asked}: \
                 leave them out, and the adapter's own hold"
            ));
        }
    }
    Ok(())
}

/// Takes over the options that an adapter to start from was trained with and the run leaves open.
/// One that it was trained without had its default, and another value is another function of the
/// same tensors as a rule; only coding may begin later.
fn take_options(
    adapter: &LoadedAdapter,
    method: &dyn Method<f32>,
    config: &mut Config,
) -> Result<(), RuntimeError> {
    let usual = |name: &str, value: &str| method.default_option(name) == Some(value);
    let mut new = config.options.iter().filter(|(name, value)| {
        *name != QUANTIZE && !adapter.config.options.contains_key(*name) && !usual(name, value)
    });
    if let Some((name, _)) = new.next() {
        let reason = format!(
            "it was trained with the usual `{name}`, and this run gives another: leave it out"
        );
        return Err(RuntimeError::Adapter { path: adapter.path().to_owned(), reason });
    }
    for (name, own) in &adapter.config.options {
        let asked = config.options.entry(name.clone()).or_insert_with(|| own.clone());
        if asked != own {
            let reason = format!(
                "it was trained with `{name}` = `{own}`, and this run has `{asked}`: leave it out, \
                 and the adapter's own holds"
            );
            return Err(RuntimeError::Adapter { path: adapter.path().to_owned(), reason });
        }
    }
    Ok(())
}

/// Refuses a file that cannot be written, in a folder that may have to be made. Leaves no trace.
fn check_file(path: &Path) -> Result<(), TrainError> {
    let refuse = |source| TrainError::Output { path: path.to_owned(), source };
    if path.is_dir() {
        return Err(refuse(io::ErrorKind::IsADirectory.into()));
    }
    check_output(folder_of(path)).map_err(|error| match error {
        TrainError::Output { source, .. } => refuse(source),
        error => error,
    })
}

/// Refuses an output folder that cannot be written, before any work is done. Leaves no trace.
fn check_output(output: &Path) -> Result<(), TrainError> {
    let refuse = |source| TrainError::Output { path: output.to_owned(), source };
    let there = nearest(output);
    if !there.is_dir() {
        return Err(refuse(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    tempfile::tempfile_in(there).map(drop).map_err(refuse)
}
