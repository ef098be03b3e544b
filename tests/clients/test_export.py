"""What `autoglm export` writes is loaded by the software it is for, which computes the numbers of the artifact."""
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
import transformers
from conftest import AUTOGLM, FAMILIES, divergence, model_folder, task_prompts
from safetensors.torch import load_file
from test_transformers import load, their_logits, token_ids

TASKS = int(os.environ.get("AUTOGLM_TASKS", 8))  # of 200


def export(artifact, out, *options):
    done = subprocess.run([AUTOGLM, "export", artifact, "-o", out, "--json", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def export_fails(artifact, out, *options):
    """What it says."""
    done = subprocess.run([AUTOGLM, "export", artifact, "-o", out, *options], capture_output=True, text=True)
    assert done.returncode != 0 and not out.exists()
    return done.stderr


@pytest.mark.parametrize("scheme", ["int4-g32-asym", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_hf_holds_what_compressed_tensors_decompresses(family, scheme, compress, tmp_path):
    artifact = compress(family, "-q", scheme, "--method", "rtn")
    report = export(artifact, tmp_path / "plain", "--format", "hf")
    assert report["matrices"] > 0 and report["checked"] > report["matrices"]
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "quantization_config" not in config
    ids = token_ids(artifact)
    plain, packed = their_logits(tmp_path / "plain", ids), their_logits(artifact, ids, dequantize=True)
    assert divergence(packed, plain) <= (1e-5 if report["dtype"] == "F32" else 1e-3)  # else the product is rounded to 16 bits
    if report["dtype"] == "F32":
        np.testing.assert_allclose(plain, packed, rtol=0, atol=1e-4 * np.abs(packed).max())


def test_a_flat_config_of_glm4v_becomes_the_nested_one_that_transformers_reads(tmp_path):
    nested, folder = model_folder("glm4v"), tmp_path / "model"
    shutil.copytree(nested, folder)
    config = json.loads((nested / "config.json").read_text())
    text = config.pop("text_config")
    (folder / "config.json").write_text(json.dumps({k: v for k, v in text.items() if k != "model_type"} | config))
    export(folder, tmp_path / "plain", "--format", "hf")
    ids = token_ids(nested)
    assert np.array_equal(their_logits(tmp_path / "plain", ids), their_logits(nested, ids))


def test_hf_is_bit_for_bit_what_transformers_has_in_memory(compress, tmp_path):
    artifact = compress("glm-phone-demo", "-q", "int4-g32-asym", "--method", "rtn")
    export(artifact, tmp_path / "plain", "--format", "hf")
    written = load_file(tmp_path / "plain" / "model.safetensors")
    theirs = load(artifact, dequantize=True).state_dict()
    matrices = [name for name in written if name.endswith("_proj.weight")]
    assert len(matrices) > 10
    for name in matrices:
        assert torch.equal(written[name], theirs[name].to(written[name].dtype)), name


def test_the_same_greedy_text_on_task_prompts(compress, tmp_path):
    """With the tokenizer of the exported folder."""
    artifact = compress("glm-phone-demo", "-q", "int4-g32-asym", "--method", "rtn")
    export(artifact, tmp_path / "plain", "--format", "hf", "--type", "fp32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
    models = [load(tmp_path / "plain").eval(), load(artifact, dequantize=True).eval()]
    for prompt in task_prompts(tokenizer, TASKS):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            plain, packed = (model.generate(ids, do_sample=False, max_new_tokens=48)[0].tolist() for model in models)
        assert plain == packed, prompt


@pytest.mark.parametrize("dtype,word", [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
def test_hf_in_a_type_that_is_named(compress, tmp_path, dtype, word):
    artifact = compress("glm-phone-demo", "-q", "int8", "--method", "rtn")
    export(artifact, tmp_path / "plain", "--format", "hf", "--type", dtype)
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "plain" / "model.safetensors").values()} == {f"torch.{word}"}
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == word
