#!/usr/bin/env python3
"""Reference blocks: rows packed and blocks unpacked by the gguf package. See golden/README.md."""
import os
import numpy as np
from gguf import GGMLQuantizationType as T, quants
from safetensors.numpy import save_file

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "quant", "blocks.safetensors")
rng = np.random.default_rng(20)
rows = np.empty((4, 64), dtype=np.float32)
rows[0] = rng.normal(0, 0.05, 64)  # like a weight row
rows[1] = rng.uniform(0.2, 1.2, 64)  # of one sign
rows[2, :32] = 0  # a block of zeros, then one whose scale is subnormal in half precision
rows[2, 32:] = rng.normal(0, 1e-5, 32)
rows[3, :32] = np.arange(-16, 16) * 0.5  # values on the borders between codes
rows[3, 32:] = rng.normal(0, 1, 32)
rows[3, 40] = 300  # an outlier

tensors = {"rows": rows}
for kind in (T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0):
    packed = quants.quantize(rows, kind).view(np.uint8)
    tensors[f"{kind.name}.bytes"] = packed
    stored = packed.view(np.float16) if kind == T.F16 else packed  # the package wants F16 typed
    tensors[f"{kind.name}.decoded"] = quants.dequantize(stored, kind).astype(np.float32)

# The package cannot pack these: blocks of random bits with scales that are finite.
rng = np.random.default_rng(21)
for kind, size, scales in (
    (T.Q4_K, 144, (0, 2)),
    (T.Q5_K, 176, (0, 2)),
    (T.Q6_K, 210, (208,)),
    (T.IQ4_NL, 18, (0,)),
):
    packed = rng.integers(0, 256, (4, size), dtype=np.uint8)
    for at in scales:
        packed[:, at : at + 2] = rng.normal(0, 0.01, 4).astype(np.float16).view(np.uint8).reshape(4, 2)
    packed[3, 2:10] = 0xFF  # codes or scales at their ends
    for at in scales:
        packed[3, at : at + 2] = np.frombuffer(np.float16(3e-6).tobytes(), np.uint8)  # subnormal
    tensors[f"{kind.name}.bytes"] = packed
    tensors[f"{kind.name}.decoded"] = quants.dequantize(packed, kind).astype(np.float32)
save_file(tensors, OUT)
