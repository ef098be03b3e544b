"""`autoglm export --format tensorrt` obeys TensorRT's rules of explicit quantization and types; TensorRT itself needs a GPU to read a
model, so that onnxruntime computes the numbers here."""
import json
import struct

import numpy as np
import onnx
import pytest
from conftest import FAMILIES, FEW, few, model_folder
from safetensors.numpy import load_file
from test_export import export, export_fails
from test_onnx import check_graph, compare, nodes_of, static_artifact, task_ids

DEMO = model_folder("glm-phone-demo")
# github.com/onnx/onnx-tensorrt, docs/operators.md: what the parser takes, of what a decoder needs.
KNOWN = {"Add", "And", "Cast", "Clip", "Concat", "ConstantOfShape", "Cos", "DequantizeLinear", "Div", "Equal", "Expand", "Gather", "Greater",
         "Identity", "LessOrEqual", "MatMul", "Max", "Min", "Mul", "Neg", "NonZero", "Pow", "QuantizeLinear", "Range", "ReduceMax", "ReduceMean",
         "ReduceMin", "ReduceSum", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid", "Sin", "Softmax", "Split", "Sqrt",
         "Squeeze", "Sub", "TopK", "Transpose", "Unsqueeze", "Where"}


def check_rules(folder, compute="FLOAT16"):
    """Types, symmetry, scales and places of Q/DQ; returns how many nodes dequantize weights of each type."""
    graph = check_graph(folder)
    assert {node.op_type for node in graph.node} <= KNOWN and not any(node.domain for node in graph.node)
    makers, initializers = nodes_of(graph)
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    users = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    counts = {}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        attributes = {a.name: a.i for a in node.attribute}
        scale = node.input[1]
        assert initializers[scale] == compute, "a scale is a constant of the type that is computed in"
        if len(node.input) > 2:
            zero = next(t for t in graph.initializer if t.name == node.input[2])
            assert not np.any(onnx.numpy_helper.to_array(zero)), "zero points are 0"
        weight = node.input[0] in initializers
        if not weight:  # of activations: a pair, one scale, INT8, before a product
            assert shapes[scale] == [], "activations have one scale"
            if node.op_type == "QuantizeLinear":
                assert initializers[node.input[2]] == "INT8"
                assert [user.op_type for user in users[node.output[0]]] == ["DequantizeLinear"]
            else:
                assert makers[node.input[0]].op_type == "QuantizeLinear"
                for user in users[node.output[0]]:
                    assert user.op_type == "MatMul" and makers[user.input[1]].op_type == "DequantizeLinear"
            continue
        assert node.op_type == "DequantizeLinear"
        assert all(user.op_type in ("MatMul", "Gather") for user in users[node.output[0]])
        kind = initializers[node.input[0]]
        counts[kind] = counts.get(kind, 0) + 1
        if kind == "INT4":
            blocked = attributes["axis"]
            assert attributes["block_size"] in (64, 128) and len(shapes[scale]) == 2
            assert shapes[scale][blocked] * attributes["block_size"] == shapes[node.input[0]][blocked]
        else:
            assert kind == "INT8" and "block_size" not in attributes and len(shapes[scale]) <= 1
    return counts


def check_profiles(folder, batch, length):
    """Every input has one, of its own rank, within its fixed sizes."""
    profiles = json.loads((folder / "profiles.json").read_text())
    inputs = onnx.load(folder / "model.onnx", load_external_data=False).graph.input
    assert set(profiles) == {value.name for value in inputs}
    for value in inputs:
        shapes = profiles[value.name]
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            least, usual, most = (shapes[when][i] for when in ("min", "opt", "max"))
            assert least <= usual <= most
            assert not dim.dim_value or least == most == dim.dim_value
    for when in ("min", "opt", "max"):  # the builder fills in all at once
        assert profiles["attention_mask"][when][1] == profiles["input_ids"][when][1] + profiles["past_key_values.0.key"][when][2]
    assert profiles["input_ids"]["max"] == [batch, length] and profiles["past_key_values.0.key"]["min"][2] == 0


