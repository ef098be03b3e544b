"""Bad input gets one clear line, the right exit code, and leaves nothing behind."""
import json
import resource
import shutil
import struct
import subprocess

import numpy as np
import pytest
import torch
from conftest import AUTOGLM, BAD_INPUT, CONTRACT, DEMO, RESOURCES, TINY, USAGE, leftovers
from safetensors.numpy import load_file, save_file


def set_config(folder, **members):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


@pytest.fixture
def refuse(autoglm, tmp_path):
    """Compresses and expects a refusal that leaves no output and no staging folder."""

    def run(model, code, *words, options=()):
        out = tmp_path / "out"
        defaults = {"-q": "int4-g32", "--method": "rtn", "--verify": "none"}
        usual = [word for pair in defaults.items() if pair[0] not in options for word in pair]
        autoglm("compress", model, "-o", out, *usual, *options).refused(code, *words)
        assert leftovers(tmp_path, "model") == []

    return run


# Options.

def test_unknown_option_names_the_nearest(autoglm):
    autoglm("compress", DEMO, "--quantisation", "int4").refused(USAGE, "--quantisation", "--quantization")


def test_unknown_command(autoglm):
    autoglm("comprss", DEMO).refused(USAGE, "comprss", "compress")


@pytest.mark.parametrize("option,word,hint", [
    ("--method", "gtpq", "gptq"), ("-q", "int44", "int2..int8"), ("--verify", "fats", "fast"),
    ("--compute", "fp23", "fp32"), ("--device", "gpu", "cuda"), ("--max-ram", "lots", "4G"), ("--max-loss", "5", "3%"),
    ("--override", "int8", "="), ("-q", "w4a16", "'int4'"), ("-q", "4", "'int4'"), ("-q", "w8b8", "'w8a8'"),
    ("--threads", "", "is empty"),
    ("--seed", "-1", "'-1' is no whole number"), ("--threads", "two", "'two' is no whole number"),
    ("--target-bits", "0", "'0' is no number above 0"), ("--max-shard", "1", "at least 1.05 MB"),
    ("--calibration-dataset", "", "is empty"), ("-o", "", "is empty")])
def test_wrong_value(refuse, option, word, hint):
    refuse(TINY / "glm", USAGE, word, hint, options=(option, word))


def test_override_that_matches_nothing(refuse):
    refuse(TINY / "glm", USAGE, "no_such_layer", options=("--override", "no_such_layer=int8"))


def test_shared_input_needs_one_format(refuse):
    refuse(TINY / "glm", USAGE, "q_proj", options=("--override", r"q_proj=int8"))


def test_group_size_that_does_not_divide(refuse):
    refuse(TINY / "glm", USAGE, "48 does not divide its 128 input columns; 64 does", options=("-q", "int4-g48"))


def test_recipe_with_unknown_member(refuse, tmp_path):
    recipe = tmp_path / "model" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text("scheme: int4\nshceme: int8\n")
    refuse(TINY / "glm", USAGE, "shceme", "scheme", options=("--config", recipe))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_cuda_here(refuse):
    refuse(TINY / "glm", USAGE, "cuda", options=("--device", "cuda"))


# Folders and config.

def test_not_a_model_folder(refuse, tmp_path):
    (tmp_path / "model").mkdir()
    refuse(tmp_path / "model", BAD_INPUT, "config.json")


def test_no_such_folder(refuse, tmp_path):
    refuse(tmp_path / "nowhere" / "at" / "all", BAD_INPUT, "no such folder")


def test_unknown_family(refuse, model):
    folder = model()
    set_config(folder, model_type="glm5")
    refuse(folder, BAD_INPUT, "glm5", "glm4", "llama")


def test_config_and_tensor_shapes_disagree(refuse, model):
    folder = model()
    set_config(folder, intermediate_size=512)
    refuse(folder, BAD_INPUT, "gate_up_proj", "[512, 128]", "[1024, 128]")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": 3}', '{"model_type": "glm"}', "\x00\x01"])
def test_broken_config(refuse, model, text):
    folder = model()
    (folder / "config.json").write_text(text)
    refuse(folder, BAD_INPUT, "config.json")


def test_source_that_is_quantized_already(autoglm, refuse, tmp_path):
    first = tmp_path / "model"
    assert autoglm("compress", TINY / "glm", "-o", first, "-q", "int8", "--method", "rtn", "--verify", "none").code == 0
    refuse(first, BAD_INPUT, "quantized")


# Weights.

def test_missing_shard(refuse, model):
    folder = model("glm4")
    (folder / "model-00003-of-00010.safetensors").unlink()
    refuse(folder, BAD_INPUT, "model-00003-of-00010.safetensors")


def test_pytorch_weights_only(refuse, model):
    folder = model()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refuse(folder, BAD_INPUT, "safetensors")


