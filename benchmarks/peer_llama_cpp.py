#!/usr/bin/env python3
"""Speed of llama.cpp on a GGUF file, as its own batched benchmark takes it: a prompt for each of `batch` sequences, then steps of one
token for all of them. Prints JSON.

usage: peer_llama_cpp.py FILE.gguf --threads N [--batch N] [--prompt N] [--runs N]
       peer_llama_cpp.py FILE.gguf --threads N --quantize OUT.gguf      as its own mixture Q4_K_M

The library is the one of node-llama-cpp, which has kernels for every x86-64 instruction set and takes the best; it is called without
Node. Of its parameters only the first four fields are set (llama.h: n_ctx, n_batch, n_ubatch, n_seq_max), and all are read back.
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
FOLDER = ROOT / ".cache" / PACKAGE.replace("/", "-")
LIBRARIES = FOLDER / "bins/linux-x64"
UBATCH = 512
Q8_0, Q4_K_M = 7, 15  # of llama_ftype in llama.h: what its parameters of quantization come with, and what is asked for


class Parameters(ctypes.Structure):
    """Any of its parameter structs: they are returned and passed in memory, so that a tail too long does no harm."""
    _fields_ = [("first", ctypes.c_uint32 * 4), ("rest", ctypes.c_char * 496)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
                ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


def load():
    """Its two libraries, ggml's and its own, with what returns more than an integer declared."""
    ggml, api = (ctypes.CDLL(str(LIBRARIES / name), ctypes.RTLD_GLOBAL) for name in ("libggml.v0.5.0.so", "libllama.v0.5.0.so"))
    for name in ("llama_model_default_params", "llama_context_default_params", "llama_model_quantize_default_params"):
        getattr(api, name).restype = Parameters
    for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_get_memory"):
        getattr(api, name).restype = ctypes.c_void_p
    api.llama_batch_init.restype = Batch
    api.llama_model_quantize.restype = ctypes.c_uint32
    ggml.ggml_backend_load_all_from_path(str(LIBRARIES).encode())
    api.llama_backend_init()
    return api


def quantize(file, target, threads):
    """Q4_K_M as llama-quantize makes it; of the parameters the first two are set (nthread, ftype)."""
    api = load()
    parameters = api.llama_model_quantize_default_params()
    if parameters.first[1] != Q8_0:
        raise SystemExit(f"llama.cpp's parameters of quantization are not those that are known: {list(parameters.first)}")
    parameters.first[0], parameters.first[1] = threads, Q4_K_M
    part = target.with_suffix(".part")
    if api.llama_model_quantize(str(file).encode(), str(part).encode(), ctypes.byref(parameters)) != 0:
        raise SystemExit(f"llama.cpp does not quantize {file}")
    part.rename(target)


def prompt_of(length, seed):
    return [(seed * 7919 + i * 31) % 4000 + 50 for i in range(length)]


class LlamaCpp:
    def __init__(self, file, threads, batch, context):
        api = self.api = load()
        self.model = ctypes.c_void_p(api.llama_model_load_from_file(str(file).encode(), api.llama_model_default_params()))
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {file}")
        parameters = api.llama_context_default_params()
        context = batch * -(-context // 256) * 256  # what it would round up to
        parameters.first[:] = [context, min(UBATCH, context), min(UBATCH, context), batch]
        self.context = ctypes.c_void_p(api.llama_init_from_model(self.model, parameters))
        got = [getattr(api, f"llama_{name}")(self.context) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")] if self.context else []
        if got != list(parameters.first):
            raise SystemExit(f"llama.cpp does not make the context that was asked for: {list(parameters.first)}, but {got}")
        api.llama_set_n_threads(self.context, threads, threads)

    def batches(self, rows):
        """rows, (token, position, sequence, whether its logits are wanted), as llama_decode takes them."""
        made, size = [], self.api.llama_n_batch(self.context)
        for start in range(0, len(rows), size):
            part = rows[start:start + size]
            batch = self.api.llama_batch_init(len(part), 0, 1)
            batch.n_tokens = len(part)
            for i, (token, position, sequence, wanted) in enumerate(part):
                batch.token[i], batch.pos[i] = token, position
                batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, sequence, wanted
            made.append(batch)
        return made

    def prompts(self, prompts):
        return self.batches([(token, i, s, i + 1 == len(prompt)) for s, prompt in enumerate(prompts) for i, token in enumerate(prompt)])

    def seconds(self, batches):
        """What it takes to decode them."""
        start = time.perf_counter()
        for batch in batches:
            if self.api.llama_decode(self.context, batch) != 0:
                raise SystemExit("llama.cpp fails to decode")
        self.api.llama_synchronize(self.context)
        return time.perf_counter() - start

    def forget(self):
        self.api.llama_memory_clear(ctypes.c_void_p(self.api.llama_get_memory(self.context)), True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--quantize", type=Path)
    a = parser.parse_args()
    subprocess.run([ROOT / "tools/npm_package.sh", PACKAGE, FOLDER], check=True, stdout=sys.stderr)
    log, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # what it says while it loads
    try:
        if a.quantize:
            return quantize(a.file, a.quantize, a.threads)
        peer = LlamaCpp(a.file, a.threads, a.batch, a.prompt + a.runs + 8)
    finally:
        os.dup2(log, 2)

    prompts = [prompt_of(a.prompt, s) for s in range(a.batch)]
    steps = [peer.batches([(50 + (step * 37 + s) % 4000, a.prompt + step, s, True) for s in range(a.batch)]) for step in range(a.runs)]
    peer.seconds(peer.prompts([prompt[:16] for prompt in prompts]))  # a first time, not counted
    peer.forget()
    prompt = peer.seconds(peer.prompts(prompts))
    times = [peer.seconds(step) for step in steps]
    print(json.dumps({"prompt": a.batch * a.prompt / prompt, "decode": a.batch * a.runs / sum(times), "step_ms": [1000 * s for s in times]}))


if __name__ == "__main__":
    main()
