#!/usr/bin/env python3
"""Speed of llama.cpp on a GGUF file, as its own batched benchmark takes it: a prompt for each of `batch` sequences, then steps of one
token for all of them. Prints JSON.

usage: peer_llama_cpp.py FILE.gguf --threads N [--batch N] [--prompt N] [--runs N]

The library is the one of node-llama-cpp, which has kernels for every x86-64 instruction set and takes the best; it is called without
Node. Of its parameters only the first four fields are set (llama.h: n_ctx, n_batch, n_ubatch, n_seq_max), and read back.
"""
import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"  # llama.cpp 0.5.0
LIBRARIES = ROOT / ".cache/llama.cpp/bins/linux-x64"
UBATCH = 512


class Parameters(ctypes.Structure):
    """Any of its parameter structs: they are returned and passed in memory, so that a tail too long does no harm."""
    _fields_ = [("first", ctypes.c_uint32 * 4), ("rest", ctypes.c_char * 496)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
                ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


def prompt_of(length, seed):
    return [(seed * 7919 + i * 31) % 4000 + 50 for i in range(length)]


class LlamaCpp:
    def __init__(self, file, threads, batch, context):
        ggml, self.api = (ctypes.CDLL(str(LIBRARIES / name), ctypes.RTLD_GLOBAL) for name in ("libggml.v0.5.0.so", "libllama.v0.5.0.so"))
        api = self.api
        for name in ("llama_model_default_params", "llama_context_default_params"):
            getattr(api, name).restype = Parameters
        for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_get_memory"):
            getattr(api, name).restype = ctypes.c_void_p
        api.llama_batch_init.restype = Batch
        api.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
        ggml.ggml_backend_load_all_from_path(str(LIBRARIES).encode())
        api.llama_backend_init()
        self.model = ctypes.c_void_p(api.llama_model_load_from_file(str(file).encode(), api.llama_model_default_params()))
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {file}")
        parameters = api.llama_context_default_params()
        parameters.first[:] = [batch * context, max(UBATCH, batch), UBATCH, batch]
        self.context = ctypes.c_void_p(api.llama_init_from_model(self.model, parameters))
        if not self.context or api.llama_n_seq_max(self.context) != batch or api.llama_n_ctx(self.context) < batch * context:
            raise SystemExit("llama.cpp does not make the context that was asked for")
        api.llama_set_n_threads(self.context, threads, threads)
        self.batch = api.llama_batch_init(max(UBATCH, batch), 0, 1)

    def decode(self, rows):
        """rows: (token, position, sequence, whether its logits are wanted)"""
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0], self.batch.logits[i] = 1, sequence, wanted
        if self.api.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama.cpp fails to decode")
        self.api.llama_synchronize(self.context)

    def prefill(self, prompts):
        rows = [(token, i, s, i + 1 == len(prompt)) for s, prompt in enumerate(prompts) for i, token in enumerate(prompt)]
        for start in range(0, len(rows), UBATCH):
            self.decode(rows[start:start + UBATCH])

    def forget(self):
        self.api.llama_memory_clear(ctypes.c_void_p(self.api.llama_get_memory(self.context)), True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--runs", type=int, default=64)
    a = parser.parse_args()
    subprocess.run([ROOT / "tools/npm_package.sh", PACKAGE, LIBRARIES.parents[1]], check=True, stdout=sys.stderr)
    log = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what it says while it loads
    peer = LlamaCpp(a.file, a.threads, a.batch, a.prompt + a.runs + 8)
    os.dup2(log, 2)

    prompts = [prompt_of(a.prompt, s) for s in range(a.batch)]
    peer.prefill([prompt[:16] for prompt in prompts])  # a first time, not measured
    peer.forget()
    start = time.perf_counter()
    peer.prefill(prompts)
    prompt_seconds = time.perf_counter() - start
    steps = []
    for step in range(a.runs):
        rows = [(50 + (step * 37 + s) % 4000, a.prompt + step, s, True) for s in range(a.batch)]
        start = time.perf_counter()
        peer.decode(rows)
        steps.append(time.perf_counter() - start)
    print(json.dumps({"prompt": a.batch * a.prompt / prompt_seconds, "decode": a.batch * a.runs / sum(steps),
                      "step_ms": sorted(1000 * s for s in steps)}))


if __name__ == "__main__":
    main()
