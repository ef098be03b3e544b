#!/usr/bin/env python3
"""Writes llm_compressor/*: a random one-layer llama as llm-compressor quantizes and saves it, for tests/format.

Runs in llm-compressor's own environment (requirements/llmcompressor.txt):
    .venvs/llmcompressor/bin/python tests/data/make_llm_compressor.py tests/data/llm_compressor
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def weights(num_bits, strategy, symmetric, group_size=None):
    return dict(num_bits=num_bits, type="int", strategy=strategy, symmetric=symmetric, group_size=group_size)


def group(weights, **activations):
    return {"group_0": dict(targets=["Linear"], weights=weights, **activations)}


RECIPES = {
    "int4_group_asymmetric_gptq": lambda: GPTQModifier(
        config_groups=group(weights(4, "group", False, 32)), ignore=["lm_head"], actorder="static"),
    "int3_group": lambda: QuantizationModifier(config_groups=group(weights(3, "group", True, 16)), ignore=["re:.*lm_head"]),
    "int8_channel": lambda: QuantizationModifier(config_groups=group(weights(8, "channel", False)), ignore=["lm_head"]),
    "w8a8": lambda: QuantizationModifier(scheme="W8A8", targets="Linear", ignore=["lm_head"]),
    "int8_tensor_naive": lambda: QuantizationModifier(config_groups=group(weights(8, "tensor", True)), ignore=["lm_head"]),
}


def quantize(model, recipe, tokenizer):
    tokens = torch.randint(0, 64, (8, 16))
    data = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()})
    oneshot(model=model, dataset=data, recipe=[recipe], processor=tokenizer, num_calibration_samples=8, max_seq_length=16)


def main(out):
    words = {str(i): i for i in range(64)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")), pad_token="0")
    for name, recipe in RECIPES.items():
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
                             num_key_value_heads=1, dtype="bfloat16")
        with tempfile.TemporaryDirectory() as source:  # llm-compressor asks where a model came from
            LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(source)
            model = LlamaForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
            quantize(model, recipe(), tokenizer)
            folder = out / name
            shutil.rmtree(folder, ignore_errors=True)
            kwargs = {"quantization_format": "naive-quantized"} if name.endswith("naive") else {}
            model.save_pretrained(folder, save_compressed=True, **kwargs)
        for name in ["recipe.yaml", "generation_config.json", "README.md"]:
            (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
