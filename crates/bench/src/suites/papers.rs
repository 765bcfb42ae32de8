//! Published tables of memory-frugal training, with ours beside each figure.
//!
//! Models have the papers' shapes and random numbers; what is held depends on neither. Ours is the
//! leanest plan that a setting's terms allow. Steps that would take minutes are planned alone.

use std::time::Instant;

use lowtide_memory::{Budget, Ledger, release_free_heap};
use lowtide_model::Config;
use lowtide_optim::{AdamW8, Optimizer, Sgd, StepHyper};
use lowtide_tape::{Checkpointing, Limits, Policy, Store};
use lowtide_tensor::QUANTUM;
use lowtide_train::{Gradient, Needs, RunPlan, Trainer, Watch, memory_now};

use super::base::{llama3, qwen25};
use super::step::sequence;
use super::{Base, cost};
use crate::report::named;
use crate::{BenchError, Contender, PaperRow, PaperRun, Stand};

/// Floating-point operations of a step that is run, at most: about a minute on two cores.
const RUN_FLOPS: u64 = 8_000_000_000_000;

/// Bytes of a mebibyte, in which the first paper's figures are, and of a gibibyte.
const MIB: f64 = (1_u64 << 20) as f64;
const GIB: f64 = (1_u64 << 30) as f64;

/// What is agreed before a plan is made.
#[derive(Clone, Copy)]
struct Terms {
    name: &'static str,
    optimizer: fn() -> Box<dyn Optimizer>,
    stores: &'static [Store],
    rank: usize,
    /// One labelled token in so many tenths.
    labelled_tenths: usize,
}

/// MeSP (*Memory-Efficient Structured Backpropagation*), tables 1 and 2; boundaries rounded to 16
/// bits, adapters here in 32.
const MESP: Terms = Terms {
    name: "MeSP: r 8, SGD, bf16 boundaries",
    optimizer: || Box::new(Sgd::default()),
    stores: &[Store::Bf16],
    rank: 8,
    labelled_tenths: 10,
};

/// The same models where nothing is rounded, with an optimizer that has states.
const LOSSLESS: Terms = Terms {
    name: "the same, 8-bit AdamW, lossless",
    optimizer: || Box::new(AdamW8::default()),
    stores: &[Store::F32, Store::File],
    rank: 8,
    labelled_tenths: 10,
};

/// Qualcomm's edge LoRA, the row with logits masking: boundaries on file, forward and backward.
const EDGE: Terms = Terms {
    name: "edge LoRA: r 16, 30 % labelled, boundaries on file",
    optimizer: || Box::new(Sgd::default()),
    stores: &[Store::File],
    rank: 16,
    labelled_tenths: 3,
};

struct Setting {
    terms: Terms,
    model: &'static str,
    shape: fn() -> Config,
    tokens: usize,
    published: Option<f64>,
}

fn settings() -> Vec<Setting> {
    let of =
        |terms, model, shape, tokens, published| Setting { terms, model, shape, tokens, published };
    let (half, one_and_half, three) = ("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-3B");
    let half_b: fn() -> Config = || qwen25(896, 24, 14, 64, 4864);
    let one_and_half_b: fn() -> Config = || qwen25(1536, 28, 12, 128, 8960);
    let three_b: fn() -> Config = || qwen25(2048, 36, 16, 128, 11_008);
    let mesp = |model, shape, tokens, mib: f64| of(MESP, model, shape, tokens, Some(mib * MIB));
    let edge = |tokens, gib: f64| of(EDGE, "Llama-3.2-3B", llama3, tokens, Some(gib * GIB));
    vec![
        mesp(half, half_b, 256, 136.2),
        mesp(one_and_half, one_and_half_b, 256, 262.6),
        mesp(three, three_b, 256, 368.4),
        mesp(half, half_b, 128, 110.7),
        mesp(half, half_b, 512, 245.8),
        mesp(half, half_b, 1024, 513.6),
        of(LOSSLESS, half, half_b, 256, None),
        of(LOSSLESS, one_and_half, one_and_half_b, 256, None),
        of(LOSSLESS, three, three_b, 256, None),
        edge(1024, 0.70),
        edge(2048, 1.02),
        edge(4096, 1.59),
        edge(8192, 3.24),
        edge(16_384, 6.95),
    ]
}

/// Plans every setting for each contender, and runs an update of those that do not take minutes,
/// unless `quick`.
///
/// # Errors
/// As [`step`](super::step).
pub fn papers(stand: &Stand<'_>, quick: bool) -> Result<Vec<PaperRow>, BenchError> {
    let mut rows = Vec::new();
    for setting in settings() {
        for contender in stand.contenders {
            let Setting { terms, model, tokens, .. } = &setting;
            let label = format!("{model}, {tokens} tokens, {}, {}", terms.name, contender.label);
            (stand.on_start)(&label);
            rows.push(setting.row(contender, quick)?);
        }
    }
    Ok(rows)
}

