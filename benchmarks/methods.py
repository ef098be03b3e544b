#!/usr/bin/env python3
"""What each method, observer and scope of scales loses on the demo model: mean KL to the source, size and time.

usage: methods.py CALIBRATION.txt HELD_OUT.txt [--samples 64] [--length 256] [--bytes 60000] [--only TABLE...]

All rows are calibrated on the same sequences of CALIBRATION and measured by `autoglm eval --level full` on the first BYTES
bytes of HELD_OUT, on a copy of the model without tasks, so that every row is measured at the same positions.
"""
import argparse
import tempfile
from pathlib import Path

from demo import compress, divergence, start_of, without_tasks
from measure import megabytes

METHODS = ["rtn", "awq", "gptq", "awq+gptq", "gptaq", "awq+gptaq"]
ROWS = {
    "methods": [(scheme, "--method", method) for scheme in ("int4-g128", "int3-g128") for method in METHODS],
    "activations": [("w8a8", "--method", method) for method in ("rtn", "smoothquant", "awq", "gptq", "smoothquant+gptq")]
    + [("w8a8-static", "--method", "rtn", "--observer", observer)
       for observer in ("minmax", "moving-average", "percentile", "mse", "entropy")]
    + [("w8a8-static", "--method", "smoothquant")],
    "scopes": [(f"{bits}-{scope}{symmetry}", "--method", "gptq") for bits in ("int8", "int4")
               for scope in ("tensor", "channel", "g128", "g32") for symmetry in ("", "-asym")],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("calibration")
    parser.add_argument("held_out")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--bytes", type=int, default=60000)
    parser.add_argument("--only", choices=ROWS, nargs="*", default=list(ROWS))
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        model, held_out = without_tasks(scratch), start_of(a.held_out, a.bytes, scratch)
        for table in a.only:
            print(f"\n{table:44}{'KL':>12}{'top-1':>10}{'weights':>12}{'seconds':>10}{'peak':>10}")
            for scheme, *options in ROWS[table]:
                made = compress(model, scratch / "out", a.calibration, a.samples, a.length, "-q", scheme, *options)
                found = divergence(scratch / "out", model, held_out)
                size = sum(file.stat().st_size for file in (scratch / "out").glob("*.safetensors"))
                words = " ".join([scheme, *(o for o in options if not o.startswith("--"))])
                print(f"{words:44}{found['kl_mean']:>12.5f}{found['top1_agreement']:>10.4f}{size / 1e6:>9.2f} MB"
                      f"{made.seconds:>10.1f}{megabytes(made.peak_bytes):>10}", flush=True)


if __name__ == "__main__":
    main()
