#!/usr/bin/env python3
"""llm-compressor's GPTQ on given tokens: the peer of `autoglm compress --method gptq`. Runs in its own environment.

usage: llmcompressor_gptq.py MODEL TOKENS.npy OUT [--group 128] [--asymmetric]

TOKENS is an int64 array [samples, length]. Prints one JSON line: seconds spent in oneshot and in saving.
"""
import argparse
import json
import time

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("tokens")
parser.add_argument("out")
parser.add_argument("--group", type=int, default=128)
parser.add_argument("--asymmetric", action="store_true")
arguments = parser.parse_args()

tokens = np.load(arguments.tokens)
dataset = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": np.ones_like(tokens).tolist()})
model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)  # the faster type on CPUs without matrix units
weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": arguments.group,
           "symmetric": not arguments.asymmetric, "dynamic": False}
recipe = GPTQModifier(config_groups={"group_0": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"])

start = time.perf_counter()
oneshot(model=model, dataset=dataset, recipe=recipe, num_calibration_samples=len(tokens), max_seq_length=tokens.shape[1])
quantized = time.perf_counter()
model.save_pretrained(arguments.out, save_compressed=True)
AutoTokenizer.from_pretrained(arguments.model).save_pretrained(arguments.out)
print(json.dumps({"oneshot_seconds": quantized - start, "save_seconds": time.perf_counter() - quantized}))
