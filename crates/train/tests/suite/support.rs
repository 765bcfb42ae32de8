//! What the tests share: tiny bases, data files, and a trainer for a choice of settings.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use lowtide_adapter::Config;
use lowtide_backend::Backend;
use lowtide_data::Dataset;
use lowtide_kernels::Kernels;
use lowtide_memory::{Budget, Ledger};
use lowtide_model::{Adaptation, Layers, Model, SitePatterns, TargetModules};
use lowtide_ndarray::NdArray;
use lowtide_optim::{AdamW, Optimizer, StepHyper};
use lowtide_simd::Simd;
use lowtide_tape::{Checkpointing, Limits, Policy, Store};
use lowtide_testkit::rng::Rng;
use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};
use lowtide_train::{
    AdaptiveRank, Clip, Gradient, Needs, OpenBase, Prepared, RunPlan, Settings, Trainer, Update,
    registry,
};

/// Tokens that every tiny base here knows.
pub(crate) const VOCAB: usize = 256;

/// Options of a method.
type Options = &'static [(&'static str, &'static str)];

/// Every method but plain LoRA, with which options, and the dropout.
pub(crate) const METHODS: [(&str, Options, f64); 14] = [
    ("rslora", &[], 0.0),
    ("lora-fa", &[], 0.2),
    ("dora", &[], 0.0),
    ("dora", &[], 0.2),
    ("vera", &[("projection_prng_key", "3")], 0.2),
    ("qalora", &[("group_size", "4")], 0.2),
    ("lora", &[("quantize", "int8")], 0.0),
    ("dora", &[("quantize", "int4")], 0.0),
    ("ia3", &[], 0.0),
    ("bottleneck", &[], 0.0),
    ("lars", &[], 0.2),
    ("lars", &[("pool", "chunk"), ("chunk", "8")], 0.2),
    ("lars", &[("pool", "learned")], 0.0),
    ("lars", &[("pool", "gate")], 0.0),
];

/// A folder that goes away with the test: a tiny base and data for it.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    /// With a base of the given shape in `base`.
    pub(crate) fn new(shape: &TinyLlama) -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        tiny_llama_folder(&home.base(), shape);
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.path("base")
    }

    /// A data file of examples with these numbers of tokens.
    pub(crate) fn data(&self, lengths: &[usize]) -> PathBuf {
        let path = self.path("data.jsonl");
        write_data(&path, lengths);
        path
    }

    /// Settings of a short run on this base with these examples, written to `adapter`.
    pub(crate) fn settings(&self, lengths: &[usize]) -> Settings {
        Settings {
            model: self.base(),
            data: self.data(lengths),
            output: self.path("adapter"),
            max_steps: Some(2),
            lr: 1e-3,
            ..Settings::default()
        }
    }
}

/// Examples of these numbers of tokens; the first third of each carries no loss.
pub(crate) fn write_data(path: &Path, lengths: &[usize]) {
    let mut text = String::new();
    for (i, &tokens) in lengths.iter().enumerate() {
        let mut rng = Rng::new(i as u64);
        let ids: Vec<i64> = (0..tokens).map(|_| 3 + rng.below(VOCAB - 3) as i64).collect();
        let prompt = tokens / 3;
        let labels: Vec<i64> =
            ids.iter().enumerate().map(|(t, id)| if t < prompt { -100 } else { *id }).collect();
        let line = serde_json::json!({ "input_ids": ids, "labels": labels });
        writeln!(text, "{line}").unwrap();
    }
    std::fs::write(path, text).unwrap();
}

pub(crate) fn dataset(base: &OpenBase, path: &Path) -> Dataset {
    let prepared = Prepared {
        max_seq_len: 4096,
        mask_prompt: true,
        needs_prompt: false,
        val_split: 0.0,
        packing: false,
        seed: 0,
    };
    prepared.for_training(base, path).unwrap().train
}

