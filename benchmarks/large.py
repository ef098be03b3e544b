#!/usr/bin/env python3
"""Round-to-nearest INT4 of random checkpoints in real shapes: time beside a plain copy of the file, and peak memory.

usage: large.py FOLDER [--shape glm-edge-1.5b] [--layers N] [--max-ram 4G] [--verify fast]

FOLDER is a scratch folder with room for the checkpoint and its copy; what is there already is reused. The copy (cp, then
sync) is the peer: nothing that reads and writes a file can be faster.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

from measure import AUTOGLM, ROOT, megabytes, run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="glm-edge-1.5b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--max-ram", default="")
    parser.add_argument("--verify", default="none")
    a = parser.parse_args()
    source, copy, out = (a.folder / f"{a.shape}{suffix}" for suffix in ("", "-copy", "-int4"))
    if not (source / "config.json").exists():
        layers = ["--layers", str(a.layers)] if a.layers else []
        subprocess.run([sys.executable, ROOT / "benchmarks/random_checkpoint.py", a.shape, source, *layers], check=True)
    size = sum(f.stat().st_size for f in source.glob("*.safetensors"))
    copied = run(["sh", "-c", f"rm -rf '{copy}' && cp -r '{source}' '{copy}' && sync '{copy}'/*"])
    subprocess.run(["rm", "-rf", copy], check=True)
    bound = ["--max-ram", a.max_ram] if a.max_ram else []
    made = run([AUTOGLM, "compress", source, "-o", out, "--overwrite", "-q", "int4-minmax", "--method", "rtn", "--verify", a.verify,
                "--json", "--quiet", *bound])
    report = json.loads(made.out)
    print(f"{a.shape}: {size / 1e9:.2f} GB -> {report['measured']['output_bytes'] / 1e9:.2f} GB")
    print(f"compress {made.seconds:.1f} s, copy {copied.seconds:.1f} s: {made.seconds / copied.seconds:.2f} times a copy")
    print(f"peak memory {megabytes(made.peak_bytes)} (from outside, verification included), predicted {megabytes(report['predicted']['peak_rss_bytes'])}")


if __name__ == "__main__":
    main()
