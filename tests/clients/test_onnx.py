"""onnxruntime and ONNX Runtime GenAI compute the artifact's numbers from what `autoglm export --format onnx` writes."""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import onnxruntime_genai
import pytest
import torch
import transformers
from conftest import FAMILIES, FEW, ROOT, TINY_FAMILIES, divergence, few, model_folder, task_prompts
from safetensors.torch import load_file, save_file
from test_export import export, export_fails
from test_transformers import load, token_ids

DEMO = model_folder("glm-phone-demo")
TASKS = int(os.environ.get("AUTOGLM_TASKS", 12))  # of 200
STEPS = 16


class Session:
    """The model with its cache; sums in float32 unless `rounds`: onnxruntime's own choice is inputs of 8 bits."""

    def __init__(self, folder, rounds=False):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 2
        if not rounds:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.names = [i.name for i in self.session.get_inputs() if i.name.startswith("past_key_values.")]
        first = next(i for i in self.session.get_inputs() if i.name == self.names[0])
        self.shape, self.type = first.shape, {"tensor(float)": np.float32, "tensor(float16)": np.float16}[first.type]

    def start(self, batch=1):
        self.cache = [np.zeros((batch, self.shape[1], 0, self.shape[3]), self.type) for _ in self.names]
        return self

    def run(self, ids, mask=None, positions=None):
        ids = np.atleast_2d(np.asarray(ids, np.int64))
        past = self.cache[0].shape[2]
        mask = np.ones((ids.shape[0], past + ids.shape[1]), np.int64) if mask is None else np.asarray(mask, np.int64)
        positions = np.tile(np.arange(past, past + ids.shape[1]), (ids.shape[0], 1)) if positions is None else positions
        logits, *self.cache = self.session.run(None, {
            "input_ids": ids, "attention_mask": mask, "position_ids": np.asarray(positions, np.int64),
            **dict(zip(self.names, self.cache))})
        return logits


def compare(artifact, folder, our_logits, most, rounds=False, ids=None):
    """Prefill, then one token at a time with the cache, against our decoder on the artifact."""
    ids = ids or token_ids(artifact)
    ours = our_logits(artifact, ids)
    session = Session(folder, rounds).start()
    parts = [session.run(ids[: len(ids) - STEPS])[0]]
    parts += [session.run([[token]])[0] for token in ids[len(ids) - STEPS:]]
    assert divergence(ours, np.concatenate(parts)) <= most
    assert divergence(ours, Session(folder, rounds).start().run(ids)[0]) <= most


def check_graph(folder):
    """What ONNX's own checker says, shapes inferred; that no node is without use, and none reads constants alone but to cast them."""
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    assert all(used & set(node.output) for node in graph.node)
    constants = {tensor.name for tensor in graph.initializer}
    assert constants <= used
    for node in graph.node:  # of constants alone: weights as they are stored, and the embedding as the head
        assert node.op_type in ("Cast", "DequantizeLinear", "Transpose") or not set(filter(None, node.input)) <= constants, node
    return graph


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_same(family, our_logits, tmp_path):
    report = export(model_folder(family), tmp_path / "out", "--format", "onnx")
    check_graph(tmp_path / "out")
    assert report["opset"] == 21 and report["checked"] > 0
    compare(model_folder(family), tmp_path / "out", our_logits, 1e-5)


