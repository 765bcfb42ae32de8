#!/usr/bin/env python3
"""Holds a GGUF file that Lowtide wrote against llama.cpp, and against the official reader.

    python tools/check_llama_cpp.py FILE.gguf [--against OTHER.gguf] [--prompt TEXT] [--tokens N]
        [--tolerance X]

Reads FILE with the `gguf` package (names, types, metadata), then loads it into llama.cpp through
`llama-cpp-python`, tokenizes the prompt, generates N tokens greedily and prints them. With
--against, which names a file that llama.cpp is known to read, it does the same with that file and
compares the ids of the prompt, the logits after it, and the text.

Prints one JSON object. Exit codes: 0 FILE loads and, with --against, the ids of the prompt are
equal and no log-probability of OTHER's 20 likeliest tokens differs by more than the tolerance;
1 it does not; 2 bad usage.

Needs Python 3.10 or newer and `pip install gguf llama-cpp-python`; the latter compiles llama.cpp,
which takes a C++ compiler and some minutes. Nothing is downloaded.
"""

import argparse
import collections
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

# Log-probabilities that are compared.
LIKELIEST = 20


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--prompt", default="The capital of France is")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    report = {
        "versions": {"gguf": version("gguf"), "llama_cpp": llama_cpp.__version__},
        "file": look(args.file),
    }
    ours = run(args.file, args)
    report["generated"] = {k: ours[k] for k in ("prompt_ids", "ids", "text")}
    agree = True
    if args.against:
        theirs = run(args.against, args)
        top = np.argsort(-theirs["logprobs"])[:LIKELIEST]
        difference = float(np.abs(ours["logprobs"][top] - theirs["logprobs"][top]).max())
        same_ids = ours["prompt_ids"] == theirs["prompt_ids"]
        agree = same_ids and difference <= args.tolerance
        report["against"] = {
            "text": theirs["text"],
            "same_prompt_ids": same_ids,
            "same_text": ours["text"] == theirs["text"],
            "largest_difference_of_logprobs": difference,
            "agree": agree,
        }
    json.dump(report, sys.stdout, indent=1, ensure_ascii=False)
    print()
    sys.exit(0 if agree else 1)


def version(package):
    from importlib.metadata import version as of

    return of(package)


def look(path):
    """What the official reader finds, every tensor dequantized once."""
    reader = gguf.GGUFReader(path)
    types = collections.Counter(t.tensor_type.name for t in reader.tensors)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if not np.isfinite(values).all():
            sys.exit(f"{path}: tensor {tensor.name} holds a value that is not finite")
    wanted = ["general.architecture", "general.name", "general.size_label", "general.file_type"]
    wanted += ["tokenizer.ggml.model", "tokenizer.ggml.pre"]
    found = {key: reader.fields[key].contents() for key in wanted if key in reader.fields}
    return {"tensors": dict(types), "metadata": found, "bytes": path.stat().st_size}


def run(path, args):
    model = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=args.threads, logits_all=True, verbose=False, seed=0
    )
    prompt = model.tokenize(args.prompt.encode(), add_bos=True, special=True)
    model.eval(prompt)
    logits = np.array(model.scores[len(prompt) - 1], dtype=np.float64)
    logprobs = logits - logits.max()
    logprobs -= np.log(np.exp(logprobs).sum())
    ids = []
    for _ in range(args.tokens):
        token = int(np.argmax(model.scores[model.n_tokens - 1]))
        if token == model.token_eos():
            break
        ids.append(token)
        model.eval([token])
    text = model.detokenize(ids).decode(errors="replace")
    return {"prompt_ids": prompt, "ids": ids, "text": text, "logprobs": logprobs}


if __name__ == "__main__":
    main()
