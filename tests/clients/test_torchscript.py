"""torch.jit.load computes the artifact's numbers from what `autoglm export --format torchscript` writes."""
import os
import zipfile

import numpy as np
import pytest
import torch
import transformers
from conftest import FAMILIES, TINY_FAMILIES, divergence, few, model_folder, task_prompts
from test_export import export
from test_onnx import asymmetric_activations
from test_transformers import load, token_ids

DEMO = model_folder("glm-phone-demo")
TASKS = int(os.environ.get("AUTOGLM_TASKS", 20))  # of 200
STEPS = 16


@torch.no_grad()
@torch.jit.optimized_execution(False)  # its first runs take most of the time
def run(module, ids, cache=(), **options):
    logits, cache = module(torch.as_tensor(ids).reshape(1, -1) if np.ndim(ids) < 2 else torch.as_tensor(ids), list(cache), **options)
    return logits, cache


def compare(artifact, folder, our_logits, most):
    """Prefill, then one token at a time with the cache, against our decoder on the artifact."""
    ids = token_ids(artifact)
    ours = our_logits(artifact, ids)
    module = torch.jit.load(folder / "model.pt")
    assert divergence(ours, run(module, ids)[0][0]) <= most
    logits, cache = run(module, ids[:-STEPS])
    parts = [logits[0]]
    for token in ids[-STEPS:]:
        logits, cache = run(module, [token], cache)
        parts.append(logits[0])
    assert divergence(ours, torch.cat(parts)) <= most
    return module


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_same(family, our_logits, tmp_path):
    report = export(model_folder(family), tmp_path / "out", "--format", "torchscript")
    assert report["checked"] > 0 and report["quantized"] == 0
    compare(model_folder(family), tmp_path / "out", our_logits, 1e-5)


@pytest.mark.parametrize("options", [
    ("int4-g32",), ("int4-g32-asym",), ("int4-channel",), ("int4-channel-asym",), ("int4-tensor-asym",), ("int2-g32-asym",),
    ("int3-g64",), ("int3-g64-asym",), ("int5-channel-asym",), ("int6-g64-asym",), ("int8",), ("int8-g64",),
    ("int4-g32-asym", "--override", "embed_tokens=int4-g32-asym", "--override", "lm_head=int8"),
    ("int4-g32", "--override", "embed_tokens=int3-g64-asym", "--override", "lm_head=int8-tensor"),
])
def test_quantized_demo(options, compress, our_logits, tmp_path):
    artifact = compress("glm-phone-demo", "--method", "rtn", "-q", *options)
    report = export(artifact, tmp_path / "out", "--format", "torchscript")
    assert report["quantized"] > 0 and report["integer_products"] == 0
    compare(artifact, tmp_path / "out", our_logits, 1e-5)


def test_dynamic_int8_multiplies_integers(compress, our_logits, tmp_path):
    artifact = compress("glm-phone-demo", "--method", "rtn", "-q", "w8a8")
    report = export(artifact, tmp_path / "out", "--format", "torchscript")
    assert report["integer_products"] == report["quantized"] > 0
    module = compare(artifact, tmp_path / "out", our_logits, 1e-3)
    assert "_int_mm" in module.layer_0.o.code


def test_static_activations(compress, our_logits, tmp_path):
    artifact = compress("glm-phone-demo", "-q", "w8a8-static", "--method", "rtn", "--calibration-dataset",
                        str(DEMO / "tasks" / "eval.jsonl"), "--calibration-samples", "64")
    export(artifact, tmp_path / "out", "--format", "torchscript")
    module = torch.jit.load(tmp_path / "out" / "model.pt")
    for prompt in task_prompts(transformers.AutoTokenizer.from_pretrained(DEMO), 4):
        ids = transformers.AutoTokenizer.from_pretrained(DEMO)(prompt, add_special_tokens=False)["input_ids"]
        assert divergence(our_logits(artifact, ids), run(module, ids)[0][0]) <= 1e-3


