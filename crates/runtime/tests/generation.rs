//! A session over every family, as a folder and as a GGUF file, with and without an adapter: what
//! it generates greedily is the path of the likeliest tokens that logits without a cache give.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use lowtide_backend::{Backend, Scalar, Span};
use lowtide_memory::{Budget, Ledger};
use lowtide_ndarray::NdArray;
use lowtide_runtime::{
    LoadedAdapter, OpenBase, Prompt, Request, RuntimeError, Sampling, SessionSettings, Stop,
    registry, with_session,
};
use lowtide_simd::Simd;
use lowtide_tape::{Batch, Executor, Limits, Plan, Policy};
use lowtide_tensor::MatMut;
use lowtide_testkit::gguf::write_gguf;
use lowtide_testkit::golden::{golden_dir, load_json};
use lowtide_testkit::text::byte_tokenizer_files;
use serde_json::json;

const PROMPT: &str = "the quick brown fox jumps over the lazy dog";
const GENERATED: usize = 40;

/// A golden base that can read and write text.
fn base(name: &str, dir: &Path) -> PathBuf {
    let (from, to) = (golden_dir().join(name), dir.join(name));
    std::fs::create_dir(&to).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    byte_tokenizer_files(&to, false);
    to
}

/// The untied Llama as a Mistral, with a window of so many keys.
fn mistral(window: Option<usize>, dir: &Path) -> PathBuf {
    let folder = base("llama_untied", dir);
    let mut config = load_json(&folder.join("config.json"));
    config["model_type"] = "mistral".into();
    config["architectures"] = json!(["MistralForCausalLM"]);
    config["sliding_window"] = json!(window);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    folder
}

fn generate(model: &Path, adapter: Option<&Path>, be: &dyn Backend<f32>) -> (Vec<u32>, String) {
    let settings = SessionSettings {
        model: model.to_owned(),
        adapter: adapter.map(Path::to_owned),
        context: Some(PROMPT.len() + GENERATED),
        ..SessionSettings::default()
    };
    let request = Request {
        sampling: Sampling::GREEDY,
        max_tokens: GENERATED,
        ignore_ends: true,
        ..Request::default()
    };
    let answer = with_session(&settings, be, |session| {
        session.complete(Prompt::Text(PROMPT), &request, &mut |_| ControlFlow::Continue(()))
    });
    let answer: Result<_, RuntimeError> = answer;
    let answer = answer.unwrap();
    assert_eq!((answer.prompt_tokens, answer.stop), (PROMPT.len(), Stop::MaxTokens));
    (answer.ids, answer.text)
}

/// The likeliest token after each row, computed over the whole sequence at once.
fn likeliest(model: &Path, adapter: Option<&Path>, be: &dyn Backend<f32>, ids: &[u32]) -> Vec<u32> {
    let base = OpenBase::open(model).unwrap();
    let adapter = adapter.map(|dir| LoadedAdapter::open(dir).unwrap());
    let model = match &adapter {
        Some(adapter) => base.build_adapted(&registry(), adapter),
        None => base.build(None),
    };
    let model = model.unwrap();
    let mut params = vec![0.0; model.program.params()];
    if let Some(adapter) = &adapter {
        adapter.fill(base.file().hyper(), &model.sites, &mut params[..]).unwrap();
    }
    let tokens = ids.len();
    let limits = Limits { tokens, sequences: 1, labelled: tokens };
    let plan = Plan::new(&model.program, be, limits, Policy::Block, false);
    let mut ledger = Ledger::new(Budget::UNLIMITED);
    let mut executor = Executor::reserve(&model.program, be, plan, 0, &mut ledger).unwrap();
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let spans = [Span { start: 0, prompt_end: tokens, end: tokens }];
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
    let mut logits = vec![0.0; tokens * vocab];
    for (rows, out) in positions.chunks(64).zip(logits.chunks_mut(64 * vocab)) {
        executor.logits(&params, &batch, rows, MatMut::new(out, rows.len(), vocab));
    }
    executor.release(&mut ledger);
    let best = |row: &[f32]| (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    logits.chunks_exact(vocab).map(|row| best(row) as u32).collect()
}

/// Checks a session over `model`, and gives what it said.
fn check(model: &Path, adapter: Option<&Path>, be: &dyn Backend<f32>) -> (Vec<u32>, String) {
    let (ids, text) = generate(model, adapter, be);
    let sequence: Vec<u32> = PROMPT.bytes().map(u32::from).chain(ids.iter().copied()).collect();
    let next = likeliest(model, adapter, be, &sequence);
    // Each token is the likeliest after those before it, so the path is the only one.
    let (first, last) = (PROMPT.len() - 1, sequence.len() - 1);
    assert_eq!(ids, next[first..last], "{} on {}", model.display(), be.name());
    let bytes: Vec<u8> = ids.iter().map(|id| *id as u8).collect();
    assert_eq!(text, String::from_utf8_lossy(&bytes), "{}", model.display());
    (ids, text)
}

/// Checks a folder and the file of the same base, bare and adapted, on every backend.
fn check_both(folder: &Path, adapter: &Path, dir: &Path) -> [Vec<u32>; 2] {
    let file = write_gguf(folder, dir);
    [None, Some(adapter)].map(|adapter| {
        let said = check(folder, adapter, &Simd::new(2));
        assert_eq!(check(&file, adapter, &Simd::new(2)), said, "{}: file", folder.display());
        let others: [&dyn Backend<f32>; 2] = [&NdArray::new(2), &Scalar];
        for be in others {
            assert_eq!(check(folder, adapter, be), said, "{} on {}", folder.display(), be.name());
        }
        said.0
    })
}

#[test]
fn greedy_text_is_the_path_of_uncached_logits() {
    for name in ["llama_tied", "llama_untied", "qwen2", "qwen3", "gemma3"] {
        let dir = tempfile::tempdir().unwrap();
        let folder = base(name, dir.path());
        let adapter = golden_dir().join(name).join("lora");
        let [bare, adapted] = check_both(&folder, &adapter, dir.path());
        assert_ne!(bare, adapted, "{name}: the adapter says something else");
    }
}

#[test]
fn a_mistral_speaks_as_a_llama_with_a_window() {
    let adapter = golden_dir().join("llama_untied/lora");
    let spoken = |window: Option<usize>| {
        let dir = tempfile::tempdir().unwrap();
        let folder = mistral(window, dir.path());
        match window {
            None => check_both(&folder, &adapter, dir.path()),
            Some(_) => [None, Some(&*adapter)].map(|adapter| {
                let said = check(&folder, adapter, &Simd::new(2));
                assert_eq!(check(&folder, adapter, &Scalar), said);
                said.0
            }),
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let llama = base("llama_untied", dir.path());
    let unbounded = spoken(None);
    assert_eq!(unbounded[0], generate(&llama, None, &Simd::new(2)).0);
    assert_eq!(unbounded[1], generate(&llama, Some(&adapter), &Simd::new(2)).0);
    assert_ne!(spoken(Some(8)), unbounded, "keys that left the window");
}
