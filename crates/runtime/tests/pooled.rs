//! Adapters that make something of a whole prompt: what is generated is what the whole sequence at
//! once gives, whatever was read before.

use std::ops::ControlFlow;

use lowtide_adapter::Config;
use lowtide_backend::{Backend, Scalar, Span};
use lowtide_memory::{Budget, Ledger};
use lowtide_model::{Adaptation, Layers, Model, SitePatterns, TargetModules};
use lowtide_runtime::{BaseText, OpenBase, Prompt, Request, Sampling, Session, registry};
use lowtide_tape::{Batch, Executor, Limits, Plan, Policy};
use lowtide_tensor::MatMut;
use lowtide_testkit::models;
use lowtide_testkit::rng::Rng;

const ANSWER: usize = 6;

/// The likeliest token after each row from the prompt's last on.
fn likeliest(model: &Model<'_, f32>, params: &[f32], ids: &[u32], prompt: usize) -> Vec<u32> {
    let be: &dyn Backend<f32> = &Scalar;
    let tokens = ids.len();
    let limits = Limits { tokens, sequences: 1, labelled: tokens };
    let plan = Plan::new(&model.program, be, limits, Policy::Block, false);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut executor = Executor::reserve(&model.program, be, plan, 0, &mut ledger).unwrap();
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let spans = [Span { start: 0, prompt_end: prompt, end: tokens }];
    let batch = Batch {
        ids,
        positions: &positions,
        spans: &spans,
        labelled: &[],
        targets: &[],
        words: None,
        counter: 0,
    };
    let vocab = model.program.head.weight.rows();
    let rows = &positions[prompt - 1..];
    let mut logits = vec![0.0; rows.len() * vocab];
    executor.logits(params, &batch, rows, MatMut::new(&mut logits, rows.len(), vocab));
    executor.release(&mut ledger);
    let best = |row: &[f32]| (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    logits.chunks_exact(vocab).map(|row| best(row) as u32).collect()
}

#[test]
fn generated_text_is_that_of_the_whole_sequence() {
    let base = OpenBase::open(&models::quickstart()).unwrap();
    let text = BaseText::open(&base).unwrap();
    let (methods, layers) = (registry(), Layers::All);
    let targets: TargetModules = "all-linear".parse().unwrap();
    for options in [vec![], vec![("pool", "learned")], vec![("pool", "chunk"), ("chunk", "4")]] {
        let options = options.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let config = Config { rank: 2, options, ..Config::default() };
        let method = methods.get("lars").unwrap();
        let (config, targets, layers) = (&config, &targets, &layers);
        let with = Adaptation { method, config, patterns: &SitePatterns::NONE, targets, layers };
        let model = base.build(Some(with)).unwrap();
        let params = Rng::new(3).uniform_vec(model.program.params(), -0.8, 0.8);
        let mut session = Session::reserve(&model, &text, &Scalar, 64, None).unwrap();
        session.values_mut().params.copy_from_slice(&params);
        let sampling = Sampling { temperature: 0.0, ..Sampling::GREEDY };
        let request =
            Request { sampling, max_tokens: ANSWER, ignore_ends: true, ..Request::default() };
        let first: Vec<u32> = (0..9).map(|t| 40 + 3 * t).collect();
        let mut longer = first.clone();
        let mut answers = Vec::new();
        for turn in 0..2 {
            let prompt = if turn == 0 { &first } else { &longer };
            let answer =
                session.complete(Prompt::Ids(prompt), &request, &mut |_| ControlFlow::Continue(()));
            let answer = answer.unwrap();
            let all = [&prompt[..], &answer.ids].concat();
            let want = likeliest(&model, &params, &all, prompt.len());
            assert_eq!(answer.ids, want[..ANSWER], "turn {turn} of {:?}", config.options);
            assert_eq!(answer.reused_tokens, 0);
            longer = all;
            answers.push(answer.ids);
        }
        // The bias is of consequence.
        let bare = base.build(None).unwrap();
        let mut session = Session::reserve(&bare, &text, &Scalar, 64, None).unwrap();
        let plain =
            session.complete(Prompt::Ids(&first), &request, &mut |_| ControlFlow::Continue(()));
        assert_ne!(plain.unwrap().ids, answers[0]);
    }
}
