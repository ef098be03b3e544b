"""GGUF files, ours and other software's, become folders again that transformers loads: the same numbers, tokens and texts."""
import json
import re
import shutil
import subprocess

import gguf
import numpy as np
import pytest
import torch
import transformers
from conftest import AUTOGLM, model_folder
from safetensors import safe_open
from test_export import export
from test_gguf import DEMO, GGUF_NAMES, TEXTS, made_up_tokenizer

FAMILIES = ["glm", "glm4", "glm4_tied", "glm4_moe_plain", "llama", "qwen2", "qwen3"]


def tensors_of(folder):
    """Every tensor as float32."""
    tensors = {}
    for path in folder.glob("*.safetensors"):
        if path.name == "golden.safetensors":
            continue
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name).float().numpy() for name in file.keys()}
    return tensors


def run_autoglm(*arguments):
    return subprocess.run([AUTOGLM, *map(str, arguments)], capture_output=True, text=True)


def logits_of(folder, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


@pytest.fixture
def tiny(tmp_path):
    def copy(family):
        folder = tmp_path / family
        shutil.copytree(model_folder(family), folder)
        made_up_tokenizer(folder, json.loads((folder / "config.json").read_text())["vocab_size"])
        return folder

    return copy


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_becomes_the_folder_it_was_made_of(family, tiny, tmp_path):
    folder = tiny(family)
    export(folder, tmp_path / "model.gguf", "--format", "gguf", "--type", "fp32")
    report = export(tmp_path / "model.gguf", tmp_path / "back", "--format", "hf")
    assert report["dtype"] == "F32" and report["left_out"] == 0 and report["rounding"] == 0
    before, after = tensors_of(folder), tensors_of(tmp_path / "back")
    before = {name: tensor for name, tensor in before.items() if not (name == "lm_head.weight" and name not in after)}
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert np.array_equal(tensor, after[name]), name
    ids = list(range(3, 40))
    assert torch.equal(logits_of(folder, ids), logits_of(tmp_path / "back", ids))


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}


@pytest.mark.parametrize("family,rope", [("llama", LLAMA3), ("qwen2", {"rope_type": "linear", "factor": 4.0})])
def test_scaled_rotary_frequencies_come_back(family, rope, tiny, tmp_path):
    folder, ids = tiny(family), list(range(3, 40))
    plain = logits_of(folder, ids)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] |= {"rope_theta": 500000.0} | rope
    (folder / "config.json").write_text(json.dumps(config))
    export(folder, tmp_path / "model.gguf", "--format", "gguf", "--type", "fp32")
    report = export(tmp_path / "model.gguf", tmp_path / "back", "--format", "hf")
    assert report["left_out"] == 0
    expected = logits_of(folder, ids)
    assert not torch.equal(plain, expected) and torch.equal(expected, logits_of(tmp_path / "back", ids))


def test_other_tables_of_frequencies_are_named(tiny, tmp_path):
    folder = tiny("llama")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] |= LLAMA3 | {"original_max_position_embeddings": 32}
    (folder / "config.json").write_text(json.dumps(config))
    export(folder, tmp_path / "model.gguf", "--format", "gguf", "--type", "fp32")
    assert "Llama 3's" in refusal(tmp_path / "model.gguf", tmp_path)


def test_scaling_without_a_type_is_linear(tiny, tmp_path):
    written_by_others(tiny("glm"), tmp_path / "model.gguf", lambda w: w.add_float32("chatglm.rope.scaling.factor", 4))
    export(tmp_path / "model.gguf", tmp_path / "back", "--format", "hf")
    rope = json.loads((tmp_path / "back/config.json").read_text())["rope_scaling"]
    assert (rope["rope_type"], rope["factor"]) == ("linear", 4)