@pytest.mark.parametrize("keep", [0, 4, 8, 500, -1, -1000])
def test_truncated_weights(refuse, model, keep):
    folder = model()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refuse(folder, BAD_INPUT, "model.safetensors")


def edit_header(file, edit):
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    header = edit(header) or header
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length:])


NORM = "model.norm.weight"


def overlap(h):
    h[NORM]["data_offsets"] = [0, 512]


def hole(h):
    h.pop(NORM)


def oversized(h):
    h[NORM]["data_offsets"][1] += 1 << 40


def negative(h):
    h[NORM]["shape"] = [-128]


def product_overflows(h):
    h[NORM]["shape"] = [1 << 32, 1 << 32]


def unknown_dtype(h):
    h[NORM]["dtype"] = "F99"


def wrong_type(h):
    h[NORM]["data_offsets"] = "all of it"


def deep(h):
    return b'{"a":' * 100000


def duplicate(h):
    text = json.dumps(h)
    return (text[:-1] + f', "{NORM}": {json.dumps(h[NORM])}}}').encode()


@pytest.mark.parametrize("edit", [overlap, hole, oversized, negative, product_overflows, unknown_dtype, wrong_type, deep, duplicate])
def test_hostile_header(refuse, model, edit):
    folder = model()
    edit_header(folder / "model.safetensors", edit)
    refuse(folder, BAD_INPUT, "model.safetensors")


def test_header_length_beyond_measure(refuse, model):
    folder = model()
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", (1 << 64) - 1) + file.read_bytes()[8:])
    refuse(folder, BAD_INPUT, "model.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_weight_is_named(autoglm, model, tmp_path, value):
    folder = model()
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] = value
    save_file(tensors, folder / "model.safetensors")
    result = autoglm("compress", folder, "-o", tmp_path / "out", "-q", "int4-g32", "--method", "rtn", "--verify", "none", "--quiet")
    result.refused(BAD_INPUT, name)
    assert leftovers(tmp_path, "model") == []


@pytest.mark.parametrize("name,options", [
    ("model.embed_tokens.weight", ()), ("lm_head.weight", ()), ("model.norm.weight", ()),
    ("model.layers.0.self_attn.q_proj.bias", ()), ("model.layers.1.mlp.down_proj.weight", ("--ignore", r"1\.mlp\.down_proj"))])
def test_nan_in_a_weight_that_is_kept_is_named(refuse, model, name, options):
    folder = model("glm4")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = folder / index["weight_map"][name]
    tensors = load_file(shard)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[-1] = np.nan
    save_file(tensors, shard, {"format": "pt"})
    refuse(folder, BAD_INPUT, shard.name, name, options=options)


# Text and tokenizer.

@pytest.fixture
def gptq(autoglm, tmp_path):
    def run(model, *options):
        return autoglm("compress", model, "-o", tmp_path / "out", "-q", "int4-g32", "--method", "gptq", "--verify", "none",
                       "--quiet", *options)

    return run


