#!/usr/bin/env python3
"""A neutral judge: what a quantized folder lost against its source, computed by transformers in float32 from the weights that
its files say, whoever wrote them.

usage: score.py SOURCE FOLDER HELD_OUT.txt [--sequences 32] [--length 512] [--tasks 0]

Prints one JSON line: bytes of the tensors, KL(source || folder) in nats (mean, 99th percentile), perplexity of both, and with
--tasks N the share of N tasks of SOURCE/tasks/eval.jsonl that each answers as expected.
"""
import argparse
import json
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def bits_of(name, config):
    """num_bits of the group of the quantization_config that a module belongs to: the one that names it, else the class."""
    import re

    usual = None
    for group in config["config_groups"].values():
        for target in group["targets"]:
            if target == name or (target.startswith("re:") and re.match(target[3:], name)):
                return group["weights"]["num_bits"]
            if target in ("Linear", "Embedding"):
                usual = group["weights"]["num_bits"]
    return usual


def floats_of(folder):
    """(state dict in float32, bytes of the stored tensors)"""
    stored, total = {}, 0
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                stored[name] = tensors.get_tensor(name)
                total += stored[name].nbytes
    quantization = json.loads((Path(folder) / "config.json").read_text()).get("quantization_config")
    state = {}
    for name, tensor in stored.items():
        module = name.rpartition(".")[0]
        if name.endswith(".weight_packed"):
            bits = bits_of(module, quantization)
            shape = torch.Size(stored[module + ".weight_shape"].tolist())
            values = unpack_from_int32(tensor, bits, shape).to(torch.float32)
            scale = stored[module + ".weight_scale"].to(torch.float32)
            grouped = values.view(shape[0], scale.shape[1], -1)
            zero = stored.get(module + ".weight_zero_point")
            if zero is not None:
                grouped = grouped - unpack_from_int32(zero, bits, torch.Size(scale.shape), packed_dim=0).to(torch.float32)[..., None]
            state[module + ".weight"] = (grouped * scale[..., None]).view(shape)
        elif name.endswith(".weight") and tensor.dtype == torch.int8:
            state[name] = tensor.to(torch.float32) * stored[module + ".weight_scale"].to(torch.float32)
        elif not name.endswith((".weight_scale", ".weight_zero_point", ".weight_shape")):
            state[name] = tensor.to(torch.float32)
    return state, total


def load(folder, source):
    config = AutoConfig.from_pretrained(source)
    own = json.loads((Path(folder) / "config.json").read_text())
    config.tie_word_embeddings = own.get("tie_word_embeddings", config.tie_word_embeddings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    state, total = floats_of(folder)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("lm_head" in name and config.tie_word_embeddings for name in missing), (missing, unexpected)
    return model.eval(), total


def answers(model, tokenizer, prompts):
    out = []
    for i in range(0, len(prompts), 32):
        inputs = tokenizer(prompts[i:i + 32], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        written = model.generate(**inputs, max_new_tokens=96, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        out += tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
    return [text.strip().split("\n")[-1] for text in out]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("folder")
    parser.add_argument("held_out")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--tasks", type=int, default=0)
    a = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(a.source)
    text = Path(a.held_out).read_text(errors="replace")[: a.sequences * a.length * 12]
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    ids = ids[: len(ids) // a.length * a.length].view(-1, a.length)[: a.sequences]
    source, _ = load(a.source, a.source)
    model, total = load(a.folder, a.source)
    divergences, losses, own_losses = [], [], []
    for row in ids:
        p, q = (m(row[None]).logits[0].log_softmax(-1) for m in (source, model))
        divergences.append((p.exp() * (p - q)).sum(-1))
        losses.append(-q[:-1].gather(1, row[1:, None]))
        own_losses.append(-p[:-1].gather(1, row[1:, None]))
    divergence = torch.cat(divergences)
    result = {"bytes": total, "tokens": divergence.numel(), "kl": divergence.mean().item(), "kl_p99": divergence.quantile(0.99).item(),
              "perplexity": torch.cat(losses).mean().exp().item(), "source_perplexity": torch.cat(own_losses).mean().exp().item()}
    if a.tasks:
        tasks = [json.loads(line) for line in (Path(a.source) / "tasks/eval.jsonl").read_text().splitlines()][: a.tasks]
        prompts = [tokenizer.apply_chat_template([{"role": "system", "content": t["system"]}, {"role": "user", "content": t["user"]}],
                                                 tokenize=False, add_generation_prompt=True) for t in tasks]
        result["accuracy"] = sum(x == t["answer"] for x, t in zip(answers(model, tokenizer, prompts), tasks)) / len(tasks)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
