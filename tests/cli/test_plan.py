"""What is planned: from a config.json alone, and within the memory of the machine."""
import json
import math
import struct

import pytest
from conftest import BAD_INPUT, DEMO, RESOURCES, TINY, leftovers

# The 355 B parameters of GLM-4.5, as its config.json has them.
GLM_4_5 = {
    "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "attention_bias": True, "hidden_act": "silu",
    "hidden_size": 5120, "intermediate_size": 12288, "head_dim": 128, "num_hidden_layers": 92, "num_attention_heads": 96,
    "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1000000,
    "partial_rotary_factor": 0.5, "tie_word_embeddings": False, "vocab_size": 151552, "torch_dtype": "bfloat16",
    "eos_token_id": [151329], "pad_token_id": 151329, "moe_intermediate_size": 1536, "n_routed_experts": 160,
    "num_experts_per_tok": 8, "n_shared_experts": 1, "first_k_dense_replace": 3, "n_group": 1, "topk_group": 1,
    "norm_topk_prob": True, "routed_scaling_factor": 2.5, "use_qk_norm": True, "num_nextn_predict_layers": 1}


@pytest.fixture
def config_alone(tmp_path):
    folder = tmp_path / "glm-4.5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GLM_4_5))
    return folder


def test_a_large_model_is_planned_from_its_config_alone(autoglm, config_alone, tmp_path):
    done = autoglm("compress", config_alone, "-q", "int4", "--dry-run", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert 700e9 < plan["bytes_before"] < 725e9
    assert plan["bytes_after"] < 0.3 * plan["bytes_before"]
    assert any("config.json alone" in note for note in plan["notes"])
    done = autoglm("compress", config_alone, "-q", "int4", "--dry-run", "--calibration-dataset", DEMO / "tasks" / "train.jsonl")
    assert done.code == 0 and "gptq" in done.out and "peak memory" in done.out, done.err
    assert leftovers(tmp_path, config_alone.name) == []


def test_disk_and_time_are_foreseen(autoglm, tmp_path):
    def plan(*options):
        done = autoglm("compress", DEMO, "-q", "int4", "--dry-run", "--json", *options)
        assert done.code == 0, done.err
        return json.loads(done.out)

    plain, calibrated, thorough = plan("--method", "rtn"), plan("--method", "gptq"), plan("--method", "gptq", "--calibration-samples", 1024)
    assert plain["disk_bytes"] == plain["bytes_after"]
    assert calibrated["disk_bytes"] == 2 * calibrated["bytes_after"]  # the journal of --resume too
    assert 0 < plain["seconds"] < calibrated["seconds"] < thorough["seconds"]
    shown = autoglm("compress", DEMO, "-q", "int4", "--dry-run", "--method", "gptq").out
    assert "disk needed" in shown and "time: about" in shown
    done = autoglm("compress", DEMO, "-q", "int4", "--method", "rtn", "--verify", "none", "--quiet", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    written = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert plain["bytes_after"] <= written <= 1.02 * plain["bytes_after"]  # the file's header


def test_a_config_alone_is_planned_as_its_checkpoint_is(autoglm, model, tmp_path):
    folder = model("glm4_moe")
    whole = json.loads(autoglm("compress", folder, "-q", "int8", "--dry-run", "--json").out)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    alone = json.loads(autoglm("compress", folder, "-q", "int8", "--dry-run", "--json").out)
    assert alone["modules"] == whole["modules"]


def test_a_config_alone_is_inspected(autoglm, config_alone):
    done = autoglm("inspect", config_alone)
    assert done.code == 0 and "config.json alone" in done.out and "experts" in done.out
    shown = json.loads(autoglm("inspect", config_alone, "--json").out)
    assert shown["has_weights"] is False and shown["storage"] == "BF16"
    assert 350e9 < shown["sizes"]["parameters"] < 360e9
    assert json.loads(autoglm("inspect", DEMO, "--json").out)["has_weights"] is True


def test_a_config_alone_is_not_compressed(autoglm, config_alone, tmp_path):
    autoglm("compress", config_alone, "-o", tmp_path / "out", "-q", "int4").refused(BAD_INPUT, "model.safetensors")
    config = GLM_4_5 | {"quantization_config": {"quant_method": "compressed-tensors"}}
    (config_alone / "config.json").write_text(json.dumps(config))
    autoglm("inspect", config_alone).refused(BAD_INPUT, "quantized")
    (config_alone / "config.json").unlink()
    autoglm("compress", config_alone, "--dry-run").refused(BAD_INPUT, "config.json")


@pytest.fixture
def too_wide(tmp_path):
    """One layer of a width that no machine has memory for, over a sparse file."""
    folder = tmp_path / "wide"
    folder.mkdir()
    hidden, inner, vocab = 1 << 18, 1 << 20, 320
    config = json.loads((TINY / "llama" / "config.json").read_text())
    config |= {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": 2048, "num_key_value_heads": 2048,
               "head_dim": 128, "vocab_size": vocab, "num_hidden_layers": 1, "tie_word_embeddings": False, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0."
    shapes = {"model.embed_tokens": [vocab, hidden], layer + "input_layernorm": [hidden],
              layer + "post_attention_layernorm": [hidden], "model.norm": [hidden], "lm_head": [vocab, hidden]}
    shapes |= {f"{layer}self_attn.{name}_proj": [hidden, hidden] for name in "qkvo"}
    shapes |= {f"{layer}mlp.{name}_proj": [inner, hidden] for name in ("gate", "up")}
    shapes |= {layer + "mlp.down_proj": [hidden, inner]}
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name + ".weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * math.prod(shape)]}
        end += 2 * math.prod(shape)
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def test_the_memory_of_the_machine_is_the_bound(autoglm, too_wide, tmp_path):
    usual = ("compress", too_wide, "-o", tmp_path / "out", "-q", "int8", "--method", "rtn", "--verify", "none")
    autoglm(*usual).refused(RESOURCES, "this machine has", "--max-ram")
    assert leftovers(tmp_path, too_wide.name) == []
    done = autoglm(*usual, "--dry-run")  # shows the plan all the same
    assert done.code == 0 and "this machine has" in done.out and "peak memory" in done.out, done.err


def test_states_that_the_machine_cannot_hold_go_to_disk(autoglm):
    done = autoglm("compress", DEMO, "--dry-run", "--calibration-samples", 1 << 20, "--calibration-length", 512)
    assert done.code == 0 and "calibration states go to disk" in done.out, done.err
