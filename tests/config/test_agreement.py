"""Our reading of config.json equals transformers': fields, defaults, rotary frequencies, tensor names and shapes."""

import copy
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

PROGRAM = os.environ["AUTOGLM_PRINT_CONFIG"]
CONFIGS = Path(__file__).parent.parent / "data" / "configs"
FIXTURES = {path.stem: json.loads(path.read_text()) for path in sorted(CONFIGS.glob("*.json"))}
CHATGLM = [name for name, config in FIXTURES.items() if config["model_type"] == "chatglm"]
FLAT = ["glm4v_flat"]  # transformers 4 alone read it; transformers 5 takes the decoder's defaults in silence
OTHERS = [name for name in FIXTURES if name not in CHATGLM + FLAT]

REQUIRED = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
REQUIRED_MOE = ["n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"]
NEVER_DROPPED = REQUIRED + REQUIRED_MOE + ["model_type", "architectures", "text_config", "vision_config"]
INTERLEAVED = {"glm", "glm4", "glm4v"}
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def run(folders, sequence_length=0):
    """What our program says of each folder."""
    command = [PROGRAM, str(sequence_length), *map(str, folders)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == len(folders)
    return [json.loads(line) for line in lines]


def write(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def decoder(config):
    """The object that holds the decoder's fields."""
    return config.get("text_config", config)


def shallow(config):
    """The same model with few layers, so that building it on the meta device is quick."""
    config = copy.deepcopy(config)
    fields = decoder(config)
    layers = fields.get("first_k_dense_replace", 0) + 2
    fields["num_hidden_layers"] = layers
    if "num_layers" in fields:
        fields["num_layers"] = layers
    if "n_routed_experts" in fields:
        fields["n_routed_experts"] = 16
    return config


def split_experts(tensors):
    """transformers 5 holds the experts of a layer in two 3-D tensors; files hold one matrix for each."""
    out = {}
    for name, shape in tensors.items():
        prefix, found, kind = name.partition(".experts.")
        if not found:
            out[name] = shape
            continue
        for expert in range(shape[0]):
            if kind == "down_proj":
                out[f"{prefix}.experts.{expert}.down_proj.weight"] = shape[1:]
            else:
                for part in ("gate_proj", "up_proj"):
                    out[f"{prefix}.experts.{expert}.{part}.weight"] = [shape[1] // 2, shape[2]]
    return out


def reference_tensors(config):
    """Names and shapes of the decoder's tensors in transformers' model."""
    auto = AutoModelForImageTextToText if config.model_type == "glm4v" else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    tied = set(model.all_tied_weights_keys or {})
    tensors = {name: list(t.shape) for name, t in model.state_dict().items()}
    return split_experts({n: s for n, s in tensors.items() if "visual" not in n and n not in tied})


def reference_rope(config, sequence_length):
    """Inverse frequencies and attention scaling as transformers' models get them."""
    text = config.get_text_config()
    kind = text.rope_parameters["rope_type"]
    if kind == "default":
        dim = int((getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
                  * text.rope_parameters.get("partial_rotary_factor", 1.0))
        return 1.0 / text.rope_parameters["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim), 1.0
    return ROPE_INIT_FUNCTIONS[kind](text, seq_len=sequence_length or None)


def check(ours, folder, sequence_length=0):
    """Compares one printed configuration with AutoConfig's of `folder`."""
    assert "error" not in ours, ours
    config = AutoConfig.from_pretrained(folder)
    text = config.get_text_config()
    fields = dict(ours["fields"])
    assert fields.pop("model_type") == config.model_type
    fields.pop("rope_type"), fields.pop("rope_theta"), fields.pop("rotary_dim")
    if config.model_type == "glm4v":
        assert fields.pop("head_dim") == text.hidden_size // text.num_attention_heads
        assert fields.pop("tie_word_embeddings") == config.tie_word_embeddings
    elif getattr(text, "head_dim", None) is None:
        assert fields.pop("head_dim") == text.hidden_size // text.num_attention_heads
    for key, value in fields.items():
        assert value == getattr(text, key), key

    frequencies, scaling = reference_rope(config, sequence_length)  # completes rope_parameters
    theirs = {k: v for k, v in text.rope_parameters.items() if v is not None}
    assert {k: v for k, v in ours["rope_parameters"].items() if v is not None} == theirs
    assert ours["interleaved"] == (config.model_type in INTERLEAVED)
    assert ours["rotary_dim"] == 2 * len(frequencies)
    torch.testing.assert_close(torch.tensor(ours["inverse_frequencies"], dtype=torch.float32), frequencies.float(),
                               rtol=3e-6, atol=0)
    assert ours["attention_scaling"] == pytest.approx(scaling, rel=1e-9)

    # transformers' default ids are those of one vocabulary; ours leave out what another does not have.
    eos = next((e for e in (getattr(c, "eos_token_id", None) for c in (text, config)) if e is not None), None)
    listed = [] if eos is None else eos if isinstance(eos, list) else [eos]
    assert ours["eos_token_ids"] == [token for token in listed if token < text.vocab_size]
    pad = text.pad_token_id
    assert ours["pad_token_id"] == (pad if pad is not None and pad < text.vocab_size else -1)
    dtype = config.dtype or text.dtype
    if dtype is not None:
        assert DTYPES[ours["dtype"]] == dtype
    return config


@pytest.mark.parametrize("name", OTHERS)
def test_fields_equal_transformers(name, tmp_path):
    config = FIXTURES[name]
    folder = write(tmp_path, config)
    check(run([folder])[0], folder)


@pytest.mark.parametrize("name", OTHERS)
def test_defaults_equal_transformers(name, tmp_path):
    """Each optional key left out, and all of them."""
    whole = shallow(FIXTURES[name])
    optional = [key for key in decoder(whole) if key not in NEVER_DROPPED]
    folders = []
    for dropped in [[key] for key in optional] + [optional]:
        config = copy.deepcopy(whole)
        for key in dropped:
            del decoder(config)[key]
        # A head whose size is derived must come out whole, and glm4v's sections must fit what is rotated.
        fields = decoder(config)
        if "head_dim" in dropped and whole["model_type"] == "glm4_moe":
            fields["hidden_size"] = fields["num_attention_heads"] * 64
        if whole["model_type"] == "glm4v" and not {"partial_rotary_factor", "rope_parameters"}.isdisjoint(dropped):
            fields["rope_scaling"] = {"rope_type": "default", "mrope_section": [16, 24, 24]}
        if "num_key_value_heads" in dropped and whole["model_type"].startswith("qwen"):  # the default is 32
            fields["num_attention_heads"], fields["hidden_size"] = 32, 32 * 64
        folders.append(write(tmp_path / str(len(folders)), config))
    for ours, folder in zip(run(folders), folders):
        check(ours, folder)


@pytest.mark.parametrize("name", OTHERS)
def test_both_key_layouts_agree(name, tmp_path):
    """What transformers 5 saves reads as the file that it was loaded from."""
    old = write(tmp_path / "old", FIXTURES[name])
    AutoConfig.from_pretrained(old).save_pretrained(tmp_path / "new")
    first, second = run([old, tmp_path / "new"])
    for side in (first, second):
        side.pop("as_transformers")
        side["rope_parameters"] = {k: v for k, v in side["rope_parameters"].items() if k != "type"}
    assert first == second


@pytest.mark.parametrize("name", OTHERS)
def test_tensor_names_and_shapes_equal_transformers(name, tmp_path):
    folder = write(tmp_path, shallow(FIXTURES[name]))
    ours = run([folder])[0]
    assert ours["tensors"] == reference_tensors(AutoConfig.from_pretrained(folder))


@pytest.mark.parametrize("key", REQUIRED + REQUIRED_MOE)
def test_missing_sizes_are_named(key, tmp_path):
    config = copy.deepcopy(FIXTURES["glm4_5"])
    del config[key]
    error = run([write(tmp_path, config)])[0]["error"]
    assert key in error and str(tmp_path / "config.json") in error


@pytest.mark.parametrize("name", CHATGLM + FLAT)
def test_rewritten_configs_load_in_transformers(name, tmp_path):
    source = FIXTURES[name]
    ours = run([write(tmp_path / "source", source)])[0]
    folder = write(tmp_path / "glm", ours["as_transformers"]["raw"])
    config = check(ours["as_transformers"], folder)
    assert config.architectures == (["GlmForCausalLM"] if name in CHATGLM else ["Glm4vForConditionalGeneration"])
    assert run([folder])[0]["fields"] == ours["as_transformers"]["fields"]
    for key in ("eos_token_ids", "pad_token_id", "dtype", "inverse_frequencies", "rotary_dim", "interleaved"):
        assert ours[key] == ours["as_transformers"][key], key

    few = run([write(tmp_path / "few", shallow(source))])[0]["as_transformers"]
    assert few["tensors"] == reference_tensors(AutoConfig.from_pretrained(write(tmp_path / "few_glm", few["raw"])))
    if name in CHATGLM:
        assert "auto_map" not in ours["as_transformers"]["raw"]
        assert ours["fields"]["vocab_size"] == source["padded_vocab_size"]
        text = config
        assert text.rope_parameters["rope_theta"] == 10000 * source.get("rope_ratio", 1)
        assert (text.num_key_value_heads, text.intermediate_size) == (2, 13696)


PAIRS = 32  # rotated pairs of a llama head of 64
ROPES = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "linear_old": {"type": "linear", "factor": 2},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 1024},
    "llama3_implicit": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    "yarn_mscale": {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 512, "mscale": 1.0,
                    "mscale_all_dim": 0.7, "beta_fast": 64, "beta_slow": 2},
    "yarn_exact": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "truncate": False,
                   "attention_factor": 1.25},
    "yarn_ratio": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 1000},
    "longrope": {"rope_type": "longrope", "original_max_position_embeddings": 1024,
                 "short_factor": [1 + 0.01 * i for i in range(PAIRS)],
                 "long_factor": [2 + 0.1 * i for i in range(PAIRS)]},
    "longrope_factor": {"rope_type": "longrope", "original_max_position_embeddings": 1024, "factor": 16.0,
                        "short_factor": [1.0] * PAIRS, "long_factor": [3] * PAIRS},
}


@pytest.mark.parametrize("sequence_length", [0, 512, 4096, 20000])
@pytest.mark.parametrize("name", ROPES)
def test_rope_types_equal_transformers(name, sequence_length, tmp_path):
    config = {key: value for key, value in FIXTURES["llama3_2_1b"].items() if key != "rope_scaling"}
    config.update(max_position_embeddings=4096, rope_theta=10000.0, rope_scaling=ROPES[name])
    partial = {**copy.deepcopy(FIXTURES["glm4_9b_0414"]), "max_position_embeddings": 4096, "rope_scaling": ROPES[name]}
    folders = [write(tmp_path / "whole", config), write(tmp_path / "partial", partial)]
    for ours, folder in zip(run(folders, sequence_length), folders):
        check(ours, folder, sequence_length)


def test_original_length_beside_the_parameters_comes_first(tmp_path):
    config = {**FIXTURES["llama3_2_1b"], "original_max_position_embeddings": 4096}
    folder = write(tmp_path, config)
    check(run([folder])[0], folder)
