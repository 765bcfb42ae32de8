//! LARS against LoRA by the plans of a model whose weights nobody has to have.

use lowtide_model::{Config, Model};
use lowtide_optim::AdamW;
use lowtide_simd::Simd;
use lowtide_tape::{Checkpointing, Limits, Policy};
use lowtide_train::{Gradient, Needs, RunPlan};

use super::Base;
use super::base::{llama3, qwen25};
use super::step::TILE;

/// The numbers of Llama-3.2-1B.
fn llama1() -> Config {
    let Config {
        hidden_size, num_hidden_layers, intermediate_size, attention_scale, head_dim, ..
    } = qwen25(2048, 16, 32, 64, 8192);
    let num_attention_heads = 32;
    Config {
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        intermediate_size,
        attention_scale,
        head_dim,
        ..llama3()
    }
}

/// One sequence, the second half of which carries loss.
fn needs(tokens: usize) -> Needs {
    Needs {
        limits: Limits { tokens, sequences: 1, labelled: tokens / 2 },
        longest: tokens,
        data_bytes: 0,
        apply_and_free: true,
        train: true,
        gradient: Gradient::Backprop,
    }
}

/// Bytes of a plan.
fn planned(model: &Model<'_, f32>, tokens: usize, how: Checkpointing) -> u64 {
    RunPlan::new(model, &Simd::new(2), &AdamW::default(), needs(tokens), how).bytes().held()
}

#[test]
fn lars_holds_at_least_15_percent_less_where_all_is_stored() {
    let base = Base::outline("llama-3.2-1b", &llama1());
    let [lora, lars] = ["lora", "lars"].map(|kind| base.adapted_by(kind, 8).unwrap());
    for tokens in [1024, 2048] {
        let share = |how: Checkpointing| {
            let [lora, lars] = [&lora, &lars].map(|model| planned(model, tokens, how) as f64);
            lars / lora
        };
        let (store, block) = (share(Policy::Store.into()), share(Policy::Block.into()));
        assert!(store < 0.85 && block < 1.0, "{tokens} tokens: {store:.3} and {block:.3}");
        // A pooled sequence cannot be cut into tiles of rows.
        let tiled = share(Checkpointing::from(Policy::Sqrt).tiled(TILE));
        assert!(tiled > 1.0, "{tokens} tokens in tiles: {tiled:.3}");
    }
}
