"""Every family takes the plain scheme words, and odd wishes for tied embeddings are met."""
import json

import pytest

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
