#!/usr/bin/env python3
"""AutoRound on given tokens: the peer of `autoglm compress --effort balanced`. Runs in llm-compressor's environment.

usage: peer_autoround.py MODEL TOKENS.npy OUT [--bits 4] [--group 128] [--asymmetric] [--iters 200]

TOKENS is an int64 array [samples, length]. Every linear layer but the head is quantized; OUT holds the weights as floats of
what they were rounded to. Prints one JSON line: seconds.
"""
import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("tokens")
parser.add_argument("out")
parser.add_argument("--bits", type=int, default=4)
parser.add_argument("--group", type=int, default=128)
parser.add_argument("--asymmetric", action="store_true")
parser.add_argument("--iters", type=int, default=200)
arguments = parser.parse_args()

tokens = torch.from_numpy(np.load(arguments.tokens))
model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(arguments.model)
start = time.perf_counter()
rounding = AutoRound(model, tokenizer, bits=arguments.bits, group_size=arguments.group, sym=not arguments.asymmetric, iters=arguments.iters,
                     nsamples=len(tokens), seqlen=tokens.shape[1], batch_size=8, dataset=[row.unsqueeze(0) for row in tokens],
                     device_map="cpu", enable_torch_compile=False, seed=0)
rounding.quantize_and_save(arguments.out, format="fake")
for folder in [f for f in Path(arguments.out).iterdir() if f.is_dir()]:  # it makes a folder of its own inside
    for file in folder.iterdir():
        shutil.move(file, arguments.out)
    folder.rmdir()
print(json.dumps({"seconds": time.perf_counter() - start}))