@pytest.mark.parametrize("options,types", [
    (("int4-g32",), {"INT4"}), (("int4-g32-asym",), {"INT4"}), (("int4-channel",), {"INT4"}), (("int3-g64",), {"INT4"}),
    (("int2-g32-asym",), {"INT2"}), (("int4-tensor-asym",), {"INT4"}),
    (("int4-channel-asym",), {"INT4"}), (("int2-channel-asym",), {"INT2"}), (("int8",), {"INT8"}), (("int6-g64-asym",), {"INT8"}), (("w8a8",), {"INT8"}),
    (("int4-g32-asym", "--override", "embed_tokens=int4-g32-asym", "--override", "lm_head=int8"), {"INT4", "INT8", "UINT8"}),
    (("int4-g32", "--override", "embed_tokens=int2-g64", "--override", "lm_head=int8-tensor"), {"INT4", "INT8", "UINT8"}),
])
def test_quantized_demo(options, types, compress, our_logits, tmp_path):
    artifact = compress("glm-phone-demo", "--method", "rtn", "-q", *options)
    report = export(artifact, tmp_path / "out", "--format", "onnx")
    graph = check_graph(tmp_path / "out")
    assert types <= set(report["types"]) <= types | {"BFLOAT16", "INT8"}, report
    assert {node.op_type for node in graph.node} & {"DequantizeLinear", "MatMulInteger"}
    compare(artifact, tmp_path / "out", our_logits, 1e-3 if options[0].startswith("w8a8") else 1e-5)
    compare(artifact, tmp_path / "out", our_logits, 1e-3, rounds=True)


def test_static_activations(compress, our_logits, tmp_path):
    """On the model's own text: the coarse steps of random tokens' outliers let a value fall to either side."""
    text = DEMO / "tasks" / "eval.jsonl"
    artifact = static_artifact(compress)
    export(artifact, tmp_path / "out", "--format", "onnx")
    graph = check_graph(tmp_path / "out")
    assert "QuantizeLinear" in {node.op_type for node in graph.node}
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    for line in text.read_text().splitlines()[100:104]:
        task = json.loads(line)
        ids = tokenizer(task["system"] + task["user"], add_special_tokens=False)["input_ids"]
        compare(artifact, tmp_path / "out", our_logits, 1e-3, ids=ids)


@pytest.mark.parametrize("options", [("int4-g32-asym",), ("int4-channel",), ("int8-g64",), ("int2-g16",), ("int3-g64-asym",)])
def test_matmul_nbits(options, compress, our_logits, tmp_path):
    artifact = compress("glm-phone-demo", "--method", "rtn", "-q", *options)
    export(artifact, tmp_path / "out", "--format", "onnx", "--matmul-nbits")
    graph = check_graph(tmp_path / "out")
    assert {"MatMulNBits", "GroupQueryAttention"} == {node.op_type for node in graph.node if node.domain == "com.microsoft"}
    compare(artifact, tmp_path / "out", our_logits, 1e-3, rounds=True)


def test_a_quantized_head_that_is_the_embedding(compress, our_logits, tmp_path):
    """As other software writes it: our own compressor gives such a model a head of its own."""
    artifact = tmp_path / "tied"
    shutil.copytree(compress("glm4_tied", "-q", "int4-g16", "--method", "rtn", "--override", "embed_tokens|lm_head=int4-g16-asym"), artifact)
    tensors = load_file(artifact / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("lm_head")}, artifact / "model.safetensors",
              {"format": "pt"})
    config = json.loads((artifact / "config.json").read_text()) | {"tie_word_embeddings": True}
    (artifact / "config.json").write_text(json.dumps(config))
    export(artifact, tmp_path / "out", "--format", "onnx")
    check_graph(tmp_path / "out")
    compare(artifact, tmp_path / "out", our_logits, 1e-5)


@pytest.mark.parametrize("kind,most", [("fp32", 1e-5), ("fp16", 1e-3)])
@pytest.mark.parametrize("family", few(FAMILIES, ["glm-phone-demo", *FEW]))
def test_fused_attention(family, kind, most, our_logits, tmp_path):
    """onnxruntime's own attention computes what the softmax in plain operators does."""
    export(model_folder(family), tmp_path / "out", "--format", "onnx", "--matmul-nbits", "--type", kind)
    graph = check_graph(tmp_path / "out")
    decoder = json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]["decoder"]
    ops = [node.op_type for node in graph.node]
    assert ops.count("GroupQueryAttention") == decoder["num_hidden_layers"] and "Softmax" not in ops
    compare(model_folder(family), tmp_path / "out", our_logits, most)


