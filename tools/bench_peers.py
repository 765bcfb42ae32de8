#!/usr/bin/env python3
"""Takes the figures of other programs and adds them to a file for `lowtide bench --peers`.

    bench_peers.py FILE --torch FOLDER [--bf16] [--tokens N] [--threads N] [--rounds N]
    bench_peers.py FILE --llama-bench PROGRAM --gguf MODEL [--tokens N] [--threads N] [--rounds N]

FOLDER is a Hugging Face folder. The first form needs torch, transformers and peft, the second the
program `llama-bench` of llama.cpp. Nothing is downloaded. A peer of the same name is replaced.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--torch", type=Path, metavar="FOLDER")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--llama-bench", type=Path, metavar="PROGRAM")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    peers = []
    if args.torch:
        peers += torch_peft(args)
    if args.llama_bench:
        if not args.gguf:
            parser.error("--llama-bench needs --gguf")
        peers.append(llama(args))
    if not peers:
        parser.error("--torch or --llama-bench is needed")
    add(args.file, peers)


def add(file, peers):
    """Puts peers into the file, each in the place of one of its name."""
    known = json.loads(file.read_text())["peers"] if file.exists() else []
    names = {peer["name"] for peer in peers}
    known = [peer for peer in known if peer["name"] not in names] + peers
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps({"peers": known}, indent=2) + "\n")
    partial.replace(file)


def torch_peft(args):
    """Forward of the base, then steps with LoRA of rank 8 on every linear, as `--suite step`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(args.torch, dtype=dtype)
    model.config.use_cache = False
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, model.config.vocab_size, (1, args.tokens), generator=generator)

    def forward():
        with torch.no_grad():
            model(input_ids=ids, labels=ids)

    name = f"PyTorch {torch.__version__} + PEFT, {'bf16' if args.bf16 else 'f32'}"
    n = args.tokens
    model.eval()
    plain = [figure("step", [f"forward {n}"], seconds=median(forward, args.rounds))]

    model = peft.get_peft_model(
        model,
        peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    model.train()

    def step():
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    rows = [f"train {n} store", f"train {n} block"]
    plain.append(figure("step", rows, seconds=median(step, args.rounds)))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = [figure("step", rows[1:], seconds=median(step, args.rounds))]
    return [
        {"name": name, "threads": args.threads, "figures": plain},
        {"name": f"{name}, checkpointing", "threads": args.threads, "figures": again},
    ]


def llama(args):
    """Reading a prompt and decoding 32 tokens, as `--suite generate`."""
    command = [args.llama_bench, "-m", args.gguf, "-t", args.threads, "-p", args.tokens]
    command += ["-n", 32, "-r", args.rounds, "-o", "json"]
    told = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE)
    figures = []
    for test in json.loads(told.stdout):
        prompt = test["n_prompt"]
        row = f"prompt {prompt}" if prompt else f"decode {test['n_gen']}"
        rate = statistics.median(test["samples_ts"])
        figures.append(figure("generate", [row], tokens_per_second=rate))
        if prompt:
            # It computes the logits of the last token only, so a whole forward takes it longer.
            figures.append(figure("step", [f"forward {prompt}"], tokens_per_second=rate))
    name = f"llama.cpp, {args.gguf.name}"
    return {"name": name, "threads": args.threads, "figures": figures}


def figure(suite, rows, **value):
    return {"suite": suite, "rows": rows, **value}


def median(work, rounds):
    """Seconds of one call, the first not counted."""
    work()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
