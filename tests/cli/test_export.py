"""Exports: what is refused, and that nothing half-written stays."""
import json
import resource
import shutil

import pytest
import torch

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
    for format in ("hf", "gguf"):
        if format == "gguf":
            edit_tokenizer(artifact, lambda t: None)
        done = autoglm("export", artifact, "--format", format, "-o", tmp_path / format)
        assert "quantizes activations too" in done.out, done.err
    done = autoglm("export", artifact, "--format", "hf", "-o", tmp_path / "out")
    again = autoglm("export", artifact, "--format", "hf", "-o", tmp_path / "out2", "--json")
    assert json.loads(again.out)["activations_dropped"] is True
    first, second = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("out", "out2"))
    assert first == second


def test_a_checkpoint_that_was_never_quantized_changes_its_type(autoglm, tmp_path):
    done = autoglm("export", DEMO, "--format", "hf", "--type", "fp16", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["matrices"] == 0
    assert autoglm("inspect", tmp_path / "out", "--json").code == 0


# GGUF.

def gguf(autoglm, model, out, *options):
    return autoglm("export", model, "--format", "gguf", "-o", out, *options)


@pytest.mark.parametrize("scheme,words", [
    ("int4-g16", ("groups of 16", "blocks of 32", "--type")), ("int8-asym", ("8 bits with zero points", "--type"))])
def test_what_no_gguf_type_holds_is_named(autoglm, tmp_path, scheme, words):
    done = autoglm("compress", DEMO, "-q", scheme, "--method", "rtn", "--verify", "none", "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    gguf(autoglm, tmp_path / "artifact", tmp_path / "out.gguf").refused(USAGE, "model.layers.0", *words)
    assert leftovers(tmp_path, "artifact") == []
    done = gguf(autoglm, tmp_path / "artifact", tmp_path / "out.gguf", "--type", "q8_0")
    assert done.code == 0, done.err


def test_models_and_tokenizers_that_gguf_has_not(autoglm, model, tmp_path):
    gguf(autoglm, TINY / "glm4_moe", tmp_path / "out.gguf").refused(USAGE, "groups of experts", "onnx, tensorrt, torchscript or hf")
    folder = model("llama")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] |= {"rope_type": "yarn", "factor": 4.0}
    (folder / "config.json").write_text(json.dumps(config))
    gguf(autoglm, folder, tmp_path / "out.gguf").refused(USAGE, "llama", "rope_type yarn", "not exported yet")
    shutil.rmtree(folder)
    gguf(autoglm, TINY / "glm4", tmp_path / "out.gguf").refused(BAD_INPUT, "tokenizer.json", "tokenizer.model")
    folder = model("glm")
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"
    tokenizer["model"] |= {"vocab": {"a": 0, "b": 1}, "merges": []}
    tokenizer["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    gguf(autoglm, folder, tmp_path / "out.gguf").refused(BAD_INPUT, "pre-tokenizer", "--pre")
    gguf(autoglm, folder, tmp_path / "out.gguf", "--pre", "glm5").refused(USAGE, "--pre 'glm5'", "'glm4'")
    assert gguf(autoglm, folder, tmp_path / "named.gguf", "--pre", "glm4").code == 0
    tokenizer["model"]["vocab"]["c"] = 100_000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    gguf(autoglm, folder, tmp_path / "out.gguf", "--pre", "glm4").refused(BAD_INPUT, "'c'", "100000", "vocabulary of 320")
    for broken in ("[]", "{", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [7]}}', '{"model": {"type": "BPE", "vocab": 3}}'):
        (folder / "tokenizer.json").write_text(broken)
        gguf(autoglm, folder, tmp_path / "out.gguf", "--pre", "glm4").refused(BAD_INPUT, "tokenizer.json")
    assert leftovers(tmp_path, "model", "named.gguf") == []


def test_gguf_on_a_full_disk(autoglm, small_disk):
    gguf(autoglm, DEMO, small_disk / "out.gguf").refused(RESOURCES, "free")
    assert leftovers(small_disk) == []


def test_gguf_replaces_only_when_told(autoglm, tmp_path):
    (tmp_path / "out.gguf").write_text("mine")
    gguf(autoglm, DEMO, tmp_path / "out.gguf").refused(USAGE, "--overwrite")
    assert (tmp_path / "out.gguf").read_text() == "mine"
    assert gguf(autoglm, DEMO, tmp_path / "out.gguf", "--overwrite").code == 0
    assert gguf(autoglm, DEMO, tmp_path / "again.gguf").code == 0
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "again.gguf").read_bytes()
    assert leftovers(tmp_path, "out.gguf", "again.gguf") == []
    autoglm("export", DEMO, "--format", "hf", "--pre", "glm4", "-o", tmp_path / "x").refused(USAGE, "--pre")


