//! Adapter folders as mlx-lm writes them, made from PEFT folders.

use std::path::Path;

use serde_json::json;

use crate::golden::{Array, Arrays, load_json, load_safetensors};
use crate::tiny::write_safetensors;

/// Writes the LoRA adapter in `peft`, which has one alpha, into the folder `to` in mlx-lm's names
/// and shapes.
///
/// # Panics
/// When a file cannot be read or written, or `peft` is no plain LoRA adapter.
pub fn mlx_folder(peft: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    let tensors = load_safetensors(&peft.join("adapter_model.safetensors"));
    let turned: Arrays = tensors.iter().map(|(name, array)| (renamed(name), turn(array))).collect();
    write_safetensors(&to.join("adapters.safetensors"), &turned);
    let config = load_json(&peft.join("adapter_config.json"));
    let (rank, alpha) = (config["r"].as_u64().unwrap(), config["lora_alpha"].as_f64().unwrap());
    let said = json!({
        "model": "org/base",
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": { "rank": rank, "scale": alpha / rank as f64, "dropout": 0.0 },
        "learning_rate": 1e-5,
    });
    let path = to.join("adapter_config.json");
    std::fs::write(&path, said.to_string()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn renamed(name: &str) -> String {
    let module = name.strip_prefix("base_model.model.").expect("a name of PEFT");
    module.replace("lora_A.weight", "lora_a").replace("lora_B.weight", "lora_b")
}

fn turn(array: &Array) -> Array {
    let &[rows, cols] = &array.shape[..] else { panic!("a matrix") };
    let data = (0..cols).flat_map(|col| (0..rows).map(move |row| array.data[row * cols + col]));
    Array { shape: vec![cols, rows], data: data.collect() }
}
