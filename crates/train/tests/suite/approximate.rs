//! Gradients that are not the gradient: what they are instead, and what they take.

use std::num::NonZeroUsize;

use lowtide_data::Dataset;
use lowtide_memory::{Budget, Category, Ledger};
use lowtide_optim::{AdamW, Noise, Sgd, StepHyper};
use lowtide_tape::Store;
use lowtide_testkit::compare::assert_close;
use lowtide_testkit::rng::Rng;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Gradient, OpenBase, Settings, Trainer, finetune};

use crate::support::{Home, Kind, Setup, bits, dataset};

static SGD: Sgd = Sgd { weight_decay: 0.0, momentum: 0.0 };
const EPS: f64 = 0.01;
const MEZO: Gradient = Gradient::Mezo { eps: EPS };

fn partial(blocks: usize) -> Gradient {
    Gradient::Partial { blocks: NonZeroUsize::new(blocks).unwrap() }
}

/// Five blocks, and examples for them.
fn home() -> Home {
    let home = Home::new(&TinyLlama { layers: 5, ..TinyLlama::default() });
    home.data(&[30, 9, 12, 21]);
    home
}

fn opened(home: &Home) -> (OpenBase, Dataset) {
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    (base, data)
}

/// Numbers none of which is zero.
fn somewhere(trainer: &mut Trainer<'_, '_>) -> Vec<f32> {
    let params = Rng::new(3).normal_vec(trainer.params().len(), 0.1);
    trainer.params_mut().copy_from_slice(&params);
    params
}

/// Works with a trainer that is reserved within exactly its plan.
fn with<R>(
    setup: &Setup<'_>,
    base: &OpenBase,
    data: &Dataset,
    work: impl FnOnce(&mut Trainer<'_, '_>) -> R,
) -> R {
    let model = setup.model(base);
    let planned = setup.plan(&model, data).bytes();
    let mut ledger = Ledger::new(Budget::of(planned.held()));
    let mut trainer = setup.reserve(&model, data, &mut ledger);
    assert_eq!(ledger.live(), planned, "after reserve");
    let result = work(&mut trainer);
    trainer.release(&mut ledger);
    assert_eq!((ledger.at_peak(), ledger.live().held()), (planned, 0));
    result
}

#[test]
fn a_step_of_mezo_is_its_formula() {
    let (home, be) = (home(), Kind::fastest().make(2));
    let (base, data) = opened(&home);
    let setup =
        Setup { optimizer: &SGD, gradient: MEZO, sequences: 2, accum: 2, ..Setup::new(&*be) };
    with(&setup, &base, &data, |trainer| {
        let start = somewhere(trainer);
        let mut z = vec![0.0; start.len()];
        Noise::new(setup.seed, 7).each(0, z.len(), |i, n| z[i] = n);
        let mut loss = |way: f32| {
            let there: Vec<f32> = start.iter().zip(&z).map(|(p, z)| p + way * z).collect();
            trainer.params_mut().copy_from_slice(&there);
            trainer.evaluate(&data, 2).unwrap()
        };
        let (above, below) = (loss(EPS as f32), loss(-EPS as f32));
        let labelled = above.labelled;
        let slope = (above.loss - below.loss) / (2.0 * f64::from(EPS as f32) * labelled as f64);
        assert!(slope.abs() > 1e-3, "{slope}");

        trainer.params_mut().copy_from_slice(&start);
        let hyper = StepHyper { lr: 0.5, step: 7, grad_scale: 1.0 };
        let update = trainer.update(&data, 0..4, 2, labelled, hyper).unwrap();
        assert_eq!(update.grad_norm, Some(slope.abs()));
        assert_eq!(update.sum.loss, 0.5 * (above.loss + below.loss));
        assert_eq!((update.sum.labelled, update.tokens), (labelled, 72));
        let step = |(p, z): (&f32, &f32)| (f64::from(*p) - 0.5 * slope * f64::from(*z)) as f32;
        let want: Vec<f32> = start.iter().zip(&z).map(step).collect();
        assert_close("parameters", trainer.params(), &want, 1e-6, 1e-6);
    });
}

#[test]
fn draws_of_mezo_point_along_the_gradient_on_average() {
    const DRAWS: u64 = 500;
    let (home, be) = (home(), Kind::fastest().make(1));
    let (base, data) = opened(&home);
    let small =
        || Setup { optimizer: &SGD, rank: 1, targets: "q_proj", layers: "2,4", ..Setup::new(&*be) };
    let labelled = data.sequence(1).unwrap().labelled;
    let hyper = |step| StepHyper { lr: 1.0, step, grad_scale: 1.0 };
    let exact = with(&small(), &base, &data, |trainer| {
        somewhere(trainer);
        trainer.update(&data, 1..2, 1, labelled, hyper(1)).unwrap();
        trainer.grads().to_vec()
    });
    let mean = with(&Setup { gradient: MEZO, ..small() }, &base, &data, |trainer| {
        let start = somewhere(trainer);
        let mut mean = vec![0.0; start.len()];
        for step in 1..=DRAWS {
            trainer.params_mut().copy_from_slice(&start);
            trainer.update(&data, 1..2, 1, labelled, hyper(step)).unwrap();
            let gone = start.iter().zip(trainer.params()).map(|(from, to)| from - to);
            mean.iter_mut().zip(gone).for_each(|(mean, gone)| *mean += gone / DRAWS as f32);
        }
        mean
    });
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let cosine = dot(&mean, &exact) / (dot(&mean, &mean) * dot(&exact, &exact)).sqrt();
    let along = dot(&mean, &exact) / dot(&exact, &exact);
    let (draws, numbers) = (DRAWS as f64, exact.len() as f64);
    let expected = (draws / (draws + numbers)).sqrt();
    assert!((cosine - expected).abs() < 0.08, "{cosine}, {expected} expected");
    assert!((along - 1.0).abs() < 0.3, "{along} times as long");
}

