"""Writes what `pretrain.py` made as one GGUF file, with its tokenizer and chat template inside."""

import argparse
import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, LlamaFileType, TokenType, quants
from safetensors.numpy import load_file
from safetensors import safe_open

from model import Shape
from pretrain import SPECIALS

NAMES = {
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.o": "attn_output",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def gguf_name(name):
    if name.startswith("blocks."):
        _, block, rest = name.removesuffix(".weight").split(".", 2)
        return f"blk.{block}.{NAMES[rest]}.weight"
    return {"embedding.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]


def interleaved(weight, head_dim):
    """Rows of q or k in the order of llama.cpp, whose rotary positions turn neighbours."""
    halves = weight.reshape(-1, 2, head_dim // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_settings(writer, shape):
    writer.add_name("Lowtide quickstart")
    writer.add_license("MIT OR Apache-2.0")
    writer.add_description("Household commands to intents, for generic homes")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(2)
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.theta)
    writer.add_layer_norm_rms_eps(shape.eps)


def write_tokenizer(writer, path):
    model = json.loads(path.read_text("utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    assert [model["vocab"][token] for token in tokens] == list(range(len(tokens)))
    types = [TokenType.CONTROL if token in SPECIALS else TokenType.NORMAL for token in tokens]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    end_of_text, _, end_of_turn = (tokens.index(special) for special in SPECIALS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(end_of_turn)
    writer.add_pad_token_id(end_of_text)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path, help="folder that pretrain.py wrote")
    parser.add_argument("output", type=Path, help="GGUF file to write")
    parser.add_argument("--type", choices=[t.name for t in (Type.Q8_0, Type.F32)], default="Q8_0")
    args = parser.parse_args()
    with safe_open(args.input / "model.safetensors", "numpy") as file:
        shape = Shape(**json.loads(file.metadata()["shape"]))
    writer = GGUFWriter(args.output, "llama")
    write_settings(writer, shape)
    write_tokenizer(writer, args.input / "tokenizer.json")
    for name, weight in load_file(args.input / "model.safetensors").items():
        if name.endswith(("attention.q.weight", "attention.k.weight")):
            weight = interleaved(weight, shape.head_dim)
        kind = Type[args.type] if weight.ndim == 2 else Type.F32
        packed = quants.quantize(np.ascontiguousarray(weight, np.float32), kind)
        writer.add_tensor(gguf_name(name), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{args.output}: {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