@pytest.mark.parametrize("config,words", [
    ('{"chat_template": [{"name": "rag", "template": "x"}]}', ("tokenizer_config.json", '"default"')), ("{", ("tokenizer_config.json",))])
def test_a_chat_template_is_not_lost_without_a_word(autoglm, tmp_path, config, words):
    folder = tmp_path / "model"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("tasks", "chat_template.jinja"))
    (folder / "tokenizer_config.json").write_text(config)
    gguf(autoglm, folder, tmp_path / "out.gguf").refused(BAD_INPUT, *words)
    assert leftovers(tmp_path, "model") == []


def edit_tokenizer(folder, change):
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    tokenizer["model"] |= {"vocab": {"a": 0, "b": 1, "c": 2}, "merges": []}
    tokenizer["added_tokens"] = [{"id": 5, "content": "<|endoftext|>", "special": True}]
    change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("change,words", [
    (lambda t: t["added_tokens"].append({"id": 7, "content": "a"}), ("'a'", "two ids")),
    (lambda t: t.update(normalizer={"type": "Lowercase"}), ("--pre",)),
    (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), ("byte-level BPE",)),
    (lambda t: t["model"].pop("merges"), ("merges",))])
def test_a_tokenizer_that_llama_cpp_would_refuse_or_misread(autoglm, model, tmp_path, change, words):
    folder = model("glm")
    edit_tokenizer(folder, lambda t: None)
    assert gguf(autoglm, folder, tmp_path / "good.gguf").code == 0
    edit_tokenizer(folder, change)
    gguf(autoglm, folder, tmp_path / "new" / "out.gguf").refused(BAD_INPUT, "tokenizer.json", *words)
    assert leftovers(tmp_path, "model", "good.gguf") == []


def test_a_tokenizer_that_nests_without_end(autoglm, model, tmp_path):
    folder = model("glm")
    (folder / "tokenizer.json").write_text('{"model":{"x":' + "[" * 200_000 + "]" * 200_000 + "}}")
    gguf(autoglm, folder, tmp_path / "out.gguf").refused(BAD_INPUT, "tokenizer.json")
    assert leftovers(tmp_path, "model") == []


def test_an_end_of_text_must_be_named(autoglm, model, tmp_path):
    folder = model("glm")
    edit_tokenizer(folder, lambda t: None)
    config = json.loads((folder / "config.json").read_text())
    config.pop("eos_token_id")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    gguf(autoglm, folder, tmp_path / "out.gguf").refused(BAD_INPUT, "eos_token_id")


@pytest.mark.parametrize("value,kind", [(1e7, "q8_0"), (float("nan"), "fp32"), (3.4028e38, "bf16")])
def test_values_that_a_type_does_not_hold_are_not_published(autoglm, model, tmp_path, value, kind):
    folder = model("glm")
    edit_tokenizer(folder, lambda t: None)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name][0, 3] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    gguf(autoglm, folder, tmp_path / "out.gguf", "--type", kind).refused(BAD_INPUT, "model.layers.0.mlp.down_proj")
    assert leftovers(tmp_path, "model") == []


