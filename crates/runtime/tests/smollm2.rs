//! The real SmolLM2-135M-Instruct (Q4_1 GGUF): greedy text, id by id, against transformers on its
//! dequantised weights.

use std::ops::ControlFlow;

use lowtide_ndarray::NdArray;
use lowtide_runtime::{
    Prompt, Request, RuntimeError, Sampling, SessionSettings, Stop, with_session,
};
use lowtide_testkit::golden::{golden_dir, load_json, numbers};
use lowtide_testkit::models::smollm2;

fn ids(value: &serde_json::Value) -> Vec<u32> {
    numbers(value).iter().map(|id| *id as u32).collect()
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let Some(model) = smollm2() else { return };
    let golden = load_json(&golden_dir().join("smollm2/golden.json"));
    let settings = SessionSettings { model, context: Some(256), ..SessionSettings::default() };
    with_session(&settings, &NdArray::new(2), |session| {
        let cases = golden["greedy_base"].as_array().unwrap();
        assert!(cases.len() >= 2);
        for case in cases {
            let (prompt, want) = (case["prompt"].as_str().unwrap(), ids(&case["new_ids"]));
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
            assert_eq!(answer.ids, want, "{prompt}");
            assert_eq!((answer.stop, &heard), (Stop::MaxTokens, &answer.text));
        }
        Ok::<_, RuntimeError>(())
    })
    .unwrap();
}
