//! A folder of examples in the forms people have, through a whole job: read, cut, told, trained on
//! and measured.

use std::fs;

use lowtide_simd::Simd;
use lowtide_testkit::golden::{golden_dir, load_json};
use lowtide_testkit::tiny::TinyLlama;
use lowtide_train::{DataReport, EvalSettings, Event, PlanReport, Settings, evaluate, finetune};
use serde_json::{Value, json};

use crate::support::Home;

/// A tokenizer of SentencePiece's kind in which every byte is a token: 256 of them, and three for
/// the conversation. So tokens are bytes, and can be counted by hand.
fn tokenizer() -> Value {
    let special = ["<unk>", "<|im_start|>", "<|im_end|>"];
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let tokens = special.iter().map(ToString::to_string).chain(bytes);
    let vocab: serde_json::Map<String, Value> = tokens.zip((0..).map(Value::from)).collect();
    let added = special.iter().zip(0..).map(|(token, id)| {
        json!({ "id": id, "content": token, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false })
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "ByteFallback" }, { "type": "Fuse" },
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "byte_fallback": true, "vocab": vocab, "merges": [],
        },
    })
}

/// A base that knows a template with tools, and a folder with records of every kind.
fn home() -> Home {
    let home = Home::new(&TinyLlama { vocab: 264, ..TinyLlama::default() });
    let golden = load_json(&golden_dir().join("tokenizers/tools.json"));
    let write = |name: &str, text: String| fs::write(home.path(name), text).unwrap();
    write("base/tokenizer.json", tokenizer().to_string());
    let config = json!({ "eos_token": "<|im_end|>", "chat_template": golden["template"] });
    write("base/tokenizer_config.json", config.to_string());
    fs::create_dir(home.path("data")).unwrap();
    let said = |from: &str, value: &str| json!({ "from": from, "value": value });
    let train = [
        json!({ "instruction": "Say hello.", "input": "", "output": "Hello 🙂" }),
        json!({ "instruction": "Translate.", "input": "Größe", "output": "size" }),
        json!({ "conversations": [said("human", "Hi"), said("gpt", "Ho")] }),
        json!({ "conversations": [
            said("human", "On."),
            said("function_call", "{\"name\": \"on\", \"arguments\": {}}"),
            said("observation", "ok"),
            said("gpt", "It is."),
        ]}),
        json!({ "messages": golden["conversation"], "tools": golden["tools"] }),
        json!({ "prompt": "p".repeat(400), "completion": "never seen" }),
    ];
    let lines = |records: &[Value]| records.iter().map(|record| format!("{record}\n")).collect();
    write("data/train.jsonl", lines(&train));
    write("data/valid.jsonl", lines(&train[..1]));
    write("data/test.jsonl", lines(&train[1..3]));
    home
}

fn settings(home: &Home) -> Settings {
    Settings {
        data: home.path("data"),
        max_seq_len: 200,
        max_steps: None,
        val_split: 0.5,
        warmup_steps: Some(9),
        ..home.settings(&[9])
    }
}

/// Bytes of a turn in the template, with the three tokens that stand for more than a byte.
fn turn(role: &str, content: &str) -> usize {
    1 + role.len() + 1 + content.len() + 1 + 1
}

#[test]
fn a_folder_of_every_form_is_read_trained_on_and_measured() {
    let home = home();
    let (mut data, mut plan) = (DataReport::default(), None);
    let settings = settings(&home);
    let be = Simd::new(1);
    let summary = finetune(&settings, &be, 1, &mut |event| match event {
        Event::Data(report) => data = report.clone(),
        Event::Plan(report) => plan = Some(report.clone()),
        _ => {}
    })
    .unwrap();
    // The last record's completion lies behind the cut; the one with tools loses its end, if it
    // keeps a labelled token at all.
    assert_eq!((data.examples as u64 + data.dropped, data.valid_examples), (6, 1));
    assert!(data.dropped >= 1 && data.longest <= 200, "{data:?}");
    assert_eq!(data.valid_labelled_tokens as usize, "Hello 🙂".len() + 1);
    assert_eq!(summary.steps, data.examples as u64);
    assert!(summary.eval_loss_before.unwrap() > summary.eval_loss_after.unwrap());
    let sample = data.sample.unwrap();
    assert!(sample.contains("assistant\n⟦Hello 🙂<|im_end|>⟧"), "{sample}");
    warned(&plan.unwrap());

    let eval = EvalSettings {
        model: settings.model.clone(),
        adapter: Some(settings.output.clone()),
        data: settings.data.clone(),
        max_seq_len: 200,
        batch_size: 1,
        sliding_window: None,
        packing: true,
        mask_prompt: true,
        memory_budget: None,
        stream_weights: lowtide_train::StreamWeights::Auto,
    };
    let measured = evaluate(&eval, &be).unwrap();
    let [first, second] = [("Translate.\n\nGröße", "size"), ("Hi", "Ho")];
    let both = [first, second].map(|(user, says)| turn("user", user) + turn("assistant", says));
    assert_eq!(measured.tokens as usize, both.iter().sum::<usize>());
    assert_eq!(measured.labelled_tokens, 4 + 1 + 2 + 1);
}

/// What cannot be heeded is told: a share to hold out beside a file, and a warm-up to the end.
fn warned(plan: &PlanReport) {
    let words: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(words.len(), 2, "{words:?}");
    assert!(words[0].starts_with("`warmup-steps` is 9 and the run has "), "{words:?}");
    assert!(words[1].contains("valid.jsonl is there"), "{words:?}");
}

#[test]
fn what_the_cut_takes_is_told() {
    let home = home();
    let report = |max_seq_len| {
        let mut data = DataReport::default();
        let settings = Settings { max_seq_len, max_steps: Some(1), ..settings(&home) };
        finetune(&settings, &Simd::new(1), 1, &mut |event| {
            if let Event::Data(report) = event {
                data = report.clone();
            }
        })
        .unwrap();
        data
    };
    let whole = report(4096);
    assert_eq!((whole.truncated, whole.tokens_cut, whole.dropped, whole.examples), (0, 0, 0, 6));
    let cut = report(whole.longest - 5);
    assert_eq!((cut.truncated, cut.tokens_cut, cut.dropped), (1, 5, 0));
    assert_eq!(cut.tokens + 5, whole.tokens);
}
