//! What PEFT counts as LoRA and computes otherwise, and VeRA.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lowtide_formats::peft::{
    AdapterFiles, AdapterTensor, CONFIG_FILE, LORA_MAGNITUDE, LoraConfig, LoraVariant,
    MethodConfig, WEIGHTS_FILE, parse_lora_config, shape_in_file, tensor_name, write,
};
use lowtide_formats::safe::Values;
use serde_json::{Map, Value, json};
use support::golden;

const Q: &str = "model.layers.0.self_attn.q_proj";

fn document(dir: &Path) -> Map<String, Value> {
    let text = fs::read_to_string(dir.join(CONFIG_FILE)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn dora_is_lora_with_lengths() {
    for (adapter, outputs) in [("formats/lora_dora", 32), ("llama_tied/dora", 64)] {
        let files = AdapterFiles::open(&golden(adapter)).unwrap();
        let (config, pairs) = files.lora().unwrap();
        assert_eq!(config.variant, LoraVariant::Dora);
        assert_eq!(Value::from(config.to_document()), Value::from(document(files.dir())));
        let pair = pairs.iter().find(|pair| pair.module == Q).unwrap();
        assert_eq!((pair.rank(), pair.b.shape), (4, &[outputs, 4][..]));
        assert_eq!(files.tensor(Q, LORA_MAGNITUDE).unwrap().shape, [outputs]);
    }
}

#[test]
fn variants_that_are_not_plain_are_named() {
    let with = |settings: Value| {
        let mut config = document(&golden("formats/l4"));
        config.extend(settings.as_object().unwrap().clone());
        parse_lora_config(&Value::from(config).to_string())
    };
    let plain = with(json!({})).unwrap();
    assert_eq!((plain.variant, plain.variant.check_plain()), (LoraVariant::Plain, Ok(())));
    let told = json!({"use_qalora": true, "qalora_group_size": 8});
    let config = with(told.clone()).unwrap();
    assert_eq!(config.variant, LoraVariant::QaLora { group_size: 8 });
    for (key, value) in told.as_object().unwrap() {
        assert_eq!(&config.to_document()[key], value, "{key}");
    }
    for (settings, words) in [
        (
            json!({"use_dora": true, "use_qalora": true}),
            "`use_qalora` is true, which is not supported; supported: false where `use_dora` is \
             true",
        ),
        (
            json!({"use_qalora": true, "qalora_group_size": 0}),
            "`qalora_group_size` is 0; expected a whole number from 1",
        ),
        (json!({"use_dora": 1}), "`use_dora` is a number; expected true or false"),
    ] {
        assert_eq!(with(settings).unwrap_err().to_string(), words);
    }
    let dora = LoraVariant::Dora.check_plain().unwrap_err().to_string();
    assert_eq!(dora, "`use_dora` is true, which is not supported; supported: false");
}

/// Why a folder of one module with these tensors is refused.
fn refused(variant: LoraVariant, tensors: &[(&str, &[usize])]) -> String {
    let config = LoraConfig { r: 2, variant, ..LoraConfig::default() };
    let dir = tempfile::tempdir().unwrap();
    let values = [1.0; 64];
    let outgoing: Vec<_> = tensors
        .iter()
        .map(|(parameter, shape)| AdapterTensor {
            module: Q.to_owned(),
            parameter: (*parameter).to_owned(),
            shape: shape.to_vec(),
            values: Values::F32(&values[..shape.iter().product()]),
            permuted: None,
        })
        .collect();
    write(dir.path(), &config.to_document(), &outgoing).unwrap();
    let error = AdapterFiles::open(dir.path()).and_then(|files| files.lora().map(|_| ()));
    let file = dir.path().join(WEIGHTS_FILE).display().to_string();
    error.unwrap_err().to_string().replace(&file, "file")
}

#[test]
fn lengths_belong_to_pairs_of_dora() {
    let (a, b) = (("lora_A.weight", &[2, 4][..]), ("lora_B.weight", &[3, 2][..]));
    let m = tensor_name(Q, LORA_MAGNITUDE);
    let error = refused(LoraVariant::Dora, &[a, b]);
    let b_name = tensor_name(Q, "lora_B.weight");
    assert_eq!(error, format!("file: tensor `{m}` is missing; `{b_name}` is there"));
    let error = refused(LoraVariant::Dora, &[a, b, (LORA_MAGNITUDE, &[4])]);
    assert_eq!(error, format!("file: tensor `{m}` has shape [4]; expected [3]"));
    let error = refused(LoraVariant::Dora, &[(LORA_MAGNITUDE, &[4])]);
    assert!(error.contains("lora_A.weight` is missing; `"), "{error}");
    let error = refused(LoraVariant::Plain, &[a, b, (LORA_MAGNITUDE, &[3])]);
    assert!(error.contains(&format!("`{m}` does not belong to a LORA adapter")), "{error}");
}

#[test]
fn vera_as_peft_has_it() {
    let files = AdapterFiles::open(&golden("formats/vera")).unwrap();
    let (config, modules) = files.method().unwrap();
    let option = |name: &str| config.options[name].as_str();
    assert_eq!((config.r, option("projection_prng_key"), option("d_initial")), (3, "11", "0.2"));
    assert!(modules.contains(Q) && modules.len() == 4, "{modules:?}");
    let shapes = files.projections().map(|(_, tensor)| tensor.unwrap().shape.to_vec());
    assert_eq!(shapes, [vec![3, 64], vec![32, 3]]);
    let written = config.to_document();
    assert_eq!(MethodConfig::from_document(&written, &modules).unwrap(), config);
    let theirs = document(files.dir());
    for (key, value) in &written {
        if key == "save_projection" {
            assert_eq!((value, &theirs[key]), (&json!(false), &json!(true)));
        } else {
            assert_eq!(Some(value), theirs.get(key), "{key}");
        }
    }
    assert_eq!(shape_in_file("vera_lambda_b", [32, 1]), [32]);
    assert_eq!(shape_in_file("ia3_l", [32, 1]), [32, 1]);
}

#[test]
fn settings_of_vera_that_are_refused() {
    let refused = |key: &str, value: Value| {
        let mut config = document(&golden("formats/vera"));
        config.insert(key.to_owned(), value);
        MethodConfig::from_document(&config, &BTreeSet::new()).unwrap_err().to_string()
    };
    let words = "`projection_prng_key` is -1; expected a whole number from 0";
    assert_eq!(refused("projection_prng_key", json!(-1)), words);
    let words = "`vera_dropout` is 1; expected a number from 0 to below 1";
    assert_eq!(refused("vera_dropout", json!(1.0)), words);
    let words = "`bias` is \"all\", which is not supported; supported: \"none\"";
    assert_eq!(refused("bias", json!("all")), words);
}
