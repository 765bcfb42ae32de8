//! Methods outside the LoRA family: trained, saved, measured and used to write text.

use std::fs;

use serde_json::Value;

use crate::place::Place;

/// Trains on the speaker model.
fn finetune(place: &Place, flags: &str) {
    let line = "finetune --model speaker --data talk.jsonl --threads 2 --val-split 0.25 \
                --max-steps 3 --lr 0.01 --rank 2 --output a";
    place.lowtide(&format!("{line} {flags}")).done();
}

fn place() -> Place {
    let place = Place::new();
    place.speaker("speaker", true);
    let line = |n: u32| format!("{{\"prompt\": \"say {n}\", \"completion\": \"{n} {n}\"}}\n");
    fs::write(place.path("talk.jsonl"), (0..8).map(line).collect::<String>()).unwrap();
    place
}

#[test]
fn adapters_are_saved_measured_and_speak() {
    let place = place();
    let methods = [
        "ia3",
        "bottleneck",
        "lars",
        "lars --lars-pool chunk --method-option chunk=4",
        "lars --lars-pool gate",
    ];
    for method in methods {
        finetune(&place, &format!("--method {method}"));
        let kind = place.json("a/adapter_config.json")["peft_type"].clone();
        assert_eq!(kind, method.split(' ').next().unwrap().to_ascii_uppercase());
        let eval = "eval --model speaker --data talk.jsonl --threads 2 --json";
        let loss = |flags: &str| {
            let out = place.lowtide(&format!("{eval} {flags}")).done();
            serde_json::from_str::<Value>(&out).unwrap()["loss"].as_f64().unwrap()
        };
        assert!(loss("--adapter a") < loss(""), "{method}");
        let line =
            "generate --model speaker --adapter a --prompt hello --max-tokens 4 --context 64";
        place.lowtide(&format!("{line} --threads 2 --temperature 0")).done();
    }
    assert_eq!(place.json("a/adapter_config.json")["options"]["pool"], "gate");
}

#[test]
fn data_without_prompts_is_refused_where_the_prompt_is_pooled() {
    let place = place();
    fs::write(place.path("text.jsonl"), "{\"text\": \"no prompt here\"}\n").unwrap();
    let line = "finetune --model speaker --data text.jsonl --threads 2 --max-steps 1 --output a";
    let refused = place.lowtide(&format!("{line} --method lars"));
    assert_ne!(refused.code, Some(0));
    let words = "text.jsonl:1: no prompt before its first labelled token";
    assert!(refused.err.contains(words), "{}", refused.err);
    place.lowtide(&format!("{line} --method lars --lars-pool chunk")).done();
}
