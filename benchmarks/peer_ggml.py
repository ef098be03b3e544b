#!/usr/bin/env python3
"""llama.cpp's types with an importance matrix on given tokens: the peer of `autoglm compress` at their sizes.

usage: peer_ggml.py MODEL TOKENS.npy OUT --type Q4_K

TOKENS is an int64 array [samples, length]. Every linear layer but the head is quantized by ggml itself (ggml_quantize_chunk of the
library that peer_llama_cpp.py fetches), weighted by the mean square of each input channel over the tokens, which is what
llama-imatrix collects; here transformers runs the model, in float32. OUT holds the weights as floats of what the `gguf` package
reads from the blocks. Prints one JSON line: seconds.
"""
import argparse
import ctypes
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from peer_llama_cpp import FOLDER, LIBRARIES, PACKAGE, ROOT


@torch.no_grad()
def importance(model, tokens):
    """Mean square of every input channel of the linear layers of the blocks, by name."""
    sums, hooks = {}, []
    for name, module in model.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            def add(_, inputs, name=f"model.{name}"):
                sums[name] = sums.get(name, 0) + inputs[0].double().square().flatten(0, -2).sum(0)
            hooks.append(module.register_forward_pre_hook(add))
    for row in tokens:
        model.model(torch.from_numpy(row)[None])
    for hook in hooks:
        hook.remove()
    return {name: (one / tokens.size).float().numpy() for name, one in sums.items()}


def quantize(ggml, kind, weight, channels):
    """The blocks of a matrix, [rows, bytes of a row]."""
    rows, columns = weight.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if columns % block:
        raise SystemExit(f"rows of {columns} are no blocks of {kind.name}, which are of {block}")
    out = np.zeros((rows, columns // block * size), dtype=np.uint8)
    floats = ctypes.POINTER(ctypes.c_float)
    done = ggml.ggml_quantize_chunk(int(kind), weight.ctypes.data_as(floats), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(0),
                                    ctypes.c_int64(rows), ctypes.c_int64(columns), channels.ctypes.data_as(floats))
    if done != out.nbytes:
        raise SystemExit(f"ggml wrote {done} bytes of {kind.name}, not {out.nbytes}")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens")
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", required=True, choices=[kind.name for kind in gguf.GGML_QUANT_SIZES])
    a = parser.parse_args()
    kind = gguf.GGMLQuantizationType[a.type]
    subprocess.run([ROOT / "tools/npm_package.sh", PACKAGE, FOLDER], check=True, stdout=sys.stderr)
    ggml = ctypes.CDLL(str(LIBRARIES / "libggml-base.so"))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    channels = importance(model, np.load(a.tokens))
    state = {}
    for name, tensor in model.state_dict().items():
        module = name.removesuffix(".weight")
        if module in channels:
            blocks = quantize(ggml, kind, np.ascontiguousarray(tensor.numpy()), channels[module])
            state[name] = torch.from_numpy(gguf.quants.dequantize(blocks, kind).reshape(tensor.shape).copy())
        else:
            state[name] = tensor.clone()
    a.out.mkdir(parents=True)
    save_file(state, a.out / "model.safetensors")
    shutil.copy(a.model / "config.json", a.out)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