/// Limits that any batch of `sequences` sequences keeps.
pub(crate) fn limits(data: &Dataset, sequences: usize) -> Limits {
    let mut most = Limits { tokens: 0, sequences: 0, labelled: 0 };
    for sequence in (0..data.len()).map(|index| data.sequence(index).unwrap()) {
        most.tokens = most.tokens.max(sequence.tokens);
        most.sequences = most.sequences.max(sequence.examples);
        most.labelled = most.labelled.max(sequence.labelled);
    }
    Limits {
        tokens: most.tokens * sequences,
        sequences: most.sequences * sequences,
        labelled: most.labelled * sequences,
    }
}

/// How to train.
pub(crate) struct Setup<'s> {
    pub(crate) be: &'s dyn Backend<f32>,
    pub(crate) optimizer: &'s dyn Optimizer,
    pub(crate) policy: Policy,
    pub(crate) store: Store,
    pub(crate) tile: Option<NonZeroUsize>,
    pub(crate) method: &'s str,
    pub(crate) options: &'s [(&'s str, &'s str)],
    pub(crate) rank: usize,
    pub(crate) dropout: f64,
    pub(crate) targets: &'s str,
    pub(crate) layers: &'s str,
    /// Sequences in a micro-batch.
    pub(crate) sequences: usize,
    /// Micro-batches in an update.
    pub(crate) accum: usize,
    pub(crate) apply_and_free: bool,
    pub(crate) clip: Clip,
    pub(crate) seed: u64,
    pub(crate) gradient: Gradient,
    pub(crate) adaptive: Option<AdaptiveRank>,
    /// Parameters in bf16.
    pub(crate) in_bf16: bool,
    /// Optimizer states in a file.
    pub(crate) filed: bool,
}

/// AdamW with the decay of the reference runs.
pub(crate) static ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };

impl<'s> Setup<'s> {
    /// Rank 4 on every linear of every layer, AdamW, one example an update, no clipping.
    pub(crate) fn new(be: &'s dyn Backend<f32>) -> Self {
        Self {
            be,
            optimizer: &ADAMW,
            policy: Policy::Block,
            store: Store::F32,
            tile: None,
            method: "lora",
            options: &[],
            rank: 4,
            dropout: 0.0,
            targets: "all-linear",
            layers: "all",
            sequences: 1,
            accum: 1,
            apply_and_free: false,
            clip: Clip::Off,
            seed: 0,
            gradient: Gradient::Backprop,
            adaptive: None,
            in_bf16: false,
            filed: false,
        }
    }

    pub(crate) fn config(&self) -> Config {
        let alpha = 2.0 * self.rank as f64;
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let options = self.options.iter().map(owned).collect();
        let (rank, dropout) = (self.rank, self.dropout);
        Config { rank, alpha, dropout, options, ..Config::default() }
    }

