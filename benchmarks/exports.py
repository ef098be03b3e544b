#!/usr/bin/env python3
"""Exports of a random checkpoint in a real shape: of its INT4 artifact, beside a plain copy of what was written, and of its
16 bits, beside the converters of other projects. Time and peak memory.

usage: exports.py FOLDER [--shape glm-edge-1.5b] [--layers N]

FOLDER is a scratch folder with room for the checkpoint, its artifact and three copies (of 32-bit floats, where Optimum writes);
the checkpoint is reused. Nothing that writes a file can be faster than its copy (cp, then sync). Needs the environment of the
converters (tools/bootstrap.sh env:converters).
"""
import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from measure import AUTOGLM, ROOT, megabytes, run

FORMATS = {"hf": ["hf"], "gguf": ["gguf"], "onnx": ["onnx"],
           "gguf q4_k": ["gguf", "--type", "q4_k"], "onnx matmul-nbits": ["onnx", "--matmul-nbits"], "tensorrt": ["tensorrt"],
           "torchscript": ["torchscript"], "gptq": ["gptq"], "awq": ["awq"]}
CONVERTERS = {"gguf": "llama.cpp", "onnx": "Optimum"}


def size(path):
    return sum(f.stat().st_size for f in ([path] if path.is_file() else path.rglob("*")) if f.is_file())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="glm-edge-1.5b")
    parser.add_argument("--layers", type=int)
    a = parser.parse_args()
    source, artifact, out, copy = (a.folder / f"{a.shape}{suffix}" for suffix in ("", "-int4", "-export", "-copy"))
    if not (source / "config.json").exists():
        layers = ["--layers", str(a.layers)] if a.layers else []
        subprocess.run([sys.executable, ROOT / "benchmarks/random_checkpoint.py", a.shape, source, *layers], check=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # GGUF wants one
        shutil.copy(ROOT / "models/glm-phone-demo" / name, source)
    run([AUTOGLM, "compress", source, "-o", artifact, "--overwrite", "-q", "int4-g128", "--method", "rtn", "--verify", "none", "--quiet"])
    print(f"{a.shape}: artifact of {size(artifact) / 1e9:.2f} GB")
    print(f"{'format':20}{'size':>10}{'seconds':>10}{'copy':>8}{'ratio':>8}{'peak memory':>14}")
    for name, options in FORMATS.items():
        subprocess.run(["rm", "-rf", out, copy], check=True)
        done = run([AUTOGLM, "export", artifact, "--format", *options, "-o", out, "--json", "--quiet"])
        copied = run(["sh", "-c", f"cp -r '{out}' '{copy}' && find '{copy}' -type f -exec sync {{}} +"])
        print(f"{name:20}{size(out) / 1e9:7.2f} GB{done.seconds:10.1f}{copied.seconds:8.1f}{done.seconds / copied.seconds:8.2f}"
              f"{megabytes(done.peak_bytes):>14}")
    subprocess.run(["rm", "-rf", artifact, copy], check=True)
    print(f"{'of 16 bits':20}{'size':>10}{'seconds':>10}{'peak memory':>14}")
    for name, peer in CONVERTERS.items():
        ours = [AUTOGLM, "export", source, "--format", name, "-o", out, "--json", "--quiet"]
        theirs = [ROOT / ".venvs/converters/bin/python", ROOT / "benchmarks/peer_converter.py", name, source, out]
        for label, command in ((name, ours), (f"{name}, {peer}", theirs)):
            subprocess.run(["rm", "-rf", out], check=True)
            done = run(command, stderr=subprocess.DEVNULL)
            print(f"{label:20}{size(out) / 1e9:7.2f} GB{done.seconds:10.1f}{megabytes(done.peak_bytes):>14}")
    subprocess.run(["rm", "-rf", out], check=True)


if __name__ == "__main__":
    main()
