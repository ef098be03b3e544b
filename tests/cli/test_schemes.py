"""Every family takes the plain scheme words, and odd wishes for tied embeddings are met."""
import json

import pytest

import torch
from conftest import DEMO, TINY
from safetensors import safe_open

FAMILIES = sorted(folder.name for folder in TINY.iterdir() if (folder / "config.json").exists())


def compress(autoglm, model, out, *options):
    done = autoglm("compress", model, "-o", out, "--method", "rtn", "--verify", "none", "--quiet", *options)
    assert done.code == 0, done.err
    names = {}
    for file in out.glob("*.safetensors"):
        with safe_open(str(file), "np") as tensors:
            names |= dict.fromkeys(tensors.keys())
    return json.loads((out / "config.json").read_text()), names


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_words_on_every_family(autoglm, tmp_path, family):
    for scheme in ("int2", "int3", "int4", "int4-asym", "int8", "w8a8", "fp16"):
        compress(autoglm, TINY / family, tmp_path / scheme, "-q", scheme)


def test_a_head_of_its_own_type_is_untied(autoglm, tmp_path):
    for options in (["--head", "fp16"], ["--override", "lm_head=int8"], ["--head", "int8"], ["--embedding", "int8"]):
        config, names = compress(autoglm, TINY / "glm4_tied", tmp_path / "out", "--overwrite", *options)
        assert not config["tie_word_embeddings"] and any(name.startswith("lm_head.") for name in names), options


def test_a_kept_head_stays_tied(autoglm, tmp_path):
    for options in (["--ignore", "lm_head"], ["--override", "lm_head=keep"], ["-q", "fp16"]):
        config, names = compress(autoglm, TINY / "glm4_tied", tmp_path / "out", "--overwrite", *options)
        assert config["tie_word_embeddings"] and not any(name.startswith("lm_head.") for name in names), options


def test_int8_takes_three_quarters_off_fp32(autoglm, tmp_path):
    """Embedding and head included: 8 bits and the scales against 32 bits."""
    everything = lambda scheme: ("-q", scheme, "--embedding", scheme, "--head", scheme)
    compress(autoglm, DEMO, tmp_path / "fp32", *everything("fp32"))
    compress(autoglm, DEMO, tmp_path / "int8", *everything("int8"))
    size = lambda name: json.loads((tmp_path / name / "report.json").read_text())["artifact"]["file_bytes"]
    assert size("int8") <= (1 - 0.745) * size("fp32")


@pytest.mark.parametrize("options", [
    ("--compute", "bf16"), ("--compute", "fp16"),
    pytest.param(("--device", "cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
])
def test_what_is_computed_in_decides_no_loss(autoglm, brief, tmp_path, options):
    """Calibrated and rounded in 16 bits or on another device, and measured in float32."""
    text = tmp_path / "text.jsonl"
    text.write_text("".join((DEMO / "tasks" / "eval.jsonl").open().readlines()[:100]))
    loss = []
    for more in ((), options):
        artifact = tmp_path / f"out{len(loss)}"
        done = autoglm("compress", brief, "-o", artifact, "-q", "int4-g32", "--method", "gptq", "--calibration-dataset",
                       DEMO / "tasks" / "calibration.jsonl", "--calibration-samples", 16, "--verify", "none", "--quiet", *more)
        assert done.code == 0, done.err
        conditions = json.loads((artifact / "report.json").read_text())["conditions"]
        assert all(conditions[name.strip("-")] == value for name, value in zip(more[::2], more[1::2]))
        done = autoglm("eval", artifact, "--source", brief, "--eval-dataset", text, "--level", "full", "--json", "--quiet")
        assert done.code == 0, done.err
        loss.append(json.loads(done.out)["divergence"]["kl_mean"])
    assert 0 < loss[1] <= 1.3 * loss[0]


def test_shards_have_the_size_that_is_asked_for(autoglm, tmp_path):
    config, names = compress(autoglm, DEMO, tmp_path / "out", "-q", "int8", "--max-shard", "2M")
    shards = sorted((tmp_path / "out").glob("model-*-of-*.safetensors"))
    assert len(shards) > 2 and shards[-1].name.endswith(f"-of-{len(shards):05}.safetensors")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(names) and set(index["weight_map"].values()) == {file.name for file in shards}
    _, whole = compress(autoglm, DEMO, tmp_path / "whole", "-q", "int8")
    assert set(whole) == set(names)
    for file in shards:
        with safe_open(str(file), "pt") as tensors:
            sizes = [tensors.get_tensor(name).nbytes for name in tensors.keys()]
        assert sum(sizes) <= 2e6 or len(sizes) == 1