@pytest.mark.parametrize("static", [False, True])
def test_activations_with_a_zero_point(static, compress, our_logits, tmp_path):
    artifact, ids = asymmetric_activations(compress, static, tmp_path)
    export(artifact, tmp_path / "out", "--format", "torchscript")
    module = torch.jit.load(tmp_path / "out" / "model.pt")
    assert divergence(our_logits(artifact, ids), run(module, ids)[0][0]) <= 1e-3


@pytest.mark.parametrize("scheme", ["int4-g16", "w8a8"])
@pytest.mark.parametrize("family", few(TINY_FAMILIES))
def test_quantized_families(family, scheme, compress, our_logits, tmp_path):
    artifact = compress(family, "-q", scheme, "--method", "rtn")
    export(artifact, tmp_path / "out", "--format", "torchscript")
    compare(artifact, tmp_path / "out", our_logits, 1e-3 if scheme == "w8a8" else 1e-5)


@pytest.mark.parametrize("scheme", ["int4-g128", "int3-g128", "w8a8"])
def test_the_file_is_as_small_as_the_artifact(scheme, compress, tmp_path):
    artifact = compress("glm-phone-demo", "-q", scheme, "--method", "rtn")
    export(artifact, tmp_path / "out", "--format", "torchscript")
    assert (tmp_path / "out" / "model.pt").stat().st_size <= 1.03 * (artifact / "model.safetensors").stat().st_size
    assert zipfile.ZipFile(tmp_path / "out" / "model.pt").testzip() is None


def test_padding_batches_and_positions(tmp_path):
    export(DEMO, tmp_path / "out", "--format", "torchscript")
    module = torch.jit.load(tmp_path / "out" / "model.pt")
    ids = token_ids(DEMO)
    long, short = ids[:20], ids[5:12]
    pad = len(long) - len(short)
    mask = torch.tensor([[1] * 20, [0] * pad + [1] * len(short)])
    both, cache = run(module, [long, [0] * pad + short], attention_mask=mask)
    alone_long, alone_short = run(module, long), run(module, short)
    torch.testing.assert_close(both[0], alone_long[0][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(both[1, pad:], alone_short[0][0], atol=1e-4, rtol=0)
    # One more token for both, with the cache.
    mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.int64)], 1)
    after = run(module, [[ids[30]], [ids[31]]], cache, attention_mask=mask)[0]
    torch.testing.assert_close(after[0], run(module, [ids[30]], alone_long[1])[0][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(after[1], run(module, [ids[31]], alone_short[1])[0][0], atol=1e-4, rtol=0)
    positions = torch.arange(20).reshape(1, -1)
    torch.testing.assert_close(run(module, long, position_ids=positions, logits_to_keep=3)[0], alone_long[0][:, -3:])
    with pytest.raises(Exception, match="what the call before returned"):
        run(module, long, cache[:1])


def test_it_computes_in_another_type(our_logits, tmp_path):
    """module.float() once, so that bf16 weights are not cast at every step."""
    export(DEMO, tmp_path / "out", "--format", "torchscript")
    module = torch.jit.load(tmp_path / "out" / "model.pt")
    assert module.embedding.weight.dtype == torch.bfloat16
    ids = token_ids(DEMO)
    assert divergence(our_logits(DEMO, ids), run(module.float(), ids)[0][0]) <= 1e-5
    assert module.embedding.weight.dtype == torch.float32


@pytest.mark.parametrize("options", [(), ("int4-g32-asym",), ("w8a8",)])
def test_the_same_greedy_text(options, compress, tmp_path):
    artifact = compress("glm-phone-demo", "-q", *options) if options else DEMO
    export(artifact, tmp_path / "out", "--format", "torchscript")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    module, model = torch.jit.load(tmp_path / "out" / "model.pt"), load(artifact, dequantize=options == ("int4-g32-asym",))
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    for prompt in task_prompts(tokenizer, TASKS):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            theirs = model.generate(ids, do_sample=False, max_new_tokens=48)[0, ids.shape[1]:].tolist()
        logits, cache = run(module, ids, logits_to_keep=1)
        written = [logits[0, -1].argmax().item()]
        while len(written) < 48 and written[-1] not in ends:
            logits, cache = run(module, [written[-1:]], cache)
            written.append(logits[0, -1].argmax().item())
        assert written == theirs, prompt
