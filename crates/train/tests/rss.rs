//! Reality agrees with the plan: what the operating system says the process holds while a run goes
//! from reserve to its last step. In a binary of their own: the numbers are those of the process.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lowtide_memory::{Budget, Ledger, release_free_heap};
use lowtide_tape::{Checkpointing, Policy, Store};
use lowtide_testkit::golden::golden_dir;
use lowtide_testkit::rss::{self, Sampler};
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Clip, Gradient, OpenBase};

use support::{Home, Kind, METHODS, Setup, dataset, in_pool, say, write_data};

#[path = "suite/support.rs"]
mod support;

/// What a run may hold beyond its plan.
const SLACK_BYTES: u64 = 2 << 20;

/// The system counts for the whole process, so these tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sampler() -> Option<Sampler> {
    let sampler = Sampler::start(Duration::from_millis(2));
    if sampler.is_none() {
        say("skipped: this system does not tell what a process holds");
    }
    sampler
}

/// Trains a little on a base of its own, so that threads, their stacks and whatever is made on
/// first use exist.
fn warm_up(setup: &Setup<'_>) {
    let home = Home::new(&TinyLlama::default());
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.data(&[200, 100]));
    setup.train(&base, &data, 2, |_| ());
}

/// `packed` is the size of the sequences that examples share.
fn growth_is_the_plan(
    kind: Kind,
    base: &Path,
    data: &Path,
    checkpointing: impl Into<Checkpointing>,
    apply_and_free: bool,
    packed: Option<usize>,
) {
    let checkpointing = checkpointing.into();
    let Checkpointing { policy, store, tile } = checkpointing;
    kind.in_pool(2, |be| {
        let clip = if apply_and_free { Clip::Off } else { Clip::Whole(1.0) };
        let setup = Setup { policy, store, tile, rank: 8, apply_and_free, clip, ..Setup::new(be) };
        grows_by_its_plan(&setup, base, data, packed);
    });
}

fn grows_by_its_plan(setup: &Setup<'_>, base: &Path, data: &Path, packed: Option<usize>) {
    warm_up(setup);
    let Setup { policy, store, tile, gradient, apply_and_free, .. } = *setup;
    let (file, how) = (base.file_name().unwrap().display(), Checkpointing { policy, store, tile });
    let (be, method, options) = (setup.be.name(), setup.method, setup.options);
    let name = format!("{be}, {file}, {method} {options:?}, {gradient}, {how:?}");
    let base = OpenBase::open(base).unwrap();
    let mut data = dataset(&base, data);
    if let Some(capacity) = packed {
        data = data.pack(capacity, 0).unwrap();
    }
    let planned = setup.plan(&setup.model(&base), &data).bytes().held();
    let mut ledger = Ledger::new(Budget::of(planned));
    release_free_heap();
    let Some(sampler) = sampler() else { return };
    // What the model holds besides weights is planned too.
    let model = setup.model(&base);
    let mut trainer = setup.reserve(&model, &data, &mut ledger);
    trainer.evaluate(&data, 1).unwrap();
    for step in 1..=3 {
        setup.update(&mut trainer, &data, step);
    }
    let peak = sampler.stop();
    trainer.release(&mut ledger);
    let grown = peak.anon_growth();
    say(&format!(
        "{name}, apply-and-free {apply_and_free}, packed {packed:?}: planned {planned} bytes, \
         RssAnon grew by {grown} over {} ({} readings)",
        peak.anon_start, peak.samples
    ));
    assert!(planned > 6 << 20, "{planned} bytes are too few to tell");
    assert!(grown <= planned + SLACK_BYTES, "{name}: {grown} bytes, {planned} planned");
    // Most of what is planned is really used at once, otherwise this proves nothing.
    assert!(grown > planned * 3 / 4, "{name}: {grown} bytes of {planned} planned");
}

#[test]
fn a_run_grows_by_its_plan() {
    let _turn = turn();
    let shape = TinyLlama {
        hidden: 256,
        layers: 4,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        intermediate: 768,
        vocab: 8192,
        ..TinyLlama::default()
    };
    let home = Home::new(&shape);
    let data = home.data(&[512, 512, 300]);
    for policy in Policy::ALL {
        for apply_and_free in [false, true] {
            growth_is_the_plan(Kind::fastest(), &home.base(), &data, policy, apply_and_free, None);
        }
    }
    let on_file = Checkpointing::new(Policy::Block, Store::File);
    let tile = NonZeroUsize::new(64).unwrap();
    for checkpointing in [on_file, Checkpointing::from(Policy::Sqrt).tiled(tile)] {
        growth_is_the_plan(Kind::fastest(), &home.base(), &data, checkpointing, true, None);
    }
    let partial = Gradient::Partial { blocks: NonZeroUsize::new(2).unwrap() };
    for gradient in [Gradient::Mezo { eps: 0.01 }, partial] {
        Kind::fastest().in_pool(2, |be| {
            let setup = Setup { gradient, rank: 8, ..Setup::new(be) };
            grows_by_its_plan(&setup, &home.base(), &data, None);
        });
    }
    growth_is_the_plan(Kind::Ndarray, &home.base(), &data, Policy::Block, false, None);
    let short = home.data(&[300, 212, 200, 90, 100, 60, 61, 62, 63, 64, 65, 66, 67]);
    growth_is_the_plan(Kind::fastest(), &home.base(), &short, Policy::Block, false, Some(512));
}

#[test]
fn a_run_of_any_method_grows_by_its_plan() {
    let _turn = turn();
    let shape = TinyLlama {
        hidden: 256,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        intermediate: 768,
        vocab: 2048,
        ..TinyLlama::default()
    };
    let home = Home::new(&shape);
    let data = home.data(&[448, 200]);
    for (method, options, dropout) in METHODS {
        Kind::fastest().in_pool(2, |be| {
            // VeRA's matrices are held as soon as there is a model.
            let rank = if method == "vera" { 256 } else { 8 };
            let setup = Setup { method, options, dropout, rank, ..Setup::new(be) };
            grows_by_its_plan(&setup, &home.base(), &data, None);
        });
    }
}

#[test]
fn a_run_of_any_family_grows_by_its_plan() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.jsonl");
    // The bases are tiny: only long examples make a plan that the system can tell from noise.
    write_data(&data, &[2560, 2560, 1500]);
    for family in ["llama_untied", "qwen2", "qwen3", "gemma3"] {
        for policy in [Policy::Store, Policy::Block] {
            growth_is_the_plan(
                Kind::fastest(),
                &golden_dir().join(family),
                &data,
                policy,
                false,
                None,
            );
        }
    }
}

#[test]
fn slabs_are_back_with_the_system_after_release() {
    let _turn = turn();
    let home = Home::new(&TinyLlama { hidden: 128, ..TinyLlama::default() });
    home.data(&[1024]);
    in_pool(1, |be| {
        let setup = Setup { policy: Policy::Store, ..Setup::new(be) };
        warm_up(&setup);
        let base = OpenBase::open(&home.base()).unwrap();
        let data = dataset(&base, &home.path("data.jsonl"));
        release_free_heap();
        let Some(before) = rss::read() else { return };
        let held = setup.train(&base, &data, 1, |_| rss::read().unwrap().anon);
        let after = rss::read().unwrap().anon;
        assert!(held > before.anon + (8 << 20), "{} to {held}", before.anon);
        assert!(after < before.anon + SLACK_BYTES, "{} to {after}", before.anon);
    });
}
