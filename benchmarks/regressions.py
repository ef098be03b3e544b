#!/usr/bin/env python3
"""Compares the kernels of two builds and names those that became slower; exit 1 if any did.

usage: regressions.py OLD NEW [--filter REGEX] [--rounds 7] [--threshold 5]

OLD and NEW are build folders with -DAUTOGLM_BENCHMARKS=ON, or programs of Google Benchmark. The builds run in turns, so that a
machine which slows down slows both. A case became slower when the median of its rounds' ratios is above the threshold (in
percent), and nearly all rounds agree; or when it runs in OLD alone.
"""
import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path


def program(path):
    file = path / "benchmarks/autoglm_kernels_benchmark" if path.is_dir() else path
    if not file.is_file():
        sys.exit(f"{file} is not there: configure with -DAUTOGLM_BENCHMARKS=ON and build autoglm_kernels_benchmark")
    return file.resolve()


def cases(file, pattern):
    listed = subprocess.run([file, "--benchmark_list_tests"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if re.search(pattern, name)]


def seconds(file, name):
    out = subprocess.run([file, f"--benchmark_filter=^{re.escape(name)}$", "--benchmark_format=json", "--benchmark_min_time=0.05"],
                         capture_output=True, text=True, check=True).stdout
    run = json.loads(out)["benchmarks"][0]
    return None if run.get("error_occurred") else run["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}[run["time_unit"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--filter", default="", help="cases whose name matches")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threshold", type=float, default=5, help="percent")
    a = parser.parse_args()
    old, new = program(a.old), program(a.new)
    names, before = cases(new, a.filter), set(cases(old, a.filter))
    slower = []
    for name in names:
        if name not in before:
            print(f"{name}: only in {a.new}")
            continue
        ratios = []
        for i in range(a.rounds):
            times = {}
            for side, file in (("old", old), ("new", new)) if i % 2 == 0 else (("new", new), ("old", old)):
                times[side] = seconds(file, name)
            if None in times.values():
                break
            ratios.append(times["new"] / times["old"])
        if not ratios:
            print(f"{name}: {'does not run here' if times['old'] is None else 'NO LONGER RUNS'}")
            if times["old"] is not None:
                slower.append(name)
            continue
        middle, limit = statistics.median(ratios), 1 + a.threshold / 100
        is_slower = middle > limit and sum(r > 1 for r in ratios) >= 0.85 * len(ratios)
        print(f"{name}: {middle:.3f} times the time ({min(ratios):.3f} to {max(ratios):.3f}){'  SLOWER' if is_slower else ''}", flush=True)
        if is_slower:
            slower.append(name)
    for name in sorted(before - set(names)):
        print(f"{name}: only in {a.old}")
        slower.append(name)
    print(f"{len(slower)} of {len(before | set(names))} cases became slower or are missing" + (": " + ", ".join(slower) if slower else ""))
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
