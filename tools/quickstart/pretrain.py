"""Pretrains the quickstart's base on the generic homes of `generate.py`.

Writes a folder with `tokenizer.json` and `model.safetensors`; `export.py` makes a GGUF file of it.
"""

import argparse
import itertools
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import generate
from model import Llama, Shape

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
#: Examples the tokenizer is trained on.
TOKENIZER_EXAMPLES = 30_000
#: Examples kept apart from pretraining, of the same distribution.
CHECK_EXAMPLES = 256
#: Examples sorted by length together, so that a batch has little padding.
POOL = 8192
#: Chance that a merge of a prompt is skipped, so that rare names are spelled in known pieces.
MERGE_DROPOUT = 0.08


def train_tokenizer(seed, vocab):
    """Byte-level BPE split as GPT-2 splits; the usual numbers are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    examples = itertools.islice(generate.stream(seed), TOKENIZER_EXAMPLES)
    numbers = [f"{space}{n}" for n in range(100) if n < 30 or n % 5 == 0 for space in ("", " ")]
    whole = [*numbers, "user\n", "assistant\n"] * 500
    tokenizer.train_from_iterator((text for texts in (*examples, whole) for text in texts), trainer)
    return tokenizer


class Encoder:
    """Examples as token ids, in ChatML."""

    def __init__(self, tokenizer):
        self.plain = tokenizer
        self.spelling = Tokenizer.from_str(tokenizer.to_str())
        self.spelling.model.dropout = MERGE_DROPOUT
        self.start, self.end = (tokenizer.token_to_id(special) for special in SPECIALS[1:])
        self.newline, self.user, self.assistant = map(self.ids, ("\n", "user\n", "assistant\n"))

    def ids(self, text):
        return self.plain.encode(text).ids

    def prompt(self, text, tokenizer=None):
        words = (tokenizer or self.plain).encode(text).ids
        turn = [self.start, *self.user, *words, self.end, *self.newline]
        return turn + [self.start, *self.assistant]

    def example(self, prompt, answer, tokenizer=None):
        """Ids, and how many of them are the prompt."""
        before = self.prompt(prompt, tokenizer)
        return before + [*self.ids(answer), self.end, *self.newline], len(before)


def batches(encoder, examples, size, rng):
    """Batches of padded examples, without end."""
    while True:
        pool = list(itertools.islice(examples, POOL))
        pool = [encoder.example(*example, encoder.spelling) for example in pool]
        pool.sort(key=lambda example: len(example[0]))
        starts = list(range(0, POOL, size))
        rng.shuffle(starts)
        for start in starts:
            yield padded(pool[start : start + size])


def padded(examples):
    """Ids with zeros behind, and which of them are an answer's, both `[examples, length]`."""
    length = max(len(ids) for ids, _ in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    answers = torch.zeros(len(examples), length, dtype=torch.bool)
    for row, (example, prompt) in enumerate(examples):
        ids[row, : len(example)] = torch.tensor(example)
        answers[row, prompt : len(example)] = True
    return ids, answers


def loss_of(model, ids, answers):
    """Mean over the answers' tokens."""
    asked = answers[:, 1:]
    return F.cross_entropy(model(ids[:, :-1], asked).float(), ids[:, 1:][asked])


@torch.no_grad()
def exact_matches(model, encoder, examples, tokens_max=40):
    """Share of the examples whose greedy answer is the expected one."""
    model.eval()
    right = 0
    for prompt, answer in examples:
        ids, expected = encoder.prompt(prompt), [*encoder.ids(answer), encoder.end]
        said = []
        while len(said) < tokens_max and encoder.end not in said:
            said.append(int(model(torch.tensor([ids + said]))[0, -1].argmax()))
        right += said == expected
    model.train()
    return right / len(examples)


@torch.no_grad()
def forced_matches(model, encoder, examples):
    """The same share, found in one pass: greedy is right if and only if it is right at each step."""
    model.eval()
    right = 0
    for start in range(0, len(examples), 64):
        encoded = [encoder.example(*example) for example in examples[start : start + 64]]
        best = model(padded(encoded)[0]).argmax(-1)
        for row, (ids, prompt) in enumerate(encoded):
            # The newline after the end of the turn is never generated.
            right += best[row, prompt - 1 : len(ids) - 2].tolist() == ids[prompt:-1]
    model.train()
    return right / len(examples)


def rate(step, steps, peak, warmup=100):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)

    shape = Shape()
    tokenizer = train_tokenizer(args.seed, shape.vocab)
    tokenizer.save(str(args.output / "tokenizer.json"))
    encoder = Encoder(tokenizer)
    model = Llama(shape)
    print(f"{sum(weight.numel() for weight in model.parameters())} parameters", flush=True)
    check = list(itertools.islice(generate.stream(args.seed + 1), CHECK_EXAMPLES))
    checked = {prompt for prompt, _ in check}
    examples = (e for e in generate.stream(args.seed + 2) if e[0] not in checked)

    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    feed = batches(encoder, examples, args.batch_size, random.Random(args.seed))
    began, tokens = time.monotonic(), 0
    for step, (ids, answers) in enumerate(itertools.islice(feed, args.steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps, args.lr)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, ids, answers)
        loss.backward()
        nn_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += ids.numel()
        if (step + 1) % 100 == 0:
            matches = forced_matches(model, encoder, check)
            seconds = time.monotonic() - began
            print(
                f"step {step + 1}/{args.steps}  loss {loss.item():.4f}  norm {nn_norm:.2f}  "
                f"exact {matches:.3f}  {tokens} tokens  {seconds:.0f} s",
                flush=True,
            )
            save(model, args.output)
    save(model, args.output)
    print(f"exact match on unseen prompts of generic homes: "
          f"{exact_matches(model, encoder, check):.3f}")


def save(model, folder):
    tensors = {name: weight.detach().contiguous() for name, weight in model.named_parameters()}
    shape = {"shape": json.dumps(vars(model.shape))}
    save_file(tensors, folder / "model.safetensors", metadata=shape)


if __name__ == "__main__":
    main()
