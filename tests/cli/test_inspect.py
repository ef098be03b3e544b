"""What `autoglm inspect` shows is what is stored."""
import json

import pytest
from conftest import DEMO, TINY

OVERRIDE = r"layers\.0\..*=int8-channel"


@pytest.fixture
def artifact(autoglm, tmp_path):
    done = autoglm("compress", DEMO, "-o", tmp_path / "out", "-q", "int4-g32", "--method", "rtn", "--override", OVERRIDE, "--verify", "none",
                   "--quiet")
    assert done.code == 0, done.err
    return tmp_path / "out"


def test_bytes_and_formats_of_every_module(autoglm, artifact):
    shown = json.loads(autoglm("inspect", artifact, "--json").out)
    storage = {module["name"]: module["storage"] for module in shown["modules"]}
    linears = [name for name in storage if name.endswith("_proj")]
    assert len(linears) > 20
    for name in linears:
        assert storage[name].startswith("INT8 channel" if ".layers.0." in name else "INT4 g32"), (name, storage[name])
    assert storage["model.embed_tokens"] == "BF16"
    assert shown["quantization_config"] == json.loads((artifact / "config.json").read_text())["quantization_config"]
    sizes = shown["sizes"]
    assert sizes["file_bytes"] == sum(file.stat().st_size for file in artifact.glob("*.safetensors"))
    assert sizes["tensor_bytes"] == sum(part["bytes"] for part in sizes["parts"]) == sum(m["bytes"] for m in shown["modules"])
    assert sizes["parameters"] == json.loads(autoglm("inspect", DEMO, "--json").out)["sizes"]["parameters"]


def test_layers_that_are_alike_are_one_line(autoglm, artifact):
    text = autoglm("inspect", artifact).out
    layers = json.loads((DEMO / "config.json").read_text())["num_hidden_layers"]
    lines = text.splitlines()
    assert any(line.split()[0] == "0" and "INT8" in line and "INT4" not in line for line in lines if line.strip())
    assert any(line.split()[0] == f"1-{layers - 1}" and "INT4" in line for line in lines if line.strip())
    for part in ("embedding", "head", "all"):
        assert any(line.startswith(part) for line in lines), part


def test_every_tensor_of_a_model_with_a_vision_tower(autoglm):
    text = autoglm("inspect", TINY / "glm4v", "--tensors").out
    assert "model.layers.0.self_attn.q_proj" in text.replace("language_model.", "")
    assert any("visual" in line for line in text.splitlines())
