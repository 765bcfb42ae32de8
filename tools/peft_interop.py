#!/usr/bin/env python3
"""Passes adapters of every method that PEFT has between Lowtide and PEFT, in both directions.

    python tools/peft_interop.py --lowtide BINARY [--base FOLDER] [--methods NAME,NAME]

For each method

- ours: Lowtide trains an adapter for a few updates; PEFT loads the folder, must find every tensor as
  it is in the file and miss none, and computes with it;
- theirs: PEFT saves an adapter of random values; Lowtide computes with it;
- on: Lowtide goes on training from PEFT's folder; PEFT loads what comes out.

Each time the mean loss over all labelled tokens and the log-probabilities after the first example, of
the likeliest tokens and of some down to the unlikeliest, are computed by both. Prints a table of the
largest differences and exits with 1 if one is above the tolerance, or something cannot be loaded.

PEFT knows no adapters in eight bits; ours are decoded by `lowtide convert` for it.

PEFT computes QA-LoRA on GPTQ bases only. Our folder is therefore given to it as plain LoRA, with every
column of A repeated over its group; the other two columns are empty.

Needs Python 3.10 or newer and `pip install torch transformers peft safetensors`. FOLDER is a small
Llama in Hugging Face's layout, by default the one the tests use. Nothing is downloaded.
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
from safetensors.torch import load_file, save_file

BASE = Path(__file__).resolve().parent.parent / "testdata" / "golden" / "llama_tied"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IA3 = ["k_proj", "v_proj", "down_proj"]
SHAPE = ["--rank", "4", "--alpha", "8"]
NO_LOSS = -100
# Losses are means over many tokens; log-probabilities are as exact as single logits.
LOSS_TOLERANCE = 1e-5
TOLERANCE = 1e-4
GROUP = 8


def lora(**settings):
    return peft.LoraConfig(r=4, lora_alpha=8, target_modules=ALL, task_type="CAUSAL_LM", **settings)


def vera(**settings):
    settings = {"r": 16, "projection_prng_key": 7, "target_modules": ALL, **settings}
    return peft.VeraConfig(task_type="CAUSAL_LM", **settings)


def ia3(**settings):
    settings = {"target_modules": IA3, "feedforward_modules": ["down_proj"], **settings}
    return peft.IA3Config(task_type="CAUSAL_LM", **settings)


# Name, what Lowtide is told to train, what it is told to go on with, PEFT's settings.
VERA = ["--method", "vera", "--rank", "16", "--method-option", "projection_prng_key=7"]
PATTERNS = {"rank_pattern": {"q_proj": 2, r"1\.mlp\.up_proj": 6}, "alpha_pattern": {"down_proj": 3}}
METHODS = [
    ("lora", ["--method", "lora", *SHAPE], lora),
    ("lora, patterns", None, lambda: lora(**PATTERNS)),
    ("lora, adaptive rank", ["--rank", "6", "--alpha", "8", "--adaptive-rank", "3"], None),
    ("lora, int4", ["--method", "lora", *SHAPE, "--method-option", "quantize=int4"], None),
    ("lora, int8 file", ["--method", "lora", *SHAPE, "--adapter-type", "int8"], None),
    ("rslora", ["--method", "rslora", *SHAPE], lambda: lora(use_rslora=True)),
    ("lora-fa", ["--method", "lora-fa", *SHAPE], lora),
    ("dora", ["--method", "dora", *SHAPE], lambda: lora(use_dora=True)),
    ("vera", VERA, lambda: vera(save_projection=False)),
    ("vera, projections", None, lambda: vera(save_projection=True)),
    ("ia3", ["--method", "ia3"], ia3),
    ("qalora", ["--method", "qalora", *SHAPE, "--method-option", f"group_size={GROUP}"], None),
]
# Where the method has to be named again to go on with PEFT's folder.
ON = {"lora, patterns": ["--method", "lora", *SHAPE], "vera, projections": VERA[:4]}


def main():
    args = arguments()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    chosen = args.methods.split(",") if args.methods else None
    rows, good = [], True
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(args, Path(scratch))
        for name, flags, settings in METHODS:
            if chosen and name.split(",")[0] not in chosen:
                continue
            cells = [name]
            for way in (ours, theirs, on):
                try:
                    found = way(trial, name, flags, settings)
                except Disagreement as error:
                    found, good = str(error), False
                cells.append(found)
            rows.append(cells)
    modules = (peft, transformers, torch)
    print(", ".join(f"{m.__name__} {m.__version__}" for m in modules))
    table(["method", "ours in PEFT", "theirs in Lowtide", "theirs, trained on, in PEFT"], rows)
    return 0 if good else 1


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lowtide", type=Path, required=True, help="the `lowtide` binary")
    parser.add_argument("--base", type=Path, default=BASE, help="Hugging Face folder")
    parser.add_argument("--methods", help="only these, separated by commas")
    parser.add_argument("--candidates", type=int, default=6, help="log-probabilities to compare")
    return parser.parse_args()


class Disagreement(Exception):
    """Something differs, or one of the two refuses what the other wrote."""


def ours(trial, name, flags, settings):
    """Lowtide trains, PEFT reads."""
    if flags is None:
        return ""
    folder = trial.finetune(flags)
    if name == "qalora":
        return trial.compare(trial.load(expanded(trial.folder(), folder), check=False), folder)
    if (folder / "adapter_codes.safetensors").exists():
        decoded = trial.folder()
        trial.lowtide("convert", "--adapter", folder, "--output", decoded)
        return trial.compare(trial.load(decoded), folder)
    return trial.compare(trial.load(folder), folder)


def theirs(trial, name, flags, settings):
    """PEFT writes, Lowtide reads."""
    if settings is None:
        return ""
    folder = trial.random(settings())
    return trial.compare(trial.load(folder, check=False), folder)


def on(trial, name, flags, settings):
    """PEFT writes, Lowtide trains on, PEFT reads."""
    if settings is None:
        return ""
    flags = ON.get(name, flags)
    # The adapter says which key made its projections.
    flags = flags[:4] if flags[1] == "vera" else flags
    modules = IA3 if flags[1] == "ia3" else ALL
    flags = [*flags, "--target-modules", ",".join(modules)]
    flags += ["--use-rslora"] if name == "rslora" and flags[1] == "lora" else []
    folder = trial.finetune([*flags, "--init-adapter", str(trial.random(settings()))])
    return trial.compare(trial.load(folder), folder)


class Trial:
    """A base, data for it, and the two programs."""

    def __init__(self, args, scratch):
        self.args, self.scratch, self.folders = args, scratch, 0
        vocab = transformers.AutoConfig.from_pretrained(args.base).vocab_size
        draw = torch.Generator().manual_seed(1)
        lengths = [24, 17, 9]
        self.examples = [
            torch.randint(3, vocab, (length,), generator=draw).tolist() for length in lengths
        ]
        self.data = scratch / "data.jsonl"
        self.write(self.data, [(ids, mask(ids)) for ids in self.examples])

    def write(self, path, records):
        lines = [json.dumps({"input_ids": ids, "labels": labels}) for ids, labels in records]
        path.write_text("\n".join(lines) + "\n", "utf-8")

    def folder(self):
        """A folder of its own for each adapter."""
        self.folders += 1
        return self.scratch / str(self.folders)

    def lowtide(self, *words):
        command = [str(word) for word in (self.args.lowtide, *words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Disagreement(f"`{' '.join(command)}`: {done.stderr.strip()}")
        return done.stdout

    def finetune(self, flags):
        """A folder with what Lowtide trained."""
        folder = self.folder()
        common = ["--model", self.args.base, "--data", self.data, "--output", folder, "-q"]
        # Enough for ranks to become smaller on the way.
        steps = 10 if "--adaptive-rank" in flags else 3
        common += ["--max-steps", steps, "--lr", "1e-2", "--lr-scheduler", "constant"]
        self.lowtide("finetune", *common, "--warmup-steps", 0, *flags)
        return folder

    def base(self):
        load = transformers.AutoModelForCausalLM.from_pretrained
        return load(self.args.base, dtype=torch.float32)

    def random(self, config):
        """A folder with what PEFT saved of random values."""
        model = peft.get_peft_model(self.base(), config)
        with torch.no_grad():
            for name, values in model.named_parameters():
                if values.requires_grad:
                    noise = torch.randn_like(values)
                    if any(part in name for part in ("magnitude", "ia3_l", "lambda_d")):
                        values.mul_(1 + 0.2 * noise)
                    else:
                        values.copy_(0.1 * noise)
        folder = self.folder()
        model.save_pretrained(folder)
        return folder

    def load(self, folder, check=True):
        """PEFT's model, after a look at whether all of the file arrived."""
        model = peft.PeftModel.from_pretrained(self.base(), folder).eval()
        if check:
            file = load_file(folder / "adapter_model.safetensors")
            held = peft.get_peft_model_state_dict(model)
            # Projections are made from the key and need not be in the file.
            made = {name for name in held if name.endswith((".vera_A", ".vera_B"))} - file.keys()
            held = {name: values for name, values in held.items() if name not in made}
            if file.keys() != held.keys():
                raise Disagreement(f"PEFT has {sorted(file.keys() ^ held.keys())[:3]} otherwise")
            differ = [name for name in file if not torch.equal(file[name], held[name])]
            if differ:
                raise Disagreement(f"PEFT changes {differ[:3]}")
        return model

    @torch.no_grad()
    def compare(self, model, folder):
        """The largest differences between PEFT's model and Lowtide with the adapter in `folder`."""
        total, count = 0.0, 0
        for ids in self.examples:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].double()
            targets = torch.tensor(mask(ids)[1:])
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            count += int((targets != NO_LOSS).sum())
        loss = abs(self.eval(self.data, folder) - total / count)
        first = self.examples[0]
        row = model(input_ids=torch.tensor([first]), use_cache=False).logits[0, -1].double()
        logs = torch.log_softmax(row, 0)
        ranking = row.argsort(descending=True).tolist()
        places = torch.linspace(0, len(ranking) - 1, self.args.candidates).long().tolist()
        worst = 0.0
        for token in (ranking[place] for place in places):
            path = self.scratch / "candidate.jsonl"
            self.write(path, [([*first, token], [NO_LOSS] * len(first) + [token])])
            worst = max(worst, abs(-self.eval(path, folder) - logs[token].item()))
        found = f"{loss:.1e}, {worst:.1e}"
        # Not a number is no agreement.
        if not (loss <= LOSS_TOLERANCE and worst <= TOLERANCE):
            raise Disagreement(f"DIFFER: {found}")
        return found

    def eval(self, data, adapter):
        """Mean loss over the labelled tokens of a file, as Lowtide computes it."""
        words = ["--model", self.args.base, "--adapter", adapter, "--data", data]
        return json.loads(self.lowtide("eval", "--json", *words))["loss"]


def mask(ids):
    """Labels: the first third of an example carries no loss."""
    prompt = len(ids) // 3
    return [NO_LOSS] * prompt + ids[prompt:]


def expanded(target, folder):
    """QA-LoRA as plain LoRA: each column of A once for every input of its group."""
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    group = config.pop("qalora_group_size")
    if not config.pop("use_qalora"):
        raise Disagreement("`use_qalora` is not set")
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, values in tensors.items():
        if "lora_A" in name:
            # Pooling is the mean of a group times the number of groups.
            tensors[name] = values.repeat_interleave(group, 1) * (values.shape[1] / group)
    target.mkdir()
    (target / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    save_file(tensors, target / "adapter_model.safetensors", {"format": "pt"})
    return target


def table(header, rows):
    """Markdown; each cell holds the difference in loss, then in log-probabilities."""
    widths = [max(len(row[at]) for row in [header, *rows]) for at in range(len(header))]
    line = lambda cells: "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths)) + " |"
    print(line(header))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    sys.exit(main())
