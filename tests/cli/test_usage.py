"""Forms of use that are promised: long options, models of the local Hugging Face cache, recipe files."""
import io
import json
import os

import pytest
import sentencepiece
from conftest import DEMO, USAGE

QUICK = ("--calibration-samples", 8, "--calibration-length", 64, "--verify", "none", "--quiet")
TEXT = DEMO / "tasks" / "calibration.jsonl"


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_the_long_form(autoglm, tmp_path):
    out = tmp_path / "artifact"
    done = autoglm("compress", "--model-path", DEMO, "--quantization", "int8", "--calibration-dataset", TEXT,
                   "--device", "cpu", "--output", out, *QUICK)
    assert done.code == 0, done.err
    report = report_of(out)
    assert report["recipe"]["scheme"] == "int8" and report["calibration"]["source"] == str(TEXT)
    assert report["conditions"]["device"] == "cpu"
    assert {entry["method"] for entry in report["passes"]} == {"gptq"}
    assert json.loads(autoglm("inspect", "--model-path", out, "--json").out)["storage"].startswith("INT8")


@pytest.fixture
def cache(tmp_path):
    """A cache as huggingface_hub leaves it: snapshots of links into blobs."""
    home = tmp_path / "hf"
    repository = home / "hub" / "models--zai-org--glm-demo"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "0123abcd"
    for folder in (blobs, snapshot, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    for i, file in enumerate(sorted(p for p in DEMO.iterdir() if p.is_file())):
        (blobs / str(i)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / str(i), snapshot))
    return home


@pytest.mark.parametrize("variable,below", [("HF_HOME", "."), ("HF_HUB_CACHE", "hub")])
def test_a_model_of_the_local_cache(autoglm, cache, tmp_path, variable, below):
    unset = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = unset | {variable: str(cache / below), "HF_HUB_OFFLINE": "1"}
    done = autoglm("compress", "zai-org/glm-demo@main", "-q", "int8", "--method", "rtn", "--verify", "none", "--quiet",
                   cwd=tmp_path, env=environment)
    assert done.code == 0, done.err
    out = tmp_path / "glm-demo-int8"
    assert not any(file.is_symlink() for file in out.iterdir())
    assert (out / "tokenizer.json").read_bytes() == (DEMO / "tokenizer.json").read_bytes()
    assert autoglm("inspect", "zai-org/glm-demo", env=environment).code == 0
    autoglm("inspect", "zai-org/other", env=environment).refused(3, "models--zai-org--other", "HF_HUB_OFFLINE")


def test_a_tokenizer_of_sentencepiece(autoglm, model, tmp_path):
    """As ChatGLM3 has it: the library works beside the other protobufs of the program."""
    folder, pieces = model("chatglm"), io.BytesIO()
    sentence = "The door was open when she came back, and the lamp on the table still burned."
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter([sentence] * 9), model_writer=pieces, vocab_size=300,
                                             model_type="bpe", byte_fallback=True, minloglevel=2)
    (folder / "tokenizer.model").write_bytes(pieces.getvalue())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ChatGLMTokenizer"}')
    done = autoglm("generate", folder, "--raw", "--prompt", "The lamp", "--max-new-tokens", 4, "--quiet")
    assert done.code == 0, done.err
    (tmp_path / "text.txt").write_text(sentence * 200)
    done = autoglm("compress", folder, "-o", tmp_path / "out", "-q", "int4", "--method", "gptq", "--calibration-dataset",
                   tmp_path / "text.txt", *QUICK)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == pieces.getvalue()


def test_a_recipe_file_is_obeyed(autoglm, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"""
scheme: int4-g32
method: gptq
ignore: ['layers\\.0\\.mlp']
overrides: [{{match: 'layers\\.1\\..*down_proj', scheme: int8, method: rtn}}]
methods: {{gptq: {{damping: 0.5, act_order: false}}}}
calibration: {TEXT}
calibration_samples: 8
calibration_length: 64
verify: none
seed: 3
threads: 1
""")
    done = autoglm("compress", DEMO, "-o", tmp_path / "a", "--config", recipe, "--quiet")
    assert done.code == 0, done.err
    report = report_of(tmp_path / "a")
    assert report["recipe"]["methods"]["gptq"]["damping"] == 0.5
    assert report["recipe"]["methods"]["gptq"]["act_order"] is False
    assert report["conditions"]["threads"] == 1 and report["conditions"]["seed"] == 3
    assert {"source": str(TEXT), "sequences": 8, "length": 64, "seed": 3}.items() <= report["calibration"].items()
    passes = {entry["name"]: (entry["method"], entry["scheme"]) for entry in report["passes"]}
    assert not any(name.startswith("model.layers.0.mlp") for name in passes)
    assert passes["model.layers.1.mlp.down_proj"] == ("rtn", "int8")
    assert passes["model.layers.1.self_attn.o_proj"] == ("gptq", "int4-g32")

    # The options of the method change the bytes, and the command line comes before the file.
    usual = tmp_path / "usual.yaml"
    usual.write_text(recipe.read_text().replace("damping: 0.5, act_order: false", ""))
    assert autoglm("compress", DEMO, "-o", tmp_path / "b", "--config", usual, "--quiet").code == 0
    assert weights(tmp_path / "a") != weights(tmp_path / "b")
    assert autoglm("compress", DEMO, "-o", tmp_path / "c", "--config", recipe, "--seed", 4, "--quiet").code == 0
    assert report_of(tmp_path / "c")["conditions"]["seed"] == 4
    recipe.write_text("methods: {gptq: {dampin: 0.5}}")
    autoglm("compress", DEMO, "--config", recipe, "--dry-run").refused(USAGE, "dampin", "damping")


def test_version_and_help_by_their_usual_names(autoglm):
    assert autoglm("--version").out == autoglm("version").out
    assert autoglm("help", "compress").out == autoglm("compress", "--help").out
    assert autoglm("help").out == autoglm("--help").out


def test_a_warning_is_printed_once(autoglm, model, tmp_path):
    """The process that compresses and the one that verifies both see the same model."""
    folder = model()
    path = folder / "config.json"
    layers = json.loads(path.read_text())["num_hidden_layers"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": layers - 1}))
    done = autoglm("compress", folder, "-q", "int8", "--method", "rtn", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.err.count(f"the files hold layer {layers - 1} too") == 1
    report = report_of(tmp_path / "out")
    assert report["carried_over"] and f"{len(report['carried_over'])} tensors" in done.out
    assert len(report["warnings"]) == len(set(report["warnings"])) >= 1
    alone = autoglm("eval", tmp_path / "out")
    assert "source" not in alone.out