@pytest.mark.parametrize("kind", ["fp16", "bf16", "q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_values_are_those_of_the_gguf_package(kind, tmp_path):
    export(DEMO, tmp_path / "model.gguf", "--format", "gguf", "--type", kind)
    report = export(tmp_path / "model.gguf", tmp_path / "back", "--format", "hf", "--type", "fp32")
    assert report["rounding"] == 0
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    for name, found in tensors_of(tmp_path / "back").items():
        layer, part = re.fullmatch(r"(?:model\.)?(?:layers\.(\d+)\.)?(.+)", name).groups()
        tensor = tensors[(f"blk.{layer}." if layer else "") + GGUF_NAMES[part.rsplit(".", 1)[0]] + "." + part.rsplit(".", 1)[1]]
        values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(found.shape)
        assert np.abs(values - found).max() <= 2e-7 * np.abs(values).max(), name


def test_text_is_tokenized_and_framed_as_before(tmp_path):
    export(DEMO, tmp_path / "model.gguf", "--format", "gguf")
    export(tmp_path / "model.gguf", tmp_path / "back", "--format", "hf")
    before, after = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (DEMO, tmp_path / "back"))
    messages = [{"role": "user", "content": "App: Clock"}]
    framed = before.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert after.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == framed
    for text in [*TEXTS, framed]:
        ids = before(text)["input_ids"]
        assert after(text)["input_ids"] == ids and after.decode(ids) == before.decode(ids), text
    assert (json.loads((tmp_path / "back/config.json").read_text())["eos_token_id"]
            == json.loads((DEMO / "config.json").read_text())["eos_token_id"])


def written_by_others(folder, file, edit=lambda writer: None, arch="chatglm", kind=gguf.GGMLQuantizationType.Q8_0):
    """The tiny glm as other converters write it: q, k and v fused, matrices by the gguf package's own rounding."""
    config = json.loads((folder / "config.json").read_text())
    tensors = tensors_of(folder)
    writer = gguf.GGUFWriter(file, arch)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"] // 2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("chatglm-bpe")
    writer.add_token_list([f"w{i}" for i in range(config["vocab_size"] - 1)] + ["w1w2"])
    writer.add_token_types([1] * config["vocab_size"])
    writer.add_token_merges(["w1 w2"])
    writer.add_eos_token_id(1)
    edit(writer)

    def put(name, tensor, quantized=True):
        if tensor.ndim == 2 and quantized:
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)

    put("token_embd.weight", tensors["model.embed_tokens.weight"])
    put("output_norm.weight", tensors["model.norm.weight"])
    put("output.weight", tensors["lm_head.weight"])
    for i in range(config["num_hidden_layers"]):
        ours, theirs = f"model.layers.{i}.", f"blk.{i}."
        for member in ("weight", "bias"):
            put(f"{theirs}attn_qkv.{member}", np.concatenate([tensors[f"{ours}self_attn.{p}_proj.{member}"] for p in "qkv"]))
        for a, b in (("input_layernorm", "attn_norm"), ("self_attn.o_proj", "attn_output"), ("post_attention_layernorm", "ffn_norm"),
                     ("mlp.gate_up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down")):
            put(f"{theirs}{b}.weight", tensors[f"{ours}{a}.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_file_of_other_software_with_fused_matrices(tiny, tmp_path):
    folder = tiny("glm")
    written_by_others(folder, tmp_path / "model.gguf")
    report = export(tmp_path / "model.gguf", tmp_path / "back", "--format", "hf", "--type", "fp32")
    assert report["architecture"] == "chatglm" and report["family"] == "glm" and report["left_out"] == 0
    before, after = tensors_of(folder), tensors_of(tmp_path / "back")
    for name, tensor in after.items():
        source = before[name]
        expected = source
        if tensor.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            expected = gguf.dequantize(gguf.quantize(source, kind), kind)
        assert np.array_equal(tensor, expected), name
    assert torch.isfinite(logits_of(tmp_path / "back", [3, 4, 5])).all()


def refusal(file, tmp_path):
    """The one line of bad input; nothing is left behind."""
    done = run_autoglm("export", file, "--format", "hf", "-o", tmp_path / "back")
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".back*"))
    return done.stderr


@pytest.mark.parametrize("edit,words", [
    (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), ["rotary scaling", "yarn"]),
    (lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), ["rope_freqs"]),
    (lambda w: w.add_float32("chatglm.rope.freq_base", float("nan")), ["rope.freq_base", "nan"]),
    (lambda w: w.add_tensor("blk.0.attn_output.bias", np.ones(64, np.float32)), ["blk.0.attn_output.bias", "no place"]),
    (lambda w: w.add_tensor("blk.0.attn_q_norm.weight", np.ones(16, np.float32)), ["blk.0.attn_q_norm.weight", "no place"]),
    (lambda w: w.add_bos_token_id(100000), ["bos_token_id", "100000"]),
    (lambda w: w.add_uint32("general.alignment", 3), ["alignment"])])
def test_what_is_not_read_is_named(edit, words, tiny, tmp_path):
    written_by_others(tiny("glm"), tmp_path / "model.gguf", edit)
    line = refusal(tmp_path / "model.gguf", tmp_path)
    assert all(word in line for word in ["model.gguf", *words]), line


def test_unknown_architectures_are_named(tiny, tmp_path):
    written_by_others(tiny("glm"), tmp_path / "model.gguf", arch="gemma3")
    assert "'gemma3'" in refusal(tmp_path / "model.gguf", tmp_path)


def test_damaged_files(tiny, tmp_path):
    written_by_others(tiny("glm"), tmp_path / "whole.gguf")
    data = (tmp_path / "whole.gguf").read_bytes()
    file = tmp_path / "model.gguf"
    for damaged, word in ((data[:-40], "truncated"), (data[:100], "truncated"), (b"", "empty"), (b"GGML" + data[4:], "no GGUF"),
                          (data.replace(b"blk.1.ffn_down", b"blk.1.ffn_dawn", 1), "blk.1.ffn_down.weight"),
                          (data[:4] + b"\x01" + data[5:], "version 1"), (data.replace(b"chatglm-bpe", b"chatglm-bpx", 1), "pre-tokenizer")):
        file.write_bytes(damaged)
        assert word in refusal(file, tmp_path), word


def test_other_commands_say_how(tmp_path):
    export(DEMO, tmp_path / "model.gguf", "--format", "gguf")
    for command in (("inspect", tmp_path / "model.gguf"), ("export", tmp_path / "model.gguf", "--format", "onnx", "-o", tmp_path / "o")):
        done = run_autoglm(*command)
        assert done.returncode in (2, 3) and "--format hf" in done.stderr and done.stderr.count("\n") == 1, done.stderr
