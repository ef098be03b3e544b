#!/usr/bin/env python3
"""Calibration text of different kinds: how far each lies from held-out text (`autoglm calibrate shift`), and what the whole
demo model loses there when it is quantized on each.

usage: shift.py CALIBRATION.txt HELD_OUT.txt [-q int3-g128] [--samples 64] [--length 256]

Kinds: prose (CALIBRATION), what the model writes itself, the model's own tasks, the project's C++ sources, words of the
prose in random order, and digits. Prints the shift report, then KL to the source on HELD_OUT for each, GPTQ, the same number
of tokens, measured at the same positions; the ratio of self to prose is the price of having no data.
"""
import argparse
import random
import shutil
import tempfile
from pathlib import Path

from demo import DEMO, compress, divergence, start_of, without_tasks
from measure import AUTOGLM, ROOT, run


def write_kinds(prose, folder):
    """{kind: file or "self"}; several times as much text as is drawn from it."""
    words = random.Random(1)
    text = Path(prose).read_text(encoding="utf-8", errors="replace")[:2_000_000]
    mixed = text.split()
    words.shuffle(mixed)
    sources = [file for folder in ("core", "compress", "runtime") for file in sorted((ROOT / folder).rglob("*.cpp"))]
    contents = {"prose": text, "shuffled": " ".join(mixed), "code": "\n".join(file.read_text() for file in sources),
                "digits": " ".join(str(words.randrange(10 ** words.randrange(1, 9))) for _ in range(200_000))}
    for kind, written in contents.items():
        (folder / f"{kind}.txt").write_text(written, encoding="utf-8")
    shutil.copy(DEMO / "tasks/calibration.jsonl", folder / "tasks.jsonl")
    return {**{kind: folder / f"{kind}.txt" for kind in contents}, "tasks": folder / "tasks.jsonl", "self": "self"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("calibration")
    parser.add_argument("held_out")
    parser.add_argument("-q", "--quantization", default="int3-g128")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--bytes", type=int, default=60000)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        model, held_out = without_tasks(scratch), start_of(a.held_out, a.bytes, scratch)
        kinds = write_kinds(a.calibration, scratch)
        tokens = ["--samples", a.samples, "--length", a.length]
        print(run([AUTOGLM, "calibrate", "shift", model, *kinds.values(), "--eval-dataset", held_out, "-q", a.quantization,
                   *tokens, "--quiet"]).out.replace(str(scratch) + "/", ""), flush=True)
        found = {}
        for kind, text in kinds.items():
            compress(model, scratch / "out", text, a.samples, a.length, "-q", a.quantization, "--method", "gptq")
            found[kind] = divergence(scratch / "out", model, held_out)["kl_mean"]
            print(f"{kind:12}KL {found[kind]:.5f}  {found[kind] / found['prose']:.2f} times prose", flush=True)


if __name__ == "__main__":
    main()
