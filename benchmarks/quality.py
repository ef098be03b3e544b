#!/usr/bin/env python3
"""Ours beside the peers at 8, 4, 3 and 2 bits, and at the sizes of llama.cpp's types, on the same calibration tokens, judged by
benchmarks/score.py.

usage: quality.py CALIBRATION.txt HELD_OUT.txt [--model DIR] [--only SUBSTRING]... [--tasks 0] [--samples 128] [--length 512]

Every linear layer of the blocks is quantized, embedding and head are kept, so that equal formats have equal bytes. The rows
"automatic" are ours with --target-bits of the bytes that the format takes. Needs `make build` and the llm-compressor environment
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

OWN = ROOT / ".venv/bin/python"
PEER = ROOT / ".venvs/llmcompressor/bin/python"
FORMATS = [(8, 128, False), (4, 128, False), (4, 128, True), (4, 32, False), (3, 128, False), (3, 128, True), (2, 64, True)]
TYPES = ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XXS"]  # of llama.cpp


def commands_of_a_format(ours, peer, bits, group, asymmetric):
    word = f"int{bits}-g{group}" + ("-asym" if asymmetric else "")
    how = ["--bits", bits, "--group", group, *(["--asymmetric"] if asymmetric else [])]
    return word, {
        **{f"ours {effort}": [*ours, "-q", word, "--effort", effort] for effort in ("fast", "balanced", "best")},
        "llm-compressor rtn": [PEER, ROOT / "benchmarks/peer_llmcompressor.py", *peer, *how, "--method", "rtn"],
        "llm-compressor gptq": [PEER, ROOT / "benchmarks/peer_llmcompressor.py", *peer, *how, "--method", "gptq"],
        "auto-round": [PEER, ROOT / "benchmarks/peer_autoround.py", *peer, *how],
    }


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
        groups = [commands_of_a_format(ours, peer, *one) for one in FORMATS]
        groups += [(kind, {"llama.cpp imatrix": [OWN, ROOT / "benchmarks/peer_ggml.py", *peer, "--type", kind]}) for kind in TYPES]
        print("| format | method | MB | KL | KL p99 | perplexity | " + ("tasks | " if a.tasks else "") + "seconds | peak MB |")
        print("|---" * (9 if a.tasks else 8) + "|", flush=True)
        for word, rows in groups:
            own = [*ours, "--embedding", "keep", "--head", "keep", "--scores", scratch / "scores.json"]
            size = bytes_of(a.model, word, ours)
            bits = f"{8 * size / parameters_of(a.model):.4f}"
            rows |= {f"ours automatic {effort}": [*own, "--target-bits", bits, "--effort", effort] for effort in ("fast", "balanced", "best")}
            for name, command in rows.items():
                if a.only and not any(part in f"{word} {name}" for part in a.only):
                    continue
                shutil.rmtree(scratch / "out", ignore_errors=True)
                made = run(command, stderr=sys.stderr if os.environ.get("VERBOSE") else subprocess.DEVNULL)
                score = json.loads(run([OWN, ROOT / "benchmarks/score.py", a.model, scratch / "out", a.held_out, "--tasks", a.tasks],
                                       stderr=subprocess.DEVNULL).out.splitlines()[-1])
                leaves_floats = name in ("auto-round", "llama.cpp imatrix")  # of what the weights were rounded to
                stored = size if leaves_floats else score["bytes"]
                print(f"| {word} | {name} | {stored / 1e6:.2f} | {score['kl']:.5f} | {score['kl_p99']:.4f} | {score['perplexity']:.2f} | "
                      + (f"{100 * score['accuracy']:.1f} % | " if a.tasks else "")
                      + f"{made.seconds:.0f} | {megabytes(made.peak_bytes).split()[0]} |", flush=True)


def bytes_of(model, word, ours):
    """Of all tensors when the blocks are in this format of ours, or type of llama.cpp's."""
    if word not in TYPES:
        return json.loads(run([*ours, "-q", word, "--dry-run", "--json"], stderr=subprocess.DEVNULL).out)["bytes_after"]
    import gguf
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[word]]
    matrices = sum(math.prod(shape) for name, shape in shapes_of(model) if name.endswith("_proj.weight"))
    return matrices // block * size + 2 * (parameters_of(model) - matrices)


def shapes_of(model):
    for file in Path(model).glob("*.safetensors"):
        with open(file, "rb") as f:
            tensors = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        yield from ((name, tensor["shape"]) for name, tensor in tensors.items() if name != "__metadata__")


def parameters_of(model):
    return sum(math.prod(shape) for _, shape in shapes_of(model))


if __name__ == "__main__":
    main()
