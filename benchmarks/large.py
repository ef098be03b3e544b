#!/usr/bin/env python3
"""Round-to-nearest INT4 of random checkpoints in real shapes: time beside a plain copy of the file, and peak memory.

usage: large.py FOLDER [--shape glm-edge-1.5b] [--layers N] [--max-ram 4G] [--verify fast] [--runs 1]

FOLDER is a scratch folder with room for the checkpoint and its copy; what is there already is reused. The copy (cp, then
sync) is the peer. Both start with a checkpoint that is on the disk alone, not in the page cache; they take turns.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from measure import AUTOGLM, ROOT, megabytes, run


def forget(folder):
    """Has the kernel drop a folder's files from its page cache."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # pages that are not on the disk yet stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="glm-edge-1.5b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--max-ram", default="")
    parser.add_argument("--verify", default="none")
    parser.add_argument("--runs", type=int, default=1)
    a = parser.parse_args()
    source, copy, out = (a.folder / f"{a.shape}{suffix}" for suffix in ("", "-copy", "-int4"))
    if not (source / "config.json").exists():
        layers = ["--layers", str(a.layers)] if a.layers else []
        subprocess.run([sys.executable, ROOT / "benchmarks/random_checkpoint.py", a.shape, source, *layers], check=True)
    size = sum(f.stat().st_size for f in source.glob("*.safetensors"))
    bound = ["--max-ram", a.max_ram] if a.max_ram else []
    copies, runs, peaks = [], [], []
    for _ in range(a.runs):
        forget(source)
        copies.append(run(["sh", "-c", f"rm -rf '{copy}' && cp -r '{source}' '{copy}' && sync '{copy}'/*"]).seconds)
        subprocess.run(["rm", "-rf", copy], check=True)
        forget(source)
        made = run([AUTOGLM, "compress", source, "-o", out, "--overwrite", "-q", "int4-minmax", "--method", "rtn",
                    "--verify", a.verify, "--json", "--quiet", *bound])
        runs.append(made.seconds)
        peaks.append(made.peak_bytes)
        report = json.loads(made.out)
    took, copied = statistics.median(runs), statistics.median(copies)
    print(f"{a.shape}: {size / 1e9:.2f} GB -> {report['measured']['output_bytes'] / 1e9:.2f} GB, median of {a.runs}")
    print(f"compress {took:.1f} s, copy {copied:.1f} s: {took / copied:.2f} times a copy")
    if report["evaluation"]:
        print(f"of it verification {report['evaluation']['seconds']:.1f} s (last run)")
    print(f"peak memory {megabytes(max(peaks))} (from outside, verification included), predicted {megabytes(report['predicted']['peak_rss_bytes'])}")


if __name__ == "__main__":
    main()
