#!/usr/bin/env python3
"""Sizes of the demo model's artifacts beside its 32-bit and 16-bit forms, embedding and head included."""
import tempfile
from pathlib import Path

from measure import AUTOGLM, ROOT, run

DEMO = ROOT / "models/glm-phone-demo"


def weight_bytes(folder):
    return sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))


with tempfile.TemporaryDirectory() as scratch:
    full = Path(scratch) / "fp32"
    run([AUTOGLM, "compress", DEMO, "-o", full, "-q", "fp32", "--embedding", "fp32", "--head", "fp32", "--verify", "none", "--quiet"])
    for scheme in ("int8", "int4", "int3", "int2-g64"):
        out = Path(scratch) / scheme
        run([AUTOGLM, "compress", DEMO, "-o", out, "-q", scheme, "--embedding", scheme, "--head", scheme, "--method", "rtn",
             "--verify", "none", "--quiet"])
        small = weight_bytes(out)
        print(f"{scheme:10}{small / 1e6:7.2f} MB  {100 * (1 - small / weight_bytes(full)):.1f} % smaller than fp32  "
              f"{weight_bytes(full) / small:.1f}x (fp32)  {weight_bytes(DEMO) / small:.1f}x (bf16)")