@pytest.mark.parametrize("family", few(TINY_FAMILIES))
def test_matmul_nbits_of_every_family(family, compress, our_logits, tmp_path):
    """Random weights, and inputs rounded to 8 bits: further off than a trained model, near enough to show a wrong order."""
    artifact = compress(family, "-q", "int4-g16", "--method", "rtn")
    export(artifact, tmp_path / "out", "--format", "onnx", "--matmul-nbits")
    check_graph(tmp_path / "out")
    compare(artifact, tmp_path / "out", our_logits, 1e-2, rounds=True)


@pytest.mark.parametrize("scheme", ["int4-g16", "w8a8"])
@pytest.mark.parametrize("family", few(TINY_FAMILIES))
def test_quantized_families(family, scheme, compress, our_logits, tmp_path):
    artifact = compress(family, "-q", scheme, "--method", "rtn")
    export(artifact, tmp_path / "out", "--format", "onnx")
    compare(artifact, tmp_path / "out", our_logits, 1e-3 if scheme == "w8a8" else 1e-5)


def static_artifact(compress):
    return compress("glm-phone-demo", "-q", "w8a8-static", "--method", "rtn", "--calibration-dataset", str(DEMO / "tasks" / "eval.jsonl"),
                    "--calibration-samples", "64")


def task_ids():
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    return tokenizer(next(task_prompts(tokenizer, 1)), add_special_tokens=False)["input_ids"]


