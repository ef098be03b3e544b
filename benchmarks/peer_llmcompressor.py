#!/usr/bin/env python3
"""llm-compressor on given tokens: the peer of `autoglm compress`. Runs in its own environment.

usage: peer_llmcompressor.py MODEL TOKENS.npy OUT [--method gptq|rtn] [--bits 4] [--group 128] [--asymmetric]

TOKENS is an int64 array [samples, length]. Every linear layer but the head is quantized. Prints one JSON line: seconds spent
in oneshot and in saving.
"""
import argparse
import json
import time

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("tokens")
parser.add_argument("out")
parser.add_argument("--method", choices=["gptq", "rtn"], default="gptq")
parser.add_argument("--bits", type=int, default=4)
parser.add_argument("--group", type=int, default=128)
parser.add_argument("--asymmetric", action="store_true")
arguments = parser.parse_args()

tokens = np.load(arguments.tokens)
dataset = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": np.ones_like(tokens).tolist()})
model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)  # the faster type on CPUs without matrix units
weights = {"num_bits": arguments.bits, "type": "int", "strategy": "group", "group_size": arguments.group,
           "symmetric": not arguments.asymmetric, "dynamic": False}
scheme = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}
recipe = {"gptq": GPTQModifier, "rtn": QuantizationModifier}[arguments.method](**scheme)

start = time.perf_counter()
oneshot(model=model, dataset=dataset, recipe=recipe, num_calibration_samples=len(tokens), max_seq_length=tokens.shape[1])
quantized = time.perf_counter()
model.save_pretrained(arguments.out, save_compressed=True)
AutoTokenizer.from_pretrained(arguments.model).save_pretrained(arguments.out)
print(json.dumps({"oneshot_seconds": quantized - start, "save_seconds": time.perf_counter() - quantized}))