    pub(crate) fn model<'b>(&self, base: &'b OpenBase) -> Model<'b, f32> {
        let methods = registry();
        let method = methods.get(self.method).unwrap();
        let (config, targets): (_, TargetModules) = (self.config(), self.targets.parse().unwrap());
        let layers: Layers = self.layers.parse().unwrap();
        let adaptation = Adaptation {
            patterns: &SitePatterns::NONE,
            method,
            config: &config,
            targets: &targets,
            layers: &layers,
        };
        base.build(Some(adaptation)).unwrap()
    }

    pub(crate) fn plan(&self, model: &Model<'_, f32>, data: &Dataset) -> RunPlan {
        let needs = Needs {
            limits: limits(data, self.sequences),
            longest: data.stats().longest,
            data_bytes: data.heap_bytes() as u64,
            apply_and_free: self.apply_and_free,
            train: true,
            gradient: self.gradient,
        };
        let Self { policy, store, tile, .. } = *self;
        let checkpointing = Checkpointing { policy, store, tile };
        let pairs = self.adaptive.map_or(0, |course| course.start);
        let plan = RunPlan::new(model, self.be, self.optimizer, needs, checkpointing);
        let plan = if self.in_bf16 { plan.with_bf16_parameters(model) } else { plan };
        let plan = if self.filed { plan.with_filed_states(model, self.optimizer) } else { plan };
        RunPlan { pairs, ..plan }
    }

    /// Reserves a trainer whose parameters are initialised.
    pub(crate) fn reserve<'p, 'w>(
        &'p self,
        model: &'p Model<'w, f32>,
        data: &Dataset,
        ledger: &mut Ledger,
    ) -> Trainer<'p, 'w> {
        let plan = self.plan(model, data);
        let (be, optimizer, clip) = (self.be, self.optimizer, self.clip);
        let mut trainer =
            Trainer::reserve(model, be, optimizer, plan, clip, self.seed, ledger).unwrap();
        trainer.open_scratch(&std::env::temp_dir(), ledger).unwrap();
        trainer.initialise(self.seed);
        if let Some(course) = self.adaptive {
            trainer.set_adaptive_rank(course);
        }
        trainer
    }

    /// Update `step`, counted from 1, over the next examples in order, round and round.
    pub(crate) fn update(
        &self,
        trainer: &mut Trainer<'_, '_>,
        data: &Dataset,
        step: u64,
    ) -> Update {
        let per_update = self.sequences * self.accum;
        let first = (step as usize - 1) * per_update;
        let at = |i: usize| (first + i) % data.len();
        let labelled = (0..per_update).map(|i| data.sequence(at(i)).unwrap().labelled).sum();
        let hyper = StepHyper { lr: 1e-3, step, grad_scale: 1.0 };
        let examples = (0..per_update).map(at);
        trainer.update(data, examples, self.sequences, labelled, hyper).unwrap()
    }

    /// Trains `steps` updates and hands the trainer to `look`.
    pub(crate) fn train<R>(
        &self,
        base: &OpenBase,
        data: &Dataset,
        steps: u64,
        look: impl FnOnce(&mut Trainer<'_, '_>) -> R,
    ) -> R {
        let model = self.model(base);
        let mut ledger = Ledger::new(Budget::UNLIMITED);
        let mut trainer = self.reserve(&model, data, &mut ledger);
        for step in 1..=steps {
            let update = self.update(&mut trainer, data, step);
            assert_eq!(update.non_finite, 0, "update {step}");
            assert!(update.sum.mean().is_finite(), "update {step}: {update:?}");
        }
        let seen = look(&mut trainer);
        trainer.release(&mut ledger);
        seen
    }

    /// The adapter's parameters, bit by bit, after `steps` updates.
    pub(crate) fn bits(&self, base: &OpenBase, data: &Dataset, steps: u64) -> Vec<u32> {
        self.train(base, data, steps, |trainer| bits(trainer.params()))
    }
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A backend that shares work over threads, to be made for any number of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Ndarray,
    Simd(&'static Kernels),
}

impl Kind {
    /// The plain one, and the fast one on every table that this processor runs.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Ndarray).chain(Kernels::available().map(Self::Simd))
    }

    /// The one that is taken unless another is asked for.
    pub(crate) fn fastest() -> Self {
        Self::Simd(Kernels::best())
    }

    pub(crate) fn make(self, threads: usize) -> Box<dyn Backend<f32>> {
        match self {
            Self::Ndarray => Box::new(NdArray::new(threads)),
            Self::Simd(kernels) => Box::new(Simd::with(kernels, threads)),
        }
    }

    /// Runs `work` in a rayon pool of its own, with a backend for as many threads.
    pub(crate) fn in_pool<R: Send>(
        self,
        threads: usize,
        work: impl FnOnce(&dyn Backend<f32>) -> R + Send,
    ) -> R {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| work(&*self.make(threads)))
    }
}

/// Runs `work` in a rayon pool of its own, with the fastest backend for as many threads.
pub(crate) fn in_pool<R: Send>(
    threads: usize,
    work: impl FnOnce(&dyn Backend<f32>) -> R + Send,
) -> R {
    Kind::fastest().in_pool(threads, work)
}

/// Tells a figure, or why there is none, even when the test passes: past the capture of its output.
pub(crate) fn say(line: &str) {
    use std::io::Write;

    // A closed stderr must not fail the test.
    let _ = writeln!(std::io::stderr(), "{line}");
}