#[test]
fn threads_change_no_bit_of_approximate_gradients() {
    let home = home();
    let (base, data) = opened(&home);
    for gradient in [MEZO, partial(2)] {
        let run = |threads| {
            Kind::fastest().in_pool(threads, |be| {
                let setup = Setup { gradient, dropout: 0.1, sequences: 2, ..Setup::new(be) };
                setup.bits(&base, &data, 4)
            })
        };
        assert!(run(1) == run(3), "{gradient}");
    }
}

#[test]
fn blocks_that_were_not_drawn_stay_as_they_are() {
    let (home, be) = (home(), Kind::fastest().make(2));
    let (base, data) = opened(&home);
    let setup = Setup { gradient: partial(2), layers: "1-4", ..Setup::new(&*be) };
    let ranges = setup.model(&base).program.param_ranges();
    let mut drawn = [0; 5];
    with(&setup, &base, &data, |trainer| {
        for step in 1..=4 {
            let before = trainer.params().to_vec();
            let update = setup.update(trainer, &data, step);
            assert!(update.grad_norm.unwrap() > 0.0 && update.non_finite == 0);
            let moved = |segment: &usize| {
                let range = ranges[*segment].clone();
                before[range.clone()] != trainer.params()[range]
            };
            let moved: Vec<usize> = (0..5).filter(moved).collect();
            assert_eq!(moved.len(), 2, "update {step} moved {moved:?}");
            moved.into_iter().for_each(|segment| drawn[segment] += 1);
        }
    });
    assert_eq!(drawn, [0, 2, 2, 2, 2], "two rounds");
}

#[test]
fn all_blocks_drawn_are_backprop() {
    let (home, be) = (home(), Kind::fastest().make(2));
    let (base, data) = opened(&home);
    let setup = |gradient| Setup { gradient, layers: "1-4", ..Setup::new(&*be) };
    let want = setup(Gradient::Backprop).bits(&base, &data, 3);
    assert!(setup(partial(4)).bits(&base, &data, 3) == want);
    assert!(setup(partial(3)).bits(&base, &data, 3) != want);
}

#[test]
fn partial_updates_are_the_same_at_once_and_block_by_block() {
    let (home, be) = (home(), Kind::fastest().make(2));
    let (base, data) = opened(&home);
    let setup = |apply_and_free, store| Setup {
        gradient: partial(2),
        apply_and_free,
        store,
        ..Setup::new(&*be)
    };
    let trained = |setup: Setup<'_>| {
        with(&setup, &base, &data, |trainer| {
            trainer.executor_mut().set_poison(true);
            for step in 1..=4 {
                setup.update(trainer, &data, step);
            }
            bits(trainer.params())
        })
    };
    let want = trained(setup(false, Store::F32));
    assert!(trained(setup(true, Store::F32)) == want);
    assert!(trained(setup(true, Store::File)) == want);
}

#[test]
fn approximate_gradients_take_less() {
    let (home, be) = (home(), Kind::fastest().make(2));
    let (base, data) = opened(&home);
    let plan = |gradient, optimizer| {
        let setup = Setup { gradient, optimizer, ..Setup::new(&*be) };
        setup.plan(&setup.model(&base), &data).bytes()
    };
    static ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let exact = plan(Gradient::Backprop, &ADAMW);
    let two = plan(partial(2), &ADAMW);
    for category in [Category::Checkpoint, Category::Gradient] {
        assert_eq!(two[category] * 5, exact[category] * 2, "{category:?}");
    }
    let mezo = plan(MEZO, &SGD);
    assert_eq!(mezo[Category::Gradient] * 5, exact[Category::Gradient], "one block's room");
    assert_eq!((mezo[Category::Checkpoint], mezo[Category::Optimizer]), (0, 0));
    assert!(mezo.held() < two.held() && two.held() < exact.held());
}

#[test]
fn a_run_says_that_its_gradients_are_approximate() {
    let (home, be) = (home(), Kind::fastest().make(2));
    for (gradient, policy) in [("mezo", "none"), ("partial", "block"), ("backprop", "store")] {
        let settings = Settings {
            gradient: gradient.into(),
            output: home.path(gradient),
            ..home.settings(&[20])
        };
        let summary = finetune(&settings, &*be, 2, &mut |_| ()).unwrap();
        assert_eq!((summary.gradient.as_str(), summary.policy.as_str()), (gradient, policy));
        let read = |name: &str| std::fs::read_to_string(home.path(gradient).join(name)).unwrap();
        assert!(read("metrics.jsonl").contains(&format!("\"gradient\":\"{gradient}\"")));
        let again = Settings::from_file(&home.path(gradient).join("config.toml")).unwrap();
        again.check().unwrap();
        assert_eq!(again.gradient, gradient);
    }
}
