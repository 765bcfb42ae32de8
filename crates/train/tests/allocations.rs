//! After reserve nothing large is allocated: from the second update on, our own code asks for no
//! block over 4 KiB and next to none at all. The one library that allocates inside a backend,
//! matrixmultiply for its packing, stays within what the plan charges for it.

use std::cell::OnceCell;

use lowtide_backend::{Backend, Scalar};
use lowtide_kernels::Kernels;
use lowtide_memory::{Budget, Ledger};
use lowtide_optim::{AdamW8, Optimizer, Sgd};
use lowtide_simd::Simd;
use lowtide_tape::Policy;
use lowtide_testkit::alloc::{Counts, TestAlloc};
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Clip, Event, OpenBase, Settings, finetune};

use support::{ADAMW, Home, Kind, Setup, dataset, say};

#[path = "suite/support.rs"]
mod support;

#[global_allocator]
static ALLOC: TestAlloc = TestAlloc::new();

/// Requests above 4 KiB are large.
const LARGE: usize = 4097;

static ADAMW8: AdamW8 = AdamW8(ADAMW);
static SGD: Sgd = Sgd { weight_decay: 0.0, momentum: 0.0 };

const LENGTHS: &[usize] = &[70, 33, 12, 64];

/// What to train: every optimizer and both sinks, with dropout where there is room for a variant.
fn setups(be: &dyn Backend<f32>) -> Vec<Setup<'_>> {
    let with =
        |optimizer: &'static dyn Optimizer, policy, apply_and_free, sequences, accum| Setup {
            optimizer,
            policy,
            apply_and_free,
            sequences,
            accum,
            dropout: if apply_and_free { 0.1 } else { 0.0 },
            // Where gradients are freed, clipping them takes a second pass.
            clip: Clip::Whole(1.0),
            ..Setup::new(be)
        };
    vec![
        with(&ADAMW, Policy::Store, false, 1, 1),
        with(&ADAMW, Policy::Block, true, 2, 1),
        with(&ADAMW8, Policy::Block, false, 2, 2),
        with(&SGD, Policy::Store, true, 1, 1),
    ]
}

/// Counts of the second, third and fourth update and of an evaluation after them, and the bytes
/// that the plan charges for libraries.
fn counts(setup: &Setup<'_>, home: &Home) -> (Vec<Counts>, u64) {
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let model = setup.model(&base);
    let library_bytes = setup.plan(&model, &data).exec.library_bytes();
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut trainer = setup.reserve(&model, &data, &mut ledger);
    setup.update(&mut trainer, &data, 1);
    let mut all = Vec::with_capacity(4);
    for step in 2..=4 {
        let (_, counts) = ALLOC.counting(LARGE, || setup.update(&mut trainer, &data, step));
        all.push(counts);
    }
    let (_, counts) = ALLOC.counting(LARGE, || trainer.evaluate(&data, setup.sequences).unwrap());
    all.push(counts);
    trainer.release(&mut ledger);
    (all, library_bytes)
}

/// Without the harness of tests: the allocator counts what its threads do as well.
fn main() {
    let home = Home::new(&TinyLlama::default());
    home.data(LENGTHS);
    an_update_on_the_specification_allocates_nothing(&home);
    a_step_of_a_whole_job_allocates_nothing(&home);
    // The last, because threads of a pool that is gone may still be clearing up.
    an_update_on_simd_allocates_nothing(&home);
    an_update_on_ndarray_allocates_packing_buffers_only(&home);
}

fn an_update_on_the_specification_allocates_nothing(home: &Home) {
    for (i, setup) in setups(&Scalar).iter().enumerate() {
        let (all, library_bytes) = counts(setup, home);
        assert_eq!(library_bytes, 0);
        for (step, counts) in all.iter().enumerate() {
            let largest = counts.largest().next();
            assert_eq!(counts.requests, 0, "setup {i}, update {}: {largest:?}", step + 2);
        }
    }
}

