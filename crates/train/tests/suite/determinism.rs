//! Same seed and data, same bits: whatever the threads, the policy, the sink.

use lowtide_backend::{Backend, Scalar};
use lowtide_kernels::Isa;
use lowtide_optim::{AdamW, AdamW8, Optimizer, Sgd};
use lowtide_simd::{Compute, Simd};
use lowtide_tape::Policy;
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::models;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{OpenBase, Settings, finetune};

use crate::support::{ADAMW, Home, Kind, Setup, dataset, in_pool};

static ADAMW8: AdamW8 = AdamW8(AdamW { weight_decay: 0.0, ..ADAMW });
static SGD: Sgd = Sgd { weight_decay: 0.01, momentum: 0.0 };

/// Wide enough that every kind of operation is shared out among threads.
fn wide() -> Home {
    let shape = TinyLlama { hidden: 128, intermediate: 320, head_dim: 32, ..TinyLlama::default() };
    let home = Home::new(&shape);
    home.data(&[150, 90, 67, 131]);
    home
}

fn small() -> Home {
    let home = Home::new(&TinyLlama::default());
    home.data(&[70, 33, 12, 64]);
    home
}

/// The adapter's bits after three updates.
fn trained(home: &Home, setup: &Setup<'_>) -> Vec<u32> {
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    setup.bits(&base, &data, 3)
}

/// The specification, and every backend for two threads.
fn backends() -> impl Iterator<Item = Box<dyn Backend<f32>>> {
    let scalar: Box<dyn Backend<f32>> = Box::new(Scalar);
    std::iter::once(scalar).chain(Kind::all().map(|kind| kind.make(2)))
}

/// Every bit of three updates is the same under both policies.
fn both_policies(home: &Home, be: &dyn Backend<f32>, dropout: f64) -> Vec<u32> {
    let setup = |policy| Setup { policy, sequences: 2, dropout, ..Setup::new(be) };
    let [store, block] = [Policy::Store, Policy::Block].map(|p| trained(home, &setup(p)));
    assert!(store == block, "policies differ, {}", be.name());
    block
}

#[test]
fn threads_and_policies_change_no_bit() {
    let (wide, small) = (wide(), small());
    for kind in Kind::all() {
        // Plain Rust is slow, and no different from the other tables in how work is cut.
        let scalar = matches!(kind, Kind::Simd(kernels) if kernels.isa() == Isa::Scalar);
        let home = if scalar { &small } else { &wide };
        let one = kind.in_pool(1, |be| both_policies(home, be, 0.0));
        for threads in [2, 4] {
            let same = kind.in_pool(threads, |be| both_policies(home, be, 0.0)) == one;
            assert!(same, "{kind:?}: {threads} threads");
        }
        // The number of lanes, too, may differ from the number of threads.
        let lanes = kind.in_pool(2, |_| both_policies(home, &*kind.make(3), 0.0));
        assert!(lanes == one, "{kind:?}: three lanes on two threads");
    }
}

#[test]
fn a_packed_base_keeps_its_bits_in_every_precision() {
    let home = small();
    let base = OpenBase::open(&models::quickstart()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    let bits = |compute, threads, policy| {
        in_pool(threads, |_| {
            let be = Simd::new(threads).computing(compute);
            Setup { policy, sequences: 2, ..Setup::new(&be) }.bits(&base, &data, 2)
        })
    };
    let computes = [Compute::F32, Compute::Int8x2, Compute::Int8];
    let trained = computes.map(|compute| {
        let one = bits(compute, 1, Policy::Store);
        for (threads, policy) in [(2, Policy::Block), (4, Policy::Store)] {
            let same = bits(compute, threads, policy) == one;
            assert!(same, "{}: {threads} threads, {policy}", compute.name());
        }
        one
    });
    assert!(trained[0] != trained[1] && trained[1] != trained[2], "some of them round nothing");
}

#[test]
fn the_specification_knows_no_policy_and_no_threads() {
    let home = small();
    let one = both_policies(&home, &Scalar, 0.0);
    for threads in [2, 4] {
        assert!(
            in_pool(threads, |_| both_policies(&home, &Scalar, 0.0)) == one,
            "{threads} threads"
        );
    }
}

#[test]
fn dropout_draws_the_same_bits_again_in_backward() {
    let home = small();
    for be in backends() {
        let [dropped, plain] = [0.1, 0.0].map(|dropout| both_policies(&home, &*be, dropout));
        assert!(dropped != plain, "{} drops nothing", be.name());
    }
}

#[test]
fn gradients_applied_at_once_are_those_applied_at_the_end() {
    let home = small();
    let optimizers: [&dyn Optimizer; 3] = [&ADAMW, &ADAMW8, &SGD];
    for optimizer in optimizers {
        for policy in Policy::ALL {
            for layers in ["all", "last:1"] {
                let be = Kind::fastest().make(2);
                let setup = |apply_and_free| Setup {
                    apply_and_free,
                    optimizer,
                    policy,
                    layers,
                    sequences: 2,
                    ..Setup::new(&*be)
                };
                let [end, now] = [false, true].map(|now| trained(&home, &setup(now)));
                assert!(end == now, "{}, {policy}, layers {layers}", optimizer.name());
            }
        }
    }
}

#[test]
fn a_batch_in_two_parts_has_the_same_gradient() {
    let home = small();
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    for be in backends() {
        let be = &*be;
        // The step of SGD is proportional to the gradient. AdamW's first one is its sign, which
        // makes of a last bit of difference around zero one of twice the step.
        let run = |sequences, accum| {
            let setup = Setup { sequences, accum, optimizer: &SGD, ..Setup::new(be) };
            setup.train(&base, &data, 3, |trainer| {
                (trainer.grads().to_vec(), trainer.params().to_vec())
            })
        };
        let (whole, parts) = (run(2, 1), run(1, 2));
        assert!(whole.0.iter().any(|g| g.abs() > 1e-3), "the gradients are of some size");
        assert_close(&format!("{} gradients", be.name()), &parts.0, &whole.0, 1e-6, 1e-5);
        assert_close(&format!("{} parameters", be.name()), &parts.1, &whole.1, 1e-6, 0.0);
    }
}

/// The adapter's file after a whole job.
fn job(home: &Home, name: &str, threads: usize, change: impl FnOnce(&mut Settings)) -> Vec<u8> {
    let mut settings = Settings {
        output: home.path(name),
        max_steps: Some(3),
        batch_size: 2,
        ..home.settings(&[40, 33, 12, 25, 30])
    };
    change(&mut settings);
    in_pool(threads, |be| finetune(&settings, be, threads, &mut |_| ()).unwrap());
    std::fs::read(settings.output.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn a_job_writes_the_same_file_again_and_another_with_another_seed() {
    let home = Home::new(&TinyLlama::default());
    let with_dropout = |settings: &mut Settings| settings.dropout = 0.1;
    let first = job(&home, "first", 2, with_dropout);
    assert!(first == job(&home, "again", 1, with_dropout), "threads");
    let policy = |settings: &mut Settings| {
        with_dropout(settings);
        settings.checkpointing = "block".into();
    };
    assert!(first == job(&home, "block", 4, policy), "policy");
    let seed = |settings: &mut Settings| {
        with_dropout(settings);
        settings.seed = 1;
    };
    assert!(first != job(&home, "seed", 2, seed), "seed");
    assert!(first != job(&home, "dry", 2, |_| ()), "dropout");
}
