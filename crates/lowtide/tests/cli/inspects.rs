//! What `inspect` tells, and what it refuses.

use std::fs;

use lowtide_testkit::golden::golden_dir;
use lowtide_testkit::tiny::TinyLlama;
use serde_json::Value;

use crate::place::{Place, files};

fn json(place: &Place, line: &str) -> Value {
    let out = place.lowtide(&format!("inspect {line} --json")).done();
    assert_eq!(out.lines().count(), 1);
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_model_is_told_by_shape_and_tensors() {
    let place = Place::new();
    let before = files(place.root());
    let out = place.lowtide("inspect model").done();
    for part in [
        "Model model\n  file          Hugging Face folder, ",
        "\n  architecture  llama, 2 blocks\n",
        "\n  width         64 hidden, 128 in feed-forward, silu\n",
        "\n  attention     4 query heads over 2 key-value heads, 16 wide\n",
        "\n  positions     theta 10000\n  context       2,048 tokens\n",
        "\n  vocabulary    256 tokens, head tied to the embedding\n",
        "\nTokenizer\n  kind          none\n  stops at      2\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("q_proj"), "{out}");
    let tensors = TinyLlama::default().tensors();
    let numbers: usize = tensors.values().map(|array| array.data.len()).sum();
    let model = json(&place, "model --tensors");
    assert_eq!((&model["kind"], &model["parameters"]), (&"model".into(), &numbers.into()));
    let types = serde_json::json!([
        { "type": "F32", "tensors": 20, "parameters": numbers, "bytes": 4 * numbers },
    ]);
    assert_eq!(model["types"], types);
    assert_eq!(model["tensors"].as_array().unwrap().len(), 20);
    let row = &model["tensors"][0];
    let expected = serde_json::json!({
        "name": "model.embed_tokens.weight", "type": "F32", "shape": [256, 64], "bytes": 65536,
    });
    assert_eq!(row, &expected);
    let out = place.lowtide("inspect model --tensors").done();
    assert!(out.contains("\n  model.layers.1.self_attn.q_proj.weight "), "{out}");
    assert_eq!(files(place.root()), before, "reading writes nothing");
}

#[test]
fn packed_types_count_their_scales() {
    let place = Place::new();
    let folder = golden_dir().join("formats/bnb_int8");
    let model = json(&place, folder.to_str().unwrap());
    let types = model["types"].as_array().unwrap();
    let int8 = types.iter().find(|row| row["type"] == "INT8");
    let int8 = int8.unwrap_or_else(|| panic!("{types:?}"));
    assert!(int8["bytes"].as_u64() > int8["parameters"].as_u64(), "{int8}");
}

#[test]
fn an_adapter_is_told_by_method_rank_and_place() {
    let place = Place::new();
    place.on_model("finetune --max-steps 1 --rank 4 --target-modules q_proj,v_proj -q").done();
    let out = place.lowtide("inspect adapter").done();
    for part in [
        "Adapter adapter\n  method        lora\n  rank          4\n",
        "\n  alpha         16, scaled by alpha / rank\n",
        "\n  targets       q_proj, v_proj\n",
        "\n  adapts        4 linears: q_proj 2, v_proj 2\n",
        "\n  base          model\n  tensors       8 tensors of F32\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let adapter = json(&place, "adapter --tensors");
    assert_eq!((&adapter["kind"], &adapter["rank"]), (&"adapter".into(), &4.into()));
    assert_eq!(adapter["tensor_list"].as_array().unwrap().len(), 8);
    let m = TinyLlama::default();
    let wide = m.heads * m.head_dim + m.kv_heads * m.head_dim + 2 * m.hidden;
    assert_eq!(adapter["parameters"], 2 * 4 * wide);
}

#[test]
fn data_is_told_by_form_and_with_a_model_by_tokens() {
    let place = Place::new();
    let out = place.lowtide("inspect data.jsonl").done();
    assert!(out.starts_with("Data data.jsonl (train)\n  size "), "{out}");
    assert!(out.contains("\n  records       12\n  form          input_ids (12)\n"), "{out}");
    assert!(out.contains("\nFirst record\n  {\"input_ids\":[0,7,14,"), "{out}");
    let out = place.lowtide("inspect data.jsonl --model model --max-seq-len 10").done();
    for part in [
        "\n  lengths       8 to 12 tokens, median 10, mean 9.8\n",
        "\n  --max-seq-len 4 examples of more than 10 tokens, 6 too many in all\n",
        "\nExample (⟦text in brackets⟧ carries loss)\n  0 7 14 21 ⟦28 35 42 49⟧\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    place.examples("folder/train.jsonl", 2);
    place.examples("folder/valid.jsonl", 3);
    let data = json(&place, "folder -m model");
    let parts: Vec<_> = data["files"].as_array().unwrap().iter().collect();
    assert_eq!((&parts[0]["part"], &parts[1]["part"]), (&"train".into(), &"valid".into()));
    assert_eq!(parts[1]["tokens"]["examples"], 3);
    fs::write(place.path("a.txt"), "one\n\x1b]0;two\n").unwrap();
    let out = place.lowtide("inspect a.txt").done();
    assert!(out.contains("\n  plain text    2 lines\n") && out.contains("\n  one\n"), "{out}");
}

#[test]
fn what_cannot_be_inspected_is_said() {
    let place = Place::new();
    fs::write(place.path("x.bin"), "x").unwrap();
    fs::write(place.path("torn.gguf"), "GGUF").unwrap();
    fs::write(place.path("bad.jsonl"), "{\"text\": \"a\"}\n{\"x\": 1}\n").unwrap();
    fs::create_dir(place.path("peft")).unwrap();
    fs::write(place.path("peft/adapter_config.json"), "{\"peft_type\": 3}").unwrap();
    for (line, says) in [
        ("absent", "absent: no such file or folder\n"),
        ("x.bin", "x.bin: neither model nor adapter nor data; expected a .gguf file (a model"),
        ("torn.gguf", "torn.gguf: "),
        ("bad.jsonl", "bad.jsonl:2: "),
        ("peft", "peft/adapter_config.json: "),
        ("data.jsonl -m absent", "--model absent: no such file or folder\n"),
        ("data.jsonl -m torn.gguf", "torn.gguf: "),
    ] {
        let error = place.lowtide(&format!("inspect {line}")).failed(1);
        assert!(error.starts_with(&format!("error: {says}")), "{line}: {error}");
    }
    place.lowtide("inspect").failed(2);
    let error = place.lowtide("inspect data.jsonl -m model --max-seq-len 1").failed(2);
    assert!(error.contains("--max-seq-len is 1, expected at least 2"), "{error}");
}