impl Setting {
    fn row(&self, contender: &Contender<'_>, quick: bool) -> Result<PaperRow, BenchError> {
        let config = (self.shape)();
        let outline = Base::outline(self.model, &config);
        let optimizer = (self.terms.optimizer)();
        let model = outline.adapted_to(self.terms.rank)?;
        let plan = |how| RunPlan::new(&model, contender.backend, &*optimizer, self.needs(), how);
        let plans = self.terms.candidates().into_iter().map(plan);
        let plan = plans.min_by_key(|plan| plan.bytes().held()).expect("terms allow some plan");
        let how = plan.exec.checkpointing();
        let work = cost::train(&outline, self.tokens, self.needs().limits.labelled);
        let run = match !quick && work.flops <= RUN_FLOPS {
            true => Some(self.run(contender, &config, &*optimizer, how)?),
            false => None,
        };
        Ok(PaperRow {
            terms: self.terms.name.to_owned(),
            model: self.model.to_owned(),
            tokens: self.tokens,
            contender: contender.label.to_owned(),
            published_bytes: self.published.map(|bytes| bytes as u64),
            policy: how.policy.to_string(),
            store: how.store.name().to_owned(),
            tile_rows: how.tile.map(core::num::NonZeroUsize::get),
            planned_bytes: plan.bytes().held(),
            by_category: named(plan.bytes()),
            run,
        })
    }

    fn needs(&self) -> Needs {
        let labelled = (self.tokens * self.terms.labelled_tenths).div_ceil(10);
        let limits = Limits { tokens: self.tokens, sequences: 1, labelled };
        let (longest, data_bytes, gradient) = (self.tokens, 0, Gradient::Backprop);
        Needs { limits, longest, data_bytes, apply_and_free: true, train: true, gradient }
    }

    /// One update, with random numbers for weights.
    fn run(
        &self,
        contender: &Contender<'_>,
        config: &Config,
        optimizer: &dyn Optimizer,
        how: Checkpointing,
    ) -> Result<PaperRun, BenchError> {
        let base = Base::shape(self.model, config);
        let data = sequence(&base, self.tokens)?;
        let model = base.adapted_to(self.terms.rank)?;
        contender.within(|| ());
        release_free_heap();
        let before = memory_now().anon_bytes;
        let watch = Watch::start();
        let plan = RunPlan::new(&model, contender.backend, optimizer, self.needs(), how);
        let mut ledger = Ledger::new(Budget::of(plan.bytes().held()));
        let trainer =
            Trainer::reserve(&model, contender.backend, optimizer, plan, 0.0, 0, &mut ledger);
        let refused = |source| BenchError::Reserve { contender: contender.label.into(), source };
        let mut trainer = trainer.map_err(refused)?;
        trainer.open_scratch(&std::env::temp_dir(), &mut ledger)?;
        trainer.initialise(0);
        let start = Instant::now();
        let hyper = StepHyper { lr: 1e-4, step: 1, grad_scale: 1.0 };
        let labelled = data.stats().labelled as usize;
        let update = contender.within(|| trainer.update(&data, 0..1, 1, labelled, hyper));
        let seconds = start.elapsed().as_secs_f64();
        watch.look();
        let after = watch.peak();
        let resident_bytes = after.zip(memory_now().file_bytes).map(|(heap, file)| heap + file);
        trainer.release(&mut ledger);
        let loss = update?.sum.mean();
        if !loss.is_finite() {
            return Err(BenchError::Loss { contender: contender.label.into(), loss });
        }
        let grown_bytes = before.zip(after).map(|(before, after)| after.saturating_sub(before));
        Ok(PaperRun { charged_bytes: ledger.peak(), grown_bytes, resident_bytes, seconds })
    }
}

impl Terms {
    /// Every arrangement that the terms allow.
    fn candidates(&self) -> Vec<Checkpointing> {
        let tile = core::num::NonZeroUsize::new(QUANTUM);
        let arranged = |store: Store| {
            let policy = if store == Store::File { Policy::Block } else { Policy::Sqrt };
            Checkpointing { tile, ..Checkpointing::new(policy, store) }
        };
        self.stores.iter().copied().map(arranged).collect()
    }
}

#[cfg(test)]
mod tests {
    use lowtide_backend::Scalar;

    use super::*;

    #[test]
    fn every_figure_is_below_the_published_one() {
        let contender =
            Contender { label: "scalar", backend: &Scalar, threads: 1, run: &|job| job() };
        for setting in settings() {
            let row = setting.row(&contender, true).unwrap();
            let sum: u64 = row.by_category.iter().map(|(_, bytes)| bytes).sum();
            assert_eq!(sum, row.planned_bytes, "{row:?}");
            assert!(row.run.is_none());
            if let Some(published) = row.published_bytes {
                assert!(row.planned_bytes * 2 < published, "{row:?}");
            }
        }
    }
}
