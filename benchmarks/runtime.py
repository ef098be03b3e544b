#!/usr/bin/env python3
"""Speed of the runtime on a random checkpoint in a real shape: 16 bits, INT8 and INT4 of ours beside llama.cpp
(peer_llama_cpp.py) and ONNX Runtime GenAI on the same weights, each in a process of its own, in turns.

usage: runtime.py FOLDER [--shape glm-edge-1.5b] [--layers N] [--prompt 512] [--runs 64] [--rounds 3] [--batches 1,8] [--threads N]
                  [--only REGEX] [--demo]

FOLDER is a scratch folder; what was made there is used again. --demo takes the demo model in place of a random one. Decode: tokens
after the prompt, one at a time. Figures are medians of the rounds, ratios (of a round) and latencies of a step too. "of reading":
bytes of weights that a token needs, by decode time, as a share of what this machine reads (ReadMemory of autoglm_kernels_benchmark,
before each row of ours). Before the first round files leave the page cache, and each program runs once, unmeasured, and reads its
own in its own way. Then ours once more, step by step in turns in one process, so that what else this machine does slows all of them
alike. At the end the time from the start of the program to a first token, of artifacts as they are stored and packed.
"""
import argparse
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import AUTOGLM, ROOT
from peer_llama_cpp import prompt_of

EDGE = os.environ.get("AUTOGLM_EDGE", str(Path(AUTOGLM).parent / "autoglm-edge"))
KERNELS = os.environ.get("AUTOGLM_KERNELS_BENCHMARK", str(Path(AUTOGLM).parent / "benchmarks/autoglm_kernels_benchmark"))
ARTIFACTS = {"int8": "int8", "int4-g128": "int4-g128", "int4-g32": "int4-g32"}
# What is exported from which artifact, for whom.
EXPORTS = {"f16.gguf": ("bf16", ["gguf", "--type", "fp16"]), "q8_0.gguf": ("bf16", ["gguf", "--type", "q8_0"]),
           "q4_0.gguf": ("int4-g32", ["gguf"]),
           "int8.onnx": ("int8", ["onnx", "--matmul-nbits"]), "int4.onnx": ("int4-g32", ["onnx", "--matmul-nbits"])}
ROWS = [("autoglm-edge", "bf16", "float"), ("llama.cpp", "f16.gguf", ""),
        ("autoglm-edge", "int8", "float"), ("autoglm-edge", "int8", "int8"), ("llama.cpp", "q8_0.gguf", ""),
        ("onnxruntime", "int8.onnx", ""),
        ("autoglm-edge", "int4-g128", "float"), ("autoglm-edge", "int4-g128", "int8"),
        ("autoglm-edge", "int4-g32", "float"), ("autoglm-edge", "int4-g32", "int8"), ("llama.cpp", "q4_0.gguf", ""),
        ("llama.cpp", "q4_k_m.gguf", ""), ("onnxruntime", "int4.onnx", "")]


