"""Our reading and writing of quantized weights and configs equals the compressed-tensors package's."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
from compressed_tensors.quantization.utils import calculate_range
from compressed_tensors.utils.match import match_named_modules, match_targets
from safetensors.torch import load_file, save_file

TOOL = os.environ["AUTOGLM_QUANT_TOOL"]
LLM_COMPRESSOR = Path(__file__).parent.parent / "data" / "llm_compressor"
PACKED, INT, NAIVE = "pack-quantized", "int-quantized", "naive-quantized"


def run_tool(*arguments):
    return subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True)


def convert(folder, modules, out):
    (out.parent / "modules.json").write_text(json.dumps(modules))
    return run_tool("convert", folder, out.parent / "modules.json", out)


def write_config(folder, config):
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))


def make_scheme(name, bits, symmetric, strategy, group_size, format):
    weights = dict(num_bits=bits, type="int", symmetric=symmetric, strategy=strategy, group_size=group_size)
    activations = dict(num_bits=8, type="int", strategy="token", dynamic=True) if format == INT else None
    return QuantizationScheme(targets=[name], weights=weights, input_activations=activations, format=format)


def make_module(scheme, shape, scale_dtype, seed):
    """A module's state as the package holds it before compression; scales large enough that every value is reached."""
    generator = torch.Generator().manual_seed(seed)
    args = scheme.weights
    low, high = (int(x) for x in calculate_range(args, "cpu"))
    scale_shape = {"tensor": (1,), "channel": (shape[0], 1)}.get(args.strategy, (shape[0], shape[1] // (args.group_size or 1)))
    scale = (torch.rand(scale_shape, generator=generator) * 0.1 + 0.01).to(scale_dtype)
    zero_point = torch.zeros(scale_shape, dtype=torch.int8)
    if not args.symmetric:
        zero_point = torch.randint(low, high + 1, scale_shape, generator=generator).to(torch.int8)
    values = torch.randint(low, high + 1, shape, generator=generator)
    repeat = shape[1] // scale.shape[-1] if args.strategy == "group" else 1
    spread = lambda t: t.repeat_interleave(repeat, 1) if repeat > 1 else t
    weight = (values - spread(zero_point).int()) * spread(scale).float()
    return {"weight": weight.to(scale_dtype), "weight_scale": scale, "weight_zero_point": zero_point}


CASES = [
    (bits, symmetric, strategy, group_size, shape, format, dtype)
    for index, format in enumerate([PACKED, INT, NAIVE])
    for bits in range(1, 9)
    for symmetric in [True, False]
    for strategy, group_size, shape in [
        ("tensor", None, (67, 45)),
        ("channel", None, (67, 45)),
        ("channel", None, (1, 32)),
        ("group", 15, (67, 45)),
        ("group", 32, (40, 96)),
        ("group", 45, (3, 45)),
    ]
    for dtype in [[torch.bfloat16, torch.float16, torch.float32][(bits + index) % 3]]
]


def test_weights_in_both_directions(tmp_path):
    tensors, modules, groups, expected = {}, {}, {}, {}
    for number, (bits, symmetric, strategy, group_size, shape, format, dtype) in enumerate(CASES):
        name = f"model.layers.{number}.proj"
        scheme = make_scheme(name, bits, symmetric, strategy, group_size, format)
        compressor = BaseCompressor.get_value_from_registry(format)
        stored = compressor.compress(make_module(scheme, shape, dtype, number), scheme)
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in stored.items()}
        modules[name] = [*shape, "Linear"]
        groups[f"group_{number}"] = scheme
        expected[name] = (compressor, scheme, stored, compressor.decompress(stored, scheme)["weight"])
    config = QuantizationConfig(config_groups=groups, format="mixed-precision", quantization_status="compressed")
    save_file(tensors, tmp_path / "model.safetensors")
    write_config(tmp_path, config.model_dump(mode="json"))
    result = convert(tmp_path, modules, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    ours = load_file(tmp_path / "out" / "model.safetensors")
    for name, (compressor, scheme, stored, weight) in expected.items():
        # What we read is what the package reads: (q - zero_point) * scale, rounded to the scales' type.
        assert torch.equal(ours[f"{name}.dequantized"].to(weight.dtype), weight), (name, scheme)
        # What we write is what the package writes, byte for byte and tensor for tensor.
        written = {key: ours[f"{name}.{key}"] for key in stored}
        for key, tensor in stored.items():
            assert tensor.dtype == written[key].dtype and torch.equal(tensor, written[key]), (name, key, scheme)
        assert torch.equal(compressor.decompress(written, scheme)["weight"], weight)
        if not scheme.weights.symmetric:
            assert ours[f"{name}.zero_points"].numel() == stored["weight_scale"].numel()

    # The config we write says the same to the package.
    text = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    reread = QuantizationConfig.model_validate(text)
    assert reread.config_groups == config.config_groups
    assert reread.format == config.format and reread.quantization_status == config.quantization_status


def test_shapes_of_the_package_that_we_never_write(tmp_path):
    """Groups that do not divide the columns are an error on both sides."""
    scheme = make_scheme("m", 4, True, "group", 32, PACKED)
    state = {"weight": torch.randn(4, 45), "weight_scale": torch.ones(4, 2)}
    compressor = BaseCompressor.get_value_from_registry(PACKED)
    with pytest.raises(ValueError, match="divisble"):
        compressor.compress(state, scheme)
    tensors = {"m.weight_packed": torch.zeros(4, 6, dtype=torch.int32), "m.weight_scale": torch.ones(4, 2)}
    save_file(tensors, tmp_path / "model.safetensors")
    config = QuantizationConfig(config_groups={"g": scheme}, format=PACKED)
    write_config(tmp_path, config.model_dump(mode="json"))
    result = convert(tmp_path, {"m": [4, 45, "Linear"]}, tmp_path / "out")
    assert result.returncode == 3 and "group_size 32 does not divide" in result.stderr
    assert not (tmp_path / "out").exists()


def test_presets(tmp_path):
    integers = [name for name, preset in PRESET_SCHEMES.items() if preset and preset["weights"].type == "int"
                and getattr(preset.get("input_activations"), "type", "int") == "int"]
    assert len(integers) > 12
    for name in integers:
        groups = {name: ["Linear"]}
        write_config(tmp_path, {"config_groups": groups, "format": "mixed-precision"})
        scheme = QuantizationConfig(config_groups=dict(groups)).config_groups[name]
        format = INT if scheme.input_activations else PACKED
        state = make_module(scheme, (1, 128), torch.bfloat16, 0)
        stored = BaseCompressor.get_value_from_registry(format).compress(state, scheme)
        save_file({f"m.{key}": value for key, value in stored.items()}, tmp_path / "model.safetensors")
        result = convert(tmp_path, {"m": [1, 128, "Linear"]}, tmp_path / f"out_{name}")
        assert result.returncode == 0, (name, result.stderr)
        text = json.loads((tmp_path / f"out_{name}" / "config.json").read_text())["quantization_config"]
        ours = QuantizationConfig.model_validate(text).config_groups[name]
        assert ours.weights == scheme.weights and ours.input_activations == scheme.input_activations, name


@pytest.mark.parametrize("folder", sorted(LLM_COMPRESSOR.iterdir()), ids=lambda folder: folder.name)
def test_what_llm_compressor_writes(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    text = json.loads((folder / "config.json").read_text())["quantization_config"]
    scheme = QuantizationConfig.model_validate(text).config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    names = [name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")]
    assert len(names) == 7
    weights, modules = {}, {}
    for name in names:
        state = {key.removeprefix(name + "."): value for key, value in tensors.items() if key.startswith(name + ".")}
        weights[name] = compressor.decompress(state, scheme)["weight"]
        modules[name] = [*weights[name].shape, "Linear"]
    result = convert(folder, modules, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    ours = load_file(tmp_path / "out" / "model.safetensors")
    for name, weight in weights.items():
        assert torch.equal(ours[f"{name}.dequantized"].to(weight.dtype), weight), name
    for name, tensor in tensors.items():  # written again, the quantized tensors are the same
        if any(name.startswith(module + ".") for module in names):
            assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name
    written = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert QuantizationConfig.model_validate(written) == QuantizationConfig.model_validate(text)
    # A module outside every group has no scheme.
    assert "has no scheme" in convert(folder, {"lm_head": [64, 32, "Linear"]}, tmp_path / "none").stderr


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name in ["q_proj", "k_proj", "o_proj", "up_proj", "gate"]:
            self.add_module(name, torch.nn.Linear(1, 1))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(1, 1)
        self.layers = torch.nn.ModuleList([Block() for _ in range(12)])
        self.lm_head = torch.nn.Linear(1, 1)


def test_targets_and_ignore(tmp_path):
    """Random targets give every module of a model the group that compressed-tensors gives it."""
    rng = random.Random(0)
    model = Model()
    named = [(name, module) for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, torch.nn.Embedding))]
    patterns = ["Linear", "Embedding", "Module", "Block", "lm_head", "embed_tokens", "layers.3.q_proj", "layers.11.gate", "re:.*",
                "re:layers", "re:.*q_proj", "re:q_proj", r"re:layers\.1\.", r"re:layers\.1.*", r"re:.*\.(gate|up_proj)$",
                r"re:layers\.(?!0)\d+\.k_proj", r"re:(?P<a>l)m_head$", "re:.*_proj(?<!q_proj)", "re:^lm", r"re:\w+\.\d{2}\.", "re:L.*", "q_proj"]
    checked = 0
    for _ in range(150):
        groups = {f"group_{i}": {"targets": rng.sample(patterns, rng.randint(1, 4)), "weights": {"num_bits": i + 1}}
                  for i in range(rng.randint(1, 5))}
        ignore = rng.sample(patterns, rng.randint(0, 2)) if rng.random() < 0.7 else []
        config = QuantizationConfig(config_groups=groups, ignore=ignore)
        # As apply_quantization_config does it.
        scheme_of = {target: group for group, scheme in config.config_groups.items() for target in scheme.targets}
        matched = {name: scheme_of[match_targets(name, module, scheme_of)[0]]
                   for name, module in match_named_modules(model, scheme_of, config.ignore)}
        query = {"config": {"config_groups": groups, "ignore": ignore, "format": PACKED},
                 "modules": [[name, type(module).__name__] for name, module in named]}
        (tmp_path / "query.json").write_text(json.dumps(query))
        result = run_tool("match", tmp_path / "query.json")
        assert result.returncode == 0, result.stderr
        for (name, _module), group in zip(named, result.stdout.splitlines(), strict=True):
            assert group == matched.get(name, "-"), (groups, ignore, name)
            checked += group != "-"
    assert checked > 1000
