"""Checks that the sources compile against the headers of other LibTorch releases.

usage: torch_compat.py VERSION...      (after a release build, whose compile commands are used)

For Linux on x86 the package index has CUDA builds of several gigabytes, so the headers come from the small CPU wheel for
macOS: they are the same files, and only syntax and types are checked, nothing is linked. To build and test against
another LibTorch, point CMake at it: cmake --preset release -B build/other -DTorch_DIR=…/share/cmake/Torch
"""
import json
import re
import shlex
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ROOT / "build/release/compile_commands.json"
INCLUDE = re.compile(r"\S+/torch/include(?=/|$)")


def headers(version, folder):
    """Folder of the release's headers, downloaded once."""
    target = folder / "torch/include"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                        "--platform=macosx_14_0_arm64", "--platform=macosx_11_0_arm64", "--dest", folder,
                        f"torch=={version}"], check=True)
        with zipfile.ZipFile(next(folder.glob("torch-*.whl"))) as wheel:
            wheel.extractall(folder, [n for n in wheel.namelist() if n.startswith("torch/include/")])
        (folder / "complete").touch()
    return target


def compile_lines(include, header):
    """{source: command} of every file that sees LibTorch, with `include` in its place and only checked."""
    lines = {}
    for entry in json.loads(COMMANDS.read_text()):
        words = shlex.split(entry["command"])
        if not any(INCLUDE.search(word) for word in words) or "cmake_pch" in entry["file"]:
            continue
        start = next(i for i, word in enumerate(words) if word.endswith(("c++", "g++")))
        words = [INCLUDE.sub(str(include), word) for word in words[start:]]
        words = [str(header) if word.endswith("cmake_pch.hxx") else word for word in words]
        output = words.index("-o")
        del words[output:output + 2]
        lines[entry["file"]] = words + ["-fsyntax-only"]
    return lines


def check(version):
    folder = ROOT / "build/torch-compat" / version
    folder.mkdir(parents=True, exist_ok=True)
    header = folder / "torch_all.h"
    header.write_text("#include <torch/torch.h>\n")
    lines = compile_lines(headers(version, folder), header)
    if not lines:
        sys.exit("no file of build/release sees LibTorch: run make build first")

    # The precompiled header takes the flags of any of the files, without its own source and include.
    source, words = next(iter(lines.items()))
    flags = [w for w in words if w not in (source, str(header), "-include", "-c", "-fsyntax-only")]
    subprocess.run([*flags, "-x", "c++-header", str(header), "-o", f"{header}.gch"], check=True)

    def one(item):
        run = subprocess.run(item[1], capture_output=True, text=True)
        return item[0], run.returncode, run.stderr

    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for source, code, errors in pool.map(one, lines.items()):
            if code:
                failed += 1
                print(f"{source} does not compile against {version}\n{errors}")
    print(f"torch {version}: {len(lines) - failed} of {len(lines)} files compile")
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(1 if sum([check(version) for version in sys.argv[1:]]) else 0)
