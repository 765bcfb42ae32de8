#!/usr/bin/env python3
"""Writes a GGUF file of the Llama family as a Hugging Face folder: f32 weights and the tokenizer.

    python tools/export_hf.py models/smollm2-135m-instruct.gguf FOLDER

transformers reads and dequantizes the GGUF file, so nothing of Lowtide is between the file and the
folder. One thing is added to what it reads: version 5.23 ignores `tokenizer.ggml.pre`, and so cuts
white space before digits unlike the model's own tokenizer and unlike llama.cpp; here the
pre-tokenizer that the file names is put back.

Needs Python 3.10 or newer and `pip install torch transformers gguf`. Nothing is downloaded.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer


def smollm():
    """Each digit by itself, before the usual cut of byte-level BPE."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


# What transformers builds for `gpt-2` is right as it is.
PRE_TOKENIZERS = {"smollm": smollm, "gpt-2": None}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path, help="file to read")
    parser.add_argument("folder", type=Path, help="folder to write")
    args = parser.parse_args()

    name = gguf.GGUFReader(args.gguf).fields["tokenizer.ggml.pre"].contents()
    if name not in PRE_TOKENIZERS:
        parser.error(f"{args.gguf}: tokenizer.ggml.pre is {name}, known: {list(PRE_TOKENIZERS)}")
    source = dict(pretrained_model_name_or_path=args.gguf.parent, gguf_file=args.gguf.name)

    tokenizer = AutoTokenizer.from_pretrained(**source)
    if PRE_TOKENIZERS[name]:
        tokenizer.backend_tokenizer.pre_tokenizer = PRE_TOKENIZERS[name]()
    tokenizer.save_pretrained(args.folder)

    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A model that remembers that it came from a GGUF file cannot be saved.
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(args.folder)


if __name__ == "__main__":
    main()
