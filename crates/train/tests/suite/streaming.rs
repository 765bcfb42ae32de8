//! Streaming weights is a matter of speed: no bit of a run depends on it.

use lowtide_simd::Simd;
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{Settings, StreamWeights, evaluate, finetune};

use crate::refused::eval;
use crate::support::Home;

#[test]
fn streamed_runs_give_the_same_bits() {
    let home = Home::new(&TinyLlama { layers: 4, ..TinyLlama::default() });
    let settings = |stream: &str, checkpointing: &str| Settings {
        stream_weights: stream.into(),
        checkpointing: checkpointing.into(),
        output: home.path(stream),
        ..home.settings(&[40, 33])
    };
    for checkpointing in ["block", "every:2"] {
        let run = |stream: &str| {
            let settings = settings(stream, checkpointing);
            let summary = finetune(&settings, &Simd::new(1), 1, &mut |_| ()).unwrap();
            assert_eq!(summary.stream_weights, stream == "on");
            let adapter = settings.output.join("adapter_model.safetensors");
            (summary.loss_first, summary.loss_last, std::fs::read(adapter).unwrap())
        };
        assert!(run("on") == run("off"), "{checkpointing}");
    }
    let loss = |stream_weights| {
        let settings = eval(&settings("off", "block"), Some(home.path("off")));
        evaluate(&lowtide_train::EvalSettings { stream_weights, ..settings }, &Simd::new(1))
            .unwrap()
            .loss
    };
    assert_eq!(loss(StreamWeights::On), loss(StreamWeights::Off));
}
