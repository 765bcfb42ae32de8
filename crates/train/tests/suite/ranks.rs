//! Ranks that become smaller on the way: what remains is what was asked for, what is off is zero,
//! nothing depends on how memory is spent, and what is saved is what was trained.

use lowtide_formats::peft::{AdapterFiles, LoraPair};
use lowtide_memory::{Budget, Ledger};
use lowtide_optim::{AdamW, AdamW8, Optimizer};
use lowtide_simd::Simd;
use lowtide_tape::Policy;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{
    AdaptiveRank, Clip, EvalSettings, OpenBase, RanksLeft, Settings, Trainer, evaluate, finetune,
};

use crate::refused::eval;
use crate::support::{ADAMW, Home, Setup, bits, dataset, in_pool, write_data};

static ADAMW8: AdamW8 = AdamW8(AdamW { weight_decay: 0.01, ..ADAMW });

/// Updates of a run: one goes by with all pairs, three with those that remain.
const STEPS: u64 = 10;

type Options = &'static [(&'static str, &'static str)];

const METHODS: [(&str, Options, &dyn Optimizer); 6] = [
    ("lora", &[], &ADAMW8),
    ("rslora", &[("quantize", "int8")], &ADAMW),
    ("lora-fa", &[], &ADAMW8),
    ("dora", &[], &ADAMW),
    ("dora", &[("quantize", "int4")], &ADAMW8),
    ("qalora", &[("group_size", "4")], &ADAMW),
];

/// Of each site the pairs that are not zero. A pair is zero in all of its tensors or in none.
fn not_zero(trainer: &Trainer<'_, '_>) -> Vec<usize> {
    let (params, fixed) = (trainer.params(), trainer.fixed());
    let of = |site: &lowtide_model::Site| {
        let mut tensors = Vec::new();
        for (specs, values, start) in
            [(&site.params, params, site.range.start), (&site.frozen, fixed, site.fixed.start)]
        {
            let mut start = start;
            for spec in specs {
                let zero = |pair| spec.pair(pair).all(|at| values[start + at].to_bits() == 0);
                let pairs: Vec<bool> = (0..spec.rank().unwrap_or(0)).map(zero).collect();
                tensors.extend((!pairs.is_empty()).then_some(pairs));
                start += spec.len();
            }
        }
        assert_eq!(tensors.len(), 2);
        assert_eq!(tensors[0], tensors[1], "{}", site.info.name);
        tensors[0].iter().filter(|zero| !**zero).count()
    };
    trainer.model().sites.iter().map(of).collect()
}

#[test]
fn what_remains_is_what_was_asked_for_however_memory_is_spent() {
    let home = Home::new(&TinyLlama::default());
    home.data(&[70, 33, 20]);
    let base = OpenBase::open(&home.base()).unwrap();
    let data = dataset(&base, &home.path("data.jsonl"));
    for (method, options, optimizer) in METHODS {
        let run = |threads, policy, apply_and_free: bool| {
            in_pool(threads, |be| {
                let adaptive = Some(AdaptiveRank::new(14 * 4, 14 * 2, STEPS));
                let tile = apply_and_free.then_some(64).and_then(std::num::NonZeroUsize::new);
                let (clip, sequences) = (Clip::Whole(0.5), 2);
                let setup = Setup {
                    method,
                    options,
                    optimizer,
                    policy,
                    tile,
                    apply_and_free,
                    adaptive,
                    clip,
                    sequences,
                    ..Setup::new(be)
                };
                let model = setup.model(&base);
                let planned = setup.plan(&model, &data).bytes();
                let mut ledger = Ledger::new(Budget::UNLIMITED);
                let mut trainer = setup.reserve(&model, &data, &mut ledger);
                assert_eq!(ledger.live(), planned, "{method}");
                trainer.executor_mut().set_poison(true);
                for step in 1..=STEPS {
                    setup.update(&mut trainer, &data, step);
                    let left = adaptive.map(|course| course.left(step));
                    assert_eq!(trainer.pairs_left(), left, "{method}, update {step}");
                }
                let left = trainer.ranks_left().unwrap();
                assert_eq!(left.iter().sum::<usize>(), 28, "{method}");
                assert_eq!(left, not_zero(&trainer), "{method}");
                assert!(method != "dora" || left.iter().all(|rank| *rank > 0));
                let bits = bits(trainer.params());
                trainer.release(&mut ledger);
                (bits, left)
            })
        };
        let one = run(1, Policy::Store, false);
        assert!(run(2, Policy::Sqrt, true) == one, "{method}: threads, policies or sinks differ");
    }
}

