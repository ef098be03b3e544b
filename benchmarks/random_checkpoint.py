#!/usr/bin/env python3
"""Writes a checkpoint with random bf16 weights in the shape of a real model, streaming: memory stays at a few chunks of values.

usage: random_checkpoint.py SHAPE FOLDER [--layers N] [--seed N]

The weights are normal with the usual initial deviation (0.02; norms 1), so that quantizers see a realistic spread. Only
numpy is needed. Shapes: glm-edge-1.5b, glm-4-9b, smollm2-135m, glm-4.5-air (plans only: --headers-only writes config and headers over
a sparse file).
"""
import argparse
import json
import struct
from pathlib import Path

import numpy as np

# Public config.json figures of the releases named (Hugging Face model cards).
SHAPES = {
    "glm-edge-1.5b": dict(model_type="glm", hidden=2048, intermediate=6144, layers=28, heads=16, kv=4, vocab=59264, context=8192),
    "glm-4-9b": dict(model_type="glm4", hidden=4096, intermediate=13696, layers=40, heads=32, kv=2, vocab=151552, context=32768),
    "smollm2-135m": dict(model_type="llama", hidden=576, intermediate=1536, layers=30, heads=9, kv=3, vocab=49152, context=8192,
                         head_dim=64),
    "glm-4.5-air": dict(model_type="glm4_moe", hidden=4096, intermediate=10944, layers=46, heads=96, kv=8, vocab=151552,
                        context=131072, moe_intermediate=1408, experts=128, active=8, dense=1),
}
ARCHITECTURES = {"glm": "GlmForCausalLM", "glm4": "Glm4ForCausalLM", "glm4_moe": "Glm4MoeForCausalLM",
                 "llama": "LlamaForCausalLM"}
SHARD_BYTES = 4_000_000_000
CHUNK = 1 << 24  # values drawn at a time


def head_dim(s):
    return s.get("head_dim", 128)


def config(s, layers):
    llama = s["model_type"] == "llama"
    c = {"architectures": [ARCHITECTURES[s["model_type"]]], "model_type": s["model_type"], "attention_bias": not llama,
         "hidden_act": "silu", "hidden_size": s["hidden"], "intermediate_size": s["intermediate"], "head_dim": head_dim(s),
         "num_hidden_layers": layers, "num_attention_heads": s["heads"], "num_key_value_heads": s["kv"],
         "max_position_embeddings": s["context"], "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 1.0 if llama else 0.5,
         "tie_word_embeddings": llama, "vocab_size": s["vocab"], "torch_dtype": "bfloat16", "eos_token_id": [0], "pad_token_id": 0}
    if "experts" in s:
        c |= {"moe_intermediate_size": s["moe_intermediate"], "n_routed_experts": s["experts"], "num_experts_per_tok": s["active"],
              "n_shared_experts": 1, "first_k_dense_replace": s["dense"], "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
              "routed_scaling_factor": 1.0, "use_qk_norm": False}
    return c


def tensors(s, layers):
    h, q, k = s["hidden"], s["heads"] * head_dim(s), s["kv"] * head_dim(s)
    llama = s["model_type"] == "llama"
    yield "model.embed_tokens.weight", (s["vocab"], h)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (h,)
        for name, rows in (("q", q), ("k", k), ("v", k)):
            yield p + f"self_attn.{name}_proj.weight", (rows, h)
            if not llama:
                yield p + f"self_attn.{name}_proj.bias", (rows,)
        yield p + "self_attn.o_proj.weight", (h, q)
        yield p + "post_attention_layernorm.weight", (h,)
        if s["model_type"] == "glm4":
            yield p + "post_self_attn_layernorm.weight", (h,)
            yield p + "post_mlp_layernorm.weight", (h,)
        if "experts" in s and i >= s["dense"]:
            m = s["moe_intermediate"]
            yield p + "mlp.gate.weight", (s["experts"], h)
            yield p + "mlp.gate.e_score_correction_bias", (s["experts"],)
            for e in [f"experts.{n}" for n in range(s["experts"])] + ["shared_experts"]:
                yield p + f"mlp.{e}.gate_proj.weight", (m, h)
                yield p + f"mlp.{e}.up_proj.weight", (m, h)
                yield p + f"mlp.{e}.down_proj.weight", (h, m)
        elif llama or "experts" in s:
            yield p + "mlp.gate_proj.weight", (s["intermediate"], h)
            yield p + "mlp.up_proj.weight", (s["intermediate"], h)
            yield p + "mlp.down_proj.weight", (h, s["intermediate"])
        else:
            yield p + "mlp.gate_up_proj.weight", (2 * s["intermediate"], h)
            yield p + "mlp.down_proj.weight", (h, s["intermediate"])
    yield "model.norm.weight", (h,)
    if not llama:  # llama's head is tied to the embedding
        yield "lm_head.weight", (s["vocab"], h)


def bf16(values):
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_shard(path, members, generator, headers_only):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in members:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        if headers_only:
            f.truncate(8 + len(text) + offset)
            return
        for name, shape in members:
            left = int(np.prod(shape))
            while left:
                n = min(left, CHUNK)
                values = generator.standard_normal(n, dtype=np.float32) * np.float32(0.02)
                f.write((bf16(values + np.float32(1)) if "norm" in name else bf16(values)).tobytes())
                left -= n


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--headers-only", action="store_true", help="sparse files: the headers are real, the weights are holes")
    arguments = parser.parse_args()
    s = SHAPES[arguments.shape]
    layers = arguments.layers or s["layers"]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "config.json").write_text(json.dumps(config(s, layers), indent=2))

    shards, size = [[]], 0
    for name, shape in tensors(s, layers):
        nbytes = 2 * int(np.prod(shape))
        if shards[-1] and size + nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += nbytes
    generator = np.random.Generator(np.random.SFC64(arguments.seed))
    weight_map = {}
    for i, members in enumerate(shards):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(arguments.folder / file, members, generator, arguments.headers_only)
        weight_map |= {name: file for name, _ in members}
    if len(shards) > 1:
        total = sum(2 * int(np.prod(shape)) for _, shape in tensors(s, layers))
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (arguments.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


if __name__ == "__main__":
    main()