@pytest.mark.parametrize("family", few(FAMILIES, ["glm-phone-demo", *FEW]))
def test_every_family(family, our_logits, tmp_path):
    export(model_folder(family), tmp_path / "out", "--format", "tensorrt", "--type", "fp32")
    assert check_rules(tmp_path / "out", "FLOAT") == {}
    compare(model_folder(family), tmp_path / "out", our_logits, 1e-5)


@pytest.mark.parametrize("options,kinds", [(("int4-g128",), {"INT4"}), (("int4-g64",), {"INT4"}), (("int4-channel",), {"INT4"}), (("int3-g128",), {"INT4"}),
                                           (("int2-g64",), {"INT4"}), (("int8",), {"INT8"}), (("int8-tensor",), {"INT8"}),
                                           (("int4-g128", "--override", "embed_tokens=int4-g64", "--override", "lm_head=int8"), {"INT4", "INT8"})])
def test_quantized_demo(options, kinds, compress, our_logits, tmp_path):
    artifact = compress("glm-phone-demo", "--method", "rtn", "-q", *options)
    for how, compute, most in (((), "FLOAT16", 1e-3), (("--type", "fp32"), "FLOAT", 1e-5)):
        out = tmp_path / compute
        export(artifact, out, "--format", "tensorrt", *how)
        assert set(check_rules(out, compute)) == kinds
        compare(artifact, out, our_logits, most)
    check_profiles(out, 1, 2048)


def test_static_activations_and_their_ranges(compress, our_logits, tmp_path):
    artifact = static_artifact(compress)
    report = export(artifact, tmp_path / "out", "--format", "tensorrt", "--max-batch", "4", "--max-length", "256")
    counts = check_rules(tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert counts["INT8"] > 0 and any(node.op_type == "QuantizeLinear" for node in graph.node)
    check_profiles(tmp_path / "out", 4, 256)
    compare(artifact, tmp_path / "out", our_logits, 1e-3, ids=task_ids())

    # The cache names values of the graph, each with the scale that QuantizeLinear has there.
    header, *lines = (tmp_path / "out" / "calibration.cache").read_text().splitlines()
    assert header.startswith("TRT-10") and header.endswith("-EntropyCalibration2") and len(lines) == report["ranges"] > 0
    scales = {name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, digits in (line.split(": ") for line in lines)}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {node.input[0]: float(constants[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear"}
    assert found and all(abs(scales[name] / scale - 1) < 1e-3 for name, scale in found.items())


def test_ranges_for_a_network_of_floats(compress, our_logits, tmp_path):
    """What the calibrator of an INT8 engine reads: of the plain folder of a calibrated artifact."""
    artifact = compress("glm-phone-demo", "-q", "int8", "--method", "gptq", "--calibration-dataset", str(DEMO / "tasks" / "calibration.jsonl"),
                        "--calibration-samples", "16")
    export(artifact, tmp_path / "plain", "--format", "hf", "--type", "fp32")
    report = export(tmp_path / "plain", tmp_path / "out", "--format", "tensorrt", "--type", "fp32")
    assert check_rules(tmp_path / "out", "FLOAT") == {}
    compare(tmp_path / "plain", tmp_path / "out", our_logits, 1e-5)
    inputs = {name.removesuffix(".tensor"): values for name, values in load_file(artifact / "statistics.st").items() if name.endswith(".tensor")}
    expected = sorted(np.float32(max(abs(values[1]), abs(values[2]))) / 127 for values in inputs.values())
    lines = (tmp_path / "out" / "calibration.cache").read_text().splitlines()[1:]
    assert len(lines) == report["ranges"] == len(expected) > 10
    found = sorted(struct.unpack(">f", bytes.fromhex(line.split(": ")[1]))[0] for line in lines)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("options,words", [
    (("int4-g128-asym",), ("zero points", "symmetric")), (("int8-g128",), ("groups of 8 bits", "int8 or int4-g128")),
    (("int4-g32",), ("multiples of 64", "int4-g128")), (("w8a8",), ("for each token", "w8a8-static"))])
def test_what_tensorrt_does_not_have(options, words, compress, tmp_path):
    artifact = compress("glm-phone-demo", "--method", "rtn", "-q", *options)
    message = export_fails(artifact, tmp_path / "out", "--format", "tensorrt")
    assert all(word in message for word in words) and "layers.0" in message, message