def test_what_is_read_is_not_replaced(autoglm, model, tmp_path):
    folder = model("glm")
    edit_tokenizer(folder, lambda t: None)
    (folder / "notes.txt").write_text("mine")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for name in before:
        gguf(autoglm, folder, folder / name, "--overwrite").refused(USAGE, name, "in use")
    autoglm("export", folder, "--format", "hf", "-o", folder, "--overwrite").refused(USAGE, "in use")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    gguf(autoglm, folder, tmp_path / "new" / "out.gguf", "--type", "bogus").refused(USAGE, "bogus")
    assert leftovers(tmp_path, "model") == []


# ONNX.

def onnx(autoglm, model, out, *options):
    return autoglm("export", model, "--format", "onnx", "-o", out, *options)


def test_onnx_replaces_only_when_told(autoglm, tmp_path):
    assert onnx(autoglm, TINY / "glm4", tmp_path / "out").code == 0
    first = (tmp_path / "out" / "model.onnx").read_bytes()
    onnx(autoglm, TINY / "glm", tmp_path / "out").refused(USAGE, "--overwrite")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == first
    assert onnx(autoglm, TINY / "glm", tmp_path / "out", "--overwrite").code == 0
    assert onnx(autoglm, TINY / "glm4", tmp_path / "out", "--overwrite", "--qdq").code == 0
    assert (tmp_path / "out" / "model.onnx").read_bytes() == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text").write_text("keep")
    onnx(autoglm, TINY / "glm4", tmp_path / "mine", "--overwrite").refused(USAGE, "mine")
    assert leftovers(tmp_path, "out", "mine") == []


def test_options_of_one_format(autoglm, tmp_path):
    onnx(autoglm, DEMO, tmp_path / "out", "--type", "bf16").refused(USAGE, "--type", "bf16", "fp16")
    onnx(autoglm, DEMO, tmp_path / "out", "--preset", "avx512").refused(USAGE, "avx512_vnni")
    onnx(autoglm, DEMO, tmp_path / "out", "--opset", "12").refused(USAGE, "--opset", "13 to 25")
    onnx(autoglm, DEMO, tmp_path / "out", "--preset", "tensorrt", "--matmul-nbits").refused(USAGE, "MatMulNBits", "TensorRT")
    gguf(autoglm, DEMO, tmp_path / "out", "--max-batch", "2").refused(USAGE, "--max-batch", "tensorrt")
    tensorrt = ("export", DEMO, "--format", "tensorrt", "-o", tmp_path / "out")
    autoglm(*tensorrt, "--max-length", "1").refused(USAGE, "--max-length")
    autoglm(*tensorrt, "--max-length", "1000000").refused(USAGE, "--max-length", "tokens")
    autoglm(*tensorrt, "--max-batch=-1").refused(USAGE, "--max-batch", "whole number")
    autoglm(*tensorrt, "--max-length=-5").refused(USAGE, "--max-length", "whole number")
    autoglm(*tensorrt, "--engine").refused(USAGE, "TensorRT", "NvInfer.h", "trtexec")  # no machine that tests has it
    autoglm("export", DEMO, "--format", "torchscript", "-o", tmp_path / "out", "--type", "fp16").refused(USAGE, "--type")
    gguf(autoglm, DEMO, tmp_path / "out", "--preset", "avx2").refused(USAGE, "--preset", "onnx")
    gguf(autoglm, DEMO, tmp_path / "out", "--opset", "18").refused(USAGE, "--opset", "onnx")
    onnx(autoglm, DEMO, tmp_path / "out", "--qdq", "--matmul-nbits").refused(USAGE, "--qdq", "--matmul-nbits")
    gguf(autoglm, DEMO, tmp_path / "out", "--qdq").refused(USAGE, "--qdq", "onnx")
    gguf(autoglm, DEMO, tmp_path / "out", "--matmul-nbits").refused(USAGE, "--matmul-nbits", "onnx")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("options", [("hf", "--type", "fp32"), ("gguf",), ("onnx",), ("torchscript",), ("tensorrt",), ("gptq",), ("awq",)])
