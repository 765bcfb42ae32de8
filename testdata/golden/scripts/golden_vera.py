"""A VeRA adapter of llama_tied: golden_vera.py GOLDEN_DIR, which holds llama_tied/ and gets llama_tied/vera/.

Projections are not saved: they follow from projection_prng_key."""
import json, os, sys, zlib
import peft, torch, transformers
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
ROOT = os.path.join(sys.argv[1], "llama_tied"); OUT = os.path.join(ROOT, "vera"); os.makedirs(OUT, exist_ok=True)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
golden = json.load(open(ROOT + "/golden.json"))
ids, labels = torch.tensor(golden["input_ids"]), torch.tensor(golden["labels"])

def key(n): return n.replace(".default", "")

def build(attn):
    m = transformers.AutoModelForCausalLM.from_pretrained(ROOT, dtype=torch.float32, attn_implementation=attn)
    c = peft.VeraConfig(r=16, projection_prng_key=7, save_projection=False, target_modules=ALL, task_type="CAUSAL_LM")
    pm = peft.get_peft_model(m, c)
    with torch.no_grad():
        for n, p in pm.named_parameters():
            if p.requires_grad:
                g = torch.Generator().manual_seed(zlib.crc32(key(n).encode()))
                r = torch.randn(p.shape, generator=g)
                p.copy_(0.1 * (1 + 0.3 * r) if "lambda_d" in n else 0.5 * r)
    pm.train()
    return pm

def train(pm):
    tp = [(n, p) for n, p in pm.named_parameters() if p.requires_grad]
    opt = torch.optim.AdamW([p for _, p in tp], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    logits = pm(input_ids=ids, use_cache=False).logits.detach().clone()
    losses, grads = [], None
    for s in range(5):
        opt.zero_grad(); l = pm(input_ids=ids, labels=labels, use_cache=False).loss; l.backward(); losses.append(l.item())
        if s == 0: grads = {key(n): p.grad.clone() for n, p in tp}
        opt.step()
    with torch.no_grad(): losses.append(pm(input_ids=ids, labels=labels, use_cache=False).loss.item())
    return logits, losses, grads, {key(n): p.detach().clone() for n, p in tp}

pm = build("eager"); pm.save_pretrained(OUT)
os.path.exists(OUT + "/README.md") and os.remove(OUT + "/README.md")
ac = json.load(open(OUT + "/adapter_config.json")); ac["base_model_name_or_path"] = None
for k, v in ac.items():
    if isinstance(v, list): ac[k] = sorted(v)
json.dump(ac, open(OUT + "/adapter_config.json", "w"), indent=1, sort_keys=True)
saved = load_file(OUT + "/adapter_model.safetensors")
init = {key(n): p.detach() for n, p in pm.named_parameters() if p.requires_grad}
assert sorted(saved) == sorted(init) and all(torch.equal(saved[k], init[k]) for k in init), sorted(saved)[:4]
logits, losses, grads, fin = train(pm)
lg2, ls2, gr2, fin2 = train(build("sdpa"))
worst = lambda a, b: max((a[k] - b[k]).abs().max().item() for k in a)
noise = dict(logits=(logits - lg2).abs().max().item(), losses=max(abs(a - b) for a, b in zip(losses, ls2)), grads=worst(grads, gr2), after5=worst(fin, fin2))
save_file({k: v.contiguous() for k, v in grads.items()}, OUT + "/grads.safetensors")
save_file({k: v.contiguous() for k, v in fin.items()}, OUT + "/adapter_after5.safetensors")
save_file({"logits_seq0": logits[0].contiguous()}, OUT + "/logits.safetensors")
json.dump(dict(losses_before_each_step=losses[:5], loss_after_5_steps=losses[5], noise_eager_vs_sdpa=noise,
               n_trainable=sum(v.numel() for v in init.values()), grad_l2=sum(float((v.double()**2).sum()) for v in grads.values())**0.5,
               tensors={k: list(v.shape) for k, v in init.items()}), open(OUT + "/golden.json", "w"), indent=1)
print(losses, noise, max(g.abs().max().item() for g in grads.values()), sum(p.numel() for p in init.values()))
