#!/usr/bin/env python3
"""Ours beside the peers at 8, 4, 3 and 2 bits on the same calibration tokens, judged by benchmarks/score.py.

usage: quality.py CALIBRATION.txt HELD_OUT.txt [--model DIR] [--only SUBSTRING]... [--tasks 0] [--samples 128] [--length 512]

Every linear layer of the blocks is quantized, embedding and head are kept, so that equal formats have equal bytes. The row
"automatic" is ours with --target-bits of the bytes that the format takes. Needs `make build` and the llm-compressor environment
(tools/bootstrap.sh env:llmcompressor). Prints a Markdown table; seconds and peak memory are of whole processes, seen from
outside.
"""
import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from calibration_windows import write_windows
from measure import AUTOGLM, ROOT, megabytes, run

PEER = ROOT / ".venvs/llmcompressor/bin/python"
FORMATS = [(8, 128, False), (4, 128, False), (4, 128, True), (4, 32, False), (3, 128, False), (3, 128, True), (2, 64, True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("calibration")
    parser.add_argument("held_out")
    parser.add_argument("--model", type=Path, default=ROOT / "models/glm-phone-demo")
    parser.add_argument("--only", action="append", default=[], help="rows whose name holds this, for example 'int3-g128 ours' or auto-round; repeatable")
    parser.add_argument("--tasks", type=int, default=0)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        write_windows(a.calibration, scratch, a.model, a.samples, a.length)
        text = ["--calibration-dataset", scratch / "calibration.txt", "--calibration-samples", a.samples, "--calibration-length", a.length]
        ours = [AUTOGLM, "compress", a.model, "-o", scratch / "out", "--overwrite", "--verify", "none", "--quiet", *text]
        peer = [a.model, scratch / "tokens.npy", scratch / "out"]
        print("| format | method | MB | KL | KL p99 | perplexity | " + ("tasks | " if a.tasks else "") + "seconds | peak MB |")
        print("|---" * (9 if a.tasks else 8) + "|", flush=True)
        for bits, group, asymmetric in FORMATS:
            word = f"int{bits}-g{group}" + ("-asym" if asymmetric else "")
            how = ["--bits", bits, "--group", group, *(["--asymmetric"] if asymmetric else [])]
            rows = {
                "ours fast": [*ours, "-q", word],
                "ours balanced": [*ours, "-q", word, "--effort", "balanced"],
                "ours best": [*ours, "-q", word, "--effort", "best"],
                "llm-compressor rtn": [PEER, ROOT / "benchmarks/peer_llmcompressor.py", *peer, *how, "--method", "rtn"],
                "llm-compressor gptq": [PEER, ROOT / "benchmarks/peer_llmcompressor.py", *peer, *how, "--method", "gptq"],
                "auto-round": [PEER, ROOT / "benchmarks/peer_autoround.py", *peer, *how],
            }
            bits_per_parameter = 0
            for name, command in [*rows.items(), ("ours automatic balanced", None)]:
                if a.only and not any(part in f"{word} {name}" for part in a.only):
                    continue
                if command is None:
                    if not bits_per_parameter:
                        continue
                    command = [*ours, "--target-bits", f"{bits_per_parameter:.4f}", "--effort", "balanced", "--embedding", "keep", "--head", "keep",
                               "--scores", scratch / "scores.json"]
                shutil.rmtree(scratch / "out", ignore_errors=True)
                made = run(command, stderr=sys.stderr if os.environ.get("VERBOSE") else subprocess.DEVNULL)
                score = json.loads(run([ROOT / ".venv/bin/python", ROOT / "benchmarks/score.py", a.model, scratch / "out", a.held_out,
                                        "--tasks", a.tasks], stderr=subprocess.DEVNULL).out.splitlines()[-1])
                megabytes_text = f"{score['bytes'] / 1e6:.2f}" if "auto-round" not in name else "the same"
                if name.startswith("ours") and not bits_per_parameter:
                    bits_per_parameter = 8 * score["bytes"] / parameters_of(a.model)
                print(f"| {word} | {name} | {megabytes_text} | {score['kl']:.5f} | {score['kl_p99']:.4f} | {score['perplexity']:.2f} | "
                      + (f"{100 * score['accuracy']:.1f} % | " if a.tasks else "")
                      + f"{made.seconds:.0f} | {megabytes(made.peak_bytes).split()[0]} |", flush=True)


def parameters_of(model):
    count = 0
    for file in Path(model).glob("*.safetensors"):
        with open(file, "rb") as f:
            tensors = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        count += sum(math.prod(tensor["shape"]) for name, tensor in tensors.items() if name != "__metadata__")
    return count


if __name__ == "__main__":
    main()