def test_a_disk_that_is_full_midway(autoglm, tmp_path, options):
    """The size limit of a process stands in for it."""
    model = DEMO
    if options[0] in ("gptq", "awq"):
        model = tmp_path / "artifact"
        assert autoglm("compress", DEMO, "-q", "int4-g32", "--method", "rtn", "--verify", "none", "-o", model).code == 0
    done = autoglm("export", model, "--format", *options, "-o", tmp_path / "out",
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000)))
    done.refused(RESOURCES, str(tmp_path / "out"), "File too large")
    assert leftovers(tmp_path, *([] if model == DEMO else ["artifact"])) == []


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "tensorrt"])
def test_on_a_full_disk(autoglm, small_disk, kind):
    autoglm("export", DEMO, "--format", kind, "-o", small_disk / "out").refused(RESOURCES, "free")
    assert leftovers(small_disk) == []


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "tensorrt"])
def test_models_that_a_graph_cannot_say(autoglm, model, tmp_path, kind):
    folder = model("llama")
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters", None)
    config |= {"rope_theta": 10000.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    (folder / "config.json").write_text(json.dumps(config))
    autoglm("export", folder, "--format", kind, "-o", tmp_path / "out").refused(USAGE, "dynamic")
    assert leftovers(tmp_path, "model") == []


@pytest.mark.parametrize("options,words", [
    (("hf",), ("all as the artifact says",)), (("gguf",), ("none off by more than",)), (("onnx",), ("all as the artifact says",)),
    (("onnx", "--matmul-nbits"), ("all as the artifact says",)), (("tensorrt",), ("all as the artifact says",)),
    (("torchscript",), ("the artifact's bytes",)), (("gptq",), ("FP16",)), (("awq",), ("FP16",))])
def test_the_last_line_says_what_was_checked(autoglm, tmp_path, options, words):
    scheme = "int4-g64" if options[0] in ("awq", "tensorrt") else "int3-g64"
    done = autoglm("compress", DEMO, "-q", scheme, "--method", "rtn", "--verify", "none", "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    done = autoglm("export", tmp_path / "artifact", "--format", *options, "-o", tmp_path / "out")
    last = done.out.splitlines()[-1]
    assert last.startswith("checked: ") and int(last.split()[1]) > 50, done.out
    assert all(word in last for word in words), done.out
    assert ("held in more bits" in done.out) == (options[0] == "onnx"), done.out  # of 3 bits


def test_help_says_that_torchscript_is_deprecated(autoglm):
    assert "deprecated" in autoglm("export", "--help").out


@pytest.mark.parametrize("kind,words", [("onnx", (".weight", "NaN")), ("torchscript", (".weight", "NaN")), ("gguf", (": holds nan", "damaged"))])
def test_damage_is_not_exported(autoglm, model, artifact, tmp_path, kind, words):
    folder = model("glm")
    for edited in (folder, artifact):  # GGUF wants one
        edit_tokenizer(edited, lambda t: None)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name][0, 3] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    autoglm("export", folder, "--format", kind, "-o", tmp_path / "out").refused(
        BAD_INPUT, name.removesuffix(".weight") + words[0], words[1])
    tensors = load_file(artifact / "model.safetensors")
    scale = "model.layers.0.mlp.down_proj.weight_scale"
    tensors[scale][0, 0] = float("inf")
    save_file(tensors, artifact / "model.safetensors", {"format": "pt"})
    autoglm("export", artifact, "--format", kind, "-o", tmp_path / "out").refused(BAD_INPUT, scale)
    assert leftovers(tmp_path, "model", "artifact") == []


@pytest.mark.parametrize("options", [("onnx",), ("onnx", "--matmul-nbits"), ("gguf",), ("gptq",), ("hf",), ("torchscript",)])
def test_a_missing_scale_is_named(autoglm, tmp_path, options):
    done = autoglm("compress", DEMO, "-q", "int4-g32", "--method", "rtn", "--verify", "none", "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    file, scale = tmp_path / "artifact" / "model.safetensors", "model.layers.0.mlp.down_proj.weight_scale"
    tensors = load_file(file)
    tensors.pop(scale)
    save_file(tensors, file, {"format": "pt"})
    autoglm("export", tmp_path / "artifact", "--format", *options, "-o", tmp_path / "out").refused(BAD_INPUT, scale)
    assert leftovers(tmp_path, "artifact") == []


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_a_stray_tensor_does_not_stand_for_the_weight(autoglm, artifact, tmp_path, kind):
    """The artifact is int-quantized; what is packed beside it is no part of it."""
    file = artifact / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.down_proj.weight_packed"] = torch.tensor(7, dtype=torch.int32)
    save_file(tensors, file, {"format": "pt"})
    done = autoglm("export", artifact, "--format", kind, "-o", tmp_path / "out")
    assert done.code in (0, BAD_INPUT), done.err
    assert done.code == 0 or "down_proj" in done.err


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "gguf", "hf"])
def test_integers_out_of_range_are_named(autoglm, tmp_path, kind):
    done = autoglm("compress", DEMO, "-q", "w8a8", "--method", "rtn", "--verify", "none", "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "artifact" / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["weights"]["num_bits"] = 6
    (tmp_path / "artifact" / "config.json").write_text(json.dumps(config))
    autoglm("export", tmp_path / "artifact", "--format", kind, "-o", tmp_path / "out").refused(BAD_INPUT, "beyond 6 bits")
    assert leftovers(tmp_path, "artifact") == []


@pytest.mark.parametrize("damage", ["cut", "shape", "nan", "huge"])
def test_statistics_that_are_damaged(autoglm, artifact, tmp_path, damage):
    """A file that is none is named; of one with other shapes, or values that weigh nothing, nothing is taken."""
    channels = torch.ones(4, 64 if damage != "shape" else 65)
    channels[:] = {"nan": float("nan"), "huge": 1e38}.get(damage, 1)
    save_file({"model.layers.0.self_attn.q_proj.channels": channels}, artifact / "statistics.st")
    if damage == "cut":
        (artifact / "statistics.st").write_bytes((artifact / "statistics.st").read_bytes()[:-9])
    done = gguf(autoglm, artifact, tmp_path / "out.gguf", "--type", "q4_0")
    if damage == "cut":
        done.refused(BAD_INPUT, "statistics.st")
    else:
        assert done.code == 0 or "tokenizer" in done.err, done.err


@pytest.mark.parametrize("changes", [{"strategy": "channel"}, {"strategy": "group", "group_size": 16}, {"dynamic": False, "strategy": "token"}])
def test_activations_that_are_not_written(autoglm, artifact, tmp_path, changes):
    config = json.loads((artifact / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"] |= changes
    (artifact / "config.json").write_text(json.dumps(config))
    onnx(autoglm, artifact, tmp_path / "out").refused(BAD_INPUT)
    assert leftovers(tmp_path, "artifact") == []


@pytest.mark.parametrize("zero", [300, 0.5, 1e30])
def test_a_zero_point_of_inputs_that_is_none(autoglm, artifact, tmp_path, zero):
    config = json.loads((artifact / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"] |= {"dynamic": False, "strategy": "tensor", "symmetric": False}
    (artifact / "config.json").write_text(json.dumps(config))
    tensors = load_file(artifact / "model.safetensors")
    for name in [name for name in tensors if name.endswith(".weight_scale")]:
        tensors[name.replace("weight_scale", "input_scale")] = torch.tensor([0.1])
        tensors[name.replace("weight_scale", "input_zero_point")] = torch.tensor([float(zero)])
    save_file(tensors, artifact / "model.safetensors", {"format": "pt"})
    onnx(autoglm, artifact, tmp_path / "out").refused(BAD_INPUT, "input_zero_point", "whole number")


def test_genai_config_is_ours(autoglm, model, tmp_path):
    folder = model("glm")
    (folder / "genai_config.json").write_text('{"mine": 1}')
    assert onnx(autoglm, folder, tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]["type"] == "decoder"


# The layouts of GPTQ and AWQ.

@pytest.mark.parametrize("layout,scheme,words", [
    ("gptq", "int5-g32", ("5 bits",)), ("awq", "int8", ("8 bits",)), ("gptq", "w8a8", ("inputs",)),
    ("gptq", "fp16", ("no matrix",)), ("gptq", "int4-g8", ("groups of 8", "16, 32, 64")), ("awq", "int4-g256", ("groups of 256", "128"))])
def test_what_a_layout_does_not_hold(autoglm, tmp_path, layout, scheme, words):
    done = autoglm("compress", DEMO, "-q", scheme, "--method", "rtn", "--verify", "none", "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    autoglm("export", tmp_path / "artifact", "--format", layout, "-o", tmp_path / "out").refused(USAGE, layout, *words)
    assert leftovers(tmp_path, "artifact") == []


@pytest.mark.parametrize("layout", ["gptq", "awq"])
def test_a_layout_on_a_full_disk(autoglm, tmp_path, small_disk, layout):
    done = autoglm("compress", DEMO, "-q", "int4-g32", "--method", "rtn", "--verify", "none", "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    autoglm("export", tmp_path / "artifact", "--format", layout, "-o", small_disk / "out").refused(RESOURCES, "free")
    assert leftovers(small_disk) == []


@pytest.mark.parametrize("format", ["hf", "gptq", "awq"])
def test_pairs_of_family_and_format_that_do_not_exist(autoglm, tmp_path, format):
    autoglm("export", TINY / "chatglm", "--format", format, "-o", tmp_path / "out").refused(
        USAGE, "chatglm", "gguf, onnx, torchscript, tensorrt", "glm model")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("override,words", [
    ("lm_head=int4-g32", ("lm_head",)), ("layers\\.3\\.mlp.*=int8", ("model.layers.3.mlp", "one for all"))])
def test_a_layout_has_one_scheme_for_linears_of_blocks(autoglm, tmp_path, override, words):
    done = autoglm("compress", DEMO, "-q", "int4-g32", "--override", override, "--method", "rtn", "--verify", "none",
                   "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    autoglm("export", tmp_path / "artifact", "--format", "gptq", "-o", tmp_path / "out").refused(USAGE, *words)
    assert leftovers(tmp_path, "artifact") == []


def test_linears_that_stay_float_are_named(autoglm, tmp_path):
    done = autoglm("compress", DEMO, "-q", "int4-g32", "--ignore", "layers\\.0\\.mlp.*", "--method", "rtn", "--verify", "none",
                   "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    for layout in ("gptq", "awq"):
        assert autoglm("export", tmp_path / "artifact", "--format", layout, "-o", tmp_path / layout).code == 0
        config = json.loads((tmp_path / layout / "config.json").read_text())["quantization_config"]
        named = json.dumps(config.get("dynamic", config.get("modules_to_not_convert"))).replace("\\", "")
        assert all(f"model.layers.0.mlp.{name}" in named for name in ("gate_proj", "up_proj", "down_proj")), config
        assert "layers.1" not in named


@pytest.mark.parametrize("layout,scale,words", [("gptq", 1e6, "FP16"), ("awq", 1e6, "FP16"), ("gptq", float("nan"), "down_proj"),
                                                ("awq", float("inf"), "down_proj")])
def test_a_scale_beyond_fp16_is_not_published(autoglm, tmp_path, layout, scale, words):
    done = autoglm("compress", DEMO, "-q", "int4-g32", "--method", "rtn", "--verify", "none", "-o", tmp_path / "artifact")
    assert done.code == 0, done.err
    file = tmp_path / "artifact" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.down_proj.weight_scale"
    tensors[name][0, 0] = scale
    save_file(tensors, file, {"format": "pt"})
    autoglm("export", tmp_path / "artifact", "--format", layout, "-o", tmp_path / "out").refused(BAD_INPUT, words)
    assert leftovers(tmp_path, "artifact") == []
