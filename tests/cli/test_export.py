"""Exports: what is refused, and that nothing half-written stays."""
import json

import pytest

from conftest import BAD_INPUT, DEMO, RESOURCES, TINY, USAGE, leftovers
from safetensors.torch import load_file, save_file


@pytest.fixture
def artifact(autoglm, tmp_path):
    done = autoglm("compress", TINY / "glm4", "-q", "w8a8", "--method", "rtn", "--verify", "none", "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    return tmp_path / "artifact"


@pytest.mark.parametrize("options,words", [
    ((), "--format hf"), (("--format", "hff"), "'hf'"), (("--format", "hf", "--type", "bf17"), "'bf16'")])
def test_wrong_options(autoglm, artifact, tmp_path, options, words):
    autoglm("export", artifact, "-o", tmp_path / "out", *options).refused(USAGE, words)
    assert leftovers(tmp_path, "artifact") == []


def test_no_output_is_named(autoglm, artifact):
    autoglm("export", artifact, "--format", "hf").refused(USAGE, "-o OUT")


def test_no_model(autoglm, tmp_path):
    autoglm("export", tmp_path / "none", "--format", "hf", "-o", tmp_path / "out").refused(BAD_INPUT, "none")


def test_output_exists(autoglm, artifact, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    autoglm("export", artifact, "--format", "hf", "-o", tmp_path / "out", "--overwrite").refused(USAGE, "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"
    assert leftovers(tmp_path, "artifact", "out") == []


def test_an_edited_artifact_is_refused(autoglm, artifact, tmp_path):
    file = artifact / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    autoglm("export", artifact, "--format", "hf", "-o", tmp_path / "out").refused(BAD_INPUT, "model.safetensors")
    assert leftovers(tmp_path, "artifact") == []


def test_a_value_beyond_the_range_is_named(autoglm, model, tmp_path):
    folder = model("glm")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name][0, 3] = 1e6
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    autoglm("export", folder, "--format", "hf", "--type", "fp16", "-o", tmp_path / "out").refused(
        BAD_INPUT, name, "element 3", "F16", "--type")
    assert leftovers(tmp_path, "model") == []


def test_disk_full(autoglm, small_disk):
    out = small_disk / "out"
    autoglm("export", DEMO, "--format", "hf", "-o", out).refused(RESOURCES, "free")
    assert leftovers(small_disk) == []


def test_activations_that_are_dropped_are_named(autoglm, artifact, tmp_path):
    done = autoglm("export", artifact, "--format", "hf", "-o", tmp_path / "out")
    assert "activations" in done.out
    again = autoglm("export", artifact, "--format", "hf", "-o", tmp_path / "out2", "--json")
    assert json.loads(again.out)["activations_dropped"] is True
    first, second = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("out", "out2"))
    assert first == second


def test_a_checkpoint_that_was_never_quantized_changes_its_type(autoglm, tmp_path):
    done = autoglm("export", DEMO, "--format", "hf", "--type", "fp16", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["matrices"] == 0
    assert autoglm("inspect", tmp_path / "out", "--json").code == 0
