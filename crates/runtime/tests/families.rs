//! Every family, and a packed base in every precision, read call by call, gives the bits of the
//! whole sequence at once.

use lowtide_backend::{Backend, Scalar, Span};
use lowtide_kernels::Kernels;
use lowtide_memory::{Budget, Ledger};
use lowtide_model::Model;
use lowtide_ndarray::NdArray;
use lowtide_runtime::{LoadedAdapter, OpenBase, registry};
use lowtide_simd::{Compute, Simd};
use lowtide_tape::{Batch, DecodeLimits, DecodePlan, Decoder, Executor, Limits, Plan, Policy};
use lowtide_tensor::MatMut;
use lowtide_testkit::compare::assert_bits;
use lowtide_testkit::golden::golden_dir;
use lowtide_testkit::models;

const TOKENS: usize = 300;

/// Logits of the rows in `rows`, computed over the whole sequence.
fn at_once(
    model: &Model<'_, f32>,
    be: &dyn Backend<f32>,
    params: &[f32],
    ids: &[u32],
    rows: &[u32],
) -> Vec<f32> {
    let limits = Limits { tokens: ids.len(), sequences: 1, labelled: rows.len() };
    let plan = Plan::new(&model.program, be, limits, Policy::Block, false);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut executor = Executor::reserve(&model.program, be, plan, 0, &mut ledger).unwrap();
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let spans = [Span { start: 0, prompt_end: ids.len(), end: ids.len() }];
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
    let mut out = vec![0.0; rows.len() * vocab];
    executor.logits(params, &batch, rows, MatMut::new(&mut out, rows.len(), vocab));
    executor.release(&mut ledger);
    out
}

/// Checks that, and gives the logits after each call.
fn check(name: &str, model: &Model<'_, f32>, be: &dyn Backend<f32>, params: &[f32]) -> Vec<f32> {
    let vocab = model.program.head.weight.rows();
    let ids: Vec<u32> = (0..TOKENS).map(|t| ((t * t * 7 + t * 13 + 5) % vocab) as u32).collect();
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let limits = DecodeLimits { context: TOKENS, rows: 64 };
    let plan = DecodePlan::new(&model.program, be, limits);
    let mut decoder = Decoder::reserve(&model.program, be, plan, &mut ledger).unwrap();
    // A prompt in calls of different lengths, then token by token.
    let calls = [64, 64, 64, 5].into_iter().chain(std::iter::repeat(1));
    let (mut rows, mut got) = (Vec::new(), Vec::new());
    for call in calls {
        let past = decoder.len();
        if past == TOKENS {
            break;
        }
        got.extend_from_slice(decoder.extend(params, &ids[past..past + call]));
        rows.push((past + call - 1) as u32);
    }
    decoder.release(&mut ledger);
    for (rows, got) in rows.chunks(64).zip(got.chunks(64 * vocab)) {
        let want = at_once(model, be, params, &ids, rows);
        assert_bits(&format!("{name} on {} ({})", be.name(), be.caps().isa), got, &want);
    }
    got
}

#[test]
fn cached_logits_are_those_of_the_whole_sequence() {
    for name in ["llama_tied", "llama_untied", "qwen2", "qwen3", "gemma3"] {
        let dir = golden_dir().join(name);
        let base = OpenBase::open(&dir).unwrap();
        let adapter = LoadedAdapter::open(&dir.join("lora")).unwrap();
        let model = base.build_adapted(&registry(), &adapter).unwrap();
        let mut params = vec![0.0; model.program.params()];
        adapter.fill(base.file().hyper(), &model.sites, &mut params[..]).unwrap();
        for kernels in Kernels::available().filter(|kernels| kernels.lanes() > 1) {
            check(name, &model, &Simd::with(kernels, 2), &params);
        }
        check(name, &model, &NdArray::new(2), &params);
        if name == "gemma3" {
            check(name, &model, &Scalar, &params);
        }
    }
}

#[test]
fn a_packed_base_keeps_that_in_every_precision() {
    let base = OpenBase::open(&models::quickstart()).unwrap();
    let model = base.build(None).unwrap();
    let [exact, balanced, fast] = Compute::ALL
        .map(|compute| check(compute.name(), &model, &Simd::new(2).computing(compute), &[]));
    assert!(exact != balanced && balanced != fast, "some of them round nothing");
}
