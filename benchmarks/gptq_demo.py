#!/usr/bin/env python3
"""INT4 GPTQ of the demo model against llm-compressor's, on the same calibration tokens, in one run.

usage: gptq_demo.py CALIBRATION.txt HELD_OUT.txt [--group 128] [--runs 3] [--max-ram 330M]

Both quantize 128 sequences of 512 tokens taken from CALIBRATION; both results are measured by `autoglm eval` on HELD_OUT.
Needs `make build` and the llm-compressor environment (tools/bootstrap.sh env:llmcompressor). Prints one table: seconds (whole
process, median), peak memory (maximum), KL divergence to the source.
"""
import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

from calibration_windows import write_windows
from measure import AUTOGLM, ROOT, megabytes, run

SAMPLES, LENGTH = 128, 512
DEMO = ROOT / "models/glm-phone-demo"


def beginning(path, scratch, size=200_000):
    """A copy of the whole lines within the first `size` bytes: what both are measured on in full."""
    part = scratch / f"held_out{Path(path).suffix}"
    with open(path, "rb") as file:
        part.write_bytes(file.read(size).rpartition(b"\n")[0])
    return part


def divergence(artifact, source, held_out):
    out = run([AUTOGLM, "eval", artifact, "--source", source, "--eval-dataset", held_out, "--level", "full", "--json", "--quiet"]).out
    return json.loads(out)["divergence"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("calibration")
    parser.add_argument("held_out")
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--max-ram", help="for ours: trade time for memory (the peer has no such bound)")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        write_windows(a.calibration, scratch, DEMO, SAMPLES, LENGTH)
        source = scratch / "demo"  # without its tasks, which a full evaluation would ask
        shutil.copytree(DEMO, source, ignore=shutil.ignore_patterns("tasks"))
        ours = [AUTOGLM, "compress", source, "-o", scratch / "ours", "--overwrite", "-q", f"int4-g{a.group}", "--method", "gptq",
                "--calibration-dataset", scratch / "calibration.txt", "--calibration-samples", SAMPLES,
                "--calibration-length", LENGTH, "--verify", "none", "--quiet", *(["--max-ram", a.max_ram] if a.max_ram else [])]
        theirs = [ROOT / ".venvs/llmcompressor/bin/python", ROOT / "benchmarks/peer_llmcompressor.py", source, scratch / "tokens.npy",
                  scratch / "theirs", "--group", a.group]
        results = {"autoglm": [], "llm-compressor": []}
        for _ in range(a.runs):  # in turn, so that both meet the same machine
            results["autoglm"].append(run(ours))
            results["llm-compressor"].append(run(theirs))
        held_out = beginning(a.held_out, scratch)
        quality = {"autoglm": divergence(scratch / "ours", source, held_out),
                   "llm-compressor": divergence(scratch / "theirs", source, held_out)}
    print(f"{'':16}{'seconds':>10}{'peak memory':>14}{'KL':>12}")
    for name, runs in results.items():
        seconds, peak = statistics.median(r.seconds for r in runs), max(r.peak_bytes for r in runs)
        print(f"{name:16}{seconds:>10.1f}{megabytes(peak):>14}{quality[name]['kl_mean']:>12.5f}")
    ratio = sorted(t.seconds / o.seconds for o, t in zip(results["autoglm"], results["llm-compressor"]))
    print(f"llm-compressor takes {statistics.median(ratio):.1f} times as long ({ratio[0]:.1f} to {ratio[-1]:.1f} in {a.runs} runs); "
          f"KL over {quality['autoglm']['positions']} positions")


if __name__ == "__main__":
    main()
