//! HF names and GGUF names of the same tensor.

/// Modules inside a block, HF and GGUF.
pub(crate) type NameTable = &'static [(&'static str, &'static str)];

const HF_BLOCKS: &str = "model.layers.";
const GGUF_BLOCKS: &str = "blk.";
/// Modules outside the blocks; the same in every family.
const OUTSIDE: NameTable =
    &[("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// The GGUF name of the tensor that HF calls `name`, such as `blk.0.attn_q.weight` for
/// `model.layers.0.self_attn.q_proj.weight`.
pub(crate) fn to_gguf(block_names: NameTable, name: &str) -> Option<String> {
    let pick = |pair: &(&'static str, &'static str)| (pair.0, pair.1);
    translate(block_names, name, HF_BLOCKS, GGUF_BLOCKS, pick)
}

/// The HF name of the tensor that GGUF calls `name`; the inverse of [`to_gguf`].
pub(crate) fn to_hf(block_names: NameTable, name: &str) -> Option<String> {
    let pick = |pair: &(&'static str, &'static str)| (pair.1, pair.0);
    translate(block_names, name, GGUF_BLOCKS, HF_BLOCKS, pick)
}

fn translate(
    block_names: NameTable,
    name: &str,
    from_blocks: &str,
    to_blocks: &str,
    pick: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
) -> Option<String> {
    let (module, leaf) = name.rsplit_once('.')?;
    let lookup = |table: NameTable, module: &str| {
        table.iter().map(&pick).find(|(from, _)| *from == module).map(|(_, to)| to)
    };
    match module.strip_prefix(from_blocks) {
        Some(rest) => {
            let (block, module) = rest.split_once('.')?;
            let canonical = block.parse::<u32>().is_ok_and(|n| n.to_string() == block);
            let module = lookup(block_names, module).filter(|_| canonical)?;
            Some(format!("{to_blocks}{block}.{module}.{leaf}"))
        }
        None => Some(format!("{}.{leaf}", lookup(OUTSIDE, module)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::LLAMA_BLOCK_NAMES as LLAMA;

    #[test]
    fn names_translate_both_ways() {
        for (hf, gguf) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight"),
            ("model.layers.12.self_attn.o_proj.bias", "blk.12.attn_output.bias"),
            ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
            ("model.layers.3.post_attention_layernorm.weight", "blk.3.ffn_norm.weight"),
        ] {
            assert_eq!(to_gguf(LLAMA, hf).as_deref(), Some(gguf));
            assert_eq!(to_hf(LLAMA, gguf).as_deref(), Some(hf));
        }
    }

    #[test]
    fn strange_names_have_no_translation() {
        for name in ["", "weight", "blk.0.attn_q", "blk.x.attn_q.weight", "blk.01.attn_q.weight"] {
            assert_eq!(to_hf(LLAMA, name), None, "{name}");
        }
        assert_eq!(to_gguf(LLAMA, "model.layers.0.self_attn.q_norm.weight"), None);
        assert_eq!(to_gguf(LLAMA, "model.layers.-1.mlp.up_proj.weight"), None);
    }
}
