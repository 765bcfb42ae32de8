//! After reserve nothing large is allocated: reading a prompt, drawing tokens and turning them into
//! text work in what the session has reserved. On one thread, because rayon asks for a little when
//! there are more.

use std::ops::ControlFlow;

use lowtide_backend::{Backend, Scalar};
use lowtide_runtime::{Prompt, Request, RuntimeError, Sampling, SessionSettings, with_session};
use lowtide_simd::{Compute, Simd};
use lowtide_testkit::alloc::{Request as Asked, TestAlloc};
use lowtide_testkit::models;
use lowtide_testkit::text::byte_tokenizer_files;
use lowtide_testkit::tiny::{TinyLlama, tiny_llama_folder};

#[global_allocator]
static ALLOC: TestAlloc = TestAlloc::new();

/// Requests above 4 KiB are large: one value per token of the prompt or per word of the vocabulary
/// takes more.
const LARGE: usize = 4097;

const VOCAB: u32 = 4096;
const PROMPT: u32 = 1100;
const GENERATED: usize = 40;

/// Words that the quickstart's base knows, and tokens of a prompt for it.
const PACKED: (u32, u32) = (1280, 400);

/// Without the harness of tests: the allocator counts what its threads do as well.
fn main() {
    let dir = tempfile::tempdir().unwrap();
    let shape = TinyLlama {
        hidden: 16,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        intermediate: 32,
        vocab: VOCAB as usize,
        ..TinyLlama::default()
    };
    tiny_llama_folder(dir.path(), &shape);
    byte_tokenizer_files(dir.path(), false);
    let settings = SessionSettings {
        model: dir.path().to_owned(),
        context: Some(PROMPT as usize + GENERATED),
        ..SessionSettings::default()
    };
    check(&settings, (VOCAB, PROMPT), &Simd::new(1));
    check(&settings, (VOCAB, PROMPT), &Scalar);
    // And with packed weights.
    let context = Some(PACKED.1 as usize + GENERATED);
    let packed = SessionSettings { model: models::quickstart(), context, ..settings };
    for compute in [Compute::F32, Compute::Int8x2] {
        check(&packed, PACKED, &Simd::new(1).computing(compute));
    }
}

/// Asks for a prompt of so many of so many words.
fn check(settings: &SessionSettings, (vocab, tokens): (u32, u32), be: &dyn Backend<f32>) {
    let prompt: Vec<u32> = (0..tokens).map(|t| (t * 31 + 7) % vocab).collect();
    let sampled = Sampling { repetition_penalty: 1.1, top_k: 0, ..Sampling::default() };
    let done: Result<(), RuntimeError> = with_session(settings, be, |session| {
        // The tokenizer's library makes its table of bytes on first use.
        session.text().tokenizer()?.decode_plain(&[65]).unwrap();
        for (sampling, prompt) in [
            (Sampling::GREEDY, &prompt[..]),
            // One that has nothing in common with what was read.
            (sampled, &prompt[1..]),
            // And one that was read for the most part.
            (sampled, &prompt[1..prompt.len() - 100]),
        ] {
            let request = Request {
                sampling,
                max_tokens: GENERATED,
                ignore_ends: true,
                ..Request::default()
            };
            let (answer, counts) = ALLOC.counting(LARGE, || {
                let mut hear = |_: &str| ControlFlow::Continue(());
                session.complete(Prompt::Ids(prompt), &request, &mut hear)
            });
            let answer = answer?;
            assert_eq!(answer.ids.len(), GENERATED);
            let largest: Vec<Asked> = counts.largest().collect();
            assert_eq!(counts.large, 0, "{}, {sampling:?}: {largest:?}", be.name());
            assert!(counts.live_peak <= 16 << 10, "{} bytes at once", counts.live_peak);
        }
        Ok(())
    });
    done.unwrap();
}