/// Trains on examples that differ from those that are measured, and returns the settings.
fn trained(home: &Home, change: impl FnOnce(&mut Settings)) -> (Settings, RanksLeft) {
    let folder = home.path("data");
    std::fs::create_dir_all(&folder).unwrap();
    write_data(&folder.join("train.jsonl"), &[90, 80, 40, 66]);
    write_data(&folder.join("valid.jsonl"), &[50, 31]);
    let mut settings = Settings {
        data: folder,
        rank: 6,
        alpha: 10.0,
        adaptive_rank: Some(2),
        lr: 0.01,
        max_steps: Some(12),
        ..home.settings(&[9])
    };
    change(&mut settings);
    let be = Simd::new(2);
    let summary = finetune(&settings, &be, 2, &mut |_| ()).unwrap();
    let adapter = Some(settings.output.clone());
    let saved = evaluate(&EvalSettings { adapter, ..eval(&settings, None) }, &be).unwrap().loss;
    let (last, first) = (summary.eval_loss_after.unwrap(), summary.eval_loss_before.unwrap());
    assert!((saved - last).abs() < 1e-6, "{}: {saved} saved, {last} trained", settings.method);
    assert!((last - first).abs() > 1e-3, "{}: nothing was learned", settings.method);
    assert_eq!(summary.peak_bytes, summary.planned_peak_bytes);
    let file = settings.output.join("adapter_model.safetensors");
    assert_eq!(std::fs::metadata(file).unwrap().len(), summary.adapter_bytes);
    (settings, summary.ranks.unwrap())
}

#[test]
fn what_is_saved_is_what_was_trained() {
    let home = Home::new(&TinyLlama::default());
    for method in ["lora", "rslora", "lora-fa", "dora", "qalora"] {
        let (settings, left) = trained(&home, |settings| {
            settings.method = method.into();
            settings.adapter_type = if method == "lora-fa" { "bf16" } else { "f32" }.into();
            if method == "qalora" {
                settings.method_option = [("group_size".into(), "4".into())].into();
            }
        });
        assert_eq!((left.pairs, left.average, left.sites + left.left_out), (28, 2.0, 14));
        let files = AdapterFiles::open(&settings.output).unwrap();
        let (config, pairs) = files.lora().unwrap();
        let ranks: Vec<usize> = pairs.iter().map(LoraPair::rank).collect();
        assert_eq!(
            RanksLeft::of(&ranks),
            RanksLeft { left_out: 0, average: 28.0 / left.sites as f64, asked: None, ..left }
        );
        assert!(left.smallest < left.largest, "{method}: {left:?}");
        let root = if method == "rslora" { 6.0_f64.sqrt() } else { 6.0 };
        for pair in pairs {
            assert_eq!(config.rank_of(pair.module).unwrap(), pair.rank(), "{}", pair.module);
            let off = config.scale_of(pair.module).unwrap() - 10.0 / root;
            assert!(off.abs() < 1e-12, "{method}: {} is off by {off}", pair.module);
        }
    }
}

#[test]
fn sites_start_with_ranks_of_their_own_and_may_lose_all() {
    let home = Home::new(&TinyLlama::default());
    let (settings, left) = trained(&home, |settings| {
        settings.adaptive_rank = Some(1);
        settings.save_every = 7;
        let own = [("q_proj".to_owned(), 2), ("layers.0.mlp.*".to_owned(), 0)];
        settings.rank_pattern.0 = own.into();
        settings.alpha_pattern.0 = vec![("q_proj".to_owned(), 3.0)];
    });
    assert_eq!((left.pairs, left.sites + left.left_out), (11, 11));
    assert!(left.left_out > 0, "{left:?}");
    let files = AdapterFiles::open(&settings.output).unwrap();
    let (config, pairs) = files.lora().unwrap();
    assert_eq!(pairs.len(), left.sites);
    for pair in pairs {
        let scale = if pair.module.ends_with("q_proj") { 1.5 } else { 10.0 / 6.0 };
        let off = config.scale_of(pair.module).unwrap() - scale;
        assert!(off.abs() < 1e-12, "{} is off by {off}", pair.module);
    }
    // Training goes on from it, at its ranks.
    let output = home.path("more");
    let more = Settings {
        init_adapter: Some(settings.output.clone()),
        adaptive_rank: None,
        rank_pattern: Default::default(),
        alpha_pattern: Default::default(),
        output,
        ..settings
    };
    let summary = finetune(&more, &Simd::new(1), 1, &mut |_| ()).unwrap();
    assert!(summary.ranks.is_none() && summary.eval_loss_after.is_some());
}
