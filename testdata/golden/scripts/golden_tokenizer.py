#!/usr/bin/env python3
"""The tokenizer of SmolLM2-135M-Instruct out of its GGUF file, small enough to keep: see the README of this folder.

usage: golden_tokenizer.py SmolLM2-135M-Instruct.Q4_1.gguf"""
import json, os, struct, sys
data = open(sys.argv[1], "rb").read(8 << 20)
FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
at = 16
def take(code):
    global at
    value = struct.unpack_from("<" + code, data, at)[0]; at += struct.calcsize("<" + code)
    return value
def string():
    global at
    n = take("Q"); at += n
    return data[at - n:at].decode()
def value(kind):
    if kind == 8: return string()
    if kind == 9:
        item, n = take("I"), take("Q")
        return [value(item) for _ in range(n)]
    return take(FIXED[kind])
meta = {}
for _ in range(take("Q")):
    key = string(); meta[key] = value(take("I"))
get = lambda key: meta["tokenizer.ggml." + key]
tokens, merges = get("tokens"), get("merges")
ids = {token: i for i, token in enumerate(tokens)}
head = len(tokens) - len(merges)
# Every token after the head is the result of the merge of the same rank, so pairs of ids say it all.
assert tokens[head:] == [m.replace(" ", "", 1) for m in merges] and len(tokens) < 1 << 16
assert all(kind == 1 for kind in get("token_type")[head:])
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "smollm2")
with open(os.path.join(OUT, "tokenizer_merges.bin"), "wb") as f:
    for m in merges: f.write(struct.pack("<HH", *(ids[piece] for piece in m.split(" "))))
doc = dict(model=get("model"), pre=get("pre"), tokens=tokens[:head], token_types=get("token_type")[:head],
    bos=get("bos_token_id"), eos=get("eos_token_id"), unk=get("unknown_token_id"), pad=get("padding_token_id"),
    add_bos=get("add_bos_token"), chat_template=meta["tokenizer.chat_template"])
with open(os.path.join(OUT, "tokenizer_head.json"), "w") as f:
    f.write("{\n" + ",\n".join(json.dumps(k) + ": " + json.dumps(v, separators=(",", ":")) for k, v in doc.items()) + "\n}\n")