def test_calibration_without_a_tokenizer(gptq, model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("some words " * 1000)
    gptq(model(), "--calibration-dataset", text).refused(BAD_INPUT, "tokenizer")
    assert leftovers(tmp_path, "model", "text.txt") == []


@pytest.mark.parametrize("content", ["{", '{"model": {"type": "WordPiece"}}', "[1]", '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'])
def test_broken_tokenizer(gptq, model, tmp_path, content):
    folder = model()
    (folder / "tokenizer.json").write_text(content)
    text = tmp_path / "text.txt"
    text.write_text("some words " * 1000)
    gptq(folder, "--calibration-dataset", text).refused(BAD_INPUT, "tokenizer.json")


@pytest.mark.parametrize("options", [(), ("--verify", "fast"), ("--verify", "fast", "--dry-run")])
def test_broken_tokenizer_that_only_the_verification_reads(autoglm, model, tmp_path, options):
    folder = model()
    (folder / "tokenizer.json").write_text("{")
    done = autoglm("compress", folder, "-o", tmp_path / "out", "-q", "int8", "--method", "rtn", *options)
    done.refused(BAD_INPUT, "tokenizer.json")
    assert leftovers(tmp_path, "model") == []
    autoglm("eval", folder).refused(BAD_INPUT, "tokenizer.json")


@pytest.mark.parametrize("content", ["", "too short"])
def test_too_little_calibration_text(gptq, tmp_path, content):
    text = tmp_path / "text.txt"
    text.write_text(content)
    gptq(DEMO, "--calibration-dataset", text).refused(BAD_INPUT, "text.txt")


def test_broken_jsonl_names_the_line(gptq, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "fine"}\n{"text": }\n')
    gptq(DEMO, "--calibration-dataset", text).refused(BAD_INPUT, "text.jsonl", "2")


def test_gptq_without_text(gptq, model):
    gptq(model()).refused(USAGE, "calibration")


# Output.

def test_output_exists(autoglm, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("keep me")
    arguments = ("compress", TINY / "glm", "-o", out, "-q", "int8", "--method", "rtn", "--verify", "none")
    autoglm(*arguments).refused(USAGE, "exists", "--overwrite")
    autoglm(*arguments, "--overwrite").refused(USAGE, "out")  # not something this program wrote
    assert (out / "precious").read_text() == "keep me"


def test_overwrite_replaces_whole(autoglm, tmp_path):
    out = tmp_path / "out"
    for scheme in ("int8", "int4-g32"):
        assert autoglm("compress", TINY / "glm", "-o", out, "-q", scheme, "--method", "rtn", "--verify", "none", "--overwrite").code == 0
    assert json.loads((out / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] == 4
    assert leftovers(tmp_path, "out") == []


def test_disk_full(autoglm, small_disk):
    result = autoglm("compress", DEMO, "-o", small_disk / "out", "-q", "int8", "--method", "rtn", "--verify", "none", "--quiet")
    result.refused(RESOURCES, str(small_disk))
    assert leftovers(small_disk) == []


def test_disk_full_midway(autoglm, tmp_path):
    """The size limit of a process stands in for a disk that is full after the first tensors."""
    done = autoglm("compress", DEMO, "-o", tmp_path / "out", "-q", "int8", "--method", "rtn", "--verify", "none", "--quiet",
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000)))
    done.refused(RESOURCES, str(tmp_path / "out"), "File too large", "tensor 'model.", "make room")
    assert "after 0 B" not in done.err
    assert leftovers(tmp_path) == []


def test_output_not_writable(autoglm, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    result = autoglm("compress", TINY / "glm", "-o", small_disk / "out", "-q", "int8", "--method", "rtn", "--verify", "none")
    result.refused(RESOURCES, str(small_disk))


def test_plan_that_cannot_fit(autoglm, tmp_path):
    autoglm("compress", DEMO, "-o", tmp_path / "out", "--max-ram", "20M", "--verify", "none").refused(RESOURCES, "20.0 MB")
    assert leftovers(tmp_path) == []


# Contract.

def test_broken_contract_keeps_the_artifact_and_marks_it(autoglm, tmp_path):
    out = tmp_path / "out"
    result = autoglm("compress", DEMO, "-o", out, "-q", "int2-g128", "--method", "rtn", "--max-loss", "1%", "--quiet")
    assert result.code == CONTRACT
    assert len(result.err.strip().splitlines()) == 1 and "1.00 %" in result.err
    contract = json.loads((out / "report.json").read_text())["evaluation"]["contract"]
    assert contract["holds"] is False and contract["loss"] > 0.01
    assert "CONTRACT BROKEN" in (out / "report.md").read_text()


def test_patterns_that_are_no_regex_or_take_too_long(autoglm, tmp_path):
    def refused(*options):
        autoglm("compress", DEMO, "--method", "rtn", "--verify", "none", "--dry-run", *options).refused(USAGE, "regex")

    refused("--ignore", "(")
    refused("--ignore", "(" * 10_000)
    refused("--override", "[a=int8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("ignore: ['(']\n")
    refused("--config", recipe)
    slow = autoglm("compress", DEMO, "--method", "rtn", "--dry-run", "--ignore", r"(([a-z0-9_.])+)+\d$")
    slow.refused(USAGE, "takes too long", "simpler")


def test_output_that_would_replace_what_is_read(autoglm, model, tmp_path):
    folder = model()
    link = tmp_path / "link"
    link.symlink_to(folder)
    before = sorted(f.name for f in folder.iterdir())
    for output in (folder, link, tmp_path / "." / "model"):
        done = autoglm("compress", folder, "--method", "rtn", "--verify", "none", "-o", output, "--overwrite")
        done.refused(USAGE, "would replace", "another folder")
    text = folder / "text.txt"
    text.write_text("word " * 5000)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    autoglm("compress", other, "-o", folder, "--overwrite", "--verify", "none", "--calibration-dataset", text).refused(
        USAGE, "would replace", "text.txt"
    )
    assert sorted(f.name for f in folder.iterdir()) == sorted([*before, "text.txt"])


def test_output_that_cannot_be_written_is_no_success(autoglm):
    with open("/dev/full", "w") as full:
        process = subprocess.run([AUTOGLM, "inspect", str(DEMO)], stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == RESOURCES and "standard output" in process.stderr


def test_odd_numbers(autoglm, tmp_path):
    autoglm("eval", DEMO, "--seconds", "-5").refused(USAGE, "--seconds")
    autoglm("eval", DEMO, "--level", "ful").refused(USAGE, "'full'")
    autoglm("compress", DEMO, "--calibration-samples", "0", "--dry-run").refused(USAGE, "--calibration-samples")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("scheme: int4\n---\nscheme: int8\n")
    autoglm("compress", DEMO, "--config", recipe, "--dry-run").refused(USAGE, "second YAML document")