/// On every table: nothing on one thread, and on several what rayon needs for itself.
fn an_update_on_simd_allocates_nothing(home: &Home) {
    let check = |be: &dyn Backend<f32>, most: u64| {
        for (i, setup) in setups(be).iter().enumerate() {
            let (all, library_bytes) = counts(setup, home);
            assert_eq!(library_bytes, 0);
            for (step, counts) in all.iter().enumerate() {
                let what = format!("{:?}, setup {i}, update {}", be.caps(), step + 2);
                let largest: Vec<_> = counts.largest().collect();
                assert_eq!(counts.large, 0, "{what}: {largest:?}");
                assert!(counts.requests <= most, "{what}: {largest:?}");
            }
        }
    };
    for kernels in Kernels::available() {
        check(&*Kind::Simd(kernels).make(1), 0);
    }
    for kernels in Kernels::available() {
        Kind::Simd(kernels).in_pool(2, |be| check(be, OURS_MAX));
    }
}

fn an_update_on_ndarray_allocates_packing_buffers_only(home: &Home) {
    for threads in [1, 2] {
        Kind::Ndarray.in_pool(threads, |be| {
            for (i, setup) in setups(be).iter().enumerate() {
                let (all, library_bytes) = counts(setup, home);
                check_packing(&format!("{threads} threads, setup {i}"), &all, library_bytes);
            }
        });
    }
}

fn check_packing(what: &str, all: &[Counts], library_bytes: u64) {
    let packing = all.iter().map(|counts| counts.over_aligned).max().unwrap_or_default();
    let small = all.iter().map(|counts| counts.requests - counts.over_aligned).max();
    let largest = all.iter().filter_map(|counts| counts.largest().next()).max_by_key(|r| r.size);
    let held = all.iter().map(|counts| counts.live_peak).max().unwrap_or_default();
    say(&format!(
        "{what}: {packing} packing buffers an update, the largest {largest:?}, at most {held} \
         bytes of them at once, {library_bytes} charged; {small:?} other requests"
    ));
    if packing == 0 {
        return say("skipped: on this processor packing buffers are aligned like any other block");
    }
    for counts in all {
        let ours = counts.requests - counts.over_aligned;
        let largest: Vec<_> = counts.largest().collect();
        assert_eq!(counts.large, counts.large_over_aligned, "{what}: {largest:?}");
        assert!(ours <= OURS_MAX, "{what}: {ours} requests besides packing");
        assert!(counts.live_peak <= library_bytes + OURS_BYTES, "{what}: {}", counts.live_peak);
    }
}

/// Requests of one update that are not packing buffers: what rayon's queues need to grow and to
/// collect, and threads of the pool before to end.
const OURS_MAX: u64 = 8;
const OURS_BYTES: u64 = 16 << 10;

/// Batches, schedule, log, events and the watch over resident memory included.
fn a_step_of_a_whole_job_allocates_nothing(home: &Home) {
    let settings = Settings {
        max_steps: Some(120),
        report_every: 1,
        rank: 2,
        layers: "last:1".into(),
        ..home.settings(&[9, 5, 7])
    };
    steps_of_a_job_allocate_nothing(&settings);
    let states_in_a_file = Settings { optimizer_states: "file".into(), ..settings.clone() };
    steps_of_a_job_allocate_nothing(&states_in_a_file);
    let in_bf16 = Settings { param_dtype: "bf16".into(), ..settings.clone() };
    steps_of_a_job_allocate_nothing(&in_bf16);
    steps_of_a_job_allocate_nothing(&Settings { group_by_length: true, ..settings });
}

fn steps_of_a_job_allocate_nothing(settings: &Settings) {
    let counting = OnceCell::new();
    let mut steps = Vec::with_capacity(128);
    finetune(settings, &Simd::new(1), 1, &mut |event| {
        if let Event::Step(report) = event {
            // The first step ends here; from now on every step is counted from event to event.
            let counts = counting.get_or_init(|| ALLOC.count(LARGE)).restart();
            if report.step > 1 {
                steps.push(counts);
            }
        }
    })
    .unwrap();
    drop(counting);
    assert_eq!(steps.len(), 119);
    let (states, dtype) = (&settings.optimizer_states, &settings.param_dtype);
    for (i, counts) in steps.iter().enumerate() {
        let largest: Vec<_> = counts.largest().collect();
        assert_eq!(counts.requests, 0, "states {states}, {dtype}, step {}: {largest:?}", i + 2);
    }
}