def asymmetric_activations(compress, static, tmp_path):
    """An artifact of W8A8 as other software may write it, with zero points of its inputs; and ids to try it on."""
    folder = tmp_path / "asymmetric"
    shutil.copytree(static_artifact(compress) if static else compress("glm-phone-demo", "-q", "w8a8", "--method", "rtn"), folder)
    config = json.loads((folder / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"]["symmetric"] = False
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    for i, name in enumerate(sorted(name for name in tensors if name.endswith("input_scale"))):
        tensors[name.replace("input_scale", "input_zero_point")] = torch.tensor([(-17, 5, 30)[i % 3]], dtype=torch.int8)
    assert static == any(name.endswith("input_zero_point") for name in tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder, task_ids()


@pytest.mark.parametrize("preset", [(), ("--preset", "avx512_vnni"), ("--preset", "avx2"), ("--preset", "arm64")])
@pytest.mark.parametrize("static", [False, True])
def test_activations_with_a_zero_point(static, preset, compress, our_logits, tmp_path):
    artifact, ids = asymmetric_activations(compress, static, tmp_path)
    export(artifact, tmp_path / "out", "--format", "onnx", *preset)
    check_graph(tmp_path / "out")
    compare(artifact, tmp_path / "out", our_logits, 1e-3, ids=ids)


def nodes_of(graph):
    """Each node by the value that it makes, and the type of each initializer."""
    makers = {output: node for node in graph.node for output in node.output}
    return makers, {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}


@pytest.mark.parametrize("preset,types", [("avx512_vnni", ("UINT8", "INT8")), ("avx2", ("UINT8", "UINT8")), ("arm64", ("INT8", "INT8"))])
def test_presets_choose_the_types_of_integers(preset, types, compress, our_logits, tmp_path):
    """Of both kinds of W8A8: the operators and signs that a target's kernels want, the same numbers."""
    artifact = compress("glm-phone-demo", "-q", "w8a8", "--method", "rtn")
    export(artifact, tmp_path / "dynamic", "--format", "onnx", "--preset", preset)
    makers, initializers = nodes_of(check_graph(tmp_path / "dynamic"))
    products = [node for node in makers.values() if node.op_type == "MatMulInteger"]
    assert products
    for node in products:
        to = next(a.i for a in makers[node.input[0]].attribute if a.name == "to")
        assert (onnx.TensorProto.DataType.Name(to), initializers[node.input[1]]) == types
    compare(artifact, tmp_path / "dynamic", our_logits, 1e-3)

    artifact = static_artifact(compress)
    export(artifact, tmp_path / "static", "--format", "onnx", "--preset", preset)
    makers, initializers = nodes_of(check_graph(tmp_path / "static"))
    pairs = [node for node in makers.values() if node.op_type == "QuantizeLinear"]
    assert pairs and all(initializers[node.input[2]] == types[0] for node in pairs)
    weights = [node.input[0] for node in makers.values() if node.op_type == "DequantizeLinear" and node.input[0] in initializers]
    assert weights and all(initializers[name] == types[1] for name in weights)
    compare(artifact, tmp_path / "static", our_logits, 1e-3, ids=task_ids())


def test_presets_choose_operators(compress, tmp_path):
    artifact = compress("glm-phone-demo", "-q", "int4-g32", "--method", "rtn")
    for options, op in ((("--preset", "avx2"), "MatMulNBits"), (("--preset", "avx2", "--qdq"), "DequantizeLinear")):
        export(artifact, tmp_path / op, "--format", "onnx", *options)
        assert op in {node.op_type for node in check_graph(tmp_path / op).node}


@pytest.mark.parametrize("opset", [13, 17, 18, 21, 25])
def test_opsets(opset, compress, our_logits, tmp_path):
    artifact = compress("glm-phone-demo", "-q", "int8", "--method", "rtn")
    assert export(artifact, tmp_path / "out", "--format", "onnx", "--opset", str(opset))["opset"] == opset
    check_graph(tmp_path / "out")
    compare(artifact, tmp_path / "out", our_logits, 1e-5)


@pytest.mark.parametrize("options,least", [(("int4-g32",), 21), (("int2-g32",), 25),
                                           (("int8", "--override", "embed_tokens=int4-g32"), 18)])
def test_an_opset_that_is_too_old(options, least, compress, tmp_path):
    artifact = compress("glm-phone-demo", "--method", "rtn", "-q", *options)
    message = export_fails(artifact, tmp_path / "out", "--format", "onnx", "--opset", "13")
    assert f"came with opset {least}; give {least} or later" in message
    export(artifact, tmp_path / "out", "--format", "onnx", "--opset", str(least))
    check_graph(tmp_path / "out")


@pytest.mark.parametrize("family", few(FAMILIES, ["glm-phone-demo", *FEW]))
def test_float16(family, our_logits, tmp_path):
    """The cache and all products in 16 bits; random weights round further off than a trained model."""
    export(model_folder(family), tmp_path / "out", "--format", "onnx", "--type", "fp16")
    graph = check_graph(tmp_path / "out")
    assert {v.type.tensor_type.elem_type for v in graph.output} == {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    compare(model_folder(family), tmp_path / "out", our_logits, 1e-3)


@pytest.mark.parametrize("operators", ["--qdq", "--matmul-nbits"])
@pytest.mark.parametrize("options", [("int4-g32-asym",), ("int8",), ("w8a8",), ("int4-g32", "--override", "embed_tokens|lm_head=int8")])
def test_float16_quantized(options, operators, compress, our_logits, tmp_path):
    artifact = compress("glm-phone-demo", "--method", "rtn", "-q", *options)
    report = export(artifact, tmp_path / "out", "--format", "onnx", operators, "--type", "fp16")
    assert report["rounding"] == 0  # BF16 scales of this size are FP16 numbers
    check_graph(tmp_path / "out")
    compare(artifact, tmp_path / "out", our_logits, 1e-3, ids=task_ids())


@pytest.mark.skipif("AUTOGLM_TASKS" not in os.environ, reason="3 GB of files: make test-clients")
def test_tensors_in_a_file_of_their_own(our_logits, tmp_path):
    """Of over 1 GiB: onnxruntime maps what lies beside the graph."""
    folder = tmp_path / "model"
    subprocess.run([sys.executable, ROOT / "benchmarks/random_checkpoint.py", "glm-edge-1.5b", folder, "--layers", "7"], check=True)
    report = export(folder, tmp_path / "out", "--format", "onnx")
    assert report["external_data"] and (tmp_path / "out/model.onnx.data").stat().st_size > 2 ** 30
    check_graph(tmp_path / "out")
    compare(folder, tmp_path / "out", our_logits, 1e-5)


@pytest.mark.parametrize("scheme", ["int4-g128", "int4-g128-asym", "int4-channel-asym", "int8", "int2-g32", "w8a8"])
def test_the_file_is_as_small_as_the_artifact(scheme, compress, tmp_path):
    artifact = compress("glm-phone-demo", "-q", scheme, "--method", "rtn")
    export(artifact, tmp_path / "out", "--format", "onnx")
    assert (tmp_path / "out" / "model.onnx").stat().st_size <= 1.02 * (artifact / "model.safetensors").stat().st_size


@pytest.mark.parametrize("scheme,options,atol", [(None, ("--type", "fp32"), 1e-4), (None, ("--type", "fp16"), 0.1), (None, ("--matmul-nbits",), 1e-4),
                                                 ("w8a8", (), 0.02)])
def test_padding_and_batches(scheme, options, atol, compress, tmp_path):
    artifact = compress("glm-phone-demo", "-q", scheme, "--method", "rtn") if scheme else DEMO
    export(artifact, tmp_path / "out", "--format", "onnx", *options)
    ids = token_ids(DEMO)
    long, short = ids[:20], ids[5:12]
    pad = len(long) - len(short)
    session = Session(tmp_path / "out")
    mask = np.array([[1] * 20, [0] * pad + [1] * len(short)])
    positions = np.array([range(20), [0] * pad + list(range(len(short)))])
    both = session.start(2).run([long, [0] * pad + short], mask, positions)
    caches = session.cache
    alone = [session.start().run(long)[0], session.run([[ids[30]]])[0], session.start().run(short)[0], session.run([[ids[31]]])[0]]
    np.testing.assert_allclose(both[0], alone[0], atol=atol)
    np.testing.assert_allclose(both[1, pad:], alone[2], atol=atol)
    session.cache = caches  # one more token for both
    after = session.run([[ids[30]], [ids[31]]], np.append(mask, [[1], [1]], 1), [[20], [len(short)]])
    np.testing.assert_allclose(after[0], alone[1], atol=atol)
    np.testing.assert_allclose(after[1], alone[3], atol=atol)


@pytest.mark.parametrize("scheme,options", [(None, ()), ("int4-g32-asym", ("--matmul-nbits",)), ("int4-g32", ()), ("w8a8", ())])
def test_genai_writes_the_same_greedy_text(scheme, options, compress, tmp_path):
    """The folder as it is: its tokenizer, its end tokens; against transformers on the same artifact."""
    artifact = compress("glm-phone-demo", "-q", scheme) if scheme else DEMO
    export(artifact, tmp_path / "out", "--format", "onnx", *options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    model = load(artifact, dequantize=scheme is not None and scheme != "w8a8")
    theirs = onnxruntime_genai.Model(str(tmp_path / "out"))
    their_tokenizer = onnxruntime_genai.Tokenizer(theirs)
    for prompt in task_prompts(tokenizer, TASKS):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            out = model.generate(ids, do_sample=False, max_new_tokens=48)[0, ids.shape[1]:]
        params = onnxruntime_genai.GeneratorParams(theirs)
        params.set_search_options(max_length=ids.shape[1] + 48)
        generator = onnxruntime_genai.Generator(theirs, params)
        prompt_ids = their_tokenizer.encode(prompt)
        assert list(prompt_ids) == ids[0].tolist()
        generator.append_tokens(prompt_ids)
        while not generator.is_done():
            generator.generate_next_token()
        text = their_tokenizer.decode(generator.get_sequence(0)[len(prompt_ids):])
        assert text.strip() == tokenizer.decode(out, skip_special_tokens=True).strip(), prompt
