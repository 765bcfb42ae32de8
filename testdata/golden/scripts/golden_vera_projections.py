"""A VeRA adapter with its projections in the file: golden_vera_projections.py GOLDEN_DIR, which holds
formats/base/ and gets formats/vera/. The rank is 3, so that a projection is no multiple of anything."""
import json, os, sys, zlib
import peft, torch, transformers

ROOT = os.path.join(sys.argv[1], "formats"); OUT = os.path.join(ROOT, "vera")
m = transformers.AutoModelForCausalLM.from_pretrained(os.path.join(ROOT, "base"), dtype=torch.float32)
c = peft.VeraConfig(r=3, projection_prng_key=11, d_initial=0.2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
pm = peft.get_peft_model(m, c)
with torch.no_grad():
    for n, p in pm.named_parameters():
        if p.requires_grad:
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(zlib.crc32(n.encode()))))
pm.save_pretrained(OUT); os.remove(OUT + "/README.md")
ac = json.load(open(OUT + "/adapter_config.json")); ac["base_model_name_or_path"] = None
for k, v in ac.items():
    if isinstance(v, list): ac[k] = sorted(v)
json.dump(ac, open(OUT + "/adapter_config.json", "w"), indent=1, sort_keys=True)
