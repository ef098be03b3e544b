"""GPTQModel loads what `autoglm export --format gptq` and `awq` write, and computes the artifact's numbers (make test-clients)."""
import os
import shutil
import subprocess

import pytest
import torch
import transformers
from conftest import AUTOGLM, TINY, model_folder, task_prompts
from gptqmodel import BACKEND, GPTQModel

DEMO = model_folder("glm-phone-demo")
TASKS = int(os.environ.get("AUTOGLM_TASKS", 200))
BACKENDS = {"gptq": BACKEND.GPTQ_TORCH, "awq": BACKEND.AWQ_TORCH}


def autoglm(*arguments):
    done = subprocess.run([AUTOGLM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def made(source, scheme, layout, folder):
    """The artifact in the layout, and as plain floats."""
    autoglm("compress", source, "-q", scheme, "--method", "rtn", "--verify", "none", "-o", folder / "artifact")
    if not (source / "tokenizer.json").exists():  # GPTQModel loads none without
        for file in DEMO.glob("tokenizer*.json"):
            shutil.copy(file, folder / "artifact")
    autoglm("export", folder / "artifact", "--format", layout, "-o", folder / layout)
    autoglm("export", folder / "artifact", "--format", "hf", "--type", "bf16", "-o", folder / "hf")
    theirs = GPTQModel.load(str(folder / layout), device="cpu", backend=BACKENDS[layout], dtype=torch.bfloat16).model.eval()
    assert sum(type(module).__name__ in ("TorchLinear", "AwqTorchLinear") for module in theirs.modules()) > 0
    return theirs, transformers.AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.bfloat16).eval()


def divergence(ours, theirs, ids):
    with torch.no_grad():
        ours, theirs = (torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1) for model in (ours, theirs))
    return (ours.exp() * (ours - theirs)).sum(-1).mean().item()


@pytest.mark.parametrize("layout,scheme", [
    *(("gptq", scheme) for scheme in ("int2-g32", "int3-g128-asym", "int4-g32", "int4-g64-asym", "int8-g64", "int4-channel")),
    *(("awq", scheme) for scheme in ("int4-g32", "int4-g64-asym"))])
def test_demo(layout, scheme, tmp_path):
    theirs, ours = made(DEMO, scheme, layout, tmp_path)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, ours.config.vocab_size, (48,), generator=generator).tolist()
    assert divergence(ours, theirs, ids) <= 1e-3  # both compute in bfloat16


@pytest.mark.parametrize("layout", ["gptq", "awq"])
@pytest.mark.parametrize("family", ["glm", "glm4", "glm4_tied", "llama", "qwen2", "qwen3"])
def test_families(family, layout, tmp_path):
    theirs, ours = made(TINY / family, "int4-g16-asym" if layout == "gptq" else "int4-g16", layout, tmp_path)
    assert divergence(ours, theirs, list(range(3, 40))) <= 1e-3


@pytest.mark.parametrize("layout", ["gptq", "awq"])
def test_the_same_greedy_text_on_task_prompts(layout, tmp_path):
    theirs, ours = made(DEMO, "int4-g64", layout, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / layout)
    for prompt in task_prompts(tokenizer, TASKS):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        texts = []
        for model in (ours, theirs):
            with torch.no_grad():
                texts.append(model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=48)[0].tolist())
        assert texts[0] == texts[1], prompt