def call(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def prepare(a):
    """The checkpoint, its artifacts and their exports; gives the path of each form."""
    folder = a.folder / ("demo" if a.demo else f"{a.shape}{f'-{a.layers}' if a.layers else ''}")
    forms = {"bf16": folder / "bf16"}
    if a.demo and not forms["bf16"].exists():
        shutil.copytree(ROOT / "models/glm-phone-demo", forms["bf16"], ignore=shutil.ignore_patterns("tasks"))
    elif not forms["bf16"].exists():
        layers = ["--layers", a.layers] if a.layers else []
        call(sys.executable, ROOT / "benchmarks/random_checkpoint.py", a.shape, forms["bf16"], *layers)
        for name in ("tokenizer.json", "tokenizer_config.json"):  # GGUF wants one
            shutil.copy(ROOT / "models/glm-phone-demo" / name, forms["bf16"])
    for name, scheme in ARTIFACTS.items():
        forms[name] = folder / name
        forms[f"{name}, packed"] = folder / f"{name}-packed"
        if not forms[name].exists():
            call(AUTOGLM, "compress", forms["bf16"], "-o", forms[name], "-q", scheme, "--head", scheme, "--method", "rtn", "--verify",
                 "none", "--quiet")
        if not forms[f"{name}, packed"].exists():
            call(EDGE, "pack", forms[name], "-o", forms[f"{name}, packed"], "--quiet")
    for name, (source, options) in EXPORTS.items():
        forms[name] = folder / name
        if (wanted(a, name) or name == "f16.gguf" and wanted(a, "q4_k_m.gguf")) and not forms[name].exists():
            call(AUTOGLM, "export", forms[source], "--format", *options, "-o", forms[name], "--quiet")
    forms["q4_k_m.gguf"] = folder / "q4_k_m.gguf"  # its own mixture of types, made by itself
    if wanted(a, "q4_k_m.gguf") and not forms["q4_k_m.gguf"].exists():
        call(sys.executable, ROOT / "benchmarks/peer_llama_cpp.py", forms["f16.gguf"], "--threads", a.threads, "--quantize", forms["q4_k_m.gguf"])
    return forms


def wanted(a, form):
    return any(row[1] == form and re.search(a.only, " ".join(row)) for row in ROWS)


def reading_rate(threads):
    out = json.loads(call(KERNELS, f"--benchmark_filter=ReadMemory/threads:{threads}/", "--benchmark_format=json") or "{}")
    if not out.get("benchmarks"):
        raise SystemExit(f"{KERNELS} measures ReadMemory with 1, 2 or all threads, not with {threads}")
    return out["benchmarks"][0]["bytes_per_second"]


def forget(model):
    """Takes a file, or those of a folder, out of the page cache: in how large pages it comes back is its reader's doing."""
    for file in filter(Path.is_file, [model, *model.glob("*")]):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_of_a_token(model):
    """Of the matrices that a token is multiplied by: all but the embedding, of which it takes a row."""
    config = json.loads((model / "config.json").read_text())
    kinds = json.loads(call(EDGE, "inspect", model, "--json"))["matrices"]
    embedding = 0 if config["tie_word_embeddings"] else config["vocab_size"] * config["hidden_size"] * 2
    return sum(kind["bytes"] for kind in kinds) - embedding


def ours(a, model, compute, batch):
    out = json.loads(call(EDGE, "bench", model, "--compute", compute, "--prompt-tokens", a.prompt, "--runs", a.runs, "--repeats", 1,
                          "--threads", a.threads, "--batch", batch, "--json"))
    row = out["results"][0]
    return {"prompt": row["prompt_tokens_per_second"], "decode": row["decode_tokens_per_second"]} | {
        kind: row["step_ms"][kind] for kind in ("median", "p95", "p99")}


def in_turns(a, models):
    """Decode of each by that of the first: a step of each after another, in one process."""
    first, *others = models
    out = json.loads(call(EDGE, "bench", first, "--compare", *others, "--compute", "int8", "--prompt-tokens", 64, "--runs", a.runs,
                          "--repeats", a.rounds, "--threads", a.threads, "--json"))
    return [row["ratio"] for row in out["results"]]


def first_text(model, compute, threads):
    """Seconds from the start of the program to the first token of a short prompt, and its end."""
    start = time.perf_counter()
    call(EDGE, "generate", model, "--raw", "--prompt", "one two three", "--max-new-tokens", 1, "--compute", compute, "--threads", threads)
    return time.perf_counter() - start


def peer(a, name, model, batch):
    """One measurement in a process of its own: of llama.cpp, or this script again, with --child."""
    options = ["--prompt", a.prompt, "--runs", a.runs, "--threads", a.threads]
    if name == "llama.cpp":
        done = call(sys.executable, ROOT / "benchmarks/peer_llama_cpp.py", model, *options, "--batch", batch)
    else:
        done = call(sys.executable, __file__, a.folder, *options, "--batches", batch, "--child", model)
    got = json.loads(done.strip().splitlines()[-1])
    steps = sorted(got.pop("step_ms"))
    return got | {"median": statistics.median(steps)} | {f"p{p}": steps[math.ceil(p / 100 * len(steps)) - 1] for p in (95, 99)}


def onnxruntime(a, model, batch):
    import onnxruntime_genai as og
    config = og.Config(model)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": a.threads}}}}))
    loaded = og.Model(config)
    params = og.GeneratorParams(loaded)
    params.set_search_options(max_length=a.prompt + a.runs + 8, min_length=a.prompt + a.runs + 8, batch_size=batch, do_sample=False)
    generator = og.Generator(loaded, params)
    start = time.perf_counter()
    generator.append_tokens([prompt_of(a.prompt, i) for i in range(batch)] if batch > 1 else prompt_of(a.prompt, 1))
    generator.generate_next_token()
    times = [time.perf_counter()]
    for _ in range(a.runs):
        generator.generate_next_token()
        times.append(time.perf_counter())
    return {"prompt": batch * a.prompt / (times[0] - start), "decode": batch * a.runs / (times[-1] - times[0]),
            "step_ms": [1000 * (after - before) for before, after in zip(times, times[1:])]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="glm-edge-1.5b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", default="1")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="rows whose name matches")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        print(json.dumps(onnxruntime(a, a.child, int(a.batches))))
        return

    forms = prepare(a)
    rows = [row for row in ROWS if re.search(a.only, " ".join(row))]
    for runtime, form, compute in rows:
        forget(forms[form])
        briefly = argparse.Namespace(**vars(a) | {"prompt": 8, "runs": 1})
        ours(briefly, forms[form], compute, 1) if compute else peer(briefly, runtime, forms[form], 1)
    reading, found = [], {}
    for _ in range(a.rounds):
        for runtime, form, compute in rows:
            for batch in map(int, a.batches.split(",")):
                if compute and batch == 1:
                    reading.append(reading_rate(a.threads))
                got = ours(a, forms[form], compute, batch) if compute else peer(a, runtime, forms[form], batch)
                found.setdefault((runtime, form, compute, batch), []).append(got)
    rate = statistics.median(reading or [0])
    print(f"{'demo' if a.demo else a.shape}{f', {a.layers} layers' if a.layers else ''}, {a.threads} threads, prompt {a.prompt}, "
          f"{a.runs} steps, {a.rounds} rounds"
          + (f"; this machine read {rate / 1e9:.1f} GB/s ({min(reading) / 1e9:.1f} to {max(reading) / 1e9:.1f})" if reading else ""))
    print(f"{'runtime':14}{'weights':12}{'compute':9}{'batch':>6}{'decode t/s':>12}{'x our bf16':>12}{'of reading':>12}{'prompt t/s':>12}"
          f"{'step ms':>10}{'p95':>9}{'p99':>9}")
    middle = {key: {kind: statistics.median(each[kind] for each in all_of) for kind in all_of[0]} for key, all_of in found.items()}
    for key, row in middle.items():
        runtime, form, compute, batch = key
        base = found.get(("autoglm-edge", "bf16", "float", batch))
        ratio = f"{statistics.median(one['decode'] / by['decode'] for one, by in zip(found[key], base)):.2f}" if base else ""
        share = f"{100 * bytes_of_a_token(forms[form]) * row['decode'] / rate:.0f} %" if compute and batch == 1 else ""
        print(f"{runtime:14}{form:12}{compute:9}{batch:6}{row['decode']:12.1f}{ratio:>12}{share:>12}{row['prompt']:12.1f}{row['median']:10.2f}{row['p95']:9.2f}"
              f"{row['p99']:9.2f}")
    own = dict.fromkeys(form for runtime, form, _ in rows if runtime == "autoglm-edge")
    if len(own) > 1:
        print("decode step by step in turns, computing in int8 where weights are:")
        for form, ratio in zip(own, in_turns(a, [forms[form] for form in own])):
            print(f"{form:22}{ratio:8.2f}")
    print("from the start of autoglm-edge to its first token, files in the page cache:")
    for form in [*own, *(f"{form}, packed" for form in own if form in ARTIFACTS)]:
        times = [first_text(forms[form], "float" if form == "bf16" else "int8", a.threads) for _ in range(a.rounds + 1)][1:]
        print(f"{form:22}{statistics.median(times):8.3f} s")


if __name__ == "__main__":
    main()
