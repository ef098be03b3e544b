#!/usr/bin/env python3
"""INT4 GPTQ of the demo model against llm-compressor's, on the same calibration tokens, in one run.

usage: gptq_demo.py CALIBRATION.txt HELD_OUT.txt [--group 128] [--runs 3] [--max-ram 330M]

Both quantize 128 sequences of 512 tokens taken from CALIBRATION; both results are measured by `autoglm eval` on HELD_OUT.
Needs `make build` and the llm-compressor environment (tools/bootstrap.sh llmcompressor). Prints one table: seconds (whole
process, median), peak memory (maximum), KL divergence to the source.
"""
import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from measure import AUTOGLM, ROOT, megabytes, run

SAMPLES, LENGTH = 128, 512
DEMO = ROOT / "models/glm-phone-demo"


def calibration(text_file, folder):
    """Text of exactly 128 windows, and the same windows as token ids."""
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    text = Path(text_file).read_text(errors="replace")[: SAMPLES * LENGTH * 8]
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    # One window more than needed is cut off at a token's end, so that both tools see the same 128.
    end = encoding["offset_mapping"][SAMPLES * LENGTH + 8][1]
    ids = tokenizer(text[:end], add_special_tokens=False)["input_ids"]
    assert SAMPLES * LENGTH <= len(ids) < (SAMPLES + 1) * LENGTH
    (folder / "calibration.txt").write_text(text[:end])
    np.save(folder / "tokens.npy", np.array(ids[: SAMPLES * LENGTH], dtype=np.int64).reshape(SAMPLES, LENGTH))


def kl(artifact, held_out):
    out = run([AUTOGLM, "eval", artifact, "--source", DEMO, "--eval-dataset", held_out, "--level", "fast", "--seconds", "40", "--json", "--quiet"]).out
    return json.loads(out)["divergence"]["kl_mean"]


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
        # In a process of its own: the kernel counts what a parent occupies towards the children it starts.
        if os.fork() == 0:
            calibration(a.calibration, scratch)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.wait()[1]) != 0:
            raise SystemExit("the calibration text could not be prepared")
        ours = [AUTOGLM, "compress", DEMO, "-o", scratch / "ours", "--overwrite", "-q", f"int4-g{a.group}", "--method", "gptq",
                "--calibration-dataset", scratch / "calibration.txt", "--calibration-samples", SAMPLES,
                "--calibration-length", LENGTH, "--verify", "none", "--quiet", *(["--max-ram", a.max_ram] if a.max_ram else [])]
        theirs = [ROOT / ".venvs/llmcompressor/bin/python", ROOT / "benchmarks/peer_llmcompressor.py", DEMO, scratch / "tokens.npy",
                  scratch / "theirs", "--group", a.group]
        results = {"autoglm": [], "llm-compressor": []}
        for _ in range(a.runs):  # in turn, so that both meet the same machine
            results["autoglm"].append(run(ours))
            results["llm-compressor"].append(run(theirs))
        quality = {"autoglm": kl(scratch / "ours", a.held_out), "llm-compressor": kl(scratch / "theirs", a.held_out)}
    print(f"{'':16}{'seconds':>10}{'peak memory':>14}{'KL':>12}")
    for name, runs in results.items():
        seconds, peak = statistics.median(r.seconds for r in runs), max(r.peak_bytes for r in runs)
        print(f"{name:16}{seconds:>10.1f}{megabytes(peak):>14}{quality[name]:>12.5f}")
    ratio = [t.seconds / o.seconds for o, t in zip(results["autoglm"], results["llm-compressor"])]
    print(f"llm-compressor takes {statistics.median(ratio):.1f} times as long")


if __name__ == "__main__":
    main()
