#!/usr/bin/env python3
"""Holds Lowtide against Hugging Face transformers and PEFT on real files.

    python tools/check_peft.py --base FOLDER --data DATA.jsonl [--adapter DIR] \\
        [--lowtide BINARY] [--lowtide-base FILE.gguf]

FOLDER is a base that transformers loads; `export_hf.py` writes one from a GGUF file. DATA holds one
record a line: `input_ids` with optional `labels`, `messages`, or `prompt` with `completion`; the
last two are rendered by transformers' chat template and tokenizer.

Prints, as one JSON object, what transformers and PEFT compute, and checks that PEFT takes every
tensor of the adapter as it is in the file, and misses none. With --lowtide it also checks, for the
base with and without the adapter, that `lowtide eval` finds the same

- number of tokens and of labelled tokens,
- mean loss over labelled tokens,
- log-probabilities after the first example, of the likeliest tokens and of some down to the
  unlikeliest. They are asked for one at a time: the loss on the example with a token as the only
  label is that token's negative log-probability.

Exit codes: 0 all agree, 1 something does not or could not be computed, 2 bad usage.

Needs Python 3.10 or newer and `pip install torch transformers peft`. Nothing is downloaded.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers
from safetensors.torch import load_file

from records import NO_LOSS, Reader

# Of a mean loss and of single log-probabilities, in nats: f32 resolves logits of 40 to 4e-6, and
# thousands of sums lead up to one.
TOLERANCE = 1e-4


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    model = transformers.AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    if args.adapter:
        model = peft.PeftModel.from_pretrained(model, args.adapter)
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.base)
    examples = Reader(tokenizer, args.max_seq_len).read(args.data, args.limit)
    if not examples:
        sys.exit(f"{args.data}: no example with a labelled token")

    report = {
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
        "data": {
            "examples": len(examples),
            "tokens": sum(len(ids) for ids, _ in examples),
            "labelled_tokens": sum(labelled(labels) for _, labels in examples),
        },
    }
    if args.adapter:
        report["adapter"] = compare_tensors(model, args.adapter)
        with model.disable_adapter():
            report["base"] = measure(model, examples, args.candidates)
        report["adapted"] = measure(model, examples, args.candidates)
    else:
        report["base"] = measure(model, examples, args.candidates)
    if args.lowtide:
        with tempfile.TemporaryDirectory() as scratch:
            compare(report, Lowtide(args, scratch), args, examples)

    json.dump(report, sys.stdout, indent=2)
    print()
    return 0 if report.get("agree", True) and report.get("adapter", {}).get("same", True) else 1


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, help="JSON lines")
    parser.add_argument("--adapter", type=Path, help="adapter folder that Lowtide wrote")
    parser.add_argument("--lowtide", type=Path, help="the `lowtide` binary to compare with")
    parser.add_argument("--lowtide-base", type=Path, help="what `lowtide` reads, if not --base")
    parser.add_argument("--max-seq-len", type=int, default=512, help="longer examples are cut")
    parser.add_argument("--limit", type=int, help="use only the first records")
    parser.add_argument("--candidates", type=int, default=8, help="log-probabilities to compare")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="in nats")
    return parser.parse_args()


def labelled(labels):
    """Labels that carry loss; nothing predicts the first token."""
    return sum(label != NO_LOSS for label in labels[1:])


def compare_tensors(model, folder):
    """Whether what PEFT holds is what the file holds: same names, same bits."""
    file = load_file(folder / "adapter_model.safetensors")
    held = peft.get_peft_model_state_dict(model)
    differ = [n for n in file.keys() & held.keys() if not torch.equal(file[n], held[n])]
    return {
        "tensors": len(file),
        "only_in_file": sorted(file.keys() - held.keys()),
        "only_in_peft": sorted(held.keys() - file.keys()),
        "differ": sorted(differ),
        "same": file.keys() == held.keys() and not differ,
    }


@torch.no_grad()
def measure(model, examples, candidates):
    """Mean loss over all labelled tokens, and the last row of logits of the first example."""
    total, count = 0.0, 0
    for ids, labels in examples:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        targets = torch.tensor(labels[1:])
        total += torch.nn.functional.cross_entropy(
            logits.double(), targets, ignore_index=NO_LOSS, reduction="sum"
        ).item()
        count += labelled(labels)
    first = torch.tensor([examples[0][0]])
    row = model(input_ids=first, use_cache=False).logits[0, -1].double()
    log_probabilities = torch.log_softmax(row, 0)
    return {
        "loss": total / count,
        "last_logits": {
            "mean": row.mean().item(),
            "std": row.std().item(),
            "max": row.max().item(),
            "argmax": row.argmax().item(),
        },
        "log_probabilities": {
            token: log_probabilities[token].item() for token in spread(row, candidates)
        },
    }


def spread(row, count):
    """The likeliest tokens, and as many over the rest of the ranking down to the unlikeliest."""
    ranking = row.argsort(descending=True).tolist()
    likely = count // 2
    places = torch.linspace(likely, len(ranking) - 1, count - likely).long().tolist()
    return ranking[:likely] + [ranking[place] for place in places]


def compare(report, lowtide, args, examples):
    """Adds what Lowtide computes, and whether it agrees."""
    agree = True
    for case, adapter in (("base", None), ("adapted", args.adapter)):
        if case not in report:
            continue
        ours, theirs = report[case], lowtide.eval(args.data, adapter)
        counts = {key: theirs[key] for key in ("tokens", "labelled_tokens")}
        loss_off = theirs["loss"] - ours["loss"]
        off = [
            abs(lowtide.log_probability(examples[0][0], token, adapter) - expected)
            for token, expected in ours["log_probabilities"].items()
        ]
        worst = max(off, default=0.0)
        ours["lowtide"] = {
            "loss": theirs["loss"],
            **counts,
            "loss_difference": loss_off,
            "log_probability_difference_max": worst,
        }
        agree &= all(report["data"][key] == count for key, count in counts.items())
        agree &= abs(loss_off) <= args.tolerance and worst <= args.tolerance
    report["tolerance"], report["agree"] = args.tolerance, agree


class Lowtide:
    """The `lowtide` binary, asked through `eval --json`; `scratch` is a folder to write in."""

    def __init__(self, args, scratch):
        self.command = [args.lowtide, "eval", "--json", "--model", args.lowtide_base or args.base]
        self.command += ["--threads", args.threads]
        self.max_seq_len, self.limit, self.scratch = args.max_seq_len, args.limit, Path(scratch)

    def eval(self, data, adapter):
        """What it says about a data file."""
        if self.limit:
            lines = [line for line in data.read_text("utf-8").splitlines() if line.strip()]
            data = self.scratch / "first.jsonl"
            data.write_text("\n".join(lines[: self.limit]) + "\n", "utf-8")
        return self.run(data, adapter, self.max_seq_len)

    def log_probability(self, ids, token, adapter):
        """`log p(token | ids)`, from the loss of the only labelled token after `ids`."""
        data = self.scratch / "candidate.jsonl"
        record = {"input_ids": [*ids, token], "labels": [NO_LOSS] * len(ids) + [token]}
        data.write_text(json.dumps(record) + "\n", "utf-8")
        return -self.run(data, adapter, len(ids) + 1)["loss"]

    def run(self, data, adapter, max_seq_len):
        command = [*self.command, "--data", data, "--max-seq-len", max_seq_len]
        command += ["--adapter", adapter] if adapter else []
        command = [str(part) for part in command]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            sys.exit(f"`{' '.join(command)}` ended with {done.returncode}")
        return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
