//! The real SmolLM2-135M-Instruct (Q4_1 GGUF): greedy text, id by id, against transformers on its
//! dequantised weights.

use std::ops::ControlFlow;

use lowtide_backend::Backend;
use lowtide_ndarray::NdArray;
use lowtide_runtime::{
    Prompt, Request, RuntimeError, Sampling, SessionSettings, Stop, with_session,
};
use lowtide_simd::{Compute, Simd};
use lowtide_testkit::golden::{golden_dir, load_json, numbers};
use lowtide_testkit::models::smollm2;

fn ids(value: &serde_json::Value) -> Vec<u32> {
    numbers(value).iter().map(|id| *id as u32).collect()
}

#[test]
fn greedy_text_is_that_of_transformers() {
    speaks_as_transformers(&Simd::new(2), 2, usize::MAX);
    speaks_as_transformers(&Simd::new(2).computing(Compute::Int8x2), 1, usize::MAX);
    // The plain backend is slow, and what is around it is the same: a few words are enough.
    speaks_as_transformers(&NdArray::new(2), 1, 8);
}

/// Checks the first `most` tokens of the golden answers to the first so many prompts.
fn speaks_as_transformers(be: &dyn Backend<f32>, prompts: usize, most: usize) {
    let Some(model) = smollm2() else { return };
    let golden = load_json(&golden_dir().join("smollm2/golden.json"));
    let settings = SessionSettings { model, context: Some(256), ..SessionSettings::default() };
    with_session(&settings, be, |session| {
        let cases = golden["greedy_base"].as_array().unwrap();
        assert!(cases.len() >= 2);
        for case in &cases[..prompts] {
            let (prompt, mut want) = (case["prompt"].as_str().unwrap(), ids(&case["new_ids"]));
            want.truncate(most);
            assert_eq!(session.text().plain(prompt)?, ids(&case["prompt_ids"]));
            let request = Request {
                sampling: Sampling::GREEDY,
                max_tokens: want.len(),
                ignore_ends: true,
                ..Request::default()
            };
            let mut heard = String::new();
            let answer = session.complete(Prompt::Text(prompt), &request, &mut |piece| {
                heard.push_str(piece);
                ControlFlow::Continue(())
            })?;
            assert_eq!(answer.ids, want, "{prompt} on {}", be.name());
            assert_eq!((answer.stop, &heard), (Stop::MaxTokens, &answer.text));
        }
        Ok::<_, RuntimeError>(())
    })
    .unwrap();
}
