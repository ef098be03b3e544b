#!/usr/bin/env python3
"""Writes the table of families and formats into docs/FORMATS.md from what the tests of clients recorded (make test-clients).

usage: compatibility.py CELLS.json…
"""
import argparse
import json
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/FORMATS.md"
BEGIN, END = "<!-- compatibility: tests/clients/compatibility.py writes this table -->\n", "<!-- end of compatibility -->\n"
FORMATS = ["compressed-tensors", "hf", "gguf", "onnx", "gptq", "awq", "torchscript", "tensorrt", "vllm"]
AGREES = {"tensorrt": "rules"}  # the software itself has not read these files; others: yes


def family_of(checkpoint):
    """glm4_tied, glm4_moe_plain and the demo model are further checkpoints of a family."""
    if checkpoint == "glm-phone-demo":
        return "glm4"
    return next(f for f in ("chatglm", "glm4_moe", "glm4v", "glm4", "glm", "llama", "qwen2", "qwen3") if checkpoint.startswith(f))


def word(kind, agreements):
    return "" if not agreements else AGREES.get(kind, "yes") if all(agreements) else "**no**"


def table(cells):
    families, clients = {}, {}
    for name, cell in cells.items():
        kind, checkpoint = name.split(" ")
        families.setdefault(family_of(checkpoint), {}).setdefault(kind, []).append(cell["agrees"])
        clients.setdefault(kind, set()).add(cell["client"])
    lines = ["| | " + " | ".join(f"{kind}: {', '.join(sorted(clients.get(kind, ['not run'])))}" for kind in FORMATS) + " |",
             "|---" * (len(FORMATS) + 1) + "|"]
    for family in sorted(families):
        lines.append(f"| {family} | " + " | ".join(word(kind, families[family].get(kind, [])) for kind in FORMATS) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cells", type=Path, nargs="+")
    arguments = parser.parse_args()
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    cells = {name: cell for file in arguments.cells for name, cell in json.loads(file.read_text()).items()}
    DOCUMENT.write_text(before + BEGIN + "\n" + table(cells) + "\n" + END + after)


if __name__ == "__main__":
    main()
